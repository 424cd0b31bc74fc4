"""A batch from its settings to its report: one generator for shell, tab and Python."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_skipseg.batch.companions import check_companions
from napari_skipseg.batch.crash_guard import allow_reopening
from napari_skipseg.batch.dask_run import iter_cluster
from napari_skipseg.batch.inputs import BatchInput, BatchInputs, find_inputs, is_run
from napari_skipseg.batch.place import REPORT_FILE, SUMMARY_FILE, RunPlace, place_of_run
from napari_skipseg.batch.records import read_file_record
from napari_skipseg.batch.report import write_report, write_summary
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import BatchRow, ProgressTable, Retry
from napari_skipseg.batch.threads import iter_lanes
from napari_skipseg.errors import InputError
from napari_skipseg.progress import Progress
from napari_skipseg.wording import counted


@dataclass(frozen=True)
class BatchResult:
    """The outcome of a batch. folder: of the run, with the files summary and report. others, ours: numbers of files
    that were left out because they are no images, or results of SkipSeg. seconds: duration of this run."""

    folder: Path
    summary: Path
    report: Path
    rows: tuple[BatchRow, ...]
    others: int
    ours: int
    seconds: float

    def count(self, state: str) -> int:
        """Return how many files are in that state."""
        return sum(row.state == state for row in self.rows)

    def describe(self) -> str:
        """Return the result in one sentence: how many images were done, skipped and failed."""
        states = [f"{self.count('done')} done"]
        if self.count("skipped"):
            states.append(f"{self.count('skipped')} done before with the same recipe and skipped")
        if self.count("failed"):
            states.append(f"{self.count('failed')} failed")
        others = counted(self.others, "file that is no image", "files that are no images")
        ours = counted(self.ours, "result of SkipSeg", "results of SkipSeg")
        left_out = [text for text, count in ((others, self.others), (ours, self.ours)) if count]
        text = f"{counted(len(self.rows), 'image')}: {', '.join(states)}."
        return f"{text} Left out: {' and '.join(left_out)}." if left_out else text


def iter_batch(
    settings: BatchSettings, retry: bool = False, only: Collection[str] | None = None
) -> Generator[Progress, Retry | None, BatchResult]:
    """Process all files; yield `BatchOpened`, then `FileChanged` whenever a row changes, and return the outcome.

    The results go to the run's folder, OUT/<model>-<hash of the recipe>/. Files that are done with the same recipe are
    skipped; a file that was stopped or killed continues at its next tile; a failure is recorded with its reason. Close
    the generator to stop; send a `Retry` to process failed files again while it runs.

    retry: process only the files that failed the last time. only: the files to process, by their names in the table,
    whatever their state; None = all.

    Raises:
        SkipsegError: there are no inputs or no model, the output folder is not allowed, locked by a different run or
            not writable, or the disk is full.
    """
    start = time.monotonic()
    found = find_inputs(settings)
    check_companions(settings, len(found.entries))
    place = place_of_run(settings)
    entries = _failed(found, place) if retry else found.entries
    if only is not None:
        entries = tuple(entry for entry in found.entries if entry.relative in only)
    if not entries:
        raise InputError(_nothing_failed(place))
    with place.locked(settings):
        table = ProgressTable(found.entries, place)
        waiting = deque(_allow_reopening(place, entries) if retry else entries)
        if len(entries) < len(found.entries):
            table.read_records(entry for entry in found.entries if entry not in entries)
        yield table.opened(found, tuple(entry.relative for entry in entries))
        iter_messages = iter_cluster if settings.workers or settings.scheduler else iter_lanes
        with contextlib.closing(iter_messages(settings, waiting, place)) as work:
            for message in work:
                command = (
                    yield table.on_message(None) if message is None else table.on_message(message.news, message.entry)
                )
                if command is not None:
                    selected = [entry for entry in found.entries if table.is_selected(entry, command)]
                    for entry in _allow_reopening(place, selected):
                        waiting.append(entry)
                        yield table.queue_again(entry)
        rows, seconds = tuple(table.rows.values()), time.monotonic() - start
        summary, report = place.path / SUMMARY_FILE, place.path / REPORT_FILE
        write_summary(summary, rows, place)
        write_report(report, rows, place, settings, seconds)
    return BatchResult(place.path, summary, report, rows, found.others, found.ours, seconds)


def _allow_reopening(place: RunPlace, entries: Sequence[BatchInput]) -> Sequence[BatchInput]:
    """Return `entries`; files that were left out after crashes may be opened once more."""
    for entry in entries:
        allow_reopening(place, entry)
    return entries


def _nothing_failed(place: RunPlace) -> str:
    if place.path.is_dir():
        return f"Nothing failed in '{place.path}': there is nothing to retry."
    output = place.path.parent
    runs = sorted(folder.name for folder in output.glob("*") if is_run(folder)) if output.is_dir() else []
    there = f"the runs there are {', '.join(runs)}" if runs else "there are no runs"
    return (
        f"No run with this recipe is in '{output}', {there}: give the model and all options with which the run was "
        "begun."
    )


def _failed(found: BatchInputs, place: RunPlace) -> tuple[BatchInput, ...]:
    """Return the files that failed the last time."""
    known = {entry: read_file_record(place.record(entry)) for entry in found.entries}
    return tuple(entry for entry, record in known.items() if record is not None and record.state == "failed")
