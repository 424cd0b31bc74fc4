"""The end of a batch on paper: every file is there, whatever it is called, and nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
import csv
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from batch_folders import run, settings_for, write_image
from PIL import Image

from napari_skipseg.batch.run import BatchResult
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.objects.options import ObjectOptions

ODD = "=1+1 <b onclick=ü>.tif" if os.name != "nt" else "=1+1 ü.tif"


class Page(HTMLParser):
    """The cells of the table, the pictures, and whatever would fetch or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self.pictures: list[str] = []
        self.active: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.cells.append([])
        self._in_cell = tag in ("td", "th", "img") and self._in_cell | (tag != "img")
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "img":
            self.pictures.append(given["src"] or "")
        if tag in ("script", "link", "iframe", "object") or any(name.startswith("on") for name in given):
            self.active.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1][-1] += data


@pytest.fixture
def result(tmp_path: Path, tiny: Path) -> BatchResult:
    write_image(tmp_path / "in" / "a.tif", 1)
    write_image(tmp_path / "in" / "deep" / "b.tif", 2, slices=3)
    (tmp_path / "in" / "bad.tif").write_text("no image")
    write_image(tmp_path / "in" / ODD, 3)
    return run(settings_for(tmp_path / "in", tmp_path / "out", tiny, recursive=True))


def test_the_report_is_one_page_with_all_files_and_pictures(result: BatchResult) -> None:
    text = result.report.read_text(encoding="utf-8")
    page = Page(text)
    heads, *rows = page.cells
    assert heads == ["Result", "File", "State", "Size", "Voxel size", "Seconds"]
    assert [row[1:3] for row in rows] == [[row.relative, row.state] for row in result.rows]
    assert len(page.pictures) == 3
    for picture in page.pictures:
        kind, _, content = picture.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.size == (40, 40)
    assert page.active == []
    assert not re.search(r"(src|href)=.?http", text)
    assert "not a TIFF" in text
    assert "model_sha256" in text
    assert result.folder.name in text


def test_a_second_start_keeps_what_the_first_did(tmp_path: Path, tiny: Path) -> None:
    write_image(tmp_path / "in" / "a.tif", 1)
    (tmp_path / "truth").mkdir()
    Image.new("L", (40, 40), 1).save(tmp_path / "truth" / "a.png")
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny, truth=str(tmp_path / "truth"))
    (first,) = run(settings).rows
    write_image(tmp_path / "in" / "b.tif", 2)
    second = run(settings)
    with second.summary.open(newline="", encoding="utf-8-sig") as handle:
        a, b = csv.DictReader(handle)
    assert (a["state"], a["ended"], b["state"]) == ("done before", first.ended, "done")
    assert float(a["seconds"]) == pytest.approx(first.seconds, abs=0.001)
    assert float(a["membrane dice"]) == pytest.approx(first.scores["membrane dice"])
    assert second.rows[0].note.startswith(f"done before on {first.ended[:10]}, with the same recipe")
    assert f"1 done, 1 done on {first.ended[:10]}</title>" in second.report.read_text(encoding="utf-8")


def test_scores_of_objects_come_first_and_means_last(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "truth").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        write_image(tmp_path / "in" / f"{name}.tif", seed)
        labels = np.arange(1600, dtype=np.uint8).reshape(40, 40) % (2 + seed)
        Image.fromarray(labels).save(tmp_path / "truth" / f"{name}.png")
    truth, objects = str(tmp_path / "truth"), ObjectOptions("components")
    result = run(settings_for(tmp_path / "in", tmp_path / "out", tiny, truth=truth, objects=objects))
    heads, *rows = Page(result.report.read_text(encoding="utf-8")).cells
    assert heads[5:8] == ["Objects", "Mean size", "Seconds"]
    assert heads[8:11] == ["adapted rand error", "average precision", "membrane dice"]
    mean = np.mean([row.scores["adapted_rand_error"] for row in result.rows])
    assert (rows[-1][1], float(rows[-1][8])) == ("Mean", pytest.approx(mean, abs=6e-5))


def test_the_page_fits_any_screen(result: BatchResult) -> None:
    text = result.report.read_text(encoding="utf-8")
    assert '<div class="wide"><table>' in text
    assert "div.wide { overflow-x: auto; }" in text  # many scores move by themselves, and not the page
    assert "max-height: 96px" in text
    assert re.search(r"@media screen and \(max-width: 50rem\) .*tr { display: grid;", text, re.DOTALL)
    assert text.count('<td class="number" data-name="Seconds">') == len(result.rows)


def test_the_summary_has_a_row_for_each_file(result: BatchResult) -> None:
    with result.summary.open(newline="", encoding="utf-8-sig") as handle:
        rows = {row["file"]: row for row in csv.DictReader(handle)}
    assert len(rows) == 4
    assert rows["deep/b.tif"]["results"] == "deep/b_probability.tif;deep/b_binary.tif"
    assert rows["deep/b.tif"]["size"] == "3 × 40 × 40"
    assert rows["bad.tif"]["state"] == "failed"
    assert "not a TIFF" in rows["bad.tif"]["reason"]
    assert any(name.startswith("'=1+1") for name in rows)


@pytest.fixture
def measured(tmp_path: Path, tiny: Path) -> BatchResult:
    """Objects of an image with a voxel size and of one without."""
    write_image(tmp_path / "in" / "bare.tif", 1, slices=3)
    values = np.random.default_rng(1).integers(0, 256, (3, 40, 40)).astype(np.uint8)
    write_ome_tiff(tmp_path / "in" / "sized.ome.tif", values, Space("ZYX", (0.05, 0.004, 0.004), "µm"))
    return run(settings_for(tmp_path / "in", tmp_path / "out", tiny, objects=ObjectOptions("components")))


def test_summary_and_report_hold_how_many_objects_there_are_and_how_large(measured: BatchResult) -> None:
    with measured.summary.open(newline="", encoding="utf-8-sig") as handle:
        rows = {row["file"]: row for row in csv.DictReader(handle)}
    for name, unit in (("bare", "pixel³"), ("sized", "µm³")):
        with next(measured.folder.glob(f"{name}_objects.csv")).open(newline="", encoding="utf-8-sig") as handle:
            sizes = [float(row[f"volume ({unit})"]) for row in csv.DictReader(handle)]
        row = rows["bare.tif" if name == "bare" else "sized.ome.tif"]
        assert (int(row["objects"]), row["size unit"]) == (len(sizes), unit)
        assert float(row["mean object size"]) == pytest.approx(np.mean(sizes), rel=1e-6)
    heads, *cells = Page(measured.report.read_text(encoding="utf-8")).cells
    column = heads.index("Mean size")
    assert [row[column].split()[-1] for row in cells] == ["pixel³", "µm³"]


def test_a_file_without_voxel_size_is_named_in_row_summary_and_report(measured: BatchResult) -> None:
    bare, sized = measured.rows
    assert "voxel size is not known" in bare.note
    assert (bare.voxel_size, sized.voxel_size) == ("", "0.05 × 0.004 × 0.004 µm")
    assert "voxel size is not known" not in sized.note
    with measured.summary.open(newline="", encoding="utf-8-sig") as handle:
        assert [row["voxel size"] for row in csv.DictReader(handle)] == ["not known", sized.voxel_size]
    assert "voxel size is not known" in measured.report.read_text(encoding="utf-8")


def test_what_was_done_before_still_has_its_objects_in_the_summary(measured: BatchResult, tiny: Path) -> None:
    folder = measured.folder.parent.parent
    again = run(settings_for(folder / "in", folder / "out", tiny, objects=ObjectOptions("components")))
    assert [(row.state, row.objects, row.mean_size) for row in again.rows] == [
        ("skipped", row.objects, row.mean_size) for row in measured.rows
    ]
