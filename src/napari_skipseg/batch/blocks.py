"""A large image in blocks: units of its grid that several processes fill, each its own chunks of the same stores, and
then parts of each level of the pyramids.

The file is begun, and ended, as one that is stopped and continued: what was settled lies in its unfinished run, and
who ends it finds every unit done. So what comes out is what one process gives, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_skipseg.batch.engine import DeviceTurn, NetworkRunner
from napari_skipseg.batch.inputs import UNFINISHED, BatchInput, read_input
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
"""Units of a block, at the most: what a worker loses that dies."""
A_WORKER = 4
"""Blocks for each worker, at the least, so that all end together."""


class BlockParts(NamedTuple):
    """What of a file is shared out. units: of its grid. levels: parts of each coarser level of all pyramids together,
    the finest level first, as long as one has several; one process makes the rest."""

    units: int
    levels: list[int]


def is_large(settings: BatchSettings, entry: BatchInput) -> bool:
    """Return whether an image is to be segmented in blocks; what cannot be read is not, and fails where it is read."""
    try:
        if not is_zarr(Path(entry.file)):
            return False
        return math.prod(read_input(settings, entry).shape) >= LARGE_FILE
    except (SkipsegError, ValueError, OSError, MemoryError):
        return False


def cut(units: int, workers: int) -> Iterator[range]:
    """Yield ranges of units, in their order, as many as keep so many workers busy."""
    length = max(1, min(MOST_UNITS, -(-units // (A_WORKER * max(1, workers)))))
    for start in range(0, units, length):
        yield range(start, min(start + length, units))


def count_parts(settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner) -> BlockParts:
    """Return how much there is to share out of a file that was begun.

    Raises:
        SkipsegError: it cannot be continued.
    """
    turn = engine.turn()
    try:
        run = _prepare(settings, entry, place, engine, turn)
        levels: list[int] = []
        if settings.request.form == "ome-zarr":
            store = _open_store(settings, entry, place, run)
            most = max(len(writer.arrays) for writer in store.writers.values())
            counts = (len(_parts_of(store, level)) for level in range(1, most))
            levels = list(takewhile(lambda count: count > 1, counts))
        return BlockParts(len(run.grid), levels)
    finally:
        turn.end()


def iter_block(
    settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner, units: range
) -> Generator[Progress, None, None]:
    """Yield after each of the `units` of a file that was begun; those that are there already are left alone.

    Raises:
        SkipsegError: the file cannot be continued, nothing can be written, or what computes fails: no other takes
            over, as the rest of the file would be another's.
    """
    from napari_skipseg.inference.predict import iter_fill

    turn = engine.turn()
    try:
        run = _prepare(settings, entry, place, engine, turn)
        store = _open_store(settings, entry, place, run)
        left = {number for number in units if not store.is_sound(run.grid, run.grid.unit(number))}
        others = (number for number in range(len(run.grid)) if number not in left)
        done = len(units) - len(left)
        for progress in iter_fill(run, _Strict(store, run), others):
            done += isinstance(progress, TileWritten)
            yield Progress(done, len(units), progress.message)
        store.sync()  # before anybody notes that they are done
    finally:
        turn.end()


def iter_level(
    settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner, level: int, parts: range
) -> Generator[Progress, None, None]:
    """Yield after each of the `parts` of a level of the pyramids; all of the next finer one is there.

    Raises:
        SkipsegError: the file cannot be continued, or nothing can be written.
    """
    turn = engine.turn()
    try:
        store = _open_store(settings, entry, place, _prepare(settings, entry, place, engine, turn))
    finally:
        turn.end()
    for done, (writer, region) in enumerate(_parts_of(store, level)[parts.start : parts.stop], start=1):
        writer.write_coarser(level, region)
        yield Progress(done, len(parts))
    store.sync()


def _parts_of(store: ZarrStore, level: int) -> list[tuple[OmeZarrWriter, PyramidRegion]]:
    """Return the parts of a level of all stores that have one."""
    writers = (writer for writer in store.writers.values() if level < len(writer.arrays))
    return [(writer, region) for writer in writers for region in writer.parts(level)]


def note_block(entry: BatchInput, place: RunPlace, units: range) -> None:
    """Record that the `units` of a file that was begun are done.

    Raises:
        FileError: nothing can be written.
    """
    from napari_skipseg.inference.run_folder import note_tiles

    note_tiles(_begun(entry, place), units)


class _Strict:
    """A store that takes nothing of a backend that took over from another."""

    def __init__(self, store: Store, run: Run) -> None:
        self._store, self._run = store, run

    def write(self, piece: Any) -> None:
        from napari_skipseg.inference.backends.fallback import notes_of

        notes = [note for backend in self._run.passes.backends for note in notes_of(backend)]
        if notes:
            raise DeviceError(f"A block could not be computed as its file was begun: {notes[-1]}")
        self._store.write(piece)


def _begun(entry: BatchInput, place: RunPlace) -> Path:
    return place.results(entry) / f"{entry.name}{UNFINISHED}"


def _prepare(
    settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner, turn: DeviceTurn
) -> Run:
    """Return all that was settled when the file was begun."""
    from napari_skipseg.inference.backends.choose import BackendChoice
    from napari_skipseg.inference.predict import iter_prepare
    from napari_skipseg.inference.run_folder import recipe_of_run

    options, recipe = settings.request.options, recipe_of_run(_begun(entry, place))
    maker = turn if options.samples else turn.pinned(BackendChoice(recipe["backend"], recipe["precision"]))
    work = iter_prepare(read_input(settings, entry), engine.model, options, maker, pinned=recipe, with_binary=True)
    return run_to_end(work)


def _open_store(settings: BatchSettings, entry: BatchInput, place: RunPlace, run: Run) -> ZarrStore:
    """Return the stores that were made when the file was begun; others are writing to them."""
    from napari_skipseg.images.zarr.writer import OmeZarrWriter
    from napari_skipseg.inference.run_folder import recipe_of_run
    from napari_skipseg.inference.stores import ZarrStore

    begun, names = _begun(entry, place), run.model.description.class_names
    how = (settings.request.depth, names, OmeZarrWriter)
    return ZarrStore(run.results, begun / entry.name, run.stack, recipe_of_run(begun), *how)
