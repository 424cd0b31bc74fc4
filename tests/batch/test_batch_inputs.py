"""Which files a batch is of: by folder, file and pattern; what is left out; what the results are called."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from batch_folders import settings_for, write_image
from PIL import Image

from napari_skipseg.batch.inputs import BatchInputs, find_inputs
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr

NOISE = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with images of several kinds, in a tree, and other things among them."""
    folder = tmp_path / "in"
    for name in ("b.tif", "deep/c.tif", "deep/deeper/d.ome.tif", ".hidden.tif", ".cache/e.tif"):
        write_image(folder / name)
    Image.fromarray(NOISE).save(folder / "a.png")
    write_ome_zarr(folder / "deep" / "f.ome.zarr", NOISE, Layout(NOISE.shape, Space("YX"), "uint8"))
    for name in ("notes.txt", "deep/table.csv", "Thumbs.db"):
        (folder / name).write_text("no image")
    return folder


def find(inputs: object, tmp_path: Path, tiny: Path, **more: object) -> BatchInputs:
    return find_inputs(settings_for(inputs, tmp_path / "out", tiny, **more))


def found(inputs: BatchInputs) -> list[str]:
    return [entry.relative for entry in inputs.entries]


def test_a_folder_gives_its_images_and_counts_the_rest(mixed: Path, tmp_path: Path, tiny: Path) -> None:
    inputs = find(mixed, tmp_path, tiny)
    assert found(inputs) == ["a.png", "b.tif"]
    assert (inputs.others, inputs.ours) == (2, 0)


def test_a_store_is_one_image_and_not_a_folder(mixed: Path, tmp_path: Path, tiny: Path) -> None:
    inputs = find(mixed, tmp_path, tiny, recursive=True)
    assert found(inputs) == ["a.png", "b.tif", "deep/c.tif", "deep/deeper/d.ome.tif", "deep/f.ome.zarr"]
    assert [entry.folder for entry in inputs.entries] == ["", "", "deep", "deep/deeper", "deep"]
    assert [entry.name for entry in inputs.entries] == ["a", "b", "c", "d", "f"]
    assert found(find(mixed / "deep" / "f.ome.zarr", tmp_path, tiny)) == ["f.ome.zarr"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.tif", ["b.tif"]),
        ("**/*.tif", ["b.tif", "deep/c.tif", "deep/deeper/d.ome.tif"]),
        ("deep/*", ["c.tif", "f.ome.zarr"]),
        ("*/?.tif", ["deep/c.tif"]),
        ("[ab].*", ["a.png", "b.tif"]),
        ("[!a].*", ["b.tif"]),
        ("d**/*.ome.*", ["deep/deeper/d.ome.tif", "deep/f.ome.zarr"]),
    ],
)
def test_patterns_name_files_in_a_tree(
    mixed: Path, tmp_path: Path, tiny: Path, pattern: str, expected: list[str]
) -> None:
    assert found(find(f"{mixed}/{pattern}", tmp_path, tiny)) == expected


def test_a_name_with_brackets_is_a_file_where_it_is_there(mixed: Path, tmp_path: Path, tiny: Path) -> None:
    write_image(mixed / "[1].tif")
    assert found(find(mixed / "[1].tif", tmp_path, tiny)) == ["[1].tif"]


@pytest.mark.parametrize("folder", ["data [2024]", "[ab]", "what?", "a*b/run [3]", "[!x]/[y]"])
@pytest.mark.parametrize("pattern", ["*.tif", "[ab].tif", "?.tif"])
def test_a_folder_that_exists_is_no_pattern_whatever_its_name(
    tmp_path: Path, tiny: Path, folder: str, pattern: str
) -> None:
    for name in ("a.tif", "b.tif"):
        write_image(tmp_path / "in" / folder / name)
    assert found(find(f"{tmp_path}/in/{folder}/{pattern}", tmp_path, tiny)) == ["a.tif", "b.tif"]


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_patterns_meet_names_in_either_unicode_form(tmp_path: Path, tiny: Path, stored: str, asked: str) -> None:
    write_image(tmp_path / "in" / unicodedata.normalize(stored, "Zürich/café 1.tif"))
    pattern = unicodedata.normalize(asked, "Zürich/café*.tif")
    (entry,) = find(f"{tmp_path}/in/{pattern}", tmp_path, tiny).entries
    assert Path(entry.file).is_file()


def test_what_begins_as_a_tiff_is_one_whatever_it_is_called(mixed: Path, tmp_path: Path, tiny: Path) -> None:
    shutil.copy(mixed / "b.tif", mixed / "scan.dat")
    assert found(find(mixed, tmp_path, tiny)) == ["a.png", "b.tif", "scan.dat"]


def test_results_of_ours_and_folders_of_runs_are_left_out(mixed: Path, tmp_path: Path, tiny: Path) -> None:
    recipe = {"operation": "segment"}
    write_ome_tiff(mixed / "b_probability.tif", NOISE, Space("YX", (1.0, 1.0, 1.0), "pixel"), description=recipe)
    write_image(mixed / "x_binary.tif")  # of somebody else
    write_image(mixed / "old" / "model-1234" / "b.tif")
    (mixed / "old" / "model-1234" / "records").mkdir()
    (mixed / "old" / "model-1234" / "batch.json").write_text("{}")
    write_image(mixed / "b.unfinished" / "b.tif")
    inputs = find(mixed, tmp_path, tiny, recursive=True)
    assert "x_binary.tif" in found(inputs)
    assert not {"b_probability.tif", "old/model-1234/b.tif", "b.unfinished/b.tif"} & set(found(inputs))
    assert inputs.ours == 1


def test_inputs_that_would_write_one_name_keep_their_endings(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.tif", "A.tiff", "a.tif.tif", "b.tif", "deep/a.tif"):
        write_image(folder / name)
    Image.fromarray(NOISE).save(folder / "a.png")
    names = {entry.relative: entry.name for entry in find(folder, tmp_path, tiny, recursive=True).entries}
    assert names.pop("b.tif") == "b"
    assert names.pop("deep/a.tif") == "a"
    assert names == {name: name for name in ("a.tif", "A.tiff", "a.png", "a.tif.tif")}


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ("in", "in", "lies among the inputs"),
        ("in", "in/results", "lies among the inputs"),
        ("in/*.tif", "in/results", "lies among the inputs"),
        ("in/b.tif", "in", "lies among the inputs"),
        ("in", "in/deep/f.ome.zarr/out", "lies in an image"),
        ("missing", "out", "does not exist"),
        ("missing/*.tif", "out", "does not exist"),
        ("in/*.mrc", "out", "contains no image"),
        ("https://somewhere/in", "out", "is an address"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    mixed: Path, tmp_path: Path, tiny: Path, inputs: str, output: str, message: str
) -> None:
    given = inputs if "://" in inputs else tmp_path / inputs
    with pytest.raises(SkipsegError, match=message):
        find_inputs(settings_for(given, tmp_path / output, tiny))


def test_results_may_lie_among_the_inputs_where_that_is_asked_for(mixed: Path, tiny: Path) -> None:
    assert found(find_inputs(settings_for(mixed, mixed / "results", tiny, inside=True))) == ["a.png", "b.tif"]
    with pytest.raises(SkipsegError, match="lies in an image"):
        find_inputs(settings_for(mixed, mixed / "deep" / "f.ome.zarr", tiny, inside=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_links_that_lead_nowhere_fail_later_and_pipes_are_no_images(mixed: Path, tmp_path: Path, tiny: Path) -> None:
    (mixed / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    (mixed / "loop").symlink_to(mixed)
    os.mkfifo(mixed / "pipe.tif")
    inputs = find(mixed, tmp_path, tiny, recursive=True)
    assert "gone.tif" in found(inputs)
    assert not [name for name in found(inputs) if name.startswith(("loop", "pipe"))]


def write_numbered(folder: Path, count: int, size: int = 16) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((size, size), number, np.uint8)).save(folder / f"s_{number}.png")
    return folder


def test_a_folder_of_folders_with_slices_names_the_flags_that_take_them(tmp_path: Path, tiny: Path) -> None:
    write_numbered(tmp_path / "in" / "sections", 3)
    with pytest.raises(SkipsegError, match=r"--recursive.*--as-stack"):
        find(tmp_path / "in", tmp_path, tiny)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SkipsegError, match="check the name"):
        find(tmp_path / "empty", tmp_path, tiny)


def test_many_numbered_images_of_one_size_may_be_meant_as_a_stack(tmp_path: Path, tiny: Path) -> None:
    write_numbered(tmp_path / "in" / "few", 3)
    assert find(tmp_path / "in", tmp_path, tiny, recursive=True).hint == ""
    write_numbered(tmp_path / "in" / "many", 9)
    assert "--as-stack" in find(tmp_path / "in", tmp_path, tiny, recursive=True).hint
    assert "9 numbered images" in find(tmp_path / "in" / "many", tmp_path, tiny).hint
    assert find(tmp_path / "in", tmp_path, tiny, as_stack=True).hint == ""
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "in" / "many" / "s_8.png")
    assert find(tmp_path / "in", tmp_path, tiny, recursive=True).hint == ""
