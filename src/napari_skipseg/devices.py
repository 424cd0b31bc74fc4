"""Which device there is to compute on, and why it is not the GPU. Asking imports torch; the values do not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

import psutil

from napari_skipseg.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")
UNTESTED = "not tested by us on a GPU yet"
"""What is said of CUDA and MPS until `pytest -m gpu` has passed on real hardware."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
"""Where Linux says how much memory a container or a cluster's job may take, and which group this process is in."""

M_MMAP_THRESHOLD = -3
GIVEN_BACK, KEPT = 2**20, 2**25
"""Bytes from which on glibc gives what is freed back at once: as we ask, and the most that it comes to by itself."""


@dataclass(frozen=True)
class Device:
    """A device to compute on: its torch name, what it is, and why it was chosen."""

    name: str
    title: str
    reason: str


def choose_device(name: str = "auto") -> Device:
    """Return the device called `name`, or the best one there is for "auto".

    Raises:
        DeviceError: there is no such device; the message says why.
    """
    if name not in DEVICES:
        raise DeviceError(f"'{name}' is no device: choose one of {', '.join(DEVICES)}.")
    if name == "cpu":
        return Device("cpu", cpu_title(), "chosen by you")
    cuda, mps = why_no_cuda(), why_no_mps()
    if name == "cuda" or (name == "auto" and not cuda):
        return _cuda(cuda, name)
    if name == "mps" or (name == "auto" and not mps):
        if mps:
            raise DeviceError(f"There is no Apple GPU to use: {mps}. Choose --device auto or cpu.")
        return Device("mps", "Apple GPU", "chosen by you" if name == "mps" else "the fastest device here")
    return Device("cpu", cpu_title(), f"no GPU: {cuda}")


def _cuda(fault: str, name: str) -> Device:
    import torch

    if fault:
        raise DeviceError(f"There is no CUDA GPU to use: {fault}. Choose --device auto or cpu.")
    reason = "chosen by you" if name == "cuda" else "the fastest device here"
    return Device("cuda", torch.cuda.get_device_name(0), reason)


def why_no_cuda() -> str:
    """Return why CUDA cannot be used, in words; an empty text where it can."""
    import torch

    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    return f"torch {torch.__version__} finds no CUDA GPU; check the NVIDIA driver with nvidia-smi"


def why_no_mps() -> str:
    """Return why Apple's GPU cannot be used, in words; an empty text where it can."""
    import torch

    if torch.backends.mps.is_available():
        return ""
    if platform.system() != "Darwin":
        return "this is not a Mac"
    return "torch finds no Metal GPU; macOS 12.3 and an Apple chip are needed"


def cpu_title() -> str:
    """Return what the CPU is: how many cores and how much memory."""
    gibibytes = psutil.virtual_memory().total / 2**30
    return f"CPU, {len(cores())} cores, {gibibytes:.0f} GiB of memory"


def cores() -> list[int]:
    """Return the numbers of the CPU's cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def free_memory(name: str) -> int:
    """Return the bytes that are free for us on the device called `name`: "cpu", "cuda" or "mps".

    What torch holds on a GPU and does not use counts as free. On the CPU the limit of a container, or of a job on a
    cluster, counts as much as what the machine has left.
    """
    if name == "cuda":  # GPU
        import torch

        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if name == "mps":  # GPU
        import torch

        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return min([int(psutil.virtual_memory().available), *_left_in_groups()])


@contextlib.contextmanager
def giving_back_memory() -> Iterator[None]:
    """Have what is freed meanwhile go back to the system at once, where the C library would keep it.

    That of Linux, glibc, lets every thread keep what it freed in pieces of up to 32 MiB: hundreds of MiB where many
    arrays of such sizes come and go. Elsewhere nothing changes.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune is None:
        yield
        return
    tune(M_MMAP_THRESHOLD, GIVEN_BACK)
    try:
        yield
    finally:
        tune(M_MMAP_THRESHOLD, KEPT)


def _left_in_groups() -> list[int]:
    """Return the bytes left in each control group with a memory limit that this process is in, and in those above."""
    version_1 = ("limit_in_bytes", "usage_in_bytes", "total_")
    found = []
    for line in _read_text(OWN_GROUPS).splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if "memory" in controllers.split(","):
            found += _left_above(CONTROL_GROUPS / "memory", group, *version_1)
        elif not controllers:
            found += _left_above(CONTROL_GROUPS, group, "max", "current", "")
    return found


def _left_above(root: Path, group: str, limit: str, usage: str, prefix: str) -> list[int]:
    """Return the bytes left in `group` and in all above it; file pages that the kernel can drop do not count as used.

    Inside a container `root` may be the group itself, whatever its name outside.
    """
    parts = [part for part in group.split("/") if part not in ("", "..")]
    left = []
    for length in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:length])
        most, used = (_read_text(folder / f"memory.{name}").strip() for name in (limit, usage))
        if most.isdecimal() and used.isdecimal():  # "max" where there is no limit
            facts = dict(fact.split()[:2] for fact in _read_text(folder / "memory.stat").splitlines() if " " in fact)
            pages = (facts.get(f"{prefix}{kind}_file", "0") for kind in ("active", "inactive"))
            droppable = sum(int(count) for count in pages if count.isdecimal())
            left.append(max(0, int(most) - max(0, int(used) - droppable)))
    return left


def _read_text(file: Path) -> str:
    """Return what is in `file`; nothing where it is not there or not to be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def has_openvino() -> bool:
    """Return whether OpenVINO is installed, which makes the CPU two to three times as fast."""
    return util.find_spec("openvino") is not None


def versions() -> dict[str, str]:
    """Return the versions of what results depend on, for recipes and reports."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    names = ("napari-skipseg", "torch", "openvino", "numpy", "tifffile", "napari")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
