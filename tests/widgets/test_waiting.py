"""Jobs that wait for the engine, and what the window costs while one waits."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QObject, Qt

from napari_skipseg.progress import Progress

pytestmark = pytest.mark.gui

TABS = ("segment_tab", "correct_tab", "finetune_tab", "objects_tab", "proofread_tab", "batch_tab", "inspect_tab")


class Paints(QObject):
    """Counts how often a window is drawn."""

    def __init__(self, window) -> None:
        super().__init__(window)
        self.count = 0
        window.installEventFilter(self)

    def eventFilter(self, watched, event) -> bool:  # noqa: N802
        self.count += event.type() == QEvent.Type.UpdateRequest
        return False

    def wait_for_rest(self, qtbot) -> None:
        """Wait until the window is drawn once at the most for a while."""
        for _ in range(40):
            self.count = 0
            qtbot.wait(1_000)
            if self.count <= 1:
                return
        raise AssertionError("the window is drawn again and again")


class Gate:
    """Work of the engine that goes on until it is opened; `began` says in which order such works began."""

    def __init__(self, began: list[str], name: str, message: str = "scoring the old model") -> None:
        self.began, self.name, self.message, self.is_open = began, name, message, False

    def __call__(self):
        self.began.append(self.name)
        while not self.is_open:
            time.sleep(0.02)
            yield Progress(0, 1, self.message)
        return self.name


def start(tab, gate: Gate, waiting: str) -> None:
    tab.start(gate, f"Working on {gate.name}", lambda value: None, waiting_text=waiting)


def test_jobs_wait_in_the_order_of_their_clicks_and_one_that_is_taken_back_lets_the_next_move_up(open_panel, qtbot):
    _, panel = open_panel()
    began: list[str] = []
    first, dropped, second, third = (Gate(began, name) for name in ("teach", "batch", "find", "look"))
    start(panel.finetune_tab, first, "waits for the fine-tuning")
    start(panel.batch_tab, dropped, "waits for the batch")
    start(panel.objects_tab, second, "waits for the search for objects")
    start(panel.inspect_tab, third, "waits for the inspection")
    assert panel.objects_tab.progress_text.text() == "waits for the fine-tuning"
    assert panel.objects_tab.cancel_button.isEnabled()
    panel.show_tab("Batch")
    qtbot.mouseClick(panel.batch_tab.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not panel.batch_tab.is_running)
    assert "Nothing was changed" in panel.batch_tab.message.text()
    qtbot.waitUntil(lambda: began == ["teach"])
    first.is_open = True
    qtbot.waitUntil(lambda: began == ["teach", "find"])
    assert panel.inspect_tab.is_running
    qtbot.waitUntil(lambda: panel.inspect_tab.progress_text.text() == "waits for the search for objects")
    second.is_open = third.is_open = True
    qtbot.waitUntil(lambda: not panel.inspect_tab.is_running)
    assert began == ["teach", "find", "look"]


def test_work_without_steps_shows_its_duration_and_in_other_tabs_stands_below_the_one_in_front(
    open_panel, qtbot, monkeypatch
):
    monkeypatch.setattr("napari_skipseg.widgets.forms.job_tab.LONG", 1)
    _, panel = open_panel()
    gate = Gate([], "teach")
    start(panel.finetune_tab, gate, "waits for the fine-tuning")
    panel.show_tab("Correct")
    qtbot.waitUntil(lambda: panel.elsewhere.text().startswith("Fine-tune: scoring the old model"))
    panel.show_tab("Fine-tune")
    assert panel.elsewhere.isHidden()
    said = re.compile(r"scoring the old model \(\d s\)")
    qtbot.waitUntil(lambda: said.fullmatch(panel.finetune_tab.progress_text.text()) is not None)
    panel.show_tab("Correct")
    gate.is_open = True
    qtbot.waitUntil(panel.elsewhere.isHidden)


def test_a_bar_that_waits_does_not_draw_the_window(open_panel, qtbot, painted):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((2, 32, 32), np.uint8))
    paints = Paints(panel.window())
    for number, name in enumerate(TABS):
        tab, gate = getattr(panel, name), Gate([], "teach")
        panel.tabs.setCurrentIndex(number)
        start(tab, gate, "waits for the fine-tuning")
        qtbot.waitUntil(lambda tab=tab, gate=gate: tab.progress_text.text() == gate.message)
        assert tab.progress.isVisible(), name
        assert tab.progress.is_counting == (name == "finetune_tab"), "its bar is that of all phases together"
        paints.wait_for_rest(qtbot)  # the layout settles, what is planned for is answered
        gate.is_open = True
        qtbot.waitUntil(lambda tab=tab: not tab.is_running)


def test_a_bar_with_steps_shows_how_many_and_is_drawn_once_a_second(open_panel, qtbot, painted):
    _, panel = open_panel()
    tab, paints = panel.inspect_tab, Paints(panel.window())
    panel.show_tab("Inspect")

    def work():
        for step in range(1, 1001):
            time.sleep(0.02)
            yield Progress(step, 1000, f"tile {step} of 1000")

    tab.start(work, "Working", lambda value: None)
    qtbot.waitUntil(lambda: tab.progress.value() > 100)
    assert (tab.progress.maximum(), tab.progress.is_counting) == (1000, True)
    paints.count, begun = 0, time.monotonic()
    qtbot.wait(2_000)
    assert paints.count <= 2 * (time.monotonic() - begun)
    tab.cancel()
    qtbot.waitUntil(lambda: not tab.is_running)


@pytest.mark.slow
def test_the_window_takes_less_than_3_percent_of_a_core_while_a_job_waits(open_panel, qtbot, painted):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((6, 256, 256), np.uint8))
    panel.show_tab("Objects")  # compiles what a search needs, in a thread of this process
    qtbot.wait(15_000)
    shares = {}
    for number, name in enumerate(TABS):
        tab, gate = getattr(panel, name), Gate([], "teach")
        panel.tabs.setCurrentIndex(number)
        start(tab, gate, "waits for the fine-tuning")
        qtbot.wait(2_000)
        spent, began = time.process_time(), time.monotonic()
        time_spent_by_the_gate = 0.02  # of the fake work itself, at the most
        qtbot.wait(4_000)
        shares[name] = (time.process_time() - spent) / (time.monotonic() - began) - time_spent_by_the_gate
        gate.is_open = True
        qtbot.waitUntil(lambda tab=tab: not tab.is_running)
    assert max(shares.values()) < 0.03, shares
