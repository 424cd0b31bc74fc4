"""Files are on disk before they get their names, links are not followed, and what a killed process left is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from napari_skipseg import durable, locks
from napari_skipseg.batch.place import write_run_text
from napari_skipseg.csv_files import write_csv
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import create_ome_zarr, write_ome_zarr
from napari_skipseg.inference.run_folder import RunFolder, note_tiles
from napari_skipseg.locks import FolderLock
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.training.checkpoint import FitState, write_checkpoint

IMAGE = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
SPEC = UNetSpec(widths=(2, 4))
unlike_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps what is open by itself")


def write_a_run(path: Path) -> None:
    with RunFolder(path.parent, path.stem, {"k": 1}) as place:
        place.begin({"a": 1})


def write_a_model(path: Path) -> None:
    description = ModelDescription("mine", SPEC, (ClassLabel("membrane", 1),), 4, "")
    write_model(path, description, build(SPEC))


def write_a_checkpoint(path: Path) -> None:
    network = build(SPEC)
    write_checkpoint(path, {}, FitState(), network, torch.optim.AdamW(network.parameters()))


def write_a_store(path: Path) -> None:
    write_ome_zarr(path, IMAGE, Layout(IMAGE.shape, Space("ZYX"), "uint8", chunks=(1, 8, 8)))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.tif": lambda path: write_ome_tiff(path, IMAGE, Space("ZYX", (1, 1, 1), "pixel")),
    "record.json": lambda path: write_run_text(path, "{}"),
    "a.csv": lambda path: write_csv(path, ("a",), [(1,)]),
    "small": lambda path: durable.write_durably(path, b"content"),
    "checkpoint": write_a_checkpoint,
    "a.ome.zarr": write_a_store,
    "model": write_a_model,
    "run": write_a_run,
}


@pytest.mark.parametrize("name", WRITERS)
def test_content_is_on_disk_before_the_name_changes_and_the_name_afterwards(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def syncing(number: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{number}") else "file")  # noqa: PTH112
        fsync(number)

    def replacing(source: Any, target: Any) -> None:
        if Path(target).parent == tmp_path or Path(target).name == "run.json":
            steps.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    WRITERS[name](tmp_path / name)
    assert "file" in steps[: steps.index("name")]
    if name != "run":  # its folder is brought to disk before the first unit is noted
        assert steps[-1] == "folder"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("ending", [".part", ".partial", ".tmp", ""])
def test_no_link_that_somebody_laid_leads_to_another_file(name: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / f"{name}{ending}").symlink_to(tmp_path / "thesis")
    try:
        WRITERS[name](tmp_path / "shared" / name)
    except SkipsegError:
        assert ending == ""  # what is there already and not ours is refused
    assert (tmp_path / "thesis").read_text() == "years of work"
    if ending:
        assert not (tmp_path / "shared" / name).is_symlink()


@pytest.mark.parametrize("file", ["lock", "done", "run.json"])
def test_no_link_in_the_folder_of_a_run_is_followed(file: str, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "a.unfinished").mkdir()
    (tmp_path / "a.unfinished" / file).symlink_to(tmp_path / "thesis")
    if file == "lock":
        with pytest.raises(FileError, match="link"):
            FolderLock(tmp_path / "a.unfinished", "held").take()
    elif file == "done":
        with pytest.raises(FileError, match="link"):
            note_tiles(tmp_path / "a.unfinished", [1])
    else:
        write_a_run(tmp_path / "a")
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_a_folder_that_is_a_link_is_no_run_and_no_store(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a_probability.tif").write_text("of last year")
    (tmp_path / "a.unfinished").symlink_to(tmp_path / "home")
    with pytest.raises(FileError, match="link"):
        write_a_run(tmp_path / "a")
    (tmp_path / "b.ome.zarr").symlink_to(tmp_path / "home")
    with pytest.raises(FileError, match="link"):
        create_ome_zarr(tmp_path / "b.ome.zarr", Layout((4, 8, 8), Space("ZYX"), "uint8"))
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["a_probability.tif"]


WRITING = """
import sys, time
from pathlib import Path
from napari_skipseg import durable, locks
with durable.replacing_durably(Path(sys.argv[1]) / "a") as handle, durable.draft_folder(Path(sys.argv[1])):
    print("writing", flush=True)
    sys.stdin.read()
"""


@unlike_windows
def test_drafts_of_a_killed_process_are_removed_and_those_of_a_live_one_are_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        (tmp_path / ".skipseg-notes.part").write_text("of a user")
        drafts = {path for path in tmp_path.iterdir() if durable.is_draft(path.name)}
        assert len(drafts) == 2
        durable.remove_old_drafts(tmp_path, again=True)
        assert drafts < set(tmp_path.iterdir())
        writer.kill()
        writer.wait()
    durable.remove_old_drafts(tmp_path, again=True)
    assert [path.name for path in tmp_path.iterdir()] == [".skipseg-notes.part"]


SWEPT_WRITERS: dict[str, Callable[[Path], Any]] = {
    "whole": lambda path: durable.write_whole(path, b"content"),
    "durably": lambda path: durable.write_durably(path, b"content"),
    "files": lambda path: durable.put_files(path, {"a": b"content"}),
}


@unlike_windows
@pytest.mark.parametrize("moment", ["lock_file", "replace"])
@pytest.mark.parametrize("name", SWEPT_WRITERS)
def test_a_draft_is_not_lost_to_a_neighbour_that_looks_for_old_ones(
    name: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The neighbour, another thread or process, looks once: just before the draft is locked, or renamed."""
    module = locks if (name, moment) == ("files", "lock_file") else durable
    real, looks = getattr(module, moment), iter([True])

    def act(*arguments: Any) -> Any:
        if next(looks, False):
            durable.remove_old_drafts(tmp_path, again=True)
        return real(*arguments)

    monkeypatch.setattr(module, moment, act)
    SWEPT_WRITERS[name](tmp_path / "a")
    assert not next(looks, False)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "a" if name == "files" else tmp_path / "a").read_bytes() == b"content"


@unlike_windows
def test_two_threads_that_write_the_first_files_of_a_folder_both_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thread looks for old drafts while the second one makes its own."""
    real, made, looked = durable._remove_if_old, threading.Event(), threading.Event()
    open_draft = durable._new_draft

    def look_late(draft: Path) -> None:
        made.wait(60)
        real(draft)
        looked.set()

    def make_and_wait(folder: Path) -> tuple[Path, BinaryIO]:
        found = open_draft(folder)
        made.set()
        looked.wait(60)
        return found

    (tmp_path / f"{durable.DRAFT}00000000{durable.PART}").write_bytes(b"left by a kill")
    monkeypatch.setattr(durable, "_remove_if_old", look_late)
    first = threading.Thread(target=durable.write_durably, args=(tmp_path / "a", b"1"))
    first.start()
    monkeypatch.setattr(durable, "_new_draft", make_and_wait)
    durable.write_whole(tmp_path / "b", b"2")
    first.join()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


@unlike_windows
def test_a_draft_that_is_written_for_days_is_kept(tmp_path: Path) -> None:
    with durable.replacing_durably(tmp_path / "a") as handle, durable.draft_folder(tmp_path):
        drafts = set(tmp_path.iterdir())
        for draft in drafts:
            os.utime(draft, (0, 0))
        durable.remove_old_drafts(tmp_path, again=True)
        assert set(tmp_path.iterdir()) == drafts
        handle.write(b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.parametrize("is_old", [False, True])
def test_a_draft_whose_lock_says_nothing_is_removed_after_a_day(tmp_path: Path, is_old: bool) -> None:
    draft = tmp_path / f"{durable.DRAFT}00000000{durable.PART}"
    draft.mkdir()
    (draft / "half").write_bytes(b"")
    if is_old:
        os.utime(draft, (0, 0))
    durable.remove_old_drafts(tmp_path, again=True)
    assert draft.exists() is not is_old


class HeldError(PermissionError):
    """What Windows raises for a file that a program has open or mapped to memory."""

    winerror = 1224


@pytest.mark.parametrize("code", [5, 32, 33, 1224])
@pytest.mark.parametrize("times", [2, 10**6])
def test_windows_is_asked_again_and_then_the_layer_is_to_be_closed(
    code: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.replace, iter(range(times))

    def held(source: Any, target: Any) -> None:
        if next(left, None) is not None:
            error = HeldError(13, "Permission denied")
            error.winerror = code
            raise error
        real(source, target)

    (tmp_path / "a.tif").write_bytes(b"shown in a layer")
    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(durable, "RETRIES", 0.3)
    if times == 2:
        WRITERS["a.tif"](tmp_path / "a.tif")
        return
    with pytest.raises(FileError, match="close its layer"):
        WRITERS["a.tif"](tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes() == b"shown in a layer"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_fault_that_is_no_other_programs_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(source: Any, target: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", closed)
    with pytest.raises(FileError, match="may not be written"):
        WRITERS["a.tif"](tmp_path / "a.tif")


@pytest.mark.parametrize("count", [1, 3, 100])
def test_many_files_are_brought_to_disk_together(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(durable, "_syncfs", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115
    files = [tmp_path / "c" / str(number) / "0" for number in range(count)]
    for file in files:
        file.parent.mkdir(parents=True)
        durable.write_whole(file, b"content")
    durable.sync([*files, tmp_path / "gone"], tmp_path)
    folders = {tmp_path, tmp_path / "c", *(file.parent for file in files)}
    assert sorted(synced) == sorted(map(str, [*files, *folders]))
    assert max(map(synced.index, map(str, files))) < min(map(synced.index, map(str, folders)))
