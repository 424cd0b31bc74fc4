"""A mask of an image: a label image over it, whose zeros say where nothing is to be computed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.box import NamedBox, box_from_text, box_to_text, cut_to_box
from napari_skipseg.images.space import METRES
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress, run_to_end

_BLOCK = {"T": 1, "Z": 32, "Y": 1024, "X": 1024}
"""What is read of a mask at once. The hash follows these blocks, so another size would be another hash."""
_HASH = "@sha256:"
_SAME_SIZE = 0.01
"""Largest difference of voxel sizes that count as equal: files store rounded ones."""


@dataclass(frozen=True)
class MaskSurvey:
    """A mask that was read once, block by block.

    labels: as of `open_mask`. sha256: of its shape and of where it is not 0. box: the smallest box around that, but all
    times. touched: which tiles contain some of it, along the axes of `labels`.
    """

    labels: Stack
    sha256: str
    box: NamedBox
    touched: NDArray[np.bool_]

    def inside(self, place: Mapping[str, int | slice], axes: str) -> NDArray[np.bool_]:
        """Return where the mask is not 0. place: by axis. axes: those with a range, in the order of the result."""
        values = self.labels.read(tuple(place[axis] for axis in self.labels.axes)) != 0
        left = [axis for axis in self.labels.axes if isinstance(place[axis], slice)]
        found: NDArray[np.bool_] = values.transpose([left.index(axis) for axis in axes])
        return found


def open_mask(mask: Stack | str, image: Stack) -> Stack:
    """Return the labels of a mask, with the axes of an image but channels, or without T too: then they are those of
    each time. No voxel is read.

    mask: a label image, or its file.

    Raises:
        FileError: the file cannot be read.
        InputError: it is no label image, or has another shape or voxel size than the image.
    """
    if isinstance(mask, str):
        mask = _read_mask(mask)
    _check_labels(mask)
    what = f"The mask '{mask.name}'"
    axes = image.axes.replace("C", "")
    for wanted in (axes, axes.replace("T", "")):
        if mask.shape == tuple(image.length(axis) for axis in wanted):
            break
    else:
        shapes = [" × ".join(map(str, shape)) for shape in (mask.shape, [image.length(axis) for axis in axes])]
        raise InputError(
            f"{what} has {shapes[0]} voxels and '{image.name}' has {shapes[1]}: give a mask of the image's shape."
        )
    _check_size(mask, image, what)
    return replace(mask, space=replace(mask.space, axes=wanted))


def _read_mask(path: str) -> Stack:
    from napari_skipseg.images.files import read_stack  # it loads readers, which the help of a command does not need

    return read_stack(path, are_labels=True)


def _check_labels(mask: Stack) -> None:
    if "C" in mask.axes or np.dtype(mask.data.dtype).kind not in "bui":
        kind = "colours or channels" if "C" in mask.axes else f"{np.dtype(mask.data.dtype)} values"
        raise InputError(
            f"The mask '{mask.name}' has {kind} and is no label image: give one of whole numbers, 0 where nothing is "
            "done."
        )


def _check_size(mask: Stack, image: Stack, what: str) -> None:
    """Raise if both voxel sizes are known and different."""
    if not (mask.space.has_size and image.space.has_size):
        return
    sizes = [np.array(each.voxel_size) * METRES[each.unit] for each in (mask, image)]
    along = ["ZYX".index(axis) for axis in image.space.spatial_axes]
    if not np.allclose(sizes[0][along], sizes[1][along], rtol=_SAME_SIZE, atol=0):
        texts = [f"{' × '.join(f'{each.voxel_size[n]:g}' for n in along)} {each.unit}" for each in (mask, image)]
        raise InputError(
            f"{what} has voxels of {texts[0]} and '{image.name}' of {texts[1]}: give a mask of the same voxel size."
        )


def iter_survey(
    labels: Stack, borders: Mapping[str, Sequence[int]], within: Mapping[str, slice]
) -> Generator[Progress, object, MaskSurvey]:
    """Yield while a mask is read block by block; return what it limits a run to.

    labels: from `open_mask`. borders: of the tiles along each axis; an axis without is one tile. within: a box that
    limits the run too.

    Raises:
        InputError: the mask is 0 everywhere, or everywhere in the box.
    """
    axes, shape = labels.axes, labels.shape
    edges = [np.asarray(borders.get(axis, (0, length))) for axis, length in zip(axes, shape, strict=True)]
    touched = np.zeros([len(each) - 1 for each in edges], np.bool_)
    low, high, digest = list(shape), [0] * len(shape), hashlib.sha256(f"{shape}\n".encode())
    steps = [range(0, length, _BLOCK[axis]) for axis, length in zip(axes, shape, strict=True)]
    corners = list(product(*steps))
    for number, corner in enumerate(corners):
        yield Progress(number, len(corners), "reading the mask")
        stops = [min(n + _BLOCK[axis], length) for n, axis, length in zip(corner, axes, shape, strict=True)]
        values = labels.read(tuple(slice(n, stop) for n, stop in zip(corner, stops, strict=True))) != 0
        digest.update(np.packbits(values).tobytes())
        sides = [within.get(axis, slice(0, length)) for axis, length in zip(axes, shape, strict=True)]
        starts = [min(max(n, side.start), stop) for n, side, stop in zip(corner, sides, stops, strict=True)]
        cut = tuple(
            slice(start - n, max(start, min(stop, side.stop)) - n)
            for n, start, stop, side in zip(corner, starts, stops, sides, strict=True)
        )
        values = values[cut]
        if not values.any():
            continue
        for axis, start in enumerate(starts):
            found = np.flatnonzero(values.any(axis=tuple(n for n in range(len(shape)) if n != axis)))
            low[axis], high[axis] = min(low[axis], start + int(found[0])), max(high[axis], start + int(found[-1]) + 1)
        _mark(touched, values, starts, edges)
    if not high[0]:
        where = f"in the box {box_to_text(within)}" if within else "everywhere"
        raise InputError(f"The mask '{labels.name}' is 0 {where}: paint or give one that is not 0 where to segment.")
    box = {axis: slice(low[n], high[n]) for n, axis in enumerate(axes) if axis != "T"}
    return MaskSurvey(labels, digest.hexdigest(), box, touched)


def _mark(
    touched: NDArray[np.bool_], values: NDArray[np.bool_], starts: Sequence[int], edges: Sequence[NDArray[Any]]
) -> None:
    """Mark the tiles in which a block has values, which begins at `starts`."""
    places = []
    for axis, (start, borders) in enumerate(zip(starts, edges, strict=True)):
        first = int(np.searchsorted(borders, start, "right")) - 1
        stop = int(np.searchsorted(borders, start + values.shape[axis], "left"))
        values = np.logical_or.reduceat(values, [0, *(borders[first + 1 : stop] - start)], axis)
        places.append(slice(first, stop))
    touched[tuple(places)] |= values


def cut_to_results(stack: Stack, box: str, mask: Stack | str | None) -> Stack:
    """Return the part of an image that the results of a run cover. box, mask: what the run was limited to.

    Raises:
        InputError: the box or the mask does not fit the image.
        FileError: the mask cannot be read.
    """
    within = box_from_text(box) if box else {}
    if mask is not None:
        labels = open_mask(mask, stack)
        sides = {axis: side for axis, side in within.items() if axis in labels.axes}
        within |= run_to_end(iter_survey(labels, {}, sides)).box
    return cut_to_box(stack, within) if within else stack


def identify_mask(labels: Stack) -> str:
    """Return the hash of a mask, as `MaskSurvey` has it.

    Raises:
        InputError: the mask is 0 everywhere.
    """
    return run_to_end(iter_survey(labels, {}, {})).sha256


def name_mask(chosen: str) -> str:
    """Return the name of a mask's file, whole, with the hash of the mask: FILE@sha256:HASH, as recipes name it.

    A name that has a hash stays as it is, and its file is not read.

    Raises:
        FileError: the file cannot be read.
        InputError: it is no label image, or 0 everywhere.
    """
    if _HASH in chosen:
        return chosen
    path = str(Path(chosen).absolute())
    labels = _read_mask(path)
    _check_labels(labels)
    return f"{path}{_HASH}{identify_mask(labels)}"


@functools.lru_cache(maxsize=4)  # the hash of a large mask takes as long as reading it
def read_named_mask(name: str) -> Stack:
    """Return the labels that `name_mask` names; `open_mask` fits them to an image.

    Raises:
        FileError: they cannot be read, or are a different mask now.
    """
    place, _, stated = name.rpartition(_HASH)
    labels = _read_mask(place)
    _check_labels(labels)
    if identify_mask(labels) != stated:
        raise FileError(f"The mask '{place}' has changed since it was chosen: put it back, or choose this one anew.")
    return labels
