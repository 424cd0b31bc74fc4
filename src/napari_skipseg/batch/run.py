"""A batch from its settings to its report: one generator for shell, tab and Python."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_skipseg.batch.crash_guard import allow_reopening
from napari_skipseg.batch.dask_run import iter_cluster
from napari_skipseg.batch.inputs import BatchInput, BatchInputs, find_inputs, is_run
from napari_skipseg.batch.place import REPORT_FILE, SUMMARY_FILE, RunPlace, place_of_run
from napari_skipseg.batch.records import read_file_record
from napari_skipseg.batch.report import write_report, write_summary
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import BatchRow, ProgressTable, Retry
from napari_skipseg.batch.threads import ThreadMessage, iter_lanes
from napari_skipseg.batch.truths import check_truth_folder
from napari_skipseg.errors import InputError
from napari_skipseg.progress import Progress
from napari_skipseg.wording import counted

Runner = Callable[[BatchSettings, "deque[BatchInput]", RunPlace], Generator[ThreadMessage | None, None, None]]
"""What works on the files that are waiting, here or elsewhere, and says what is new; see `threads.iter_lanes`."""


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch. folder: of the run; summary, report: in it. others, ours: files that were left out, being
    no images, or results of SkipSeg. seconds: that it took this time."""

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
        """Return the result in one sentence: how many files were done, skipped and failed."""
        said = [f"{self.count('done')} done"]
        if self.count("skipped"):
            said.append(f"{self.count('skipped')} done before with the same recipe and skipped")
        if self.count("failed"):
            said.append(f"{self.count('failed')} failed")
        others = counted(self.others, "file that is no image", "files that are no images")
        ours = counted(self.ours, "result of SkipSeg", "results of SkipSeg")
        left = [told for told, count in ((others, self.others), (ours, self.ours)) if count]
        told = f"{counted(len(self.rows), 'file')}: {', '.join(said)}."
        return f"{told} Left out: {' and '.join(left)}." if left else told


def iter_batch(
    settings: BatchSettings, retry: bool = False, runner: Runner | None = None, only: Collection[str] | None = None
) -> Generator[Progress, Retry | None, BatchResult]:
    """Yield `BatchOpened`, then `FileChanged` whenever a row changes; return what became of all files.

    Every file of the inputs becomes results in the run's folder, OUT/<model>-<hash of the recipe>/, and a failure a
    reason. What is done with the same recipe is skipped; what was stopped or killed continues at its next tile. Close
    it to stop; send a `Retry` to have failed files done again while it runs.

    retry: only what failed the last time is done. runner: what works on the files; None = what the settings say. only:
    the files to do, by their names in the table, whatever became of them before; None = all.

    Raises:
        SkipsegError: there are no inputs or no model, the output may not lie there, another run holds it, it cannot be
            written, or the disk is full.
    """
    start = time.monotonic()
    if runner is None:
        runner = iter_cluster if settings.workers or settings.scheduler else iter_lanes
    found = find_inputs(settings)
    check_truth_folder(settings, len(found.entries))
    place = place_of_run(settings)
    entries = _failed(found, place) if retry else found.entries
    if only is not None:
        entries = tuple(entry for entry in found.entries if entry.relative in only)
    if not entries:
        raise InputError(_nothing_failed(place))
    with place.held(settings):
        board, waiting = (
            ProgressTable(found.entries, place),
            deque(_allow_reopening(place, entries) if retry else entries),
        )
        if len(entries) < len(found.entries):
            board.recall(entry for entry in found.entries if entry not in entries)
        opened = board.opened(found.others, found.ours, tuple(entry.relative for entry in entries))
        yield replace(opened, hint=found.hint)
        with contextlib.closing(runner(settings, waiting, place)) as work:
            for message in work:
                command = (
                    yield board.on_message(None) if message is None else board.on_message(message.news, message.entry)
                )
                if command is not None:
                    meant = [entry for entry in found.entries if board.is_selected(entry, command)]
                    for entry in _allow_reopening(place, meant):
                        waiting.append(entry)
                        yield board.queue_again(entry)
        rows, seconds = tuple(board.rows.values()), time.monotonic() - start
        summary, report = place.path / SUMMARY_FILE, place.path / REPORT_FILE
        write_summary(summary, rows, place)
        write_report(report, rows, place, settings, seconds)
    return BatchResult(place.path, summary, report, rows, found.others, found.ours, seconds)


def _allow_reopening(place: RunPlace, entries: Sequence[BatchInput]) -> Sequence[BatchInput]:
    """Return files that failed, those at which the process crashed to be opened once more."""
    for entry in entries:
        allow_reopening(place, entry)
    return entries


def _nothing_failed(place: RunPlace) -> str:
    if place.path.is_dir():
        return f"Nothing failed in '{place.path}': there is nothing to do again."
    output = place.path.parent
    runs = sorted(folder.name for folder in output.glob("*") if is_run(folder)) if output.is_dir() else []
    there = f"the runs there are {', '.join(runs)}" if runs else "there are no runs"
    told = f"No run with this recipe is in '{output}', {there}"
    return f"{told}: give the model and all options that the run was begun with."


def _failed(found: BatchInputs, place: RunPlace) -> tuple[BatchInput, ...]:
    """Return the files that failed the last time."""
    known = {entry: read_file_record(place.record(entry)) for entry in found.entries}
    return tuple(entry for entry, record in known.items() if record is not None and record.state == "failed")
