"""Accepting, looking for places, and earlier corrections: with real keys and buttons in a real window."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hand import Hand, correct, open_and_correct, put_away, ramp, segment
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_skipseg.corrections.catalog import find_corrections
from napari_skipseg.corrections.store import open_corrections
from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.widgets.correct.accept import count_pixels, rectangle_box
from napari_skipseg.widgets.correct.uncertain_regions import (
    describe_search,
    go_to_voxel,
    is_region_done,
    weigh_classes,
)
from napari_skipseg.widgets.layers.placement import camera_of, visible_box
from napari_skipseg.widgets.layers.results import ShownResult
from napari_skipseg.widgets.panel import wait_for

pytestmark = pytest.mark.gui

LEFT = Qt.MouseButton.LeftButton


def test_an_accepted_slice_is_the_prediction_at_the_threshold_in_one_colour_beside_the_strokes(open_panel, qtbot):
    image = ramp(3, 32, 48)
    viewer, panel, hand = open_and_correct(open_panel, qtbot, image, is_segmented=True)
    tab = panel.correct_tab
    corrections, strokes = tab.corrections(), tab.session.layers.strokes
    viewer.dims.set_current_step(0, 1)
    hand.drag((10, 10), (10, 40))
    painted = np.asarray(strokes.data).copy()
    panel.segment_tab.form.threshold.setValue(0.6)
    hand.press(Qt.Key.Key_A)
    expected = np.zeros_like(image)
    expected[1] = 1 + (image[1] / 255 > 0.6)
    np.testing.assert_array_equal(corrections.reviewed, expected)
    panel.segment_tab.form.threshold.setValue(0.1)
    np.testing.assert_array_equal(corrections.reviewed, expected)
    np.testing.assert_array_equal(strokes.data, painted)
    assert tab.body.amount.text() == "1,536 pixels on 1 slice (1,536 accepted)"
    layers = tab.session.layers
    colors = [tuple(layers.reviewed.get_color(value)) for value in (1, 2, 7)]
    assert colors[0] == colors[1] == colors[2]
    assert colors[0] not in [tuple(layers.strokes.get_color(value)) for value in (1, 2)]
    assert layers.reviewed.opacity < 0.3
    tab.actions.recolor_class(2, "#123456")
    assert tuple(layers.reviewed.get_color(2)) == colors[0]
    hand.press(Qt.Key.Key_T)
    assert not np.asarray(corrections.reviewed).any()
    np.testing.assert_array_equal(strokes.data, painted)


def test_undo_takes_back_what_was_done_last_and_ctrl_z_keeps_to_strokes(open_panel, qtbot):
    _, panel, hand = open_and_correct(open_panel, qtbot, ramp(3, 32, 48), is_segmented=True)
    tab = panel.correct_tab
    corrections, buttons = tab.corrections(), tab.body.buttons

    def stands():
        return int(np.count_nonzero(corrections.strokes)), int(np.count_nonzero(corrections.reviewed))

    hand.drag((10, 10), (10, 40))
    first, _ = stands()
    hand.press(Qt.Key.Key_A)
    accepted = np.asarray(corrections.reviewed)
    assert stands() == (first, 32 * 48)
    qtbot.mouseClick(buttons["undo"], LEFT)
    assert stands() == (first, 0)
    assert tab.message.text() == "The last acceptance is undone; your strokes are still there."
    hand.press(Qt.Key.Key_U)
    assert stands() == (0, 0)
    hand.press(Qt.Key.Key_U)
    assert tab.message.text().startswith("There is nothing to undo")
    qtbot.mouseClick(buttons["redo"], LEFT)
    assert stands() == (first, 0)
    hand.press(Qt.Key.Key_U, Qt.KeyboardModifier.ShiftModifier)
    assert stands() == (first, 32 * 48)
    np.testing.assert_array_equal(corrections.reviewed, accepted)
    hand.drag((25, 10), (25, 40))
    both, _ = stands()
    assert both > first
    hand.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert stands() == (first, 32 * 48)
    hand.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert stands() == (0, 32 * 48)
    hand.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert stands() == (first, 32 * 48)
    hand.press(Qt.Key.Key_U)
    assert stands() == (0, 32 * 48)
    hand.press(Qt.Key.Key_U)
    assert stands() == (0, 0)


def test_a_drawn_box_and_the_view_are_accepted_and_a_box_that_slipped_is_not(open_panel, qtbot, painted):
    image = ramp(3, 64, 64)
    viewer, panel, hand = open_and_correct(open_panel, qtbot, image, is_segmented=True)
    tab = panel.correct_tab
    reviewed, layers = tab.corrections().reviewed, list(viewer.layers)
    viewer.dims.set_current_step(0, 2)
    hand.press(Qt.Key.Key_D)
    assert viewer.layers.selection.active.mode == "add_rectangle"
    hand.drag((8, 10), (20, 20), (40, 50))
    qtbot.waitUntil(lambda: list(viewer.layers) == layers)
    assert viewer.layers.selection.active is tab.session.layers.strokes
    at = np.argwhere(np.asarray(reviewed))
    assert (at[:, 0] == 2).all()
    np.testing.assert_allclose([at[:, 1:].min(axis=0), at[:, 1:].max(axis=0)], [[8, 10], [40, 50]], atol=1)
    hand.press(Qt.Key.Key_T)
    hand.press(Qt.Key.Key_D)
    hand.press(Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: list(viewer.layers) == layers)
    for end, size in (((8, 10), "1 pixel"), ((9, 10), "2 × 1 pixels"), ((9, 40), "2 × 31 pixels")):
        hand.press(Qt.Key.Key_D)
        hand.drag((8, 10), end)
        qtbot.waitUntil(lambda: list(viewer.layers) == layers)
        assert tab.message.text().startswith(f"The box covers only {size}")
    assert not np.asarray(reviewed).any()
    camera_of(viewer).zoom *= 4
    hand.press(Qt.Key.Key_S)
    seen = np.asarray(reviewed)
    assert 0 < np.count_nonzero(seen) < 64 * 64
    assert not seen[:2].any()


@pytest.mark.parametrize(
    ("corners", "fault"),
    [
        ([(0, 5, 5), (0, 5, 5)], "only 1 pixel:"),
        ([(0, 5, 5), (0, 6, 40)], "only 2 × 36 pixels:"),
        ([(0, 5, 5), (0, 40, 6)], "only 36 × 2 pixels:"),
        ([(0, 5, 5), (0, 7, 7)], ""),
    ],
)
def test_a_rectangle_needs_three_pixels_along_each_side(corners, fault):
    viewer = ViewerModel()
    layer = viewer.add_labels(np.zeros((2, 64, 64), np.uint8))
    if not fault:
        assert count_pixels(rectangle_box(viewer, layer, np.array(corners, float))) == "3 × 3 pixels"
        return
    with pytest.raises(InputError, match=fault):
        rectangle_box(viewer, layer, np.array(corners, float))


def test_without_a_prediction_nothing_can_be_accepted(open_panel, qtbot):
    viewer, panel, hand = open_and_correct(open_panel, qtbot, ramp(3, 32, 48))
    tab = panel.correct_tab
    for key in (Qt.Key.Key_A, Qt.Key.Key_S, Qt.Key.Key_N):
        hand.press(key)
        assert tab.message.text().startswith("Segment first")
    choose = panel.segment_tab.form.extent
    choose.setCurrentIndex(1)
    segment(qtbot, panel)
    viewer.dims.set_current_step(0, 2)
    hand.press(Qt.Key.Key_A)
    assert tab.message.text().startswith("Segment first")
    viewer.dims.set_current_step(0, 1)
    hand.press(Qt.Key.Key_A)
    assert np.asarray(tab.corrections().reviewed)[1].all()
    viewer.dims.ndisplay = 3
    hand.press(Qt.Key.Key_A)
    assert "2D view" in tab.message.text()


def test_the_next_place_is_where_the_network_wavers_and_done_ones_drop_out(open_panel, qtbot):
    image = np.zeros((5, 256, 256), np.uint8)
    image[3, :128, 128:] = 128
    image[1, 128:, :128] = 64
    viewer, panel, hand = open_and_correct(open_panel, qtbot, image, is_segmented=True, scale=(50, 4, 4))
    tab = panel.correct_tab
    places = tab.body.regions
    hand.press(Qt.Key.Key_N)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert [place.center[0] for place in places.regions()] == [3, 1]
    assert places.item(0).text().endswith(": unsure (1.00)")
    assert viewer.dims.current_step[0] == 3
    camera = camera_of(viewer)
    np.testing.assert_allclose(camera.center[-2:], (64 * 4, 192 * 4))
    hand.press(Qt.Key.Key_N)
    assert viewer.dims.current_step[0] == 1
    hand.press(Qt.Key.Key_A)
    assert is_region_done(tab.corrections(), places.regions()[1])
    hand.press(Qt.Key.Key_N)
    assert viewer.dims.current_step[0] == 3
    assert [place.center[0] for place in places.regions()] == [3]
    hand.press(Qt.Key.Key_A)
    hand.press(Qt.Key.Key_N)
    assert tab.message.text().startswith("Nothing is left to look at")
    assert not places.isVisible()


def test_what_was_looked_at_is_said_and_no_line_of_the_list_is_cut(open_panel, qtbot):
    image = np.zeros((5, 256, 256), np.uint8)
    image[2, :128, 128:] = 128
    _, panel, hand = open_and_correct(open_panel, qtbot, image)
    panel.segment_tab.preview()
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    tab = panel.correct_tab
    hand.press(Qt.Key.Key_N)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert "Only z 2 was looked at" in tab.message.text()
    places = tab.body.regions
    room = places.viewport().width()
    for row in range(places.count()):
        assert places.fontMetrics().horizontalAdvance(places.item(row).text()) + 8 <= room


@pytest.mark.parametrize(
    ("names", "taught", "weights", "said"),
    [
        (("membrane",), ["membrane"], [1.0], ""),
        (("membrane", "vesicle"), ["vesicle"], [0.2, 1.0], ""),
        (("membrane", "vesicle"), [], [1.0, 1.0], ""),
        (("membrane",), ["mitochondrion"], [1.0], "does not know mitochondrion yet: it is unsure of membrane"),
    ],
)
def test_the_class_that_is_taught_weighs_more_and_one_that_the_model_lacks_is_named(names, taught, weights, said):
    values = np.zeros((len(names), 2, 8, 8) if len(names) > 1 else (2, 8, 8), np.float32)
    axes = "CZYX" if len(names) > 1 else "ZYX"
    shown = ShownResult(Prediction(values, Space(axes, (1, 1, 1), "pixel", (0, 0, 0)), names), "ZYX", {}, "id")
    assert weigh_classes(names, taught) == weights
    assert describe_search(shown, taught, 3).startswith("3 places. All that is segmented was looked at.")
    assert said in describe_search(shown, taught, 3)


def test_the_place_is_framed_until_it_is_reviewed_and_the_frame_is_never_painted(open_panel, qtbot):
    image = np.zeros((5, 256, 256), np.uint8)
    image[3, :128, 128:] = 128
    image[1, 128:, :128] = 64
    viewer, panel, hand = open_and_correct(
        open_panel, qtbot, image, is_segmented=True, scale=(50, 4, 4), translate=(0, 8, 8), units="nm"
    )
    tab = panel.correct_tab
    strokes, camera = tab.session.layers.strokes, camera_of(viewer)
    hand.press(Qt.Key.Key_N)
    qtbot.waitUntil(lambda: not tab.is_running)
    frame = viewer.layers["em place"]
    assert tab.body.regions.item(0).text().startswith("z 3, y 64, x 192: ")
    corners = np.array([frame.data_to_world(corner) for corner in frame.data[0]])
    np.testing.assert_allclose(corners.min(axis=0), (150, 8 - 2, 8 + 512 - 2))
    np.testing.assert_allclose(corners.max(axis=0), (150, 8 + 510, 8 + 1022))
    assert frame.units == strokes.units
    assert not frame.editable
    assert (viewer.layers.selection.active, strokes.mode) == (strokes, "paint")
    width = frame.edge_width[0]
    camera.zoom *= 2
    np.testing.assert_allclose(frame.edge_width[0], width / 2)
    hand.drag((40, 180), (40, 200))
    assert np.asarray(strokes.data).any()
    viewer.layers["em"].translate = (0, 16, 16)
    np.testing.assert_allclose(frame.translate, (0, 16, 16))
    hand.press(Qt.Key.Key_N)
    assert viewer.layers["em place"] is frame
    np.testing.assert_allclose(frame.data[0].mean(axis=0), (1, 191.5, 63.5))
    hand.press(Qt.Key.Key_A)
    qtbot.waitUntil(lambda: "em place" not in viewer.layers)
    assert viewer.layers.selection.active is strokes
    hand.press(Qt.Key.Key_N)
    assert "em place" in viewer.layers
    viewer.add_image(ramp(32, 48), name="other")
    combo = panel.segment_tab.form.image
    combo.setCurrentIndex(combo.findText("other"))
    combo.activated.emit(combo.currentIndex())
    assert "em place" not in viewer.layers


def is_in_view(viewer, layer, voxel) -> bool:
    return all(low <= at <= high for at, (low, high) in zip(voxel, visible_box(viewer, layer), strict=True))


@pytest.mark.parametrize(
    ("voxel", "middle"),
    [((3, 400, 300), (3, 399.5, 299.5)), ((0, 5, 0), (0, 63.5, 63.5)), ((5, 599, 90), (5, 535.5, 89.5))],
)
def test_a_voxel_is_brought_into_view_with_its_surroundings(voxel, middle):
    viewer = ViewerModel()
    layer = viewer.add_labels(np.zeros((6, 600, 800), np.uint8), scale=(50, 4, 4))
    go_to_voxel(viewer, layer, voxel)
    assert is_in_view(viewer, layer, voxel)
    assert viewer.dims.current_step[0] == voxel[0]
    np.testing.assert_allclose(camera_of(viewer).center[-2:], np.array(middle[1:]) * 4)


def test_corrections_are_offered_when_the_image_comes_back(open_panel, qtbot):
    viewer, panel, hand = open_and_correct(open_panel, qtbot, ramp(3, 32, 48))
    tab = panel.correct_tab
    hand.drag((10, 10), (10, 40))
    viewer.dims.set_current_step(0, 2)
    hand.drag((25, 4), (25, 6))
    painted = np.asarray(tab.corrections().strokes)
    put_away(qtbot, viewer, panel)
    viewer.add_image(ramp(3, 32, 48), name="again", scale=(50, 4, 4))
    viewer.dims.set_current_step(0, 0)
    camera_of(viewer).center = (0, 4000, 4000)
    qtbot.waitUntil(lambda: tab.offers.restores)
    text = tab.offers.of_image.label.text()
    assert text.startswith("You corrected this image on ")
    assert text.endswith(f": {np.count_nonzero(painted):,} pixels on 2 slices.")
    assert not tab.correct_button.isVisible()
    qtbot.mouseClick(tab.offers.of_image.button, LEFT)
    qtbot.waitUntil(lambda: tab.session is not None and tab.session.layers.is_shown)
    np.testing.assert_array_equal(tab.session.layers.strokes.data, painted)
    assert tab.offers.of_image is None
    assert viewer.dims.current_step[0] == 2
    assert is_in_view(viewer, tab.session.layers.strokes, (2, 25, 5))
    assert "The last one is at z 2, " in tab.message.text()


def test_other_voxels_in_the_image_part_it_from_its_corrections(open_panel, qtbot):
    viewer, panel, hand = open_and_correct(open_panel, qtbot, ramp(32, 48))
    tab = panel.correct_tab
    hand.drag((10, 10), (10, 40))
    viewer.layers["em"].data = 255 - ramp(32, 48)
    qtbot.waitUntil(lambda: tab.session is None and not tab.is_closing)
    assert [layer.name for layer in viewer.layers] == ["em"]
    assert tab.message.text() == "The data of 'em' were replaced: the corrections of the earlier data are kept on disk."
    corrections = open_corrections(Stack(ramp(32, 48), Space("YX")))
    assert np.asarray(corrections.strokes).any()
    corrections.close()


def test_the_same_voxels_twice_and_another_window_are_refused(open_panel, qtbot):
    viewer, panel, _ = open_and_correct(open_panel, qtbot, ramp(32, 48))
    tab, combo = panel.correct_tab, panel.segment_tab.form.image
    viewer.add_image(ramp(32, 48), name="twin")
    combo.setCurrentIndex(1)
    combo.activated.emit(1)
    qtbot.waitUntil(tab.correct_button.isEnabled)
    tab.correct()
    qtbot.waitUntil(lambda: bool(tab.message.text()))
    assert tab.message.text().startswith("'twin' has the same voxels as 'em'")
    viewer.layers.clear()
    elsewhere = open_corrections(Stack(255 - ramp(32, 48), Space("YX")))
    viewer.add_image(255 - ramp(32, 48), name="em")
    qtbot.waitUntil(tab.correct_button.isEnabled)
    tab.correct()
    qtbot.waitUntil(lambda: "is being corrected in another window" in tab.message.text())
    elsewhere.close()
    correct(qtbot, panel)


def test_labels_go_out_to_a_file_and_come_back(open_panel, qtbot, tmp_path):
    _, panel, hand = open_and_correct(open_panel, qtbot, ramp(3, 32, 48), scale=(50, 4, 4), units="nm")
    tab, file = panel.correct_tab, tmp_path / "labels.ome.tif"
    hand.drag((10, 10), (10, 40))
    painted = np.asarray(tab.corrections().strokes)
    tab.actions.export_to(file, "target")
    qtbot.waitUntil(lambda: not tab.is_running)
    stack = read_stack(file)
    np.testing.assert_array_equal(np.asarray(stack.data), painted)
    assert (stack.space.voxel_size, stack.space.unit) == ((50.0, 4.0, 4.0), "nm")
    more = np.zeros((3, 32, 48), np.uint8)
    more[2, 5:9, 5:9] = 4
    write_ome_tiff(file, more, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    tab.actions.import_from(file)
    qtbot.waitUntil(lambda: not tab.is_running)
    np.testing.assert_array_equal(np.asarray(tab.corrections().strokes), np.maximum(painted, more))
    assert [each.value for each in tab.corrections().classes] == [2, 4]
    write_ome_tiff(file, more[:2], Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    tab.actions.import_from(file)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert "has the shape (2, 32, 48)" in tab.message.text()
    np.testing.assert_array_equal(np.asarray(tab.corrections().strokes), np.maximum(painted, more))


def test_a_file_that_changed_since_says_so_and_keeps_the_earlier_corrections(open_panel, qtbot, tmp_path):
    file = tmp_path / "em.tif"
    write_ome_tiff(file, ramp(32, 48), Space("YX", (1.0, 4.0, 4.0), "nm"))
    viewer, panel = open_panel()
    tab = panel.correct_tab
    viewer.open(str(file), plugin="napari-skipseg")
    correct(qtbot, panel)
    Hand(viewer, panel).drag((10, 10), (10, 40))
    put_away(qtbot, viewer, panel)
    write_ome_tiff(file, 255 - ramp(32, 48), Space("YX", (1.0, 4.0, 4.0), "nm"))
    viewer.open(str(file), plugin="napari-skipseg")
    qtbot.waitUntil(lambda: tab.offers.of_image is not None)
    assert tab.offers.of_image.label.text().startswith("The file of this image has changed since you corrected it on")
    correct(qtbot, panel)
    assert not np.asarray(tab.corrections().strokes).any()
    viewer.layers.clear()
    file.unlink()
    earlier = next(found for found in find_corrections() if not found.is_empty)
    tab.reopening.open(earlier)
    assert tab.message.text().startswith(f"'{file}' cannot be opened")


PAINTER = """
import sys, time
import napari
from hand import Hand, correct
from pytestqt.qtbot import QtBot
from napari_skipseg.widgets.panel import wait_for
from napari_skipseg.widgets.panel import SkipSegPanel
viewer = napari.Viewer()
panel = SkipSegPanel(viewer)
viewer.window.add_dock_widget(panel)
viewer.open(sys.argv[1], plugin="napari-skipseg")
tab = panel.correct_tab
panel.tabs.setCurrentIndex(1)
wait_for(tab.correct_button.isEnabled, 20)
tab.correct()
wait_for(lambda: tab.session is not None and tab.session.layers.is_shown, 20)
wait_for(lambda: False, 0.3)
hand = Hand(viewer, panel)
hand.drag((10, 10), (10, 40))
print(int((tab.corrections().strokes[...] > 0).sum()), flush=True)
wait_for(lambda: False, 60)
"""


def test_a_killed_napari_loses_no_stroke_and_the_next_one_brings_it_back(open_panel, qtbot, tmp_path):
    file = tmp_path / "em.tif"
    write_ome_tiff(file, ramp(3, 32, 48), Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PAINTER, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        painted = int(child.stdout.readline())
        wait_for(lambda: False, 1.0)
        child.send_signal(signal.SIGKILL)
    assert painted > 0
    viewer, panel = open_panel()
    tab = panel.correct_tab
    panel.tabs.setCurrentIndex(1)
    qtbot.waitUntil(lambda: bool(tab.offers.interrupted))
    offer = next(iter(tab.offers.interrupted.values()))
    assert "napari ended unexpectedly while you corrected 'em'" in offer.label.text()
    qtbot.mouseClick(offer.button, LEFT)
    qtbot.waitUntil(lambda: tab.session is not None and tab.session.layers.is_shown)
    assert np.count_nonzero(tab.corrections().strokes[...]) == painted
    assert not tab.offers.interrupted
    assert list(tab.session.layers.strokes.scale) == [50, 4, 4]
    assert is_in_view(viewer, tab.session.layers.strokes, tab.corrections().last_label())
    Hand(viewer, panel).drag((25, 10), (25, 40))
    assert np.count_nonzero(tab.corrections().strokes[...]) > painted
