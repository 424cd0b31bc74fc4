"""Training settings: every fault is one sentence, told before anything is read."""

import json

import pytest

from napari_skipseg.errors import SpecError
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage, UNetSpec
from napari_skipseg.training.settings import (
    Augmentation,
    TrainSettings,
    settings_from_json,
    settings_to_dict,
    slices_to_hold_out,
)

MEMBRANE = {"name": "membrane", "label": 0}
TWO = [{"name": "a", "label": 0}, {"name": "b", "label": 1}]
GOOD = {"name": "mine", "images": ["a.tif"], "labels": ["b.tif"], "classes": [MEMBRANE]}


def read(**values):
    return settings_from_json(TrainSettings, json.dumps(GOOD | values))


def test_defaults_are_a_sat_unet_on_one_class():
    settings = read()
    assert settings == TrainSettings("mine", ("a.tif",), ("b.tif",), (ClassLabel("membrane", 0),))
    assert settings.spec == UNetSpec()
    assert settings.augmentation == Augmentation()


def test_settings_survive_json():
    settings = TrainSettings(
        "x",
        ("a", "b"),
        ("c", "d"),
        (ClassLabel("m", 0), ClassLabel("n", 3)),
        ignore=9,
        validate="1-2",
        spec=ResidualFCNSpec(dimensions=3, out_channels=3, stages=(Stage("basic", 8, 2),)),
        start_from="parent",
        patch=(16, 32, 32),
        augmentation=Augmentation(swap_axes=True, rotation=5),
        voxel_size=(8, 8, 8),
        unit="nm",
    )
    assert settings_from_json(TrainSettings, json.dumps(settings_to_dict(settings))) == settings


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"classes": []}, "Name at least one class"),
        ({"classes": [MEMBRANE, MEMBRANE]}, "name and a label value of its own"),
        ({"classes": [MEMBRANE, {"name": "other", "label": 0}]}, "label value of its own"),
        ({"classes": [MEMBRANE, {"name": "other", "label": 1}]}, "2 classes need a network of 3 output channels"),
        ({"spec": {"network": "unet", "out_channels": 2}}, "1 classes need a network of 1 output channels"),
        ({"judged": [["membrane"]]}, "Only labels of several classes"),
        ({"classes": TWO, "judged": [["a"], ["b"]]}, "'judged' has 2 lists of classes for 1 images"),
        ({"classes": TWO, "judged": [[]]}, "show no class: name at least one of a, b"),
        ({"classes": TWO, "judged": [["a", "cell"]]}, "show a, cell: name at least one of a, b"),
        ({"ignore": 0}, "both a class and the value to ignore"),
        ({"images": []}, "0 images and 1 label files"),
        ({"images": ["a.tif", "c.tif"]}, "2 images and 1 label files"),
        ({"name": ""}, "cannot name a model"),
        ({"name": "../mine"}, "cannot name a model"),
        ({"name": ".hidden"}, "cannot name a model"),
        ({"patch": [64]}, "a patch of 2 lengths"),
        ({"patch": [32, 64, 64]}, "a patch of 2 lengths"),
        ({"patch": [4, 64]}, "lengths >= 8"),
        ({"patch": [64, 64], "spec": {"network": "unet", "dimensions": 3}}, "a patch of 3 lengths"),
        ({"patch": [16, 64], "spec": {"network": "residual-fcn"}}, "1/32: every length of the patch must be >= 32"),
        ({"patch": [8, 8], "spec": {"network": "unet", "widths": [4, 4, 4, 4, 4]}}, "must be >= 16"),
        ({"patch": [8, 8], "batch": 1}, "One pixel is left"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"validate_every": 0}, "must be 1 or more"),
        ({"learning_rate": 0}, "must be more than 0"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"weight_decay": -1}, "negative"),
        ({"warm_up": 2}, "share from 0 to 1"),
        ({"widen": -1}, "0 or more"),
        ({"protocol": "adam"}, "protocol is .*: choose 'modern', 'adadelta-glorot' or 'rmsprop-he'"),
        ({"precision": "f16"}, "precision is 'f16': choose 'auto', 'bf16' or 'f32'"),
        ({"patience": 3}, "Patience needs slices held out to watch: name some with validate"),
        ({"patience": -1}, "patience must be 0 or more"),
        ({"epoch": -1}, "epoch length must be 0 or more"),
        ({"epoch": 50, "steps": 10}, "An epoch of 50 steps never ends in 10"),
        ({"accumulate": 0}, "must be 1 or more"),
        ({"accumulate": 3}, "A batch of 4 cannot be taken in 3 equal parts"),
        ({"accumulate": 4, "patch": [8, 8]}, "One pixel is left"),
        ({"class_weight": 0.0}, "class weight must be more than 0"),
        ({"validate": "last"}, "no list of slices"),
        ({"validate": "5-3"}, "no list of slices"),
        ({"loss": "mse"}, "loss is 'mse': choose 'bce', .*'focal'.* or 'balanced.dice'"),
        ({"colour": "red"}, "colour"),
        ({"spec": {"network": "unet", "colour": "red"}}, "colour"),
        ({"spec": {"network": "unet", "skip": "glue"}}, "skip"),
        ({"augmentation": {"colour": 1}}, "colour"),
        ({"augmentation": {"scale": -2}}, "0 or more"),
        ({"augmentation": {"warp_grid": 0}}, "warp_grid"),
        ({"augmentation": {"shear": 2}}, "shear below 1.5"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(values, fault):
    with pytest.raises(SpecError, match=fault) as caught:
        read(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", GOOD)
def test_what_is_missing_is_named(missing):
    words = "Name at least one class" if missing == "classes" else f"not valid: {missing}"
    with pytest.raises(SpecError, match=words):
        settings_from_json(TrainSettings, json.dumps({key: value for key, value in GOOD.items() if key != missing}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(SpecError, match="training settings are not valid"):
        settings_from_json(TrainSettings, text)


@pytest.mark.parametrize(
    ("text", "slices"),
    [("", set()), ("7", {7}), ("20-24", {20, 21, 22, 23, 24}), ("0, 5,10-12", {0, 5, 10, 11, 12}), ("3-3", {3})],
)
def test_slices_are_held_out_by_number_and_range(text, slices):
    assert slices_to_hold_out(text) == slices


@pytest.mark.parametrize("text", ["a", "-3", "3-", "5-3", "1-2-3", "1.5", "²", "0-99999999999", "1;2"])
def test_what_is_no_list_of_slices_is_refused_with_an_example(text):
    with pytest.raises(SpecError, match="write it like 20-24"):
        slices_to_hold_out(text)


NEEDED = ("x", ("a",), ("b",), (ClassLabel("m", 0),))


@pytest.mark.parametrize("values", [{"protocol": "adam"}, {"loss": "mse"}, {"precision": "f16"}])
def test_an_unknown_name_is_refused_from_python_too_with_the_choices(values):
    (what, name), *_ = values.items()
    with pytest.raises(SpecError, match=f"{what} cannot be '{name}': choose one of .*, "):
        TrainSettings(*NEEDED, **values)


@pytest.mark.parametrize(
    ("protocol", "rate", "decay", "warm_up"),
    [("modern", 1.5e-3, 1e-4, 0.05), ("adadelta-glorot", 1.0, 0.0, 0.0), ("rmsprop-he", 1e-3, 2e-3, 0.0)],
)
def test_a_protocol_brings_its_rates_and_what_is_given_goes_over_them(protocol, rate, decay, warm_up):
    used = read(protocol=protocol).training_protocol
    assert (used.learning_rate, used.weight_decay, used.warm_up) == (rate, decay, warm_up)
    used = read(protocol=protocol, learning_rate=0.5, weight_decay=0.0, warm_up=0.0).training_protocol
    assert (used.learning_rate, used.weight_decay, used.warm_up) == (0.5, 0.0, 0.0)
