"""Attention of several models in one picture, and as files that lie over the image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from study_models import NETWORKS, grey_stack, make

from napari_skipseg.errors import InputError, ModelError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.studies.attention import iter_attention, predict_view
from napari_skipseg.studies.pictures import AttentionRow, draw_attention, enlarge
from napari_skipseg.studies.views import MOST_VIEWED_VOXELS, read_truth, read_view

SAT, AT = make(UNetSpec(widths=(3, 4, 5)), "sat"), make(UNetSpec(widths=(3, 4), skip="at"), "at")


def test_maps_lie_over_their_slice_of_the_image(tmp_path):
    stack = grey_stack(4, 21, 24)
    result = run_to_end(iter_attention(stack, [SAT, AT], tmp_path / "out", number=3))
    names = [file.name for file in result.files]
    assert names[0] == "attention.png"
    assert names[1:] == [
        *(f"cells_sat_{what}.tif" for what in ("probability", "binary", "attention_1", "attention_2")),
        *(f"cells_at_{what}.tif" for what in ("probability", "binary", "attention_1")),
    ]
    deep = read_stack(tmp_path / "out" / "cells_sat_attention_2.tif")
    assert (deep.space.axes, deep.shape) == ("YX", (11, 12))
    assert deep.space.voxel_size[1:] == (8.0, 8.0)
    assert deep.space.origin == (1000.0 + 3 * 50.0, 2.0, 10.0)
    recipe = read_recipe(tmp_path / "out" / "cells_sat_attention_2.tif")
    assert (recipe["operation"], recipe["input"]["slice"], recipe["gates"]) == (
        "study attention",
        3,
        ["long skip 1", "long skip 2"],
    )


def test_the_row_of_a_map_tells_its_gate_and_values(tmp_path):
    stack = grey_stack(4, 21, 24)
    result = run_to_end(iter_attention(stack, [AT], tmp_path, number=1))
    with torch.inference_mode():
        values = ((stack.data[1] - stack.data.mean()) / stack.data.std()).astype(np.float32)
        expected = AT.network(torch.from_numpy(values)[None, None]).attentions[0]
    (row,) = result.rows
    assert (row["model"], row["map"], row["gate"], row["stride"]) == ("at", 1, "long skip 1", 1)
    assert row["mean"] == pytest.approx(float(expected.mean()), abs=1e-3)
    assert row["max"] == pytest.approx(float(expected.max()), abs=1e-3)


def test_a_3d_model_takes_the_volume_and_a_2d_one_the_slice():
    stack = grey_stack(6, 12, 16)
    deep = make(UNetSpec(dimensions=3, widths=(2, 3, 4)))
    flat, whole = read_view(stack, SAT, 4), read_view(stack, deep, 4)
    assert (flat.pixels.shape, flat.part.space.origin[0]) == ((1, 12, 16), 1200.0)
    assert (whole.pixels.shape, whole.part.space.origin[0]) == ((1, 6, 12, 16), 1000.0)
    assert np.array_equal(flat.picture, whole.picture)
    assert [attention.data.shape for attention in predict_view(whole, deep).attentions] == [(6, 12, 16), (3, 6, 8)]


def test_slices_are_counted_through_time_and_the_middle_one_is_the_default():
    stack = grey_stack(2, 3, 8, 8, axes="TZYX")
    view = read_view(stack, SAT, 4)
    assert np.array_equal(view.part.data, stack.data[1, 1])
    assert read_view(stack, SAT).number == 3


def test_a_colour_slice_is_shown_in_colour():
    stack = grey_stack(12, 16, 3, axes="YXC")
    view = read_view(stack, make(UNetSpec(in_channels=3, widths=(2, 3))))
    assert view.pixels.shape == (3, 12, 16)
    assert view.picture.shape == (12, 16, 3)


def test_truth_is_told_in_the_models_classes():
    stack = grey_stack(2, 8, 8)
    labels = np.full((2, 8, 8), 255, np.uint8)
    labels[1, 2:4] = 0
    view = read_view(stack, SAT, 1)
    assert np.array_equal(read_truth(Stack(labels, Space("ZYX")), view, SAT.description), labels[1] == 0)
    with pytest.raises(InputError, match="contains no class of sat \\(0 = membrane\\)"):
        read_truth(Stack(labels, Space("ZYX")), read_view(stack, SAT, 0), SAT.description)
    with pytest.raises(InputError, match="8 × 7 pixels and one of the image 8 × 8"):
        read_truth(Stack(labels[:, :, :7], Space("ZYX")), view, SAT.description)


def test_a_map_is_enlarged_by_repeating_its_pixels():
    assert enlarge(np.array([[1, 2], [3, 4]]), 2, (3, 4)).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]


def test_the_picture_has_a_row_per_model_and_one_colour_bar():
    grey, classes = np.zeros((6, 8), np.float32), np.ones((6, 8), np.uint8)
    rows = [
        AttentionRow("sat", grey, (("1", grey), ("2", grey)), classes, classes),
        AttentionRow("at", grey, (("1", grey),), classes, classes),
    ]
    figure = draw_attention(rows)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 5 + 4
    assert len(figure.axes) == 2 * 5 + 1
    assert {axis.images[0].get_clim() for axis in shown if axis.images[0].get_cmap().name == "turbo"} == {(0, 1)}


def test_models_that_do_not_attend_or_come_twice_are_refused(tmp_path):
    stack = grey_stack(2, 8, 8)
    plain = make(replace(NETWORKS["residual-fcn"], skip="sum"), "plain")
    with pytest.raises(ModelError, match=r"'plain' has no attention maps \(its skip is sum\): choose"):
        run_to_end(iter_attention(stack, [SAT, plain], tmp_path / "out"))
    with pytest.raises(InputError, match="'sat' is named 2 times"):
        run_to_end(iter_attention(stack, [SAT, SAT], tmp_path / "out"))
    with pytest.raises(InputError, match="There is no model"):
        run_to_end(iter_attention(stack, [], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_failure_after_the_first_model_leaves_nothing(tmp_path):
    deep = make(UNetSpec(dimensions=3, widths=(2, 3)), "deep")
    with pytest.raises(InputError, match="has no Z axis"):
        run_to_end(iter_attention(grey_stack(12, 16, axes="YX"), [SAT, deep], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_is_too_large_to_look_at_is_refused():
    side = int(MOST_VIEWED_VOXELS**0.5) + 1
    with pytest.raises(InputError, match="crop it"):
        read_view(Stack(np.zeros((side, side), np.uint8), Space("YX")), SAT)
