"""What a bug report needs to say of a machine: device, precision, memory, versions, folders."""

from __future__ import annotations

import platform
import sys
import tempfile
from importlib import metadata

import psutil
import torch

from napari_skipseg import devices
from napari_skipseg.gpus import driving_versions, nvidia_gpus
from napari_skipseg.inference.backends import fastest_precision, try_backend
from napari_skipseg.inference.backends.compiled import cache_folder
from napari_skipseg.models.catalog import find_models, user_folder
from napari_skipseg.torch_builds import torch_advice

WINDOW_PACKAGES = ("PyQt6", "PySide6", "magicgui", "superqt", "pyqtgraph", "vispy")
NO_OPENVINO = 'missing: pip install "napari-skipseg[openvino]" makes it two to three times as fast'


def system_report() -> dict[str, str]:
    """Return what this machine computes on, having tried it, and all that a bug report needs, by names."""
    chosen = devices.choose_device()
    tried = try_backend(chosen)
    faults = {"cuda": devices.why_no_cuda(), "mps": devices.why_no_mps()}
    built = (torch.version.cuda is not None, torch.version.hip is not None)
    advice = torch_advice(*built, faults["cuda"] if platform.system() != "Darwin" else faults["mps"])
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
        "compiled networks": str(cache_folder()),
        "temporary files": tempfile.gettempdir(),
        **{f"{name} version": version for name, version in driving_versions(chosen.name).items()},
        **{f"{name} version": version for name, version in devices.versions().items()},
        **{f"{name} version": version for name in WINDOW_PACKAGES if (version := _version(name))},
    }
    return {name: value for name, value in facts.items() if value}


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
