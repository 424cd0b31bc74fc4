"""What is wrong with the choices, without a window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image

from napari_skipseg.inference.prediction import file_name
from napari_skipseg.models.catalog import describe_model
from napari_skipseg.widgets.segment.checks import (
    SegmentFormValues,
    find_faults,
    find_rescaling,
    find_warning,
    offers_planes,
)


@pytest.fixture
def choices() -> SegmentFormValues:
    return SegmentFormValues(Image(np.ones((3, 8, 8)), name="em"), "ZYX", (50, 4, 4), "nm", describe_model("tiny-2d"))


OWN = ("layer", "axes", "voxel_size", "unit", "model", "model_fault", "channel", "device", "rescale", "thresholds")


def changed(choices, **changes):
    """Return the choices with fields, or values of the other options, changed."""
    own = {name: value for name, value in changes.items() if name in OWN}
    return replace(
        choices, **own, other_options={**choices.other_options, **{n: v for n, v in changes.items() if n not in OWN}}
    )


def test_right_choices_have_no_fault_and_give_the_engines_options(choices):
    assert find_faults(choices) == {}
    options = changed(choices, tile=64, average=4, thresholds={"mitochondrion": 0.3}, channel=2, device="cpu").options()
    assert (options.tile, options.average, options.threshold, options.device) == (64, 4, 0.3, "cpu")
    assert options.channel is None
    assert (options.samples, options.dropout, options.planes, options.rescale) == (0, None, "xy", False)


def test_the_dropout_rate_reaches_the_engine_with_samples_only(choices):
    sampled = changed(choices, samples=8, dropout=0.25)
    assert find_faults(sampled) == {}
    assert (sampled.options().samples, sampled.options().dropout) == (8, 0.25)
    assert changed(sampled, samples=0).options().dropout is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer": None}, "image"),
        ({"layer": Image(np.ones((0, 8, 8)), contrast_limits=(0, 1))}, "image"),
        ({"axes": "ZY"}, "axes"),
        ({"axes": "YXC"}, "channel"),
        ({"axes": "QYX"}, "axes"),
        ({"voxel_size": (50, 0, 4)}, "voxel size"),
        ({"model": None, "model_fault": "The model is damaged."}, "model"),
        ({"tile": 31}, "tile"),
        ({"samples": 1, "dropout": 0.2}, "samples"),
        ({"samples": 8, "dropout": 0.2, "average": 8}, "samples"),
        ({"samples": 8, "dropout": 0.2, "planes": "xyz"}, "samples"),
        ({"average": 4, "planes": "xyz"}, "planes"),
        ({"rescale": True, "voxel_size": (50, 80, 80)}, "rescale"),
        ({"samples": 8}, "dropout"),
    ],
)
def test_a_wrong_field_is_named(choices, change, field):
    assert list(find_faults(changed(choices, **change))) == [field]


def test_a_model_trained_with_dropout_needs_no_rate(choices):
    trained = replace(choices.model, spec=replace(choices.model.spec, dropout=0.5))
    assert find_faults(changed(choices, samples=8, model=trained)) == {}
    assert "trained without dropout" in find_faults(changed(choices, samples=8))["dropout"]


def test_a_3d_model_needs_depth(choices):
    choices = replace(choices, model=describe_model("tiny-3d"))
    assert find_faults(choices) == {}
    assert (choices.seen, choices.loops) == ("ZYX", ())
    assert "no Z axis" in find_faults(replace(choices, axes="TYX"))["model"]


def test_colours_of_rgb_are_no_axis(choices):
    rgb = replace(choices, layer=Image(np.ones((8, 8, 3)), rgb=True), axes="YX", channel=1)
    assert find_faults(rgb) == {}
    assert rgb.options().channel == 1
    assert "leave C out" in find_faults(replace(rgb, axes="YC"))["axes"]


def test_a_voxel_size_far_from_the_models_is_told(choices):
    assert find_warning(choices) == ""
    assert "not known; tiny-2d was trained at 4 nm" in find_warning(replace(choices, unit="pixel"))
    assert "choose the unit" in find_warning(replace(choices, unit="pixel"))
    assert "choose the unit" not in find_warning(replace(choices, unit="pixel", voxel_size=(1.0, 1.0, 1.0)))
    far = replace(choices, voxel_size=(50, 20, 20))
    assert find_warning(far) == "tiny-2d was not trained on such pixels: rescale, or check the result carefully."
    assert find_warning(replace(far, rescale=True)) == ""
    assert find_warning(replace(choices, voxel_size=(0.05, 0.004, 0.004), unit="µm")) == ""


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"voxel_size": (50, 8, 8)}, "Pixels are 8 nm; tiny-2d was trained at 4 nm."),
        ({"voxel_size": (50, 8, 4)}, "Pixels are 8 × 4 nm; tiny-2d was trained at 4 nm."),
        ({"voxel_size": (0.05, 0.008, 0.008), "unit": "µm"}, "Pixels are 0.008 µm; tiny-2d was trained at 0.004 µm."),
        ({"voxel_size": (8, 8, 8), "planes": "xyz"}, "Voxels are 8 nm; tiny-2d was trained at 4 nm."),
        ({"planes": "xyz"}, "Voxels are 50 × 4 × 4 nm; tiny-2d was trained at 4 nm."),
        ({"voxel_size": (30, 4, 4)}, None),
        ({"voxel_size": (50, 4.1, 4.1)}, None),
        ({"voxel_size": (8, 8, 8), "unit": "pixel"}, None),
        ({"voxel_size": (50, 0, 8)}, None),
        ({"voxel_size": (50, 8, 8), "axes": "ZY"}, None),
        ({"voxel_size": (50, 8, 8), "layer": None}, None),
        ({"voxel_size": (50, 8, 8), "model": None}, None),
    ],
)
def test_rescaling_is_offered_where_voxels_are_known_and_differ(choices, changes, difference):
    asked = changed(choices, rescale=True, **changes)
    found = find_rescaling(asked)
    assert (found.difference if found else None) == difference
    assert asked.options().rescale == (difference is not None)


def test_what_rescaling_costs_is_said(choices):
    assert "About 4 times slower" in find_rescaling(replace(choices, voxel_size=(50, 8, 8))).hint
    assert "faster" in find_rescaling(replace(choices, voxel_size=(50, 2, 2))).hint


def test_a_3d_model_is_offered_the_depth_of_its_training_too(choices):
    volume = replace(choices, model=describe_model("tiny-3d"), voxel_size=(25, 4, 4))
    assert find_rescaling(volume).difference == "Voxels are 25 × 4 × 4 nm; tiny-3d was trained at 50 × 4 × 4 nm."
    assert find_rescaling(volume).size == "50 × 4 × 4 nm"


def test_voxels_more_than_16_times_as_long_cannot_be_rescaled(choices):
    far = replace(choices, voxel_size=(50, 80, 80))
    assert find_faults(far) == {}
    assert "20 times as long" in find_faults(replace(far, rescale=True))["rescale"]
    assert find_faults(replace(choices, voxel_size=(50, 60, 60), rescale=True)) == {}


def test_three_planes_are_for_2d_models_on_volumes(choices):
    planes = changed(choices, planes="xyz")
    assert (planes.options().planes, planes.spanned, planes.loops) == ("xyz", "ZYX", ())
    assert (planes.seen, choices.spanned, choices.loops) == ("YX", "YX", (0,))
    times = changed(planes, axes="TYX")
    assert (times.options().planes, times.loops, offers_planes(times)) == ("xy", (0,), False)
    volume_model = changed(planes, model=describe_model("tiny-3d"), average=4)
    assert (volume_model.options().planes, find_faults(volume_model)) == ("xy", {})
    assert not offers_planes(changed(planes, layer=Image(np.ones((1, 8, 8)))))


def test_a_layers_name_becomes_a_file_name():
    assert file_name("a/b: c?.") == "a_b_ c_"
    assert file_name("..") == "image"
