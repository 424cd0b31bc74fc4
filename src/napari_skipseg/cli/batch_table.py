"""A batch in a terminal: a live table, or without a terminal a line for each file."""

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
"""Rows of finished files, besides those that are being processed."""
STYLES = {"done": "green", "failed": "red", "skipped": "dim", "running": "bold"}
PER_SECOND = 5


def show_batch(work: Generator[Progress, Any, BatchResult]) -> BatchResult:
    """Show the progress of `work` on stderr and return its result; Ctrl-C stops it at the next tile."""
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
    """A line for each finished file; one when the batch starts to wait, and one each minute in which no file ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_kind, self._last = "", time.monotonic()

    def show(self, progress: Progress) -> None:
        if isinstance(progress, BatchWaits):
            self._print(progress.message, progress.message)
        elif isinstance(progress, FileChanged) and progress.row.state == "running":
            row = progress.row
            overall = f"{progress.message}{about_left(progress.seconds_left)}"
            self._print(f"{overall}: {_plain(row.relative)} {row.fraction:.0%}, {row.message or 'reading'}", "running")
        self._show_end(progress)

    def _print(self, line: str, kind: str) -> None:
        """Print a line if the last one was of a different kind, or a minute ago."""
        if kind != self._last_kind or time.monotonic() - self._last >= LINE_EVERY:
            self._last_kind, self._last = kind, time.monotonic()
            self._console.print(line, markup=False, soft_wrap=True)

    def _show_end(self, progress: Progress) -> None:
        if isinstance(progress, FileChanged) and progress.row.state in FINISHED:
            row = progress.row
            found = "" if row.objects is None else counted(row.objects, "object")
            details = row.reason or "; ".join(part for part in (found, row.note) if part) or row.size
            seconds = f" in {in_words(row.seconds)}" if row.state == "done" else ""
            end = f"{row.state}{seconds}{f', {details}' if details else ''}"
            line = f"{progress.message}: {_plain(row.full_name)} {end}"
            self._last_kind, self._last = "running", time.monotonic()
            self._console.print(line, markup=False, soft_wrap=True)


class _LiveTable:
    """Files that are being processed, the last finished ones, and the overall progress."""

    def __init__(self) -> None:
        self._running: dict[str, BatchRow] = {}
        self._ended: deque[BatchRow] = deque(maxlen=_SHOWN)
        self._overall = Progress(0, 1, "looking for images")
        self._left: float | None = None
        self._folder = ""

    def show(self, progress: Progress) -> None:
        self._overall = progress
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
        summary = Text(
            f"{_plain(self._overall.message)}{about_left(self._left)} → {_plain(self._folder)}",
            overflow="ellipsis",
            no_wrap=True,
        )
        return Group(table, ProgressBar(total=1.0, completed=self._overall.fraction), summary)


def _cells(row: BatchRow) -> tuple[str, ...]:
    running = row.state == "running"
    left = f", {in_words(row.seconds_left)} left" if running and row.seconds_left else ""
    progress = f"{row.fraction:.0%}" if running else f"{row.seconds:.1f} s" if row.state == "done" else ""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in list(row.scores.items())[:2])
    details = row.message + left if running else row.reason or row.note or scores
    return row.relative, row.state, progress, row.size, details


def _plain(text: str) -> str:
    """Replace characters of file names that a terminal cannot show."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
