"""Skeletons have the length of the objects, in physical units, also where blocks cut them."""

from pathlib import Path

import numpy as np
import pytest
from labels_to_export import SPACE, opened

from napari_skipseg.exports.labels import iter_count
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.skeletons import iter_skeletons, lengths_table, read_swc, swc_of
from napari_skipseg.progress import run_to_end

osteoid = pytest.importorskip("osteoid")
pytest.importorskip("kimimaro")


def rods() -> np.ndarray:
    """A rod of 90 voxels along x (5), one of 40 along z (6), and a single voxel (7)."""
    labels = np.zeros((50, 30, 100), np.uint32)
    labels[10, 9:12, 5:95] = 5
    labels[5:45, 21:24, 51:54] = 6
    labels[0, 0, 0] = 7
    return labels


@pytest.mark.parametrize("size", [(256, 256, 256), (20, 16, 30)])
def test_lengths_are_those_of_the_rods(size, tmp_path: Path) -> None:
    labels = opened(rods())
    found = run_to_end(iter_skeletons(labels, ExportOptions(skeletons=True), tmp_path, size))
    assert [each.label for each in found] == [5, 6]
    table = lengths_table(found, run_to_end(iter_count(labels)), SPACE)
    assert table.names == ("label", "skeleton length (nm)", "branching points", "ends")
    assert table.column("label").tolist() == [5, 6, 7]
    lengths = table.column("skeleton length (nm)")
    assert lengths[0] == pytest.approx(89 * 8, rel=0.1)
    assert lengths[1] == pytest.approx(39 * 30, rel=0.1)
    assert lengths[2] == 0
    assert table.column("ends").tolist() == [2, 2, 0]
    for each in found:
        connected = osteoid.Skeleton(each.nodes.astype(np.float32), each.edges.astype(np.uint32)).components()
        assert len(connected) == 1


def test_the_labels_in_memory_stay_as_they_are(tmp_path: Path) -> None:
    values = rods()  # all of them one block, which is read without a copy
    run_to_end(iter_skeletons(opened(values), ExportOptions(skeletons=True), tmp_path))
    np.testing.assert_array_equal(values, rods())


def test_swc_is_opened_by_a_library_and_lies_in_the_world(tmp_path: Path) -> None:
    (rod, _) = run_to_end(iter_skeletons(opened(rods()), ExportOptions(skeletons=True), tmp_path))
    text = swc_of(rod, SPACE)
    read = osteoid.Skeleton.from_swc(text)
    assert float(read.cable_length()) == pytest.approx(rod.length(SPACE), rel=1e-4)
    low, high = read.vertices.min(axis=0), read.vertices.max(axis=0)
    np.testing.assert_allclose(low[0], 80 + 5 * 8, atol=2 * 8)
    np.testing.assert_allclose(high[0], 80 + 94 * 8, atol=2 * 8)
    np.testing.assert_allclose(np.median(read.vertices, axis=0)[1:], (200 + 10 * 10, 300 + 10 * 30))
    nodes, edges = read_swc(text)
    assert np.linalg.norm(np.diff(nodes[edges], axis=1), axis=2).sum() == pytest.approx(rod.length(SPACE), rel=1e-4)
