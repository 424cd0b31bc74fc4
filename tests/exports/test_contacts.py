"""Contacts are counted face by face: the same for blocks of any size, and as cc3d counts them."""

from dataclasses import replace

import cc3d
import numpy as np
import pytest
from labels_to_export import SPACE, opened, shapes

from napari_skipseg.errors import InputError
from napari_skipseg.exports.contacts import OtherLabels, iter_contacts
from napari_skipseg.exports.labels import iter_count
from napari_skipseg.images.space import Space
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import run_to_end

BLOCKS = [(128, 256, 256), (7, 11, 13), (1, 44, 50), (30, 1, 3)]


def contacts(values: np.ndarray, other: np.ndarray | None = None, size=BLOCKS[0], space: Space = SPACE) -> ObjectTable:
    labels = opened(values, space)
    second = None if other is None else OtherLabels(opened(other, space), "cell")
    return run_to_end(iter_contacts(labels, second, run_to_end(iter_count(labels)), size))


def crowd(seed: int, shape=(30, 44, 50)) -> np.ndarray:
    """Eight labels in every place, some of them far above 32 bits."""
    values = np.random.default_rng(seed).integers(0, 9, shape).astype(np.uint64)
    values[values > 6] += 2**40
    return values


@pytest.mark.parametrize("size", BLOCKS)
@pytest.mark.parametrize("values", [shapes(), crowd(0)], ids=["shapes", "crowd"])
def test_areas_are_those_of_cc3d_for_blocks_of_any_size(values, size) -> None:
    """cc3d counts whole images in memory."""
    table = contacts(values, size=size)
    known, back = np.unique(values), np.unique(values, return_inverse=True)[1].reshape(values.shape)
    small = back.astype(np.uint32)  # cc3d takes no numbers above 32 bits here; 0 stays 0
    areas = cc3d.contacts(np.asfortranarray(small.T), 6, anisotropy=SPACE.voxel_size[::-1], surface_area=True)
    expected = {(int(known[a]), int(known[b])): area for (a, b), area in areas.items()}
    found = dict(
        zip(
            zip(table.column("object").tolist(), table.column("touches").tolist(), strict=True),
            table.column("area (nm²)").tolist(),
            strict=True,
        )
    )
    assert found == pytest.approx(expected, rel=1e-5)
    assert found


def test_an_object_in_a_cell_has_its_whole_surface_and_volume_there() -> None:
    cells = np.ones((20, 20, 20), np.uint32)
    cells[:, :, 12:] = 2
    organelles = np.zeros_like(cells)
    organelles[4:8, 4:8, 4:8] = 5
    organelles[10:12, 10:12, 10:14] = 6  # lies in both cells, half of it in each
    table = contacts(organelles, cells, space=Space("ZYX", (2, 1, 1), "nm"))
    assert table.names[:5] == ("object", "class", "touches", "faces", "area (nm²)")
    rows = {(row[0], row[2]): row[3:] for row in zip(*(column.tolist() for column in table.columns), strict=True)}
    # six faces of 16: those across z have 1 nm² each, the others 2 nm²
    assert rows[(5, 1)] == (96, 16 * 2 + 4 * 16 * 2, 64, 128.0, 1.0)
    assert set(table.column("class").tolist()) == {"cell"}
    assert rows[(6, 1)][2:] == rows[(6, 2)][2:] == (8, 16.0, 0.5)
    assert rows[(6, 1)] == rows[(6, 2)]
    assert len(rows) == 3


@pytest.mark.parametrize("size", BLOCKS[1:])
def test_contacts_between_two_images_do_not_depend_on_blocks(size) -> None:
    whole, parts = contacts(shapes(), crowd(1)), contacts(shapes(), crowd(1), size)
    assert whole.names == parts.names
    for one, other in zip(whole.columns, parts.columns, strict=True):
        np.testing.assert_array_equal(one, other)


def test_objects_of_slices_touch_within_their_slices_only() -> None:
    slices = np.array([[[1, 1, 2, 2]], [[3, 3, 3, 4]]], np.uint32)
    labels = replace(opened(slices, Space("ZYX", (50, 10, 4), "nm")), planes="slices")
    table = run_to_end(iter_contacts(labels, None, run_to_end(iter_count(labels))))
    assert table.names == ("object", "touches", "faces", "length (nm)")
    assert [column.tolist() for column in table.columns] == [[1, 3], [2, 4], [1, 1], [10.0, 10.0]]


def test_in_a_plane_contacts_have_a_length() -> None:
    plane = np.zeros((6, 8), np.uint32)
    plane[:3], plane[3:] = 1, 2
    table = contacts(plane, space=Space("YX", (1, 10, 4), "nm"))
    assert table.names == ("object", "touches", "faces", "length (nm)")
    assert [column.tolist() for column in table.columns] == [[1], [2], [8], [32.0]]


def test_two_images_of_different_voxels_are_refused() -> None:
    with pytest.raises(InputError, match=r"two label images of the same voxels"):
        contacts(shapes(), shapes()[1:])


def test_very_many_objects_are_counted() -> None:
    values = np.arange(1, 60**3 + 1, dtype=np.uint32).reshape(60, 60, 60)
    table = contacts(values, size=(40, 40, 40), space=Space("ZYX"))
    assert len(table) == 3 * 59 * 60 * 60
    assert table.column("area (pixel²)").sum() == len(table)
