"""The plan above the Segment button: quiet, measured when the choices have settled, never in the way."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_skipseg.errors import EngineError

pytestmark = pytest.mark.gui


@pytest.fixture
def open_tab(open_panel):
    def open_it():
        viewer, panel = open_panel()
        viewer.add_image(np.full((3, 32, 48), 9, np.uint8), name="em", scale=(50, 4, 4), units="nm")
        return viewer, panel.segment_tab

    return open_it


def choose_extent(tab, extent: str) -> None:
    combo = tab.form.extent
    combo.setCurrentIndex(combo.findData(extent))
    combo.activated.emit(combo.currentIndex())


def test_the_plan_is_shown_when_it_is_measured_and_measured_once_for_the_same_choices(open_tab, qtbot, engine):
    _, tab = open_tab()
    line = tab.plan
    qtbot.waitUntil(lambda: "of memory" in line.summary.text(), timeout=5_000)
    assert line.summary.text() == "about 12 s, 1.0 GB of memory, up to 512 MB of disk"
    assert "tiles: 40 of 64 × 64 voxels, 0.3 s a tile (measured)" in line.summary.toolTip()
    assert not line.warning.isVisible()
    assert (engine.planned[0][0], engine.planned[0][1]) == ((3, 32, 48), "tiny-2d")
    tab.form.threshold.setValue(0.3)
    choose_extent(tab, "current")
    assert line.summary.text().startswith("estimating time and memory… Segment can be pressed")
    qtbot.waitUntil(lambda: len(engine.planned) == 2 and "of memory" in line.summary.text(), timeout=5_000)
    assert engine.planned[1][0] == (1, 32, 48)
    choose_extent(tab, "whole")
    assert "of memory" in line.summary.text()
    qtbot.wait(1000)
    assert len(engine.planned) == 2


def test_what_is_short_is_told_in_sight(open_tab, qtbot, engine):
    engine.memory_free = 2**28
    _, tab = open_tab()
    qtbot.waitUntil(lambda: tab.plan.warning.isVisible(), timeout=5_000)
    assert "choose a smaller tile" in tab.plan.warning.text()
    assert tab.segment_button.isEnabled()
    assert tab.message.text() == ""


def test_a_fault_of_planning_is_quiet(open_tab, qtbot, engine):
    engine.plan_fault = EngineError("The engine is ill.")
    _, tab = open_tab()
    qtbot.waitUntil(lambda: len(engine.planned) == 1 and not tab.plan.summary.isVisible(), timeout=5_000)
    assert tab.message.text() == ""
    assert tab.segment_button.isEnabled()


@pytest.mark.parametrize("button", ["segment_button", "preview_button"])
def test_a_run_does_not_wait_for_the_plan(open_tab, qtbot, engine, button):
    engine.plan_pause = 30.0
    _, tab = open_tab()
    qtbot.waitUntil(lambda: len(engine.planned) == 1, timeout=5_000)
    assert getattr(tab, button).isEnabled()
    qtbot.mouseClick(getattr(tab, button), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=5_000)
    assert engine.plan_cancelled
    assert len(engine.calls) == 1
    assert tab.message.text() == ""
    qtbot.waitUntil(lambda: len(engine.planned) == 2, timeout=5_000)
    tab.plan.stop()
    qtbot.waitUntil(lambda: not engine.is_busy, timeout=5_000)


def test_nothing_is_planned_while_a_run_goes_on_or_something_is_wrong(open_tab, qtbot, engine):
    _, tab = open_tab()
    tab.form.options.tile.setValue(5)
    qtbot.wait(1000)
    assert engine.planned == []
    tab.form.options.tile.setValue(0)
    engine.steps, engine.pause = 40, 0.05
    tab.segment()
    tab.form.options.tile.setValue(64)
    qtbot.wait(1000)
    assert (engine.planned, tab.plan.summary.isVisible()) == ([], False)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=20_000)
    qtbot.waitUntil(lambda: len(engine.planned) == 1, timeout=5_000)
    assert engine.planned[0][2].tile == 64


def test_what_was_found_about_the_image_stands_under_the_plan_until_another_is_chosen(open_tab, qtbot, engine):
    engine.findings = tuple(f"Finding {number}." for number in range(8))
    viewer, tab = open_tab()
    line = tab.plan.findings
    qtbot.waitUntil(line.isVisible, timeout=5_000)
    assert "Finding 0." in line.text()
    assert "2 more" in line.text()
    assert "Finding 7." in line.toolTip()
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=5_000)
    assert line.isVisible()
    engine.findings = ()
    viewer.add_image(np.full((2, 40, 48), 9, np.uint8), name="other")
    tab.form.image.setCurrentIndex(tab.form.image.findText("other"))
    tab.form.image.activated.emit(tab.form.image.currentIndex())
    assert not line.isVisible()
    qtbot.waitUntil(lambda: "of memory" in tab.plan.summary.text(), timeout=5_000)
    assert not line.isVisible()


def test_what_a_run_finds_is_shown_though_it_was_not_planned(open_tab, qtbot, engine):
    engine.plan_pause = 30.0
    _, tab = open_tab()
    qtbot.waitUntil(lambda: len(engine.planned) == 1, timeout=5_000)
    engine.findings = ("It has a black frame.",)
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "black frame" in tab.plan.findings.text(), timeout=5_000)
    tab.plan.stop()
    qtbot.waitUntil(lambda: not tab.is_running, timeout=5_000)


def test_constant_areas_can_be_kept_in_the_options(open_tab, qtbot, engine):
    _, tab = open_tab()
    padding = tab.form.options.padding
    assert tab.form.read().options().padding == "auto"
    padding.setCurrentIndex(padding.findData("none"))
    padding.activated.emit(padding.currentIndex())
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=5_000)
    assert engine.calls[0][2].padding == "none"


def test_faults_of_slices_are_all_named(open_tab, qtbot, engine):
    engine.findings = (
        "1 of 9 slices are empty (black (0)) and were left out.",
        "Slice 2 is empty.",
        "Slice 5 has a tenth of the contrast of the others.",
        "Slice 7 is shifted by about 37 pixels against its neighbours.",
    )
    _, tab = open_tab()
    qtbot.waitUntil(lambda: tab.plan.findings.isVisible(), timeout=5_000)
    for finding in engine.findings:
        assert finding in tab.plan.findings.text()
    assert not tab.plan.invert.isVisible()


def test_inverting_is_offered_and_one_click(open_tab, qtbot, engine):
    engine.findings, engine.seems_inverted = ("Dark and light seem to be the other way round.",), True
    _, tab = open_tab()
    qtbot.waitUntil(lambda: tab.plan.invert.isVisible(), timeout=5_000)
    assert not tab.form.read().options().invert
    engine.findings, engine.seems_inverted = (), False
    qtbot.mouseClick(tab.plan.invert, Qt.MouseButton.LeftButton)
    assert tab.form.options.invert.isChecked()
    qtbot.waitUntil(lambda: len(engine.planned) == 2 and not tab.plan.invert.isVisible(), timeout=5_000)
    assert engine.planned[1][2].invert
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=5_000)
    assert engine.calls[0][2].invert


def test_what_a_run_finds_may_offer_to_invert_too(open_tab, qtbot, engine):
    engine.plan_pause = 30.0
    _, tab = open_tab()
    qtbot.waitUntil(lambda: len(engine.planned) == 1, timeout=5_000)
    engine.findings, engine.seems_inverted = ("Dark and light seem to be the other way round.",), True
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: tab.plan.invert.isVisible(), timeout=5_000)
    tab.plan.stop()
    qtbot.waitUntil(lambda: not tab.is_running, timeout=5_000)
