"""A file at which the process itself ends, again and again, is left out; whoever is killed elsewhere is not."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from batch_folders import PROCESSES, results_in, run, settings_for, states, write_image

from napari_skipseg.batch import run_file as entry_module
from napari_skipseg.batch.crash_guard import (
    CRASHES,
    MOST_CRASHES,
    CrashGuard,
    CrashNote,
    allow_reopening,
    clear_crashes,
    note_of,
    report_crashes,
)
from napari_skipseg.batch.engine import NetworkRunner
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace, place_of_run
from napari_skipseg.batch.run import iter_batch
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import FileChanged

if os.name == "nt":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)

CRASH, KILL = "crash", "kill"


@pytest.fixture
def settings(tmp_path: Path, tiny: Path) -> BatchSettings:
    """A batch of three images, the second of which is called bad.tif."""
    for number, name in enumerate(("a", "bad", "c")):
        write_image(tmp_path / "in" / f"{name}.tif", number, slices=3)
    return settings_for(tmp_path / "in", tmp_path / "out", tiny)


def end_at(settings: BatchSettings, how: str) -> int:
    """Return how a process ended that began the batch and opened bad.tif."""
    process = PROCESSES.Process(target=_run_to_its_end, args=(settings, how))
    process.start()
    process.join(60)
    return int(process.exitcode or 0)


def _run_to_its_end(settings: BatchSettings, how: str) -> None:
    read = entry_module.read_input

    def open_it(asked: BatchSettings, entry: BatchInput) -> Any:
        if entry.relative == "bad.tif":
            time.sleep(0.05)  # so that its neighbour is being opened too
            ctypes.string_at(0) if how == CRASH else os.kill(os.getpid(), signal.SIGKILL)
        return read(asked, entry)

    with (
        mock.patch.object(entry_module, "read_input", open_it),
        mock.patch("napari_skipseg.inference.backends.choose.has_openvino", return_value=False),
    ):
        run(settings)
    os._exit(0)


def bad(settings: BatchSettings) -> BatchInput:
    return BatchInput(str(Path(settings.inputs) / "bad.tif"), "bad.tif", "bad")


def note_in(settings: BatchSettings) -> CrashNote:
    return note_of(place_of_run(settings), bad(settings))


def test_a_file_that_crashes_the_process_three_times_is_left_out_and_tried_again_when_asked(
    settings: BatchSettings,
) -> None:
    for number in range(MOST_CRASHES):
        assert note_in(settings).crashes == number
        assert end_at(settings, CRASH) == -signal.SIGSEGV
    result = run(settings)
    assert states(result)["bad.tif"] == "failed"
    neighbours = {state for name, state in states(result).items() if name != "bad.tif"}
    assert neighbours <= {"done", "skipped"}  # skipped where it was done before its neighbour crashed
    reason = {row.relative: row.reason for row in result.rows}["bad.tif"]
    assert reason.startswith("The process crashed 3 times in a row while this file was opened, so it is left out:")
    assert end_at(settings, CRASH) == 0
    assert end_at(settings, CRASH) == 0
    again = run(settings, retry=True)
    assert states(again)["bad.tif"] == "done"
    assert note_in(settings).crashes == 0
    assert set(states(run(settings)).values()) == {"skipped"}
    assert not list(result.folder.rglob("*.opening"))


def test_one_that_crashes_once_more_when_tried_again_is_left_out_at_once(settings: BatchSettings) -> None:
    for _ in range(MOST_CRASHES):
        end_at(settings, CRASH)
    allow_reopening(place_of_run(settings), bad(settings))
    assert not note_in(settings).is_hopeless
    assert end_at(settings, CRASH) == -signal.SIGSEGV
    assert states(run(settings))["bad.tif"] == "failed"


def _crash_as_a_worker(settings: BatchSettings) -> None:
    place = place_of_run(settings)
    report_crashes(place)
    with CrashGuard(place, lambda: False).guard(bad(settings)):
        ctypes.string_at(0)


def test_a_worker_that_crashes_is_noted_too(settings: BatchSettings) -> None:
    place = place_of_run(settings)
    place.path.mkdir(parents=True)
    for number in (1, 2):
        process = PROCESSES.Process(target=_crash_as_a_worker, args=(settings,))
        process.start()
        process.join(60)
        assert note_in(settings).crashes == number
    (place.path / f"{CRASHES}somewhere-1").write_bytes(b"")
    clear_crashes(place)
    assert len(list(place.path.glob(f"{CRASHES}*"))) == 2
    assert not (place.path / f"{CRASHES}somewhere-1").exists()


def test_a_kill_is_no_crash_whenever_it_comes(settings: BatchSettings) -> None:
    for _ in range(MOST_CRASHES + 1):
        assert end_at(settings, KILL) == -signal.SIGKILL
        assert note_in(settings).crashes == 0
    assert set(states(run(settings)).values()) <= {"done", "skipped"}
    assert not list(place_of_run(settings).path.glob(f"{CRASHES}*"))


def test_another_content_is_another_chance(settings: BatchSettings) -> None:
    for _ in range(MOST_CRASHES):
        end_at(settings, CRASH)
    write_image(Path(bad(settings).file), 8)
    assert set(states(run(settings)).values()) <= {"done", "skipped"}


def test_a_kill_after_the_first_tile_is_not_noted(settings: BatchSettings) -> None:
    place, seen = place_of_run(settings), []
    for event in iter_batch(settings):
        if isinstance(event, FileChanged) and event.row.state == "running" and event.row.done:
            entry = BatchInput(event.row.file, event.row.relative, "")
            noted = place.record(entry).with_suffix(".opening").exists()
            seen.append((event.row.relative, noted))
    assert {name for name, _ in seen} == {"a.tif", "bad.tif", "c.tif"}
    assert not any(noted for _, noted in seen)


def test_a_file_that_only_waits_for_the_network_is_not_noted(tmp_path: Path, settings: BatchSettings) -> None:
    place = place_of_run(settings)
    place.path.mkdir(parents=True)
    engine = NetworkRunner(settings.request, place)
    holder = engine.turn()
    engine.take(holder)
    note = place.record(bad(settings)).with_suffix(".opening")
    with engine.crash_guard.guard(bad(settings)) as opening:
        assert note.exists()
        waiting = engine.turn(opening)
        seen: list[bool] = []

        def free() -> None:
            seen.append(note.exists())
            engine.release(holder)

        with mock.patch.object(engine, "take", side_effect=lambda turn: free()):
            waiting.run(lambda: seen.append(note.exists()))  # type: ignore[arg-type,return-value]
    assert seen == [False, True]
    assert not note.exists()


def test_a_stop_while_a_file_is_opened_is_none_of_its_faults(settings: BatchSettings) -> None:
    work = iter_batch(settings)
    next(work)
    next(work)
    work.close()
    assert not list(place_of_run(settings).path.rglob("*.opening"))
    assert not list(place_of_run(settings).path.glob(".crash-*"))


def test_a_suspect_is_opened_while_no_other_is(tmp_path: Path) -> None:
    place = RunPlace(tmp_path)
    file = write_image(tmp_path / "bad.tif")
    entry = BatchInput(str(file), "bad.tif", "bad")
    first = CrashGuard(place, lambda: True)
    first.guard(entry).__enter__()
    (tmp_path / f"{CRASHES}{first.by}").write_text("Fatal Python error: Segmentation fault")
    suspect = CrashGuard(place, lambda: False)
    inside: list[str] = []
    with suspect.guard(entry) as opening:
        assert opening.note.crashes == 1
        thread = _in_thread(lambda: inside.append("entered") if suspect.enter(False) is None else None)
        time.sleep(0.15)
        assert inside == []
        opening.passed()
        thread.join(5)
    assert inside == ["entered"]
    assert note_of(place, entry) == CrashNote(changed=file.stat().st_mtime_ns)


def _in_thread(call: Callable[[], Any]) -> Any:
    import threading

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_notes_change_no_result(settings: BatchSettings, tmp_path: Path, tiny: Path) -> None:
    end_at(settings, CRASH)
    result = run(settings)
    undisturbed = run(settings_for(settings.inputs, tmp_path / "whole", tiny))
    found = {name: content for name, content in results_in(result.folder).items() if not name.startswith(".crash-")}
    assert found == results_in(undisturbed.folder)


def test_a_note_costs_next_to_nothing(tmp_path: Path) -> None:
    place = RunPlace(tmp_path)
    openings = CrashGuard(place, lambda: False)
    entry = BatchInput(str(write_image(tmp_path / "a.tif")), "a.tif", "a")
    spent = []
    for _ in range(50):
        start = time.perf_counter()
        with openings.guard(entry) as opening:
            opening.passed()
        spent.append(time.perf_counter() - start)
    assert sorted(spent)[25] < 0.005
