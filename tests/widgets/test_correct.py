"""Strokes in a real window: painted with a real mouse, and looked up on disk."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hand import Hand, correct, open_and_correct, put_away, ramp, segment, settle
from napari.layers import Labels
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtCore import Qt

from napari_skipseg.corrections.store import open_corrections
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.widgets.correct.layers import ACTIONS
from napari_skipseg.widgets.correct.tab import BETWEEN_STROKES

pytestmark = pytest.mark.gui


def on_disk(qtbot, viewer, panel) -> np.ndarray:
    """Return the strokes as they are found when the image's corrections are opened anew."""
    stack = Stack(viewer.layers["em"].data, Space(panel.segment_tab.form.read().axes))
    put_away(qtbot, viewer, panel)
    corrections = open_corrections(stack)
    try:
        return np.asarray(corrections.strokes)
    finally:
        corrections.close()


def paint(hand, layer) -> np.ndarray:
    hand.drag((10, 10), (10, 40))
    return np.asarray(layer.data).copy()


def fill(hand, layer) -> np.ndarray:
    hand.press(Qt.Key.Key_4)
    hand.click((20, 20))
    return np.asarray(layer.data).copy()


def polygon(hand, layer) -> np.ndarray:
    hand.press(Qt.Key.Key_3)
    for voxel in ((5, 5), (5, 40), (30, 40)):
        hand.click(voxel)
    hand.press(Qt.Key.Key_Return)
    return np.asarray(layer.data).copy()


def undo(hand, layer) -> np.ndarray:
    before = paint(hand, layer)
    hand.drag((25, 10), (25, 40))
    assert np.count_nonzero(layer.data) > np.count_nonzero(before)
    hand.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(layer.data, before)
    return before


def redo(hand, layer) -> np.ndarray:
    painted = paint(hand, layer)
    hand.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not np.asarray(layer.data).any()
    hand.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    return painted


def assign(hand, layer) -> np.ndarray:
    new = np.zeros(layer.data.shape, np.int64)
    new[..., 3:9, 4:20] = 2
    new[..., 12, 5] = 1
    layer.data = new
    return new


def write_into(hand, layer) -> np.ndarray:
    layer.data[..., 7:9, 3:5] = 2
    return np.asarray(layer.data).copy()


def test_each_kind_of_edit_is_there_when_the_image_is_opened_again(open_panel, qtbot):
    viewer, panel = open_panel()
    for number, edit in enumerate((paint, fill, polygon, undo, redo, assign, write_into)):
        viewer.add_image(ramp(3, 32, 48) // 2 + number, name="em", scale=(50, 4, 4), units="nm")
        correct(qtbot, panel)
        layer = panel.correct_tab.session.layers.strokes
        expected = edit(Hand(viewer, panel), layer)
        assert expected.any(), edit.__name__
        assert layer.data is panel.correct_tab.corrections().strokes
        np.testing.assert_array_equal(on_disk(qtbot, viewer, panel), expected, edit.__name__)


def test_the_layers_lie_over_the_image_and_are_neither_images_nor_results(open_panel, qtbot):
    viewer, panel, hand = open_and_correct(
        open_panel, qtbot, ramp(3, 32, 48), is_segmented=True, scale=(50, 4, 4), units="nm", translate=(0, 8, 8)
    )
    image, tab = viewer.layers["em"], panel.correct_tab
    strokes, reviewed = tab.session.layers.strokes, tab.session.layers.reviewed
    assert (strokes.name, reviewed.name) == ("em corrections", "em accepted")
    assert viewer.layers.selection.active is strokes
    assert (strokes.mode, strokes.selected_label, reviewed.editable) == ("paint", 2, False)
    assert not np.asarray(strokes.data).any()
    for layer in (strokes, reviewed):
        assert (list(layer.scale), list(layer.translate)) == ([50, 4, 4], [0, 8, 8])
        assert (layer.units, layer.axis_labels) == (image.units, image.axis_labels)
    image.scale = (40, 5, 6)
    assert list(strokes.scale) == list(reviewed.scale) == [40, 5, 6]
    combo = panel.segment_tab.form.image
    assert [combo.itemText(number) for number in range(combo.count())] == ["em"]
    hand.drag((10, 10), (10, 40))
    before = np.asarray(strokes.data).copy()
    panel.segment_tab.form.threshold.setValue(0.1)
    segment(qtbot, panel)
    settle()
    np.testing.assert_array_equal(strokes.data, before)
    assert viewer.layers[-1] is strokes


def test_renamed_copied_and_deleted_layers_lose_nothing(open_panel, qtbot):
    viewer, panel, hand = open_and_correct(open_panel, qtbot, ramp(32, 48))
    tab = panel.correct_tab
    layer = tab.session.layers.strokes
    layer.name = "mine"
    hand.drag((10, 10), (10, 40))
    painted = np.asarray(layer.data).copy()
    viewer.layers.selection = {layer}
    _duplicate_layer(viewer.layers)
    viewer.layers["mine copy"].data[20:30, 20:30] = 2
    np.testing.assert_array_equal(layer.data, painted)
    viewer.layers.remove(layer)
    assert tab.message.text().startswith("The layer of corrections was deleted. Nothing is lost")
    correct(qtbot, panel)
    again = tab.session.layers.strokes
    assert again is not layer
    np.testing.assert_array_equal(again.data, painted)
    viewer.layers.selection.active = again
    hand.drag((25, 10), (25, 40))
    assert np.count_nonzero(again.data) > np.count_nonzero(painted)


def test_an_array_that_does_not_fit_is_put_back(open_panel, qtbot):
    _, panel, hand = open_and_correct(open_panel, qtbot, ramp(32, 48))
    tab = panel.correct_tab
    layer = tab.session.layers.strokes
    painted = paint(hand, layer)
    for wrong, said in (
        (np.ones((3, 3), int), "shape (3, 3)"),
        (np.full((32, 48), 7), "no class has the value 7"),
        (np.full((32, 48), -1), "no class has the value -1"),
    ):
        layer.data = wrong
        assert layer.data is tab.corrections().strokes
        np.testing.assert_array_equal(layer.data, painted)
        assert said in tab.message.text()
    with pytest.raises(TypeError):  # napari's own
        layer.data = np.ones((32, 48))
    np.testing.assert_array_equal(layer.data, painted)


def test_keys_step_through_the_classes_and_mean_nothing_else_to_napari(open_panel, qtbot):
    from app_model.types import KeyBinding
    from napari.components import ViewerModel
    from napari.utils.key_bindings import coerce_keybinding

    _, panel, hand = open_and_correct(open_panel, qtbot, ramp(32, 48))
    layer = panel.correct_tab.session.layers.strokes
    taken = {key for keymap in (Labels.class_keymap, ViewerModel.class_keymap) for key in keymap}
    assert any(isinstance(key, KeyBinding) for key in taken)
    assert not taken & {coerce_keybinding(action.key) for action in ACTIONS.values()}
    hand.press(Qt.Key.Key_Q)
    assert layer.selected_label == 1
    hand.press(Qt.Key.Key_Q)
    assert layer.selected_label == 2
    hand.press(Qt.Key.Key_W)
    hand.press(Qt.Key.Key_W)
    assert layer.selected_label == 2
    hand.press(Qt.Key.Key_Equal)
    assert layer.selected_label == 2
    assert "No class has the value 3" in panel.correct_tab.message.text()


def test_classes_are_added_named_recoloured_and_kept(open_panel, qtbot):
    viewer, panel, hand = open_and_correct(open_panel, qtbot, ramp(32, 48))
    tab, body = panel.correct_tab, panel.correct_tab.body
    layer = tab.session.layers.strokes
    assert [(each.name, each.value) for each in tab.corrections().classes] == [("membrane", 2)]
    qtbot.mouseClick(body.add_class, Qt.MouseButton.LeftButton)
    assert layer.selected_label == 3
    row = body.classes.rows[3]
    assert not row.name.isReadOnly()
    qtbot.keyClicks(row.name, "mitochondrion")
    qtbot.keyClick(row.name, Qt.Key.Key_Return)
    body.classes.recolored.emit(3, "#123456")
    colors = [each.color for each in tab.corrections().classes]
    assert [(each.name, each.value) for each in tab.corrections().classes] == [("membrane", 2), ("mitochondrion", 3)]
    assert np.allclose(layer.get_color(3)[:3], np.array([0x12, 0x34, 0x56]) / 255, atol=0.01)
    tab.actions.rename_class(3, "Membrane")
    assert "Another class is called 'Membrane'" in tab.message.text()
    assert tab.judged_classes() == ()
    hand.drag((10, 10), (10, 40))
    qtbot.waitUntil(lambda: [each.name for each in tab.judged_classes()] == ["mitochondrion"])
    qtbot.mouseClick(body.classes.rows[2].judged, Qt.MouseButton.LeftButton)
    assert [each.name for each in tab.judged_classes()] == ["membrane", "mitochondrion"]
    qtbot.waitUntil(lambda: body.state.text() == "✓ saved")
    put_away(qtbot, viewer, panel)
    viewer.add_image(ramp(32, 48), name="em")
    qtbot.waitUntil(lambda: tab.offers.restores)
    qtbot.mouseClick(tab.offers.of_image.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: tab.session is not None)
    assert [each.name for each in tab.corrections().classes] == ["membrane", "mitochondrion"]
    assert [each.color for each in tab.corrections().classes] == colors
    assert colors[1] == "#123456" != colors[0]
    assert np.allclose(tab.session.layers.strokes.get_color(3)[:3], np.array([0x12, 0x34, 0x56]) / 255, atol=0.01)


def test_a_new_class_asks_for_its_name_and_goes_by_a_number_until_it_has_one(open_panel, qtbot):
    _, panel, _ = open_and_correct(open_panel, qtbot, ramp(32, 48))
    tab, body = panel.correct_tab, panel.correct_tab.body
    qtbot.mouseClick(body.add_class, Qt.MouseButton.LeftButton)
    name = body.classes.rows[3].name
    assert panel.window().focusWidget() is name
    assert (name.text(), name.placeholderText()) == ("", "its name, such as mitochondrion")
    qtbot.keyClick(name, Qt.Key.Key_Return)
    assert (name.text(), name.isReadOnly()) == ("class 3", True)
    assert [each.name for each in tab.corrections().classes] == ["membrane", "class 3"]
    assert not tab.message.text()
    tab.corrections().strokes[10:14, 5:40] = 3
    tab.corrections().strokes[20:24, 5:40] = 1
    panel.tabs.setCurrentIndex(2)
    fault = "Name the new class 'class 3' first: double-click its name in the Correct tab."
    qtbot.waitUntil(lambda: panel.finetune_tab.message.text() == fault)
    assert not panel.finetune_tab.tune_button.isEnabled()
    tab.actions.rename_class(3, "vesicle")
    qtbot.waitUntil(lambda: panel.finetune_tab.message.text() != fault)


def test_colours_and_channels_are_no_axis_of_the_corrections(open_panel, qtbot):
    viewer, panel, hand = open_and_correct(open_panel, qtbot, np.stack([ramp(32, 48)] * 3, -1), rgb=True)
    tab = panel.correct_tab
    hand.drag((10, 10), (10, 40))
    assert tab.corrections().strokes[10].any()
    assert tab.corrections().strokes.shape == (32, 48)
    put_away(qtbot, viewer, panel)
    viewer.add_image(ramp(2, 3, 32, 48), name="em", axis_labels=("c", "z", "y", "x"))
    correct(qtbot, panel)
    Hand(viewer, panel).drag((10, 10), (10, 40))
    assert tab.corrections().strokes.shape == (3, 32, 48)
    assert tab.corrections().strokes[1, 10].any()
    put_away(qtbot, viewer, panel)
    viewer.add_image(ramp(3, 2, 32, 48), name="em", axis_labels=("z", "c", "y", "x"))
    assert "channel_axis=1" in tab.message.text()
    assert not tab.correct_button.isEnabled()


def test_the_engine_gives_way_during_a_stroke_and_a_moment_longer(open_panel, qtbot, engine):
    _, _, hand = open_and_correct(open_panel, qtbot, ramp(32, 48))
    engine.gave_way.clear()
    hand.drag((10, 10), (10, 40))
    assert len(engine.gave_way) >= 2, "at the begin and at the end"
    assert set(engine.gave_way) == {BETWEEN_STROKES}


def test_painting_a_large_slice_keeps_the_window_alive(open_panel, qtbot):
    _, panel, _ = open_and_correct(open_panel, qtbot, np.zeros((8192, 8192), np.uint8))
    layer = panel.correct_tab.session.layers.strokes
    layer.brush_size, spent = 40, []
    for place in range(200, 8000, 200):
        begun = time.perf_counter()
        layer._draw(2, (4000, place), (4010, place + 60))
        spent.append(time.perf_counter() - begun)
    assert min(spent) < 0.05  # the least of many: other programs take the processor now and then
    spent.clear()
    for _ in range(5):
        begun = time.perf_counter()
        panel.correct_tab.show_amounts()
        spent.append(time.perf_counter() - begun)
    assert min(spent) < 0.05
    assert not isinstance(layer.data, np.ndarray)
