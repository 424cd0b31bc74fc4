"""The commands `edits`: list, export, import and apply, and what they refuse."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from grid import CELLS, cell, labels_of, regions, row_of_cells

from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.proofread.classifier import rule_of
from napari_skipseg.proofread.edits import Delete, Merge, Reweigh, Split
from napari_skipseg.proofread.session import EditSession
from napari_skipseg.proofread.store import EditStore, edits_record, folder_of

OPTIONS = ("--method", "cells", "--threshold", "0.3", "--merge", "0.5")
SPACE = Space("ZYX", (40, 5, 5), "nm")


@pytest.fixture
def edits(monkeypatch, run):
    """Run `edits` in this process; return its exit code, and what it printed."""
    monkeypatch.setenv("COLUMNS", "400")  # a table as narrow as a terminal cuts long paths
    return partial(run, "edits")


@pytest.fixture
def probability(tmp_path: Path) -> Path:
    path = tmp_path / "row_probability.tif"
    write_ome_tiff(path, row_of_cells(), SPACE)
    return path


@pytest.fixture
def session(probability: Path) -> EditSession:
    """Two edits of the objects in the probability, closed."""
    record = edits_record(read_stack(probability), options=CELLS)
    session = EditSession(regions(row_of_cells()), EditStore(folder_of(record), record))
    session.do(Merge((cell(0), cell(1))))
    session.do(Delete((cell(3),)))
    session.close()
    return session


def test_edits_are_listed_exported_and_applied(edits, probability: Path, session: EditSession, tmp_path: Path) -> None:
    code, output = edits("list")[:2]
    assert code == 0
    assert "row_probability" in output
    key = session.store.folder.name
    file, out = tmp_path / "edits.json", tmp_path / "out.ome.zarr"
    assert edits("export", key[:8], str(file))[0] == 0
    code, output = edits("apply", str(probability), str(file), str(out))[:2]  # the options are in the file
    assert code == 0
    assert "applied" in output
    written = read_stack(out, are_labels=True)
    np.testing.assert_array_equal(np.asarray(written.data[...]), labels_of(session.objects))
    assert written.space == SPACE


def test_imported_edits_are_those_of_the_image(edits, probability: Path, session: EditSession, tmp_path: Path) -> None:
    file = tmp_path / "edits.json"
    edits("export", session.store.folder.name, str(file))
    for old in session.store.folder.iterdir():
        old.unlink()
    code, output = edits("import", str(probability), str(file))[:2]
    assert code == 0
    assert "2 edits added" in output
    assert "already" in edits("import", str(probability), str(file))[1]
    store = EditStore(session.store.folder, session.store.record)
    assert [each.edit for each in store.done] == [Merge((cell(0), cell(1))), Delete((cell(3),))]
    store.close()


def test_edits_without_sense_are_listed_with_the_reason(edits, probability: Path, tmp_path: Path) -> None:
    from napari_skipseg.proofread.exchange import write_edits

    stack = read_stack(probability)
    listed = (Split(((cell(0),), (cell(3),))), Merge((cell(0), cell(3))))
    file = write_edits(tmp_path / "edits.json", edits_record(stack), listed)
    result = edits("apply", str(probability), str(file), str(tmp_path / "out.tif"), "--json", *OPTIONS)
    assert result[0] == 0
    printed = "".join(map(str, result[1:]))
    assert "Edit 1 (split) was left out" in printed
    assert json.loads(result[1][result[1].index("{") : result[1].rindex("}") + 1])["applied"] == 1


def test_edits_of_another_image_and_wrong_keys_are_sentences(edits, probability: Path, tmp_path: Path) -> None:
    from napari_skipseg.proofread.exchange import write_edits

    other = Stack(np.zeros((3, 14, 40), np.float32), SPACE, "other")
    file = write_edits(tmp_path / "edits.json", edits_record(other), [Delete((cell(0),))])
    for command in (
        ("import", str(probability), str(file)),
        ("apply", str(probability), str(file), str(tmp_path / "o.tif")),
    ):
        result = edits(*command)
        assert result[0] == 1
        assert "shape" in "".join(map(str, result[1:]))
    result = edits("export", "nothing", str(tmp_path / "x.json"))
    assert result[0] == 1
    assert "no such key" in "".join(map(str, result[1:]))


def test_a_classifier_goes_out_and_is_applied_to_another_image(
    edits, probability: Path, session: EditSession, tmp_path: Path
) -> None:
    from napari_skipseg import find_objects

    file, key = tmp_path / "contacts.json", session.store.folder.name
    result = edits("classifier", key, str(file))
    assert result[0] == 1
    assert "Nothing was learnt" in "".join(map(str, result[1:]))
    store = EditStore(session.store.folder, session.store.record)
    rule = rule_of(CELLS)
    rule[-1] += 12 * (CELLS.merge - 0.8)  # the rule of a limit of 0.8, so that the boundary of 0.7 is none
    store.add(Reweigh(tuple(rule)))
    assert store.close()
    assert edits("classifier", key, str(file))[0] == 0
    out = tmp_path / "out.tif"
    assert edits("apply", str(probability), str(file), str(out), *OPTIONS)[0] == 0
    written = np.asarray(read_stack(out, are_labels=True).data[...])
    places = [cell(number)[1:] for number in range(4)]
    groups = [int(written[place]) for place in places]
    assert groups[1] == groups[2] == groups[3] != groups[0]
    in_python = find_objects(probability, edits=file, method="cells", threshold=0.3, merge=0.5)
    np.testing.assert_array_equal(in_python, written)
    assert "1 edits added" in edits("import", str(probability), str(file))[1]
