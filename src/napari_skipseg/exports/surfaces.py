"""The surface of each object as a mesh of triangles, block by block, with closed seams.

A block is meshed with the first voxels of the next one, so both have the same vertices on the plane between them, and
these are merged. zmesh's simplification leaves open borders as they are, so it is done in each block, and the seams
stay closed (measured: all of 124 border vertices of a ball are kept while 3/4 of its triangles go; a test holds it).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from napari_skipseg import durable
from napari_skipseg.errors import InputError
from napari_skipseg.exports.labels import BLOCK, LabelBlock, ObjectLabels, Triple
from napari_skipseg.exports.options import ExportOptions, MeshFormat
from napari_skipseg.extras import import_extra
from napari_skipseg.images.space import Space
from napari_skipseg.progress import Progress

_EXACT = 1e-4
"""Voxels that a place may lie from a half and still is one."""


@dataclass(frozen=True, eq=False)
class ObjectMesh:
    """The surface of an object. vertices: (N, 3), x, y, z in voxels, 0 = the centre of the first voxel. faces: (M, 3),
    vertices of a triangle, anticlockwise as seen from outside."""

    label: int
    vertices: NDArray[np.float64]
    faces: NDArray[np.uint32]

    def placed(self, space: Space) -> NDArray[np.float64]:
        """Return the vertices (x, y, z) in the unit of a space, where its image lies."""
        places: NDArray[np.float64] = self.vertices * space.voxel_size[::-1] + space.origin[::-1]
        return places


def check_meshes(labels: ObjectLabels) -> None:
    """Raise if there can be no meshes.

    Raises:
        InputError: the image is a plane, or zmesh is not installed.
    """
    if labels.is_flat:
        raise InputError(f"'{labels.name}' is a plane, and its objects have no surface: meshes need slices along Z.")
    import_extra("zmesh", "meshes", "Meshes")


@dataclass(frozen=True)
class _Piece:
    """The mesh of an object in a block: where it lies in the file of the block."""

    block: int
    place: int
    vertices: int
    faces: int


class MeshPieces(Sequence[ObjectMesh]):
    """The meshes of all blocks, a file each, and which of them are of which object; each is one mesh if read.

    A file has its number of pieces; label, vertices and faces of each; and all of their vertices (z, y, x) in voxels
    from the block's first one (32-bit floats) and their faces.
    """

    def __init__(self, folder: Path, blocks: list[LabelBlock]) -> None:
        self._folder, self._blocks = folder, blocks
        self._pieces: dict[int, list[_Piece]] = {}
        self._labels: list[int] = []

    def write(self, block: int, meshes: list[tuple[int, NDArray[np.float32], NDArray[np.uint32]]]) -> None:
        """Write the meshes of a block, (label, vertices, faces) each: the file is whole and on disk, or not there.

        Raises:
            OSError: it cannot be written.
        """
        head = [len(meshes), *(n for label, vertices, faces in meshes for n in (label, len(vertices), len(faces)))]
        parts = [np.array(head, "<u8").tobytes()]
        for _, vertices, faces in meshes:
            parts += [vertices.astype("<f4").tobytes(), faces.astype("<u4").tobytes()]
        durable.write_whole(self._file(block), b"".join(parts), synced=True)

    def take(self, block: int) -> bool:
        """Take the meshes of a block that is written; return whether it is."""
        file = self._file(block)
        if not file.exists():
            return False
        with file.open("rb") as handle:
            count = int.from_bytes(handle.read(8), "little")
            head = np.frombuffer(handle.read(24 * count), "<u8").reshape(-1, 3)
        place = 8 + 24 * count
        for label, vertices, faces in head.tolist():
            self._pieces.setdefault(label, []).append(_Piece(block, place, vertices, faces))
            place += 12 * (vertices + faces)
        self._labels = sorted(self._pieces) if block == len(self._blocks) - 1 else []
        return True

    def _file(self, block: int) -> Path:
        return self._folder / f"mesh-{block}"

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> ObjectMesh: ...
    @overload
    def __getitem__(self, index: slice) -> list[ObjectMesh]: ...
    def __getitem__(self, index: int | slice) -> ObjectMesh | list[ObjectMesh]:
        """Return the whole mesh of an object, in the order of labels."""
        if isinstance(index, slice):
            return [self._join(label) for label in self._labels[index]]
        return self._join(self._labels[index])

    def _join(self, label: int) -> ObjectMesh:
        vertices, faces, on_seam, count = [], [], [], 0
        for piece in self._pieces[label]:
            low, high = self._blocks[piece.block].low, self._blocks[piece.block].high
            with self._file(piece.block).open("rb") as handle:
                handle.seek(piece.place)
                points = np.frombuffer(handle.read(12 * piece.vertices), "<f4").reshape(-1, 3)
                corners = np.frombuffer(handle.read(12 * piece.faces), "<u4").reshape(-1, 3)
            size = np.subtract(high, low, dtype=np.float32)
            on_seam.append(((points == 0) | (points == size)).any(axis=1))
            vertices.append(points.astype(np.float64) + low)
            faces.append(corners + np.uint32(count))
            count += len(points)
        return _merged(label, np.concatenate(vertices), np.concatenate(faces), np.concatenate(on_seam))


def _merged(
    label: int, vertices: NDArray[np.float64], faces: NDArray[np.uint32], on_seam: NDArray[np.bool_]
) -> ObjectMesh:
    """Return the mesh with one vertex in place of all at the same place of a seam, where places are exact halves."""
    seam = np.flatnonzero(on_seam)
    halves = np.rint(2 * vertices[seam]).astype(np.int64) + 2
    keys = (halves[:, 0] << 42) | (halves[:, 1] << 21) | halves[:, 2]
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    target = np.arange(len(vertices))
    target[seam] = seam[first][place]
    kept = target == np.arange(len(vertices))
    number = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
    # zmesh sees (z, y, x) as (x, y, z): a mirror image, whose triangles turn the other way
    turned = number[target[faces]][:, ::-1]
    distinct = (turned != np.roll(turned, 1, axis=1)).all(axis=1)
    return ObjectMesh(label, vertices[kept][:, ::-1], np.ascontiguousarray(turned[distinct]))


def iter_mesh_blocks(
    labels: ObjectLabels, options: ExportOptions, folder: Path, size: Triple = BLOCK
) -> Generator[Progress, None, MeshPieces]:
    """Yield block by block; return the meshes of all objects. folder: where those of blocks are kept; a block that is
    there from an earlier try, with the same labels and options, is not meshed again.

    Raises:
        InputError: as `check_meshes` and `ObjectLabels.read`.
        OSError: nothing can be written.
    """
    check_meshes(labels)
    zmesh = import_extra("zmesh", "meshes", "Meshes")
    blocks = labels.blocks(size, low=(-1, -1, -1))  # the cubes around the first voxels begin one before them
    pieces = MeshPieces(folder, blocks)
    for done, block in enumerate(blocks):
        yield Progress(done, len(blocks), "meshing")
        if pieces.take(done):
            continue
        values, found = labels.read(block.low, [stop + 1 for stop in block.high]), []
        if values.any():
            mesher = zmesh.Mesher((1, 1, 1))
            mesher.mesh(values)
            for label in mesher.ids():
                mesh = mesher.get(label)
                mesher.erase(label)
                found.append((int(label), *_simplified(mesher, mesh, options)))
        pieces.write(done, found)
        pieces.take(done)
    return pieces


def _simplified(mesher: Any, mesh: Any, options: ExportOptions) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Return vertices, in voxels, and faces of a mesh with fewer triangles.

    zmesh simplifies on the grid of half voxels: it rounds vertices that were scaled before, and seams would open.
    """
    if options.simplify > 1 and len(mesh.faces) >= options.simplify:
        fewer = mesher.simplify(mesh, reduction_factor=options.simplify, max_error=options.simplify_error)
        mesh = fewer if len(fewer.faces) else mesh
    vertices = np.asarray(mesh.vertices, np.float32)
    halves = np.rint(2 * vertices) / 2  # single precision moves them by 1e-6, and a seam needs the exact places
    return np.where(np.abs(vertices - halves) < _EXACT, halves, vertices), np.asarray(mesh.faces, np.uint32)


def write_mesh(path: Path, vertices: NDArray[np.float64], faces: NDArray[np.uint32], form: MeshFormat) -> None:
    """Write a mesh as PLY (binary, 64-bit places) or OBJ.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as handle:
        if form == "obj":
            np.savetxt(handle, vertices, "v %.9g %.9g %.9g", newline="\n")
            np.savetxt(handle, faces.astype(np.int64) + 1, "f %d %d %d", newline="\n")
            return
        head = (
            f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\nproperty double x\n"
            f"property double y\nproperty double z\nelement face {len(faces)}\n"
            "property list uchar uint vertex_indices\nend_header\n"
        )
        handle.write(head.encode("ascii"))
        handle.write(np.ascontiguousarray(vertices, "<f8").tobytes())
        rows = np.empty(len(faces), np.dtype([("count", "u1"), ("corners", "<u4", 3)]))
        rows["count"], rows["corners"] = 3, faces
        handle.write(rows.tobytes())


def read_ply(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
    """Return the vertices (x, y, z) and faces of a PLY file that `write_mesh` wrote.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as handle:
        counts = [int(line.split()[-1]) for line in iter(handle.readline, b"end_header\n") if b"element" in line]
        vertices = np.frombuffer(handle.read(24 * counts[0]), "<f8").reshape(-1, 3)
        rows = np.frombuffer(handle.read(), np.dtype([("count", "u1"), ("corners", "<u4", 3)]))
    return vertices, np.ascontiguousarray(rows["corners"])
