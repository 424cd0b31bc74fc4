"""The corrections on this computer: found, told apart, removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from napari_skipseg.corrections.catalog import (
    CORRECTIONS_VARIABLE,
    corrections_folder,
    find_by_file,
    find_corrections,
    find_for,
    remove,
)
from napari_skipseg.corrections.store import open_corrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.identity import identify
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack


def stack(seed: int, name: str = "cells") -> Stack:
    values = np.random.default_rng(seed).integers(0, 256, (2, 30, 40)).astype(np.uint8)
    return Stack(values, Space("ZYX", (40, 5, 5), "nm"), name=name)


def paint(image: Stack, value: int = 2) -> None:
    corrections = open_corrections(image)
    corrections.strokes[0, 3:9, 3:9] = value
    corrections.close()


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert corrections_folder() == folder
    monkeypatch.delenv(CORRECTIONS_VARIABLE)
    assert corrections_folder().parts[-2:] == ("napari-skipseg", "corrections")


def test_where_there_are_none_none_are_found(folder: Path) -> None:
    assert find_corrections() == ()
    assert find_for("0123") is None
    assert find_by_file("cells.tif") is None
    assert not folder.exists()


def test_those_changed_last_come_first(folder: Path) -> None:
    for seed, name in enumerate(("first", "second", "third")):
        paint(stack(seed, name))
        time.sleep(0.01)
    paint(stack(0, "first"), 3)
    (folder / "something else").mkdir()
    (folder / "file").write_text("")
    assert [found.subject.name for found in find_corrections()] == ["first", "third", "second"]
    assert abs(find_corrections()[0].changed - time.time()) < 60


def test_one_is_found_by_its_image() -> None:
    corrections = open_corrections(stack(1))
    corrections.name_classes((CorrectionClass("mitochondrion", 2, "#ff0000"),))
    found = find_for(identify(stack(1)))
    assert found is not None
    assert (found.is_open, found.is_empty, found.was_interrupted) == (True, True, False)
    corrections.strokes[0, 0, 0] = 2
    corrections.flush()
    corrections.close()
    found = find_for(identify(stack(1)))
    assert found is not None
    assert (found.is_open, found.is_empty, found.was_interrupted) == (False, False, False)
    assert [one.name for one in found.classes] == ["mitochondrion"]
    assert found.subject == corrections.subject
    assert find_for(identify(stack(2))) is None


def test_strokes_that_are_only_in_the_journal_count() -> None:
    corrections = open_corrections(stack(1))
    corrections.strokes[0, 0, 0] = 2
    corrections.flush()
    assert not find_corrections()[0].is_empty
    corrections.close()


def test_a_file_that_was_changed_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cells.tif"
    write_ome_tiff(path, stack(1).data, Space("ZYX", (40, 5, 5), "nm"))
    paint(read_stack(path))
    write_ome_tiff(path, stack(2).data, Space("ZYX", (40, 5, 5), "nm"))
    assert find_for(identify(read_stack(path))) is None
    found = find_by_file(path)
    assert found is not None
    assert found.subject.key == identify(stack(1))
    monkeypatch.chdir(tmp_path)
    assert find_by_file("cells.tif") == found


def test_they_are_removed_but_not_while_they_are_open(folder: Path) -> None:
    paint(stack(1))
    corrections = open_corrections(stack(1))
    with pytest.raises(FileError, match=f"'cells' is being corrected in another window .process {os.getpid()}"):
        remove(find_corrections()[0])
    assert corrections.strokes[0, 3, 3] == 2
    corrections.close()
    remove(find_corrections()[0])
    assert find_corrections() == ()
    assert list(folder.iterdir()) == []
    again = open_corrections(stack(1))
    assert again.is_empty
    again.close()
