"""A batch on a cluster of programs: the bytes of one process, whatever dies, and one sentence where it cannot be."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from batch_folders import ended, results_in, run, settings_for, states, write_image, write_tiny_model
from cluster_programs import ENDING_AMONG_OTHERS, Holds, check_ended, scheduler, wait_for_workers, worker

from napari_skipseg.batch import blocks, dask_client, dask_tasks, dask_worker
from napari_skipseg.batch.dask_tasks import TaskSubmitter
from napari_skipseg.batch.run import BatchResult, iter_batch
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import BatchOpened, FileChanged
from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.objects.options import Method, ObjectOptions
from napari_skipseg.progress import run_to_end

pytest.importorskip("distributed")


class Programs(NamedTuple):
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: tuple[subprocess.Popen[bytes], ...]
    holds: Holds


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address and the process of a scheduler, whose workers come with `cluster`."""
    with scheduler(tmp_path_factory.mktemp("scheduler")) as started:
        yield started


@pytest.fixture(scope="module")
def cluster(
    lonely: tuple[str, subprocess.Popen[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Programs]:
    """A scheduler with two workers, which keep what is sent to them in a folder of their own."""
    folder, (address, process) = tmp_path_factory.mktemp("cluster"), lonely
    holds = Holds(folder / "holds")
    kept = {dask_worker.SENT_MODELS_VARIABLE: str(folder / "sent"), **holds.variables}
    with contextlib.ExitStack() as leaving:
        workers = [leaving.enter_context(worker(folder, address, **kept)) for _ in range(2)]
        wait_for_workers(address, 2)
        yield Programs(address, process, tuple(workers), holds)


def write_store(path: Path, slices: int = 6, side: int = 200) -> Path:
    """An OME-Zarr of noise, of several tiles a slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(slices).integers(0, 256, (slices, side, side)).astype(np.uint8)
    write_ome_zarr(path, values, Layout(values.shape, Space("ZYX", (30.0, 4.0, 4.0), "nm"), "uint8"))
    return path


def elsewhere(settings: BatchSettings, output: Path, address: str) -> BatchSettings:
    """The same batch on a cluster."""
    return dataclasses.replace(settings, output=str(output), scheduler=address)


def run_until(settings: BatchSettings, done: int, then: Callable[[], None]) -> BatchResult:
    """Run a batch, and do something once so many steps of a file are done, at which the workers are held."""
    work, left = iter_batch(settings), [then]
    while True:
        try:
            event = next(work)
        except StopIteration as stop:
            assert not left
            result: BatchResult = stop.value
            return result
        if left and isinstance(event, FileChanged) and event.row.state == "running" and event.row.done >= done:
            left.pop()()


def stop_at(plain: BatchSettings, folder: Path, cluster: Programs, kind: str, steps: int) -> BatchSettings:
    """Return the settings of a batch on workers that was stopped when so many steps of tasks of this kind were done.

    A run that comes to its end before this process hears of the step is no use: then another one is begun elsewhere.
    """
    for attempt in range(5):
        settings = elsewhere(plain, folder / str(attempt), cluster.address)
        cluster.holds.hold(kind, steps)
        work = iter_batch(settings)
        for event in work:
            is_objects = isinstance(event, FileChanged) and "finding objects, part" in event.row.message
            if isinstance(event, FileChanged) and event.row.done >= steps and is_objects is (kind == "objects"):
                work.close()
                cluster.holds.release()
                return settings
        cluster.holds.release()
    raise AssertionError("five runs came to their end before they could be stopped")


def test_a_scheduler_without_workers_is_told_of(
    lonely: tuple[str, subprocess.Popen[bytes]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of all, as workers come with the next test."""
    monkeypatch.setattr(dask_tasks, "LACKING", 0.3)
    write_image(tmp_path / "in" / "a.tif", 1)
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny)
    work = iter_batch(elsewhere(settings, tmp_path / "out", lonely[0]))
    told = next(event.message for event in work if "none" in event.message)
    assert told == f"0 of 1 image: waiting for workers: none has come to {lonely[0]} yet"
    request.getfixturevalue("cluster")
    assert states(run_to_end(work)) == {"a.tif": "done"}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_files_that_end_the_workers_of_a_cluster_fail_and_no_other_one_does(tmp_path: Path, tiny: Path) -> None:
    for number, name in enumerate(ENDING_AMONG_OTHERS):
        write_image(tmp_path / "in" / name, number, slices=30)
    kept = {dask_worker.SENT_MODELS_VARIABLE: str(tmp_path / "sent")}
    with scheduler(tmp_path) as (address, _), contextlib.ExitStack() as leaving:
        for _ in range(2):
            leaving.enter_context(worker(tmp_path, address, nanny=True, SKIPSEG_TEST_PAUSE="0.05", **kept))
        wait_for_workers(address, 2)
        plain = settings_for(tmp_path / "in", tmp_path / "out", tiny)
        check_ended(run(elsewhere(plain, tmp_path / "out", address)))


def test_files_on_a_cluster_are_those_of_one_process(cluster: Programs, tmp_path: Path, tiny: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.tif", number, slices=3)
    (tmp_path / "in" / "bad.tif").write_bytes(b"II*\0 no picture")
    plain = settings_for(tmp_path / "in", tmp_path / "one", tiny)
    one = run(plain)
    events = list(iter_batch(elsewhere(plain, tmp_path / "many", cluster.address)))
    assert isinstance(events[0], BatchOpened)
    assert sorted(ended(events)) == ["0.tif", "1.tif", "2.tif", "bad.tif"]
    assert events[-1].fraction == 1
    again = run(elsewhere(plain, tmp_path / "many", cluster.address))
    assert states(again) == dict.fromkeys(("0.tif", "1.tif", "2.tif"), "skipped") | {"bad.tif": "failed"}
    assert again.rows[3].reason == one.rows[3].reason
    assert results_in(again.folder) == results_in(one.folder)


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_a_large_store_in_blocks_is_that_of_one_process(
    cluster: Programs, tmp_path: Path, tiny: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "in" / "large.ome.zarr", 2)
    plain = settings_for(tmp_path / "in", tmp_path / "one", tiny, form=form)
    one = run(plain)
    monkeypatch.setattr(blocks, "LARGE_FILE", 1000)
    events = list(iter_batch(elsewhere(plain, tmp_path / "many", cluster.address)))
    told = [event.row for event in events if isinstance(event, FileChanged)]
    assert any("in blocks" in row.message for row in told)
    assert told[-1].state == "done"
    assert results_in(tmp_path / "many" / one.folder.name) == results_in(one.folder)


def test_the_pyramids_of_a_large_store_are_made_in_blocks_too(
    cluster: Programs, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGE_FILE", 1000)
    write_store(tmp_path / "in" / "large.ome.zarr", 2, 1100)
    plain = settings_for(tmp_path / "in", tmp_path / "one", tiny, form="ome-zarr", tile=272)
    one = run(plain)
    assert len(list((one.folder / "large_probability.ome.zarr").glob("[0-9]"))) == 3
    events = list(iter_batch(elsewhere(plain, tmp_path / "many", cluster.address)))
    told = {event.row.message for event in events if isinstance(event, FileChanged)}
    assert {"pyramid, level 1, part 36 of 36, in blocks", "pyramid, level 2, part 16 of 16, in blocks"} <= told
    assert results_in(tmp_path / "many" / one.folder.name) == results_in(one.folder)


@pytest.mark.parametrize("method", ["watershed", "cells"])
def test_objects_of_a_large_store_are_found_in_blocks_too(
    cluster: Programs, tmp_path: Path, tiny: Path, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGE_FILE", 1000)
    write_store(tmp_path / "in" / "large.ome.zarr", 2, 600)
    plain = settings_for(
        tmp_path / "in", tmp_path / "one", tiny, form="ome-zarr", tile=272, objects=ObjectOptions(method)
    )
    one = run(plain)
    there = stop_at(plain, tmp_path / "many", cluster, "objects", 2)  # while objects are found
    many = Path(there.output)
    kept = many / one.folder.name / "large.objects.unfinished" / "blocks"
    found = len(list(kept.glob("*.npz")))
    assert found >= 2
    events = list(iter_batch(there))
    told = {event.row.message for event in events if isinstance(event, FileChanged)}
    assert found == 9 or "finding objects, part 9 of 9, in blocks" in told
    assert not kept.parent.exists()
    assert results_in(many / one.folder.name) == results_in(one.folder)


def test_a_stopped_batch_leaves_nobody_at_work_and_goes_on(
    cluster: Programs, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGE_FILE", 1000)
    write_store(tmp_path / "in" / "large.ome.zarr", 3)
    plain = settings_for(tmp_path / "in", tmp_path / "one", tiny, form="ome-zarr")
    settings = stop_at(plain, tmp_path / "many", cluster, "block", 3)
    folder = Path(settings.output) / run(plain).folder.name
    left = len(list(folder.rglob("0/c/*/*/*")))
    assert left > 0
    assert not (folder / "large_probability.ome.zarr").exists()
    assert states(run(settings)) == {"large.ome.zarr": "done"}
    assert results_in(folder) == results_in(tmp_path / "one" / folder.name)


def test_a_worker_without_the_model_gets_it_by_its_hash(
    cluster: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "models" / "mine", ("membrane", "vesicle"))
    write_image(tmp_path / "in" / "a.tif", 3)
    monkeypatch.setenv("NAPARI_SKIPSEG_MODELS", str(tmp_path / "models"))
    settings = settings_for(tmp_path / "in", tmp_path / "out", Path("mine"), scheduler=cluster.address)
    sent: list[str] = []
    monkeypatch.setattr(
        TaskSubmitter, "_send_model", lambda self, to, real=TaskSubmitter._send_model: (sent.append(to), real(self, to))
    )
    assert states(run(settings)) == {"a.tif": "done"}
    assert len(sent) in (1, 2)
    assert len(set(sent)) == len(sent)
    shutil.rmtree(tmp_path / "out")
    sent.clear()
    assert states(run(settings)) == {"a.tif": "done"}
    assert sent == []


def test_a_model_whose_weights_are_others_is_not_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dask_worker.SENT_MODELS_VARIABLE, str(tmp_path / "sent"))
    description, weights = dask_worker.read_model_files(tiny)
    with pytest.raises(ModelError, match="SHA-256"):
        dask_worker.store_received_model(description, weights[:-1] + b"?")
    assert list((tmp_path / "sent").iterdir()) == []
    kept = Path(dask_worker.store_received_model(description, weights))
    assert dask_worker.store_received_model(description, weights) == str(kept)
    assert dask_worker.find_received_model("no such model", kept.name) == kept
    assert dask_worker.find_received_model("no such model", "0" * 64) is None


def test_a_scheduler_that_is_not_there_is_said_in_one_sentence(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dask_client, "CONNECTING", 0.5)
    write_image(tmp_path / "in" / "a.tif")
    for address in ("tcp://127.0.0.1:9", "nonsense", "tcp://127.0.0.1"):
        with pytest.raises(SkipsegError, match="There is no Dask scheduler at") as raised:
            run(settings_for(tmp_path / "in", tmp_path / "out", tiny, scheduler=address))
        assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_another_version_is_refused(
    cluster: Programs, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    write_image(tmp_path / "in" / "a.tif")
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny, scheduler=cluster.address)
    real = Client.get_versions

    def older(self: Client) -> dict[str, dict[str, dict[str, str]]]:
        found = real(self)
        found["scheduler"]["packages"]["distributed"] = "2023.1.0"
        return found

    monkeypatch.setattr(Client, "get_versions", older)
    with pytest.raises(SkipsegError, match=r"runs distributed 2023.1.0, and this machine has .* install the same"):
        run(settings)
    monkeypatch.undo()
    with pytest.raises(dask_worker.UnfitError, match=r"it has torch .* and this machine 1.0: install the same"):
        dask_worker.settings_of_task({"versions": dask_worker.versions() | {"torch": "1.0"}})


def test_workers_that_do_not_see_the_folder_are_refused(tmp_path: Path) -> None:
    asked = {"versions": dask_worker.versions(), "folder": str(tmp_path / "none"), "settings": ""}
    with pytest.raises(SkipsegError):
        dask_worker.settings_of_task(asked)


def test_a_killed_worker_has_its_blocks_done_by_another(
    cluster: Programs, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGE_FILE", 1000)
    write_store(tmp_path / "in" / "large.ome.zarr", 4)
    plain = settings_for(tmp_path / "in", tmp_path / "one", tiny, form="ome-zarr")
    settings = elsewhere(plain, tmp_path / "many", cluster.address)
    cluster.holds.hold("block", 6)

    def kill_one() -> None:
        cluster.workers[0].kill()
        cluster.holds.release()

    result = run_until(settings, 6, kill_one)
    assert states(result) == {"large.ome.zarr": "done"}
    assert results_in(result.folder) == results_in(run(plain).folder)


def test_a_scheduler_that_goes_away_stops_the_batch_and_it_goes_on(
    cluster: Programs, tmp_path: Path, tiny: Path
) -> None:
    """The last of all: nothing is left of the cluster."""
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.tif", number, slices=8)
    plain = settings_for(tmp_path / "in", tmp_path / "one", tiny)
    settings = elsewhere(plain, tmp_path / "many", cluster.address)
    cluster.holds.hold("file", 4)  # two files are at work, so that one of them has two slices
    with pytest.raises(SkipsegError, match="went away while the batch ran: what is done stays"):
        run_until(settings, 2, cluster.scheduler.kill)
    result = run(dataclasses.replace(plain, output=str(tmp_path / "many")))
    assert set(states(result).values()) <= {"done", "skipped"}
    assert results_in(result.folder) == results_in(run(plain).folder)
