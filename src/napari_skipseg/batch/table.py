"""The table of a batch, a row a file, and the events that say what changed of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.records import State, read_file_record
from napari_skipseg.batch.run_file import FileOutcome
from napari_skipseg.progress import Progress
from napari_skipseg.wording import counted

_STEPS = 1000
"""Into how many steps a file is divided in the progress of the whole."""
FINISHED: tuple[State, ...] = ("done", "skipped", "failed")


@dataclass(frozen=True)
class BatchRow:
    """One file in the table.

    relative: where it lies within the inputs, which distinguishes it from the others. done, total: tiles. message:
    what is being done. seconds_left: until it is done, None if that is not known yet. seconds: that it took. size:
    such as "25 × 512 × 512", "" until it was opened; bytes: of the image. reason: why it failed. note: what else is to
    be said.
    ended: when that was, as in 2026-03-01T22:15:00+01:00, "" if it is not known. thumbnail, outputs: paths, where
    there are any. voxel_size, objects, mean_size, size_unit: as in `Record`. title: as in `BatchInput`.
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
    def called(self) -> str:
        """What it is called in tables: its place among the inputs, and its title."""
        return f"{self.relative} {self.title}".strip()

    @property
    def fraction(self) -> float:
        """Share of it that is done, in [0, 1]."""
        if self.state in FINISHED:
            return 1.0
        return min(self.done / self.total, 1.0) if self.total else 0.0


@dataclass(frozen=True)
class BatchOpened(Progress):
    """The first event: all rows, the run's folder, and how many files were left out (no images; results of SkipSeg).

    asked: the files that are to be done, by their names in the table. hint: as in `Inputs`.
    """

    rows: tuple[BatchRow, ...] = ()
    folder: str = ""
    others: int = 0
    ours: int = 0
    asked: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class FileChanged(Progress):
    """A row is another now. seconds_left: of the whole batch, None if that is not known yet."""

    row: BatchRow = field(default_factory=lambda: BatchRow("", ""))
    seconds_left: float | None = None


@dataclass(frozen=True)
class BatchWaits(Progress):
    """No file moves yet; message: what is waited for, behind how far the whole is."""


@dataclass(frozen=True)
class Retry:
    """A command: do again what failed; relatives: only these, all if there are none."""

    relatives: tuple[str, ...] = ()


class ProgressTable:
    """The rows of a batch as they are now."""

    def __init__(self, entries: Iterable[BatchInput], place: RunPlace) -> None:
        self.rows = {entry.relative: BatchRow(entry.relative, entry.file, title=entry.title) for entry in entries}
        self._place = place
        self._begun: dict[str, tuple[float, int]] = {}
        self._reached: dict[str, int] = {}
        self._steps = self._ended = self._failed = 0
        self._speed = _Speed()
        self._waits = ""

    def opened(self, others: int, ours: int, asked: tuple[str, ...]) -> BatchOpened:
        """Return the first event."""
        how_far = self._how_far()
        rows, folder = tuple(self.rows.values()), str(self._place.path)
        return BatchOpened(how_far.done, how_far.total, "", rows, folder, others, ours, asked)

    def recall(self, entries: Iterable[BatchInput]) -> None:
        """Note what became of files another time, where that is known."""
        for entry in entries:
            record = read_file_record(self._place.record(entry))
            if record is not None and record.state != "segmented":
                self.on_message(FileOutcome("skipped" if record.state == "done" else "failed", record), entry)

    def on_message(self, news: Progress | FileOutcome | None, entry: BatchInput | None = None) -> Progress:
        """Note what is new of a file, and return what to say of it; None: nothing is new."""
        if entry is None and isinstance(news, Progress):
            self._waits = news.message
        if entry is None or news is None:
            how_far = self._how_far()
            told = f"{how_far.message}: {self._waits}"
            return BatchWaits(how_far.done, how_far.total, told) if self._waits else how_far
        self._waits = ""
        return self._finished(entry, news) if isinstance(news, FileOutcome) else self._moved(entry, news)

    def is_selected(self, entry: BatchInput, command: Retry) -> bool:
        """Return whether a file failed and is to be done again."""
        named = not command.relatives or entry.relative in command.relatives
        return named and self.rows[entry.relative].state == "failed"

    def queue_again(self, entry: BatchInput) -> FileChanged:
        """Note that a file is to be done again."""
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
        self._reached[row.relative] = max(reached, steps) if row.state == "running" else steps  # objects count anew
        self._steps += self._reached[row.relative] - reached
        self._ended += (row.state in FINISHED) - (before.state in FINISHED)
        self._failed += (row.state == "failed") - (before.state == "failed")
        self._speed.note(row, self._reached[row.relative] / _STEPS)
        how_far = self._how_far()
        left = self._speed.seconds_for(len(self.rows) - how_far.done / _STEPS)
        return FileChanged(how_far.done, how_far.total, how_far.message, row, left)

    def _how_far(self) -> Progress:
        told = f"{self._ended - self._failed} of {counted(len(self.rows), 'file')}"
        told += f", {self._failed} failed" if self._failed else ""
        return Progress(self._steps, len(self.rows) * _STEPS, told)


class _Speed:
    """How fast files are done. What failed, was skipped or lay there before is no work; nothing is known before the
    first success, as until then networks are made ready and tiles say nothing of objects."""

    def __init__(self) -> None:
        self._since = 0.0
        self._there: dict[str, float] = {}
        self._worked: dict[str, float] = {}
        self._whole = 0.0
        self._done = 0

    def begin(self, relative: str, there: float) -> None:
        """Note which share of a file lay there before its first tile now."""
        self._there[relative] = max(there, 0.0)

    def forget(self, relative: str) -> None:
        """Note that a file is to be done anew."""
        self._there.pop(relative, None)

    def note(self, row: BatchRow, reached: float) -> None:
        """Note how far a file is."""
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
    """Return what is to be said of a file besides; of one that was done before also when."""
    record = outcome.record
    told = " ".join((*record.findings, *record.remarks, record.note)).strip()
    if outcome.state != "skipped":
        return told
    day = f" on {record.ended[:10]}" if record.ended else ""
    return f"done before{day}, with the same recipe" + (f". {told}" if told else "")
