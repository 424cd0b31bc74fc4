"""What a bug report needs to say of a machine: device, precision, memory, versions, folders."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import psutil
import torch

from napari_skipseg import devices
from napari_skipseg.devices import DeviceReport
from napari_skipseg.gpus import NvidiaGpu, driving_versions, has_amd_gpu, is_apple_silicon, nvidia_gpus
from napari_skipseg.inference.backends.choose import fastest_precision, try_backend
from napari_skipseg.inference.backends.compiled import compiled_folder
from napari_skipseg.models.catalog import find_models, user_folder

WHEELS = "https://download.pytorch.org/whl"
ROCM = "rocm6.4"
CUDA_OF_DRIVERS = ((580, (13, 0)), (570, (12, 8)), (525, (12, 0)), (520, (11, 8)))
"""The newest CUDA that a driver from this number on runs (NVIDIA's CUDA Toolkit release notes, "CUDA Driver")."""


def torch_advice(has_cuda: bool, has_hip: bool, missing: str = "") -> str:
    """Return the command that installs a torch for this machine's GPU, or what to do before; "" if nothing is to do.

    has_cuda, has_hip: what the installed torch was built with. missing: why CUDA cannot be used with it, "" if it can.
    """
    gpus = nvidia_gpus()
    if gpus:
        return "" if has_cuda and "no kernels" not in missing else advice_for_nvidia(gpus[0])
    if has_amd_gpu() and not has_hip:
        return _command(ROCM)
    if is_apple_silicon() and missing:
        return "pip install --upgrade torch (for Macs with an Apple chip it has MPS; Python must be an arm64 build)"
    return ""


def advice_for_nvidia(gpu: NvidiaGpu) -> str:
    """Return the command that installs a torch with kernels for `gpu` and a CUDA that its driver runs."""
    cuda, capability = _cuda_of(gpu), gpu.capability
    if capability >= (10, 0):
        if cuda < (12, 8):
            return f"update the NVIDIA driver ({gpu.driver}) to 570 or later, then: {_command('cu128')}"
        return _command("cu130" if cuda >= (13, 0) else "cu128")
    if cuda >= (13, 0) and capability >= (7, 5):
        return _command("cu130")
    if cuda >= (12, 0):
        return _command("cu126")  # the last one with kernels for Maxwell, Pascal and Volta
    if cuda >= (11, 8):
        return _command("cu118", "'torch<2.8'")
    return f"update the NVIDIA driver ({gpu.driver}) to 525 or later, then: {_command('cu126')}"


def _cuda_of(gpu: NvidiaGpu) -> tuple[int, int]:
    if gpu.cuda != (0, 0):
        return gpu.cuda
    major = gpu.driver.split(".")[0]
    number = int(major) if major.isdecimal() else 0
    return next((cuda for least, cuda in CUDA_OF_DRIVERS if number >= least), (0, 0))


def _command(build: str, package: str = "torch") -> str:
    return f"pip install --force-reinstall {package} --index-url {WHEELS}/{build}"


WINDOW_PACKAGES = ("PyQt6", "PySide6", "magicgui", "superqt", "pyqtgraph", "vispy")
NO_OPENVINO = 'missing: pip install "napari-skipseg[openvino]" makes it two to three times as fast'


def list_devices() -> DeviceReport:
    """Return what there is to compute on."""
    faults = {"cpu": "", "cuda": devices.why_no_cuda(), "mps": devices.why_no_mps()}
    chosen = devices.choose_device("auto")
    return DeviceReport(
        chosen=chosen,
        available=tuple(name for name, fault in faults.items() if not fault),
        has_openvino=devices.has_openvino(),
        segments_in=fastest_precision(chosen),
        trains_in=devices.best_precision(chosen.name, training=True),
    )


def system_report() -> dict[str, str]:
    """Return what this machine computes on, having tried it, and all that a bug report needs, by names."""
    chosen = devices.choose_device()
    tried = try_backend(chosen)
    faults = {"cuda": devices.why_no_cuda(), "mps": devices.why_no_mps()}
    fault = faults["mps"] if platform.system() == "Darwin" else faults["cuda"]
    advice = torch_advice(torch.version.cuda is not None, torch.version.hip is not None, fault)
    gpus = ", ".join(f"{gpu.name}, {gpu.memory} MiB, driver {gpu.driver}" for gpu in nvidia_gpus())
    facts = {
        "device": f"{chosen.name} ({chosen.title})",
        "why": chosen.reason,
        "backend": tried.reason,
        "segments in": tried.precision if tried.notes else str(fastest_precision(chosen)),
        "trains in": str(devices.best_precision(chosen.name, training=True)),
        "failed": " ".join(tried.notes),
        "to use the GPU": advice,
        "CPU speed-up by OpenVINO": "installed" if devices.has_openvino() else NO_OPENVINO,
        "CUDA and MPS": devices.UNTESTED,
        "NVIDIA GPUs": gpus,
        "memory": f"{_gib(devices.free_memory('cpu'))} of {_gib(psutil.virtual_memory().total)} free",
        "GPU memory": "" if chosen.name == "cpu" else f"{_gib(devices.free_memory(chosen.name))} free",
        "system": platform.platform(),
        "processor": f"{platform.processor() or platform.machine()}, {len(devices.cores())} cores",
        "Python": sys.version.split()[0],
        "models": ", ".join(find_models()) or "none",
        "your models": str(user_folder()),
        "compiled networks": str(compiled_folder()),
        "temporary files": tempfile.gettempdir(),
        **{f"{name} version": version for name, version in driving_versions(chosen.name).items()},
        **{f"{name} version": version for name, version in devices.versions().items()},
        **{f"{name} version": version for name in WINDOW_PACKAGES if (version := _version(name))},
    }
    return {name: value for name, value in facts.items() if value}


def issue_text(facts: dict[str, str]) -> str:
    """Return the report as Markdown for an issue, with the settings of the environment.

    "~" stands for the home folder, whose name is usually the user's.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith(("NAPARI_", "QT_API"))}
    lines = [f"{name}: {value}" for name, value in {**facts, **dict(sorted(variables.items()))}.items()]
    text = "\n".join(lines).replace(str(Path.home()), "~")
    return f"<details><summary>napari-skipseg doctor --report</summary>\n\n```text\n{text}\n```\n\n</details>"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
