"""Segment a stack into files in a folder, in little memory, and resume after a kill."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from napari_skipseg.devices import versions
from napari_skipseg.durable import write_whole
from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.files import is_there
from napari_skipseg.images.formats import FORMAT_ENDINGS, Depth, Format
from napari_skipseg.images.identity import check_unchanged, fingerprint
from napari_skipseg.images.zarr.writer import create_ome_zarr
from napari_skipseg.inference.backends.choose import BackendChoice, require_backend
from napari_skipseg.inference.predict import Run, iter_fill, iter_prepare, name_input
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.inference.recipes.recipe import PINNED, RECIPE_FILE, TIMES_FILE, dict_to_json
from napari_skipseg.inference.run_folder import TILE_STORES, RunFolder, RunTimes
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.saving import SavedArray, check_length, check_replaceable, write_tiff, write_zarr
from napari_skipseg.inference.stores import ZarrStore, describe_conversion, in_stored_order, result_names
from napari_skipseg.inference.tiling import TileUnit
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress

CHANGING = ("backend", "precision", "notes")
"""Entries of a recipe that a failure of a backend during the run may change."""

CHECKED = 2**30
"""Voxels of the last units that are decoded before a run continues (about a second): a power cut can damage them."""
MENDED = 3
"""Tries to compute units with damaged chunks again; after that the disk is the cause."""


@dataclass(frozen=True)
class FolderTarget:
    """The files of the results: `<name>_probability.tif` and so on in `folder`. restart: discard an unfinished run.

    objects: options for finding objects in the probability afterwards, for the recipe.
    """

    folder: Path
    name: str
    depth: Depth = "uint8"
    form: Format = "tiff"
    restart: bool = False
    objects: ObjectOptions | None = None

    def file(self, result: str) -> Path:
        """Return the file of a result."""
        return self.folder / f"{self.name}_{result}{FORMAT_ENDINGS[self.form]}"

    def sidecar(self, name: str) -> Path:
        """Return the file of the recipe (`RECIPE_FILE`) or of the times (`TIMES_FILE`)."""
        return self.folder / f"{self.name}_{name}"


def iter_segment(spec: RunSpec, target: FolderTarget) -> Generator[Progress, Focus | None, list[Path]]:
    """Segment a stack; yield the progress, and return the files. The recipe and the times are written beside them.

    Tiles go to OME-Zarr stores in `<name>.unfinished` beside the results. A run that was stopped, killed or failed
    after its first tile stays there, and the same call continues it with the same tile, backend and precision; its
    results then have the same bytes. A stack or a mask in memory is always begun again, and no unfinished run of it is
    kept.

    Raises:
        SkipsegError: the stack does not fit the model or the mask, a file changes while it is read, there is a
            different run, or the folder cannot be written.
    """
    times = RunTimes("preparing")
    sidecars = [target.sidecar(name) for name in (RECIPE_FILE, TIMES_FILE)]
    options, mask = spec.options, spec.mask
    names = result_names(spec.model, options)
    results = [target.file(name) for name in names]
    is_cut = bool(options.box or options.mask or mask is not None)
    # for a TIFF too, until it is whole
    stores = [f"{TILE_STORES * is_cut}_{name}{FORMAT_ENDINGS['ome-zarr']}" for name in names]
    check_length(target.folder, target.name, [*stores, f"_{RECIPE_FILE}", f"_{TIMES_FILE}"])
    check_replaceable([*results, *sidecars], target.form)
    read = [spec.stack.file]
    if mask is not None or options.mask:
        read.append(options.mask if mask is None else mask.file)
    before = [fingerprint(file) if file else None for file in read]
    key = _key(spec, target, before)
    with RunFolder(target.folder, target.name, key, target.restart, lasting=None not in before) as place:
        if not place.is_whole:
            continues = place.recipe is not None
            run, store = yield from _prepare(spec, target, place)
            done = _done(run, store, place) if continues else []
            for number in done:
                store.leave_out(run.grid, run.grid.unit(number))
            times.enter("tiles")
            noting = Lock()
            yield from iter_fill(run, store, done, partial(_note, run, store, place, noting))
            times.enter("writing")
            _note_changes(run, place)
            for file, known in zip(read, before, strict=True):
                _check_input(file, place, known)
            files = yield from _iter_finish(run, store, place, target)
            place.finish([*files, *_write_sidecars(place, target, times.to_json(bool(done)))])
        return _move(place, target)


def _prepare(
    spec: RunSpec, target: FolderTarget, place: RunFolder
) -> Generator[Progress, Focus | None, tuple[Run, ZarrStore]]:
    """Prepare the run, with its earlier choices if it continues; return it and its store."""
    begun, maker = place.recipe, spec.backend_maker
    now = {**(begun or spec.pinned or {}), **place.changes}
    if "backend" in now and not spec.options.samples:
        maker = require_backend(maker, BackendChoice(now["backend"], now["precision"]))
    run = yield from iter_prepare(replace(spec, backend_maker=maker, pinned=now or None, with_binary=True))
    if begun is None:
        name_input(run, spec.stack)
        objects = None if target.objects is None else asdict(target.objects)
        place.begin(run.recipe | {"depth": target.depth, "form": target.form, "objects": objects})
    run.recipe.update(place.recipe_now)
    names = spec.model.description.class_names
    # of a box, the results are cut out of the stores, and must not have their names
    prefix = place.path / f"{target.name}{TILE_STORES if run.grid.box else ''}"
    is_result = target.form == "ome-zarr" and not run.grid.box  # of others no pyramid is made
    create = partial(create_ome_zarr, grows=is_result)
    return run, ZarrStore(run.results, prefix, run.stack, place.recipe or {}, target.depth, names, create)


def _note(run: Run, store: ZarrStore, place: RunFolder, noting: Lock, unit: TileUnit) -> None:
    with noting:  # several threads write units: files that one takes are noted before another unit of theirs can be
        _note_changes(run, place)  # first, so that the record of the run always names the backend of a noted unit
        place.note(unit.number, store.take_unsynced())


def _note_changes(run: Run, place: RunFolder) -> None:
    """Record which backend took over, for the results, and so that a run that continues uses that one."""
    if run.recipe.get("notes", ()):
        known = place.changes.get("notes", [])
        notes = [*known, *(note for note in run.recipe["notes"] if note not in known)]
        changes = {name: run.recipe[name] for name in CHANGING} | {"notes": notes}
        if changes != place.changes:
            place.change(changes)


def _check_input(file: str, place: RunFolder, before: dict[str, Any] | None) -> None:
    """Raise if image or mask has changed; discard the run then, because its tiles may be of either content."""
    if before is None:
        return
    try:
        check_unchanged(file, before)
    except FileError:
        if is_there(file):
            place.discard()
        raise


def _iter_finish(
    run: Run, store: ZarrStore, place: RunFolder, target: FolderTarget
) -> Generator[Progress, Focus | None, list[Path]]:
    """Convert the stores to the requested files, and compute units with damaged chunks again; return the files.

    They are still in the run's folder; stores are on disk."""
    for tries_left in reversed(range(MENDED)):
        try:
            return (yield from _finish(run, store, place, target))
        except FileError as error:
            if isinstance(error.__cause__, OSError) or not tries_left or not store.remove_damaged():
                raise
        done = {number for number in range(len(run.grid)) if store.is_complete(run.grid, run.grid.unit(number))}
        place.forget(set(range(len(run.grid))) - done)
        yield from iter_fill(run, store, done, partial(_note, run, store, place, Lock()))
    raise AssertionError("the last try returns or raises")


def _finish(
    run: Run, store: ZarrStore, place: RunFolder, target: FolderTarget
) -> Generator[Progress, Focus | None, list[Path]]:
    files = []
    if target.form == "ome-zarr" and not run.grid.box:
        for result in in_stored_order(run.results):
            yield from store.writers[result.name].iter_pyramid()
            files.append(store.writers[result.name].path)
        place.flush()
        store.sync()
        return files
    for saved in _arrays_of(run, store, place.recipe_now):
        file = place.path / target.file(saved.name).name
        yield Progress(len(run.grid), len(run.grid), f"writing {file.name}")
        if target.form == "ome-zarr":
            write_zarr(file, saved)
        else:
            write_tiff(file, saved, synced=False)
        files.append(file)
    return files


def _done(run: Run, store: ZarrStore, place: RunFolder) -> list[int]:
    """Return the numbers of the units that were done before.

    The last noted ones are decoded, because a power cut may have damaged them. Whole units without a note were written
    just before a kill, and are noted now.
    """
    grid, left, done = run.grid, CHECKED, []
    noted = [number for number in place.done() if number < len(grid)]
    for number in reversed(noted):
        unit = grid.unit(number)
        if store.is_sound(grid, unit) if left > 0 else store.is_complete(grid, unit):
            done.append(number)
        left -= len(run.results) * math.prod(part.stop - part.start for part in grid.region(unit))
    if len(done) < len(noted):
        place.forget(set(noted) - set(done))
    for number in sorted(set(range(len(grid))) - set(noted)):
        unit = grid.unit(number)
        if store.is_complete(grid, unit) and store.is_sound(grid, unit):
            place.note(number, store.files(grid, unit))
            done.append(number)
    return done


def _move(place: RunFolder, target: FolderTarget) -> list[Path]:
    """Move the results to their place, with the changes of the recipe, and return their paths."""
    check_replaceable((target.folder / file.name for file in place.waiting()), target.form)
    for file in place.waiting():
        if place.changes and file.is_dir():
            describe_conversion(file, place.changes)
    return [file for file in place.move_results() if file.suffix != ".json"]


def _write_sidecars(place: RunFolder, target: FolderTarget, times: str) -> list[Path]:
    """Write the recipe and the times into the run's folder, and return the files."""
    texts = {RECIPE_FILE: dict_to_json(place.recipe_now), TIMES_FILE: times}
    files = [place.path / target.sidecar(name).name for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        with file_errors_as(file):
            write_whole(file, text.encode())
    return files


def _arrays_of(run: Run, store: ZarrStore, recipe: dict[str, Any]) -> Iterator[SavedArray]:
    for result in in_stored_order(run.results):
        classes = run.model.description.class_names if "C" in result.axes else None
        own = recipe | {"layer": "labels"} if result.is_labels else recipe
        data = store.plane_view(result.name)
        yield SavedArray(result.name, data, result.space_in(run.stack), classes, own)


def _key(spec: RunSpec, target: FolderTarget, before: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Return all that the results depend on, except the run's own choices; users see the names in messages."""
    stack, model, pinned = spec.stack, spec.model, spec.pinned
    packages = {f"version of {name}": version for name, version in versions().items()}
    return {
        "input": before[0],
        **({"content of the mask": before[1]} if len(before) > 1 else {}),
        "axes": (stack.space.axes, stack.shape),
        "voxel size": (*stack.space.voxel_size, stack.space.unit, *stack.space.origin),
        "model": (model.description.name, model.description.weights_sha256),
        **asdict(spec.options),
        "format": target.form,
        "dtype": target.depth,
        "objects": None if target.objects is None else asdict(target.objects),
        "what is pinned": None if pinned is None else {name: pinned.get(name) for name in PINNED},
        **packages,
    }
