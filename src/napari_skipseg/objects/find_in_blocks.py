"""Objects of an image of any size, block by block, in the memory of a few blocks; the same as of the whole at once."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.devices import giving_back_memory, versions
from napari_skipseg.durable import draft_folder
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.formats import FORMAT_ENDINGS, Format
from napari_skipseg.images.tiff.writer import write_ome_tiff
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import iter_write_ome_zarr
from napari_skipseg.objects.agglomerate import iter_objects_by_contacts
from napari_skipseg.objects.block_cache import BlockCache
from napari_skipseg.objects.block_regions import BlockRegions, VoxelSpacing, find_block_regions
from napari_skipseg.objects.blocks import (
    CHUNK,
    BlockGrid,
    ObjectBlock,
    RelabelledArray,
    WithoutAxes,
    block_grid_of,
    blocks_at_once,
    plan_blocks,
)
from napari_skipseg.objects.classes import (
    ClassImage,
    ClassProbability,
    ScaledProbability,
    in_box,
    probability_of_class,
    with_threshold,
)
from napari_skipseg.objects.contact_file import read_named_classifier
from napari_skipseg.objects.find import objects_of_regions, spacing_of
from napari_skipseg.objects.merge_blocks import RegionGraphMerger
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import RegionGraph
from napari_skipseg.progress import Progress

FINDING = "finding objects"


@dataclass(frozen=True)
class ObjectsTarget:
    """Where objects are written: `<name>_objects.tif` or `.ome.zarr` in `folder`; recipe: stored with them.

    kept: a folder for found blocks, which stays, so that a search that was stopped or killed is resumed if its recipe
    is the same. None = nothing stays.
    """

    folder: Path
    name: str
    form: Format = "tiff"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    kept: Path | None = None

    @property
    def file(self) -> Path:
        """The file of labels."""
        return self.folder / f"{self.name}_objects{FORMAT_ENDINGS[self.form]}"


@dataclass(frozen=True)
class BlockSearch(Progress):
    """How many blocks of an image are found, those of an earlier run or of other processes included."""


@dataclass(frozen=True)
class SearchResult:
    """The file of the labels, and how many objects there are, numbered from 1."""

    file: Path
    count: int


def iter_find_objects(
    image: ClassImage, options: ObjectOptions, target: ObjectsTarget, block: tuple[int, int, int] | None = None
) -> Generator[Progress, None, SearchResult]:
    """Yield block by block; return the file of labels, uint32, axes of TZYX, with voxel size, origin and recipe.

    The labels are those of `ObjectSearch`, whatever the block, (z, y, x) voxels. The file appears when it is whole.
    Until then found blocks lie in a hidden folder beside it, or in `target.kept`.

    Raises:
        FileError: nothing can be written, a part of the image cannot be read, or the file `contacts` has changed.
        InputError: there is no such class, or the values are no probabilities.
    """
    asked, options = options, with_threshold(image, options)
    if options.contacts:  # it is used last: what is wrong with the file is said before hours of work
        read_named_classifier(options.contacts)
    image, options = in_box(image, options), replace(options, box="", mask="")
    with contextlib.ExitStack() as leaving, giving_back_memory():
        with file_errors_as(target.folder):
            target.folder.mkdir(parents=True, exist_ok=True)
            folder = target.kept or leaving.enter_context(draft_folder(target.folder)) / "found"
        search = _search_of(image, options, target, folder, block)
        merger = yield from _iter_merge(search)
        numbers = yield from _iter_number(search, merger)
        objects = RelabelledArray(search.cache.labels, search.grid, numbers, merger.firsts)
        axes = "".join(axis for axis in "TZYX" if axis in image.stack.space.axes)
        array, space = WithoutAxes(objects, axes), image.stack.space.with_axes(axes)
        recipe = {**target.recipe, "layer": "labels", "objects": asdict(asked)}
        if target.form == "ome-zarr":
            chunks = tuple({"T": 1, **dict(zip("ZYX", CHUNK, strict=True))}[axis] for axis in axes)
            layout = Layout(array.shape, space, "uint32", chunks=chunks, kind="labels", description=recipe)
            yield from iter_write_ome_zarr(target.file, array, layout)
        else:
            yield Progress(0, 1, f"writing {target.file.name}")
            write_ome_tiff(target.file, array, space, description=recipe, title=image.stack.title)
            yield Progress(1, 1, f"writing {target.file.name}")
    return SearchResult(target.file, int(numbers.max(initial=0)))


@dataclass(frozen=True, eq=False)
class RegionsInBlocks:
    """The regions that objects are made of: basins, or components.

    labels: region 1, 2, … at each voxel, a lazy view of shape (T, Z, Y, X). graph: region n is the node n - 1.
    objects: the number of each node's object.
    """

    labels: Any
    graph: RegionGraph
    objects: NDArray[np.uint32]


def iter_find_regions(
    image: ClassImage, options: ObjectOptions, folder: Path, block: tuple[int, int, int] | None = None
) -> Generator[Progress, None, RegionsInBlocks]:
    """Yield block by block; return the regions of an image. Their labels lie in `folder`, which must stay.

    Raises:
        FileError, InputError: as `iter_find_objects`.
    """
    with giving_back_memory():
        search = _search_of(image, options, ObjectsTarget(folder, "regions"), folder, block)
        merger = yield from _iter_merge(search)
        graph, places = merger.settle_regions(search.whole)
        labels = RelabelledArray(search.cache.labels, search.grid, places + np.uint32(1), merger.firsts)
        return RegionsInBlocks(labels, graph, objects_of_regions(graph, options, search.spacing, search.whole))


def iter_find_blocks(
    image: ClassImage, options: ObjectOptions, target: ObjectsTarget, numbers: range
) -> Generator[Progress, None, None]:
    """Yield while blocks of these numbers are found and stored in `target.kept`, for `iter_find_objects` to finish.

    Several processes may find blocks of one image, each its own.

    Raises:
        FileError, InputError: as `iter_find_objects`.
        ValueError: the target keeps nothing.
    """
    if target.kept is None:
        raise ValueError("a target of several processes has a folder `kept`")
    options = with_threshold(image, options)
    with giving_back_memory():
        search = _search_of(image, options, target, target.kept)
        left = set(numbers) - search.cache.numbers()
        blocks = [block for block in search.blocks() if block.number in left]
        for done, _ in enumerate(_iter_regions(search, blocks), start=len(numbers) - len(blocks) + 1):
            yield Progress(done, len(numbers), FINDING)


class _Search(NamedTuple):
    """The class that is looked for, in which blocks, and where found blocks are stored."""

    chosen: ClassProbability
    options: ObjectOptions
    spacing: VoxelSpacing
    grid: BlockGrid
    cache: BlockCache

    @property
    def whole(self) -> tuple[int, int, int]:
        """The shape of the image, its times one after the other along the first axis."""
        times, depth, rows, columns = self.grid.shape
        return times * depth, rows, columns

    def blocks(self) -> Iterator[ObjectBlock]:
        return plan_blocks(self.grid, self.options, self.spacing)

    def find(self, block: ObjectBlock, values: ScaledProbability) -> BlockRegions:
        """Return the regions of a block, and store them."""
        labels, regions = find_block_regions(values, block.low, block.window, self.options, self.spacing)
        self.cache.write(block, labels, regions)
        return regions

    def restore(self, block: ObjectBlock) -> BlockRegions:
        """Return the regions of a block that was found before; find it again if its files are damaged."""
        return self.cache.read(block) or self.find(block, self.look_at(block))

    def look_at(self, block: ObjectBlock) -> ScaledProbability:
        return self.chosen.look_at(block.time, *block.read)


def _search_of(
    image: ClassImage,
    options: ObjectOptions,
    target: ObjectsTarget,
    folder: Path,
    block: tuple[int, int, int] | None = None,
) -> _Search:
    chosen = probability_of_class(image, options)
    grid = block_grid_of(chosen.shape, options, block)
    place = {"channel": chosen.channel, "value": chosen.value, "voxel size": image.stack.space.voxel_size}
    place |= {"padding": 0} if chosen.has_padding else {}
    ours = versions().get("napari-skipseg", "")  # other packages may differ between machines that share a search
    made_of = {"recipe": target.recipe, "objects": asdict(options), "class": place, "version": ours}
    return _Search(chosen, options, spacing_of(image.stack, options), grid, BlockCache(folder, grid, made_of))


def _iter_merge(search: _Search) -> Generator[Progress, None, RegionGraphMerger]:
    """Yield block by block; return the graph of all blocks."""
    merger = RegionGraphMerger(search.options, search.spacing, search.chosen.stack.name)
    blocks, known = list(search.blocks()), search.cache.numbers()
    done = len(known)
    yield BlockSearch(done, len(blocks), FINDING)
    for each, regions in _iter_regions(search, blocks, known, merger):
        merger.add(regions, each.window)
        del regions
        done += each.number not in known
        yield BlockSearch(done, len(blocks), FINDING)
    return merger


def _iter_number(search: _Search, merger: RegionGraphMerger) -> Generator[Progress, None, NDArray[np.uint32]]:
    """Yield while contacts are measured, if a classifier decides; return the number of each label's object."""
    if not search.options.contacts:
        return merger.settle(search.whole)
    graph, places = merger.settle_regions(search.whole)
    labels = RelabelledArray(search.cache.labels, search.grid, places + np.uint32(1), merger.firsts)
    return (yield from iter_objects_by_contacts(labels, graph, search.chosen, search.options))[places]


def _iter_regions(
    search: _Search,
    blocks: Sequence[ObjectBlock],
    known: Collection[int] = (),
    merger: RegionGraphMerger | None = None,
) -> Generator[tuple[ObjectBlock, BlockRegions], None, None]:
    """Yield each block and its regions, in order, while the next ones are computed, and one is read.

    known: numbers of the blocks that were found before.
    """
    waiting: deque[tuple[ObjectBlock, Future[BlockRegions]]] = deque()
    at_once = blocks_at_once()
    pool = ThreadPoolExecutor(at_once)

    def first() -> tuple[ObjectBlock, BlockRegions]:
        block, regions = waiting.popleft()
        return block, regions.result()

    try:
        for block in blocks:
            if merger is not None and merger.is_due:
                # Joining waits until no block is computed: the two never need their memory at once.
                while waiting:
                    yield first()
                merger.join()
            if block.number in known:
                waiting.append((block, pool.submit(search.restore, block)))
            else:
                waiting.append((block, pool.submit(search.find, block, search.look_at(block))))
            if len(waiting) > at_once:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)
