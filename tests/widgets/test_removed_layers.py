"""Layers that are removed while the panel is at work: nothing of them is used any more, and the process lives."""

from __future__ import annotations

import faulthandler
import gc

import numpy as np
import pytest
from test_finetune import finish, open_tab, press, ready, teaching  # noqa: F401

pytestmark = pytest.mark.gui

TIMES = 10


@pytest.fixture
def busy_collector():
    """Have Python look for garbage all the time, in the threads of workers, too."""
    before = gc.get_threshold()
    gc.set_threshold(25, 2, 2)
    yield
    gc.set_threshold(*before)


@pytest.mark.slow
def test_layers_that_are_cleared_during_plans_runs_and_comparisons_do_not_end_the_process(
    open_tab,  # noqa: F811
    qtbot,
    teaching,  # noqa: F811
    engine,
    busy_collector,
):
    faulthandler.enable()
    viewer, panel, tab = open_tab()
    segment = panel.segment_tab
    engine.plan_pause, engine.pause, teaching.steps, teaching.pause = 0.3, 0.02, 200, 0.005
    values = np.linspace(0, 255, 3 * 64 * 80).reshape(3, 64, 80).astype(np.uint8)
    for time in range(TIMES):
        ready(panel, qtbot)
        press(qtbot, tab.tune_button)
        qtbot.waitUntil(tab.keep_button.isEnabled)
        press(qtbot, tab.keep_button)
        if time % 2:
            finish(panel, qtbot)
            if tab.report.before_button.isVisible():
                press(qtbot, tab.report.before_button)
        panel.tabs.setCurrentIndex(0)
        if not segment.is_running:
            segment.segment()
        qtbot.wait(100 * (time % 4))
        viewer.layers.clear()
        viewer.add_image(values.astype(np.float32) * np.nan, name="nan")
        qtbot.wait(200)
        viewer.layers.clear()
        viewer.add_image(np.roll(values, time + 1), name="em", scale=(50, 4, 4), units="nm")
        finish(panel, qtbot)
        panel.tabs.setCurrentIndex(2)
        qtbot.wait(100)
