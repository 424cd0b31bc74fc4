"""What was found about an image is said by the shell, in the table of a batch and in its report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from made_images import tissue
from tiny_models import write_tiny

import napari_skipseg as skipseg
from napari_skipseg.cli.segment import segment
from napari_skipseg.models.catalog import MODELS_VARIABLE


@pytest.fixture
def framed(tmp_path: Path) -> Path:
    """A file with a stack in a black frame."""
    file = tmp_path / "images" / "framed.tif"
    file.parent.mkdir()
    tifffile.imwrite(file, np.pad(tissue(2, 96, 96), ((0, 0), (24, 24), (24, 24))), metadata={"axes": "ZYX"})
    return file


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    return write_tiny(tmp_path / "models" / "tiny").name


def test_the_shell_says_what_was_left_out(
    framed: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(framed, tmp_path / "out", model=model)
    said = capsys.readouterr().err
    assert said.count("24 pixels of black (0) around each slice") == 1
    segment(framed, tmp_path / "out", model=model, plan=True)
    assert "24 pixels of black" in capsys.readouterr().out


def test_a_batch_notes_what_was_left_out(framed: Path, model: str, tmp_path: Path) -> None:
    result = skipseg.run_batch(framed.parent, tmp_path / "out", model, device="cpu")
    assert "24 pixels of black" in result.rows[0].note
    with result.summary.open(newline="", encoding="utf-8-sig") as opened:
        (row,) = csv.DictReader(opened)
    assert "24 pixels of black" in row["note"]
    assert "24 pixels of black" in result.report.read_text(encoding="utf-8")
    again = skipseg.run_batch(framed.parent, tmp_path / "out", model, device="cpu")
    assert again.rows[0].state == "skipped"
    assert "24 pixels of black" in again.rows[0].note


def test_a_run_that_is_repeated_finds_the_same(framed: Path, model: str, tmp_path: Path) -> None:
    with pytest.warns(skipseg.ImageWarning, match="left out"):
        skipseg.segment_to_folder(framed, model, tmp_path / "out", device="cpu")
    with pytest.warns(skipseg.ImageWarning, match="left out"):
        skipseg.run_recipe(tmp_path / "out" / "framed_recipe.json", tmp_path / "again")
    before, after = ((tmp_path / name / "framed_recipe.json").read_text() for name in ("out", "again"))
    assert before == after
    before, after = ((tmp_path / name / "framed_probability.tif").read_bytes() for name in ("out", "again"))
    assert before == after
