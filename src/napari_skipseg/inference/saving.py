"""A prediction on disk: OME-TIFF files with voxel size and recipe. Viewer, shell and Python write the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.inference.outputs import AttentionMap, Prediction, to_uint8

Depth = Literal["uint8", "float32"]


def save_prediction(
    prediction: Prediction, folder: Path, name: str, threshold: float, dtype: Depth = "uint8"
) -> list[Path]:
    """Return the files written: probability, binary and attention maps of the stack called `name`, in `folder`.

    dtype: "uint8" stores probability and attention as 0-255, "float32" as they are. Each file is whole or not there.

    Raises:
        FileError: the folder cannot be made, or a file not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"The folder '{folder}' cannot be made: {error.strerror}. Choose another one.") from error
    recipe = prediction.recipe | {"threshold": threshold}
    several = len(prediction.class_names) > 1
    written = [folder / f"{name}_probability.tif", folder / f"{name}_binary.tif"]
    write_ome_tiff(
        written[0],
        _Scaled(prediction.probability, dtype),
        prediction.axes,
        prediction.voxel_size,
        prediction.unit,
        prediction.origin,
        prediction.class_names if several else None,
        json.loads(json.dumps(recipe)),
    )
    write_ome_tiff(
        written[1],
        _Computed(prediction.binary(threshold)),
        prediction.axes.replace("C", ""),
        prediction.voxel_size,
        prediction.unit,
        prediction.origin,
        description=json.loads(json.dumps(recipe)),
    )
    for attention in prediction.attentions:
        written.append(folder / f"{name}_attention_{attention.level}.tif")
        _write_attention(written[-1], prediction, attention, dtype, recipe)
    return written


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
    write_ome_tiff(
        path,
        _Scaled(attention.data, dtype),
        axes,
        (z, y, x),
        prediction.unit,
        (oz, oy, ox),
        description=json.loads(json.dumps(recipe)),
    )


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
