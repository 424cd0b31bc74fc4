"""What a segmentation returns: probability, binary, attention and uncertainty, with where they lie in space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AttentionMap:
    """The attention of one gate over a whole stack: `data` has one pixel per `stride` voxels of each space axis.

    stride: per axis of `data`, 1 for axes that the network does not see.
    """

    level: int
    stride: tuple[int, ...]
    data: NDArray[np.float32]

    @property
    def offset(self) -> tuple[float, ...]:
        """Place of the first map pixel's centre in voxels of the stack."""
        return tuple((stride - 1) / 2 for stride in self.stride)


@dataclass(frozen=True)
class Prediction:
    """A segmented stack.

    probability: float32 in [0, 1]; the axes of the stack without its channels, behind a class axis where the model has
    several classes. axes: letters of `probability`, "C" for the classes. uncertainty: the standard deviation of
    probability over samples with dropout, float32 in [0, 0.5] in its shape; None where nothing was sampled.
    """

    probability: NDArray[np.float32]
    axes: str
    voxel_size: tuple[float, float, float]
    unit: str
    origin: tuple[float, float, float]
    class_names: tuple[str, ...]
    attentions: tuple[AttentionMap, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    uncertainty: NDArray[np.float32] | None = None

    def binary(self, threshold: float) -> Any:
        """Return labels, uint8, as a lazy dask array: 0 = background, 1, 2, … = the classes."""
        return binarize(self.probability, threshold, has_class_axis=len(self.class_names) > 1)


def binarize(probability: NDArray[np.float32], threshold: float, has_class_axis: bool) -> Any:
    """Return a lazy array of labels: the most probable class where its probability exceeds `threshold`, else 0.

    Shape: (*space), or (classes, *space) where `has_class_axis` -> (*space), uint8.
    """
    from dask import array

    classes = (probability.shape[0],) if has_class_axis else ()
    space = probability.shape[len(classes) :]
    lazy = array.from_array(probability, chunks=(*classes, *(1,) * (len(space) - 2), *space[-2:]))
    if not has_class_axis:
        return lazy.map_blocks(lambda block: (block > threshold).astype(np.uint8), dtype=np.uint8)
    return lazy.map_blocks(lambda block: _label(block, threshold), dtype=np.uint8, drop_axis=0)


def _label(probability: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    best = probability.argmax(axis=0)
    labels: NDArray[np.uint8] = np.where(probability.max(axis=0) > threshold, best + 1, 0).astype(np.uint8)
    return labels


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return probabilities as 0-255."""
    scaled: NDArray[np.uint8] = np.round(probability * 255).astype(np.uint8)
    return scaled
