"""Names of files are compared in Unicode's normal form C: what looks the same is the same."""

import unicodedata
from pathlib import Path

import pytest

from napari_skipseg.file_names import find_inside, normalized_name

NAMES = ("café.tif", "Übung 3.tif", "naïve/año.tif", "한국.tif", "Å.tif")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_a_file_is_found_in_either_form(tmp_path: Path, name: str, stored: str, asked: str):
    file = tmp_path / unicodedata.normalize(stored, name)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert find_inside(tmp_path, unicodedata.normalize(asked, name)) == file


def test_the_exact_name_comes_first(tmp_path: Path):
    both = [tmp_path / unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    for file in both:
        file.touch()
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes both forms for one name")
    assert [find_inside(tmp_path, file.name) for file in both] == both


def test_what_is_not_there_is_not_found(tmp_path: Path):
    (tmp_path / "e.tif").touch()
    assert find_inside(tmp_path, "é.tif") is None
    assert find_inside(tmp_path, "missing/é.tif") is None
    assert normalized_name("e\u0301") == "é"
