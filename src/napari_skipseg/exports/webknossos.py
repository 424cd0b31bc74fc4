"""Labels as a dataset for WEBKNOSSOS: a Zarr 3 array beside the JSON that describes it.

The library of WEBKNOSSOS cannot be installed beside this package (decision 0025), so zarr writes the array; a slow test
opens the dataset with that library in an environment of its own.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from itertools import product
from pathlib import Path

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.exports.labels import ObjectCounts, ObjectLabels
from napari_skipseg.exports.neuroglancer import check_has_size, offset_of
from napari_skipseg.images.zarr.layout import ZARR_UNITS
from napari_skipseg.progress import Progress

_LAYER = "segmentation"
_SHARD, _CHUNK = 256, 32
"""Sides of a shard, which is a file and a block, and of the chunks in it, which WEBKNOSSOS reads."""


def check_webknossos(labels: ObjectLabels) -> None:
    """Raise if the labels cannot be written.

    Raises:
        InputError: the voxel size is not known, or the image begins before 0, which no dataset can.
    """
    check_has_size(labels, "WEBKNOSSOS")
    if min(offset_of(labels.space)) < 0:
        raise InputError(
            f"'{labels.name}' begins before 0, where a dataset of WEBKNOSSOS begins: export it for Neuroglancer, which "
            "WEBKNOSSOS opens as a remote dataset."
        )


def iter_write_webknossos(labels: ObjectLabels, counts: ObjectCounts, folder: Path) -> Generator[Progress, None, None]:
    """Yield while the labels are written into `folder`, which must not exist.

    Raises:
        OSError: it cannot be written.
        InputError: as `check_webknossos`.
    """
    import zarr
    from zarr.codecs import BloscCodec

    check_webknossos(labels)
    largest = int(counts.labels[-1]) if len(counts) else 0
    dtype = "uint64" if largest > np.iinfo(np.uint32).max else "uint32"
    offset, size = offset_of(labels.space), labels.shape[::-1]
    ends = [start + length for start, length in zip(offset, size, strict=True)]
    zarr.create_group(folder, zarr_format=3)
    zarr.create_group(folder / _LAYER, zarr_format=3)
    array = zarr.create_array(
        folder / _LAYER / "1",
        shape=(1, *(-(-end // _SHARD) * _SHARD for end in ends)),
        shards=(1, _SHARD, _SHARD, _SHARD),
        chunks=(1, _CHUNK, _CHUNK, _CHUNK),
        dtype=dtype,
        compressors=[BloscCodec(cname="zstd", clevel=3)],
        fill_value=0,
        dimension_names=("c", "x", "y", "z"),
        zarr_format=3,
    )
    ranges = [range(start // _SHARD * _SHARD, end, _SHARD) for start, end in zip(offset, ends, strict=True)]
    for done, corner in enumerate(corners := list(product(*ranges))):
        yield Progress(done, len(corners), "writing for WEBKNOSSOS")
        low = [place - start for place, start in zip(corner, offset, strict=True)]
        values = labels.read(low[::-1], [place + _SHARD for place in low[::-1]])
        if values.any():
            x, y, z = (slice(place, place + _SHARD) for place in corner)
            array[0, x, y, z] = values.T.astype(dtype, copy=False)
    description = _description(labels, dtype, largest)
    (folder / "datasource-properties.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def _description(labels: ObjectLabels, dtype: str, largest: int) -> dict[str, object]:
    space, (width, height, depth) = labels.space, labels.shape[::-1]
    box = {"topLeft": list(offset_of(space)), "width": width, "height": height, "depth": depth}
    path = {"mag": [1, 1, 1], "path": f"./{_LAYER}/1", "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3}}
    layer = {
        "name": _LAYER,
        "category": "segmentation",
        "boundingBox": box,
        "dataFormat": "zarr3",
        "mags": [path],
        "largestSegmentId": largest,
        "numChannels": 1,
        "elementClass": dtype,
    }
    return {
        "id": {"name": labels.name, "team": ""},
        "scale": {"factor": list(space.voxel_size[::-1]), "unit": ZARR_UNITS[space.unit]},
        "dataLayers": [layer],
        "version": 1,
    }
