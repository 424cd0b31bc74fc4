"""The call of the engine that segments a folder. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace

from napari_skipseg.batch.run import BatchResult
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import BatchOpened, Retry
from napari_skipseg.jobs.calls import Calls, expected
from napari_skipseg.jobs.child import EngineEndedError
from napari_skipseg.jobs.events import BatchEnded, Event
from napari_skipseg.jobs.operations import progress_of_batch, result_from_text
from napari_skipseg.jobs.requests import BatchJob
from napari_skipseg.progress import Progress


class BatchingCalls(Calls):
    """The call that segments a folder."""

    def batch(self, settings: BatchSettings, retry: bool = False) -> Generator[Progress, Retry | None, BatchResult]:
        """Return what became of all images of a folder; a `Retry` sent back has failed ones done again.

        Yields `BatchOpened` with the table, and `FileChanged` whenever one of its rows changes. Closed, it stops; what
        is done stays, and the same call goes on at the tile where it was. Where the engine's process ends, a new one
        goes on, as long as that gets further. retry: only what failed the last time.

        Raises:
            SkipsegError: as for `batch.run.iter_batch`; EngineError where the process ended twice at the same place.
        """
        job = BatchJob(next(self._numbers), settings, retry)
        reached = begun = 0
        wanted: set[str] = set()  # files that were to be done, whatever became of them since

        def hear(event: Event) -> Progress | None:
            nonlocal reached
            progress = progress_of_batch(event)
            if progress is None:
                return None
            if isinstance(progress, BatchOpened):
                wanted.update(progress.asked)
            elif progress.row.state == "waiting":
                wanted.add(progress.row.relative)
            reached = max(reached, progress.done)
            return progress

        with self._busy():
            while True:
                child = yield from self._start()
                try:
                    ended = expected((yield from self._ask(child, job, hear)), BatchEnded)
                    return result_from_text(ended.result)
                except EngineEndedError:
                    if reached <= begun or self._session.closed:
                        raise
                begun, job = reached, replace(job, number=next(self._numbers))
                if retry:  # what failed is done by now, in part: another search for failed files would find too few
                    job = replace(job, retry=False, only=json.dumps(sorted(wanted)))
                yield Progress(0, 1, "the engine ended: going on where it was")
