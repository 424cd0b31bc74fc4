"""A batch in a terminal: a table that lives while it runs, or a line for each file without a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from napari_skipseg.batch.table import FINISHED, BatchOpened, BatchRow, BatchWaits, FileChanged
from napari_skipseg.progress import Progress
from napari_skipseg.terminal import LINE_EVERY, drive_with_progress, on_stderr
from napari_skipseg.wording import about_left, counted, in_words

if TYPE_CHECKING:
    from napari_skipseg.batch.run import BatchResult

_SHOWN = 12
"""Rows of files that ended, besides those at work."""
STYLES = {"done": "green", "failed": "red", "skipped": "dim", "running": "bold"}
PER_SECOND = 5


def show_batch(work: Generator[Progress, Any, BatchResult]) -> BatchResult:
    """Return the result of `work`, shown on stderr while it proceeds; Ctrl-C stops it at its next tile."""
    console = on_stderr()
    shown = _LiveTable() if console.is_terminal else _Lines(console)

    def show(progress: Progress) -> None:
        if isinstance(progress, BatchOpened) and progress.hint:
            console.print(f"Note: {progress.hint}", markup=False, soft_wrap=True)
        shown.show(progress)

    if isinstance(shown, _Lines):
        return drive_with_progress(work, show)
    with Live(console=console, refresh_per_second=PER_SECOND, transient=True, get_renderable=shown.draw):
        return drive_with_progress(work, show)


class _Lines:
    """A line for each file that ended; what is waited for at once, and every minute in which nothing ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said, self._last = "", time.monotonic()

    def show(self, progress: Progress) -> None:
        if isinstance(progress, BatchWaits):
            self._print(progress.message, progress.message)
        elif isinstance(progress, FileChanged) and progress.row.state == "running":
            row = progress.row
            whole = f"{progress.message}{about_left(progress.seconds_left)}"
            at_work = f"{whole}: {_plain(row.relative)} {row.fraction:.0%}, {row.message or 'reading'}"
            self._print(at_work, "running")
        self._show_end(progress)

    def _print(self, line: str, kind: str) -> None:
        """Print a line if its kind differs from the last one's, or if a minute has passed."""
        if kind != self._said or time.monotonic() - self._last >= LINE_EVERY:
            self._said, self._last = kind, time.monotonic()
            self._console.print(line, markup=False, soft_wrap=True)

    def _show_end(self, progress: Progress) -> None:
        if isinstance(progress, FileChanged) and progress.row.state in FINISHED:
            row = progress.row
            found = "" if row.objects is None else counted(row.objects, "object")
            told = row.reason or "; ".join(part for part in (found, row.note) if part) or row.size
            seconds = f" in {in_words(row.seconds)}" if row.state == "done" else ""
            line = f"{progress.message}: {_plain(row.called)} {row.state}{seconds}{f', {told}' if told else ''}"
            self._said, self._last = "running", time.monotonic()
            self._console.print(line, markup=False, soft_wrap=True)


class _LiveTable:
    """Files at work, those that ended last, those that failed, and how far the whole is."""

    def __init__(self) -> None:
        self._running: dict[str, BatchRow] = {}
        self._ended: deque[BatchRow] = deque(maxlen=_SHOWN)
        self._whole = Progress(0, 1, "looking for images")
        self._left: float | None = None
        self._folder = ""

    def show(self, progress: Progress) -> None:
        self._whole = progress
        if isinstance(progress, BatchOpened):
            self._folder = progress.folder
        if isinstance(progress, FileChanged):
            self._left, row = progress.seconds_left, progress.row
            self._running.pop(row.relative, None)
            if row.state == "running":
                self._running[row.relative] = row
            elif row.state in FINISHED:
                self._ended.append(row)

    def draw(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        table.add_column("file", overflow="ellipsis", no_wrap=True, ratio=3)
        table.add_column("state")
        table.add_column("progress", justify="right")
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("", overflow="ellipsis", no_wrap=True, ratio=3)
        for row in [*self._ended, *self._running.values()]:
            table.add_row(*(Text(_plain(cell), style=STYLES.get(row.state, "")) for cell in _cells(row)))
        told = Text(
            f"{_plain(self._whole.message)}{about_left(self._left)} → {_plain(self._folder)}",
            overflow="ellipsis",
            no_wrap=True,
        )
        return Group(table, ProgressBar(total=1.0, completed=self._whole.fraction), told)


def _cells(row: BatchRow) -> tuple[str, ...]:
    running = row.state == "running"
    left = f", {in_words(row.seconds_left)} left" if running and row.seconds_left else ""
    how_far = f"{row.fraction:.0%}" if running else f"{row.seconds:.1f} s" if row.state == "done" else ""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in list(row.scores.items())[:2])
    told = row.message + left if running else row.reason or row.note or scores
    return row.relative, row.state, how_far, row.size, told


def _plain(text: str) -> str:
    """Return a text that every terminal can show, whatever a file is called."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
