"""Objects measured: the numbers of scikit-image, from any blocks, with their units; the table they go into."""

import csv

import numpy as np
import pytest
from made import bumpy, finished
from skimage.measure import marching_cubes, mesh_surface_area, regionprops

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.objects.classes import ClassImage, probability_of_class
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.measure import iter_measure, measure_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.slabs import plan_slabs
from napari_skipseg.objects.table import ObjectTable

SIZE, ORIGIN = (3.0, 2.0, 2.0), (10.0, 0.0, -4.0)


def volume():
    probability = bumpy((12, 30, 36), sigma=1.6)
    labels = find_objects_in_array(
        probability, Space("ZYX"), options=ObjectOptions("watershed", threshold=0.55, seed_distance=2)
    )
    grey = np.random.default_rng(0).integers(0, 4000, labels.shape).astype(np.uint16)
    return Stack(labels, Space("ZYX", SIZE, "nm", ORIGIN)), Stack(grey, Space("ZYX")), Stack(probability, Space("ZYX"))


def test_a_volume_is_measured_as_scikit_image_does():
    labels, grey, probability = volume()
    table = measure_objects(labels, grey, probability_of_class(ClassImage(probability), ObjectOptions()))
    regions = regionprops(labels.data, grey.data, spacing=SIZE)
    assert len(table) == len(regions) > 20
    for row, region in enumerate(regions):
        vertices, faces, _, _ = marching_cubes(np.pad(region.image, 1).astype(np.float32), 0.5, spacing=SIZE)
        expected = {
            "label": region.label,
            "voxels": region.num_pixels,
            "volume (nm³)": region.area,
            "surface (nm²)": mesh_surface_area(vertices, faces),
            "position z (nm)": region.centroid[0] + 10,
            "position y (nm)": region.centroid[1],
            "position x (nm)": region.centroid[2] - 4,
            "bounding box z start": region.bbox[0],
            "bounding box x end": region.bbox[5],
            "major axis (nm)": region.axis_major_length,
            "minor axis (nm)": region.axis_minor_length,
            "intensity mean": region.intensity_mean,
            "intensity sd": region.intensity_std,
            "intensity min": region.intensity_min,
            "intensity max": region.intensity_max,
            "mean probability": probability.data[labels.data == region.label].mean(),
        }
        found = {name: table.column(name)[row] for name in expected}
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_slices_are_measured_as_scikit_image_does():
    labels = find_objects_in_array(
        bumpy((4, 40, 50)), Space("ZYX"), options=ObjectOptions(planes="slices", threshold=0.55)
    )
    table = measure_objects(Stack(labels, Space("ZYX", SIZE, "nm")), planes="slices")
    assert "volume (nm³)" not in table.names
    for z in range(4):
        for region in regionprops(labels[z], spacing=(2.0, 2.0)):
            row = region.label - 1
            assert table.column("area (nm²)")[row] == region.area
            assert table.column("perimeter (nm)")[row] == pytest.approx(region.perimeter)
            assert table.column("major axis (nm)")[row] == pytest.approx(region.axis_major_length, abs=1e-6)
            assert table.column("position z (nm)")[row] == 3 * z


@pytest.mark.parametrize("largest", [40, 500, 3000])
def test_any_block_gives_the_same_measurements(largest):
    labels, grey, _ = volume()
    for planes in ("volume", "slices"):
        whole = measure_objects(labels, grey, planes=planes)
        blockwise = finished(iter_measure(labels, grey, planes=planes, largest=largest))
        assert blockwise.names == whole.names
        for name, one, other in zip(whole.names, whole.columns, blockwise.columns, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", [">u2", ">f4", "f2", "i4", "f8", "u2", "?"])
def test_values_of_any_type_are_measured(kind):
    labels, grey, _ = volume()
    values = np.asarray(grey.data[...] % 2 if kind == "?" else grey.data[...], np.float64)
    of_kind = Stack(values.astype(kind), Space("ZYX"))
    one, other = (measure_objects(labels, image, planes="volume") for image in (Stack(values, Space("ZYX")), of_kind))
    for name in ("intensity mean", "intensity sd", "intensity max"):
        np.testing.assert_allclose(one.column(name), other.column(name), rtol=1e-2 if kind == "f2" else 1e-6, atol=1e-6)


@pytest.mark.parametrize("largest", [16 * 16 * 40, 8 * 50 * 40, 3 * 7 * 11, 2**25])
def test_slabs_are_whole_chunks_that_are_read_once(largest, tmp_path):
    labels = find_objects_in_array(
        bumpy((37, 50, 40)), Space("ZYX"), options=ObjectOptions("watershed", seed_distance=3)
    )
    layout = Layout(labels.shape, Space("ZYX", (3.0, 2.0, 2.0), "nm"), "uint32", chunks=(8, 16, 40), kind="labels")
    write_ome_zarr(tmp_path / "labels.ome.zarr", labels, layout)
    stored = read_stack(tmp_path / "labels.ome.zarr")
    slabs = plan_slabs(stored, largest)
    seen = np.zeros(labels.shape, np.uint8)
    for slab in slabs:
        seen[slab.z, slab.y] += 1
        assert largest < 8 * 16 * 40 or (slab.z.start % 8, slab.y.start % 16) == (0, 0)
    assert seen.min() == seen.max() == 1
    inside = Stack(labels, Space("ZYX", (3.0, 2.0, 2.0), "nm"))
    for planes in ("volume", "slices"):
        whole = measure_objects(inside, planes=planes)
        slabwise = finished(iter_measure(stored, planes=planes, largest=largest))
        for name, one, other in zip(whole.names, whole.columns, slabwise.columns, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=name)


def test_channels_are_measured_one_by_one_and_gaps_in_the_numbers_stay():
    labels = np.zeros((6, 6), np.uint16)
    labels[1:3, 1:3], labels[4, 4] = 7, 3
    image = np.stack([np.full((6, 6), 5.0), np.arange(36.0).reshape(6, 6)])
    table = measure_objects(Stack(labels, Space("YX")), Stack(image, Space("CYX")))
    assert table.column("label").tolist() == [3, 7]
    assert table.column("channel 0 intensity mean").tolist() == [5, 5]
    assert table.column("channel 1 intensity max").tolist() == [28, 14]
    assert "position z (pixel)" not in table.names


def test_an_image_of_another_shape_and_labels_that_are_none_are_refused():
    with pytest.raises(InputError, match="give their image"):
        measure_objects(Stack(np.ones((4, 5), np.uint8), Space("YX")), Stack(np.ones((4, 6), np.uint8), Space("YX")))
    with pytest.raises(InputError, match="whole numbers"):
        measure_objects(Stack(np.ones((4, 5), np.float32), Space("YX")))
    with pytest.raises(InputError, match="no labels"):
        measure_objects(Stack(np.full((4, 5), -1), Space("YX")))


def test_no_objects_give_an_empty_table(tmp_path):
    table = measure_objects(Stack(np.zeros((4, 5), np.uint8), Space("YX")))
    assert len(table) == 0
    table.write_csv(tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text(encoding="utf-8-sig").count("\n") == 1


def test_a_table_becomes_features_and_a_file(tmp_path):
    table = ObjectTable(("label", "volume (µm³)"), (np.array([1, 2]), np.array([0.1, np.nan])))
    assert table.as_features()["index"].tolist() == [0, 1, 2]
    table.write_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8-sig") as handle:
        assert list(csv.reader(handle)) == [["label", "volume (µm³)"], ["1", "0.1"], ["2", ""]]
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_no_number_in_a_file_has_an_exponent(tmp_path):
    values = np.array([1234.5678, 123456789.4, 2.5e20, 0.0000012345678, -1e-5, 0.0])
    ObjectTable(("volume (nm³)",), (values,)).write_csv(tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[1:] == ["1234.568", "123456789", "250000000000000000000", "0.000001234568", "-0.00001", "0"]
