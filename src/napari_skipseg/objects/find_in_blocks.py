"""Objects of an image of any size: block by block, in the memory of a block, the same as of the whole at once."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.devices import giving_back_memory, versions
from napari_skipseg.durable import draft_folder
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.formats import FORMAT_ENDINGS, Format
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiff.writer import write_ome_tiff
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import iter_write_ome_zarr
from napari_skipseg.objects.block_cache import BlockCache
from napari_skipseg.objects.block_regions import BlockRegions, VoxelSpacing, find_block_regions
from napari_skipseg.objects.blocks import CHUNK, BlockGrid, ObjectBlock, block_grid_of, blocks_at_once, plan_blocks
from napari_skipseg.objects.classes import ClassProbability, ScaledProbability, probability_of_class
from napari_skipseg.objects.find import spacing_of
from napari_skipseg.objects.merge_blocks import RegionGraphMerger
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.relabelled import RelabelledArray, WithoutAxes
from napari_skipseg.progress import Progress

FINDING = "finding objects"


@dataclass(frozen=True)
class ObjectsTarget:
    """Where objects go: `<name>_objects.tif` or `.ome.zarr` in `folder`; recipe: what is stored with them.

    kept: a folder for blocks that are found, which stays, so that a search that is stopped or killed is gone on with;
    what it goes on with has the same recipe. None = nothing stays.
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
    """How many blocks of an image are found, be it before, or by others."""


@dataclass(frozen=True)
class SearchResult:
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
    has_padding: bool = False,
) -> Generator[Progress, None, SearchResult]:
    """Yield block by block; return the file of labels, uint32, axes of TZYX, with voxel size, origin and recipe.

    The labels are those of `find_objects`, whatever the block. It appears when it is whole; blocks that are found lie
    in a hidden folder beside it meanwhile, or in the one where they are kept. probability, class_names, options,
    labels, has_padding: as for `find_objects`. block: (z, y, x) voxels.

    Raises:
        FileError: nothing can be written, or something in the image not be read.
        InputError: there is no such class, or the values are no probabilities.
    """
    with _blocks_folder(target) as folder, giving_back_memory():
        search = _search(probability, class_names, options, target, folder, labels, block, has_padding)
        firsts, numbers = yield from _iter_numbers(search)
        objects = RelabelledArray(search.found.labels, search.grid, numbers, firsts)
        yield from _iter_write(objects, probability, options, target)
    return SearchResult(target.file, int(numbers.max(initial=0)))


def iter_find_blocks(
    probability: Stack,
    class_names: Sequence[str],
    options: ObjectOptions,
    target: ObjectsTarget,
    numbers: range,
    has_padding: bool = False,
) -> Generator[Progress, None, None]:
    """Yield while blocks of these numbers are found, and kept where `target` says, for `iter_find_objects` to end it.

    Several processes may find blocks of one image, each its own.

    Raises:
        FileError, InputError: as `iter_find_objects`.
        ValueError: the target keeps nothing.
    """
    if target.kept is None:
        raise ValueError("blocks that are found by several processes are to be kept")
    with giving_back_memory():
        search = _search(probability, class_names, options, target, target.kept, has_padding=has_padding)
        left = set(numbers) - search.found.numbers()
        blocks = [block for block in search.blocks() if block.number in left]
        for done, _ in enumerate(_iter_found(search, blocks), start=len(numbers) - len(blocks) + 1):
            yield Progress(done, len(numbers), FINDING)


@contextlib.contextmanager
def _blocks_folder(target: ObjectsTarget) -> Iterator[Path]:
    """Yield a folder for what is found: one that stays, or a hidden one beside the target, gone at the end."""
    with file_errors_as(target.folder):
        target.folder.mkdir(parents=True, exist_ok=True)
    if target.kept is not None:
        yield target.kept
        return
    with contextlib.ExitStack() as leaving:
        with file_errors_as(target.folder):
            folder = leaving.enter_context(draft_folder(target.folder))
        yield folder / "found"


class _Search(NamedTuple):
    """What is looked for, in which blocks, and where those lie that are found."""

    chosen: ClassProbability
    options: ObjectOptions
    spacing: VoxelSpacing
    grid: BlockGrid
    found: BlockCache

    def blocks(self) -> Iterator[ObjectBlock]:
        return plan_blocks(self.grid, self.options, self.spacing)

    def find(self, block: ObjectBlock, values: ScaledProbability) -> BlockRegions:
        """Return the parts of a block, kept for another time."""
        labels, parts = find_block_regions(values, block.low, block.window, self.options, self.spacing)
        self.found.write(block, labels, parts)
        return parts

    def recall(self, block: ObjectBlock) -> BlockRegions:
        """Return the parts of a block that was found before; where they are damaged, they are found anew."""
        return self.found.read(block) or self.find(block, self.look_at(block))

    def look_at(self, block: ObjectBlock) -> ScaledProbability:
        return self.chosen.look_at(block.time, *block.read)


def _search(
    probability: Stack,
    class_names: Sequence[str],
    options: ObjectOptions,
    target: ObjectsTarget,
    folder: Path,
    labels: bool = False,
    block: tuple[int, int, int] | None = None,
    has_padding: bool = False,
) -> _Search:
    chosen = probability_of_class(probability, class_names, options, labels, has_padding)
    grid = block_grid_of(chosen.shape, options, block)
    place = {"channel": chosen.channel, "value": chosen.value, "voxel size": probability.space.voxel_size}
    place |= {"padding": 0} if has_padding else {}
    ours = versions().get("napari-skipseg", "")  # other packages may differ between machines that share a search
    made_of = {"recipe": target.recipe, "objects": asdict(options), "class": place, "version": ours}
    return _Search(chosen, options, spacing_of(probability, options), grid, BlockCache(folder, grid, made_of))


def _iter_numbers(search: _Search) -> Generator[Progress, None, tuple[list[int], NDArray[np.uint32]]]:
    """Yield while parts are found; return where the labels of each block begin among those of all, and in the end how
    many there are; and the number of the object that each belongs to."""
    gathered = RegionGraphMerger(search.options, search.spacing, search.chosen.stack.name)
    blocks = list(search.blocks())
    known = search.found.numbers()
    done = len(known)
    yield BlockSearch(done, len(blocks), FINDING)
    for block, parts in _iter_found(search, blocks, known, gathered):
        gathered.add(parts, block.window)
        del parts
        done += block.number not in known
        yield BlockSearch(done, len(blocks), FINDING)
    return gathered.firsts, gathered.settle(blocks[0].window.whole)


def _iter_found(
    search: _Search,
    blocks: Sequence[ObjectBlock],
    known: Collection[int] = (),
    gathered: RegionGraphMerger | None = None,
) -> Generator[tuple[ObjectBlock, BlockRegions], None, None]:
    """Yield each block and its parts, in order; meanwhile others are computed, and the next is read.

    known: numbers of those that were found before. What is gathered is joined when no block is under way, so that both
    never need their memory at once.
    """
    waiting: deque[tuple[ObjectBlock, Future[BlockRegions]]] = deque()
    at_once = blocks_at_once()
    pool = ThreadPoolExecutor(at_once)
    try:
        for block in blocks:
            if gathered is not None and gathered.is_due:
                while waiting:
                    yield _first_of(waiting)
                gathered.join()
            if block.number in known:
                waiting.append((block, pool.submit(search.recall, block)))
            else:
                waiting.append((block, pool.submit(search.find, block, search.look_at(block))))
            if len(waiting) > at_once:
                yield _first_of(waiting)
        while waiting:
            yield _first_of(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _first_of(waiting: deque[tuple[ObjectBlock, Future[BlockRegions]]]) -> tuple[ObjectBlock, BlockRegions]:
    block, parts = waiting.popleft()
    return block, parts.result()


def _iter_write(
    objects: RelabelledArray, stack: Stack, options: ObjectOptions, target: ObjectsTarget
) -> Generator[Progress, None, None]:
    axes = "".join(axis for axis in "TZYX" if axis in stack.space.axes)
    array = WithoutAxes(objects, axes)
    recipe = {**target.recipe, "layer": "labels", "objects": asdict(options)}
    space = stack.space.with_axes(axes)
    if target.form == "ome-zarr":
        chunks = tuple({"T": 1, **dict(zip("ZYX", CHUNK, strict=True))}[axis] for axis in axes)
        layout = Layout(array.shape, space, "uint32", chunks=chunks, kind="labels", description=recipe)
        yield from iter_write_ome_zarr(target.file, array, layout)
        return
    yield Progress(0, 1, f"writing {target.file.name}")
    write_ome_tiff(target.file, array, space, description=recipe)
    yield Progress(1, 1, f"writing {target.file.name}")
