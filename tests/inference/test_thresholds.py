"""A threshold for each class: where it comes from, what it does to the labels, and who uses it."""

from dataclasses import replace

import numpy as np
import pytest
from test_predict import grey, make_model

from napari_skipseg.errors import InputError, ModelError
from napari_skipseg.images.files import read_recipe
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions, threshold_fields
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction, labels_of
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.saving import save_prediction
from napari_skipseg.models.description import card_facts, description_from_json, description_to_json
from napari_skipseg.objects.classes import ClassImage, thresholds_in, with_threshold
from napari_skipseg.objects.files import read_probability
from napari_skipseg.objects.find import ObjectSearch
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end

OWN = {"membrane": 0.5, "mitochondrion": 0.3}


def two_classes(thresholds=()):
    model = make_model(classes=tuple(OWN))
    return replace(model, description=replace(model.description, thresholds=thresholds))


def test_a_pixel_is_of_the_class_that_exceeds_its_threshold_the_most():
    probability = np.array([[0.6, 0.6, 0.4, 0.1], [0.35, 0.5, 0.35, 0.2]], np.float32)
    assert labels_of(probability, (0.5, 0.3)).tolist() == [1, 2, 2, 0]
    assert labels_of(probability, 0.5).tolist() == labels_of(probability, (0.5, 0.5)).tolist() == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="3 thresholds"):
        labels_of(probability, (0.5, 0.5, 0.5))


def test_options_take_the_models_thresholds_where_none_is_asked_for():
    assert SegmentOptions().with_thresholds(OWN).thresholds_of(OWN) == (0.5, 0.3)
    assert SegmentOptions(threshold=0.7).with_thresholds(OWN).thresholds_of(OWN) == (0.7, 0.7)
    one = SegmentOptions(class_threshold=("membrane=0.9",)).with_thresholds(OWN)
    assert one.thresholds_of(OWN) == (0.9, 0.3)
    assert one.with_thresholds(OWN) == one


@pytest.mark.parametrize("text", ["membrane", "membrane=", "=0.5", "membrane=1.5", "membrane=nan", "membrane=x"])
def test_an_impossible_threshold_of_a_class_is_refused(text):
    with pytest.raises(InputError, match="NAME=VALUE"):
        SegmentOptions(class_threshold=(text,))


def test_a_threshold_of_an_unknown_class_or_two_of_one_are_refused():
    with pytest.raises(InputError, match="membrane, mitochondrion"):
        SegmentOptions(class_threshold=("nucleus=0.5",)).with_thresholds(OWN)
    with pytest.raises(InputError, match="two thresholds"):
        SegmentOptions(class_threshold=("membrane=0.5", "membrane=0.6"))


def test_equal_thresholds_are_one_number():
    assert threshold_fields({"a": 0.4, "b": 0.4}) == {"threshold": 0.4, "class_threshold": ()}
    assert threshold_fields(OWN) == {"threshold": None, "class_threshold": ("membrane=0.5", "mitochondrion=0.3")}


def test_a_run_uses_the_models_thresholds_and_its_recipe_says_them(tmp_path):
    stack = Stack(grey(2, 40, 50), Space("ZYX"), name="a")
    prediction = run_to_end(iter_predict(RunSpec(stack, two_classes((0.5, 0.3)), SegmentOptions("cpu", tile=24))))
    assert prediction.thresholds == (0.5, 0.3)
    assert thresholds_in(prediction.recipe) == OWN
    np.testing.assert_array_equal(prediction.binary().compute(), labels_of(prediction.probability, (0.5, 0.3)))
    _, binary, *_ = save_prediction(prediction, tmp_path, "a")
    assert thresholds_in(read_recipe(binary)) == OWN
    moved = save_prediction(prediction, tmp_path / "b", "a", {"membrane": 0.2, "mitochondrion": 0.9})
    assert thresholds_in(read_recipe(moved[1])) == {"membrane": 0.2, "mitochondrion": 0.9}
    assert read_probability(moved[0]).thresholds == {"membrane": 0.2, "mitochondrion": 0.9}


def test_the_model_file_keeps_the_thresholds_and_the_card_says_them():
    description = two_classes((0.5, 0.31)).description
    assert description_from_json(description_to_json(description), "here") == description
    assert description.class_thresholds == {"membrane": 0.5, "mitochondrion": 0.31}
    assert card_facts(description)["Thresholds"] == "membrane 0.50, mitochondrion 0.31"
    assert two_classes().description.class_thresholds == {"membrane": 0.5, "mitochondrion": 0.5}
    for wrong in ((0.5,), (0.5, 1.5)):
        with pytest.raises(ModelError, match="threshold"):
            replace(description, thresholds=wrong)


def test_objects_are_found_above_the_threshold_of_their_class():
    probability = np.zeros((2, 8, 8), np.float32)
    probability[1, 2:4, 2:4] = 0.4
    space = Space("CYX")
    image = ClassImage(Stack(probability, space), tuple(OWN), thresholds=OWN)
    found = ObjectSearch(image).find(ObjectOptions(class_name="mitochondrion"))
    assert np.count_nonzero(found) == 4
    assert not ObjectSearch(image).find(ObjectOptions(class_name="mitochondrion", threshold=0.5)).any()
    assert with_threshold(image, ObjectOptions()).threshold == 0.5
    prediction = Prediction(probability, space, tuple(OWN), thresholds=(0.5, 0.3))
    from napari_skipseg.api import find_objects

    assert np.count_nonzero(find_objects(prediction, class_name="mitochondrion")) == 4
