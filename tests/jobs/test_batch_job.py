"""A batch in the engine: its table arrives whole, and it goes on after whatever happens to the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_skipseg.batch.records import read_file_record
from napari_skipseg.batch.run import BatchResult
from napari_skipseg.batch.settings import BatchSettings, make_settings
from napari_skipseg.batch.table import BatchOpened, FileChanged, Retry
from napari_skipseg.errors import EngineError, FileError
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import RunBatch
from napari_skipseg.progress import Progress, run_to_end

LONG = (40, 64, 64)
"""A stack of 160 tiles."""
BEGUN = 8
"""Tiles after which a run is disturbed."""


def write_stack(file: Path, shape: tuple[int, ...], seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    tifffile.imwrite(file, values, photometric="minisblack", metadata={"axes": "ZYX"[-len(shape) :]})
    return file


def settings_for(inputs: Path, output: Path, model: Path, **more: object) -> BatchSettings:
    options = SegmentOptions(device="cpu", attention=False, tile=48)
    return BatchSettings(str(inputs), str(output), make_settings(str(model), options), **more)  # type: ignore[arg-type]


def results_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.tif"))}


def states(result: BatchResult) -> dict[str, str]:
    return {row.relative: row.state for row in result.rows}


def until_tile(work: Iterator[Progress], relative: str, tile: int) -> None:
    """Follow a batch until so many tiles of a file are done."""
    for progress in work:
        if isinstance(progress, FileChanged) and progress.row.relative == relative and progress.row.done >= tile:
            return
    raise RuntimeError("the batch ended early")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small images and one that is broken."""
    write_stack(tmp_path / "in" / "a.tif", (2, 40, 40), 1)
    write_stack(tmp_path / "in" / "b.tif", (40, 40), 2)
    (tmp_path / "in" / "broken.tif").write_bytes(b"II*\0 nothing more")
    return tmp_path / "in"


@pytest.fixture(scope="module")
def long_run(engine: Engine, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BatchResult]:
    """A folder with a long stack, and what an undisturbed batch makes of it."""
    place = tmp_path_factory.mktemp("long")
    write_stack(place / "in" / "long.tif", LONG)
    result = run_to_end(engine.run(RunBatch(settings_for(place / "in", place / "out", model_folder))))
    assert states(result) == {"long.tif": "done"}
    return place / "in", result


def test_a_folder_becomes_results_a_table_and_a_report(
    engine: Engine, model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    heard: list[Progress] = []
    result = run_to_end(engine.run(RunBatch(settings_for(folder, tmp_path / "out", model_folder))), heard.append)
    assert states(result) == {"a.tif": "done", "b.tif": "done", "broken.tif": "failed"}
    (opened,) = [progress for progress in heard if isinstance(progress, BatchOpened)]
    assert [row.state for row in opened.rows] == ["waiting"] * 3
    assert Path(opened.folder) == result.folder
    last = {progress.row.relative: progress.row for progress in heard if isinstance(progress, FileChanged)}
    assert tuple(last[row.relative] for row in result.rows) == result.rows
    assert "damaged" in last["broken.tif"].reason
    assert "copy" in last["broken.tif"].reason
    assert result.report.is_file()
    assert Path(last["a.tif"].thumbnail).is_file()
    again = run_to_end(engine.run(RunBatch(settings_for(folder, tmp_path / "out", model_folder))))
    assert states(again) == {"a.tif": "skipped", "b.tif": "skipped", "broken.tif": "failed"}


def test_what_failed_is_done_again_while_the_rest_runs_and_afterwards(
    engine: Engine, model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    write_stack(folder / "z.tif", (12, 64, 64))
    settings, mended = settings_for(folder, tmp_path / "out", model_folder), False
    work = engine.run(RunBatch(settings))
    command: Retry | None = None
    seen: list[str] = []
    try:
        while True:
            progress = work.send(command)
            command = None
            if isinstance(progress, FileChanged) and progress.row.relative == "broken.tif":
                seen.append(progress.row.state)
                if progress.row.state == "failed" and not mended:
                    write_stack(folder / "broken.tif", (40, 40), 3)
                    command, mended = Retry(("broken.tif",)), True
    except StopIteration as stop:
        result = stop.value
    assert states(result)["broken.tif"] == "done"
    assert [state for number, state in enumerate(seen) if state != (seen[number - 1] if number else "")][-3:] == [
        "waiting",
        "running",
        "done",
    ]
    (folder / "b.tif").write_bytes(b"II*\0")
    assert states(run_to_end(engine.run(RunBatch(settings))))["b.tif"] == "failed"
    write_stack(folder / "b.tif", (40, 40), 2)
    retried = run_to_end(engine.run(RunBatch(settings, retry=True)))
    assert set(states(retried).values()) == {"done", "skipped"}


def test_faults_arrive_as_they_are(engine: Engine, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist: check the name"):
        run_to_end(engine.run(RunBatch(settings_for(tmp_path / "gone", tmp_path / "out", model_folder))))


def test_stopped_it_goes_on_at_its_tile_and_the_engine_stays_warm(
    engine: Engine, model_folder: Path, long_run: tuple[Path, BatchResult], tmp_path: Path
) -> None:
    inputs, whole = long_run
    settings = settings_for(inputs, tmp_path / "out", model_folder)
    work, pid = engine.run(RunBatch(settings)), engine.pid
    until_tile(work, "long.tif", BEGUN)
    work.close()
    tiles: list[int] = []
    result = run_to_end(engine.run(RunBatch(settings)), lambda progress: tiles.append(_tile(progress)))
    assert engine.pid == pid
    assert min(tile for tile in tiles if tile) >= BEGUN
    assert results_in(result.folder) == results_in(whole.folder)


def _tile(progress: Progress) -> int:
    return progress.row.done if isinstance(progress, FileChanged) and progress.row.total > 1 else 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_engine_is_started_anew_and_goes_on_at_its_tile(
    engine: Engine, model_folder: Path, long_run: tuple[Path, BatchResult], tmp_path: Path
) -> None:
    inputs, whole = long_run
    work = engine.run(RunBatch(settings_for(inputs, tmp_path / "out", model_folder)))
    until_tile(work, "long.tif", BEGUN)
    killed = engine.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    heard: list[Progress] = []
    result = run_to_end(work, heard.append)
    assert engine.pid != killed
    assert "the engine ended: continuing in a new one" in {progress.message for progress in heard}
    begun = next(place for place, progress in enumerate(heard) if isinstance(progress, BatchOpened))
    assert min(tile for tile in map(_tile, heard[begun:]) if tile) >= BEGUN
    assert results_in(result.folder) == results_in(whole.folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_retry_whose_engine_is_killed_does_what_failed_and_no_more(
    engine: Engine, model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    settings = settings_for(folder, tmp_path / "out", model_folder)
    (folder / "a.tif").write_bytes(b"II*\0")
    result = run_to_end(engine.run(RunBatch(settings)))
    assert states(result) == {"a.tif": "failed", "b.tif": "done", "broken.tif": "failed"}
    write_stack(folder / "a.tif", (40, 40), 1)
    write_stack(folder / "broken.tif", LONG, 3)
    write_stack(folder / "later.tif", (40, 40), 4)  # it never failed
    work, killed = engine.run(RunBatch(settings, retry=True)), 0
    until_tile(work, "broken.tif", BEGUN)
    killed = engine.pid or 0
    os.kill(killed, signal.SIGKILL)
    result = run_to_end(work)
    assert engine.pid != killed
    assert states(result)["a.tif"] in ("done", "skipped"), "before or after the kill"
    rest = {name: state for name, state in states(result).items() if name != "a.tif"}
    assert rest == {"b.tif": "skipped", "broken.tif": "done", "later.tif": "waiting"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_retry_that_is_killed_at_its_very_end_is_no_failure(
    engine: Engine, model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    settings = settings_for(folder, tmp_path / "out", model_folder)
    run_to_end(engine.run(RunBatch(settings)))
    write_stack(folder / "broken.tif", (2, 40, 40), 3)
    work, killed = engine.run(RunBatch(settings, retry=True)), False
    heard: list[Progress] = []

    def kill_when_done(progress: Progress) -> None:
        nonlocal killed
        heard.append(progress)
        if isinstance(progress, FileChanged) and progress.row.state == "done" and not killed and engine.pid:
            killed = True
            os.kill(engine.pid, signal.SIGKILL)

    result = run_to_end(work, kill_when_done)
    assert states(result) == {"a.tif": "skipped", "b.tif": "skipped", "broken.tif": "skipped"}
    assert sum(isinstance(progress, BatchOpened) for progress in heard) == 2, "the engine went on again"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_an_engine_that_gets_no_further_is_told_of_and_a_start_goes_on(
    engine: Engine, model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    settings = settings_for(folder, tmp_path / "out", model_folder)
    with pytest.raises(EngineError, match="was killed by SIGKILL"):
        kill_whenever_it_opens(engine, engine.run(RunBatch(settings)))
    again = run_to_end(engine.run(RunBatch(settings)))
    assert states(again)["a.tif"] in ("done", "skipped"), [row.reason for row in again.rows]


def kill_whenever_it_opens(engine: Engine, work: Iterator[Progress]) -> None:
    """Follow a batch; kill the engine as soon as it has opened its table, each time."""
    for progress in work:
        if isinstance(progress, BatchOpened) and engine.pid is not None:
            os.kill(engine.pid, signal.SIGKILL)


def test_what_a_viewer_left_is_gone_on_with_by_the_next(
    model_folder: Path, long_run: tuple[Path, BatchResult], tmp_path: Path, engine: Engine
) -> None:
    inputs, whole = long_run
    settings = settings_for(inputs, tmp_path / "out", model_folder)
    with Engine() as first:
        until_tile(first.run(RunBatch(settings)), "long.tif", BEGUN)
    (run,) = (tmp_path / "out").iterdir()
    record = run / "records" / "long.tif.json"
    assert read_file_record(record) is None
    result = run_to_end(engine.run(RunBatch(settings)))
    assert results_in(result.folder) == results_in(whole.folder)
    assert read_file_record(record) is not None
