"""A batch in the engine process: from its job to the batch room; and how its table crosses to the viewer.

Loads without torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_skipseg.batch.rows import BatchOpened, FileChanged, Retry, Row
from napari_skipseg.batch.run import BatchResult, iter_batch
from napari_skipseg.jobs import events
from napari_skipseg.jobs.requests import BatchJob
from napari_skipseg.progress import Progress


def iter_batch_for(job: BatchJob) -> Generator[Progress, Retry | None, events.BatchEnded]:
    """Yield as `iter_batch` does; return what became of all files.

    Raises:
        SkipsegError: as for `iter_batch`.
    """
    only = json.loads(job.only) if job.only else None
    with _leaving_crashes_to_the_batch(), contextlib.closing(iter_batch(job.settings, job.retry, only=only)) as work:
        result = yield from work
    return events.BatchEnded(job.number, result_to_text(result))


@contextlib.contextmanager
def _leaving_crashes_to_the_batch() -> Iterator[None]:
    """Have the batch note in its folder where this process crashes, and not standard error."""
    was_on = faulthandler.is_enabled()
    faulthandler.disable()
    try:
        yield
    finally:
        if was_on:
            faulthandler.enable()


def event_of_batch(progress: Progress, number: int) -> events.BatchStarted | events.RowChanged | None:
    """Return the event that tells of a change in the table of job `number`; None where `progress` tells of none."""
    how_far = (number, progress.done, progress.total, progress.message)
    if isinstance(progress, BatchOpened):
        left_out = (progress.others, progress.ours)
        asked = json.dumps(progress.asked)
        return events.BatchStarted(*how_far, rows_to_text(progress.rows), progress.folder, *left_out, asked)
    if isinstance(progress, FileChanged):
        return events.RowChanged(*how_far, rows_to_text([progress.row]), progress.seconds_left)
    return None


def progress_of_batch(event: events.Event) -> BatchOpened | FileChanged | None:
    """Return what an event tells of the table, as `iter_batch` yielded it; None where it tells nothing of one."""
    if isinstance(event, events.BatchStarted):
        how_far = (event.done, event.total, event.message)
        asked = tuple(json.loads(event.asked))
        return BatchOpened(*how_far, rows_from_text(event.rows), event.folder, event.others, event.ours, asked)
    if isinstance(event, events.RowChanged):
        (row,) = rows_from_text(event.row)
        return FileChanged(event.done, event.total, event.message, row, event.seconds_left)
    return None


def rows_to_text(rows: Sequence[Row]) -> str:
    """Return rows as JSON in ASCII: so names of files that are no text cross, and scores that are no numbers."""
    return json.dumps([asdict(row) for row in rows])


def rows_from_text(text: str) -> tuple[Row, ...]:
    """Return the rows in `text`."""
    return tuple(Row(**{**values, "outputs": tuple(values["outputs"])}) for values in json.loads(text))


def result_to_text(result: BatchResult) -> str:
    """Return a result as JSON in ASCII."""
    return json.dumps(asdict(result), default=str)


def result_from_text(text: str) -> BatchResult:
    """Return the result in `text`."""
    values: dict[str, Any] = json.loads(text)
    for name in ("folder", "summary", "report"):
        values[name] = Path(values[name])
    return BatchResult(**{**values, "rows": rows_from_text(json.dumps(values["rows"]))})
