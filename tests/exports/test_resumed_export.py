"""An export that was stopped goes on: what is whole is kept, and the end has the same bytes as an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labels_to_export import opened, shapes

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.exports import skeletons, surfaces, to_folder
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.to_folder import ExportRequest, iter_export_objects
from napari_skipseg.progress import run_to_end

pytest.importorskip("zmesh")
pytest.importorskip("kimimaro")
OPTIONS = ExportOptions(meshes="ply", skeletons=True, contacts=True, table=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight blocks, not one."""
    for function in (surfaces.iter_mesh_blocks, skeletons.iter_skeletons):
        monkeypatch.setattr(function, "__defaults__", ((16, 30, 30),))


def asked(values: np.ndarray | None = None, options: ExportOptions = OPTIONS, **more) -> ExportRequest:
    return ExportRequest(opened(shapes() if values is None else values), options, "made", **more)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_blocks.__wrapped__(monkeypatch)
        run_to_end(iter_export_objects(asked(), folder))
    return files_in(folder)


def test_an_export_that_is_closed_at_any_step_goes_on_to_the_same_bytes(tmp_path: Path, undisturbed) -> None:
    stops = 0
    while True:
        work = iter_export_objects(asked(), tmp_path)
        try:
            for _ in range(3 + stops):  # a later step each time, so that what was kept is met at each stage
                next(work)
        except StopIteration:
            break
        work.close()
        assert {path.name for path in tmp_path.iterdir()} <= {"made_unfinished"}
        stops += 1
    assert stops > 8
    assert files_in(tmp_path) == undisturbed


def test_blocks_and_tables_that_are_whole_are_not_computed_again(tmp_path: Path, undisturbed, monkeypatch) -> None:
    work = iter_export_objects(asked(), tmp_path)
    for step in work:
        if step.message == "writing skeletons":
            break
    work.close()

    def again(*_: object, **__: object) -> None:
        raise AssertionError("this is computed twice")

    for module, name in (
        (surfaces, "_simplified"),
        (skeletons, "_skeletons_of"),
        (to_folder, "iter_contacts"),
        (to_folder, "iter_measure_sparse"),
        (to_folder, "write_mesh"),
    ):
        monkeypatch.setattr(module, name, again)
    run_to_end(iter_export_objects(asked(), tmp_path))
    assert files_in(tmp_path) == undisturbed


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, undisturbed, monkeypatch) -> None:
    whole, calls = surfaces.durable.write_whole, []

    def full(path: Path, content: bytes, synced: bool = False) -> None:
        calls.append(path.name)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        whole(path, content, synced)

    monkeypatch.setattr(surfaces.durable, "write_whole", full)
    with pytest.raises(FileError, match="There is no space left to write"):
        run_to_end(iter_export_objects(asked(), tmp_path))
    assert {path.name for path in (tmp_path / "made_unfinished").glob("mesh-*")} == set(calls[:3])
    run_to_end(iter_export_objects(asked(), tmp_path))
    assert files_in(tmp_path) == undisturbed
    assert len(calls) == len(set(calls)) + 1  # only the one that did not fit


def test_other_labels_and_other_options_do_not_go_on(tmp_path: Path, undisturbed) -> None:
    def stop(request: ExportRequest) -> None:
        work = iter_export_objects(request, tmp_path)
        for step in work:
            if step.message == "writing meshes":
                break
        work.close()

    stop(asked())
    kept = files_in(tmp_path)
    changed = shapes()
    changed[15, 30, 30] = 3
    for other in (asked(changed), asked(options=replace(OPTIONS, simplify=1)), asked(objects=(3,))):
        with pytest.raises(InputError, match="a stopped export of other labels, or with other options, left"):
            run_to_end(iter_export_objects(other, tmp_path))
        assert files_in(tmp_path) == kept
    run_to_end(iter_export_objects(asked(objects=(3,), overwrite=True), tmp_path))
    assert [path.name for path in (tmp_path / "made_meshes").iterdir()] == ["3.ply"]
    stop(asked(overwrite=True))
    run_to_end(iter_export_objects(asked(overwrite=True), tmp_path))
    assert files_in(tmp_path) == undisturbed


def test_results_that_have_their_names_already_are_known_as_its_own(tmp_path: Path, undisturbed, monkeypatch) -> None:
    rename, names = to_folder.resumed_export.__wrapped__.__globals__["durable"].replace, []

    def stopped(source: Path, target: Path) -> Path:
        if target.parent == tmp_path:
            if len(names) == 2:
                raise OSError(5, "Input/output error")
            names.append(target.name)
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("napari_skipseg.durable.replace", stopped)
        with pytest.raises(FileError):
            run_to_end(iter_export_objects(asked(), tmp_path))
    assert (tmp_path / names[0]).exists()
    run_to_end(iter_export_objects(asked(), tmp_path))
    assert files_in(tmp_path) == undisturbed


_KILLED = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_resumed_export import asked, small_blocks
from pytest import MonkeyPatch
from napari_skipseg.exports.to_folder import iter_export_objects
small_blocks.__wrapped__(MonkeyPatch())
for step in iter_export_objects(asked(), Path(sys.argv[2])):
    print(step.message, flush=True)
    if step.message == sys.argv[3]:
        sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_export_goes_on_to_the_same_bytes_and_two_at_once_are_refused(tmp_path: Path, undisturbed) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", _KILLED, str(Path(__file__).parent), str(out), "writing skeletons"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line == "writing skeletons\n" for line in process.stdout)
        with pytest.raises(FileError, match=f"Process {process.pid} exports 'made' into"):
            run_to_end(iter_export_objects(asked(), out))
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in out.iterdir()] == ["made_unfinished"]
    begun = time.time()
    run_to_end(iter_export_objects(asked(), out))
    assert files_in(out) == undisturbed
    assert (out / "made_meshes" / "3.ply").stat().st_mtime < begun
