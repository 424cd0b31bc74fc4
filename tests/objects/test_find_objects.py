"""Objects in memory: components, parted objects, cells; which are kept and how they are numbered."""

from dataclasses import replace

import numpy as np
import pytest
from made import ball, bumpy, cells, same_partition
from scipy import ndimage

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage, probability_of_class
from napari_skipseg.objects.elevation import distance_to_edge
from napari_skipseg.objects.find import ObjectSearch, find_objects_in_array
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.scores.boundaries import BOUNDARY_CLASSES


@pytest.mark.parametrize("shape", [(40, 50), (9, 30, 40)])
def test_components_are_those_of_scipy_numbered_by_their_first_voxels(shape):
    probability = bumpy(shape)
    found = find_objects_in_array(probability, Space("ZYX"[-len(shape) :]), options=ObjectOptions(threshold=0.6))
    expected, count = ndimage.label(probability > 0.6)
    assert found.dtype == np.uint32
    assert found.max() == count > 1
    assert same_partition(found, expected)
    firsts = [np.flatnonzero(found.ravel() == label)[0] for label in range(1, count + 1)]
    assert firsts == sorted(firsts)


def test_integers_are_probabilities_scaled_by_their_type_and_booleans_are_masks():
    probability = np.round(bumpy((30, 40)) * 255).astype(np.uint8)
    expected = find_objects_in_array(probability / np.float32(255), Space("YX"))
    assert np.array_equal(find_objects_in_array(probability, Space("YX")), expected)
    assert np.array_equal(find_objects_in_array(probability.astype(np.uint16) * 257, Space("YX")), expected)
    assert np.array_equal(find_objects_in_array(probability > 127, Space("YX")), expected)


def test_labels_are_taken_class_by_class():
    labels = np.zeros((6, 9), np.uint8)
    labels[1:3, 1:3], labels[1:3, 3:5], labels[4, 7] = 1, 2, 2
    names = ("membrane", "vesicle")
    assert (
        find_objects_in_array(
            labels, Space("YX"), names, options=ObjectOptions(class_name="vesicle"), labels=True
        ).max()
        == 2
    )
    assert find_objects_in_array(labels, Space("YX"), names, labels=True)[1, 1:5].tolist() == [1, 1, 0, 0]
    assert find_objects_in_array(labels, Space("YX"), labels=True)[1, 1:5].tolist() == [1, 1, 1, 1]


def test_a_class_is_a_channel_found_by_its_name():
    probability = np.stack([bumpy((20, 30), 1), bumpy((20, 30), 2)])
    chosen = find_objects_in_array(
        probability, Space("CYX"), ("a", "membrane"), options=ObjectOptions(class_name="membrane")
    )
    assert np.array_equal(chosen, find_objects_in_array(probability[1], Space("YX")))
    by_role = find_objects_in_array(probability, Space("CYX"), ("a", "membrane"), options=ObjectOptions("cells"))
    assert np.array_equal(by_role, find_objects_in_array(probability[1], Space("YX"), options=ObjectOptions("cells")))
    with pytest.raises(InputError, match="no class 'b': its classes are a, membrane"):
        find_objects_in_array(probability, Space("CYX"), ("a", "membrane"), options=ObjectOptions(class_name="b"))


def test_touching_balls_are_parted_where_they_are_narrow():
    mask = ball((24, 24, 44), (12, 12, 13), 9) | ball((24, 24, 44), (12, 12, 29), 9)
    assert find_objects_in_array(mask, Space("ZYX")).max() == 1
    found = find_objects_in_array(mask, Space("ZYX"), options=ObjectOptions("watershed"))
    assert found.max() == 2
    assert (found > 0).sum() == mask.sum()
    assert (found[12, 12, 13], found[12, 12, 29]) == (1, 2)
    assert abs(int((found == 1).sum()) - int((found == 2).sum())) <= 0.1 * mask.sum()
    far = find_objects_in_array(mask, Space("ZYX"), options=ObjectOptions("watershed", seed_distance=30))
    assert far.max() == 1


def test_the_distance_is_physical():
    mask = ball((24, 44), (12, 13), 9) | ball((24, 44), (12, 29), 9)
    thin = np.repeat(mask[::4], 1, axis=0)
    found = find_objects_in_array(thin, Space("YX", (1.0, 4.0, 1.0)), options=ObjectOptions("watershed"))
    assert found.max() == 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.2, 1.0)])
def test_the_distance_to_the_edge_is_that_of_scipy_up_to_its_bound(spacing):
    mask = np.random.default_rng(0).random((9, 40, 50)) < 0.97
    expected = np.minimum(ndimage.distance_transform_edt(mask, spacing), 6)
    assert np.abs(distance_to_edge(mask, spacing, 6.0) - expected).max() <= 1 / 128 + 1e-6


def test_cells_fill_the_image_and_weak_boundaries_join_them():
    membrane = cells((40, 60))
    four = find_objects_in_array(membrane, Space("YX"), options=ObjectOptions("cells", merge=0.5))
    assert four.max() == 4
    assert four.min() == 1
    assert len({four[5, 5], four[5, 55], four[35, 5], four[35, 55]}) == 4
    three = find_objects_in_array(membrane, Space("YX"), options=ObjectOptions("cells", merge=0.7))
    assert (three[5, 5] == three[5, 55], three.max()) == (True, 3)


@pytest.mark.parametrize("seeds", ["distance", "probability"])
def test_noise_makes_no_cells(seeds):
    noise = np.random.default_rng(0).normal(0, 0.02, (40, 60)).astype(np.float32)
    found = find_objects_in_array(
        np.clip(cells((40, 60)) + noise, 0, 1), Space("YX"), options=ObjectOptions("cells", seeds=seeds)
    )
    assert found.max() == 4


def test_holes_are_filled_where_one_object_encloses_them():
    mask = np.zeros((20, 20), np.bool_)
    mask[2:9, 2:9], mask[4:6, 4:6] = True, False
    mask[12:, :8], mask[15:, 2:4] = True, False
    filled = find_objects_in_array(mask, Space("YX"), options=ObjectOptions(fill_holes=True))
    assert filled[4, 4] == 1
    assert filled[17, 3] == 0
    assert np.array_equal(filled > 0, ndimage.binary_fill_holes(mask))


def test_sizes_and_borders_decide_which_objects_stay_and_they_are_numbered_anew():
    mask = np.zeros((12, 30), np.bool_)
    mask[0:2, 0:2], mask[5:7, 5:7], mask[5:9, 10:14], mask[5:11, 20:26] = True, True, True, True
    kept = {
        "all": ObjectOptions(),
        "large": ObjectOptions(smallest=10),
        "middle": ObjectOptions(smallest=10, largest=20),
        "inner": ObjectOptions(border="remove"),
    }
    counts = {
        name: int(find_objects_in_array(mask, Space("YX"), options=options).max()) for name, options in kept.items()
    }
    assert counts == {"all": 4, "large": 2, "middle": 1, "inner": 3}
    assert find_objects_in_array(mask, Space("YX"), options=kept["middle"])[6, 11] == 1


def test_slices_have_objects_of_their_own():
    mask = np.ones((3, 4, 5), np.bool_)
    found = find_objects_in_array(mask, Space("ZYX"), options=ObjectOptions(planes="slices"))
    assert found[:, 0, 0].tolist() == [1, 2, 3]


def test_times_have_objects_of_their_own_and_axes_stay():
    probability = np.stack([bumpy((20, 30), 1), bumpy((20, 30), 2)])
    found = find_objects_in_array(probability, Space("TYX"))
    first, second = (find_objects_in_array(each, Space("YX")) for each in probability)
    assert np.array_equal(found[0], first)
    assert np.array_equal(found[1], np.where(second, second + first.max(), 0))


@pytest.mark.parametrize("method", ["components", "watershed", "cells"])
def test_a_changed_option_gives_what_a_new_search_gives(method):
    stack = Stack(bumpy((6, 40, 40)), Space("ZYX", (2.0, 1.0, 1.0)))
    search, options = ObjectSearch(ClassImage(stack)), ObjectOptions(method, seed_distance=3)
    for change in ({}, {"seed_distance": 9.0}, {"merge": 0.8}, {"smallest": 40}, {"threshold": 0.6}, {"merge": 0.1}):
        options = replace(options, **change)
        assert np.array_equal(search.find(options), ObjectSearch(ClassImage(stack)).find(options)), change


def test_nothing_found_is_no_object():
    for method in ("components", "watershed"):
        assert not find_objects_in_array(
            np.zeros((4, 5, 6), np.float32), Space("ZYX"), options=ObjectOptions(method)
        ).any()
    assert find_objects_in_array(np.zeros((5, 6), np.float32), Space("YX"), options=ObjectOptions("cells")).max() == 1


def test_values_that_are_no_probabilities_are_refused():
    with pytest.raises(InputError, match="between 0 and 1"):
        find_objects_in_array(np.full((4, 4), 3.0), Space("YX"))
    with pytest.raises(InputError, match="int32"):
        find_objects_in_array(np.full((4, 4), 3, np.int32), Space("YX"))
    with pytest.raises(InputError, match="between 0 and 1"):
        find_objects_in_array(np.full((4, 4), np.nan), Space("YX"))


def test_cells_are_found_between_the_first_class_that_is_a_boundary():
    stack = Stack(np.zeros((2, 8, 9), np.float32), Space("CYX"))
    for name, channel in [*((name, 1) for name in BOUNDARY_CLASSES), ("soma", 0)]:
        image = ClassImage(stack, ("vesicle", name))
        assert probability_of_class(image, ObjectOptions("cells")).channel == channel
