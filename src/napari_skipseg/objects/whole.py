"""Objects of an image of any size: block by block, in the memory of a block, the same as of the whole at once."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from napari_skipseg.devices import giving_back_memory
from napari_skipseg.images.formats import ENDINGS, Format
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.images.tiff_writer import write_ome_tiff
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.images.zarr_layout import Layout
from napari_skipseg.images.zarr_writer import iter_write_ome_zarr
from napari_skipseg.objects.basins import Window
from napari_skipseg.objects.blocks import CHUNK, Block, blocks_at_once, plan_blocks
from napari_skipseg.objects.classes import ClassProbability, class_probability
from napari_skipseg.objects.find import spacing_of
from napari_skipseg.objects.gathered import Gathered
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.parts import Parts, Spacing, find_parts
from napari_skipseg.progress import Progress

SLAB = 2**26
"""Most voxels of a slab that is kept while planes of it are written."""


@dataclass(frozen=True)
class ObjectsTarget:
    """Where objects go: `<name>_objects.tif` or `.ome.zarr` in `folder`; recipe: what is stored with them."""

    folder: Path
    name: str
    form: Format = "tiff"
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The file of labels."""
        return self.folder / f"{self.name}_objects{ENDINGS[self.form]}"


@dataclass(frozen=True)
class Objects:
    """The file that holds the labels, and how many objects there are, numbered from 1."""

    file: Path
    count: int


def iter_find_objects(
    probability: Stack,
    class_names: Sequence[str],
    options: ObjectOptions,
    target: ObjectsTarget,
    labels: bool = False,
    block: tuple[int, int, int] | None = None,
) -> Generator[Progress, None, Objects]:
    """Yield block by block; return the file of labels, uint32, axes of TZYX, with voxel size, origin and recipe.

    The labels are those of `find_objects`, whatever the block. It appears when it is whole; parts that are found lie
    in a hidden folder beside it meanwhile. probability, class_names, options, labels: as for `find_objects`. block:
    (z, y, x) voxels.

    Raises:
        FileError: nothing can be written, or something in the image not be read.
        InputError: there is no such class, or the values are no probabilities.
    """
    chosen = class_probability(probability, class_names, options, labels)
    with telling_faults(target.folder):
        target.folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.folder)
    with scratch as folder, giving_back_memory():
        parts, numbers = yield from _iter_parts(chosen, options, Path(folder), block)
        yield from _iter_write(_Numbered(parts, numbers, chosen.shape[0]), probability, options, target)
    return Objects(target.file, int(numbers.max(initial=0)))


def _iter_parts(
    chosen: ClassProbability, options: ObjectOptions, folder: Path, size: tuple[int, int, int] | None
) -> Generator[Progress, None, tuple[Any, NDArray[np.uint32]]]:
    """Yield while parts are found; return their labels, and the number of the object that each belongs to."""
    spacing = spacing_of(chosen.stack, options)
    blocks = list(plan_blocks(chosen.shape, options, spacing, size))
    whole = blocks[0].window.whole
    with telling_faults(folder):
        labels = zarr.create_array(
            folder / "parts",
            shape=whole,
            chunks=tuple(min(chunk, length) for chunk, length in zip(CHUNK, whole, strict=True)),
            dtype=np.uint32,
            compressors=[ZstdCodec(level=1)],
        )
    gathered = Gathered(options, spacing, chosen.stack.name)
    computed = _iter_computed(chosen, blocks, options, spacing, gathered)
    for done in range(1, len(blocks) + 1):
        window, parts = next(computed)
        place = tuple(slice(start, start + length) for start, length in zip(window.start, window.shape, strict=True))
        with telling_faults(folder):
            labels[place] = gathered.add(parts, window)
        del parts
        yield Progress(done, len(blocks), "finding objects")
    return labels, gathered.settle(whole)


def _iter_computed(
    chosen: ClassProbability, blocks: list[Block], options: ObjectOptions, spacing: Spacing, gathered: Gathered
) -> Generator[tuple[Window, Parts], None, None]:
    """Yield the window and the parts of each block, in order; meanwhile others are computed, and the next is read.

    What is gathered is joined when no block is under way, so that both never need their memory at once.
    """
    waiting: deque[tuple[Window, Future[Parts]]] = deque()
    at_once = blocks_at_once()
    pool = ThreadPoolExecutor(at_once)
    try:
        for block in blocks:
            if gathered.is_due:
                while waiting:
                    yield _first_of(waiting)
                gathered.join()
            values = chosen.look_at(block.time, *block.read)
            waiting.append((block.window, pool.submit(find_parts, values, block.low, block.window, options, spacing)))
            del values
            if len(waiting) > at_once:
                yield _first_of(waiting)
        while waiting:
            yield _first_of(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _first_of(waiting: deque[tuple[Window, Future[Parts]]]) -> tuple[Window, Parts]:
    window, parts = waiting.popleft()
    return window, parts.result()


class _Numbered(LazyArray):
    """Parts looked at as objects, shape (T, Z, Y, X); planes that follow each other read each chunk once."""

    def __init__(self, parts: Any, numbers: NDArray[np.uint32], times: int) -> None:
        self._parts, self._times = parts, times
        self._numbers = np.concatenate([np.zeros(1, np.uint32), numbers])
        self.shape = (times, parts.shape[0] // times, *parts.shape[1:])
        self.dtype = np.dtype(np.uint32)
        self._kept: tuple[int, NDArray[np.uint32]] | None = None

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        time, z, y, x = index
        if not isinstance(time, int):
            planes = [self._read((each, z, y, x)) for each in range(self._times)[time]]
            return np.stack(planes)
        first = time * self.shape[1]
        if isinstance(z, int):
            return self._plane(first + z)[y, x]
        start, stop, step = z.indices(self.shape[1])
        return self._numbers.take(self._parts[first + start : first + stop, y, x])[::step]

    def _plane(self, place: int) -> NDArray[np.uint32]:
        deep = self._parts.chunks[0] if self._parts.chunks[0] * self.shape[2] * self.shape[3] <= SLAB else 1
        start = place // deep * deep
        if self._kept is None or self._kept[0] != start:
            self._kept = None  # so that there is never a second slab
            self._kept = start, self._numbers.take(self._parts[start : start + deep])
        plane: NDArray[np.uint32] = self._kept[1][place - start]
        return plane


class _Squeezed(LazyArray):
    """An array (T, Z, Y, X) without those axes that an image does not have."""

    def __init__(self, data: LazyArray, axes: str) -> None:
        self._data, self._axes = data, axes
        self.shape = tuple(length for axis, length in zip("TZYX", data.shape, strict=True) if axis in axes)
        self.dtype = data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        places = dict(zip(self._axes, index, strict=True))
        return self._data[tuple(places.get(axis, 0) for axis in "TZYX")]


def _iter_write(
    objects: _Numbered, stack: Stack, options: ObjectOptions, target: ObjectsTarget
) -> Generator[Progress, None, None]:
    axes = "".join(axis for axis in "TZYX" if axis in stack.axes)
    array = _Squeezed(objects, axes)
    recipe = {**target.recipe, "layer": "labels", "objects": asdict(options)}
    place = (stack.voxel_size, stack.unit, stack.origin)
    if target.form == "ome-zarr":
        chunks = tuple({"T": 1, **dict(zip("ZYX", CHUNK, strict=True))}[axis] for axis in axes)
        layout = Layout(array.shape, axes, "uint32", *place, chunks=chunks, kind="labels", description=recipe)
        yield from iter_write_ome_zarr(target.file, array, layout)
        return
    yield Progress(0, 1, f"writing {target.file.name}")
    write_ome_tiff(target.file, array, axes, *place, description=recipe)
    yield Progress(1, 1, f"writing {target.file.name}")
