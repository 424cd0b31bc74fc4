"""What is done alone, after workers ended while having it: what ends them again fails, and nothing else does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from batch_folders import settings_for, write_image

from napari_skipseg.batch import blocks
from napari_skipseg.batch.dask_run import _Batch
from napari_skipseg.batch.dask_tasks import DaskReply, DaskTask
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.records import FileRecord, read_file_record
from napari_skipseg.batch.run_file import FileOutcome
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.progress import Progress

SEGMENTED, WITH_OBJECTS = "segmented", "with objects"
"""Files that are segmented already, and whose objects are to be found."""
ENDINGS = {"file": "", "begin": " begun", "segment": " end"}
REASON = "4 workers ended one after another while having it alone."


class OneWorker:
    """A desk whose worker has all tasks at once, and ends at files called bad."""

    def __init__(self, settings: BatchSettings, place: RunPlace, state: str) -> None:
        self.settings, self.place, self.workers, self.working = settings, place, 2, dict[int, DaskTask]()
        self.rounds: list[list[str]] = []
        self._replies: deque[tuple[int, DaskReply]] = deque()
        self._given, self._state = 0, state

    def submit(self, task: DaskTask) -> None:
        self._given += 1
        self.working[self._given] = task

    def next_reply(self, seconds: float) -> DaskReply:
        if not self._replies:
            names = [_name(task) for task in self.working.values()]
            self.rounds.append(sorted(names))
            ends = any(name.startswith("bad") for name in names)
            for ticket, task in self.working.items():
                told = {"reply": "killed", "reason": REASON} if ends else self._done(task)
                self._replies.append((ticket, DaskReply(task, Progress(1, 3))))
                self._replies.append((ticket, DaskReply(task, told)))
        ticket, reply = self._replies.popleft()
        if isinstance(reply.news, dict):
            del self.working[ticket]
        return reply

    def _done(self, task: DaskTask) -> dict[str, Any]:
        name = task.entry.name if task.entry else ""
        if task.kind == "begin" and name != SEGMENTED:
            return {"reply": "begun", "units": 3, "levels": [2]}
        if task.kind in ("begin", "segment") and name in (SEGMENTED, WITH_OBJECTS):
            return {"reply": "segmented", "units": 2}
        if task.kind in ("block", "level", "objects"):
            return {"reply": "filled"}
        return {"reply": "outcome", "state": self._state, "record": asdict(FileRecord("", "", "", "done"))}

    def forget(self, entry: BatchInput) -> None:
        assert all(task.entry != entry for task in self.working.values())


def _name(task: DaskTask) -> str:
    """The file's name, and of a part of one which part it is; the second tile of "worst" is bad."""
    assert task.entry is not None
    if task.kind in ENDINGS:
        return f"{task.entry.name}{ENDINGS[task.kind]}"
    name = f"{task.entry.name} {task.kind} {task.units.start}"
    return f"bad {name}" if name == "worst block 1" else name


@pytest.fixture
def work(tmp_path: Path, tiny: Path) -> Callable[..., tuple[OneWorker, dict[str, Any]]]:
    """Does files of these names with one worker; returns the desk, and what was said last of each."""

    def do(*names: str, state: str = "done") -> tuple[OneWorker, dict[str, Any]]:
        file = str(write_image(tmp_path / "any.tif"))
        desk: Any = OneWorker(settings_for(file, tmp_path / "out", tiny), RunPlace(tmp_path / "out"), state)
        batch = _Batch(desk, deque(BatchInput(file, name, name) for name in names))
        told = [message for message in batch.iter_work() if message is not None]
        return desk, {message.entry.relative: message.news for message in told if message.entry is not None}

    return do


def states(news: dict[str, Any]) -> dict[str, str]:
    assert all(isinstance(each, FileOutcome) for each in news.values())
    return {name: each.state for name, each in news.items()}


def test_files_at_which_workers_ended_are_done_in_the_end_and_each_alone(work: Any) -> None:
    desk, news = work("a", "bad", "bad too", "b", "c")
    assert states(news) == {"a": "done", "bad": "failed", "bad too": "failed", "b": "done", "c": "done"}
    assert desk.rounds[0] == ["a", "b", "bad", "bad too"]
    assert sorted(desk.rounds[1:]) == [["a"], ["b"], ["bad"], ["bad too"], ["c"]]
    assert desk.rounds[1] == ["c"]  # what nothing is known of comes first


def test_what_ends_its_workers_alone_too_is_a_failed_file_with_a_reason(work: Any) -> None:
    desk, news = work("bad")
    assert desk.rounds == [["bad"], ["bad"]]
    assert news["bad"].record.reason == REASON
    kept = read_file_record(desk.place.record(BatchInput("", "bad", "bad")))
    assert kept is not None
    assert (kept.state, kept.reason) == ("failed", REASON)


def test_a_file_that_was_done_before_its_worker_ended_is_none_of_another_day(work: Any) -> None:
    _, news = work("a", state="skipped")
    assert states(news) == {"a": "done"}


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """All files are large; returns the blocks that are noted as done."""
    noted: list[range] = []
    monkeypatch.setattr(blocks, "is_large", lambda *_: True)
    monkeypatch.setattr(blocks, "note_block", lambda entry, place, units: noted.append(units))
    return noted


def test_a_large_file_is_tiles_then_each_level_of_its_pyramids_then_its_end(work: Any, in_blocks: list[range]) -> None:
    desk, news = work("a")
    assert desk.rounds == [
        ["a begun"],
        ["a block 0", "a block 1", "a block 2"],
        ["a level 0", "a level 1"],
        ["a end"],
    ]
    assert in_blocks == [range(0, 1), range(1, 2), range(2, 3)]
    assert states(news) == {"a": "done"}


def test_objects_of_a_large_file_are_found_in_blocks_before_its_end(work: Any, in_blocks: list[range]) -> None:
    desk, news = work("with objects")
    assert desk.rounds[3:] == [
        ["with objects end"],
        ["with objects objects 0", "with objects objects 1"],
        ["with objects"],
    ]
    assert len(in_blocks) == 3
    assert states(news) == {"with objects": "done"}


def test_a_large_file_that_was_segmented_before_goes_on_with_its_objects(work: Any, in_blocks: list[range]) -> None:
    desk, news = work("segmented")
    assert desk.rounds == [["segmented begun"], ["segmented objects 0", "segmented objects 1"], ["segmented"]]
    assert in_blocks == []
    assert states(news) == {"segmented": "done"}


def test_a_block_that_ends_its_workers_is_left_to_the_end_and_fails_its_file(work: Any, in_blocks: list[range]) -> None:
    desk, news = work("worst")
    assert desk.rounds == [
        ["worst begun"],
        ["bad worst block 1", "worst block 0", "worst block 2"],
        ["worst block 0"],
        ["bad worst block 1"],
    ]
    assert in_blocks == [range(0, 1)]
    assert states(news) == {"worst": "failed"}
    assert news["worst"].record.reason == REASON
