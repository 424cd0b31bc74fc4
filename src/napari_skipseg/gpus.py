"""Which GPUs a machine has, and the software that drives them. Only `driving_versions` imports torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PATIENCE = 10
"""Time limit in seconds for a tool of a driver."""
AMD_DEVICE = Path("/dev/kfd")
"""Device file of AMD's compute driver for Linux."""


@dataclass(frozen=True)
class NvidiaGpu:
    """A GPU as `nvidia-smi` reports it. memory: in MiB. capability: such as (8, 6); (0, 0) if an old driver hides it.

    cuda: the newest CUDA that the driver runs, such as (12, 4); (0, 0) if it is not known.
    """

    uuid: str
    name: str
    driver: str
    memory: int
    capability: tuple[int, int]
    cuda: tuple[int, int]


@cache
def nvidia_gpus() -> tuple[NvidiaGpu, ...]:
    """Return the NVIDIA GPUs that the driver sees, whatever torch is installed; () without a driver."""
    query = "uuid,name,driver_version,memory.total"
    lines = _query("nvidia-smi", f"--query-gpu={query},compute_cap", "--format=csv,noheader,nounits")
    if not lines:  # drivers before 2021 do not support compute_cap
        lines = [f"{line}, " for line in _query("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits")]
    cuda = (0, 0)
    for line in _query("nvidia-smi") if lines else ():
        if "CUDA Version:" in line:
            cuda = _version(line.partition("CUDA Version:")[2].split()[0])
    found = []
    for line in lines:
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 5:
            memory = int(parts[3]) if parts[3].isdecimal() else 0
            found.append(NvidiaGpu(parts[0], parts[1], parts[2], memory, _version(parts[4]), cuda))
    return tuple(found)


def usable_gpus() -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(gpu.uuid for gpu in nvidia_gpus())
    return tuple(part.strip() for part in named.split(",") if part.strip() not in ("", "-1", "NoDevFiles"))


def has_amd_gpu() -> bool:
    """Return whether this is Linux with AMD's compute driver."""
    return AMD_DEVICE.exists()


def is_apple_silicon() -> bool:
    """Return whether this is a Mac with a GPU that torch computes on."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def driving_versions(device: str) -> dict[str, str]:
    """Return which GPU computes for a device ("cuda", "mps") and what drives it, on which bytes depend; {} for "cpu".

    cuDNN and MIOpen choose other algorithms from version to version, so that a result may differ in its last bits.
    """
    if device == "mps":
        return {"GPU": "Apple GPU", "macOS": platform.mac_ver()[0] or "unknown"}
    if device != "cuda":
        return {}
    import torch

    found = {"GPU": str(torch.cuda.get_device_name(0))}
    drivers = {gpu.driver for gpu in nvidia_gpus()}
    if len(drivers) == 1:
        found["GPU driver"] = drivers.pop()
    runtime, library = ("ROCm", "MIOpen") if torch.version.hip else ("CUDA", "cuDNN")
    found[runtime] = str(torch.version.hip or torch.version.cuda)
    found[library] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return found


def _query(program: str, *arguments: str) -> list[str]:
    """Return the lines that a tool of a driver prints; [] if it is missing or fails."""
    path = shutil.which(program)
    if path is None:
        return []
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # a console window would flash up beside the viewer on Windows
    try:
        answer = subprocess.run(
            [path, *arguments], capture_output=True, timeout=_PATIENCE, check=False, creationflags=flags
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    text = answer.stdout.decode("utf-8", "replace") if answer.returncode == 0 else ""
    return [line for line in text.splitlines() if line.strip()]


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
