"""The choices of the Segment form, and what is wrong with them, a sentence for each field. No voxel is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import METRES, Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions, threshold_fields
from napari_skipseg.inference.scale import is_far_off, lengths_seen_by_network, network_scale, trained_voxel_size
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.widgets.forms.fields import Missing
from napari_skipseg.widgets.layers.axes import check_layer_axes, is_rgb
from napari_skipseg.widgets.layers.live import Results
from napari_skipseg.widgets.layers.results import data_of
from napari_skipseg.wording import counted, sides_in_words

if TYPE_CHECKING:
    from napari.layers import Image, Labels


SMALLEST_TILE = 32


@dataclass(frozen=True)
class SegmentFormValues:
    """The choices in the form.

    model: None if there is none or it cannot be read; `model_fault` then says why. voxel_size: (z, y, x) in `unit`.
    other_options: values of the other fields of `SegmentOptions`, by name; planes and rescale count only if the form
    offers them. thresholds: of the model's classes. whole: the whole stack rather than the current slice.
    box: the only part that is segmented, "" = all. mask: the layer of labels that is segmented where it is not 0.
    box_fault: why there is no box or mask. box_note: what to say about it.
    """

    layer: Image | None
    axes: str
    voxel_size: tuple[float, float, float]
    unit: str
    model: ModelDescription | None
    model_fault: str = ""
    channel: int | None = None
    device: str = "auto"
    rescale: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    whole: bool = True
    box: str = ""
    mask: Labels | None = None
    box_fault: str = ""
    box_note: str = ""
    other_options: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> SegmentOptions:
        """Return the engine's options."""
        settled = {
            "device": self.device,
            **threshold_fields(self.thresholds),
            "channel": self.channel if needs_channel(self) else None,
            "planes": "xyz" if self.in_three_planes else "xy",
            "rescale": self.rescale and find_rescaling(self) is not None,
            "dropout": self.dropout if self.samples else None,
            "box": self.box,
            "mask": "" if self.mask is None else self.mask.name,
        }
        return SegmentOptions(**{**self.other_options, **settled})

    @property
    def tile(self) -> int:
        """The longest side of a tile, 0 = chosen."""
        return int(self.other_options.get("tile", 0))

    @property
    def average(self) -> int:
        """How many copies are averaged."""
        return int(self.other_options.get("average", 1))

    @property
    def samples(self) -> int:
        """How many Monte Carlo samples are taken."""
        return int(self.other_options.get("samples", 0))

    @property
    def dropout(self) -> float | None:
        """The dropout rate of the samples, None for the rate of the model's training."""
        return self.other_options.get("dropout")

    @property
    def seen(self) -> str:
        """The axes that the model sees at once."""
        return "ZYX" if self.model is not None and self.model.spec.dimensions == 3 else "YX"

    @property
    def in_three_planes(self) -> bool:
        """Whether a 2D model segments a volume along all three axes."""
        return self.other_options.get("planes") == "xyz" and offers_planes(self)

    @property
    def spanned(self) -> str:
        """The axes that are segmented together: those that the model sees at once, or Z, Y and X in three planes."""
        return "ZYX" if self.in_three_planes else self.seen

    @property
    def loops(self) -> tuple[int, ...]:
        """The numbers of the layer's axes along which the model is applied repeatedly."""
        return tuple(n for n, axis in enumerate(self.axes) if axis not in self.spanned + "C")


class Rescaling(NamedTuple):
    """How the image's voxels differ from the model's, in a sentence; the size to rescale to; and a hint."""

    difference: str
    size: str
    hint: str


def count_channels(choices: SegmentFormValues) -> int:
    """Return how many channels the image has."""
    if choices.layer is None:
        return 1
    shape = data_of(choices.layer).shape
    if is_rgb(choices.layer):
        return int(shape[-1])
    return int(shape[choices.axes.index("C")]) if "C" in choices.axes and len(choices.axes) == len(shape) else 1


def needs_channel(choices: SegmentFormValues) -> bool:
    """Return whether the user must choose a channel."""
    takes = choices.model.spec.in_channels if choices.model is not None else 1
    return count_channels(choices) > 1 and takes == 1


def offers_planes(choices: SegmentFormValues) -> bool:
    """Return whether a 2D model can be applied along three axes."""
    return choices.model is not None and choices.model.spec.dimensions == 2 and _depth(choices) > 1


def _depth(choices: SegmentFormValues) -> int:
    """Return the length along Z, 1 if there is no such axis."""
    if choices.layer is None or "Z" not in choices.axes or len(choices.axes) != choices.layer.ndim:
        return 1
    return int(data_of(choices.layer).shape[choices.axes.index("Z")])


def find_rescaling(choices: SegmentFormValues) -> Rescaling | None:
    """Return what rescaling would do; None if the voxel sizes agree within 5 %, or if one is not known."""
    factors, model, seen = _scale(choices), choices.model, choices.spanned
    if model is None or all(factor == 1 for factor in factors.values()):
        return None
    trained = trained_voxel_size(model, choices.unit, seen)
    if trained is None:
        return None
    size, here = (f"{sides_in_words(each[-len(seen) :])} {choices.unit}" for each in (trained, choices.voxel_size))
    kind = "Pixels" if seen == "YX" else "Voxels"
    hint = f"Show the model {kind.lower()} of {size}, resampled tile by tile; results come back on the image's own grid"
    work = prod(factors.values())
    hint += (
        f". About {float(f'{work:.2g}'):g} times slower"
        if work > 1.2
        else ". Fewer voxels to segment, so faster" * (work < 0.8)
    )
    return Rescaling(f"{kind} are {here}; {model.name} was trained at {size}.", size, hint)


def _scale(choices: SegmentFormValues) -> dict[str, float]:
    """Return the length of the image's voxels in the model's voxels, by axis; empty if it is not known."""
    stack = _stack(choices)
    return {} if choices.model is None or stack is None else network_scale(stack, choices.model, choices.spanned)


def _stack(choices: SegmentFormValues) -> Stack | None:
    """Return the image as the form describes it, None if that is not possible."""
    layer = choices.layer
    if layer is None:
        return None
    axes = choices.axes + "C" * is_rgb(layer)
    try:
        return Stack(data_of(layer), Space(axes, choices.voxel_size, choices.unit), layer.name)
    except InputError:
        return None


def find_faults(choices: SegmentFormValues) -> dict[str, str]:
    """Return the reason for each field that is wrong, by the name of the field.

    The names are "image", "axes", "voxel size", "channel", "model", "rescale", "tile", "planes", "samples", "dropout"
    and "box".
    """
    found = {
        "image": image_fault(choices.layer),
        "model": choices.model_fault,
        "rescale": _scale_fault(choices, rescale=True) if choices.rescale and _scale(choices) else "",
        "tile": f"A tile needs {SMALLEST_TILE} voxels or more (0 = auto)." if 0 < choices.tile < SMALLEST_TILE else "",
        **_averaging_faults(choices),
        "box": choices.box_fault,
    }
    if choices.layer is not None:
        try:
            check_layer_axes(choices.layer, choices.axes)
        except InputError as error:
            found["axes"] = str(error)
        found["voxel size"] = "" if min(choices.voxel_size) > 0 else "A voxel size must be more than 0."
        if "axes" not in found:
            found |= _fit_faults(choices, choices.layer)
    return {name: fault for name, fault in found.items() if fault}


def image_fault(layer: Image | None) -> str:
    """Return why an image cannot be segmented, whatever the model; "" if it can."""
    if layer is None:
        return Missing("Open an image first: drop a file here, or File › Open Sample.")
    data: Any = data_of(layer)
    if 0 in data.shape:
        return f"'{layer.name}' is empty: its shape is {tuple(data.shape)}."
    if np.dtype(data.dtype).kind not in "buif":
        return f"'{layer.name}' contains {data.dtype} values: convert it to 8-bit, 16-bit or float grey."
    return ""


def _fit_faults(choices: SegmentFormValues, layer: Image) -> dict[str, str]:
    """Return why image and model do not fit, by the names "channel" and "model"."""
    found: dict[str, str] = {}
    count, model = count_channels(choices), choices.model
    if needs_channel(choices) and choices.channel is None:
        found["channel"] = Missing("Choose the channel to segment.")
    elif model is not None and model.spec.in_channels not in (1, count):
        takes = f"{model.name} takes {model.spec.in_channels}"
        found["channel"] = f"The image has {counted(count, 'channel')}, {takes}: choose a different model."
    if model is not None and model.spec.dimensions == 3 and _depth(choices) < 2:
        what = f"{model.name} is a 3D model and '{layer.name}' has no Z axis"
        found["model"] = f"{what}: choose a 2D model, or set the axes."
    return found


def _averaging_faults(choices: SegmentFormValues) -> dict[str, str]:
    """Return why results cannot be averaged so, by the names "planes", "samples" and "dropout"."""
    found: dict[str, str] = {}
    model, together = choices.model, "{} and {} cannot be averaged together: switch one of them off."
    if choices.in_three_planes and not choices.samples:
        if choices.average > 1:
            found["planes"] = together.format("Three axes", "mirrored copies")
        elif not choices.rescale:
            found["planes"] = _scale_fault(choices, rescale=False)
    if choices.samples == 1:
        found["samples"] = "Uncertainty needs 2 samples or more (0 = off)."
    elif choices.samples and choices.average > 1:
        found["samples"] = together.format("Mirrored copies", "Monte Carlo samples")
    elif choices.samples and choices.in_three_planes:
        found["samples"] = together.format("Three axes", "Monte Carlo samples")
    if choices.samples and not choices.dropout and model is not None and not model.spec.dropout:
        what = f"{model.name} was trained without dropout"
        found["dropout"] = f"{what}: choose a rate for the samples, such as 0.2."
    return found


def _scale_fault(choices: SegmentFormValues, rescale: bool) -> str:
    """Return why the model cannot see the image at this scale, "" if it can."""
    stack, model = _stack(choices), choices.model
    if stack is None or model is None:
        return ""
    try:
        lengths_seen_by_network(stack, model, choices.spanned, rescale)
    except InputError as error:
        return str(error)
    return ""


def find_warning(choices: SegmentFormValues) -> str:
    """Return what may make the result poor although it can be computed, "" if nothing does."""
    model = choices.model
    if choices.box_note:
        return choices.box_note
    if model is None or choices.layer is None or model.unit not in METRES:
        return ""
    if choices.unit not in METRES:
        sizes = f"{sides_in_words(model.voxel_size[-len(choices.seen) :])} {model.unit}"
        missing = ": choose the unit beside the numbers" if set(choices.voxel_size) != {1.0} else ""
        return f"The voxel size is not known; {model.name} was trained at {sizes}{missing}."
    if choices.rescale or not is_far_off(_scale(choices)):
        return ""
    kind = "pixels" if choices.spanned == "YX" else "voxels"
    return f"{model.name} was not trained on such {kind}: rescale, or check the result carefully."


@dataclass(frozen=True)
class SegmentState:
    """The Segment tab as it is at the time of each call.

    read: the choices in its form. model: the name of the chosen model. is_running: it segments now. results: the
    results on show. known_colors: the colours that the user chose for the classes of an image.
    """

    read: Callable[[], SegmentFormValues]
    model: Callable[[], str | None]
    is_running: Callable[[], bool]
    results: Results
    known_colors: Callable[[Image], Mapping[str, str]]
