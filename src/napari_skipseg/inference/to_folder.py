"""A stack segmented into files of a folder, in little memory, and gone on with after a kill where it stopped."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from napari_skipseg.devices import versions
from napari_skipseg.errors import FileError
from napari_skipseg.images.fingerprint import check_unchanged, fingerprint
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import Pinned, make_backend
from napari_skipseg.inference.grid import Unit
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Depth, Focus
from napari_skipseg.inference.passes import BackendMaker
from napari_skipseg.inference.predict import Run, iter_fill, iter_prepare
from napari_skipseg.inference.results import in_order, names_of
from napari_skipseg.inference.run_folder import RunFolder
from napari_skipseg.inference.saving import ENDINGS, Format, SavedArray, check_replaceable, write_tiff
from napari_skipseg.inference.stores import ZarrStore, tell_changes
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress

CHANGING = ("backend", "precision", "notes")
"""What of a recipe a fault in the run may change."""


@dataclass(frozen=True)
class FolderTarget:
    """Where results go and how: `<name>_probability.tif` and so on in `folder`; restart throws away a run begun."""

    folder: Path
    name: str
    depth: Depth = "uint8"
    form: Format = "tiff"
    restart: bool = False

    def file(self, result: str) -> Path:
        """Return where a result of this name goes."""
        return self.folder / f"{self.name}_{result}{ENDINGS[self.form]}"


def iter_segment(
    stack: Stack,
    model: Model,
    options: SegmentOptions,
    target: FolderTarget,
    backend_maker: BackendMaker = make_backend,
) -> Generator[Progress, Focus | None, list[Path]]:
    """Yield as segmentation goes on; return the files written.

    Tiles go to OME-Zarr stores in `<name>.unfinished` beside the results. What was stopped, killed or failed after its
    first tile stays there, and the same call goes on with it, with the tile, backend and precision that it began with;
    its results are then the same bytes. A stack that lies in no file is always begun anew, and nothing of it stays.

    Raises:
        SkipsegError: the stack does not fit the model, the image changes while it is read, another run lies there, or
            the folder cannot be written.
    """
    check_replaceable((target.file(name) for name in names_of(model, options)), target.form)
    before = fingerprint(Path(stack.file)) if stack.file else None
    key = _key(stack, model, options, target, before)
    with RunFolder(target.folder, target.name, key, target.restart, lasting=before is not None) as place:
        if not place.is_whole:
            run, store = yield from _prepare(stack, model, options, target, place, backend_maker)
            done = [number for number in place.done() if number < len(run.grid)]
            done = [number for number in done if store.holds(run.grid, run.grid.unit(number))]
            yield from iter_fill(run, store, done, partial(_note, run, place))
            _note_changes(run, place)
            _check_input(stack, place, before)
            place.finish((yield from _finish(run, store, place, target)))
        check_replaceable((target.folder / file.name for file in place.waiting()), target.form)
        for file in place.waiting():
            if place.changes and target.form == "ome-zarr":
                tell_changes(file, place.changes)
        return place.move_results()


def _prepare(
    stack: Stack,
    model: Model,
    options: SegmentOptions,
    target: FolderTarget,
    place: RunFolder,
    maker: BackendMaker,
) -> Generator[Progress, Focus | None, tuple[Run, ZarrStore]]:
    """Yield while things are prepared, as they were where the run goes on; return it with what it writes to."""
    begun = place.recipe
    if begun is not None and not options.samples and maker is make_backend:
        now = begun | place.changes
        maker = partial(make_backend, pinned=Pinned(now["backend"], now["precision"]))
    run = yield from iter_prepare(stack, model, options, maker, pinned=begun, with_binary=True)
    if begun is None:
        place.begin(run.recipe)
    run.recipe.update((place.recipe or {}) | place.changes)
    facts = (place.recipe or {}) | {"threshold": options.threshold}
    names = model.description.class_names
    return run, ZarrStore(run.results, place.path / target.name, run.stack, facts, target.depth, names)


def _note(run: Run, place: RunFolder, unit: Unit) -> None:
    place.note(unit.number)
    _note_changes(run, place)


def _note_changes(run: Run, place: RunFolder) -> None:
    """Write down which backend took over, so that the results tell it and a run that goes on takes that one."""
    if run.recipe.get("notes", ()):
        known = place.changes.get("notes", [])
        notes = [*known, *(note for note in run.recipe["notes"] if note not in known)]
        changes = {name: run.recipe[name] for name in CHANGING} | {"notes": notes}
        if changes != place.changes:
            place.change(changes)


def _check_input(stack: Stack, place: RunFolder, before: dict[str, Any] | None) -> None:
    """Raise where the image is not what it was; of one that changed nothing is kept, as nothing of it is sure."""
    if before is None:
        return
    try:
        check_unchanged(Path(stack.file), before)
    except FileError:
        if Path(stack.file).exists():
            place.discard()
        raise


def _finish(
    run: Run, store: ZarrStore, place: RunFolder, target: FolderTarget
) -> Generator[Progress, Focus | None, list[Path]]:
    """Yield while what the stores hold becomes the files asked for; return these, still in the run's folder."""
    files = []
    if target.form == "ome-zarr":
        for result in in_order(run.results):
            yield from store.writers[result.name].iter_pyramid()
            files.append(store.writers[result.name].path)
        return files
    recipe = (place.recipe or {}) | place.changes | {"threshold": run.options.threshold}
    for saved in _arrays_of(run, store, recipe):
        file = place.path / target.file(saved.name).name
        yield Progress(len(run.grid), len(run.grid), f"writing {file.name}")
        write_tiff(file, saved)
        files.append(file)
    return files


def _arrays_of(run: Run, store: ZarrStore, recipe: dict[str, Any]) -> Iterator[SavedArray]:
    for result in in_order(run.results):
        size, origin = result.placed(run.stack)
        classes = run.model.description.class_names if "C" in result.axes else None
        told = recipe | {"layer": "labels"} if result.is_labels else recipe
        data = store.plane_view(result.name)
        yield SavedArray(result.name, data, result.axes, size, run.stack.unit, origin, classes, told)


def _key(
    stack: Stack, model: Model, options: SegmentOptions, target: FolderTarget, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Return all that results depend on, but what is settled by the run itself; the names are told to the user."""
    packages = {f"version of {name}": version for name, version in versions().items()}
    return {
        "input": before,
        "axes": (stack.axes, stack.shape),
        "voxel size": (*map(float, stack.voxel_size), stack.unit, *map(float, stack.origin)),
        "model": (model.description.name, model.description.weights_sha256),
        **asdict(options),
        "format": target.form,
        "dtype": target.depth,
        **packages,
    }
