"""Corrections to labels and back; labels that do not fit are refused in one sentence, and change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_skipseg.corrections import exchange
from napari_skipseg.corrections.catalog import find_corrections
from napari_skipseg.corrections.exchange import export_corrections, import_labels
from napari_skipseg.corrections.store import Corrections, open_corrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import holds_labels, read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

SHAPE = (3, 300, 400)


def image(seed: int = 1, shape: tuple[int, ...] = SHAPE, axes: str = "ZYX") -> Stack:
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    return Stack(values, Space(axes, (40, 5, 5), "nm", (10, 20, 30)), "cells")


@pytest.fixture
def corrections() -> Iterator[Corrections]:
    opened = open_corrections(image())
    opened.strokes[1, 10:290, 30:50] = 2
    opened.review((slice(1, 2), slice(0, 20), slice(0, 400)), np.ones((20, 400)))
    opened.name_classes((CorrectionClass("mitochondrion", 2, "#ff0000"),))
    yield opened
    opened.close()


def target(corrections: Corrections) -> Any:
    return np.where(np.asarray(corrections.strokes) > 0, corrections.strokes, corrections.reviewed)


@pytest.mark.parametrize("name", ["labels.ome.tif", "labels.ome.zarr"])
def test_what_trains_is_written_as_labels(corrections: Corrections, tmp_path: Path, name: str) -> None:
    for _ in range(2):
        assert export_corrections(corrections, tmp_path / name) == tmp_path / name
    found = read_stack(tmp_path / name)
    np.testing.assert_array_equal(found.data[...], target(corrections))
    assert (found.space.axes, found.space.voxel_size, found.space.unit, found.space.origin) == (
        "ZYX",
        (40, 5, 5),
        "nm",
        (10, 20, 30),
    )
    assert holds_labels(tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["corrections", name]


def test_strokes_alone_are_written(corrections: Corrections, tmp_path: Path) -> None:
    export_corrections(corrections, tmp_path / "labels.tif", what="strokes")
    np.testing.assert_array_equal(read_stack(tmp_path / "labels.tif").data[...], corrections.strokes)
    assert read_recipe(tmp_path / "labels.tif") == {"layer": "labels", "classes": {"2": "mitochondrion"}}
    export_corrections(corrections, tmp_path / "any name", "ome-zarr", "strokes")
    np.testing.assert_array_equal(read_stack(tmp_path / "any name").data[...], corrections.strokes)


def test_those_that_are_not_open_are_written_too(corrections: Corrections, tmp_path: Path) -> None:
    (found,) = find_corrections()
    with pytest.raises(FileError, match="is being corrected in another window"):
        export_corrections(found, tmp_path / "labels.tif")
    expected = target(corrections)
    corrections.close()
    export_corrections(found, tmp_path / "labels.tif")
    np.testing.assert_array_equal(read_stack(tmp_path / "labels.tif").data[...], expected)
    np.testing.assert_array_equal(read_stack(export_corrections(found, tmp_path / "new.zarr")).data[...], expected)
    assert not find_corrections()[0].is_open


def test_another_store_is_not_overwritten(corrections: Corrections, tmp_path: Path) -> None:
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "precious").write_text("data")
    with pytest.raises(FileError, match="not ours"):
        export_corrections(corrections, tmp_path / "mine.zarr")
    assert (tmp_path / "mine.zarr" / "precious").read_text() == "data"
    with pytest.raises(FileError, match="does not exist"):
        export_corrections(corrections, tmp_path / "nowhere" / "labels.tif")


def counted(labels: Any) -> dict[int, int]:
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("name", ["labels.ome.tif", "labels.ome.zarr"])
def test_what_was_written_is_read_again(corrections: Corrections, tmp_path: Path, name: str) -> None:
    export_corrections(corrections, tmp_path / name)
    expected = target(corrections)
    corrections.strokes[...] = 0
    corrections.strokes[2, 0, 0] = 5
    assert import_labels(corrections, tmp_path / name) == counted(expected)
    expected[2, 0, 0] = 5
    np.testing.assert_array_equal(corrections.strokes, expected)


def test_labels_are_read_a_few_rows_at_a_time(
    corrections: Corrections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "EXPORTED_VOXELS", 7 * SHAPE[-1])
    labels = np.random.default_rng(2).integers(0, 3, SHAPE).astype(np.int32)
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    corrections.strokes[...] = 0
    assert import_labels(corrections, tmp_path / "labels.tif") == counted(labels)
    np.testing.assert_array_equal(corrections.strokes, labels)


def test_a_file_without_axes_of_one_slice_fits(tmp_path: Path) -> None:
    corrections = open_corrections(image(3, (1, 30, 40)))
    corrections.strokes[0, 5:9] = 2
    export_corrections(corrections, tmp_path / "labels.tif")
    corrections.strokes[...] = 0
    assert import_labels(corrections, tmp_path / "labels.tif") == {2: 4 * 40}
    corrections.close()


@pytest.mark.parametrize(
    ("labels", "size", "words"),
    [
        (np.zeros((3, 300, 401), np.uint8), None, ["shape (3, 300, 401)", "(3, 300, 400)"]),
        (np.zeros((300, 400), np.uint8), None, ["shape (300, 400)"]),
        (np.zeros(SHAPE, np.float32), None, ["float32", "whole numbers"]),
        (np.full(SHAPE, -1, np.int16), None, ["the value -1"]),
        (np.full(SHAPE, 256, np.uint16), None, ["the value 256", "2 to 255"]),
        (np.zeros(SHAPE, np.uint8), (40, 4, 4), ["40 × 4 × 4 nm", "40 × 5 × 5"]),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    corrections: Corrections, tmp_path: Path, labels: Any, size: Any, words: list[str]
) -> None:
    path, before = tmp_path / "labels.tif", np.asarray(corrections.strokes)
    if size is None:
        tifffile.imwrite(path, labels, photometric="minisblack")
    else:
        write_ome_tiff(path, labels, Space("ZYX", size, "nm"))
    with pytest.raises(InputError) as raised:
        import_labels(corrections, path)
    sentence = str(raised.value)
    assert all(word in sentence for word in ["'labels.tif'", *words])
    assert sentence.endswith(".")
    assert sentence.count(". ") == 0
    np.testing.assert_array_equal(corrections.strokes, before)


def test_the_same_scale_in_another_unit_fits(corrections: Corrections, tmp_path: Path) -> None:
    write_ome_tiff(tmp_path / "labels.tif", np.ones(SHAPE, np.uint8), Space("ZYX", (0.04, 0.005, 0.005), "µm"))
    assert import_labels(corrections, tmp_path / "labels.tif") == {1: np.prod(SHAPE)}
