"""Plain numbers in a file, memory-mapped and given in the machine's byte order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import LazyArray


def map_voxels(path: Path, stored: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any] | Swapped:
    """Return the numbers of type `stored` from byte `offset` on as an array of `shape`, read where it is looked at.

    Raises:
        OSError, ValueError: there is no such file, or it is shorter.
    """
    mapped = np.memmap(path, stored, "r", offset, shape)
    return mapped if stored.isnative else Swapped(mapped)


class Swapped(LazyArray):
    """A memory map of foreign byte order, given in native order."""

    def __init__(self, stored: NDArray[Any]) -> None:
        self._stored, self.shape, self.dtype = stored, stored.shape, stored.dtype.newbyteorder("=")

    def transpose(self, order: tuple[int, ...]) -> Swapped:
        """Return the array with its axes in another order."""
        return Swapped(self._stored.transpose(order))

    def reshape(self, shape: tuple[int, ...]) -> Swapped:
        """Return the array with another shape, without or with axes of length 1."""
        return Swapped(self._stored.reshape(shape))

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        return self._stored[index].astype(self.dtype)
