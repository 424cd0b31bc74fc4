"""A large image in blocks: several processes fill units of its grid, each its own chunks of the same stores, and then
parts of each level of the pyramids.

The file is begun and ended like one that is stopped and continued: the choices lie in its unfinished run, and the
process that ends it finds all units done. So the result has the same bytes as that of one process.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_skipseg.batch.engine import DeviceTurn, FileJob
from napari_skipseg.batch.inputs import BatchInput, read_input
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.errors import DeviceError, SkipsegError
from napari_skipseg.images.zarr.metadata import is_zarr
from napari_skipseg.inference.prediction import TileWritten
from napari_skipseg.progress import Progress, run_to_end

if TYPE_CHECKING:
    from napari_skipseg.images.zarr.pyramid import PyramidRegion
    from napari_skipseg.images.zarr.writer import OmeZarrWriter
    from napari_skipseg.inference.predict import Run
    from napari_skipseg.inference.stores import Store, ZarrStore

LARGE_FILE = 2 * 2**30
"""Voxels from which on an OME-Zarr is cut into blocks."""
MOST_UNITS = 64
"""Units of a block at most: so many are lost if a worker dies."""
A_WORKER = 4
"""Blocks for each worker at least, so that all workers end at about the same time."""


class BlockParts(NamedTuple):
    """The parts of a file that workers share. units: of its grid. levels: the number of parts of each coarser level of
    all pyramids together, the finest level first, as long as a level has several; one process makes the others."""

    units: int
    levels: list[int]


def is_large(settings: BatchSettings, entry: BatchInput) -> bool:
    """Return whether an image is segmented in blocks; False if it cannot be read, so that it fails where it is read.

    With a box or a mask it is not: the files are cut out of the blocks, which one process does.
    """
    if settings.request.options.box or settings.mask:
        return False
    try:
        if not is_zarr(Path(entry.file)):
            return False
        return math.prod(read_input(settings, entry).shape) >= LARGE_FILE
    except (SkipsegError, ValueError, OSError, MemoryError):
        return False


def cut(units: int, workers: int) -> Iterator[range]:
    """Yield ranges of units in order, enough of them to keep so many workers busy."""
    length = max(1, min(MOST_UNITS, -(-units // (A_WORKER * max(1, workers)))))
    for start in range(0, units, length):
        yield range(start, min(start + length, units))


def count_parts(job: FileJob) -> BlockParts:
    """Return how many parts of a begun file workers can share.

    Raises:
        SkipsegError: it cannot be continued.
    """
    turn = job.engine.turn()
    try:
        run = _prepare(job, turn)
        levels: list[int] = []
        if job.settings.request.form == "ome-zarr":
            store = _open_store(job, run)
            most = max(len(writer.arrays) for writer in store.writers.values())
            counts = (len(_parts_of(store, level)) for level in range(1, most))
            levels = list(takewhile(lambda count: count > 1, counts))
        return BlockParts(len(run.grid), levels)
    finally:
        turn.end()


def iter_block(job: FileJob, units: range) -> Generator[Progress, None, None]:
    """Compute those `units` of a begun file that are not there yet; yield after each.

    Raises:
        SkipsegError: the file cannot be continued, nothing can be written, or the backend fails. No different backend
            takes over, because the rest of the file is computed with this one.
    """
    from napari_skipseg.inference.predict import iter_fill

    turn = job.engine.turn()
    try:
        run = _prepare(job, turn)
        store = _open_store(job, run)
        left = {number for number in units if not store.is_sound(run.grid, run.grid.unit(number))}
        others = (number for number in range(len(run.grid)) if number not in left)
        done = len(units) - len(left)
        for progress in iter_fill(run, _OneBackendStore(store, run), others):
            done += isinstance(progress, TileWritten)
            yield Progress(done, len(units), progress.message)
        store.sync()  # before the units are recorded as done
    finally:
        turn.end()


def iter_level(job: FileJob, level: int, parts: range) -> Generator[Progress, None, None]:
    """Write `parts` of a level of the pyramids, whose next finer level is complete; yield after each.

    Raises:
        SkipsegError: the file cannot be continued, or nothing can be written.
    """
    turn = job.engine.turn()
    try:
        store = _open_store(job, _prepare(job, turn))
    finally:
        turn.end()
    for done, (writer, region) in enumerate(_parts_of(store, level)[parts.start : parts.stop], start=1):
        writer.write_coarser(level, region)
        yield Progress(done, len(parts))
    store.sync()


def _parts_of(store: ZarrStore, level: int) -> list[tuple[OmeZarrWriter, PyramidRegion]]:
    """Return the parts of a level of all stores that have it."""
    writers = (writer for writer in store.writers.values() if level < len(writer.arrays))
    return [(writer, region) for writer in writers for region in writer.parts(level)]


def note_block(entry: BatchInput, place: RunPlace, units: range) -> None:
    """Record that the `units` of a begun file are done.

    Raises:
        FileError: nothing can be written.
    """
    from napari_skipseg.inference.run_folder import note_tiles

    note_tiles(place.unfinished(entry), units)


class _OneBackendStore:
    """A store that refuses tiles once a different backend has taken over."""

    def __init__(self, store: Store, run: Run) -> None:
        self._store, self._run = store, run

    def write(self, piece: Any) -> None:
        if notes := self._run.passes.notes:
            raise DeviceError(f"A block could not be computed like the rest of its file: {notes[-1]}")
        self._store.write(piece)


def _prepare(job: FileJob, turn: DeviceTurn) -> Run:
    """Return the run of a begun file, with all that was chosen then."""
    from napari_skipseg.inference.backends.choose import BackendChoice
    from napari_skipseg.inference.predict import iter_prepare
    from napari_skipseg.inference.run_folder import recipe_of_run
    from napari_skipseg.inference.run_spec import RunSpec

    options, recipe = job.settings.request.options, recipe_of_run(job.unfinished)
    maker = turn if options.samples else turn.pinned(BackendChoice(recipe["backend"], recipe["precision"]))
    stack = read_input(job.settings, job.entry)
    spec = RunSpec(stack, job.engine.model, options, backend_maker=maker, pinned=recipe, with_binary=True)
    return run_to_end(iter_prepare(spec))


def _open_store(job: FileJob, run: Run) -> ZarrStore:
    """Return the stores of a begun file, to which other processes write too."""
    from napari_skipseg.images.zarr.writer import OmeZarrWriter
    from napari_skipseg.inference.run_folder import recipe_of_run
    from napari_skipseg.inference.stores import ZarrStore

    return ZarrStore(
        run.results,
        job.unfinished / job.entry.name,
        run.stack,
        recipe_of_run(job.unfinished),
        job.settings.request.depth,
        run.model.description.class_names,
        OmeZarrWriter,
    )
