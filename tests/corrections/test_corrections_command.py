"""The command `corrections`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_skipseg.cli.corrections import UNNAMED
from napari_skipseg.corrections.catalog import find_corrections
from napari_skipseg.corrections.store import open_corrections
from napari_skipseg.images.files import read_stack

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    """Run `corrections` in this process."""
    monkeypatch.setenv("COLUMNS", "300")
    return partial(run, "corrections")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(1).integers(0, 256, (3, 40, 50)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "cells.tif", values, photometric="minisblack")
    return tmp_path / "cells.tif"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    values = np.zeros((3, 40, 50), np.uint8)
    values[1, 5:10, 5:10] = 2
    tifffile.imwrite(tmp_path / "labels.tif", values, photometric="minisblack")
    return tmp_path / "labels.tif"


def test_labels_go_in_and_out(run: Run, image: Path, labels: Path, tmp_path: Path) -> None:
    code, told, _ = run("import", image, labels)
    assert (code, told.splitlines()[0]) == (0, "25 pixels imported as corrections of 'cells':")
    counts = np.unique_counts(read_stack(labels).data[...])
    assert told.splitlines()[1:] == [
        f"  {value} = {'background' if value == 1 else UNNAMED}: {count}"
        for value, count in zip(counts.values.tolist(), counts.counts.tolist(), strict=True)
        if value
    ]
    assert run("export", image, tmp_path / "out.tif") == (0, f"{tmp_path / 'out.tif'}\n", "")
    np.testing.assert_array_equal(read_stack(tmp_path / "out.tif").data[...], read_stack(labels).data[...])
    key = find_corrections()[0].subject.key
    assert run("export", key[:10], tmp_path / "out.zarr", "--what", "strokes")[0] == 0
    np.testing.assert_array_equal(read_stack(tmp_path / "out.zarr").data[...], read_stack(labels).data[...])


def test_classes_of_labels_are_named(run: Run, image: Path, labels: Path) -> None:
    assert "2 = vesicle: 25" in run("import", image, labels, "--class", "vesicle=2")[1]
    assert "2 = mitochondrion: 25" in run("import", image, labels, "--class", "mitochondrion=2", "--class", "rest=3")[1]
    corrections = open_corrections(read_stack(image))
    assert {each.name: each.value for each in corrections.classes} == {"mitochondrion": 2, "rest": 3}
    corrections.close()


def test_labels_that_are_refused_rename_no_class(run: Run, image: Path, labels: Path, tmp_path: Path) -> None:
    run("import", image, labels, "--class", "vesicle=2")
    tifffile.imwrite(tmp_path / "other.tif", np.full((3, 4, 5), 2, np.uint8), photometric="minisblack")
    assert run("import", image, tmp_path / "other.tif", "--class", "mitochondrion=2")[0] == 1
    corrections = open_corrections(read_stack(image))
    assert [each.name for each in corrections.classes] == ["vesicle"]
    corrections.close()


@pytest.mark.parametrize("named", ["vesicle", "vesicle=1", "vesicle=256", "=2"])
def test_a_class_that_cannot_be_is_refused(run: Run, image: Path, labels: Path, named: str) -> None:
    code, _, told = run("import", image, labels, "--class", named)
    assert (code, "class" in told) == (1, True)


def test_they_are_listed(run: Run, image: Path, labels: Path, folder: Path) -> None:
    assert run() == (0, f"There are no corrections in '{folder}'.\n", "")
    assert run("list", "--json") == (0, "[]\n", "")
    run("import", image, labels)
    code, out, _ = run("list")
    assert (code, "cells" in out, "3 × 40 × 50" in out, "closed" in out) == (0, True, True, True)
    (row,) = json.loads(run("list", "--json")[1])
    assert (row["key"], row["file"]) == (find_corrections()[0].subject.key, str(image))
    corrections = open_corrections(read_stack(image))
    assert json.loads(run("list", "--json")[1])[0]["state"] == "open"
    corrections.close()


def test_they_are_deleted_when_that_is_meant(
    run: Run, image: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("import", image, labels)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("delete", image)[0] == 130
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert run("delete", image) == (1, "", "Nothing is deleted.\n")
    assert len(find_corrections()) == 1
    assert run("delete", image, "--yes") == (0, "The corrections of 'cells' are deleted.\n", "")
    assert find_corrections() == ()


def test_what_is_not_there_is_told(run: Run, image: Path, labels: Path, tmp_path: Path) -> None:
    code, out, err = run("export", image, tmp_path / "out.tif")
    assert (code, out, err.startswith("Error: "), "has no corrections" in err) == (1, "", True, True)
    assert "neither such a key nor such a file" in run("delete", "0123", "--yes")[2]
    run("import", image, labels)
    key = find_corrections()[0].subject.key
    values = read_stack(image).data[...].copy()
    values[0, 0, 0] ^= 1
    tifffile.imwrite(image, values, photometric="minisblack")
    code, _, err = run("export", image, tmp_path / "out.tif")
    assert (code, "was changed after it was corrected" in err, key[:12] in err) == (1, True, True)


def test_labels_that_do_not_fit_are_refused(run: Run, image: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "wrong.tif", np.zeros((3, 40, 51), np.uint8), photometric="minisblack")
    code, out, err = run("import", image, tmp_path / "wrong.tif")
    assert (code, out, "'wrong.tif' has the shape (3, 40, 51)" in err) == (1, "", True)
