"""The corrections of one image: what is written is kept, whatever happens and whenever."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from full_disk import full_disk

from napari_skipseg import durable
from napari_skipseg.corrections import journal, store
from napari_skipseg.corrections.saved import load_saved
from napari_skipseg.corrections.store import Corrections, CorrectionSummary, open_corrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import holds_labels, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

MITO = CorrectionClass("mitochondrion", 2, "#ff0000")


def stack(*shape: int, axes: str = "ZYX") -> Stack:
    values = np.random.default_rng(4).integers(0, 256, shape or (3, 300, 400)).astype(np.uint8)
    return Stack(values, Space(axes, (40, 5, 5), "nm", (10, 20, 30)), "cells")


@pytest.fixture
def image() -> Stack:
    return stack()


def kill(corrections: Corrections) -> None:
    """Leave the corrections as a kill does, with all that is on disk."""
    assert corrections.flush(5)
    for array in (corrections.strokes, corrections.reviewed):
        array.on_write = None
    corrections._journal.close()
    handle, corrections._lock._handle = corrections._lock._handle, None
    assert handle is not None
    handle.close()


def test_what_was_painted_is_there_the_next_time(image: Stack, folder: Path) -> None:
    corrections = open_corrections(image)
    assert (corrections.is_empty, corrections.was_interrupted, corrections.fault) == (True, False, "")
    assert (corrections.strokes.shape, corrections.subject.space.axes) == ((3, 300, 400), "ZYX")
    corrections.strokes[1, 10:290, 5:395] = 2
    corrections.review((slice(2, 3), slice(0, 300), slice(0, 400)), np.ones((300, 400), np.uint8))
    expected = np.asarray(corrections.strokes), np.asarray(corrections.reviewed)
    assert corrections.close()
    assert corrections.close()
    again = open_corrections(image)
    assert (again.is_empty, again.was_interrupted) == (False, False)
    np.testing.assert_array_equal(again.strokes, expected[0])
    np.testing.assert_array_equal(again.reviewed, expected[1])
    again.close()
    assert folder.joinpath(again.subject.key) == again.folder


def test_a_kill_loses_nothing_that_was_on_disk(image: Stack) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, :50] = 3
    assert corrections.checkpoint()
    corrections.strokes[0, 40:60] = 1
    corrections.strokes[0, 45, :] = 0
    expected = np.asarray(corrections.strokes)
    kill(corrections)
    again = open_corrections(image)
    assert again.was_interrupted
    np.testing.assert_array_equal(again.strokes, expected)
    kill(again)
    once_more = open_corrections(image)
    np.testing.assert_array_equal(once_more.strokes, expected)
    once_more.close()
    last = open_corrections(image)
    assert not last.was_interrupted
    np.testing.assert_array_equal(last.strokes, expected)
    last.close()


@pytest.mark.parametrize("leave", [kill, Corrections.close])
def test_the_last_label_is_known_the_next_time(image: Stack, leave: Callable[[Corrections], Any]) -> None:
    corrections = open_corrections(image)
    assert corrections.last_label() is None
    corrections.strokes[2, 100:103, 250:253] = 2
    corrections.review((slice(0, 1), slice(20, 21), slice(30, 31)), np.ones((1, 1), np.uint8))
    assert corrections.last_label() == (0, 20, 30)
    corrections.strokes[1, 4, 300] = 1
    corrections.strokes[1, 4, 300] = 0
    leave(corrections)
    again = open_corrections(image)
    assert again.last_label() == (0, 20, 30)  # where nothing is left of the last edit, any label will do
    again.strokes[1, 200:203, 8:11] = 3
    leave(again)
    last = open_corrections(image)
    assert last.last_label() == (1, 201, 9)
    assert last.strokes[last.last_label()] == 3
    last.close()


def test_a_kill_at_any_step_of_a_checkpoint_loses_nothing(
    image: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each change of the disk the folder is copied: that is what a kill at this moment would leave."""
    monkeypatch.setattr(store, "WRITERS", 1)
    corrections = open_corrections(image)
    corrections.strokes[:, 100:280, 100:300] = 2
    corrections.checkpoint()
    corrections.strokes[0] = 0  # files of chunks go
    corrections.strokes[1, 120:130] = 3  # and are replaced
    corrections.strokes[2, 290:] = 4  # and come
    corrections.reviewed[2, :10] = 1
    corrections.flush(5)
    copies: list[Path] = []

    def copying(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*given: Any, **named: Any) -> Any:
            copies.append(tmp_path / "copies" / str(len(copies)))
            shutil.copytree(corrections.folder, copies[-1])
            return real(*given, **named)

        return change

    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (Path, "unlink"), (os, "fsync"), (durable, "sync_folder")):
            patch.setattr(owner, name, copying(getattr(owner, name)))
        assert corrections.checkpoint()
    assert len(copies) > 20
    for copy in copies:
        saved = load_saved(copy, (3, 300, 400))
        np.testing.assert_array_equal(saved.strokes, corrections.strokes)
        np.testing.assert_array_equal(saved.reviewed, corrections.reviewed)
    corrections.close()


def test_chunks_are_on_disk_before_their_journal_goes(image: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, :10, :10] = 2
    corrections.flush(5)
    steps: list[str] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*given: Any, **named: Any) -> Any:
            steps.append(name)
            return real(*given, **named)

        return change

    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (Path, "unlink"), (os, "fsync")):
            patch.setattr(owner, name, noting(name, getattr(owner, name)))
        corrections.checkpoint()
    assert steps.index("fsync") < steps.index("replace")
    renamed = steps.index("replace")
    assert "fsync" in steps[renamed:-2]
    assert steps[-2:] == ["unlink", "fsync"]
    corrections.close()


def test_strokes_during_a_checkpoint_are_kept(image: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    corrections = open_corrections(image)
    corrections.strokes[:] = 1
    real = store.CorrectionChunkFiles.write

    def slowly(self: Any, place: Any, values: Any) -> None:
        time.sleep(0.02)
        real(self, place, values)

    monkeypatch.setattr(store.CorrectionChunkFiles, "write", slowly)
    work = threading.Thread(target=corrections.checkpoint)
    work.start()
    for number in range(40):
        corrections.strokes[number % 3, number * 5 : number * 5 + 9, 250:260] = 2 + number % 5
        time.sleep(0.002)
    work.join()
    expected = np.asarray(corrections.strokes)
    kill(corrections)
    again = open_corrections(image)
    np.testing.assert_array_equal(again.strokes, expected)
    again.close()


def test_a_large_journal_goes_into_the_chunks_by_itself(image: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGE_LABELS", 2000)
    corrections = open_corrections(image)
    noise = np.random.default_rng(1)
    end = time.monotonic() + 120
    while not any(file.name > "journal-00000003" for file in journal.journals(corrections.folder)):
        assert time.monotonic() < end
        corrections.strokes[0, 50:150, 50:150] = noise.integers(0, 5, (100, 100))
        corrections.flush(5)
    assert len(journal.journals(corrections.folder)) <= 3
    assert list((corrections.folder / "strokes.zarr").glob("0/c/0/0/*"))
    corrections.close()


def test_a_full_disk_keeps_what_is_in_memory_until_there_is_space(
    image: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, :10] = 2
    corrections.flush(5)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        corrections.strokes[1, :10] = 3
        assert not corrections.flush(5)
        assert "No space left on device" in corrections.fault
        assert not corrections.checkpoint()
        with pytest.raises(FileError, match="There is no space left"):
            corrections.name_classes((MITO,))
    assert corrections.flush(5)
    corrections.strokes[2, :10] = 4
    assert corrections.checkpoint()
    assert corrections.fault == ""
    expected = np.asarray(corrections.strokes)
    kill(corrections)
    again = open_corrections(image)
    np.testing.assert_array_equal(again.strokes, expected)
    again.close()


def test_a_full_disk_at_a_checkpoint_keeps_the_journal(image: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, :10] = 2

    with monkeypatch.context() as patch:
        patch.setattr(store.CorrectionChunkFiles, "write", full_disk)
        assert not corrections.checkpoint()
        assert "free some space" in corrections.fault
    kill(corrections)
    again = open_corrections(image)
    assert again.strokes[0, 5, 5] == 2
    assert again.close()


def test_a_review_is_taken_back(image: Stack) -> None:
    corrections = open_corrections(image)
    whole = (slice(1, 2), slice(0, 300), slice(0, 400))
    part = (slice(1, 2), slice(20, 40), slice(0, 400))
    corrections.review(whole, np.ones((300, 400), np.uint8))
    corrections.review(part, np.full((1, 20, 400), 2))
    assert corrections.summary() == CorrectionSummary({1: 280 * 400, 2: 20 * 400}, 1, 300 * 400)
    assert corrections.take_back_review() == part
    assert corrections.summary() == CorrectionSummary({1: 300 * 400}, 1, 300 * 400)
    assert corrections.take_back_review() == whole
    assert corrections.take_back_review() is None
    assert corrections.is_empty
    with pytest.raises(ValueError, match="review"):
        corrections.review(whole, np.ones((200, 400)))
    corrections.close()


def test_the_summary_counts_what_trains(image: Stack) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, :10, :10] = 2
    corrections.strokes[2, :5, :10] = 1
    corrections.review((slice(0, 1), slice(0, 20), slice(0, 10)), np.ones((20, 10), np.uint8))
    expected = CorrectionSummary({1: 50 + 100, 2: 100}, 2, 200)
    assert corrections.summary() == expected
    version = corrections.version
    corrections.close()
    again = open_corrections(image)
    assert again.summary() == expected
    assert again.strokes.held_bytes == 0
    again.strokes[0, :10, :10] = 0
    assert again.summary() == CorrectionSummary({1: 250}, 2, 200)
    kill(again)
    last = open_corrections(image)
    assert last.summary() == CorrectionSummary({1: 250}, 2, 200)
    last.close()
    assert version > 0


def test_classes_are_saved_at_once(image: Stack) -> None:
    corrections = open_corrections(image)
    corrections.name_classes((MITO, CorrectionClass("vesicle", 3, "#00ff00")))
    kill(corrections)
    again = open_corrections(image)
    assert [one.name for one in again.classes] == ["mitochondrion", "vesicle"]
    with pytest.raises(InputError, match="same"):
        again.name_classes((MITO, replace(MITO, name="vesicle")))
    again.close()


def test_a_snapshot_is_what_trains_and_has_only_what_there_is(image: Stack, tmp_path: Path) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, 5:20, 300:350] = 2
    corrections.review((slice(0, 1), slice(0, 10), slice(0, 400)), np.ones((10, 400)))
    path, strokes = corrections.snapshot(tmp_path / "labels")
    found = read_stack(path)
    target = np.where(np.asarray(corrections.strokes) > 0, corrections.strokes, corrections.reviewed)
    np.testing.assert_array_equal(found.data[...], target)
    assert (found.space.axes, found.space.voxel_size, found.space.unit, found.space.origin) == (
        "ZYX",
        (40, 5, 5),
        "nm",
        (10, 20, 30),
    )
    assert holds_labels(path)
    assert len(list(path.glob("0/c/*/*/*"))) == 2
    np.testing.assert_array_equal(read_stack(strokes).data[...], corrections.strokes)
    assert len(list(strokes.glob("0/c/*/*/*"))) == 1
    corrections.strokes[0] = 0
    corrections.reviewed[0] = 0
    corrections.strokes[2, 0, 0] = 1
    assert corrections.snapshot(path) == (path, None)
    assert [file.relative_to(path).as_posix() for file in path.glob("0/c/*/*/*")] == ["0/c/2/0/0"]
    corrections.close()


def test_zarr_reads_the_arrays_on_disk(image: Stack) -> None:
    corrections = open_corrections(image)
    corrections.strokes[1, 250:270, 250:270] = 4
    expected = np.asarray(corrections.strokes)
    corrections.close()
    array = zarr.open_array(corrections.folder / "strokes.zarr" / "0", mode="r")
    np.testing.assert_array_equal(array[...], expected)
    assert array.metadata.dimension_names == ("z", "y", "x")


@pytest.mark.parametrize(("shape", "axes"), [((300, 400), "YX"), ((300, 400, 3), "YXC"), ((2, 3, 2, 30, 40), "TZCYX")])
def test_channels_are_left_out(shape: tuple[int, ...], axes: str, tmp_path: Path) -> None:
    corrections = open_corrections(stack(*shape, axes=axes))
    space = tuple(n for n, axis in zip(shape, axes, strict=True) if axis != "C")
    assert (corrections.strokes.shape, corrections.subject.space.axes) == (space, axes.replace("C", ""))
    corrections.strokes[..., 3, 4] = 2
    found = read_stack(corrections.snapshot(tmp_path / "labels").labels)
    assert (found.shape, found.space.axes) == (space, axes.replace("C", ""))
    corrections.close()


def test_the_same_content_from_a_file_has_the_same_corrections(image: Stack, tmp_path: Path) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, 0, 0] = 2
    corrections.close()
    write_ome_tiff(tmp_path / "cells.ome.tif", image.data, Space("ZYX", (40, 5, 5), "nm"))
    again = open_corrections(read_stack(tmp_path / "cells.ome.tif"))
    assert again.strokes[0, 0, 0] == 2
    assert again.subject.file == str(tmp_path / "cells.ome.tif")
    assert again.subject.file_fingerprint["name"] == "cells.ome.tif"
    again.close()
    in_memory = open_corrections(image)
    assert in_memory.subject.file == str(tmp_path / "cells.ome.tif")
    in_memory.close()


def test_two_windows_of_one_process_are_refused_too(image: Stack) -> None:
    first = open_corrections(image)
    with pytest.raises(FileError, match="'cells' is being corrected in another window"):
        open_corrections(image)
    first.strokes[0, 0, 0] = 2
    assert first.close()


def test_damaged_notes_do_not_hide_the_strokes(image: Stack) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, 0, 0] = 2
    corrections.close()
    for content in (b"", b"{}", b'{"subject": 3', json.dumps({"subject": {}, "classes": [], "changed": 0}).encode()):
        (corrections.folder / "corrections.json").write_bytes(content)
        again = open_corrections(image)
        assert again.strokes[0, 0, 0] == 2
        again.close()


def test_a_damaged_chunk_is_told(image: Stack) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, 0, 0] = 2
    corrections.strokes[1, 0, 0] = 3
    corrections.close()
    file = corrections.folder / "strokes.zarr" / "0" / "c" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-3])
    again = open_corrections(image)
    with pytest.raises(FileError, match="damaged"):
        again.strokes[0, 0, 0]
    assert again.strokes[1, 0, 0] == 3
    again.close()


def test_what_a_killed_process_was_writing_is_removed(image: Stack) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, 0, 0] = 2
    corrections.close()
    half = corrections.folder / "strokes.zarr" / "0" / "c" / "0" / "0" / ".skipseg-0123abcd.part"
    half.write_bytes(b"half")
    again = open_corrections(image)
    assert not half.exists()
    assert again.strokes.chunk_numbers() == {(0, 0, 0)}
    again.close()
