"""Shapes carried between slices in a real window, by mouse and keys: in Correct and in Proofread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand import LEFT, Hand, open_and_correct, put_away, ramp, settle
from qtpy.QtCore import Qt

from napari_skipseg.corrections.store import open_corrections
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.proofread.edits import Paint
from napari_skipseg.widgets.panel import wait_for

pytestmark = pytest.mark.gui

SHIFT = Qt.KeyboardModifier.ShiftModifier


def go_to(viewer, z: int) -> None:
    viewer.dims.set_current_step(0, z)
    settle()


def areas(data, value: int) -> list[int]:
    return [int((plane == value).sum()) for plane in np.asarray(data)]


def test_painted_slices_are_outlined_then_carried_undone_and_carried_again(open_panel, qtbot) -> None:
    image = ramp(7, 64, 64)
    viewer, panel, hand = open_and_correct(open_panel, qtbot, image, scale=(50, 4, 4))
    tab, strokes = panel.correct_tab, viewer.layers["em corrections"]
    strokes.brush_size = 12
    go_to(viewer, 1)
    hand.drag((20, 20), (20, 40))
    hand.press(Qt.Key.Key_I)
    qtbot.waitUntil(lambda: "Only slice 1 is painted" in tab.message.text())
    go_to(viewer, 5)
    hand.drag((20, 20), (20, 40))
    before = np.asarray(strokes.data)
    qtbot.mouseClick(tab.body.buttons["carry"], LEFT)
    qtbot.waitUntil(lambda: "em between slices" in viewer.layers)
    outline = viewer.layers["em between slices"]
    assert "3 slices outlined" in tab.message.text()
    np.testing.assert_array_equal(strokes.data, before)
    assert areas(outline.data, 2)[1:6] == [0, *[areas(before, 2)[1]] * 3, 0]
    np.testing.assert_array_equal(outline.scale, strokes.scale)
    assert viewer.layers.selection.active is strokes
    hand.press(Qt.Key.Key_U)
    assert outline not in viewer.layers
    np.testing.assert_array_equal(strokes.data, before)
    for _ in range(2):
        hand.press(Qt.Key.Key_I)
        qtbot.waitUntil(lambda: not tab.is_running)
        settle()
    carried = np.asarray(strokes.data)
    assert areas(carried, 2) == [0, *[areas(before, 2)[1]] * 5, 0]
    hand.press(Qt.Key.Key_U)
    np.testing.assert_array_equal(strokes.data, before)  # all slices in one step
    hand.press(Qt.Key.Key_U, SHIFT)
    np.testing.assert_array_equal(strokes.data, carried)
    go_to(viewer, 3)
    hand.drag((28, 20), (28, 40))
    for _ in range(2):
        hand.press(Qt.Key.Key_I)
        qtbot.waitUntil(lambda: not tab.is_running)
        settle()
    found = areas(strokes.data, 2)
    assert found[1] < found[2] < found[3]
    last = np.asarray(strokes.data)
    put_away(qtbot, viewer, panel)
    corrections = open_corrections(Stack(image, Space("ZYX")))
    np.testing.assert_array_equal(corrections.strokes, last)
    corrections.close()


def test_an_object_painted_on_two_slices_is_carried_by_one_edit(
    open_panel, qtbot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SKIPSEG_EDITS", str(tmp_path / "edits"))
    viewer, panel = open_panel()
    labels = np.zeros((7, 64, 64), np.uint16)
    labels[:, 50:60, 5:60] = 3
    viewer.add_labels(labels, name="labels")
    tab = panel.proofread_tab
    panel.show_tab("Proofread")
    settle()
    qtbot.mouseClick(tab.open_button, LEFT)
    qtbot.waitUntil(lambda: tab.opened is not None and not tab.is_running)
    viewer.reset_view()
    wait_for(lambda: False, 0.3)
    hand, layer = Hand(viewer, panel), tab.layers.layer
    hand.press(Qt.Key.Key_I)
    assert "Select an object first" in tab.reason.text()
    hand.press(Qt.Key.Key_R)
    layer.brush_size = 10
    number = layer.selected_label
    for z in (1, 5):
        go_to(viewer, z)
        hand.drag((20, 20), (20, 40))
    assert areas(layer.data, number)[3] == 0
    go_to(viewer, 3)
    hand.press(Qt.Key.Key_I)
    assert "A paints 3 slices between as outlined." in tab.reason.text()
    assert (np.asarray(tab.layers.outline.data[3]) > 0).sum() == areas(layer.data, number)[1]
    assert areas(layer.data, number)[3] == 0
    hand.press(Qt.Key.Key_I)
    found = areas(layer.data, number)
    assert found[1:6] == [found[1]] * 5
    edits = [each.edit for each in tab.opened.session.store.done]
    assert isinstance(edits[-1], Paint)
    assert edits[-1].slices == (2, 3, 4)
    assert len(edits) == 3
    hand.press(Qt.Key.Key_U)
    assert areas(layer.data, number)[2:5] == [0, 0, 0]
    hand.press(Qt.Key.Key_U, SHIFT)
    assert areas(layer.data, number) == found
