"""The form in a real window: what it offers, hides and says, and that no row is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hand import choose
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_skipseg.widgets.forms.fields import FreshCombo

pytestmark = pytest.mark.gui


def add_volume(viewer, voxel_size=(50, 4, 4), units="nm"):
    image = np.linspace(0, 255, 3 * 32 * 48).reshape(3, 32, 48).astype(np.uint8)
    return viewer.add_image(image, name="em", scale=voxel_size, units=units, axis_labels=("z", "y", "x"))


@pytest.mark.parametrize("mark", [" (non-commercial)", ""])
def test_a_long_name_loses_its_middle_and_not_the_mark_of_its_licence(qtbot, mark):
    combo = FreshCombo()
    qtbot.addWidget(combo)
    combo.offer([(f"membranes-of-the-larva-tuned-on-my-stack-7{mark}", 7)], 7)
    combo.resize(260, 30)
    shown = combo.shown_text()
    assert (shown.startswith("memb"), "…" in shown, shown.endswith(f"7{mark}")) == (True, True, True)
    assert combo.fontMetrics().horizontalAdvance(shown) <= 260 - 20
    combo.resize(600, 30)
    assert combo.shown_text() == combo.currentText()


def test_rescaling_is_offered_under_the_model_and_reaches_the_engine(open_panel, qtbot):
    viewer, panel = open_panel()
    tab, form = panel.segment_tab, panel.segment_tab.form
    layer = add_volume(viewer)
    assert not form.difference.isVisible()
    assert not form.rescale.isVisible()
    layer.scale = (50, 8, 8)
    assert form.difference.isVisible()
    assert form.difference.text() == "Pixels are 8 nm; tiny-2d was trained at 4 nm."
    assert form.rescale.text() == "Rescale to 4 nm while segmenting"
    assert "rescale, or check the result" in tab.message.text()
    qtbot.mouseClick(form.rescale, Qt.MouseButton.LeftButton)
    assert form.read().options().rescale
    assert tab.message.text() == ""
    layer.scale = (50, 80, 80)
    assert "20 times as long" in tab.message.text()
    assert "20 times as long" in form.rescale.toolTip()
    assert not tab.segment_button.isEnabled()
    layer.units = "pixel"
    assert not form.rescale.isVisible()
    assert not form.read().options().rescale
    assert tab.segment_button.isEnabled()
    assert "not known" in tab.message.text()


def test_planes_are_offered_to_2d_models_on_volumes_only(open_panel):
    viewer, panel = open_panel()
    form, options = panel.segment_tab.form, panel.segment_tab.form.options
    options.expand(animate=False)
    layer = add_volume(viewer)
    assert options.planes.isVisible()
    choose(options.planes, "xyz")
    assert form.read().options().planes == "xyz"
    assert form.extent.findData("current") < 0
    choose(form.model, "tiny-3d")
    assert not options.planes.isVisible()
    assert form.read().options().planes == "xy"
    choose(form.model, "tiny-2d")
    form.axes.textEdited.emit("TYX")
    assert not options.planes.isVisible()
    assert form.extent.findData("current") > 0
    viewer.layers.remove(layer)
    assert not options.planes.isVisible()


def test_averages_of_two_kinds_are_a_fault_until_one_is_off(open_panel):
    viewer, panel = open_panel()
    tab, options = panel.segment_tab, panel.segment_tab.form.options
    add_volume(viewer)
    viewer.layers[0].scale = (4, 4, 4)
    options.expand(animate=False)
    choose(options.average, 8)
    assert tab.form.read().options().average == 8
    choose(options.planes, "xyz")
    said = "Three axes and mirrored copies cannot be averaged together: switch one of them off."
    assert tab.message.text() == options.planes.toolTip() == said
    assert not tab.segment_button.isEnabled()
    choose(options.average, 1)
    assert tab.segment_button.isEnabled()
    options.samples.setValue(8)
    options.dropout.setValue(0.2)
    assert tab.message.text().startswith("Three axes and Monte Carlo samples")
    choose(options.planes, "xy")
    assert tab.segment_button.isEnabled()


def test_no_row_is_cut_when_rows_come_and_go(open_panel, qtbot):
    viewer, panel = open_panel()
    form, options = panel.segment_tab.form, panel.segment_tab.form.options
    options.expand(animate=False)
    choose(form.model, "tiny-3d")
    width = panel.width()
    layer = add_volume(viewer, (25.123, 8.456, 8.789))
    rows = (form.difference, form.rescale, options.tile, options.average, options.samples, options.dropout)

    def fit() -> bool:
        return all(row.isVisible() and row.height() >= row.minimumSizeHint().height() for row in rows)

    qtbot.waitUntil(fit, timeout=5_000)
    difference = form.difference
    qtbot.waitUntil(lambda: difference.height() >= difference.heightForWidth(difference.width()), timeout=5_000)
    choose(form.model, "tiny-2d")
    rows = (*rows, options.planes)
    qtbot.waitUntil(fit, timeout=5_000)
    layer.scale = (50, 4, 4)
    rows = rows[2:]
    qtbot.waitUntil(fit, timeout=5_000)
    assert panel.width() == width


def test_the_fields_of_a_closed_fold_take_no_focus_and_those_of_an_open_one_do(open_panel, qtbot):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((3, 32, 48), np.uint8))
    for tab, fold in (
        ("Segment", panel.segment_tab.form.options),
        ("Fine-tune", panel.finetune_tab.form.fold),
        ("Batch", panel.batch_tab.form.fold),
        ("Fine-tune", panel.finetune_tab.scratch_fold),
    ):
        panel.show_tab(tab)
        check_focus(qtbot, panel, fold)


def check_focus(qtbot, panel, closed) -> None:
    """Go through a fold by the Tab key while it is closed, open, and closed again."""
    inner = closed.content()

    def tabbed() -> bool:
        """Whether the Tab key comes into the fold from its title."""
        closed.toggleButton().setFocus()
        QTest.keyClick(closed.toggleButton(), Qt.Key.Key_Tab)
        reached = panel.window().focusWidget()  # of the application there is none where no window manager is
        assert reached is not closed.toggleButton()
        return bool(inner.isAncestorOf(reached))

    assert not inner.isVisible()
    assert not tabbed()
    qtbot.mouseClick(closed.toggleButton(), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(inner.isVisible, timeout=5_000)
    assert inner.height() > 20
    assert tabbed()
    qtbot.mouseClick(closed.toggleButton(), Qt.MouseButton.LeftButton)
    assert not tabbed()
