"""Images whose objects are known, or look like a network's probability."""

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.options import Method, ObjectOptions
from napari_skipseg.progress import Progress, run_to_end


def bumpy(shape: tuple[int, ...], seed: int = 0, sigma: float = 1.4) -> NDArray[np.float32]:
    """A smooth random probability from 0 to 1."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    values = (values - values.min()) / (values.max() - values.min())
    return values.astype(np.float32)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> NDArray[np.bool_]:
    """A mask of a ball, or a disk."""
    grid = np.indices(shape)
    offsets = grid - np.reshape(centre, (-1, *[1] * len(shape)))
    return (offsets**2).sum(axis=0) <= radius**2


def cells(shape: tuple[int, int]) -> NDArray[np.float32]:
    """The probability of a membrane that parts an image into four cells; that between the upper two is weak."""
    boundary = np.zeros(shape, np.float32)
    boundary[shape[0] // 2 - 1 : shape[0] // 2 + 1] = 0.9
    boundary[:, shape[1] // 2 - 1 : shape[1] // 2 + 1] = 0.9
    boundary[: shape[0] // 2 - 1, shape[1] // 2 - 1 : shape[1] // 2 + 1] = 0.55
    return boundary


def same_partition(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two label images part space alike, their numbers aside."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def finished(work: Generator[Progress, None, Any]) -> Any:
    """What a generator returns."""
    return run_to_end(work)


def find(values: Any, method: Method = "components", axes: str = "", **options: Any) -> NDArray[np.uint32]:
    """The objects in an array; its axes are the last ones of TZYX, and its voxels cubes."""
    space = Space(axes or "TZYX"[-np.ndim(values) :])
    return find_objects_in_array(values, space, options=ObjectOptions(method, **options))


def image_of(
    values: NDArray[Any], size: tuple[float, float, float] = (1.0, 1.0, 1.0), padded: bool = False
) -> ClassImage:
    """A probability of one class in nm. padded: exactly 0 means padding."""
    return ClassImage(Stack(values, Space("TZYX"[-values.ndim :], size, "nm"), name="x"), has_padding=padded)
