"""Models of random weights, which a processor runs in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec


def write_tiny(folder: Path, dimensions: int = 2, margin: int = 8, **more: Any) -> Path:
    """Write a model of one class, "membrane" = 0, named as its folder; `more` are fields of its description."""
    torch.manual_seed(0)
    spec = UNetSpec(dimensions=dimensions, widths=(4, 8))
    classes = (ClassLabel("membrane", 0),)
    write_model(folder, ModelDescription(folder.name, spec, classes, margin, "", **more), build(spec))
    return folder
