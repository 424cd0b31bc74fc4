"""Export of corrections as label files that any program reads, and import of labels from any program."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.catalog import StoredCorrections, lock_of
from napari_skipseg.corrections.saved import (
    ChunkTarget,
    SavedCorrections,
    load_saved,
    write_all_chunks,
)
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.corrections.subject import HIGHEST, CorrectionClass, Subject
from napari_skipseg.errors import InputError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.formats import Format
from napari_skipseg.images.stack import Stack

ExportedLabels = Literal["target", "strokes"]

EXPORTED_VOXELS = 2**24
"""Voxels of labels that are read at once."""

_SAME_SIZE = 0.01
"""Relative difference up to which two voxel sizes count as the same: programs round them."""


class _Readable(NamedTuple):
    saved: SavedCorrections
    subject: Subject
    classes: tuple[CorrectionClass, ...]


def form_of(path: str | os.PathLike[str]) -> Format:
    """Return the file format that belongs to an ending: OME-Zarr for .zarr, else TIFF."""
    return "ome-zarr" if Path(path).suffix.lower() == ".zarr" else "tiff"


def export_corrections(
    corrections: Corrections | StoredCorrections,
    path: str | os.PathLike[str],
    form: Format | None = None,
    what: ExportedLabels = "target",
) -> Path:
    """Write the labels to `path`, replace an older file or folder there, and return the path.

    0 = not looked at, 1 = background, 2 and more = the classes; the description has their names. OME-TIFF is written
    plane by plane, OME-Zarr without empty chunks.

    form: by default that of the ending. what: all training labels ("target"), or only what was painted ("strokes").

    Raises:
        FileError: `path` cannot be written or is something else, or a window has the corrections open.
    """
    path = Path(path)
    with _reading(corrections) as (saved, subject, classes), file_errors_as(path):
        description = {"layer": "labels", "classes": {str(one.value): one.name for one in classes}}
        array = ChunkTarget(saved, only_strokes=what == "strokes")
        if (form or form_of(path)) == "ome-zarr":
            return write_all_chunks(array, subject, path, description)
        write_ome_tiff(path, array, subject.space, description=description)
        return path


@contextmanager
def _reading(corrections: Corrections | StoredCorrections) -> Iterator[_Readable]:
    """Yield the arrays, the image and the classes; corrections that are not open are locked meanwhile."""
    if isinstance(corrections, Corrections):
        yield _Readable(corrections.saved, corrections.subject, corrections.classes)
        return
    lock = lock_of(corrections.folder, corrections.subject.name)
    with file_errors_as(corrections.folder):
        lock.take()
    try:
        with file_errors_as(corrections.folder):
            saved = load_saved(corrections.folder, corrections.subject.shape)
        yield _Readable(saved, corrections.subject, corrections.classes)
    finally:
        lock.release()


def import_labels(corrections: Corrections, path: str | os.PathLike[str]) -> dict[int, int]:
    """Add the labels in a file to the strokes and return the number of pixels of each value.

    1 = background, 2 and more = the classes; pixels with 0 keep their stroke. If anything is wrong, nothing changes.

    Raises:
        FileError: the file cannot be read.
        InputError: its shape or voxel size differs from the image's, or its values are not labels.
    """
    labels = read_stack(path, are_labels=True)
    _check_place(labels, corrections.subject, Path(path).name)
    shape = corrections.strokes.shape
    values: NDArray[Any]
    for _, values in _blocks(labels, shape):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > HIGHEST:
            wrong = low if low < 0 else high
            raise InputError(
                f"'{Path(path).name}' contains the value {wrong}: corrections are 0 = not looked at, 1 = background "
                f"and 2 to {HIGHEST} = the classes; number its labels so."
            )
    counts: Counter[int] = Counter()
    for box, values in _blocks(labels, shape):
        painted = values > 0
        if painted.any():
            with corrections.strokes.lock:
                corrections.strokes[box] = np.where(painted, values, corrections.strokes[box])
            found, often = np.unique(values[painted], return_counts=True)
            counts.update(dict(zip(found.tolist(), often.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def _check_place(labels: Stack, subject: Subject, name: str) -> None:
    if np.dtype(labels.data.dtype).kind == "f":
        raise InputError(f"'{name}' contains {labels.data.dtype} values, and labels are whole numbers: convert it.")
    if _long(labels.shape) != _long(subject.shape):
        raise InputError(
            f"'{name}' has the shape {labels.shape}, '{subject.name}' has {subject.shape}: give labels of this image, "
            "at its full size."
        )
    if not labels.space.has_size or not subject.space.has_size:
        return  # one of the two sizes is not known
    space = subject.space
    wanted, own = (
        [size for axis, size in zip("ZYX", each.voxel_size_in(space.unit), strict=True) if axis in space.axes]
        for each in (space, labels.space)
    )
    if not np.allclose(own, wanted, rtol=_SAME_SIZE, atol=0):
        given = " × ".join(f"{length:g}" for length in own)
        image = " × ".join(f"{length:g}" for length in wanted)
        raise InputError(
            f"'{name}' has voxels of {given} {space.unit}, '{subject.name}' of {image}: give labels of this image, or "
            "correct the voxel size in one of the two."
        )


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without axes of length 1, which files leave out."""
    return tuple(n for n in shape[:-2] if n > 1) + shape[-2:]


def _blocks(labels: Stack, shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """Yield the labels a few rows at a time, each with its box in an array of `shape`."""
    kept = [axis for axis, n in enumerate(shape) if n > 1 or axis >= len(shape) - 2]
    rows = max(1, EXPORTED_VOXELS // shape[-1])
    for place in np.ndindex(*shape[:-2]):
        for top in range(0, shape[-2], rows):
            box = (*(slice(n, n + 1) for n in place), slice(top, min(top + rows, shape[-2])), slice(0, shape[-1]))
            lengths = [part.stop - part.start for part in box]
            yield box, labels.read(tuple(box[axis] for axis in kept)).reshape(lengths)
