"""What a batch says of the voxels, the objects and the truth of a file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from napari_skipseg.batch.records import ObjectSizes, describe_voxels, read_sizes, remarks_on
from napari_skipseg.errors import FileError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.scoring.values import doubt_truth

MODEL = ModelDescription(
    "tiny", UNetSpec(widths=(2, 4)), (ClassLabel("membrane", 0),), 8, "", voxel_size=(50.0, 4.0, 4.0), unit="nm"
)
CUBE = np.zeros((2, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("size", "unit", "words", "remarks"),
    [
        ((1, 1, 1), "pixel", "", ["not known"]),
        ((50, 4, 4), "nm", "50 × 4 × 4 nm", []),
        ((0.05, 0.004, 0.004), "µm", "0.05 × 0.004 × 0.004 µm", []),
        ((5, 5, 5), "nm", "5 nm", ["voxels are 5 nm", "trained at 4 nm"]),
        ((0.03, 0.008, 0.008), "µm", "0.03 × 0.008 × 0.008 µm", ["0.008 µm", "0.004 µm"]),
    ],
)
def test_a_voxel_size_that_is_not_known_or_not_the_models_is_said(size, unit, words, remarks):
    stack = Stack(CUBE, Space("ZYX", size, unit))
    assert describe_voxels(stack) == words
    told = remarks_on(stack, MODEL, SegmentOptions())
    assert len(told) == bool(remarks)
    assert all(part in told[0] for part in remarks)


def test_nothing_is_said_of_an_image_that_is_rescaled():
    assert remarks_on(Stack(CUBE, Space("ZYX", (5, 5, 5), "nm")), MODEL, SegmentOptions(rescale=True)) == ()


@pytest.mark.parametrize(
    ("name", "sizes", "found"),
    [
        ("volume (nm³)", [800.0, 1600.0], ObjectSizes(2, 1200.0, "nm³")),
        ("area (µm²)", [2.5], ObjectSizes(1, 2.5, "µm²")),
        ("volume (pixel³)", [], ObjectSizes(0, None, "pixel³")),
    ],
)
def test_sizes_are_those_of_the_table(tmp_path: Path, name, sizes, found):
    labels = np.arange(1, len(sizes) + 1)
    ObjectTable(("label", "voxels", name), (labels, labels, np.array(sizes, float))).write_csv(tmp_path / "objects.csv")
    assert read_sizes(tmp_path / "objects.csv") == found


@pytest.mark.parametrize("text", ["", "label,voxels\n1,2\n", "label,volume (nm³)\n1,many\n"])
def test_a_table_that_is_none_is_refused(tmp_path: Path, text):
    (tmp_path / "objects.csv").write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match="start the batch again"):
        read_sizes(tmp_path / "objects.csv")


def lines(period: int, width: int) -> np.ndarray:
    """A grid of lines over 120 x 120 pixels, as membranes between cells."""
    rows, columns = np.mgrid[:120, :120]
    return (rows % period < width) | (columns % period < width)


def blobs() -> np.ndarray:
    """Discs within the cells of `lines(30, 4)`, as mitochondria: 14 % of the image."""
    rows, columns = np.mgrid[:120, :120]
    return (rows % 30 - 17) ** 2 + (columns % 30 - 17) ** 2 < 40


def counts(mask: np.ndarray, truth: np.ndarray) -> dict:
    return asdict(score_overlap(mask, truth))


def shifted(mask: np.ndarray, by: int) -> np.ndarray:
    return np.roll(mask, (by, by), (0, 1))


@pytest.mark.parametrize(
    ("mask", "truth", "is_boundary", "doubt"),
    [
        (lines(30, 4), lines(30, 4), True, ""),
        (lines(30, 6), lines(30, 4), True, ""),
        (shifted(lines(30, 4), 1), lines(30, 4), True, ""),
        (np.zeros((120, 120), bool), lines(30, 4), True, ""),
        (lines(30, 4), ~blobs(), True, "% of the image is membrane"),
        (lines(30, 4), blobs(), True, "hardly better than chance"),
        (lines(30, 4), ~lines(30, 4), True, "of the image is membrane"),
        (blobs(), ~blobs(), False, "hardly better than chance"),
        (~blobs(), ~blobs(), False, ""),
        (np.random.default_rng(0).random((120, 120)) < 0.3, blobs(), False, "hardly better than chance"),
        (blobs() & (np.mgrid[:120, :120][0] < 50), blobs(), False, ""),
    ],
)
def test_a_truth_of_another_class_is_doubted_and_a_poor_result_is_not(mask, truth, is_boundary, doubt):
    said = doubt_truth("a.tif", "membrane", is_boundary, counts(mask, truth))
    assert doubt in said
    assert bool(said) == bool(doubt)


def test_the_remark_names_the_model():
    (said,) = remarks_on(Stack(CUBE, Space("ZYX", (50, 8, 8), "nm")), replace(MODEL, name="mine"), SegmentOptions())
    assert "mine was trained at 4 nm" in said
