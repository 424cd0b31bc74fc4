"""Labels as a precomputed segmentation, which Neuroglancer and cloud-volume open."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.exports.labels import ObjectCounts, ObjectLabels
from napari_skipseg.exports.surfaces import ObjectMesh
from napari_skipseg.extras import import_extra
from napari_skipseg.images.space import Space
from napari_skipseg.progress import Progress

_CHUNK = (64, 64, 64)
"""Voxels of a chunk, Neuroglancer's usual size; the blocks that are written are whole chunks."""
_MESHES, _PROPERTIES = "mesh", "segment_properties"
_MOST_PROPERTIES = 1_000_000
"""Objects, at most, that are listed: Neuroglancer reads the whole list at once."""


def check_precomputed(labels: ObjectLabels) -> None:
    """Raise if the labels cannot be written.

    Raises:
        InputError: the voxel size is not known, or cloud-volume is not installed.
    """
    check_has_size(labels, "Neuroglancer")
    import_extra("cloudvolume", "neuroglancer", "Precomputed segmentations")


def check_has_size(labels: ObjectLabels, program: str) -> None:
    """Raise if the voxel size is not known.

    Raises:
        InputError: it is not.
    """
    if not labels.space.has_size:
        raise InputError(
            f"'{labels.name}' has no voxel size, which {program} needs: give it with --voxel-size Z Y X and --unit."
        )


def offset_of(space: Space) -> tuple[int, int, int]:
    """Return how many whole voxels (x, y, z) the first one lies from 0; the rest of its place is rounded."""
    x, y, z = (round(place / side) for place, side in zip(space.origin[::-1], space.voxel_size[::-1], strict=True))
    return x, y, z


def iter_write_precomputed(
    labels: ObjectLabels, counts: ObjectCounts, folder: Path, with_meshes: bool = False
) -> Generator[Progress, None, None]:
    """Yield while the labels are written into `folder`, which must not exist, with a list of the objects.

    with_meshes: `write_precomputed_mesh` adds meshes later.

    Raises:
        OSError: it cannot be written.
        InputError: as `check_precomputed`.
    """
    check_precomputed(labels)
    volume = _create(labels, counts, folder, with_meshes)
    offset = offset_of(labels.space)
    for done, block in enumerate(blocks := labels.blocks((64, 256, 256))):
        yield Progress(done, len(blocks), "writing for Neuroglancer")
        values = labels.read(block.low, block.high).astype(volume.dtype, copy=False)
        if not values.any():
            continue  # a chunk that is missing is 0
        low = [place + start for place, start in zip(block.low[::-1], offset, strict=True)]
        x, y, z = (slice(start, start + length) for start, length in zip(low, values.shape[::-1], strict=True))
        volume[x, y, z] = values.T[..., None]
    _write_properties(folder / _PROPERTIES, counts, labels.space)


def _create(labels: ObjectLabels, counts: ObjectCounts, folder: Path, with_meshes: bool) -> Any:
    cloudvolume = import_extra("cloudvolume", "neuroglancer", "Precomputed segmentations")
    is_wide = len(counts) and int(counts.labels[-1]) > np.iinfo(np.uint32).max
    info = cloudvolume.CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64" if is_wide else "uint32",
        encoding="compressed_segmentation",
        resolution=list(labels.space.voxel_size_in("nm")[::-1]),
        voxel_offset=list(offset_of(labels.space)),
        chunk_size=_CHUNK,
        volume_size=list(labels.shape[::-1]),
        mesh=_MESHES if with_meshes else None,
    )
    info[_PROPERTIES] = _PROPERTIES
    if with_meshes:
        (folder / _MESHES).mkdir(parents=True)
        (folder / _MESHES / "info").write_text(json.dumps({"@type": "neuroglancer_legacy_mesh"}), encoding="utf-8")
    # compress=False: a plain web server sends the chunks as they are; gzip would need one that knows of it
    volume = cloudvolume.CloudVolume(
        f"file://{folder.absolute()}", info=info, compress=False, progress=False, parallel=1, fill_missing=True
    )
    volume.commit_info()
    return volume


def _write_properties(folder: Path, counts: ObjectCounts, space: Space) -> None:
    """Write the list of objects with their volumes, in which Neuroglancer can search and sort."""
    shown = slice(0, _MOST_PROPERTIES)
    z, y, x = space.voxel_size
    volumes = (counts.voxels[shown] * (z * y * x)).tolist()
    content = {
        "@type": "neuroglancer_segment_properties",
        "inline": {
            "ids": [str(label) for label in counts.labels[shown].tolist()],
            "properties": [
                {
                    "id": "volume",
                    "type": "number",
                    "data_type": "float32",
                    "description": f"volume ({space.unit}³)",
                    "values": volumes,
                }
            ],
        },
    }
    folder.mkdir()
    (folder / "info").write_text(json.dumps(content), encoding="utf-8")


def write_precomputed_mesh(folder: Path, mesh: ObjectMesh, space: Space) -> list[Path]:
    """Add the mesh of an object to a precomputed segmentation; return its files.

    Raises:
        OSError: it cannot be written.
    """
    # Neuroglancer's first voxel begins at its offset, and ours has its centre there
    inside = mesh.vertices + 0.5 + np.array(offset_of(space))
    vertices: NDArray[np.float64] = inside * np.array(space.voxel_size_in("nm")[::-1])
    content = np.uint32(len(vertices)).tobytes() + vertices.astype("<f4").tobytes() + mesh.faces.astype("<u4").tobytes()
    place = folder / _MESHES
    files = [place / f"{mesh.label}:0:1", place / f"{mesh.label}:0"]
    files[0].write_bytes(content)
    files[1].write_text(json.dumps({"fragments": [f"{mesh.label}:0:1"]}), encoding="utf-8")
    return files


def rounded_place(space: Space) -> str:
    """Return in a sentence that the place of an image is rounded to whole voxels, "" if it is not."""
    exact: Sequence[float] = [a / b for a, b in zip(space.origin[::-1], space.voxel_size[::-1], strict=True)]
    if np.allclose(exact, offset_of(space), atol=1e-3):
        return ""
    return "The place of the image is rounded to whole voxels for Neuroglancer and WEBKNOSSOS."
