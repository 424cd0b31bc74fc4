"""A prediction on disk: OME-TIFF files with voxel size and recipe. Viewer, shell and Python write the same."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.inference.outputs import AttentionMap, Prediction, to_uint8

Depth = Literal["uint8", "float32"]


def save_prediction(
    prediction: Prediction,
    folder: str | os.PathLike[str],
    name: str,
    threshold: float = 0.5,
    dtype: Depth = "uint8",
) -> list[Path]:
    """Return the files written to `folder`: probability, binary, uncertainty and attention maps where there are any.

    They begin with `name`, the stack's. Files of those names are replaced; all appear when the last one is whole.

    dtype: "uint8" stores probability and attention as 0-255, "float32" as they are. Uncertainty is float32 either way:
    what Fiji shows under the pointer is the standard deviation itself, and small ones are not rounded away.

    Raises:
        FileError: the folder cannot be made, or a file not be written.
    """
    folder = Path(folder)
    with scratch_folder(folder) as draft:
        drafts = _write_all(prediction, draft, name, threshold, dtype)
        try:
            return [file.replace(folder / file.name) for file in drafts]
        except OSError as error:
            raise FileError(f"The results cannot be moved to '{folder}': {error.strerror}.") from error


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside `folder`, gone at the end; so is `folder`, where it was made here and stays empty.

    Raises:
        FileError: `folder` cannot be made, or nothing be written to it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".skipseg-", dir=folder))
        except OSError as error:
            reason = error.strerror or error
            raise FileError(f"Nothing can be written to '{folder}' ({reason}): choose another folder.") from error
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        for place in made:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def plain_name(file_name: str) -> str:
    """Return a file's name without its ending: "stack" for "stack.ome.tif" and "stack.ome.zarr"."""
    for ending in (".ome.tiff", ".ome.tif", ".ome.btf", ".ome.zarr"):
        if file_name.lower().endswith(ending):
            return file_name[: -len(ending)]
    return Path(file_name).stem


def _write_all(prediction: Prediction, folder: Path, name: str, threshold: float, dtype: Depth) -> list[Path]:
    recipe = json.loads(json.dumps(prediction.recipe | {"threshold": threshold}))
    space = prediction.axes.replace("C", "")
    placed = (prediction.voxel_size, prediction.unit, prediction.origin)
    classes = prediction.class_names if "C" in prediction.axes else None
    files = [folder / f"{name}_probability.tif", folder / f"{name}_binary.tif"]
    probability = _Scaled(prediction.probability, dtype)
    write_ome_tiff(files[0], probability, prediction.axes, *placed, channel_names=classes, description=recipe)
    labels = _Computed(prediction.binary(threshold))
    write_ome_tiff(files[1], labels, space, *placed, description=recipe | {"layer": "labels"})
    if prediction.uncertainty is not None:
        files.append(folder / f"{name}_uncertainty.tif")
        deviation = _Scaled(prediction.uncertainty, "float32")
        write_ome_tiff(files[-1], deviation, prediction.axes, *placed, channel_names=classes, description=recipe)
    for attention in prediction.attentions:
        files.append(folder / f"{name}_attention_{attention.level}.tif")
        _write_attention(files[-1], prediction, attention, dtype, recipe)
    return files


def _write_attention(
    path: Path, prediction: Prediction, attention: AttentionMap, dtype: Depth, recipe: dict[str, Any]
) -> None:
    """Write a map with the voxel size and origin at which it lies exactly over the stack."""
    axes = prediction.axes.replace("C", "")
    stride = dict(zip(axes, attention.stride, strict=True))
    offset = dict(zip(axes, attention.offset, strict=True))
    sizes = dict(zip("ZYX", prediction.voxel_size, strict=True))
    origin = dict(zip("ZYX", prediction.origin, strict=True))
    z, y, x = (sizes[axis] * stride.get(axis, 1) for axis in "ZYX")
    oz, oy, ox = (origin[axis] + sizes[axis] * offset.get(axis, 0.0) for axis in "ZYX")
    data = _Scaled(attention.data, dtype)
    write_ome_tiff(path, data, axes, (z, y, x), prediction.unit, (oz, oy, ox), description=recipe)


class _Scaled:
    """A view of probabilities as 0-255, computed where it is read."""

    def __init__(self, data: Any, dtype: Depth) -> None:
        self._data, self.shape, self.dtype = data, data.shape, np.dtype(dtype)

    def __getitem__(self, key: Any) -> Any:
        values = self._data[key]
        return to_uint8(values) if self.dtype == np.uint8 else values


class _Computed:
    """A lazy array whose parts are computed when they are read."""

    def __init__(self, data: Any) -> None:
        self._data, self.shape, self.dtype = data, data.shape, data.dtype

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self._data[key])
