"""The rows of a batch as its events tell them: how far the whole is, and when the time left is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_clock import HandClock

from napari_skipseg.batch import table
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.records import FileRecord
from napari_skipseg.batch.run_file import FileOutcome
from napari_skipseg.batch.table import ProgressTable, Retry
from napari_skipseg.progress import Progress

ENTRIES = [BatchInput(f"/in/{name}.tif", f"{name}.tif", name) for name in "abcdef"]


@pytest.fixture
def clock(monkeypatch) -> HandClock:
    found = HandClock()
    monkeypatch.setattr(table, "time", found)
    return found


@pytest.fixture
def board(clock: HandClock, tmp_path: Path) -> ProgressTable:
    return ProgressTable(ENTRIES, RunPlace(tmp_path))


def ended(entry: BatchInput, state: str) -> FileOutcome:
    kept = "failed" if state == "failed" else "done"
    return FileOutcome(
        state, FileRecord(entry.file, entry.relative, entry.name, kept, reason="x" * (state == "failed"))
    )


def test_what_failed_is_told_apart_from_what_is_done(board: ProgressTable) -> None:
    a, b, c, *_ = ENTRIES
    assert board.on_message(ended(a, "failed"), a).message == "0 of 6 images, 1 failed"
    assert board.on_message(ended(b, "done"), b).message == "1 of 6 images, 1 failed"
    assert board.on_message(ended(c, "failed"), c).message == "1 of 6 images, 2 failed"
    assert (
        board.on_message(Progress(0, 1, "waiting for workers")).message
        == "1 of 6 images, 2 failed: waiting for workers"
    )
    assert board.is_selected(c, Retry())
    assert board.queue_again(c).message == "1 of 6 images, 1 failed"


def test_time_left_is_known_from_the_first_success_on_and_failed_or_skipped_files_are_no_speed(
    board: ProgressTable, clock: HandClock
) -> None:
    a, b, c, d, *_ = ENTRIES
    clock.now += 100
    assert board.on_message(ended(a, "failed"), a).seconds_left is None
    assert board.on_message(ended(b, "skipped"), b).seconds_left is None
    assert board.on_message(Progress(0, 1, "preparing the network"), c).seconds_left is None
    clock.now += 20
    assert board.on_message(Progress(1, 4, "tile 1 of 4"), c).seconds_left is None
    clock.now += 20
    assert board.on_message(ended(c, "done"), c).seconds_left == pytest.approx(40 * 3)
    board.on_message(Progress(0, 1, "reading"), d)
    assert board.on_message(Progress(2, 4, "tile 2 of 4"), d).seconds_left == pytest.approx(40 * 2.5 / 1.25)
    assert board.on_message(ended(d, "failed"), d).seconds_left == pytest.approx(40 * 2)


def test_tiles_that_lay_there_before_are_no_speed(board: ProgressTable, clock: HandClock) -> None:
    a = ENTRIES[0]
    board.on_message(Progress(0, 1, "reading"), a)
    board.on_message(Progress(4, 4, "tile 4 of 4"), a)
    clock.now += 10
    assert board.on_message(ended(a, "done"), a).seconds_left == pytest.approx(10 / 0.25 * 5)
