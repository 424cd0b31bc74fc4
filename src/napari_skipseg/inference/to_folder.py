"""A stack segmented into files of a folder, in little memory, and gone on with after a kill where it stopped."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from napari_skipseg.devices import versions
from napari_skipseg.images.fingerprint import check_unchanged, fingerprint
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import Pinned, make_backend
from napari_skipseg.inference.grid import Focus
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Depth
from napari_skipseg.inference.passes import BackendMaker
from napari_skipseg.inference.predict import Run, iter_fill, iter_prepare
from napari_skipseg.inference.results import in_order
from napari_skipseg.inference.run_folder import RunFolder
from napari_skipseg.inference.saving import ENDINGS, Format, SavedArray, check_replaceable, write_tiff
from napari_skipseg.inference.stores import ZarrStore
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress


@dataclass(frozen=True)
class FolderTarget:
    """Where results go and how: `<name>_probability.tif` and so on in `folder`; restart throws away a run begun."""

    folder: Path
    name: str
    depth: Depth = "uint8"
    form: Format = "tiff"
    restart: bool = False


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
    its results are then the same bytes. A stack that lies in no file is begun anew.

    Raises:
        SkipsegError: the stack does not fit the model, the image changes while it is read, another run lies there, or
            the folder cannot be written.
    """
    check_replaceable(target.folder, target.name, ["probability", "binary"], target.form)
    before = fingerprint(Path(stack.file)) if stack.file else None
    key = _key(stack, model, options, target, before)
    with RunFolder(target.folder, target.name, key, target.restart or before is None) as place:
        if place.is_whole:
            return place.move_results()
        maker = backend_maker
        if place.recipe is not None and not options.samples:
            maker = partial(make_backend, pinned=Pinned(place.recipe["backend"], place.recipe["precision"]))
        run = yield from iter_prepare(stack, model, options, maker, pinned=place.recipe, with_binary=True)
        if place.recipe is None:
            place.begin(run.recipe)
        facts = json.loads(json.dumps(run.recipe | {"threshold": options.threshold}))
        prefix = place.path / target.name
        store = ZarrStore(run.results, prefix, run.stack, facts, target.depth, model.description.class_names)
        yield from iter_fill(run, store, place.done(), lambda unit: place.note(unit.number))
        if before is not None:
            check_unchanged(Path(stack.file), before)
        files = yield from _finish(run, store, place, target)
        return place.move_results(files)


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
    for saved in _arrays_of(run, store):
        file = place.path / f"{target.name}_{saved.name}{ENDINGS[target.form]}"
        yield Progress(len(run.grid), len(run.grid), f"writing {file.name}")
        write_tiff(file, saved)
        files.append(file)
    return files


def _arrays_of(run: Run, store: ZarrStore) -> Iterator[SavedArray]:
    recipe: dict[str, Any] = json.loads(json.dumps(run.recipe | {"threshold": run.options.threshold}))
    for result in in_order(run.results):
        size, origin = result.placed(run.stack)
        classes = run.model.description.class_names if "C" in result.axes else None
        told = recipe | {"layer": "labels"} if result.is_labels else recipe
        data = store.plane_view(result.name)
        yield SavedArray(result.name, data, result.axes, size, run.stack.unit, origin, classes, told)


def _key(
    stack: Stack, model: Model, options: SegmentOptions, target: FolderTarget, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Return all that results depend on, but what is settled by the run itself."""
    return {
        "input": before,
        "axes": (stack.axes, stack.shape),
        "voxel size": (stack.voxel_size, stack.unit, stack.origin),
        "model": (model.description.name, model.description.weights_sha256),
        "options": asdict(options),
        "format": (target.form, target.depth),
        "versions": versions(),
    }
