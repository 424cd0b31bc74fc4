"""Objects in memory: components, split objects, cells; which are kept, their numbers, and options that are refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made import ball, bumpy, cells, find, same_partition
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import BOUNDARY_CLASSES, ClassImage, probability_of_class
from napari_skipseg.objects.find import ObjectSearch, find_objects_in_array
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.scores.distances import distance_to_edge

TWO_BALLS = ball((24, 24, 44), (12, 12, 13), 9) | ball((24, 24, 44), (12, 12, 29), 9)


@pytest.mark.parametrize("shape", [(40, 50), (9, 30, 40)])
def test_components_are_those_of_scipy_numbered_by_their_first_voxels(shape):
    probability = bumpy(shape)
    found = find(probability, threshold=0.6)
    expected, count = ndimage.label(probability > 0.6)
    assert found.dtype == np.uint32
    assert found.max() == count > 1
    assert same_partition(found, expected)
    firsts = [np.flatnonzero(found.ravel() == label)[0] for label in range(1, count + 1)]
    assert firsts == sorted(firsts)


def test_integers_are_probabilities_scaled_by_their_type_and_booleans_are_masks():
    probability = np.round(bumpy((30, 40)) * 255).astype(np.uint8)
    expected = find(probability / np.float32(255))
    for same in (probability, probability.astype(np.uint16) * 257, probability > 127):
        assert np.array_equal(find(same), expected)


def test_labels_are_taken_class_by_class():
    labels = np.zeros((6, 9), np.uint8)
    labels[1:3, 1:3], labels[1:3, 3:5], labels[4, 7] = 1, 2, 2
    image = ClassImage(Stack(labels, Space("YX")), ("membrane", "vesicle"), labels=True)
    assert ObjectSearch(image).find(ObjectOptions(class_name="vesicle")).max() == 2
    assert ObjectSearch(image).find(ObjectOptions())[1, 1:5].tolist() == [1, 1, 0, 0]
    unnamed = replace(image, class_names=())
    assert ObjectSearch(unnamed).find(ObjectOptions())[1, 1:5].tolist() == [1, 1, 1, 1]


def test_a_class_is_a_channel_found_by_its_name():
    image = ClassImage(Stack(np.stack([bumpy((20, 30), seed) for seed in (1, 2)]), Space("CYX")), ("a", "membrane"))
    second = image.stack.data[1]
    assert np.array_equal(ObjectSearch(image).find(ObjectOptions(class_name="membrane")), find(second))
    assert np.array_equal(ObjectSearch(image).find(ObjectOptions("cells")), find(second, "cells"))
    with pytest.raises(InputError, match="no class 'b': its classes are a, membrane"):
        ObjectSearch(image).find(ObjectOptions(class_name="b"))


def test_cells_are_found_between_the_first_class_that_is_a_boundary():
    stack = Stack(np.zeros((2, 8, 9), np.float32), Space("CYX"))
    for name, channel in [*((name, 1) for name in BOUNDARY_CLASSES), ("soma", 0)]:
        image = ClassImage(stack, ("vesicle", name))
        assert probability_of_class(image, ObjectOptions("cells")).channel == channel


def test_touching_balls_are_split_where_they_are_narrow():
    assert find(TWO_BALLS).max() == 1
    found = find(TWO_BALLS, "watershed")
    assert found.max() == 2
    assert (found > 0).sum() == TWO_BALLS.sum()
    assert (found[12, 12, 13], found[12, 12, 29]) == (1, 2)
    assert abs(int((found == 1).sum()) - int((found == 2).sum())) <= 0.1 * TWO_BALLS.sum()
    assert find(TWO_BALLS, "watershed", seed_distance=30).max() == 1


def test_the_distance_is_physical():
    space = Space("YX", (1.0, 4.0, 1.0))
    assert find_objects_in_array(TWO_BALLS[12, ::4], space, options=ObjectOptions("watershed")).max() == 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.2, 1.0)])
def test_the_distance_to_the_edge_is_that_of_scipy_up_to_its_bound(spacing):
    mask = np.random.default_rng(0).random((9, 40, 50)) < 0.97
    expected = np.minimum(ndimage.distance_transform_edt(mask, spacing), 6)
    assert np.abs(distance_to_edge(mask, spacing, 6.0) - expected).max() <= 1 / 128 + 1e-6


def test_cells_fill_the_image_and_weak_boundaries_join_them():
    four = find(cells((40, 60)), "cells", merge=0.5)
    assert (four.min(), four.max()) == (1, 4)
    assert len({four[5, 5], four[5, 55], four[35, 5], four[35, 55]}) == 4
    three = find(cells((40, 60)), "cells", merge=0.7)
    assert (three[5, 5] == three[5, 55], three.max()) == (True, 3)


@pytest.mark.parametrize("seeds", ["distance", "probability"])
def test_noise_makes_no_cells(seeds):
    noise = np.random.default_rng(0).normal(0, 0.02, (40, 60)).astype(np.float32)
    assert find(np.clip(cells((40, 60)) + noise, 0, 1), "cells", seeds=seeds).max() == 4


def test_holes_are_filled_where_one_object_encloses_them():
    mask = np.zeros((20, 20), np.bool_)
    mask[2:9, 2:9], mask[4:6, 4:6] = True, False
    mask[12:, :8], mask[15:, 2:4] = True, False
    filled = find(mask, fill_holes=True)
    assert (filled[4, 4], filled[17, 3]) == (1, 0)
    assert np.array_equal(filled > 0, ndimage.binary_fill_holes(mask))


def test_sizes_and_borders_decide_which_objects_stay_and_they_are_numbered_again():
    mask = np.zeros((12, 30), np.bool_)
    mask[0:2, 0:2], mask[5:7, 5:7], mask[5:9, 10:14], mask[5:11, 20:26] = True, True, True, True
    limits = ({}, {"smallest": 10}, {"smallest": 10, "largest": 20}, {"border": "remove"})
    assert [int(find(mask, **limit).max()) for limit in limits] == [4, 2, 1, 3]
    assert find(mask, smallest=10, largest=20)[6, 11] == 1


def test_slices_and_times_have_objects_of_their_own():
    assert find(np.ones((3, 4, 5), np.bool_), planes="slices")[:, 0, 0].tolist() == [1, 2, 3]
    probability = np.stack([bumpy((20, 30), seed) for seed in (1, 2)])
    found, (first, second) = find(probability, axes="TYX"), map(find, probability)
    assert np.array_equal(found[0], first)
    assert np.array_equal(found[1], np.where(second, second + first.max(), 0))


@pytest.mark.parametrize("method", ["components", "watershed", "cells"])
def test_a_changed_option_gives_what_a_new_search_gives(method):
    image = ClassImage(Stack(bumpy((6, 40, 40)), Space("ZYX", (2.0, 1.0, 1.0))))
    search, options = ObjectSearch(image), ObjectOptions(method, seed_distance=3)
    for change in ({}, {"seed_distance": 9.0}, {"merge": 0.8}, {"smallest": 40}, {"threshold": 0.6}, {"merge": 0.1}):
        options = replace(options, **change)
        assert np.array_equal(search.find(options), ObjectSearch(image).find(options)), change


def test_nothing_found_is_no_object():
    for method in ("components", "watershed"):
        assert not find(np.zeros((4, 5, 6), np.float32), method).any()
    assert find(np.zeros((5, 6), np.float32), "cells").max() == 1


@pytest.mark.parametrize(("value", "sentence"), [(3.0, "between 0 and 1"), (np.nan, "between 0 and 1"), (3, "int")])
def test_values_that_are_no_probabilities_are_refused(value, sentence):
    with pytest.raises(InputError, match=sentence):
        find(np.full((4, 4), value))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "magic"}, "choose one of components, watershed, cells"),
        ({"seeds": "hand"}, "choose one of distance, probability"),
        ({"border": "cut"}, "choose one of keep, remove"),
        ({"planes": "xz"}, "choose one of volume, slices"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"merge": -0.1}, "between 0 and 1"),
        ({"seed_distance": float("nan")}, "between 0 and 64"),
        ({"smallest": -1}, "0 or more"),
        ({"smallest": 9, "largest": 5}, "exchange the two sizes"),
    ],
)
def test_impossible_options_are_refused_with_the_cure(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ObjectOptions(**values)


def test_options_survive_json_and_unknown_keys_do_not() -> None:
    adapter = TypeAdapter(ObjectOptions)
    options = ObjectOptions("cells", "membrane", seeds="probability", merge=0.2, fill_holes=True)
    assert adapter.validate_json(adapter.dump_json(options)) == options
    with pytest.raises(ValidationError):
        adapter.validate_python({"methods": "cells"})
