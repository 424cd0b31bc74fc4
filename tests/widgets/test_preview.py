"""Preview: which part of an image it takes, and where its layers lie."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.widgets.segment.part import cut_stack, find_part

FLAT, DEEP = {"Y": 1024, "X": 1024}, {"Z": 64, "Y": 96, "X": 96}


def press(qtbot, panel) -> None:
    tab = panel.segment_tab
    assert tab.preview_button.isEnabled(), tab.message.text()
    qtbot.mouseClick(tab.preview_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running)


@pytest.mark.parametrize(
    ("box", "shape", "axes", "least", "part"),
    [
        (((3, 3), (1000, 1099), (1000, 1099)), (9, 2048, 2048), "ZYX", FLAT, ((3, 4), (528, 1552), (528, 1552))),
        (((3, 3), (0, 20), (2040, 2047)), (9, 2048, 2048), "ZYX", FLAT, ((3, 4), (0, 1024), (1024, 2048))),
        (((3, 3), (0, 511), (0, 700)), (9, 512, 3000), "ZYX", FLAT, ((3, 4), (0, 512), (0, 1024))),
        (((0, 20), (1990, 1999)), (2000, 2000), "YX", FLAT, ((0, 1024), (976, 2000))),
        (((100, 1500), (0, 1999)), (2000, 2000), "YX", FLAT, ((96, 1504), (0, 2000))),
        (((2, 2), (0, 99), (0, 99)), (5, 100, 100), "TYX", FLAT, ((2, 3), (0, 100), (0, 100))),
        (((50, 50), (200, 220), (10, 20)), (200, 400, 400), "ZYX", DEEP, ((16, 80), (160, 256), (0, 96))),
        (((2, 2), (199, 199), (0, 300), (0, 20)), (4, 200, 400, 50), "TZYX", DEEP,
         ((2, 3), (136, 200), (0, 304), (0, 50))),
        (((0, 5), (30, 30), (0, 399)), (6, 400, 400), "ZYX", FLAT, ((0, 6), (0, 400), (0, 400))),
    ],
)  # fmt: skip
def test_the_part_holds_all_that_is_in_view_and_is_as_long_as_a_tile(box, shape, axes, least, part):
    found = find_part(box, shape, axes, least, ndisplay=2)
    assert tuple((each.start, each.stop) for each in found.values()) == part
    assert list(found) == list(range(len(shape)))


def test_in_a_view_of_three_dimensions_a_flat_network_takes_the_middle_slice():
    found = find_part(((0, 8), (0, 99), (0, 99)), (9, 100, 100), "ZYX", FLAT, ndisplay=3)
    assert found[0] == slice(4, 5)


def test_channels_are_left_whole():
    assert list(find_part(((1, 1), (0, 9), (0, 9)), (2, 10, 10), "CYX", FLAT, ndisplay=2)) == [1, 2]


def test_the_part_of_a_stack_lies_where_it_was():
    image = np.arange(2 * 8 * 9 * 3).reshape(2, 8, 9, 3)
    stack = Stack(image, Space("ZYXC", (50.0, 4.0, 2.0), "nm", (10.0, 0.0, 1.0)), file="somewhere.tif")
    part = cut_stack(stack, {0: slice(1, 2), 1: slice(2, 6), 2: slice(3, 9)})
    assert (part.space.origin, part.file, part.shape) == ((60.0, 8.0, 7.0), "", (1, 4, 6, 3))
    np.testing.assert_array_equal(np.asarray(part.data), image[1:2, 2:6, 3:9])


@pytest.mark.gui
def test_preview_segments_what_is_on_screen_and_segment_takes_its_place(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image = (np.arange(3 * 1500 * 1600) % 251).astype(np.uint8).reshape(3, 1500, 1600)
    viewer.add_image(image, name="em", scale=(50, 4, 4), units="nm")
    panel.segment_tab.form.options.samples.setValue(2)
    panel.segment_tab.form.options.dropout.setValue(0.2)
    viewer.dims.set_current_step(0, 2)
    camera = getattr(viewer, "scene", viewer).camera
    camera.center, camera.zoom = (0, 4 * 1400, 4 * 800), 1.0
    press(qtbot, panel)
    stack, _, options = engine.calls[0]
    assert (stack.shape, stack.space.origin, engine.previews) == ((1, 576, 576), (100.0, 3696.0, 2048.0), [True])
    assert (options.tile, options.attention, options.samples, options.dropout) == (576, False, 0, None)
    assert engine.wholes[0].shape == image.shape
    assert [layer.name for layer in viewer.layers] == ["em", "preview probability", "preview binary"]
    probability = viewer.layers["preview probability"]
    np.testing.assert_allclose(probability.data, image[2:, 924:, 512:1088] / 255, atol=1e-6)
    assert list(probability.translate) == [100, 3696, 2048]
    assert probability.metadata["skipseg"]["role"] == "probability"
    assert panel.segment_tab.form.image.count() == 1
    panel.segment_tab.form.threshold.setValue(0.25)
    np.testing.assert_array_equal(np.asarray(viewer.layers["preview binary"].data), probability.data > 0.25)
    viewer.layers["em"].translate = (0, 8, 8)
    assert list(viewer.layers["preview binary"].translate) == [100, 3704, 2056]
    assert not panel.segment_tab.save_button.isEnabled()
    camera.center = (0, 0, 0)
    press(qtbot, panel)
    assert len(viewer.layers) == 3
    assert list(probability.translate) == [100, 8, 8]
    panel.segment_tab.form.options.samples.setValue(0)
    panel.segment_tab.segment()
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    assert [layer.name for layer in viewer.layers] == ["em", "probability", "binary"]
    assert engine.previews == [True, True, False]


@pytest.mark.gui
def test_a_volume_is_previewed_in_a_slab_with_a_small_tile(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(np.full((100, 200, 200), 9, np.uint8), name="em")
    combo = panel.segment_tab.form.model
    combo.setCurrentIndex(combo.findData("tiny-3d"))
    combo.activated.emit(combo.currentIndex())
    viewer.dims.set_current_step(0, 80)
    getattr(viewer, "scene", viewer).camera.zoom = 100.0
    press(qtbot, panel)
    stack, _, options = engine.calls[0]
    assert (stack.shape, stack.space.origin[0], options.tile) == ((64, 96, 96), 32.0, 96)


@pytest.mark.gui
def test_grey_values_are_those_of_the_whole_and_measured_once_unless_rescaled(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    layer = viewer.add_image(np.full((3, 32, 48), 9, np.uint8), name="em")
    press(qtbot, panel)
    assert (engine.greys[0], engine.wholes[0].shape) == (None, (3, 32, 48))
    press(qtbot, panel)
    assert engine.greys[1].normalization.mean == 100.0
    layer.data = np.full((3, 32, 48), 7, np.uint8)
    press(qtbot, panel)
    assert engine.greys[2] is None
    layer.scale, layer.units = (50, 8, 8), ["nm"] * 3
    panel.segment_tab.form.rescale.setChecked(True)
    press(qtbot, panel)
    press(qtbot, panel)
    assert engine.greys[3:] == [None, None]


@pytest.mark.gui
def test_a_result_is_not_seen_through_a_preview_and_comes_back_after_it(open_panel, qtbot, engine):
    engine.levels = (1,)
    viewer, panel = open_panel()
    viewer.add_image(np.full((3, 32, 48), 9, np.uint8), name="em")
    panel.segment_tab.segment()
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    press(qtbot, panel)
    visible = {layer.name: layer.visible for layer in viewer.layers}
    assert not visible["probability"]
    assert not visible["binary"]
    assert visible["preview binary"]
    assert panel.segment_tab.save_button.isEnabled()
    for name in ("preview probability", "preview binary"):
        viewer.layers.remove(name)
    visible = {layer.name: layer.visible for layer in viewer.layers}
    assert (visible["probability"], visible["binary"], visible["attention 1"]) == (True, True, False)
