"""A stack: an array and its position in space as one value."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import AXES, Space, check_axes


@runtime_checkable
class ArrayLike(Protocol):
    """Anything that has a shape and a dtype and can be sliced: numpy, memory map, dask, zarr."""

    @property
    def shape(self) -> tuple[int, ...]:  # noqa: D102
        ...

    @property
    def dtype(self) -> Any:  # noqa: D102
        ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class Stack:
    """An image of any size with its voxel size and origin.

    data: any sliceable array; never read whole.
    space: its axes, one per dimension of `data`, and its position; only axes, such as "ZYX", if no more is known.
    file: the absolute path that `read_stack` opened, "" if the image is only in memory.
    notes: decisions of the reader that a user should know, one sentence each, with the flag that changes them.
    title: the name of this image in its file, such as "Pos1" in an OME-TIFF, "" = none.
    slice_names: the names of the files of a stack with one file per slice, along Z or T; empty for all others.
    """

    data: ArrayLike
    space: Space
    name: str = "image"
    file: str = ""
    notes: tuple[str, ...] = ()
    title: str = ""
    slice_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.space, str):
            object.__setattr__(self, "space", Space(self.space))
        check_axes(self.space.axes, len(self.data.shape))
        if 0 in self.data.shape:
            raise InputError(f"The image '{self.name}' is empty: its shape is {tuple(self.data.shape)}.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of all axes."""
        return tuple(int(length) for length in self.data.shape)

    @property
    def axes(self) -> str:
        """One letter per dimension of `data`, such as "ZYX"."""
        return self.space.axes

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """The sides (z, y, x) of a voxel, in `unit`."""
        return self.space.voxel_size

    @property
    def unit(self) -> str:
        """The unit of length of `voxel_size` and `origin`, or "pixel"."""
        return self.space.unit

    @property
    def origin(self) -> tuple[float, float, float]:
        """The position (z, y, x) of the first voxel's centre in `unit`."""
        return self.space.origin

    def length(self, axis: str) -> int:
        """Return the length of `axis`, 1 if the stack has no such axis."""
        return self.shape[self.space.axes.index(axis)] if axis in self.space.axes else 1

    def channel(self, index: int) -> Stack:
        """Return the stack of one channel; a stack without channels is returned unchanged.

        Raises:
            InputError: there is no such channel.
        """
        if "C" not in self.space.axes:
            return self
        count = self.length("C")
        if not 0 <= index < count:
            raise InputError(f"Channel {index} does not exist: '{self.name}' has channels 0 to {count - 1}.")
        position = self.space.axes.index("C")
        return replace(self, data=_Channel(self.data, position, index), space=self.space.without("C"))

    def slices(self, axes: str) -> Iterator[tuple[int | slice, ...]]:
        """Yield the index of every part with only `axes`: for "YX" each slice of each channel and time."""
        loops = [range(n) if a not in axes else range(1) for n, a in zip(self.shape, self.space.axes, strict=True)]
        for place in np.ndindex(*(len(loop) for loop in loops)):
            yield tuple(int(p) if a not in axes else slice(None) for p, a in zip(place, self.space.axes, strict=True))

    def read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Return the voxels at `index` in memory.

        Raises:
            InputError: they are complex numbers or no numbers at all.
        """
        values = np.asarray(self.data[index])
        if values.dtype.kind not in "buif":
            raise InputError(
                f"'{self.name}' contains {values.dtype} values: convert it to 8-bit, 16-bit or float grey."
            )
        return values


class LazyArray(ABC):
    """An array that is read on demand: slicing returns numpy arrays, `np.asarray` reads it whole.

    A subclass sets `shape` and `dtype`, and reads the voxels of a complete index in `_read`.
    """

    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        return self._read(complete_index(key, self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    @abstractmethod
    def _read(self, index: tuple[int | slice, ...]) -> Any:
        """Return the voxels at `index`, which has an entry for each axis."""


class _Channel(LazyArray):
    """One channel of an array."""

    def __init__(self, data: ArrayLike, position: int, index: int) -> None:
        self._data, self._position, self._index = data, position, index
        self.shape = tuple(n for axis, n in enumerate(data.shape) if axis != position)
        self.dtype = data.dtype
        chunks = tuple(getattr(data, "chunks", None) or ())
        self.chunks = tuple(each for axis, each in enumerate(chunks) if axis != position)

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        return self._data[(*index[: self._position], self._index, *index[self._position :])]


def complete_index(key: Any, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Return one integer (not negative) or slice per axis of `shape` for any basic index `key`.

    Raises:
        IndexError: there are too many indices, one is out of range, or one is neither integer nor slice.
    """
    given = list(key) if isinstance(key, tuple) else [key]
    ellipses = [place for place, part in enumerate(given) if part is Ellipsis]
    if len(ellipses) > 1 or len(given) - len(ellipses) > len(shape):
        raise IndexError(f"{key} is no index of an array of {len(shape)} dimensions")
    place = ellipses[0] if ellipses else len(given)
    given[place : place + 1] = [slice(None)] * (len(shape) - len(given) + len(ellipses))
    return tuple(_complete_part(part, length) for part, length in zip(given, shape, strict=True))


def _complete_part(part: Any, length: int) -> int | slice:
    if isinstance(part, slice):
        return part
    if isinstance(part, bool | np.bool_) or not hasattr(part, "__index__"):
        raise IndexError(f"{part!r} is no index: use integers and slices")
    place = operator.index(part)
    if not -length <= place < length:
        raise IndexError(f"index {place} is out of range for an axis of length {length}")
    return place % length


Named = Sequence[tuple[str, int]]
"""The name and the length of each axis in a file; "?" is an axis without a name."""


GIVE_AXES = "give the axes in the file's order (in a shell with --axes, such as --axes ZYX)"


@dataclass(frozen=True)
class FileAxes:
    """The axes of an image in its file, in the file's order.

    names: one letter of "TCZYX" each. shape: their lengths. places: their numbers among the file's axes.
    """

    names: str
    shape: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The numbers of these axes in the order of the stack: that of the file, or T, C, Z, Y, X.

        Z, Y and X have this order in each stack; if they have it in the file, T and C keep their places too.
        """
        space = [axis for axis in self.names if axis in "ZYX"]
        if space == sorted(space, key=AXES.index):
            return tuple(range(len(self.names)))
        return tuple(self.names.index(axis) for axis in sorted(self.names, key=AXES.index))


def name_axes(path: Path, full: Named, axes: str | None) -> FileAxes:
    """Return the axes of a file in our letters, in any order.

    full: all axes of the file; I and Q (tifffile's letters for pages without information) become Z, or T if there is a
    Z already. axes: from the user, in the file's order; they override the names. Axes of length 1 may be left out.

    Raises:
        InputError: the axes have no names, unclear names, or do not match those of the user.
    """
    kept = [place for place, (name, length) in enumerate(full) if length != 1 or name in "YX"]
    if max(len(kept), len(axes or "")) > len(AXES):
        raise InputError(
            f"'{path}' has {len(kept)} axes ({_lengths(full, kept)}), at most {len(AXES)} can be used (time, channel, "
            "z, y, x): save one part of it."
        )
    if axes is not None:
        places = _places_for(axes, full, kept)
        check_axes(axes, len(places), any_order=True)
        return FileAxes(axes, tuple(full[place][1] for place in places), places)
    names = [full[place][0].upper() for place in kept]
    if "?" in names:
        raise InputError(f"'{path}' does not name its axes ({_lengths(full, kept)}): {GIVE_AXES}.")
    for number in reversed(range(len(names))):
        if names[number] in "IQ":
            names[number] = next((free for free in "ZT" if free not in names), names[number])
    found = "".join(names)
    try:
        check_axes(found, len(kept), any_order=True)
    except InputError as error:
        raise InputError(
            f"The axes of '{path}' ({found}: {_lengths(full, kept)}) are not clear: {GIVE_AXES}."
        ) from error
    return FileAxes(found, tuple(full[place][1] for place in kept), tuple(kept))


def _lengths(full: Named, kept: Sequence[int]) -> str:
    return " × ".join(str(full[place][1]) for place in kept)


def _places_for(axes: str, full: Named, kept: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of the file's axes that a user has named; the user may name axes of length 1 too."""
    if len(axes) == len(full):
        return tuple(range(len(full)))
    named = tuple(place for place, (name, _) in enumerate(full) if place in kept or name in axes)
    return named if len(axes) == len(named) else tuple(kept)
