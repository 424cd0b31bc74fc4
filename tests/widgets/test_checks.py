"""What is wrong with the choices, without a window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image

from napari_skipseg.models.catalog import describe_model
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.checks import Choices, find_faults, find_warning
from napari_skipseg.widgets.segment import file_name
from napari_skipseg.widgets.work import TimeLeft, in_words


@pytest.fixture
def choices() -> Choices:
    return Choices(Image(np.ones((3, 8, 8)), name="em"), "ZYX", (50, 4, 4), "nm", describe_model("tiny-2d"))


def test_right_choices_have_no_fault_and_give_the_engines_options(choices):
    assert find_faults(choices) == {}
    options = replace(choices, tile=64, flips=True, threshold=0.3, channel=2, device="cpu").options()
    assert (options.tile, options.flips, options.threshold, options.device) == (64, True, 0.3, "cpu")
    assert options.channel is None
    assert (options.samples, options.dropout) == (0, None)


def test_the_dropout_rate_reaches_the_engine_with_samples_only(choices):
    sampled = replace(choices, samples=8, dropout=0.25)
    assert find_faults(sampled) == {}
    assert (sampled.options().samples, sampled.options().dropout) == (8, 0.25)
    assert replace(sampled, samples=0).options().dropout is None


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
        ({"samples": 8, "dropout": 0.2, "flips": True}, "samples"),
        ({"samples": 8}, "dropout"),
    ],
)
def test_a_wrong_field_is_named(choices, change, field):
    assert list(find_faults(replace(choices, **change))) == [field]


def test_a_model_trained_with_dropout_needs_no_rate(choices):
    trained = replace(choices.model, spec=replace(choices.model.spec, dropout=0.5))
    assert find_faults(replace(choices, samples=8, model=trained)) == {}
    assert "trained without dropout" in find_faults(replace(choices, samples=8))["dropout"]


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
    assert "not known" in find_warning(replace(choices, unit="pixel"))
    assert "trained at 4 × 4 nm" in find_warning(replace(choices, voxel_size=(50, 20, 20)))
    assert find_warning(replace(choices, voxel_size=(0.05, 0.004, 0.004), unit="µm")) == ""


def test_time_left_comes_from_the_pace_of_the_tiles():
    now = [0.0]
    left = TimeLeft(lambda: now[0])
    texts = []
    for second, done in ((0, 0), (5, 1), (6, 1), (7, 2), (8, 2), (9, 3)):
        now[0] = second
        texts.append(left.describe(Progress(done, 9, f"tile {done} of 9")))
    assert texts[2] == "tile 1 of 9"
    assert texts[3:] == [
        "tile 2 of 9, about 14 s left",
        "tile 2 of 9, about 13 s left",
        "tile 3 of 9, about 12 s left",
    ]
    assert [in_words(seconds) for seconds in (0.2, 90, 3700, 7200)] == ["1 s", "2 min", "1 h 2 min", "2 h 0 min"]


def test_a_layers_name_becomes_a_file_name():
    assert file_name("a/b: c?.") == "a_b_ c_"
    assert file_name("..") == "image"
