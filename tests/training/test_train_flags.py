"""Flags of a command line and a settings file become settings."""

import json
from dataclasses import fields

import numpy as np
import pytest
import tifffile

from napari_skipseg.cli.train import TRAIN_FLAGS
from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.networks.presets import PRESETS
from napari_skipseg.networks.specs import ResidualFCNSpec, UNetSpec
from napari_skipseg.training.finetune.labels import read_corrected
from napari_skipseg.training.flags import SPEC_FLAGS, finetune_from_flags, settings_from_flags
from napari_skipseg.training.patches import read_data
from napari_skipseg.training.settings import AUGMENTATIONS, TrainSettings

NEEDED = {"name": "mine", "images": ["a.tif"], "labels": ["b.tif"], "classes": ["membrane=0"]}


def test_flags_alone_are_enough():
    settings = settings_from_flags(None, NEEDED | {"skip": "st", "widths": "8,16", "patch": "64,32", "steps": 7})
    assert settings.classes == (ClassLabel("membrane", 0),)
    assert (settings.spec.skip, settings.spec.widths) == ("st", (8, 16))
    assert (settings.patch, settings.steps) == ((64, 32), 7)


def test_flags_go_over_the_file_and_what_is_not_given_stays(tmp_path):
    file = tmp_path / "settings.json"
    values = {"spec": {"network": "unet", "skip": "at", "widths": [4, 8]}, "steps": 5, "batch": 3}
    file.write_text(json.dumps(values))
    settings = settings_from_flags(file, NEEDED | {"skip": "org", "steps": 9, "batch": None})
    assert (settings.spec.skip, settings.spec.widths) == ("org", (4, 8))
    assert (settings.steps, settings.batch) == (9, 3)


def test_several_classes_give_the_network_a_channel_each_and_one_for_background():
    settings = settings_from_flags(None, NEEDED | {"classes": ["membrane=255", "a=b=-1"]})
    assert settings.classes == (ClassLabel("membrane", 255), ClassLabel("a=b", -1))
    assert settings.spec.out_channels == 3


def test_the_patch_has_the_dimensions_of_the_network():
    assert settings_from_flags(None, NEEDED).patch == (256, 256)
    assert settings_from_flags(None, NEEDED | {"dimensions": 3}).patch == (32, 64, 64)


@pytest.mark.parametrize(("axes", "of_labels"), [("XYZ", "XYZ"), ("XYC", "XY"), ("cyx", "YX")])
def test_named_axes_are_those_of_images_and_without_c_those_of_labels(tmp_path, axes, of_labels):
    lengths = {"Z": 5, "Y": 24, "X": 20, "C": 3}
    shape, truth = ([lengths[axis] for axis in named.upper()] for named in (axes, of_labels))
    values, target = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8), np.indices(truth)[0] % 2
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "b.tif", target.astype(np.uint8), photometric="minisblack", metadata=None)
    files = {"images": [str(tmp_path / "a.tif")], "labels": [str(tmp_path / "b.tif")], "axes": axes}
    network = {"in_channels": 3 if "C" in axes.upper() else 1, "widths": "4,8", "patch": "16,16"}
    [labelled] = read_data(settings_from_flags(None, NEEDED | files | network)).training
    [corrected] = read_corrected(finetune_from_flags(files | {"model": "tiny", "name": "mine", "classes": []}))
    depth = lengths["Z"] if "Z" in axes else 1
    assert labelled.target.shape == (depth, 24, 20)
    assert labelled.image.shape[1:] == (depth, 24, 20)
    assert corrected.labels.shape[-2:] == (24, 20)
    turned = target.transpose([of_labels.index(axis) for axis in "ZYX" if axis in of_labels])
    assert np.array_equal(np.asarray(labelled.target).squeeze(), 1 - turned)
    assert np.array_equal(np.asarray(corrected.labels[...]), turned)


@pytest.mark.parametrize("text", ["membrane", "=3", "membrane=", "membrane=x", "membrane=--5", "membrane=²"])
def test_what_is_no_class_is_refused_with_an_example(text):
    with pytest.raises(SpecError, match="write NAME=VALUE, such as membrane=0"):
        settings_from_flags(None, NEEDED | {"classes": [text]})


@pytest.mark.parametrize(("key", "flag"), [("name", "--name"), ("images", "--images"), ("classes", "--class")])
def test_a_missing_flag_is_named(key, flag):
    with pytest.raises(SpecError, match=f"Training needs {flag}"):
        settings_from_flags(None, {name: value for name, value in NEEDED.items() if name != key})


@pytest.mark.parametrize(
    ("text", "fault"),
    [("{", "not valid JSON"), ("[]", "one JSON object"), ('{"spec": "unet"}', "spec as one JSON object")],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path, text, fault):
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(SpecError, match=fault):
        settings_from_flags(file, NEEDED)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nothing\.json' cannot be read"):
        settings_from_flags(tmp_path / "nothing.json", NEEDED)


def test_the_flags_of_a_protocol_become_settings():
    flags = {
        "protocol": "rmsprop-he",
        "loss": "focal+dice",
        "batch": 8,
        "accumulate": 2,
        "validate": "1-2",
        "patience": 5,
        "epoch": 30,
        "precision": "f32",
        "class_weight": 2.0,
    }
    settings = settings_from_flags(None, NEEDED | flags | {"dropout": 0.25})
    assert {name: getattr(settings, name) for name in flags} == flags
    assert settings.spec.dropout == 0.25


def test_a_preset_goes_in_place_of_the_files_network_and_flags_over_it(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"spec": {"network": "unet", "widths": [4, 8]}}))
    settings = settings_from_flags(file, NEEDED | {"preset": "residual-fcn-short", "dropout": 0.5, "dimensions": 3})
    assert settings.spec == ResidualFCNSpec(dimensions=3, skip="none", dropout=0.5)
    assert settings.patch == (32, 64, 64)


def test_a_preset_has_as_many_outputs_as_the_classes_need():
    settings = settings_from_flags(None, NEEDED | {"preset": "unet", "classes": ["a=1", "b=2"]})
    assert settings.spec.out_channels == 3


def test_a_preset_of_another_network_is_refused():
    with pytest.raises(SpecError, match="Preset 'unet-deep' is a unet, not a residual-fcn: leave out"):
        settings_from_flags(None, NEEDED | {"preset": "unet-deep", "network": "residual-fcn"})
    assert settings_from_flags(None, NEEDED | {"preset": "unet", "network": "unet"}).spec == UNetSpec()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_named(name):
    assert settings_from_flags(None, NEEDED | {"augment": name}).augmentation == AUGMENTATIONS[name]


@pytest.mark.parametrize(
    ("flag", "names"), [("preset", [preset.name for preset in PRESETS]), ("augment", list(AUGMENTATIONS))]
)
def test_an_unknown_name_is_refused_with_the_choices(flag, names):
    with pytest.raises(SpecError, match=f"'nothing': choose one of {', '.join(names)}."):
        settings_from_flags(None, NEEDED | {flag: "nothing"})


def test_every_flag_of_the_command_is_a_setting_or_belongs_to_the_network():
    known = {field.name for field in fields(TrainSettings)} | set(SPEC_FLAGS) | {"preset", "augment"}
    assert set(TRAIN_FLAGS) <= known


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"network": "residual-fcn", "widths": "8,16"}, "--widths is for unet, vnet, di2in: give the width, stages"),
        ({"preset": "fc-densenet56", "widths": "8,16"}, "growth and layers of a Tiramisu"),
        ({"skip": "org", "select_init": "glorot"}, "--select-init needs a gate that selects: set --skip to st or sat"),
        ({"network": "residual-fcn", "select_init": "ones"}, "--select-init needs a gate that selects"),
    ],
)
def test_flags_that_mean_nothing_to_the_network_are_refused(flags, fault):
    with pytest.raises(SpecError, match=fault):
        settings_from_flags(None, NEEDED | flags)
