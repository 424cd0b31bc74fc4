"""Names of files and classes are no formula in a table, no escape on a terminal, no HTML in a label."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from napari_skipseg.csv_files import read_csv, write_csv, write_csv_of
from napari_skipseg.foreign_text import cell_of, printable, printable_json, without_bidi_marks


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t=", "\r=", "＝", " =", "a;=", "a\n="])
def test_no_cell_is_a_formula(begin: str) -> None:
    cell = str(cell_of(f"{begin}1+cmd|' C calc'!A0.tif"))
    for part in cell.replace("\n", ";").replace("\t", ";").split(";"):
        assert not part.strip().startswith(tuple("=+-@＝"))


@pytest.mark.parametrize(
    "value", ["-0.5", "+3", "-1e-05", "1.25", "nan", "inf", 7, -2.5, None, "plain", "a-b", "0001.tif"]
)
def test_numbers_and_plain_names_stay_as_they_are(value: object) -> None:
    assert cell_of(value) == value


def test_a_table_begins_with_the_mark_that_excel_needs_and_is_read_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("label", "volume (µm³)", "=x"), [(1, "0.5", "=1"), (2, None, "-2+3")])
    content = (tmp_path / "a.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbflabel,")
    assert content.count(b"\xef\xbb\xbf") == 1
    assert read_csv(tmp_path / "a.csv")[0] == {"label": "1", "volume (µm³)": "0.5", "'=x": "'=1"}
    write_csv_of(tmp_path / "b.csv", [{"a": 1}, {"b": "caf\udce9"}])
    with (tmp_path / "b.csv").open(newline="", encoding="utf-8-sig") as handle:
        assert list(csv.reader(handle)) == [["a", "b"], ["1", ""], ["", "caf\\udce9"]]


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x1b]0;pwned\x07", "\x9b31m", "a\rb", "a\bb", "\u202egpj.exe", "\udc9b", "\x7f"]
)
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    shown = printable(f"cells{text}.tif")
    assert shown.isprintable()
    assert shown.startswith("cells")
    assert json.loads(printable_json(json.dumps({"file": text}, ensure_ascii=False))) == {"file": text}


def test_names_of_all_scripts_stay_as_they_are() -> None:
    name = "Zellkörper 細胞 µm³ نسيج.tif"
    assert printable(name) == without_bidi_marks(name) == cell_of(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "<img src='//evil/x.png'>",
        "a <b>bold</b>",
        "x<!-- y",
        "&lt;b&gt;",
        "</b>",
        "<?xml version='1.0'?>",
        "<A HREF='x'>",
    ],
)
def test_qt_takes_no_name_for_html(text: str) -> None:
    core = pytest.importorskip("qtpy.QtGui")
    from qtpy.QtCore import Qt

    assert core is not None
    assert not Qt.mightBeRichText(without_bidi_marks(text))
    assert without_bidi_marks(text).replace("\u200b", "") == text
