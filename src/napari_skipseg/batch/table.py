"""The table of a batch with a row for each file, and the events that report its changes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from napari_skipseg.batch.inputs import BatchInput, BatchInputs
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.records import State, read_file_record
from napari_skipseg.batch.run_file import FileOutcome
from napari_skipseg.progress import Progress
from napari_skipseg.wording import counted

_STEPS = 1000
"""Steps of one file in the progress of the batch."""
FINISHED: tuple[State, ...] = ("done", "skipped", "failed")


@dataclass(frozen=True)
class BatchRow:
    """One file in the table.

    relative: its path within the inputs, different for each file. done, total: tiles. message: the current step.
    seconds_left: until it is done, None = not known yet. seconds: its duration. size: such as "25 × 512 × 512", ""
    until it was opened. bytes: of the image. thumbnail, outputs: paths. ended: such as 2026-03-01T22:15:00+01:00, "" =
    not known. title: as in `BatchInput`. All others: as in `FileRecord`.
    """

    relative: str
    file: str
    state: State = "waiting"
    done: int = 0
    total: int = 0
    message: str = ""
    seconds_left: float | None = None
    seconds: float = 0.0
    size: str = ""
    bytes: int = 0
    reason: str = ""
    note: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    thumbnail: str = ""
    outputs: tuple[str, ...] = ()
    ended: str = ""
    voxel_size: str = ""
    objects: int | None = None
    mean_size: float | None = None
    size_unit: str = ""
    title: str = ""

    @property
    def full_name(self) -> str:
        """Its name in tables: its path within the inputs, and its title."""
        return f"{self.relative} {self.title}".strip()

    @property
    def fraction(self) -> float:
        """The share that is done, in [0, 1]."""
        if self.state in FINISHED:
            return 1.0
        return min(self.done / self.total, 1.0) if self.total else 0.0


@dataclass(frozen=True)
class BatchOpened(Progress):
    """The first event: all rows, the run's folder, and the numbers of files that were left out, as in `BatchInputs`.

    to_process: the files that will be processed, by their names in the table. hint: as in `BatchInputs`.
    """

    rows: tuple[BatchRow, ...] = ()
    folder: str = ""
    others: int = 0
    ours: int = 0
    to_process: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class FileChanged(Progress):
    """A row has changed. seconds_left: of the whole batch, None if that is not known yet."""

    row: BatchRow = field(default_factory=lambda: BatchRow("", ""))
    seconds_left: float | None = None


@dataclass(frozen=True)
class BatchWaits(Progress):
    """No file is processed yet. message: the progress of the batch, and what it waits for."""


@dataclass(frozen=True)
class Retry:
    """A command: process failed files again. relatives: only these; empty = all."""

    relatives: tuple[str, ...] = ()


class ProgressTable:
    """The current rows of a batch."""

    def __init__(self, entries: Iterable[BatchInput], place: RunPlace) -> None:
        self.rows = {entry.relative: BatchRow(entry.relative, entry.file, title=entry.title) for entry in entries}
        self._place = place
        self._begun: dict[str, tuple[float, int]] = {}
        self._reached: dict[str, int] = {}
        self._steps = self._ended = self._failed = 0
        self._speed = _Speed()
        self._awaited = ""

    def opened(self, found: BatchInputs, to_process: tuple[str, ...]) -> BatchOpened:
        """Return the first event."""
        overall = self._overall()
        return BatchOpened(
            overall.done,
            overall.total,
            rows=tuple(self.rows.values()),
            folder=str(self._place.path),
            others=found.others,
            ours=found.ours,
            to_process=to_process,
            hint=found.hint,
        )

    def read_records(self, entries: Iterable[BatchInput]) -> None:
        """Show the outcomes of earlier runs."""
        for entry in entries:
            record = read_file_record(self._place.record(entry))
            if record is not None and record.state != "segmented":
                self.on_message(FileOutcome("skipped" if record.state == "done" else "failed", record), entry)

    def on_message(self, news: Progress | FileOutcome | None, entry: BatchInput | None = None) -> Progress:
        """Update the table, and return the event to emit. news: None if nothing is new."""
        if entry is None and isinstance(news, Progress):
            self._awaited = news.message
        if entry is None or news is None:
            overall = self._overall()
            if not self._awaited:
                return overall
            return BatchWaits(overall.done, overall.total, f"{overall.message}: {self._awaited}")
        self._awaited = ""
        return self._finished(entry, news) if isinstance(news, FileOutcome) else self._moved(entry, news)

    def is_selected(self, entry: BatchInput, command: Retry) -> bool:
        """Return whether a file failed and a command selects it."""
        named = not command.relatives or entry.relative in command.relatives
        return named and self.rows[entry.relative].state == "failed"

    def queue_again(self, entry: BatchInput) -> FileChanged:
        """Show a file as waiting again."""
        self._begun.pop(entry.relative, None)
        self._speed.forget(entry.relative)
        return self._change(BatchRow(entry.relative, entry.file, title=entry.title))

    def _moved(self, entry: BatchInput, progress: Progress) -> FileChanged:
        now = time.monotonic()
        begun, first = self._begun.setdefault(entry.relative, (now, 0))
        row = self.rows[entry.relative]
        tiles = progress.total > 1 or row.total <= 1
        done, total = (progress.done, progress.total) if tiles else (row.done, row.total)
        if row.total != total:
            begun, first = self._begun[entry.relative] = (now, done)
            if total > 1 and not self._reached.get(entry.relative):
                self._speed.begin(entry.relative, (done - 1) / total)
        left = (now - begun) * (total - done) / (done - first) if done > first else None
        return self._change(
            replace(row, state="running", done=done, total=total, message=progress.message, seconds_left=left)
        )

    def _finished(self, entry: BatchInput, outcome: FileOutcome) -> FileChanged:
        record = outcome.record
        row = BatchRow(
            entry.relative,
            entry.file,
            outcome.state,
            seconds=record.seconds.get("all", 0.0),
            size=" × ".join(map(str, record.shape)),
            bytes=record.bytes,
            reason=record.reason,
            note=_note_of(outcome),
            ended=record.ended,
            scores=record.scores,
            voxel_size=record.voxel_size,
            objects=record.objects,
            mean_size=record.mean_size,
            size_unit=record.size_unit,
            thumbnail=str(self._place.path / record.thumbnail) if record.thumbnail else "",
            outputs=tuple(str(self._place.path / output.file) for output in record.outputs),
            title=entry.title,
        )
        return self._change(row)

    def _change(self, row: BatchRow) -> FileChanged:
        before = self.rows[row.relative]
        self.rows[row.relative] = row
        reached = self._reached.get(row.relative, 0)
        steps = int(row.fraction * _STEPS)
        self._reached[row.relative] = max(reached, steps) if row.state == "running" else steps  # objects start at 0
        self._steps += self._reached[row.relative] - reached
        self._ended += (row.state in FINISHED) - (before.state in FINISHED)
        self._failed += (row.state == "failed") - (before.state == "failed")
        self._speed.note(row, self._reached[row.relative] / _STEPS)
        overall = self._overall()
        left = self._speed.seconds_for(len(self.rows) - overall.done / _STEPS)
        return FileChanged(overall.done, overall.total, overall.message, row, left)

    def _overall(self) -> Progress:
        text = f"{self._ended - self._failed} of {counted(len(self.rows), 'image')}"
        text += f", {self._failed} failed" if self._failed else ""
        return Progress(self._steps, len(self.rows) * _STEPS, text)


class _Speed:
    """The speed of the batch. Files that failed or were skipped, and tiles of earlier runs, do not count. It is known
    after the first file only: before, networks are loaded, and tiles do not show how long objects take."""

    def __init__(self) -> None:
        self._since = 0.0
        self._there: dict[str, float] = {}
        self._worked: dict[str, float] = {}
        self._whole = 0.0
        self._done = 0

    def begin(self, relative: str, there: float) -> None:
        """Note the share of a file that was done in an earlier run."""
        self._there[relative] = max(there, 0.0)

    def forget(self, relative: str) -> None:
        """Note that a file will be processed from the beginning."""
        self._there.pop(relative, None)

    def note(self, row: BatchRow, reached: float) -> None:
        """Note the progress of a file."""
        counts = row.state in ("running", "done")
        if counts and not self._since:
            self._since = time.monotonic()
        worked = max(reached - self._there.get(row.relative, 0.0), 0.0) if counts else 0.0
        self._whole += worked - self._worked.get(row.relative, 0.0)
        self._worked[row.relative] = worked
        self._done += row.state == "done"

    def seconds_for(self, files: float) -> float | None:
        """Return how long so many files take, None if that is not known yet."""
        known = self._done > 0 and self._whole > 0
        return (time.monotonic() - self._since) * files / self._whole if known else None


def _note_of(outcome: FileOutcome) -> str:
    """Return all remarks on a file; if it was done in an earlier run, also when."""
    record = outcome.record
    remarks = " ".join((*record.findings, *record.remarks, record.note)).strip()
    if outcome.state != "skipped":
        return remarks
    day = f" on {record.ended[:10]}" if record.ended else ""
    return f"done before{day}, with the same recipe" + (f". {remarks}" if remarks else "")
