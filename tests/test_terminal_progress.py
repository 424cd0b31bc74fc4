"""What a terminal, or the log file in its place, says of long work: how far it is, and how long it still takes."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Generator
from typing import Any

import pytest
import typer
from hand_clock import HandClock
from rich.console import Console

from napari_skipseg import progress as progress_module
from napari_skipseg import terminal
from napari_skipseg.errors import InputError
from napari_skipseg.progress import Progress, TimeLeft
from napari_skipseg.wording import about_left, in_words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    clock = HandClock()
    monkeypatch.setattr(progress_module, "time", clock)
    monkeypatch.setattr(terminal, "time", clock)
    return clock


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "on_stderr", lambda: Console(file=text, width=120, force_terminal=False))
    return text


def test_seconds_are_rounded_not_up():
    assert [in_words(seconds) for seconds in (1.2, 12.4, 12.6, 59.4)] == ["1 s", "12 s", "13 s", "59 s"]


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
    assert left.after(Progress(1, 100)) is None  # the first step loads and compiles
    clock.now += 5
    assert left.after(Progress(2, 100)) == pytest.approx(98 * 5)
    assert left.after(Progress(1, 7)) is None
    assert about_left(None) == ""
    assert about_left(990) == ", about 16 min left"


def test_it_counts_down_between_steps_in_shell_and_panel_alike() -> None:
    now = [0.0]
    left = TimeLeft(lambda: now[0])
    texts = []
    for second, done in ((0, 0), (5, 1), (6, 1), (7, 2), (8, 2), (9, 3), (14, 3)):
        now[0] = second
        texts.append(left.describe(Progress(done, 9, f"tile {done} of 9")))
    assert texts == [
        "tile 0 of 9",
        "tile 1 of 9",
        "tile 1 of 9",
        "tile 2 of 9, about 14 s left",
        "tile 2 of 9, about 13 s left",
        "tile 3 of 9, about 12 s left",
        "tile 3 of 9, about 10 s left",  # a step that takes long is no reason to promise less than the steps after it
    ]
    assert [in_words(seconds) for seconds in (0.2, 90, 3700, 7200)] == ["1 s", "2 min", "1 h 2 min", "2 h 0 min"]


@pytest.mark.parametrize("leap", [(0, 500), (3, 500), (40, 500)])
def test_steps_that_were_done_before_do_not_make_the_rest_look_quick(leap: tuple[int, int], clock: HandClock) -> None:
    left, done, told = TimeLeft(), 0, []
    while done < 1000:
        told.append((1000 - done, left.after(Progress(done, 1000))))
        clock.now += 2.0
        done += leap[1] if done == leap[0] else 1
    known = [(rest, seconds) for rest, seconds in told if seconds is not None]
    assert len(known) > 400
    assert all(seconds == pytest.approx(2.0 * rest) for rest, seconds in known)


def test_tiles_that_come_in_batches_count_at_the_pace_of_the_batches(clock: HandClock) -> None:
    left = TimeLeft()
    for done in range(61):
        if done % 3 == 1:
            clock.now += 9.0
        seconds = left.after(Progress(done, 300))
    assert seconds == pytest.approx(240 * 3.0, rel=0.06)


def test_a_log_file_has_a_line_a_minute_with_the_time_left(clock: HandClock, shown: io.StringIO) -> None:
    def work() -> Generator[Progress, None, str]:
        for done in range(11):
            yield Progress(done, 10, f"tile {done} of 10")
            clock.now += 40
        return "a result"

    assert terminal.with_progress_bar(work(), "segmenting cells") == "a result"
    assert shown.getvalue().splitlines() == [
        "segmenting cells: 20%, tile 2 of 10, about 5 min left",
        "segmenting cells: 40%, tile 4 of 10, about 4 min left",
        "segmenting cells: 60%, tile 6 of 10, about 3 min left",
        "segmenting cells: 80%, tile 8 of 10, about 1 min left",
        "segmenting cells: 100%, tile 10 of 10",
    ]


def test_what_is_being_done_is_shown_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch, shown: io.StringIO) -> None:
    with terminal.with_spinner("Looking for images in data …"):
        pass
    assert shown.getvalue() == ""
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "on_stderr", lambda: Console(file=screen, width=120, force_terminal=True))
    with terminal.with_spinner("Looking for [b]images[/b] in data …"):
        assert "Looking for [b]images[/b] in data …" in screen.getvalue()


def test_a_batch_says_something_before_what_takes_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_skipseg.cli.batch import batch as command

    screen = io.StringIO()
    monkeypatch.setattr(terminal, "on_stderr", lambda: Console(file=screen, width=120, force_terminal=True))

    def settle(*_: Any, **__: Any) -> Any:
        assert "Looking for images in data …" in screen.getvalue()
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[command.__module__], "make_settings", settle)
    with pytest.raises(KeyboardInterrupt):
        command("data", "results")


ENDS = {
    "well": lambda: None,
    "a fault": lambda: (_ for _ in ()).throw(InputError("It is empty.")),
    "a crash": lambda: (_ for _ in ()).throw(KeyError("no such thing")),
    "Ctrl-C": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
}


@pytest.mark.parametrize("end", ENDS)
def test_arguments_and_signal_handlers_are_put_back_however_a_command_ends(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["program", "go", "--verbose"]
    monkeypatch.setattr(sys, "argv", given)
    app = typer.Typer(name="program")
    during: list[Any] = []

    app.command("stay")(lambda: None)

    @app.command("go")
    def command() -> None:
        during.extend([signal.getsignal(signal.SIGTERM), list(sys.argv)])
        ENDS[end]()

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit):
        terminal.run_shown(app)
    assert sys.argv is given
    assert given == ["program", "go", "--verbose"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert during[0] is not before[0], "SIGTERM is heard while the command runs"
