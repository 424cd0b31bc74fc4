"""The images of a job, opened in the engine process. Loads without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.stack import ArrayLike, LazyArray, Stack
from napari_skipseg.images.zarr_array import ZarrArray
from napari_skipseg.jobs.requests import CorrectedImage


@dataclass(frozen=True)
class NoVoxels:
    """An image of which only shape and type are known."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> Any:
        raise ValueError("there are no voxels to read")


def open_voxels(file: str, copy: Path, axes: str, shape: Sequence[int]) -> ArrayLike:
    """Return the voxels of an image, those of its file where it names one, else those of its copy.

    Raises:
        FileError: the file is gone.
        InputError: it holds another image now than the viewer shows.
    """
    if not file:
        copied: ArrayLike = np.load(copy, mmap_mode="r")
        return copied
    found = _read_as_shown(file, axes)
    if tuple(found.shape) != tuple(shape):
        raise InputError(f"'{file}' is another image now than the viewer shows: open it again.")
    return found


def _read_as_shown(file: str, axes: str) -> ArrayLike:
    """Return the voxels of a file as the reader gave them to the viewer: turned, where the file has other axes.

    `axes` are those of the layer; as names for the file's own axes they count only if the file has none.
    """
    try:
        return read_stack(file).data
    except InputError:
        return read_stack(file, axes=axes).data


def open_labels(image: CorrectedImage) -> ArrayLike:
    """Return the corrections of an image, with the values that the settings' classes have.

    Raises:
        FileError: they are gone.
    """
    labels = read_stack(image.labels, axes=image.axes.replace("C", "")).data
    moved = {value: meant for value, meant in image.values.items() if value != meant}
    return Recoded(labels, moved) if moved and isinstance(labels, ZarrArray) else labels


def open_strokes(image: CorrectedImage) -> ArrayLike | None:
    """Return those of the corrections that were painted, which are not 0; None where all were.

    Raises:
        FileError: they are gone.
    """
    return read_stack(image.strokes, axes=image.axes.replace("C", "")).data if image.strokes else None


class Recoded(LazyArray):
    """Labels with other values: each that is named by the one it stands for."""

    def __init__(self, labels: ZarrArray, values: Mapping[int, int]) -> None:
        self._labels = labels
        self._table = np.arange(256, dtype=np.uint8)
        self._table[list(values)] = list(values.values())
        self.shape, self.dtype = tuple(labels.shape), np.dtype(np.uint8)

    def written(self) -> Iterator[tuple[slice, ...]]:
        """Yield the parts in which something may be; the labels are 0 elsewhere."""
        yield from self._labels.written()

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        recoded: NDArray[np.uint8] = self._table[np.asarray(self._labels[index])]
        return recoded


def open_corrected(image: CorrectedImage) -> Stack:
    """Return an image as a stack; without voxels where it lies neither in a file nor in a copy.

    Raises:
        SkipsegError: as `open_voxels`; it has no such channel.
    """
    values: ArrayLike = NoVoxels(image.shape, np.dtype(image.dtype))
    if image.file or image.copy:
        values = open_voxels(image.file, Path(image.copy), image.axes, image.shape)
    stack = Stack(values, image.axes, image.voxel_size, image.unit, image.origin, image.name, image.file)
    return stack if image.channel is None else stack.channel(image.channel)
