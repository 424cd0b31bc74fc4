"""Layers to stacks and predictions to layers, without a window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_skipseg.corrections.subject import CLASS_COLORS
from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.inference.prediction import AttentionMap, Prediction
from napari_skipseg.widgets.layers.axes import axes_of, origin_of, set_calibration, voxel_size_of
from napari_skipseg.widgets.layers.placement import current_position, place_over
from napari_skipseg.widgets.layers.results import ShownResult, move_results, set_threshold, show_result, stack_of_layer


def predict(shape: tuple[int, ...], axes: str, stride: tuple[int, ...], names=("membrane",)) -> Prediction:
    values = np.random.default_rng(0).random(((len(names), *shape) if len(names) > 1 else shape), np.float32)
    sizes = tuple(-(-length // step) for length, step in zip(shape, stride, strict=True))
    maps = (AttentionMap(1, stride, np.ones(sizes, np.float32)),)
    return Prediction(values, Space(axes, (1, 1, 1), "pixel", (0, 0, 0)), names, maps, {"model": "tiny"})


def shown_of(layer: Image, prediction: Prediction, axes: str, positions=None) -> ShownResult:
    return ShownResult(prediction, axes, positions or {}, str(layer.unique_id))


@pytest.mark.parametrize(
    ("ndim", "labels", "axes"),
    [
        (2, None, "YX"),
        (3, None, "ZYX"),
        (4, None, "TZYX"),
        (3, ("t", "y", "x"), "TYX"),
        (3, ("Time", "row", "column"), "TYX"),
        (4, ("c", "z", "y", "x"), "CZYX"),
        (3, ("z", "z", "x"), "ZYX"),
    ],
)
def test_axes_come_from_labels_else_from_the_number_of_dimensions(ndim, labels, axes):
    assert axes_of(Image(np.zeros((2,) * ndim), axis_labels=labels)) == axes


def test_voxel_size_is_in_the_unit_of_x():
    layer = Image(np.zeros((2, 3, 4)), scale=(0.05, 4, 4), units=("um", "nm", "nm"), translate=(0.1, 8, 4))
    assert voxel_size_of(layer, "ZYX") == ((50.0, 4.0, 4.0), "nm")
    assert origin_of(layer, "ZYX") == (100.0, 8.0, 4.0)


def test_calibration_is_written_to_the_layer_and_leaves_time_alone():
    layer = Image(np.zeros((2, 3, 4, 5)), scale=(7, 1, 1, 1))
    set_calibration(layer, Space("TZYX", (50, 4, 4), "nm"))
    assert list(layer.scale) == [7, 50, 4, 4]
    assert [str(unit) for unit in layer.units] == ["pixel", "nanometer", "nanometer", "nanometer"]
    assert layer.axis_labels == ("t", "z", "y", "x")
    with pytest.raises(InputError, match="name 3 dimensions"):
        set_calibration(layer, Space("ZYX"))


def test_stack_of_rgb_has_its_colours_last():
    stack = stack_of_layer(Image(np.zeros((4, 5, 3), np.uint8), rgb=True), "YX")
    assert (stack.space.axes, stack.shape) == ("YXC", (4, 5, 3))


def test_stack_of_multiscale_is_its_finest_level():
    data = [np.ones((8, 8)), np.ones((4, 4))]
    assert stack_of_layer(Image(data, multiscale=True), "YX").shape == (8, 8)


def test_stack_cut_to_a_slice_keeps_its_axes_and_lies_at_its_place():
    image = np.arange(60).reshape(3, 4, 5)
    stack = stack_of_layer(Image(image, scale=(50, 4, 4), units="nm", translate=(10, 0, 0)), "ZYX", {0: 2})
    assert (stack.shape, stack.space.origin) == ((1, 4, 5), (110.0, 0.0, 0.0))
    np.testing.assert_array_equal(stack.read((0, slice(None), slice(None))), image[2])
    np.testing.assert_array_equal(np.asarray(stack.data), image[2:3])


@pytest.mark.parametrize(
    "transform",
    [
        {"scale": (50, 4, 4), "translate": (5, 6, 7)},
        {"scale": (2, 3, -4), "rotate": (10, 20, 30), "shear": [0.1, 0.2, 0.3]},
        {"scale": (2, 3, 4), "affine": np.array([[1, 0.2, 0, 5], [0, 2, 0.1, 6], [0, 0, 1, 7], [0, 0, 0, 1]])},
    ],
)
def test_a_map_lies_exactly_over_the_voxels_that_it_covers(transform):
    layer = Image(np.zeros((4, 16, 16)), units="nm", **transform)
    place = place_over(layer, (1, 8, 8), (0, 3.5, 3.5))
    small = Image(np.zeros((4, 2, 2)), **place.arguments())
    for pixel in ((0, 0, 0), (3, 1, 0), (2, 1, 1)):
        voxel = np.array(pixel) * (1, 8, 8) + (0, 3.5, 3.5)
        np.testing.assert_allclose(small.data_to_world(pixel), layer.data_to_world(voxel))


def test_results_carry_the_place_of_their_image():
    viewer = ViewerModel()
    layer = viewer.add_image(
        np.zeros((2, 9, 9)), name="em", scale=(50, 4, 4), translate=(1, 2, 3), units="nm", axis_labels=("z", "y", "x")
    )
    show_result(viewer, layer, shown_of(layer, predict((2, 9, 9), "ZYX", (1, 4, 4)), "ZYX"), 0.5)
    assert [each.name for each in viewer.layers] == ["em", "attention 1", "probability", "binary"]
    for name in ("probability", "binary"):
        assert list(viewer.layers[name].scale) == [50, 4, 4]
        assert list(viewer.layers[name].translate) == [1, 2, 3]
    attention = viewer.layers["attention 1"]
    assert (list(attention.scale), list(attention.translate)) == ([50, 16, 16], [1, 8, 9])
    assert attention.data.shape == (2, 3, 3)
    assert attention.metadata["skipseg"]["recipe"] == {"model": "tiny"}
    assert all(each.units == layer.units and each.axis_labels == ("z", "y", "x") for each in viewer.layers)


def test_results_of_a_slice_lie_at_that_slice():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((5, 8, 8)), scale=(50, 4, 4), translate=(10, 0, 0))
    show_result(viewer, layer, shown_of(layer, predict((1, 8, 8), "ZYX", (1, 2, 2)), "ZYX", {0: 3}), 0.5)
    assert viewer.layers["binary"].data.shape == (1, 8, 8)
    assert list(viewer.layers["binary"].translate) == [160, 0, 0]
    assert list(viewer.layers["attention 1"].translate) == [160, 2, 2]


def test_results_of_a_channel_are_seen_with_every_channel():
    viewer = ViewerModel()
    leading = viewer.add_image(np.zeros((3, 2, 8, 8)), axis_labels=tuple("czyx"), name="leading")
    show_result(viewer, leading, shown_of(leading, predict((2, 8, 8), "ZYX", (1, 2, 2)), "CZYX"), 0.5)
    assert viewer.layers["binary"].ndim == 3
    between = viewer.add_image(np.zeros((2, 3, 8, 8)), axis_labels=tuple("zcyx"), name="between")
    show_result(viewer, between, shown_of(between, predict((2, 8, 8), "ZYX", (1, 2, 2)), "ZCYX"), 0.5)
    repeated = viewer.layers["between: probability"].data
    assert repeated.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(repeated[:, 0], repeated[:, 2])
    assert viewer.layers["between: binary"].data.shape == (2, 3, 8, 8)
    assert viewer.layers["between: attention 1"].data.shape == (2, 3, 4, 4)


def test_segmenting_again_updates_the_layers_and_keeps_what_the_user_set():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((2, 8, 8)), name="em")
    show_result(viewer, layer, shown_of(layer, predict((2, 8, 8), "ZYX", (1, 2, 2)), "ZYX"), 0.5)
    viewer.layers["probability"].name, viewer.layers["attention 1"].visible = "mine", True
    before = list(viewer.layers)
    show_result(viewer, layer, shown_of(layer, predict((1, 8, 8), "ZYX", (1, 4, 4)), "ZYX", {0: 1}), 0.5)
    assert list(viewer.layers) == before
    assert viewer.layers["mine"].data.shape == (1, 8, 8)
    assert viewer.layers["attention 1"].visible
    assert viewer.layers["attention 1"].data.shape == (1, 2, 2)
    assert not viewer.layers["binary"].editable


def test_uncertainty_lies_hidden_over_the_image_and_goes_with_the_next_run_that_has_none():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((2, 8, 8)), scale=(50, 4, 4), name="em")
    plain = predict((2, 8, 8), "ZYX", (1, 2, 2))
    sampled = replace(plain, uncertainty=plain.probability / 4)
    show_result(viewer, layer, shown_of(layer, sampled, "ZYX"), 0.5)
    assert [each.name for each in viewer.layers] == ["em", "attention 1", "uncertainty", "probability", "binary"]
    uncertainty = viewer.layers["uncertainty"]
    assert (uncertainty.visible, uncertainty.contrast_limits, uncertainty.colormap.name) == (False, [0, 0.5], "inferno")
    assert list(uncertainty.scale) == [50, 4, 4]
    show_result(viewer, layer, shown_of(layer, replace(plain, uncertainty=plain.probability / 2), "ZYX"), 0.5)
    assert viewer.layers["uncertainty"] is uncertainty
    np.testing.assert_array_equal(uncertainty.data, plain.probability / 2)
    show_result(viewer, layer, shown_of(layer, plain, "ZYX"), 0.5)
    assert "uncertainty" not in viewer.layers


def test_results_move_with_their_image():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((2, 8, 8)))
    shown = shown_of(layer, predict((2, 8, 8), "ZYX", (1, 2, 2)), "ZYX")
    show_result(viewer, layer, shown, 0.5)
    layer.scale, layer.translate = (50, 4, 4), (0, 8, 8)
    move_results(viewer, layer, shown)
    assert list(viewer.layers["attention 1"].scale) == [50, 8, 8]
    assert list(viewer.layers["attention 1"].translate) == [0, 10, 10]


def test_each_class_has_its_probability_and_the_labels_name_the_likeliest():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((8, 8)))
    prediction = predict((8, 8), "CYX", (2, 2), names=("membrane", "mitochondrion"))
    shown = shown_of(layer, prediction, "YX")
    show_result(viewer, layer, shown, 0.9)
    assert "mitochondrion uncertainty" not in viewer.layers
    sampled = replace(prediction, uncertainty=prediction.probability / 2)
    show_result(viewer, layer, replace(shown, prediction=sampled), 0.9)
    np.testing.assert_array_equal(viewer.layers["mitochondrion uncertainty"].data, prediction.probability[1] / 2)
    np.testing.assert_array_equal(viewer.layers["mitochondrion probability"].data, prediction.probability[1])
    set_threshold(viewer, shown, 0.0)
    labels = np.asarray(viewer.layers["binary"].data)
    np.testing.assert_array_equal(labels, prediction.probability.argmax(0) + 1)


def ramp_color(layer) -> tuple[float, ...]:
    """The colour of a layer's highest value."""
    return tuple(round(float(part), 3) for part in layer.colormap.colors[-1][:3])


def rgb(color: str) -> tuple[float, ...]:
    return tuple(round(int(color[place : place + 2], 16) / 255, 3) for place in (1, 3, 5))


@pytest.mark.parametrize(
    ("names", "known", "colors"),
    [
        (("membrane",), {}, CLASS_COLORS[:1]),
        (("membrane", "mitochondrion"), {}, CLASS_COLORS[:2]),
        (("membrane", "mitochondrion"), {"mitochondrion": "#ff0000"}, (CLASS_COLORS[0], "#ff0000")),
        (("Membrane", "vesicle"), {"membrane": CLASS_COLORS[1]}, (CLASS_COLORS[1], CLASS_COLORS[0])),
    ],
)
def test_a_class_has_one_colour_in_probability_and_binary(names, known, colors):
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((8, 8)))
    axes = "CYX" if len(names) > 1 else "YX"
    shown = shown_of(layer, predict((8, 8), axes, (2, 2), names), "YX").with_colors(known)
    show_result(viewer, layer, shown, 0.5)
    titles = [f"{name} probability" for name in names] if len(names) > 1 else ["probability"]
    binary = viewer.layers["binary"].colormap
    for value, (title, color) in enumerate(zip(titles, colors, strict=True), start=1):
        assert ramp_color(viewer.layers[title]) == rgb(color)
        assert tuple(round(float(part), 3) for part in binary.color_dict[value][:3]) == rgb(color)
        assert viewer.layers[title].colormap.colors[0][:3].tolist() == [0, 0, 0]


def test_names_of_classes_come_first_and_say_preview_rather_than_probability():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((8, 8)), name="em")
    prediction = predict((8, 8), "CYX", (2, 2), names=("membrane", "mitochondrion"))
    shown = replace(shown_of(layer, prediction, "YX"), prefix="preview ", source=f"{layer.unique_id} preview")
    show_result(viewer, layer, shown, 0.5)
    names = [each.name for each in viewer.layers if each is not layer]
    assert names == ["preview attention 1", "membrane preview", "mitochondrion preview", "preview binary"]
    assert max(map(len, names)) <= 22


def test_current_position_is_that_of_the_sliders_in_voxels():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((6, 8, 8)), scale=(50, 4, 4), translate=(100, 0, 0), units="nm")
    viewer.dims.set_current_step(0, 4)
    assert current_position(viewer, layer)[0] == 4
