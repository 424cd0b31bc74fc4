"""What `napari-skipseg benchmark` measured on this machine, kept in the user's cache folder. Loads without torch."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from napari_skipseg.devices import cores, versions
from napari_skipseg.inference.backends import compiled

BUSY = 0.5
"""Load for each core from which other work makes figures worse, and kept figures say too little."""


@dataclass(frozen=True)
class NetworkSpeed:
    """Elapsed seconds, and processor seconds of all cores, that a network takes for each voxel of its tiles."""

    passed: float
    computed: float


def keep_speed(speed: dict[str, Any]) -> None:
    """Keep what was measured, as JSON, for this processor."""
    compiled.write_compiled(_key(), json.dumps(speed).encode())


def read_machine_speed() -> dict[str, Any] | None:
    """Return what was kept last for this processor, as JSON; None if nothing was."""
    content = compiled.read_compiled(_key())
    try:
        found = None if content is None else json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def find_network_speed(model: str, device: str, backend: str, precision: str) -> NetworkSpeed | None:
    """Return the kept speed of a model; None if there is none that holds now.

    It holds for the same versions, and while the machine is as idle as it was then. device: its title.
    """
    found = read_machine_speed()
    if found is None or load() > BUSY:
        return None
    try:
        if found["versions"] != versions() or found["load"] > BUSY or found["device"] != device:
            return None
        for each in found["models"]:
            if (each["model"], each["backend"], each["precision"]) == (model, backend, precision):
                voxels = math.prod(each["tile"]) * each["batch"]
                return NetworkSpeed(each["batch_seconds"] / voxels, each["batch_processor"] / voxels)
    except (KeyError, TypeError, ZeroDivisionError):  # of an older version
        return None
    return None


def load() -> float:
    """Return the work of the last minute, 1 = all cores."""
    return float(psutil.getloadavg()[0]) / len(cores())


def processor_name() -> str:
    """Return the name of the processor as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _key() -> str:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return compiled.key_of(what="speed", processor=processor_name(), cores=len(cores()), limit=limit)
