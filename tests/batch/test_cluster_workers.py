"""A batch in several processes of this machine, one of which is killed: the bytes of one process, and nobody hears."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import psutil
import pytest
from batch_folders import results_in, run, settings_for, states, write_image
from cluster_programs import ENDING_AMONG_OTHERS, PRELOAD, Holds, check_ended

from napari_skipseg import devices
from napari_skipseg.batch import dask_client
from napari_skipseg.batch.crash_guard import CRASHES
from napari_skipseg.batch.dask_worker import WorkerEngine, share_of
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.run import iter_batch
from napari_skipseg.batch.table import FileChanged
from napari_skipseg.devices import WHOLE_MEMORY, free_memory

pytest.importorskip("distributed")


def own_workers() -> list[psutil.Process]:
    """The processes of this one that were spawned, but for the one that tracks their resources."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that ends at this moment
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
def test_a_killed_worker_of_this_machine_changes_no_byte(
    tmp_path: Path, tiny: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = Holds(tmp_path / "holds")
    for name, value in holds.variables.items():
        monkeypatch.setenv(name, value)
    holds.hold("file", 6)
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.tif", number, slices=12)
    killed: list[int] = []
    with dask.config.set({"distributed.worker.preload": [str(PRELOAD)]}):
        for event in iter_batch(settings_for(tmp_path / "in", tmp_path / "many", tiny, workers=2)):
            if not killed and isinstance(event, FileChanged) and event.row.done >= 2:
                victim = own_workers()[0]
                killed.append(victim.pid)
                victim.kill()
                holds.release()
    assert killed
    assert own_workers() == []
    assert capfd.readouterr() == ("", "")
    whole = run(settings_for(tmp_path / "in", tmp_path / "one", tiny))
    folder = tmp_path / "many" / whole.folder.name
    assert results_in(folder) == results_in(whole.folder)
    assert states(run(settings_for(tmp_path / "in", tmp_path / "many", tiny))) == dict.fromkeys(
        ("0.tif", "1.tif", "2.tif", "3.tif"), "skipped"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_files_that_end_their_workers_fail_and_no_other_one_does(
    tmp_path: Path, tiny: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPSEG_TEST_PAUSE", "0.05")
    for number, name in enumerate(ENDING_AMONG_OTHERS):
        write_image(tmp_path / "in" / name, number, slices=60)  # long enough to be at work while workers end
    with dask.config.set({"distributed.worker.preload": [str(PRELOAD)]}):
        result = run(settings_for(tmp_path / "in", tmp_path / "many", tiny, workers=2))
    check_ended(result)
    assert capfd.readouterr() == ("", "")
    assert own_workers() == []
    again = run(settings_for(tmp_path / "in", tmp_path / "many", tiny), retry=True)  # where nothing ends it
    assert again.count("failed") == 0
    whole = run(settings_for(tmp_path / "in", tmp_path / "one", tiny))
    found = {name: content for name, content in results_in(result.folder).items() if not name.startswith(CRASHES)}
    assert found == results_in(whole.folder)


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_client, "cores", lambda: [2, 3, 5, 7, 11])
    assert dask_client.share_cores(1) == ((2, 3, 5, 7, 11),)
    assert dask_client.share_cores(2) == ((2, 3), (5, 7, 11))
    assert dask_client.share_cores(6) == ((2,), (3,), (5,), (7,), (11,), (2,))


def test_workers_of_this_machine_choose_a_tile_for_their_share_of_its_memory(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda name: 12 * 2**20)
    request = settings_for(tmp_path, tmp_path / "out", tiny, tile=0).request
    sides = []
    for workers in (0, 8):
        place = RunPlace(tmp_path / str(workers))
        share = share_of({"cores": [[0]] * workers}, 0) if workers else WHOLE_MEMORY
        engine = WorkerEngine(request, place, None, share)
        assert json.loads(place.choice.read_bytes()) == engine.chosen
        sides.append(engine.chosen["side"])
    assert sides[1] < sides[0]


def test_workers_of_a_cluster_count_what_dask_gives_each() -> None:
    assert share_of({"cores": []}, 2**20).of("cpu") == 2**20
    assert share_of({"cores": []}, 0).of("cpu") > free_memory("cpu") // 2


def test_workers_with_the_same_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_memory", {"cuda": 1200, "cpu": 1200}.__getitem__)
    shares = {gpus: share_of({"cores": [[0]] * 6, "gpus": gpus}, 0) for gpus in (0, 1, 2, 4, 8)}
    assert {gpus: share.of("cuda") for gpus, share in shares.items()} == {0: 200, 1: 200, 2: 400, 4: 600, 8: 1200}
    assert {share.of("cpu") for share in shares.values()} == {200}


class StubNanny:
    def __init__(self, scheduler: str, name: object = None, env: dict[str, str] | None = None, **how: object) -> None:
        self.env = env


def test_each_worker_has_its_gpu_in_its_environment() -> None:
    assert dask_client.nanny_with_gpu(StubNanny, ()) is StubNanny
    spread = dask_client.nanny_with_gpu(StubNanny, ("GPU-a", "GPU-b"))
    made = [spread("tcp://here", name=name, env={"A": "1"}, nthreads=2).env for name in range(5)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in made] == ["GPU-a", "GPU-b", "GPU-a", "GPU-b", "GPU-a"]
    assert all(env["A"] == "1" for env in made)


ASKS = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"


@pytest.mark.skipif(os.name == "nt", reason="Windows hands no such thing on")
def test_what_is_started_uninterrupted_stays_so_whoever_is_started_later() -> None:
    told: list[str] = []
    go_on = threading.Event()

    def restart() -> None:
        go_on.wait(120)
        told.append(subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True).stdout.strip())

    with dask_client._uninterrupted():
        thread = threading.Thread(target=restart)
        thread.start()
    go_on.set()
    thread.join()
    assert told == ["True"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows hands no such thing on")
def test_ctrl_c_reaches_neither_a_worker_nor_the_one_in_its_place(tmp_path: Path, tiny: Path) -> None:
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}),  # in which there is none in its place yet
        dask_client.open_cluster(settings_for(tmp_path, tmp_path / "out", tiny, workers=1)) as cluster,
    ):
        (first,) = own_workers()
        os.kill(first.pid, signal.SIGINT)
        first.kill()
        until = time.monotonic() + 120
        while not [worker for worker in own_workers() if worker.pid != first.pid]:
            assert time.monotonic() < until
            time.sleep(0.05)
        (second,) = [worker for worker in own_workers() if worker.pid != first.pid]
        for _ in range(20):  # from its first moment on
            os.kill(second.pid, signal.SIGINT)
            time.sleep(0.1)
        cluster.client.wait_for_workers(1, timeout=120)
        assert cluster.client.submit(os.getpid).result(timeout=120) == second.pid
