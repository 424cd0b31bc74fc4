"""The plan above the Segment button: quiet, measured when the choices have settled, never in the way."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hand import choose
from qtpy.QtCore import Qt, QThreadPool

from napari_skipseg.errors import EngineError
from napari_skipseg.widgets.forms.estimate_line import SettledLine
from napari_skipseg.widgets.forms.worker import EngineQueue, in_one_step

pytestmark = pytest.mark.gui


@pytest.fixture
def open_tab(open_panel):
    def open_it():
        viewer, panel = open_panel()
        viewer.add_image(np.full((3, 32, 48), 9, np.uint8), name="em", scale=(50, 4, 4), units="nm")
        return viewer, panel.segment_tab

    return open_it


def test_the_plan_is_shown_when_it_is_measured_and_measured_once_for_the_same_choices(open_tab, qtbot, engine):
    _, tab = open_tab()
    line = tab.plan
    qtbot.waitUntil(lambda: "of memory" in line.summary.text())
    assert line.summary.text() == "about 12 s, 1.0 GB of memory, up to 512 MB of disk"
    assert "tiles: 40 of 64 × 64 voxels, 0.3 s a tile (measured)" in line.summary.toolTip()
    assert not line.warning.isVisible()
    assert (engine.planned[0][0], engine.planned[0][1]) == ((3, 32, 48), "tiny-2d")
    tab.form.threshold.setValue(0.3)
    choose(tab.form.extent, "current")
    assert line.summary.text().startswith("estimating")
    qtbot.waitUntil(lambda: len(engine.planned) == 2 and "of memory" in line.summary.text())
    assert engine.planned[1][0] == (1, 32, 48)
    choose(tab.form.extent, "whole")
    assert "of memory" in line.summary.text()
    qtbot.wait(1000)
    assert len(engine.planned) == 2


def test_what_is_short_is_told_in_sight(open_tab, qtbot, engine):
    engine.memory_free = 2**28
    _, tab = open_tab()
    qtbot.waitUntil(lambda: tab.plan.warning.isVisible())
    assert "choose a smaller tile" in tab.plan.warning.text()
    assert tab.segment_button.isEnabled()
    assert tab.message.text() == ""


def test_a_fault_of_planning_is_quiet(open_tab, qtbot, engine):
    engine.plan_fault = EngineError("The engine is ill.")
    _, tab = open_tab()
    qtbot.waitUntil(lambda: len(engine.planned) == 1 and not tab.plan.summary.isVisible())
    assert tab.message.text() == ""
    assert tab.segment_button.isEnabled()


def test_a_run_does_not_wait_for_the_plan_and_shows_its_own_findings(open_tab, qtbot, engine):
    engine.plan_pause = 30.0
    _, tab = open_tab()
    for number, button in enumerate((tab.segment_button, tab.preview_button), start=1):
        qtbot.waitUntil(lambda: len(engine.planned) == number)  # noqa: B023
        assert button.isEnabled()
        engine.findings, engine.seems_inverted = ("It has a black frame.",), button is tab.preview_button
        engine.plan_cancelled = False
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not tab.is_running)
        assert engine.plan_cancelled
        assert len(engine.calls) == number
        assert tab.message.text() == ""
        assert "black frame" in tab.plan.findings.text()
        assert tab.plan.invert.isVisible() == engine.seems_inverted
    qtbot.waitUntil(lambda: len(engine.planned) == 3)
    tab.plan.stop()
    qtbot.waitUntil(lambda: not engine.is_busy)


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
    qtbot.waitUntil(lambda: not tab.is_running)
    qtbot.waitUntil(lambda: len(engine.planned) == 1)
    assert engine.planned[0][2].tile == 64


def test_what_was_found_about_the_image_stands_under_the_plan_until_another_is_chosen(open_tab, qtbot, engine):
    engine.findings = tuple(f"Slice {number} is empty." for number in range(4))
    viewer, tab = open_tab()
    line = tab.plan.findings
    qtbot.waitUntil(line.isVisible)
    assert all(finding in line.text() for finding in engine.findings)
    assert not tab.plan.invert.isVisible()
    engine.findings = tuple(f"Finding {number}." for number in range(8))
    tab.form.options.tile.setValue(64)
    qtbot.waitUntil(lambda: "Finding 0." in line.text())
    assert "2 more" in line.text()
    assert "Finding 7." in line.toolTip()
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert line.isVisible()
    engine.findings = ()
    viewer.add_image(np.full((2, 40, 48), 9, np.uint8), name="other")
    choose(tab.form.image, viewer.layers["other"])
    assert not line.isVisible()
    qtbot.waitUntil(lambda: "of memory" in tab.plan.summary.text())
    assert not line.isVisible()


def test_inverting_is_offered_and_one_click_and_goes_to_the_engine_as_other_options_do(open_tab, qtbot, engine):
    engine.findings, engine.seems_inverted = ("Dark and light seem to be the other way round.",), True
    _, tab = open_tab()
    qtbot.waitUntil(lambda: tab.plan.invert.isVisible())
    assert (tab.form.read().options().invert, tab.form.read().options().padding) == (False, "auto")
    choose(tab.form.options.padding, "none")
    engine.findings, engine.seems_inverted = (), False
    qtbot.mouseClick(tab.plan.invert, Qt.MouseButton.LeftButton)
    assert tab.form.options.invert.isChecked()
    qtbot.waitUntil(lambda: engine.planned[-1][2].invert and not tab.plan.invert.isVisible())
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert (engine.calls[0][2].invert, engine.calls[0][2].padding) == (True, "none")


def test_nothing_is_said_to_be_measured_while_the_engine_works_on_something_else(qtbot):
    engine = SimpleNamespace(is_busy=True)
    line = SettledLine(EngineQueue(engine), "measuring…")
    qtbot.addWidget(line)
    line.update_for("choices", in_one_step("measure", lambda: "about 3 s"))
    qtbot.wait(900)
    assert line.summary.text() == ""
    engine.is_busy = False
    line.request_now()
    assert line.summary.text() == "measuring…"
    qtbot.waitUntil(lambda: line.summary.text() == "about 3 s")


def test_nothing_is_said_to_be_measured_once_the_answer_came_after_its_request_was_cancelled(qtbot):
    line = SettledLine(EngineQueue(SimpleNamespace(is_busy=False)), "measuring…")
    qtbot.addWidget(line)
    measured = []

    def measure():
        measured.append("")
        return "about 3 s"

    line.update_for("choices", in_one_step("measure", measure))
    line.request_now()
    QThreadPool.globalInstance().waitForDone()  # the answer is on its way to the window
    line.update_for("others", in_one_step("measure", lambda: "about 9 s"))
    line.update_for("choices", in_one_step("measure", measure))
    qtbot.waitUntil(lambda: line.summary.text() == "about 3 s")
    qtbot.wait(1000)
    assert (len(measured), line.summary.text()) == (1, "about 3 s")
