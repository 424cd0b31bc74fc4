"""The command `score`: its table, JSON and CSV hold the same numbers, and a CSV file is whole or not there."""

import csv
import json
import os
from functools import partial

import numpy as np
import pytest
import tifffile
from full_disk import full_disk

from napari_skipseg.errors import FileError
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.terminal import print_or_write_csv, report_rows


@pytest.fixture
def score(monkeypatch, run):
    """Run `score` in this process."""
    monkeypatch.setenv("COLUMNS", "80")
    return partial(run, "score")


@pytest.fixture
def files(tmp_path):
    """A prediction and a truth of labels 0, 1, 2, and their values."""
    truth = np.random.default_rng(0).integers(0, 3, (3, 12, 16)).astype(np.uint8)
    labels = np.where(np.random.default_rng(1).random(truth.shape) < 0.1, 0, truth).astype(np.uint8)
    for name, values in (("labels.tif", labels), ("truth.tif", truth)):
        tifffile.imwrite(tmp_path / name, values, photometric="minisblack")
    return tmp_path / "labels.tif", tmp_path / "truth.tif", labels, truth


def write(folder, **arrays):
    for name, values in arrays.items():
        tifffile.imwrite(folder / f"{name}.tif", values, photometric="minisblack")
    return [folder / f"{name}.tif" for name in arrays]


def membranes(side=96, every=12, width=3):
    """Three slices of lines, 0 and 255, 44 % of the image."""
    plane = np.zeros((side, side), np.uint8)
    for first in range(0, side, every):
        plane[first : first + width], plane[:, first : first + width] = 255, 255
    return np.stack([np.roll(plane, by, (0, 1)) for by in (0, 3, 5)])


def blobs(side=96):
    """Three slices with a few discs: mitochondria, 5 % of the image."""
    y, x = np.mgrid[:side, :side]
    disc = sum((y - a) ** 2 + (x - b) ** 2 < 40 for a, b in ((20, 30), (60, 70), (75, 20), (30, 80)))
    return np.stack([disc.astype(np.uint8)] * 3)


@pytest.mark.parametrize("measure", [(), ("--isbi",)])
def test_a_truth_of_another_class_is_doubted_and_never_said_to_be_one_of_membranes(score, tmp_path, measure):
    prediction, truth = write(tmp_path, found=membranes(), mito=blobs())
    _, _, errors = score(prediction, truth, "--membrane", *measure)
    assert "another class" in errors
    assert "'mito.tif' is above 0 on membranes" not in errors


def test_a_turned_truth_is_doubted_and_the_right_one_is_not(score, tmp_path):
    rows = np.zeros((3, 96, 96), np.uint8)
    rows[:, ::8] = rows[:, 1::8] = 1
    prediction, turned = write(tmp_path, found=rows, turned=np.ascontiguousarray(np.rot90(rows, axes=(1, 2))))
    assert "turned or mirrored" in score(prediction, turned)[2]
    assert score(prediction, prediction)[2] == ""
    assert "another class" in score(prediction, turned, "--class", "mito=1")[2]


def test_what_nobody_looked_at_counts_only_if_it_is_not_ignored(score, tmp_path):
    truth = np.zeros((3, 20, 20), np.uint8)
    truth[0, :10], truth[0, 10:] = 1, 2
    found = np.full((3, 20, 20), 2, np.uint8)
    found[:, :5] = 1
    files = write(tmp_path, found=found, truth=truth)
    _, told, errors = score(*files, "--class", "mito=2", "--json")
    assert json.loads(told)["classes"]["mito"]["false_positives"] == 2 * 300 + 100
    assert "2 slices" in errors
    assert "--ignore 0" in errors
    code, told, errors = score(*files, "--class", "mito=2", "--ignore", 0, "--json")
    counts = json.loads(told)["classes"]["mito"]
    assert (counts["false_positives"], counts["true_positives"], counts["true_negatives"]) == (100, 200, 100)
    assert (code, counts["n_images"], errors) == (0, 1, "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ignore", "0"), "--class"),
        (("--ignore", "0", "--isbi"), "overlap only"),
        (("--ignore", "2", "--class", "mito=2"), "leave out one of them"),
        (("--ignore", "7", "--class", "mito=2"), ""),
    ],
)
def test_what_cannot_be_ignored_is_said_with_the_cure(score, tmp_path, flags, said):
    (file,) = write(tmp_path, truth=np.full((2, 8, 8), 2, np.uint8))
    code, _, errors = score(file, file, *flags)
    assert (code != 0) is bool(said)
    assert said in errors


@pytest.mark.parametrize("measure", [(), ("--isbi",)])
def test_a_truth_of_zeros_is_called_that(score, tmp_path, measure):
    prediction, truth = write(tmp_path, found=membranes(), zero=np.zeros((3, 96, 96), np.uint8))
    _, _, errors = score(prediction, truth, "--membrane", *measure)
    assert "0 everywhere" in errors
    assert "cells or on membranes" not in errors


def test_table_json_and_csv_hold_the_same_numbers(score, files, tmp_path):
    prediction, truth_file, labels, truth = files
    code, table, errors = score(prediction, truth_file, "--per-image", "--csv", tmp_path / "scores.csv")
    assert (code, errors) == (0, "")
    lines = [line.split() for line in table.splitlines()]
    assert [line[0] for line in lines[-6:]] == ["slice", "slice", "slice", "pooled", "mean", "sd"]
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8-sig") as handle:
        rows = {row["image"]: row for row in csv.DictReader(handle)}
    assert list(rows) == ["slice 0", "slice 1", "slice 2", "pooled", "mean", "sd"]
    dice = [score_overlap(labels[z], truth[z]).dice for z in range(3)]
    assert [float(rows[f"slice {z}"]["dice"]) for z in range(3)] == dice
    assert float(rows["pooled"]["dice"]) == score_overlap(labels, truth).dice
    assert float(rows["mean"]["dice"]) == pytest.approx(np.mean(dice), abs=1e-15)
    assert float(rows["sd"]["dice"]) == pytest.approx(np.std(dice, ddof=1), abs=1e-15)
    assert (rows["mean"]["true_positives"], int(rows["pooled"]["true_positives"])) == ("", np.count_nonzero(labels))
    found = json.loads(score(prediction, truth_file, "--json", "--per-image")[1])
    assert [image["dice"] for image in found["images"]] == dice
    assert found["mean"]["dice"] == float(rows["mean"]["dice"])
    assert found["standard_deviation"]["dice"] == float(rows["sd"]["dice"])
    assert f"{found['dice']:.5f}" == lines[-3][1]
    assert not list(tmp_path.glob("*.part"))


def test_the_table_fits_a_terminal_of_80_columns_with_all_digits(score, files):
    right = files[1], files[1]
    for flags in ((), ("--isbi",), ("--instances",), ("--class", "one=1", "--class", "two=2")):
        code, table, errors = score(*(right if flags == ("--isbi",) else files[:2]), "--per-image", *flags)
        assert code == 0, flags
        assert all(line.startswith("Note: ") for line in errors.splitlines()), flags
        assert "…" not in table
        assert max(map(len, table.splitlines())) <= 80


def test_classes_have_rows_of_their_own(score, files, tmp_path):
    prediction, truth_file, labels, truth = files
    classes = ("--class", "one=1", "--class", "two=2")
    score(prediction, truth_file, *classes, "--csv", tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8-sig") as handle:
        rows = [row for row in csv.DictReader(handle) if row["image"] == "pooled"]
    expected = {name: score_overlap(labels == value, truth == value).dice for name, value in (("one", 1), ("two", 2))}
    assert {row["class"]: float(row["dice"]) for row in rows} == expected
    found = json.loads(score(prediction, truth_file, *classes, "--json")[1])
    assert {name: scores["dice"] for name, scores in found["classes"].items()} == expected
    assert "images" not in found["classes"]["one"]


def test_isbi_names_the_best_thresholds(score, files):
    prediction, truth_file, _, truth = files
    tifffile.imwrite(prediction, np.where(truth > 0, 0.85, 0.25).astype(np.float32), photometric="minisblack")
    _, table, _ = score(prediction, truth_file, "--isbi", "--per-image")
    assert table.splitlines()[-1] == "Best thresholds, each the same for all 3 slices: V_rand 0.3, V_info 0.3"
    found = json.loads(score(prediction, truth_file, "--isbi", "--json")[1])
    assert {"v_rand", "v_info", "v_rand_threshold", "n_slices"} <= found.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--isbi", "--instances"), "exclude each other"),
        (("--class", "membrane"), "'membrane' is no class"),
        (("--class", "a=1", "--class", "a=2"), "given twice"),
        (("--class", "a=1", "--isbi"), "leave out"),
        (("--csv", "missing/scores.csv"), "cannot be written"),
        (("--csv", "."), "is a folder"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(score, files, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, errors = score(*files[:2], *flags)
    assert (code, out) == (1, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_table_of_before(tmp_path, monkeypatch):
    print_or_write_csv(tmp_path / "scores.csv", [{"dice": 0.5}])
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FileError, match="no space left"):
        print_or_write_csv(tmp_path / "scores.csv", [{"dice": 0.25}])
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8-sig") == "dice\n0.5\n"
    assert [file.name for file in tmp_path.iterdir()] == ["scores.csv"]


def test_a_table_in_a_pipe_is_not_cut(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "a long name of an image, " * 8
    report_rows([{"image": name, "key": "0123456789" * 6}], as_json=False)
    assert any(name.strip() in line and "0123456789" * 6 in line for line in capsys.readouterr().out.splitlines())
