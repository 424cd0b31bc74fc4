"""Which device there is to compute on, and why it is not the GPU. Asking imports torch; the values do not."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata, util

import psutil

from napari_skipseg.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")
UNTESTED = "not tested by us on a GPU yet"
"""What is said of CUDA and MPS until `pytest -m gpu` has passed on real hardware."""


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gibibytes = psutil.virtual_memory().total / 2**30
    return f"CPU, {cores} cores, {gibibytes:.0f} GiB of memory"


def has_openvino() -> bool:
    """Return whether OpenVINO is installed, which makes the CPU two to three times as fast."""
    return util.find_spec("openvino") is not None


def versions() -> dict[str, str]:
    """Return the versions of what results depend on, for recipes and reports."""
    names = ("napari-skipseg", "torch", "openvino", "numpy", "tifffile", "napari")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
