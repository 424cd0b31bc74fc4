"""The journal: in order, on disk within a moment, and read up to the first byte that is wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_disk import full_disk

from napari_skipseg.corrections import journal
from napari_skipseg.corrections.journal import Journal, JournalEntry, journals, read_journal


def values_of(number: int) -> Any:
    return np.full((1, 2, 3), number, np.uint8)


def read_all(folder: Path) -> list[JournalEntry]:
    return [entry for file in journals(folder) for entry in read_journal(file)]


def numbers(folder: Path) -> list[int]:
    return [int(entry.values[0, 0, 0]) for entry in read_all(folder)]


@pytest.fixture
def written() -> list[int]:
    return []


def opened(folder: Path) -> Journal:
    return Journal(folder, lambda size: None)


def test_what_was_noted_is_read_again_in_its_order(tmp_path: Path) -> None:
    notes = opened(tmp_path)
    notes.append(0, (1, 2, 3), values_of(7))
    notes.append(1, (4, 2**40, 0), np.arange(20, dtype=np.uint8).reshape(1, 4, 5))
    assert notes.close()
    first, second = read_all(tmp_path)
    assert (first.array, first.corner, first.values.tolist()) == (0, (1, 2, 3), values_of(7).tolist())
    assert (second.array, second.corner) == (1, (4, 2**40, 0))
    np.testing.assert_array_equal(second.values, np.arange(20).reshape(1, 4, 5))


def test_it_comes_to_disk_without_being_asked(tmp_path: Path) -> None:
    notes = opened(tmp_path)
    notes.append(0, (0, 0, 0), values_of(1))
    end = time.monotonic() + 60
    while numbers(tmp_path) != [1]:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert notes.flush(5)
    notes.close()


def test_nothing_is_left_where_nothing_was_noted(tmp_path: Path) -> None:
    notes = opened(tmp_path)
    assert notes.flush(1)
    assert notes.close()
    assert list(tmp_path.iterdir()) == []


def test_a_new_session_begins_a_new_file(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        notes = opened(tmp_path)
        notes.append(0, (0, 0, 0), values_of(number))
        notes.close()
    assert len(journals(tmp_path)) == 3
    assert numbers(tmp_path) == [1, 2, 3]


def test_files_go_up_to_a_number(tmp_path: Path) -> None:
    notes = opened(tmp_path)
    notes.append(0, (0, 0, 0), values_of(1))
    notes.flush(5)
    number = notes.begin_new()
    notes.remove_before(number)
    assert numbers(tmp_path) == []
    notes.append(0, (0, 0, 0), values_of(2))
    notes.flush(5)
    notes.remove_before(number)
    notes.append(0, (0, 0, 0), values_of(3))
    notes.close()
    assert numbers(tmp_path) == [2, 3]


def make_file(folder: Path) -> bytes:
    notes = opened(folder)
    for number in (1, 2, 3):
        notes.append(0, (number, 0, 0), values_of(number))
    notes.close()
    (file,) = journals(folder)
    return file.read_bytes()


def test_a_file_cut_at_any_byte_gives_what_is_whole(tmp_path: Path) -> None:
    content = make_file(tmp_path)
    (file,) = journals(tmp_path)
    found = []
    for length in range(len(content) + 1):
        file.write_bytes(content[:length])
        found.append(numbers(tmp_path))
    assert found == sorted(found)
    assert {len(numbers) for numbers in found} == {0, 1, 2, 3}
    assert all(numbers == [1, 2, 3][: len(numbers)] for numbers in found)


def test_a_file_with_any_wrong_byte_gives_what_comes_before(tmp_path: Path) -> None:
    content = make_file(tmp_path)
    (file,) = journals(tmp_path)
    for place in range(len(content)):
        wrong = bytearray(content)
        wrong[place] ^= 0xFF
        file.write_bytes(wrong)
        assert numbers(tmp_path) in ([], [1], [1, 2])


def test_a_torn_file_does_not_hide_those_after_it(tmp_path: Path) -> None:
    content = make_file(tmp_path)
    (file,) = journals(tmp_path)
    file.write_bytes(content[:-1])
    notes = opened(tmp_path)
    notes.append(0, (0, 0, 0), values_of(9))
    notes.close()
    assert numbers(tmp_path) == [1, 2, 9]


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RETRY", 0.05)
    notes = opened(tmp_path)
    notes.append(0, (0, 0, 0), values_of(1))
    assert notes.flush(5)
    real = journal._sync

    monkeypatch.setattr(journal, "_sync", full_disk)
    notes.append(0, (0, 0, 0), values_of(2))
    assert not notes.flush(5)
    assert notes.fault == (
        f"The corrections cannot be written to '{tmp_path}' (No space left on device): free some space there; they "
        "stay in memory, and are written as soon as that is possible."
    )
    notes.append(0, (0, 0, 0), values_of(3))
    time.sleep(0.2)
    monkeypatch.setattr(journal, "_sync", real)
    notes.append(0, (0, 0, 0), values_of(4))
    end = time.monotonic() + 60
    while notes.fault or not notes.flush(1):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert notes.close()
    found = numbers(tmp_path)
    assert [number for place, number in enumerate(found) if number not in found[:place]] == [1, 2, 3, 4]
    assert found[-3:] == [2, 3, 4]


def test_a_disk_that_stays_full_is_told_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_sync", full_disk)
    notes = opened(tmp_path)
    notes.append(0, (0, 0, 0), values_of(1))
    assert not notes.close()
