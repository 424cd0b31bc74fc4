"""Results on disk: OME-TIFF or OME-Zarr with voxel size and recipe. Viewer, shell and Python write the same."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_skipseg.durable import draft_folder, missing_folders, nearest_place, remove_empty, replace, sync_folder
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images.faults import file_errors_as, replacing
from napari_skipseg.images.files import read_recipe, write_ome_tiff
from napari_skipseg.images.formats import FORMAT_ENDINGS, USUAL_DEPTH, Depth, Format
from napari_skipseg.images.space import AXES, Space
from napari_skipseg.images.stack import ArrayLike, LazyArray
from napari_skipseg.images.zarr.layout import OURS, Layout
from napari_skipseg.images.zarr.metadata import is_node, read_node
from napari_skipseg.inference.options import threshold_fields
from napari_skipseg.inference.prediction import Binary, Prediction, QuantizedArray, Threshold
from napari_skipseg.inference.recipes.recipe import RECIPE_FILE, dict_to_json

_LONGEST_NAME = 255
"""Most letters of a file name on Windows, and most bytes on other systems."""


@dataclass(frozen=True)
class SavedArray:
    """One file to write: `<stack's name>_<name>`, with its stored values and their space."""

    name: str
    data: ArrayLike
    space: Space
    class_names: tuple[str, ...] | None
    recipe: Mapping[str, Any]


def save_prediction(
    prediction: Prediction,
    folder: str | os.PathLike[str],
    name: str,
    threshold: Threshold | None = None,
    dtype: Depth = USUAL_DEPTH,
    form: Format = "tiff",
    results: Collection[str] | None = None,
) -> list[Path]:
    """Return the files written to `folder`: probability, binary, uncertainty and attention maps if there are any.

    They begin with `name`, the stack's. Files of those names are replaced; TIFF files all appear when the last one is
    whole, OME-Zarr stores one by one. The recipe lies beside them as `<name>_recipe.json`.

    form: "tiff" (OME-TIFF) or "ome-zarr". results: which are written, such as {"probability", "attention_1"}; None =
    all that there are. threshold: of the binary result; None = the prediction's.

    dtype: "uint8" stores probability and attention as 0-255, "float32" as they are. Uncertainty is float32 either way:
    what Fiji shows under the pointer is the standard deviation itself, and small ones are not rounded away.

    Raises:
        FileError: the folder cannot be made, or a file not be written.
    """
    folder = Path(folder)
    with scratch_folder(folder) as draft:
        files: list[Path] = []
        stores: list[Path] = []
        chosen = prediction.thresholds_at(threshold)
        recipe = _recipe_of(prediction, chosen, dtype, form)
        for saved in _arrays_of(prediction, chosen, dtype, recipe):
            if results is not None and saved.name not in results:
                continue
            if form == "ome-zarr":
                stores.append(folder / f"{name}_{saved.name}{FORMAT_ENDINGS[form]}")
                write_zarr(stores[-1], saved)
                continue
            files.append(draft / f"{name}_{saved.name}.tif")
            write_tiff(files[-1], saved)
        sidecar = draft / f"{name}_{RECIPE_FILE}"
        write_text(sidecar, dict_to_json(recipe))
        with file_errors_as(folder):
            for file in [*files, sidecar]:
                with file_errors_as(folder / file.name):
                    replace(file, folder / file.name)
            sync_folder(folder)
        return [*(folder / file.name for file in files), *stores]


def write_tiff(path: Path, saved: SavedArray, synced: bool = True) -> None:
    """Write one result as OME-TIFF. synced: it is on disk when this returns.

    Raises:
        FileError: it cannot be written.
    """
    inputs = saved.recipe.get("inputs")
    write_ome_tiff(
        path,
        saved.data,
        saved.space,
        channel_names=saved.class_names,
        description=saved.recipe,
        synced=synced,
        title=str(inputs[0].get("title", "")) if inputs else "",
    )


def write_zarr(path: Path, saved: SavedArray) -> None:
    """Write one result as OME-Zarr; an existing store of ours is replaced.

    Raises:
        FileError: it cannot be written, or there is something different.
    """
    from napari_skipseg.images.zarr.writer import write_ome_zarr

    axes = saved.space.axes
    order = sorted(range(len(axes)), key=lambda place: AXES.index(axes[place]))
    layout = Layout(
        tuple(saved.data.shape[place] for place in order),
        saved.space.with_axes("".join(axes[place] for place in order)),
        str(saved.data.dtype),
        kind="labels" if saved.name == "binary" else "image",
        channel_names=saved.class_names,
        description=saved.recipe,
    )
    write_ome_zarr(path, _Reordered(saved.data, tuple(order)), layout)


class _Reordered(LazyArray):
    """An array whose axis i is axis order[i] of the one behind it."""

    def __init__(self, data: ArrayLike, order: tuple[int, ...]) -> None:
        self._data, self._order = data, order
        self.shape, self.dtype = tuple(data.shape[place] for place in order), data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        behind = tuple(index[self._order.index(axis)] for axis in range(len(index)))
        values = np.asarray(self._data[behind])
        kept = [axis for axis in self._order if isinstance(behind[axis], slice)]
        return values.transpose(np.argsort(np.argsort(kept)))


def write_text(path: Path, text: str) -> None:
    """Write a small file.

    Raises:
        FileError: it cannot be written.
    """
    with replacing(path) as handle:
        handle.write(text.encode())


def check_length(folder: Path, name: str, endings: Iterable[str]) -> None:
    """Check that `name` with each of the `endings` is short enough for `folder`.

    Raises:
        FileError: it is too long; the message has the number of letters.
    """
    longest = max(endings, key=len)
    limit = os.pathconf(nearest_place(folder), "PC_NAME_MAX") if hasattr(os, "pathconf") else _LONGEST_NAME
    shorter = name
    while shorter and len(os.fsencode(shorter + longest)) > limit:
        shorter = shorter[:-1]
    if (letters := len(name) - len(shorter)) > 0:
        raise FileError(
            f"The name of '{name[:40]}…' is too long by {letters} letter{'s' * (letters > 1)}: results have it too "
            f"and end with {longest}, and a name here has at most {limit} bytes. Give the image a shorter name."
        )


def check_replaceable(targets: Iterable[Path], form: Format) -> None:
    """Check that no result would replace a file without a recipe of ours.

    Raises:
        FileError: one would, or an existing file cannot be read.
    """
    for target in targets:
        if target.exists() and not _is_ours(target, form):
            raise FileError(f"'{target}' is there already and not ours: choose a different folder, or remove it.")


def _is_ours(target: Path, form: Format) -> bool:
    if target.suffix == ".json":
        return _is_sidecar(target)
    if form == "ome-zarr":
        return is_node(target) and OURS in read_node(target).attributes
    try:
        return target.is_file() and read_recipe(target) is not None
    except SkipsegError:
        return False


def _is_sidecar(target: Path) -> bool:
    """Return whether a file contains a recipe, or the times of a run."""
    try:
        content = json.loads(target.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and ("operation" in content or {"begin", "end", "machine"} <= content.keys())


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside `folder`, removed at the end; so is `folder` if it was made here and stays empty.

    Raises:
        FileError: `folder` cannot be made, or nothing be written to it.
    """
    made = missing_folders(folder)
    try:
        with contextlib.ExitStack() as leaving:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                scratch = leaving.enter_context(draft_folder(folder))
            except OSError as error:
                reason = error.strerror or error
                raise FileError(
                    f"Nothing can be written to '{folder}' ({reason}): choose a different folder."
                ) from error
            yield scratch
    finally:
        remove_empty(made)


def plain_name(file_name: str) -> str:
    """Return a file's name without its ending: "stack" for "stack.ome.tif" and "stack.ome.zarr"."""
    for ending in (".ome.tiff", ".ome.tif", ".ome.btf", ".ome.zarr"):
        if file_name.lower().endswith(ending):
            return file_name[: -len(ending)]
    return Path(file_name).stem


def _recipe_of(prediction: Prediction, thresholds: tuple[float, ...], dtype: Depth, form: Format) -> dict[str, Any]:
    """Return the recipe of a prediction as it is saved: its thresholds may differ from those that were asked for."""
    by_class = dict(zip(prediction.class_names, thresholds, strict=True))
    options = {**prediction.recipe.get("options", {}), **threshold_fields(by_class)}
    recipe: dict[str, Any] = json.loads(
        json.dumps(prediction.recipe | {"options": options, "depth": dtype, "form": form})
    )
    return recipe


def _arrays_of(
    prediction: Prediction, thresholds: tuple[float, ...], dtype: Depth, recipe: dict[str, Any]
) -> Iterator[SavedArray]:
    space, unclassed = prediction.space, prediction.space.without("C")
    classes = prediction.class_names if "C" in space.axes else None
    yield SavedArray("probability", QuantizedArray(prediction.probability, dtype), space, classes, recipe)
    labels = Binary(prediction.probability, thresholds, classes is not None)
    yield SavedArray("binary", labels, unclassed, None, recipe | {"layer": "labels"})
    if prediction.uncertainty is not None:
        deviation = QuantizedArray(prediction.uncertainty, "float32")
        yield SavedArray("uncertainty", deviation, space, classes, recipe)
    for attention in prediction.attentions:
        begin = attention.begin or (0,) * len(unclassed.axes)
        place = unclassed.shifted(dict(zip(unclassed.axes, begin, strict=True)))
        place = place.scaled(dict(zip(unclassed.axes, attention.stride, strict=True)))
        yield SavedArray(f"attention_{attention.level}", QuantizedArray(attention.data, dtype), place, None, recipe)
