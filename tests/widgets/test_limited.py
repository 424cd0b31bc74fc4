"""Runs that are limited to a drawn box, or to what is on screen, in a real window."""

from __future__ import annotations

import numpy as np
import pytest
from hand import Hand, choose, ramp, segment, settle
from qtpy.QtCore import Qt

from napari_skipseg.errors import InputError
from napari_skipseg.widgets.segment.part import box_of_shapes, mask_of_layer

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


def test_a_drawn_box_is_segmented_at_its_place_and_again(open_panel, qtbot, engine, painted) -> None:
    viewer, panel = open_panel()
    tab, image = panel.segment_tab, ramp(5, 64, 64)
    viewer.add_image(image, name="em", scale=(50, 4, 4), translate=(0, 40, 20), units="nm")
    shapes = viewer.add_shapes(ndim=3, name="here", scale=(50, 4, 4), translate=(0, 40, 20), units="nm")
    tab.form.extent.opening.emit()
    assert tab.form.extent.findText("box of 'here'") < 0, "there is no shape yet"
    viewer.reset_view()
    settle()
    shapes.mode = "add_rectangle"
    Hand(viewer, panel).drag((10, 12), (20, 20), (30, 41))
    tab.form.extent.opening.emit()
    choose(tab.form.extent, shapes)
    segment(qtbot, panel)
    box = engine.calls[-1][2].box
    layer = viewer.layers[f"Box {box} probability"]
    depth, rows, columns = layer.data.shape
    assert depth == 5, "a box that is drawn on one slice is one of all slices"
    assert abs(rows - 20) <= 2
    assert abs(columns - 29) <= 2
    top, left = (round(float(place)) for place in (np.asarray(layer.translate) - (0, 40, 20))[1:] / 4)
    np.testing.assert_allclose(layer.data, image[:, top : top + rows, left : left + columns] / 255, atol=1e-6)
    np.testing.assert_array_equal(layer.scale, (50, 4, 4))
    assert [str(unit) for unit in layer.units] == ["nanometer"] * 3
    assert f"Box {box} segmented in" in tab.done.text()
    shapes.data = []
    choose(tab.form.extent, "whole")
    segment(qtbot, panel)
    assert engine.calls[-1][2].box == ""
    assert viewer.layers["probability"].data.shape == (5, 64, 64)
    viewer.layers.selection = {layer}
    qtbot.mouseClick(tab.again_button, LEFT)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert engine.calls[-1][2].box == box
    np.testing.assert_array_equal(viewer.layers[f"Box {box} probability"].translate, layer.translate)


def test_what_is_on_screen_is_segmented_and_a_box_beside_the_image_is_refused(open_panel, qtbot, engine) -> None:
    viewer, panel = open_panel()
    tab = panel.segment_tab
    layer = viewer.add_image(ramp(64, 64), name="em")
    getattr(viewer, "scene", viewer).camera.zoom *= 4
    settle()
    choose(tab.form.extent, "view")
    segment(qtbot, panel)
    box = engine.calls[-1][2].box
    rows, columns = viewer.layers[f"Box {box} probability"].data.shape
    assert rows < 64
    assert columns < 64
    shapes = viewer.add_shapes([[[100, 100], [100, 120], [120, 120], [120, 100]]], name="beside")
    tab.form.extent.opening.emit()
    choose(tab.form.extent, shapes)
    assert "lie beside 'em'" in tab.message.text()
    assert not tab.segment_button.isEnabled()
    shapes.data = [[[3.4, 3.4], [3.4, 9.4], [3.6, 9.4], [3.6, 3.4]]]
    with pytest.raises(InputError, match="cover no voxel along Y"):
        box_of_shapes(viewer, shapes, layer, "YX")
    shapes.data = [[[10, 20], [20, 30], [30, 20], [20, 10]]]
    box, note = box_of_shapes(viewer, shapes, layer, "YX")
    assert box == "y=10:31,x=10:31"
    assert "no upright rectangles" in note
    shapes.data = [[[-5, -5], [-5, 9], [70, 9], [70, -5]]]
    assert box_of_shapes(viewer, shapes, layer, "YX") == ("y=0:64,x=0:10", "")


def test_shapes_on_several_slices_limit_the_slices_too(open_panel) -> None:
    viewer, _ = open_panel()
    layer = viewer.add_image(ramp(2, 9, 32, 32), name="em", scale=(1, 50, 4, 4))
    corners = np.array([[0, 5, 4, 4], [0, 5, 4, 12], [0, 5, 20, 12], [0, 5, 20, 4]], float)
    shapes = viewer.add_shapes([corners, corners - [0, 3, 0, 0]], name="boxes", scale=(1, 50, 4, 4))
    assert box_of_shapes(viewer, shapes, layer, "TZYX") == ("z=2:6,y=4:21,x=4:13", "")
    half = viewer.add_shapes([corners], name="finer", scale=(1, 50, 2, 2))
    assert box_of_shapes(viewer, half, layer, "TZYX") == ("y=2:11,x=2:7", "")


def test_a_labels_layer_is_a_mask_and_again(open_panel, qtbot, engine) -> None:
    viewer, panel = open_panel()
    tab, image = panel.segment_tab, ramp(5, 64, 64)
    place = {"scale": (50, 4, 4), "translate": (0, 40, 20), "units": "nm"}
    viewer.add_image(image, name="em", **place)
    values = np.zeros((5, 64, 64), int)
    values[1:3, 20:30, 8:40] = 1
    values[2, 22:25, 10:20] = 0
    labels = viewer.add_labels(values, name="here", **place)
    tab.form.extent.opening.emit()
    choose(tab.form.extent, labels)
    segment(qtbot, panel)
    assert engine.calls[-1][2].mask == "here"
    layer = viewer.layers["Mask here probability"]
    cut = np.s_[1:3, 20:30, 8:40]
    np.testing.assert_allclose(layer.data, np.where(values, image / 255, 0)[cut], atol=1e-6)
    np.testing.assert_allclose(layer.translate, (50, 40 + 80, 20 + 32))
    assert tab.done.text().startswith("Mask here segmented in")
    expected = np.mean(image[values > 0] / 255 > 0.5)
    assert tab.shares["membrane"] == pytest.approx(expected), (
        "outside of the mask there is no result, also no background"
    )
    tab.form.extent.opening.emit()
    assert tab.form.extent.findText("mask 'Mask here binary'") < 0, "a result is no mask"
    choose(tab.form.extent, "whole")
    segment(qtbot, panel)
    assert (engine.calls[-1][2].mask, engine.masks[-1]) == ("", None)
    assert viewer.layers["probability"].data.shape == (5, 64, 64)
    viewer.layers.selection = {layer}
    qtbot.mouseClick(tab.again_button, LEFT)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert engine.calls[-1][2].mask == "here"
    np.testing.assert_array_equal(np.asarray(engine.masks[-1].data), values)
    assert "Run again as before" in tab.message.text()
    viewer.layers.remove(labels)
    viewer.layers.selection = {layer}
    qtbot.mouseClick(tab.again_button, LEFT)
    assert "The mask 'here' of this result is not open, and lies in no file" in tab.message.text()


def test_a_mask_that_does_not_lie_over_the_image_is_refused(open_panel) -> None:
    viewer, _ = open_panel()
    layer = viewer.add_image(ramp(2, 3, 32, 40), name="em", scale=(1, 50, 4, 4), units=("s", "nm", "nm", "nm"))
    size = {"scale": (50, 4, 4), "units": "nm"}
    values = np.ones((3, 32, 40), int)
    assert mask_of_layer(viewer.add_labels(values, **size), layer, "TZYX").axes == "ZYX"
    for labels, said in (
        (viewer.add_labels(values[:, 1:], **size), "give a mask of the image's shape"),
        (viewer.add_labels(values[0], scale=(4, 4), units="nm"), "has 2 axes"),
        (viewer.add_labels(values, scale=(50, 4, 8), units="nm"), "give a mask of the same voxel size"),
        (viewer.add_labels(values, translate=(0, 0, 40), **size), "lies beside 'em'"),
    ):
        with pytest.raises(InputError, match=said):
            mask_of_layer(labels, layer, "TZYX")
