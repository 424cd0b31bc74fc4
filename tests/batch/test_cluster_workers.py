"""A batch in several processes of this machine, one of which is killed: the bytes of one process, and nobody hears."""

from __future__ import annotations

from pathlib import Path

import dask
import psutil
import pytest
from batch_folders import results_in, run, settings_for, states, write_image
from cluster_programs import PRELOAD

from napari_skipseg.batch import dask_client
from napari_skipseg.batch.rows import FileChanged
from napari_skipseg.batch.run import iter_batch

pytest.importorskip("distributed")


def own_workers() -> list[psutil.Process]:
    """The processes of this one that were spawned, but for the one that tracks their resources."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_killed_worker_of_this_machine_changes_no_byte(
    tmp_path: Path, tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.tif", number, slices=12)
    killed: list[int] = []
    with dask.config.set({"distributed.worker.preload": [str(PRELOAD)]}):
        for event in iter_batch(settings_for(tmp_path / "in", tmp_path / "many", tiny, workers=2)):
            if not killed and isinstance(event, FileChanged) and event.row.done >= 2:
                victim = own_workers()[0]
                killed.append(victim.pid)
                victim.kill()
    assert killed
    assert own_workers() == []
    assert capfd.readouterr() == ("", "")
    whole = run(settings_for(tmp_path / "in", tmp_path / "one", tiny))
    folder = tmp_path / "many" / whole.folder.name
    assert results_in(folder) == results_in(whole.folder)
    assert states(run(settings_for(tmp_path / "in", tmp_path / "many", tiny))) == dict.fromkeys(
        ("0.tif", "1.tif", "2.tif", "3.tif"), "skipped"
    )


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_client.os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11}, raising=False)
    assert dask_client.share_cores(1) == ((2, 3, 5, 7, 11),)
    assert dask_client.share_cores(2) == ((2, 3), (5, 7, 11))
    assert dask_client.share_cores(6) == ((2,), (3,), (5,), (7,), (11,), (2,))
