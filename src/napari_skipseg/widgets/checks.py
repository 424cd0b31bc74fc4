"""What is wrong with the choices in the form, field by field, in one sentence each. Cheap: no voxel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.images.ome import METRES
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.widgets.axes import check_layer_axes, is_rgb
from napari_skipseg.widgets.layers import data_of

if TYPE_CHECKING:
    from napari.layers import Image

SMALLEST_TILE = 32
FAR_OFF = 1.5
"""Ratio of voxel sizes from which on a model is used far from what it was trained for."""


@dataclass(frozen=True)
class Choices:
    """What the form says.

    model: None where there is none, or it cannot be read; `model_fault` then says why.
    voxel_size: (z, y, x) in `unit`. dropout: of samples, None for the rate of the model's training. whole: the whole
    stack rather than the current slice.
    """

    layer: Image | None
    axes: str
    voxel_size: tuple[float, float, float]
    unit: str
    model: ModelDescription | None
    model_fault: str = ""
    channel: int | None = None
    device: str = "auto"
    tile: int = 0
    flips: bool = False
    samples: int = 0
    dropout: float | None = None
    threshold: float = 0.5
    whole: bool = True

    def options(self) -> SegmentOptions:
        """Return the engine's options."""
        channel = self.channel if asks_channel(self) else None
        return SegmentOptions(
            self.device,
            self.threshold,
            self.tile,
            self.flips,
            channel,
            samples=self.samples,
            dropout=self.dropout if self.samples else None,
        )

    @property
    def seen(self) -> str:
        """The axes that the model sees at once."""
        return "ZYX" if self.model is not None and self.model.spec.dimensions == 3 else "YX"

    @property
    def loops(self) -> tuple[int, ...]:
        """The axes of the layer, by number, along which the model goes step by step."""
        return tuple(n for n, axis in enumerate(self.axes) if axis not in self.seen + "C")


def channels(choices: Choices) -> int:
    """Return how many channels the image has."""
    if choices.layer is None:
        return 1
    shape = data_of(choices.layer).shape
    if is_rgb(choices.layer):
        return int(shape[-1])
    return int(shape[choices.axes.index("C")]) if "C" in choices.axes and len(choices.axes) == len(shape) else 1


def asks_channel(choices: Choices) -> bool:
    """Return whether one channel has to be chosen."""
    takes = choices.model.spec.in_channels if choices.model is not None else 1
    return channels(choices) > 1 and takes == 1


def find_faults(choices: Choices) -> dict[str, str]:
    """Return what is wrong: a reason for each field that is, by its name.

    The names are "image", "axes", "voxel size", "channel", "model", "tile", "samples" and "dropout".
    """
    found = {
        "image": _image_fault(choices.layer),
        "model": choices.model_fault,
        "tile": _tile_fault(choices.tile),
        "samples": _samples_fault(choices),
        "dropout": _dropout_fault(choices),
    }
    if choices.layer is not None:
        found["axes"] = _axes_fault(choices.layer, choices.axes)
        found["voxel size"] = "" if min(choices.voxel_size) > 0 else "A voxel size must be more than 0."
        if not found["axes"]:
            found["channel"] = _channel_fault(choices)
            found["model"] = choices.model_fault or _fit_fault(choices)
    return {field: fault for field, fault in found.items() if fault}


def _image_fault(layer: Image | None) -> str:
    if layer is None:
        return "Open an image first: drop a file here, or File › Open Sample › SkipSeg."
    data: Any = data_of(layer)
    if 0 in data.shape:
        return f"'{layer.name}' is empty: its shape is {tuple(data.shape)}."
    if np.dtype(data.dtype).kind not in "buif":
        return f"'{layer.name}' holds {data.dtype} values: convert it to 8-bit, 16-bit or float grey."
    return ""


def _axes_fault(layer: Image, axes: str) -> str:
    try:
        check_layer_axes(layer, axes)
    except InputError as error:
        return str(error)
    return ""


def _channel_fault(choices: Choices) -> str:
    count, model = channels(choices), choices.model
    if asks_channel(choices) and choices.channel is None:
        return "Choose the channel to segment."
    if model is not None and model.spec.in_channels not in (1, count):
        return f"The image has {count} channels, {model.name} takes {model.spec.in_channels}: choose another model."
    return ""


def _fit_fault(choices: Choices) -> str:
    model, layer = choices.model, choices.layer
    if model is None or layer is None or model.spec.dimensions == 2:
        return ""
    if "Z" not in choices.axes or data_of(layer).shape[choices.axes.index("Z")] < 2:
        return f"{model.name} is a 3D model and '{layer.name}' has no Z axis: choose a 2D model, or set the axes."
    return ""


def _tile_fault(tile: int) -> str:
    return "" if tile == 0 or tile >= SMALLEST_TILE else f"A tile needs {SMALLEST_TILE} voxels or more (0 = auto)."


def _samples_fault(choices: Choices) -> str:
    if choices.samples == 1:
        return "Uncertainty needs 2 samples or more (0 = off)."
    if choices.samples and choices.flips:
        return "Mirrored copies and Monte Carlo samples cannot be averaged together: switch one of them off."
    return ""


def _dropout_fault(choices: Choices) -> str:
    model = choices.model
    if not choices.samples or choices.dropout or model is None or model.spec.dropout:
        return ""
    return f"{model.name} was trained without dropout: choose a rate for the samples, such as 0.2."


def find_warning(choices: Choices) -> str:
    """Return what may make the result poor though it can be computed, empty where nothing does."""
    model = choices.model
    if model is None or choices.layer is None or model.unit not in METRES:
        return ""
    sizes = " × ".join(f"{model.voxel_size['ZYX'.index(axis)]:g}" for axis in choices.seen)
    if choices.unit not in METRES:
        return f"The voxel size is not known; {model.name} was trained at {sizes} {model.unit}."
    factor = METRES[choices.unit] / METRES[model.unit]
    ratios = [
        choices.voxel_size["ZYX".index(axis)] * factor / model.voxel_size["ZYX".index(axis)] for axis in choices.seen
    ]
    if all(1 / FAR_OFF < ratio < FAR_OFF for ratio in ratios):
        return ""
    return f"{model.name} was trained at {sizes} {model.unit} per voxel; this image differs much, so look closely."
