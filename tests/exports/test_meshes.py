"""Meshes are closed, lie where the objects lie, and are the same whether the volume is cut into blocks or not."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from labels_to_export import SPACE, opened, shapes

from napari_skipseg.errors import InputError
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.surfaces import ObjectMesh, iter_mesh_blocks, read_ply, write_mesh
from napari_skipseg.progress import run_to_end

zmesh = pytest.importorskip("zmesh")
SIZES = [(128, 256, 256), (9, 13, 11)]


def meshes(values: np.ndarray, size=SIZES[0], **options) -> dict[int, ObjectMesh]:
    with tempfile.TemporaryDirectory() as folder:
        asked = ExportOptions(meshes="ply", **options)
        pieces = run_to_end(iter_mesh_blocks(opened(values), asked, Path(folder), size))
        return {mesh.label: mesh for mesh in pieces}


def open_edges(mesh: ObjectMesh) -> int:
    """Edges without a triangle on either side that goes along them the other way."""
    sides = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    directed = {(int(a), int(b)) for a, b in sides}
    return len(directed - {(b, a) for a, b in directed})


def volume(mesh: ObjectMesh) -> float:
    """The volume inside of the triangles in nm³, above 0 if they turn outwards."""
    a, b, c = (mesh.placed(SPACE)[mesh.faces[:, corner]] - SPACE.origin[::-1] for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("simplify", [1, 8])
def test_meshes_are_closed_and_hold_the_volume_of_the_objects(size, simplify) -> None:
    found = meshes(shapes(), size, simplify=simplify)
    assert sorted(found) == [1, 3, 9, 70]
    for label, tolerance in ((3, 0.03), (9, 0.2)):  # edges of the rod are cut off
        assert open_edges(found[label]) == 0
        voxels = (shapes() == label).sum() * np.prod(SPACE.voxel_size)
        assert volume(found[label]) == pytest.approx(voxels, rel=tolerance)


def test_blocks_give_the_same_triangles_as_the_whole_volume() -> None:
    whole, parts = (meshes(shapes(), size, simplify=1) for size in SIZES)
    for label, mesh in whole.items():
        one, other = (np.unique(each.vertices, axis=0) for each in (mesh, parts[label]))
        np.testing.assert_array_equal(one, other)
        assert len(mesh.vertices) == len(parts[label].vertices) == len(one)
        assert len(mesh.faces) == len(parts[label].faces)
        assert volume(mesh) == pytest.approx(volume(parts[label]))


def test_simplification_removes_triangles_and_moves_vertices_by_little() -> None:
    exact, fewer = meshes(shapes(), simplify=1)[3], meshes(shapes(), simplify=8)[3]
    assert len(fewer.faces) < len(exact.faces) / 3
    distances = np.linalg.norm(fewer.vertices[:, None] - exact.vertices[None], axis=2).min(axis=1)
    assert distances.max() < 1.5


def test_one_voxel_is_an_octahedron_around_its_place() -> None:
    corner = meshes(shapes(), simplify=1)[70]
    assert len(corner.faces) == 8
    middle = SPACE.origin[2] + 49 * 8, SPACE.origin[1] + 43 * 10, SPACE.origin[0] + 29 * 30
    np.testing.assert_allclose(corner.placed(SPACE).mean(axis=0), middle)
    np.testing.assert_allclose(np.ptp(corner.placed(SPACE), axis=0), (8, 10, 30))


@pytest.mark.parametrize(("form", "load"), [("ply", zmesh.Mesh.from_ply), ("obj", zmesh.Mesh.from_obj)])
def test_files_are_opened_by_a_library(tmp_path: Path, form, load) -> None:
    mesh = meshes(shapes())[3]
    write_mesh(tmp_path / "a", mesh.placed(SPACE), mesh.faces, form)
    if form == "ply":
        vertices, faces = read_ply(tmp_path / "a")
    else:
        read = load((tmp_path / "a").read_text())
        vertices, faces = read.vertices, read.faces
    np.testing.assert_allclose(vertices, mesh.placed(SPACE), rtol=1e-6)
    np.testing.assert_array_equal(faces, mesh.faces)


def test_numbers_above_32_bits_and_a_plane() -> None:
    wide = shapes().astype(np.uint64)
    wide[wide == 3] = 2**41 + 5
    assert sorted(meshes(wide))[-1] == 2**41 + 5
    with pytest.raises(InputError, match="'made' is a plane, and its objects have no surface"):
        meshes(shapes()[:1])
