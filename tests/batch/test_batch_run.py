"""A batch from folder to folder: what it writes, what it skips, what fails and why, and what stops it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from batch_folders import (
    SIDE,
    Gate,
    ended,
    results_in,
    run,
    settings_for,
    states,
    write_image,
    write_tiny_model,
)
from PIL import Image

from napari_skipseg import durable
from napari_skipseg.batch import run_file as entry_module
from napari_skipseg.batch.companions import find_truth_of
from napari_skipseg.batch.engine import DeviceTurn
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.records import NO_SIZE
from napari_skipseg.batch.run import iter_batch
from napari_skipseg.batch.settings import BatchSettings, batch_settings_from_json, batch_settings_to_json
from napari_skipseg.batch.table import BatchOpened, BatchWaits, FileChanged, Retry
from napari_skipseg.csv_files import ENCODING
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.zarr import chunk_writer
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.recipes.lookup import read_recipe_file
from napari_skipseg.inference.recipes.repeat import iter_repeat, prepare_repeat
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.model import read_model
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with three images, one of them a stack in a folder of its own."""
    folder = tmp_path / "in"
    write_image(folder / "a.tif", 1)
    write_image(folder / "b.tif", 2)
    write_image(folder / "deep" / "c.ome.tif", 3, slices=2)
    return folder


# ------------------------------------------------------------------------------------------------------------ results


def test_every_file_becomes_what_it_would_alone(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny, recursive=True)
    result = run(settings)
    assert states(result) == {"a.tif": "done", "b.tif": "done", "deep/c.ome.tif": "done"}
    assert result.folder.parent == tmp_path / "out"
    assert result.folder.name.startswith("tiny-")
    model, options = read_model(tiny), settings.request.options
    for relative in states(result):
        stack = read_stack(three / relative)
        alone = run_to_end(iter_segment(RunSpec(stack, model, options), FolderTarget(tmp_path / "alone", stack.name)))
        for file in alone:
            beside = (result.folder / relative).with_name(file.name)
            np.testing.assert_array_equal(np.asarray(read_stack(beside).data), np.asarray(read_stack(file).data))
        told = read_recipe((result.folder / relative).with_name(f"{stack.name}_probability.tif"))
        assert told is not None
        assert told["model"] == "tiny"
    wanted = {
        f"{name}_{what}" for name in "ab" for what in ("binary.tif", "probability.tif", "recipe.json", "times.json")
    }
    wanted |= {"batch.json", "chosen.json", "report.html", "summary.csv"}
    assert {file.name for file in result.folder.iterdir() if file.is_file()} == wanted


def test_rows_say_what_became_of_each_file(three: Path, tmp_path: Path, tiny: Path) -> None:
    result = run(settings_for(three, tmp_path / "out", tiny, recursive=True))
    row = {row.relative: row for row in result.rows}["deep/c.ome.tif"]
    assert (row.size, row.bytes, row.reason, row.note) == (f"2 × {SIDE} × {SIDE}", 2 * SIDE * SIDE, "", NO_SIZE)
    assert row.seconds > 0
    assert [Path(file).name for file in row.outputs] == ["c_probability.tif", "c_binary.tif"]
    with Image.open(row.thumbnail) as picture:
        assert picture.size == (SIDE, SIDE)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 50


def test_events_open_the_table_and_then_say_what_changed(three: Path, tmp_path: Path, tiny: Path) -> None:
    events = list(iter_batch(settings_for(three, tmp_path / "out", tiny, recursive=True)))
    first, *later = events
    assert isinstance(first, BatchOpened)
    assert [row.state for row in first.rows] == ["waiting"] * 3
    assert sorted(ended(later)) == ["a.tif", "b.tif", "deep/c.ome.tif"]
    done = [event.done for event in later]
    assert done == sorted(done)
    assert later[-1].fraction == 1
    running = [event.row for event in later if isinstance(event, FileChanged) and event.row.state == "running"]
    assert {row.relative for row in running} == set(ended(later))
    assert any((row.done, row.total) == (1, 2) for row in running if row.relative == "deep/c.ome.tif")


def test_stores_come_in_and_go_out(three: Path, tmp_path: Path, tiny: Path) -> None:
    first = run(settings_for(three / "a.tif", tmp_path / "first", tiny, form="ome-zarr"))
    assert [Path(file).name for file in first.rows[0].outputs] == ["a_probability.ome.zarr", "a_binary.ome.zarr"]
    store = shutil.copytree(first.rows[0].outputs[0], tmp_path / "stores" / "deep" / "again.ome.zarr")
    again = run(settings_for(store.parents[1], tmp_path / "second", tiny, recursive=True))
    assert states(again) == {"deep/again.ome.zarr": "done"}
    assert (again.folder / "deep" / "again_probability.tif").is_file()


def test_how_files_are_taken_is_a_part_of_the_recipe(three: Path, tmp_path: Path, tiny: Path) -> None:
    plain = run(settings_for(three, tmp_path / "out", tiny))
    taken = run(settings_for(three, tmp_path / "out", tiny, voxel_size=(30.0, 4.0, 4.0), unit="nm"))
    assert taken.folder != plain.folder
    assert read_stack(taken.folder / "a_probability.tif").space.voxel_size[1:] == (4.0, 4.0)


# ---------------------------------------------------------------------------------------------------- a second start


def test_a_second_start_skips_what_is_done_and_says_so(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny)
    first = run(settings)
    before = {file: file.stat().st_mtime_ns for file in first.folder.glob("*.tif")}
    second = run(settings)
    assert states(second) == {"a.tif": "skipped", "b.tif": "skipped"}
    day = first.rows[0].ended[:10]
    assert {row.note for row in second.rows} == {f"done before on {day}, with the same recipe. {NO_SIZE}"}
    assert second.describe() == "2 images: 0 done, 2 done before with the same recipe and skipped."
    assert before == {file: file.stat().st_mtime_ns for file in first.folder.glob("*.tif")}


def test_a_changed_recipe_goes_to_a_new_run(three: Path, tmp_path: Path, tiny: Path) -> None:
    first = run(settings_for(three, tmp_path / "out", tiny))
    before = results_in(first.folder)
    other = run(settings_for(three, tmp_path / "out", tiny, threshold=0.7))
    assert other.folder != first.folder
    assert states(other) == {"a.tif": "done", "b.tif": "done"}, [row.reason for row in other.rows]
    assert results_in(first.folder) == before


def test_a_changed_image_and_a_missing_result_are_done_again(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny)
    first = run(settings)
    write_image(three / "a.tif", 9)
    (first.folder / "b_binary.tif").unlink()
    write_image(three / "c.tif", 4)
    again = run(settings)
    assert states(again) == {"a.tif": "done", "b.tif": "done", "c.tif": "done"}
    assert states(run(settings)) == dict.fromkeys(("a.tif", "b.tif", "c.tif"), "skipped")


def test_images_of_one_name_from_elsewhere_are_refused_and_a_copy_is_skipped(
    three: Path, tmp_path: Path, tiny: Path
) -> None:
    first = run(settings_for(three, tmp_path / "out", tiny))
    before = results_in(first.folder)
    write_image(tmp_path / "other" / "a.tif", 8)
    shutil.copy2(three / "b.tif", tmp_path / "other" / "b.tif")
    second = run(settings_for(tmp_path / "other", tmp_path / "out", tiny))
    assert states(second) == {"a.tif": "failed", "b.tif": "skipped"}
    assert "results of a different image with this name" in second.rows[0].reason
    assert results_in(first.folder) == before
    assert states(run(settings_for(three, tmp_path / "out", tiny))) == {"a.tif": "skipped", "b.tif": "skipped"}


def test_a_file_keeps_the_name_of_its_results_when_another_of_that_name_comes(
    three: Path, tmp_path: Path, tiny: Path
) -> None:
    (tmp_path / "truth").mkdir()
    settings = settings_for(three, tmp_path / "out", tiny, truth=str(tmp_path / "truth"))
    first = run(settings)
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)).save(three / "a.png")
    shutil.copy(first.rows[0].outputs[1], tmp_path / "truth" / "a.tif")
    rows = {row.relative: row for row in run(settings).rows}
    assert (rows["a.tif"].state, rows["a.tif"].scores["membrane dice"]) == ("skipped", 1)
    assert Path(rows["a.png"].outputs[0]).name == "a.png_probability.tif"


def test_a_damaged_record_counts_for_nothing(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny)
    folder = run(settings).folder
    (folder / "records" / "a.tif.json").write_text('{"format_version": 1, "relative": ')
    (folder / "records" / "b.tif.json").write_text('{"format_version": 1, "strange": 3}')
    (folder / "chosen.json").write_text("[]")
    assert set(states(run(settings)).values()) == {"done"}


# --------------------------------------------------------------------------------------------------------- bad files


def hostile(file: Path) -> None:
    """A TIFF that says of 60 bytes that they are a picture of 16 TB."""
    entries = ((256, 4, 2**21), (257, 4, 2**21), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1))
    entries += ((278, 4, 2**21), (279, 4, 60))
    listed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    content = b"II*\0" + struct.pack("<I", 68) + bytes(60) + struct.pack("<H", len(entries)) + listed + bytes(4)
    file.write_bytes(content)


def test_one_bad_file_never_stops_the_rest(three: Path, tmp_path: Path, tiny: Path) -> None:
    (three / "empty.tif").write_bytes(b"")
    (three / "text.tif").write_text("this is no image")
    (three / "cut.tif").write_bytes((three / "a.tif").read_bytes()[:900])
    hostile(three / "hostile.tif")
    tifffile.imwrite(three / "constant.tif", np.zeros((SIDE, SIDE), np.uint8))
    tifffile.imwrite(three / "nan.tif", np.full((SIDE, SIDE), np.nan, np.float32))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).save(three / "rgb.png")
    (three / "broken.zarr").mkdir()
    (three / "broken.zarr" / "zarr.json").write_text("{")
    (three / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    (three / "notes.txt").write_text("no image")
    result = run(settings_for(three, tmp_path / "out", tiny))
    failed = {row.relative: row.reason for row in result.rows if row.state == "failed"}
    assert sorted(failed) == sorted(
        [
            "broken.zarr",
            "constant.tif",
            "cut.tif",
            "empty.tif",
            "gone.tif",
            "hostile.tif",
            "nan.tif",
            "rgb.png",
            "text.tif",
        ]
    )
    assert {name for name, state in states(result).items() if state == "done"} == {"a.tif", "b.tif"}
    for name, words in {
        "rgb.png": "3 channels", "text.tif": "not a TIFF", "gone.tif": "does not exist", "constant.tif": "constant"
    }.items():  # fmt: skip
        assert words in failed[name]
    assert all(reason.endswith(".") or reason.endswith(".)") for reason in failed.values())
    assert result.describe() == "11 images: 2 done, 9 failed. Left out: 1 file that is no image."
    assert not list(result.folder.glob("*.unfinished"))


def test_a_name_that_is_too_long_for_the_results_fails_alone(three: Path, tmp_path: Path, tiny: Path) -> None:
    write_image(three / f"{'long' * 62}.tif")
    result = run(settings_for(three, tmp_path / "out", tiny))
    assert sorted(states(result).values()) == ["done", "done", "failed"]
    assert "name too long" in next(row.reason for row in result.rows if row.state == "failed")
    assert states(run(settings_for(three, tmp_path / "out", tiny)))["a.tif"] == "skipped"


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such names")
def test_names_that_no_terminal_can_show_are_names(three: Path, tmp_path: Path, tiny: Path) -> None:
    odd = three / "a\nb\x1b[2J.tif"
    write_image(odd)
    result = run(settings_for(three, tmp_path / "out", tiny))
    assert set(states(result).values()) == {"done"}
    assert states(run(settings_for(three, tmp_path / "out", tiny)))[odd.name] == "skipped"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone takes names of any bytes")
@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_a_name_that_is_no_utf8_is_a_name(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tiny.parent))
    odd = write_image(tmp_path / "in" / "a.tif").rename(tmp_path / "in" / os.fsdecode(b"caf\xe9.tif"))
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny, form=form, objects=ObjectOptions())
    result = run(settings)
    assert states(result) == {odd.name: "done"}
    assert states(run(settings)) == {odd.name: "skipped"}
    images = [Path(file) for file in result.rows[0].outputs if not file.endswith(".csv")]
    sidecar = result.folder / f"{odd.stem}_recipe.json"
    recipes = [read_recipe_file(file) for file in (*images, sidecar)]
    assert [recipe.inputs[0].file for recipe in recipes] == [str(odd)] * 4
    again = run_to_end(iter_repeat(prepare_repeat(recipes[-1]), tmp_path / "again"))
    assert (tmp_path / "again" / sidecar.name).read_bytes() == sidecar.read_bytes()
    assert [file.name for file in again] == [Path(file).name for file in result.rows[0].outputs]
    for page in (result.summary, result.report):
        assert r"caf\udce9.tif" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "may not be read"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (ZeroDivisionError("strange"), r"failed unexpectedly \(ZeroDivisionError: strange\)"),
    ],
)
def test_whatever_goes_wrong_with_a_file_is_its_reason(
    three: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    real = entry_module.read_input

    def read(asked: BatchSettings, entry: BatchInput) -> Any:
        if entry.relative == "a.tif":
            if isinstance(error, PermissionError):
                monkeypatch.setattr(tifffile, "TiffFile", fail)
            else:
                raise error
        try:
            return real(asked, entry)
        finally:
            monkeypatch.setattr(tifffile, "TiffFile", opened)

    def fail(*given: Any, **named: Any) -> Any:
        raise error

    opened = tifffile.TiffFile
    monkeypatch.setattr(entry_module, "read_input", read)
    (three / "b.tif").unlink()
    result = run(settings_for(three, tmp_path / "out", tiny))
    assert states(result) == {"a.tif": "failed"}
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(result.rows[0].reason)


def test_what_failed_is_done_again_by_a_second_start_and_alone_with_retry(
    three: Path, tmp_path: Path, tiny: Path
) -> None:
    settings = settings_for(three, tmp_path / "out", tiny)
    good = (three / "a.tif").read_bytes()
    (three / "a.tif").write_text("no image")
    assert states(run(settings)) == {"a.tif": "failed", "b.tif": "done"}
    assert states(run(settings)) == {"a.tif": "failed", "b.tif": "skipped"}
    (three / "a.tif").write_bytes(good)
    write_image(three / "new.tif")
    assert states(run(settings, retry=True)) == {"a.tif": "done", "b.tif": "skipped", "new.tif": "waiting"}
    with pytest.raises(SkipsegError, match="Nothing failed"):
        run(settings, retry=True)


def test_a_failed_file_is_tried_again_while_the_batch_runs(three: Path, tmp_path: Path, tiny: Path) -> None:
    good = (three / "a.tif").read_bytes()
    (three / "a.tif").write_text("no image")
    write_image(three / "d.tif", 5, slices=12)
    work, command, seen = iter_batch(settings_for(three, tmp_path / "out", tiny)), None, []
    next(work)
    while True:
        try:
            event = work.send(command)
        except StopIteration as stop:
            result = stop.value
            break
        command = None
        if isinstance(event, FileChanged) and event.row.relative == "a.tif":
            seen.append(event.row.state)
            if event.row.state == "failed":
                (three / "a.tif").write_bytes(good)
                command = Retry()
    assert states(result) == dict.fromkeys(("a.tif", "b.tif", "d.tif"), "done")
    assert seen.index("failed") < seen.index("waiting") < seen.index("done")


# ------------------------------------------------------------------------------------------------- stopped, refused


@pytest.fixture
def hold_network(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Shuts the gate for the network: who computes after so many other files is held after so many of its tiles."""
    real, tiles = DeviceTurn.run, Counter[int]()

    def hold(files: int, most: int) -> None:
        gate.shut()
        tiles.clear()

        def run(self: DeviceTurn, compute: Any) -> Any:
            tiles[id(self)] += 1
            if [*tiles].index(id(self)) >= files and tiles[id(self)] > most:
                gate()
            return real(self, compute)

        monkeypatch.setattr(DeviceTurn, "run", run)

    return hold


def test_a_stopped_batch_goes_on_at_its_next_tile(
    tmp_path: Path, tiny: Path, hold_network: Callable[[int, int], None]
) -> None:
    for number in range(2):
        write_image(tmp_path / "in" / f"{number}.tif", number, slices=8)
    undisturbed = results_in(run(settings_for(tmp_path / "in", tmp_path / "whole", tiny)).folder)
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny)
    hold_network(1, 7)
    work, begun = iter_batch(settings), list[str]()
    for event in work:
        if isinstance(event, FileChanged) and event.row.done and event.row.total == 8:
            begun += [] if event.row.relative in begun else [event.row.relative]
            if event.row.done == 3 and len(begun) == 2:
                break
    work.close()
    stopped = begun[1]
    folder = next((tmp_path / "out").iterdir())
    assert (folder / f"{stopped[0]}.unfinished").is_dir()
    assert not (folder / "lock").exists()
    said = []
    result = run_to_end(iter_batch(settings), lambda event: said.append(getattr(event, "row", None)))
    assert any(row is not None and row.relative == stopped and row.message.startswith("continued, ") for row in said)
    assert set(states(result).values()) <= {"done", "skipped"}
    assert json.loads((folder / f"{stopped[0]}_times.json").read_text())["continued"]
    assert results_in(folder) == undisturbed


def test_an_unfinished_file_that_was_changed_meanwhile_is_begun_anew(
    tmp_path: Path, tiny: Path, hold_network: Callable[[int, int], None]
) -> None:
    write_image(tmp_path / "in" / "a.tif", slices=8)
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny)
    hold_network(0, 7)
    work = iter_batch(settings)
    for event in work:
        if isinstance(event, FileChanged) and event.row.done == 3:
            break
    work.close()
    (folder,) = (tmp_path / "out").iterdir()
    assert (folder / "a.unfinished").is_dir()
    write_image(tmp_path / "in" / "a.tif", 7, slices=6)
    assert states(run(settings)) == {"a.tif": "done"}


def test_a_full_disk_stops_the_batch_and_it_goes_on(
    three: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, left = settings_for(three, tmp_path / "out", tiny, recursive=True), iter(range(14))
    real = chunk_writer.write_whole

    def put(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(chunk_writer, "write_whole", put)
    with pytest.raises(SkipsegError, match=r"no space left.*start the same batch again"):
        run(settings)
    monkeypatch.setattr(chunk_writer, "write_whole", real)
    result = run(settings)
    assert set(states(result).values()) <= {"done", "skipped"}
    assert len(results_in(result.folder)) == 3 * 3 + 1


def test_a_folder_that_becomes_closed_to_us_stops_the_batch(
    three: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable._new_draft

    def closed(folder: Path) -> Any:
        if "records" in folder.parts:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(folder)

    def refused(path: Path, content: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(durable, "_new_draft", closed)
    monkeypatch.setattr("napari_skipseg.batch.crash_guard.write_whole", refused)
    with pytest.raises(SkipsegError, match=r"Nothing can be written to .* any more \(Permission denied\)"):
        run(settings_for(three, tmp_path / "out", tiny))


def test_an_output_that_cannot_be_written_is_said_at_once(
    three: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(SkipsegError, match="is a file: choose a different folder"):
        run(settings_for(three, tmp_path / "file", tiny))

    def refuse(self: Path, *given: Any, **named: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SkipsegError, match="may not be written: choose a folder in which you may write"):
        run(settings_for(three, tmp_path / "out", tiny))
    assert not (tmp_path / "out").exists()


def test_a_second_run_is_refused_while_the_first_lives(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny)
    work = iter_batch(settings)
    next(work)
    with pytest.raises(SkipsegError, match=rf"is being written by a different run \(process {os.getpid()}\)"):
        run(settings)
    work.close()
    assert states(run(settings)) == {"a.tif": "done", "b.tif": "done"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_dead_run_holds_nothing(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny)
    folder = run(settings).folder
    hold = "import sys, fcntl; f = open(sys.argv[1], 'a+b'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    hold += "; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SkipsegError, match="is being written by a different run"):
            run(settings)
        holder.kill()
        holder.wait()
    assert (folder / "lock").exists()
    assert set(states(run(settings)).values()) == {"skipped"}


def test_a_model_that_changed_since_it_was_asked_for_is_refused(three: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    settings = settings_for(three, tmp_path / "out", model)
    shutil.rmtree(model)
    with pytest.raises(SkipsegError, match=r"does not exist|no model"):
        run(settings)
    write_tiny_model(model, ("one", "two"))
    with pytest.raises(SkipsegError, match="The weights of the model"):
        run(settings)


# ------------------------------------------------------------------------------------------------------------ scores


def test_scores_come_with_truth_of_the_same_name(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny, truth=str(tmp_path / "truth"))
    with pytest.raises(SkipsegError, match="does not exist"):
        run(settings)
    (tmp_path / "truth").mkdir()
    plain = settings_for(three, tmp_path / "out", tiny)
    (found,) = [row for row in run(plain).rows if row.relative == "a.tif"]
    binary = np.asarray(read_stack(found.outputs[1]).data)
    Image.fromarray(255 * binary).save(tmp_path / "truth" / "a.png")
    rows = {row.relative: row for row in run(settings).rows}
    assert rows["a.tif"].state == "skipped"
    assert rows["a.tif"].scores["membrane dice"] == 1
    assert rows["b.tif"].scores == {}
    assert rows["b.tif"].note.endswith("no truth of its name")
    half = binary.copy()
    half[: SIDE // 2] = 0
    Image.fromarray(255 * half).save(tmp_path / "truth" / "a.png")
    rows = {row.relative: row for row in run(settings).rows}
    assert rows["a.tif"].scores["membrane recall"] == 1
    assert 0 < rows["a.tif"].scores["membrane precision"] < 1


@pytest.mark.parametrize(("images", "truths"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_truth_whose_name_only_looks_the_same_is_found(tmp_path: Path, tiny: Path, images: str, truths: str) -> None:
    relative = "Zürich/café.tif"
    image, truth = (
        tmp_path / folder / unicodedata.normalize(form, relative)
        for folder, form in (("images", images), ("truth", truths))
    )
    write_image(image)
    truth.parent.mkdir(parents=True)
    lines = np.zeros((SIDE, SIDE), np.uint8)
    lines[::8] = 255
    Image.fromarray(lines).save(truth)
    settings = settings_for(tmp_path / "images", tmp_path / "out", tiny, truth=str(tmp_path / "truth"), recursive=True)
    (row,) = run(settings).rows
    assert "membrane dice" in row.scores


@pytest.mark.parametrize("capital", ["IMG_1.TIF", "Img_1.png"])
def test_a_truth_whose_name_has_other_capital_letters_is_found_where_none_is_exact(
    tmp_path: Path, tiny: Path, capital: str
) -> None:
    settings = settings_for(tmp_path, tmp_path / "out", tiny, truth=str(tmp_path / "truth"))
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / capital).touch()
    entry = BatchInput(str(tmp_path / "img_1.tif"), "img_1.tif", "img_1")
    assert find_truth_of(settings, entry) == tmp_path / "truth" / capital
    (tmp_path / "truth" / "img_1.bmp").touch()
    assert find_truth_of(settings, entry) == tmp_path / "truth" / "img_1.bmp"


def test_the_label_of_the_class_in_the_truth_can_be_named(three: Path, tmp_path: Path, tiny: Path) -> None:
    plain = run(settings_for(three / "a.tif", tmp_path / "out", tiny))
    binary = np.asarray(read_stack(plain.rows[0].outputs[1]).data)
    Image.fromarray(np.where(binary > 0, 0, 7).astype(np.uint8)).save(tmp_path / "inverted.png")
    Image.fromarray(np.where(binary > 0, 9, 7).astype(np.uint8)).save(tmp_path / "named.png")
    for truth, label, dice in (("inverted", 0, 1.0), ("inverted", None, 1.0), ("inverted", 7, 0.0), ("named", 9, 1.0)):
        told = {"truth": str(tmp_path / f"{truth}.png"), "truth_label": label}
        (row,) = run(settings_for(three / "a.tif", tmp_path / "out", tiny, **told)).rows
        assert (row.state, row.scores["membrane dice"]) == ("skipped", dice)


def test_a_truth_that_does_not_fit_is_no_failure_of_the_file(three: Path, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "truth").mkdir()
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "truth" / "a.png")
    for ending in ("png", "bmp"):
        Image.fromarray(np.eye(SIDE, dtype=np.uint8)).save(tmp_path / "truth" / f"b.{ending}")
    rows = {
        row.relative: row for row in run(settings_for(three, tmp_path / "o", tiny, truth=str(tmp_path / "truth"))).rows
    }
    assert [rows[name].state for name in ("a.tif", "b.tif")] == ["done", "done"]
    assert "Not scored" in rows["a.tif"].note
    assert "shape" in rows["a.tif"].note
    assert "could both belong to it" in rows["b.tif"].note


def test_each_class_has_its_scores(three: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "two", ("membrane", "vesicle"))
    truth = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
    (tmp_path / "truth").mkdir()
    Image.fromarray(truth).save(tmp_path / "truth" / "a.png")
    (row,) = run(settings_for(three / "a.tif", tmp_path / "out", model, truth=str(tmp_path / "truth" / "a.png"))).rows
    assert {"membrane dice", "vesicle dice"} <= set(row.scores)


# ----------------------------------------------------------------------------------------------------------- objects


def test_objects_are_found_and_measured(three: Path, tmp_path: Path, tiny: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    Image.fromarray(np.kron(np.arange(1, 17).reshape(4, 4), np.ones((10, 10))).astype(np.uint8)).save(truth / "a.png")
    settings = settings_for(three, tmp_path / "out", tiny, objects=ObjectOptions("components"), truth=str(truth))
    row = run(settings).rows[0]
    names = ["a_probability.tif", "a_binary.tif", "a_objects.tif", "a_objects.csv"]
    assert [Path(file).name for file in row.outputs] == names
    found = read_stack(row.outputs[2])
    mask = np.asarray(read_stack(row.outputs[1]).data)
    np.testing.assert_array_equal(np.asarray(found.data) > 0, mask > 0)
    table = Path(row.outputs[3]).read_text().splitlines()
    assert len(table) == np.asarray(found.data).max() + 1
    assert {"membrane dice", "adapted_rand_error"} <= set(row.scores)
    assert "Not scored" not in row.note
    told = read_recipe(row.outputs[2])
    assert told is not None
    assert (told["layer"], told["objects"]["method"]) == ("labels", "components")


def test_objects_are_not_scored_against_a_mask(three: Path, tmp_path: Path, tiny: Path) -> None:
    truth = tmp_path / "truth.png"
    Image.fromarray(np.where(np.arange(SIDE) % 8 > 2, 255, 0).astype(np.uint8)[None].repeat(SIDE, 0)).save(truth)
    options = ObjectOptions("components")
    (row,) = run(settings_for(three / "a.tif", tmp_path / "out", tiny, objects=options, truth=str(truth))).rows
    assert set(row.scores) == {f"membrane {name}" for name in ("dice", "iou", "precision", "recall")}
    assert "mask of one label: give instances" in row.note


def test_axes_are_those_of_files_with_as_many_dimensions(three: Path, tmp_path: Path, tiny: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE)).astype(np.uint8)
    tifffile.imwrite(three / "plain.tif", values, photometric="rgb", planarconfig="separate")
    result = run(settings_for(three, tmp_path / "out", tiny, axes="ZYX"))
    assert states(result) == {"a.tif": "done", "b.tif": "done", "plain.tif": "done"}
    axes = [read_stack(row.outputs[0]).space.axes for row in result.rows]
    assert axes == ["YX", "YX", "ZYX"]


def test_a_stack_that_was_saved_without_its_axes_is_truth_for_an_image_of_its_shape(tmp_path: Path, tiny: Path) -> None:
    write_image(tmp_path / "in" / "a.tif", 3, slices=4)
    labels = np.random.default_rng(0).integers(0, 5, (4, SIDE, SIDE)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "truth.tif", labels, photometric="rgb", planarconfig="separate")
    assert read_stack(tmp_path / "truth.tif").space.axes == "CYX"
    truth = str(tmp_path / "truth.tif")
    (row,) = run(settings_for(tmp_path / "in", tmp_path / "out", tiny, truth=truth)).rows
    assert ("Not scored" in row.note, "membrane dice" in row.scores) == (False, True)


def test_a_forgotten_option_is_told_by_the_runs_that_there_are(three: Path, tmp_path: Path, tiny: Path) -> None:
    first = run(settings_for(three, tmp_path / "out", tiny))
    with pytest.raises(SkipsegError, match=f"No run with this recipe .*, the runs there are {first.folder.name}"):
        run(settings_for(three, tmp_path / "out", tiny, threshold=0.25), retry=True)
    with pytest.raises(SkipsegError, match="Nothing failed"):
        run(settings_for(three, tmp_path / "out", tiny), retry=True)


def test_what_the_batch_waits_for_is_told_before_a_file_moves(three: Path, tmp_path: Path, tiny: Path) -> None:
    events = list(iter_batch(settings_for(three, tmp_path / "out", tiny)))
    assert isinstance(events[1], BatchWaits)
    assert events[1].message == "0 of 2 images: starting the network"
    assert not isinstance(events[-1], BatchWaits)


def test_progress_never_goes_back_where_objects_follow(three: Path, tmp_path: Path, tiny: Path) -> None:
    write_image(three / "deep" / "d.tif", 4, slices=6)
    settings = settings_for(three, tmp_path / "out", tiny, recursive=True, objects=ObjectOptions("watershed"))
    events = list(iter_batch(settings))
    done = [event.done for event in events]
    assert done == sorted(done)
    assert (done[0], events[-1].fraction) == (0, 1)


def test_where_objects_fail_the_segmentation_is_kept(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny, objects=ObjectOptions("components", class_name="cheese"))
    result = run(settings)
    assert set(states(result).values()) == {"failed"}
    assert "cheese" in result.rows[0].reason
    before = {file: file.stat().st_mtime_ns for file in result.folder.glob("*.tif")}
    assert len(before) == 4
    again = run(settings)
    assert set(states(again).values()) == {"failed"}
    assert before == {file: file.stat().st_mtime_ns for file in result.folder.glob("*.tif")}


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_each_file_of_a_batch_can_be_done_again_by_its_recipe(
    three: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tiny.parent))
    taken = {"axes": "TYX", "voxel_size": (1.0, 30.0, 30.0), "unit": "nm"}
    options = ObjectOptions("watershed", smallest=3)
    settings = settings_for(three / "deep", tmp_path / "out", tiny, form=form, objects=options, **taken)
    folder = run(settings).folder
    whole = {name: content for name, content in results_in(folder).items() if name != "chosen.json"}
    ending = "tif" if form == "tiff" else "ome.zarr"
    for name in ("c_recipe.json", f"c_objects.{ending}", f"c_probability.{ending}"):
        prepared = prepare_repeat(read_recipe_file(folder / name), near=folder)
        assert prepared.warnings == ()
        run_to_end(iter_repeat(prepared, tmp_path / name))
        assert results_in(tmp_path / name) == whole


def test_objects_in_a_box_are_measured_there_also_when_the_recipe_is_done_again(
    three: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tiny.parent))
    settings = settings_for(
        three / "deep", tmp_path / "out", tiny, box="y=8:40,x=4:900", objects=ObjectOptions("components")
    )
    result = run(settings)
    assert states(result) == {"c.ome.tif": "done"}
    grey = read_stack(three / "deep" / "c.ome.tif").data[...][..., 8:40, 4:]
    labels = read_stack(result.folder / "c_objects.tif").data[...]
    lines = (result.folder / "c_objects.csv").read_text(ENCODING).splitlines()
    first = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert float(first["intensity mean"]) == pytest.approx(grey.reshape(labels.shape)[labels == 1].mean(), rel=1e-4)
    assert len(list(result.folder.rglob("*.jpg"))) == 1
    assert not list(result.folder.rglob("*.unfinished"))
    run_to_end(
        iter_repeat(
            prepare_repeat(read_recipe_file(result.folder / "c_recipe.json"), near=result.folder), tmp_path / "r"
        )
    )
    assert (tmp_path / "r" / "c_objects.csv").read_text(ENCODING).splitlines() == lines


# ---------------------------------------------------------------------------------------------------------- settings


def test_settings_survive_json_and_refuse_unknown_keys(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three, tmp_path / "out", tiny, voxel_size=(1.0, 2.0, 3.0), unit="nm", recursive=True)
    text = batch_settings_to_json(settings)
    assert batch_settings_from_json(text) == settings
    result = run(settings)
    assert batch_settings_from_json((result.folder / "batch.json").read_text()) == settings
    with pytest.raises(SkipsegError, match="strange"):
        batch_settings_from_json(text.replace('"inputs"', '"strange": 1,\n "inputs"'))
    with pytest.raises(SkipsegError, match="format version"):
        batch_settings_from_json(text.replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(SkipsegError, match="are no JSON"):
        batch_settings_from_json("{")
    with pytest.raises(SkipsegError, match="A voxel size needs its unit"):
        replace(settings, unit="")


def test_a_probability_is_that_of_the_image_in_memory(three: Path, tmp_path: Path, tiny: Path) -> None:
    settings = settings_for(three / "a.tif", tmp_path / "out", tiny, depth="float32")
    (row,) = run(settings).rows
    alone = run_to_end(iter_predict(RunSpec(read_stack(three / "a.tif"), read_model(tiny), settings.request.options)))
    np.testing.assert_array_equal(np.asarray(read_stack(row.outputs[0]).data), alone.probability)
