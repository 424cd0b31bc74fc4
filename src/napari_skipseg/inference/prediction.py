"""What a segmentation returns: probability, binary, attention and uncertainty, with where they lie in space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.file_names import is_reserved
from napari_skipseg.foreign_text import printable
from napari_skipseg.images.formats import Depth
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import ArrayLike, LazyArray
from napari_skipseg.progress import Progress
from napari_skipseg.thresholds import DEFAULT_THRESHOLD

Threshold = float | Mapping[str, float]
"""One threshold for all classes, or the threshold of each by its name; a class that is not named has 0.5."""


@dataclass(frozen=True)
class AttentionMap:
    """The attention of one gate over a whole stack: `data` has one pixel per `stride` voxels of each space axis.

    stride: per axis of `data`, 1 for axes that the network does not see. begin: the voxel at which the first map pixel
    begins, counted from the first voxel of the stack; () = there. In a run limited to a box it may lie before the box.
    """

    level: int
    stride: tuple[int, ...]
    data: NDArray[np.float32]
    begin: tuple[int, ...] = ()

    @property
    def offset(self) -> tuple[float, ...]:
        """Place of the first map pixel's centre in voxels of the stack."""
        begin = self.begin or (0,) * len(self.stride)
        return tuple(first + (stride - 1) / 2 for first, stride in zip(begin, self.stride, strict=True))


@dataclass(frozen=True)
class Prediction:
    """A segmented stack.

    probability: float32 in [0, 1]; the axes of the stack without its channels, behind a class axis where the model has
    several classes. space: of `probability`, with the axis "C" for the classes. uncertainty: the standard deviation of
    probability over samples, copies or planes, float32 in [0, 0.5] in its shape; None if nothing was averaged.
    thresholds: of each class, in their order; empty = 0.5 for all.
    """

    probability: NDArray[np.float32]
    space: Space
    class_names: tuple[str, ...]
    attentions: tuple[AttentionMap, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    uncertainty: NDArray[np.float32] | None = None
    thresholds: tuple[float, ...] = ()

    def binary(self, threshold: Threshold | None = None) -> Any:
        """Return labels, uint8, as a lazy dask array: 0 = background, 1, 2, … = the classes.

        threshold: None = those of the prediction.
        """
        chosen = self.thresholds_at(threshold)
        return binarize(self.probability, chosen, has_class_axis=len(self.class_names) > 1)

    def thresholds_at(self, threshold: Threshold | None = None) -> tuple[float, ...]:
        """Return the threshold of each class. threshold: None = those of the prediction."""
        if threshold is None:
            return self.thresholds or (DEFAULT_THRESHOLD,) * len(self.class_names)
        if isinstance(threshold, Mapping):
            return tuple(threshold.get(name, DEFAULT_THRESHOLD) for name in self.class_names)
        return (threshold,) * len(self.class_names)


def binarize(probability: NDArray[np.float32], threshold: float | tuple[float, ...], has_class_axis: bool) -> Any:
    """Return `Binary` as a lazy dask array, in chunks of a slice."""
    from dask import array

    labels = Binary(probability, threshold, has_class_axis)
    return array.from_array(labels, chunks=(*(1,) * (labels.ndim - 2), *labels.shape[-2:]), asarray=True)


class Binary(LazyArray):
    """Labels of probabilities, computed where they are looked at; what the probabilities become, they follow.

    Shape: (*space), or (classes, *space) where `has_class_axis` -> (*space), uint8.
    """

    def __init__(
        self, probability: NDArray[np.float32], threshold: float | tuple[float, ...], has_class_axis: bool
    ) -> None:
        self._probability, self._threshold, self._has_class_axis = probability, threshold, has_class_axis
        self.shape = probability.shape[1:] if has_class_axis else probability.shape
        self.dtype = np.dtype(np.uint8)

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        values = np.asarray(self._probability[(slice(None), *index) if self._has_class_axis else index])
        return labels_of(values if self._has_class_axis else values[None], self._threshold)


def labels_of(probability: NDArray[np.float32], threshold: float | tuple[float, ...]) -> NDArray[np.uint8]:
    """Return the class (from 1) whose probability exceeds its threshold the most, 0 where none does.

    Shape: (classes, *space) -> (*space).
    """
    each = threshold if isinstance(threshold, tuple) else (threshold,) * len(probability)
    if len(each) != len(probability):
        raise ValueError(f"{len(each)} thresholds are given for {len(probability)} classes")
    if len(probability) == 1:
        above: NDArray[np.uint8] = (probability[0] > each[0]).view(np.uint8)
        return above
    if len(set(each)) > 1:
        probability = probability - np.array(each, np.float32).reshape(-1, *[1] * (probability.ndim - 1))
        each = (0.0,)
    best = probability.argmax(axis=0)
    labels: NDArray[np.uint8] = np.where(probability.max(axis=0) > each[0], best + 1, 0).astype(np.uint8)
    return labels


@dataclass(frozen=True)
class Focus:
    """What is looked at: along each axis of a result (T, Z, Y, X) the voxels in view, or the one that is shown.

    An axis that is not named counts as in view all along.
    """

    view: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultsOpened(Progress):
    """The arrays of a prediction are there, empty, and fill from now on."""

    prediction: Prediction | None = None


@dataclass(frozen=True)
class TileWritten(Progress):
    """A part of the results was written: along each axis of the results without classes, [start, stop)."""

    region: tuple[tuple[int, int], ...] = ()


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return probabilities as 0-255."""
    scaled = probability * np.float32(255)
    rounded: NDArray[np.uint8] = np.rint(scaled, out=scaled).astype(np.uint8)
    return rounded


class QuantizedArray(LazyArray):
    """Shares of 1 as the files of results hold them, computed where they are looked at.

    values: in [0, 1], any shape. depth: "uint8" gives 0-255, "float32" the values as they are.
    """

    def __init__(self, values: ArrayLike, depth: Depth) -> None:
        self.values, self.depth = values, depth
        self.shape, self.dtype = tuple(values.shape), np.dtype(depth)

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        values = self.values[index]
        return to_uint8(np.asarray(values)) if self.depth == "uint8" else values


def file_name(name: str) -> str:
    """Return an image's name without what a file name cannot hold."""
    kept = "".join("_" if letter in '<>:"/\\|?*' or printable(letter) != letter else letter for letter in name)
    kept = kept.strip(" .") or "image"
    return f"_{kept}" if is_reserved(kept) else kept
