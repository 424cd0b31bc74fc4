"""What a terminal, or the log file in its place, says of long work: how far it is, and how long it still takes."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hand_clock import HandClock
from rich.console import Console

from napari_skipseg import progress as progress_module
from napari_skipseg import terminal
from napari_skipseg.progress import Progress, TimeLeft, about_left


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    clock = HandClock()
    monkeypatch.setattr(progress_module, "time", clock)
    monkeypatch.setattr(terminal, "time", clock)
    return clock


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "_on_stderr", lambda: Console(file=text, width=120, force_terminal=False))
    return text


def test_the_time_left_is_that_of_the_steps_at_the_speed_until_now(clock: HandClock) -> None:
    left = TimeLeft()
    assert left.after(Progress(40, 100)) is None  # as of a run that is gone on with
    clock.now += 30
    assert left.after(Progress(40, 100)) is None
    clock.now += 30
    assert left.after(Progress(60, 100)) == pytest.approx(120)
    clock.now += 60
    assert left.after(Progress(100, 100)) is None
    assert left.after(Progress(0, 100)) is None  # the same number of steps of something else
    clock.now += 10
    assert left.after(Progress(1, 100)) == pytest.approx(990)
    assert left.after(Progress(1, 7)) is None
    assert about_left(None) == ""
    assert about_left(990) == ", about 16 min left"


def test_a_log_file_has_a_line_a_minute_with_the_time_left(clock: HandClock, shown: io.StringIO) -> None:
    def work() -> Generator[Progress, None, str]:
        for done in range(11):
            yield Progress(done, 10, f"tile {done} of 10")
            clock.now += 40
        return "a result"

    assert terminal.watch(work(), "segmenting cells") == "a result"
    assert shown.getvalue().splitlines() == [
        "segmenting cells: 20%, tile 2 of 10, about 5 min left",
        "segmenting cells: 40%, tile 4 of 10, about 4 min left",
        "segmenting cells: 60%, tile 6 of 10, about 3 min left",
        "segmenting cells: 80%, tile 8 of 10, about 1 min left",
        "segmenting cells: 100%, tile 10 of 10",
    ]


def test_what_is_being_done_is_shown_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch, shown: io.StringIO) -> None:
    with terminal.saying("Looking for images in data …"):
        pass
    assert shown.getvalue() == ""
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "_on_stderr", lambda: Console(file=screen, width=120, force_terminal=True))
    with terminal.saying("Looking for [b]images[/b] in data …"):
        assert "Looking for [b]images[/b] in data …" in screen.getvalue()


def test_a_batch_says_something_before_what_takes_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_skipseg.cli import batch as command

    screen = io.StringIO()
    monkeypatch.setattr(terminal, "_on_stderr", lambda: Console(file=screen, width=120, force_terminal=True))

    def settle(*_: Any) -> Any:
        assert "Looking for images in data …" in screen.getvalue()
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[command.__module__], "_settings", settle)
    with pytest.raises(KeyboardInterrupt):
        command("data", "results")
