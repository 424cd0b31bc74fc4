"""The journal of edits: small, on disk within a second, the same after restarts and kills, never of another image."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import editor
import numpy as np
import pytest
from grid import cell, labels_of, random_edit, regions, row_of_cells
from killed_process import longest_pause, opened_elsewhere, work_and_kill
from numpy.typing import NDArray

from napari_skipseg.corrections import journal
from napari_skipseg.corrections.journal import journals
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.proofread.edits import MOST_SEEDS, Delete, EditRefusedError, Merge, Split, thin_out
from napari_skipseg.proofread.exchange import read_edits_file, write_edits
from napari_skipseg.proofread.session import EditSession
from napari_skipseg.proofread.store import EditStore, check_same_image, edits_record, find_edits, folder_of, read_edits


def open_row(values: NDArray[np.float32] | None = None) -> EditSession:
    values = row_of_cells() if values is None else values
    record = edits_record(Stack(values, Space("ZYX"), "row"))
    return EditSession(regions(values), EditStore(folder_of(record), record))


def test_edits_are_undone_and_redone_over_restarts() -> None:
    session = open_row()
    states = [labels_of(session.objects)]
    for edit in (Merge((cell(0), cell(1))), Delete((cell(3),)), Split(((cell(1),), (cell(2),)))):
        session.do(edit)
        states.append(labels_of(session.objects))
    session.close()
    for now in (2, 1, 0):
        session = open_row()
        np.testing.assert_array_equal(labels_of(session.objects), states[now + 1])
        assert session.undo() is not None
        np.testing.assert_array_equal(labels_of(session.objects), states[now])
        session.close()
    session = open_row()
    assert session.undo() is None
    for now in (1, 2):
        assert session.redo() is not None
        np.testing.assert_array_equal(labels_of(session.objects), states[now])
    session.do(Merge((cell(0), cell(2))) if session.objects.object_at(cell(0)) != session.objects.object_at(cell(2))
               else Delete((cell(0),)))  # fmt: skip
    assert session.redo() is None, "what was undone before another edit is gone"
    session.close()


def test_random_edits_are_the_same_after_each_restart() -> None:
    chance, done = np.random.default_rng(11), 0
    values = row_of_cells((0.9, 0.4, 0.7, 0.3, 0.55, 0.6), 4)
    session = open_row(values)
    while done < 60:
        try:
            way = chance.random()
            if way < 0.2:
                session.undo()
            elif way < 0.35:
                session.redo()
            else:
                session.do(random_edit(session.objects, chance))
        except EditRefusedError:
            continue
        done += 1
        if done % 15 == 0:
            before, count = labels_of(session.objects), len(session.store.done)
            assert session.close()
            session = open_row(values)
            assert session.refused == []
            assert len(session.store.done) == count
            np.testing.assert_array_equal(labels_of(session.objects), before)
    session.close()


def test_a_merge_a_split_and_a_deletion_are_small_and_on_disk_within_a_second() -> None:
    session = open_row()
    line = [(0, 1, y, x) for y in range(14) for x in range(0, 48, 3)]
    seeds = thin_out([(1_000, 10_000, 10_000 + 7 * n, 20_000 + 3 * n) for n in range(300)])
    assert len(seeds) == MOST_SEEDS
    size = sum(file.stat().st_size for file in journals(session.store.folder))
    for edit in (Merge((cell(0), cell(1))), Split((tuple(thin_out(line[:90])), (cell(2),))), Delete((cell(3),))):
        begun = time.monotonic()
        session.do(edit) if not isinstance(edit, Split) else session.store.add(replace(edit, sides=(seeds, seeds)))
        assert session.store.flush(5)
        assert time.monotonic() - begun < 1
        now = sum(file.stat().st_size for file in journals(session.store.folder))
        assert 0 < now - size <= 1000
        size = now
    session.close()


def test_a_full_disk_loses_no_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_row()
    session.do(Merge((cell(0), cell(1))))
    assert session.store.flush()
    full = [True]

    def fail_after_writing(handle: object) -> None:
        handle.flush()  # type: ignore[attr-defined]  # the entry is in the file, but the disk says that it is not
        if full[0]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_sync", fail_after_writing)
    monkeypatch.setattr(journal, "RETRY", 0.05)
    session.do(Delete((cell(3),)))
    session.undo()
    assert not session.store.flush(0.5)
    assert "The edits cannot be written" in session.store.fault
    assert "free some space" in session.store.fault
    full[0] = False
    assert session.store.flush(5)
    assert session.store.fault == ""
    session.close()
    session = open_row()
    assert [each.edit for each in session.store.done] == [Merge((cell(0), cell(1)))]
    assert [each.edit for each in session.store.undone] == [Delete((cell(3),))]
    session.close()


def test_a_torn_entry_is_left_out_and_those_before_it_stay() -> None:
    session = open_row()
    session.do(Merge((cell(0), cell(1))))
    session.do(Delete((cell(3),)))
    session.close()
    (file,) = journals(session.store.folder)
    file.write_bytes(file.read_bytes()[:-3])
    session = open_row()
    assert [each.edit for each in session.store.done] == [Merge((cell(0), cell(1)))]
    session.do(Delete((cell(0),)))
    session.close()
    assert len(read_edits(session.store.folder)[0]) == 2


def test_edits_without_sense_stay_stored_for_other_options() -> None:
    session = open_row()
    session.do(Split(((cell(1),), (cell(2),))))
    session.do(Delete((cell(3),)))
    session.close()
    from grid import CELLS

    fine = replace(CELLS, merge=0.3)
    record = session.store.record
    other = EditSession(regions(row_of_cells(), fine), EditStore(folder_of(record), record))
    assert [(each.number, each.edit.kind) for each in other.refused] == [(1, "split")]
    assert other.undo() is not None
    assert other.objects.object_at(cell(3)) > 0, "the last edit that was applied is undone"
    assert other.undo() is None
    other.close()
    session = open_row()
    assert session.objects.object_at(cell(1)) != session.objects.object_at(cell(2))
    session.close()


def wrong(**changes: object) -> Stack:
    values = np.zeros((3, 14, 48), np.float32)
    return replace(Stack(values, Space("ZYX"), "row"), **changes)


@pytest.mark.parametrize(
    ("stack", "class_name", "why"),
    [
        (wrong(data=np.zeros((3, 14, 40), np.float32)), "", "shape"),
        (wrong(space=Space("ZYX", (40, 4, 4), "nm")), "", "voxel size"),
        (wrong(), "vesicle", "class 'mitochondrion'"),
    ],
)
def test_edits_of_another_image_are_refused(stack: Stack, class_name: str, why: str) -> None:
    mine = edits_record(wrong(), "mitochondrion")
    check_same_image(mine, mine)
    with pytest.raises(InputError, match=why):
        check_same_image(edits_record(stack, class_name), mine)


def test_the_edits_of_an_image_with_another_voxel_size_do_not_open(edits_place: Path) -> None:
    open_row().close()
    record = edits_record(Stack(row_of_cells(), Space("ZYX", (2, 1, 1)), "row"))
    with pytest.raises(InputError, match="set the voxel size back"):
        EditStore(folder_of(record), record)
    open_row().close()  # the lock was released


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_says_so(edits_place: Path) -> None:
    edits_place.mkdir()
    edits_place.chmod(0o500)
    with pytest.raises(FileError):
        open_row()


def test_a_folder_that_cannot_be_made_is_a_sentence(edits_place: Path) -> None:
    edits_place.write_text("a file is in its place")
    with pytest.raises(FileError, match="edits"):
        open_row()


def test_edits_go_out_into_a_file_and_in_again(tmp_path: Path) -> None:
    session = open_row()
    edits = (Merge((cell(0), cell(1))), Delete((cell(3),)))
    for edit in edits:
        session.do(edit)
    session.close()
    path = write_edits(tmp_path / "edits.json", session.store.record, edits)
    found = read_edits_file(path)
    assert (found.record, found.edits) == (session.store.record, edits)
    (listed,) = find_edits()
    assert (listed.count, listed.is_open, listed.record.subject.name) == (2, False, "row")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": "napari-skipseg edits 1"}',
        '{"format": "napari-skipseg edits 1", "of": 1, "edits": []}',
        "\0\0",
        "[" * 100_000,
    ],
)
def test_a_file_that_holds_no_edits_is_a_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(content)
    with pytest.raises(FileError, match="holds no edits"):
        read_edits_file(path)


def test_an_unknown_edit_in_a_file_is_a_sentence(tmp_path: Path) -> None:
    record = edits_record(wrong())
    path = write_edits(tmp_path / "edits.json", record, [Delete((cell(0),))])
    found = json.loads(path.read_text())
    for bad in ({"kind": "explode"}, {"kind": "delete", "at": [[1, 2]]}, {"kind": "delete", "at": [], "more": 1}, 7):
        path.write_text(json.dumps({**found, "edits": [bad]}))
        with pytest.raises(FileError, match="holds no edits"):
            read_edits_file(path)


def edit_and_kill(seed: int, seconds: float) -> tuple[list[tuple[float, int, int]], float]:
    """Return when each act was done, with the count of edits and their hash; and when the kill came."""
    lines, killed = work_and_kill(editor.__file__, [str(seed)], seconds)
    return [(float(moment), int(count), int(facts)) for _, moment, count, facts in lines], killed


def kill_often(seeds: range, longest: float) -> None:
    """Kill an editor again and again; all acts that are older than a second are there, and the store opens."""
    chance = random.Random(seeds.start)
    folder = folder_of(edits_record(editor.labels()))
    for seed in seeds:
        acts, killed = edit_and_kill(seed, chance.uniform(0.0, longest))
        done, _, _ = read_edits(folder)
        numbers = tuple(each.number for each in done)
        found = [
            place for place, (_, count, facts) in enumerate(acts) if (count, facts) == (len(numbers), hash(numbers))
        ]
        pause = longest_pause([moment for moment, _, _ in acts], killed)
        old = [place for place, (moment, _, _) in enumerate(acts) if moment < killed - 1 - pause]
        # the last act may be on disk although it was not printed any more
        assert found or not old or len(numbers) in (acts[-1][1] - 1, acts[-1][1] + 1), f"kill {seed}"
        if old and found:
            assert found[-1] >= old[-1], f"after kill {seed} an edit older than a second is gone"
    session = editor.open_session()
    assert session.refused == []
    assert len(session.store.done) == len(read_edits(folder)[0])
    session.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.timeout(600)
def test_kills_lose_no_edit_older_than_a_second() -> None:
    kill_often(range(6), 1.5)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.timeout(3600)
def test_five_hundred_kills_lose_no_edit_older_than_a_second(edits_place: Path) -> None:
    for start in range(0, 500, 25):  # 25 to a store: each start does all its edits again
        kill_often(range(start, start + 25), 2.0)
        shutil.rmtree(edits_place)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_second_window_is_refused() -> None:
    with opened_elsewhere(editor.__file__) as holder:
        with pytest.raises(FileError, match=f"edited in another window .process {holder.pid}."):
            editor.open_session()
        assert find_edits()[0].is_open
        holder.kill()
        holder.wait()
    editor.open_session().close()
