"""A batch takes every image of a file as a row of its own, and folders of slices as stacks where it is told so."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from batch_folders import run, settings_for, states, write_image
from made_images import write_positions, write_slices

from napari_skipseg.batch.inputs import find_inputs
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_stack

STACK = np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8)
POSITIONS = (STACK, np.roll(STACK, 1, axis=1))


def found(inputs: object, tmp_path: Path, tiny: Path, **more: object) -> list[tuple[str, str, str]]:
    entries = find_inputs(settings_for(inputs, tmp_path / "out", tiny, **more)).entries
    return [(entry.relative, entry.name, entry.file) for entry in entries]


# --- images of a file ------------------------------------------------------------------------------------------------


def test_every_image_of_a_file_is_a_row_and_their_results_have_names_of_their_own(tmp_path: Path, tiny: Path) -> None:
    path = write_positions(tmp_path / "in" / "positions.ome.tif", *POSITIONS)
    write_image(tmp_path / "in" / "one.tif")
    result = run(settings_for(tmp_path / "in", tmp_path / "out", tiny))
    assert states(result) == dict.fromkeys(("one.tif", "positions.ome.tif#0", "positions.ome.tif#1"), "done")
    made = sorted(file.name for file in result.folder.glob("*_probability.tif"))
    assert made == ["one_probability.tif", "positions_0_probability.tif", "positions_1_probability.tif"]
    with result.summary.open(encoding="utf-8-sig", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["", "Pos0", "Pos1"]
    assert "positions.ome.tif#1 Pos1" in result.report.read_text()
    for number in range(2):
        stack = read_stack(result.folder / f"positions_{number}_probability.tif")
        assert stack.shape == STACK.shape
    again = run(settings_for(tmp_path / "in", tmp_path / "out", tiny))
    assert set(states(again).values()) == {"skipped"}
    alone = found(f"{path}#1", tmp_path, tiny)
    assert alone == [("positions.ome.tif#1", "positions_1", f"{path}#1")]
    assert found(path, tmp_path, tiny) == [(f"positions.ome.tif#{n}", f"positions_{n}", f"{path}#{n}") for n in (0, 1)]


def test_names_that_clash_with_those_of_images_keep_their_endings(tmp_path: Path, tiny: Path) -> None:
    write_positions(tmp_path / "in" / "a.ome.tif", *POSITIONS)
    write_image(tmp_path / "in" / "a_1.tif")
    names = [name for _, name, _ in found(tmp_path / "in", tmp_path, tiny)]
    assert names == ["a_0", "a.ome.tif#1", "a_1.tif"]


def test_the_images_of_a_store_are_rows_by_their_paths(tmp_path: Path, tiny: Path) -> None:
    store = zarr.create_group(tmp_path / "in" / "b.zarr", attributes={"ome": {"bioformats2raw.layout": 3}})
    for number in range(2):
        axes = [{"name": name, "type": "space"} for name in "zyx"]
        datasets = [{"path": "s", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}]
        told = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
        group = store.create_group(str(number), attributes={"ome": told})
        group.create_array("s", data=STACK)
    path = tmp_path / "in" / "b.zarr"
    expected = [(f"b.zarr#{n}", f"b_{n}", str(path / str(n))) for n in range(2)]
    assert found(tmp_path / "in", tmp_path, tiny) == expected


def test_the_truth_of_an_image_has_its_number(tmp_path: Path, tiny: Path) -> None:
    write_positions(tmp_path / "in" / "p.ome.tif", *POSITIONS)
    with tifffile.TiffWriter(tmp_path / "truth.ome.tif", ome=True) as writer:
        for _ in range(2):
            writer.write((STACK > 128).astype(np.uint8), photometric="minisblack", metadata={"axes": "ZYX"})
    for place in ("truth.ome.tif", "truths"):
        if place == "truths":
            (tmp_path / place).mkdir()
            (tmp_path / "truth.ome.tif").rename(tmp_path / place / "p.ome.tif")
        result = run(settings_for(tmp_path / "in", tmp_path / f"out-{place}", tiny, truth=str(tmp_path / place)))
        assert all(row.scores for row in result.rows), [row.note for row in result.rows]


def test_a_set_of_files_that_hold_one_image_is_one_row(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="p{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(3)
    )
    for z in range(3):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{z}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" '
            f'SizeX="40" SizeY="40" SizeZ="3" SizeC="1" SizeT="1"><Channel ID="c" SamplesPerPixel="1"/>{data}</Pixels>'
            "</Image></OME>"
        )
        tifffile.imwrite(folder / f"p{z}.ome.tif", STACK[z], description=xml, metadata=None)
    assert [relative for relative, _, _ in found(folder, tmp_path, tiny)] == ["p0.ome.tif"]


# --- folders of slices -----------------------------------------------------------------------------------------------


def test_folders_of_slices_are_stacks_with_truths_that_are_folders_too(tmp_path: Path, tiny: Path) -> None:
    for name in ("a", "b.1", "deep/c"):
        write_slices(tmp_path / "in" / name, STACK)
        write_slices(tmp_path / "truth" / name, (STACK > 128).astype(np.uint8))
    (tmp_path / "in" / "empty").mkdir()
    (tmp_path / "in" / "a" / "Thumbs.db").write_text("no image")
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny, as_stack=True, truth=str(tmp_path / "truth"))
    result = run(settings)
    assert states(result) == {"a": "done", "b.1": "done"}
    assert all(row.scores for row in result.rows)
    assert all("missing" in row.note for row in result.rows)
    assert read_stack(result.folder / "b.1_probability.tif").shape == STACK.shape
    assert set(states(run(settings)).values()) == {"skipped"}
    tifffile.imwrite(tmp_path / "in" / "a" / "s_9.tif", STACK[0], photometric="minisblack")
    assert states(run(settings)) == {"a": "done", "b.1": "skipped"}
    relatives = [relative for relative, _, _ in found(tmp_path / "in", tmp_path, tiny, as_stack=True, recursive=True)]
    assert relatives == ["a", "b.1", "deep/c"]
    pattern = [relative for relative, _, _ in found(tmp_path / "in" / "b*", tmp_path, tiny, as_stack=True)]
    assert pattern == ["b.1"]


def test_one_folder_of_slices_is_one_stack_and_its_truth_may_be_one(tmp_path: Path, tiny: Path) -> None:
    folder = write_slices(tmp_path / "sections", STACK)
    truth = write_slices(tmp_path / "truth", (STACK > 128).astype(np.uint8))
    assert found(folder, tmp_path, tiny, as_stack=True) == [("sections", "sections", str(folder))]
    assert [relative for relative, _, _ in found(folder, tmp_path, tiny)] == ["s_1.tif", "s_10.tif", "s_9.tif"]
    result = run(settings_for(folder, tmp_path / "out", tiny, as_stack=True, truth=str(truth)))
    assert states(result) == {"sections": "done"}
    assert result.rows[0].scores


def test_a_folder_that_is_no_stack_fails_in_its_row_and_others_go_on(tmp_path: Path, tiny: Path) -> None:
    write_slices(tmp_path / "in" / "good", STACK)
    write_slices(tmp_path / "in" / "bad", STACK)
    tifffile.imwrite(tmp_path / "in" / "bad" / "s_9.tif", STACK[0, :20], photometric="minisblack")
    result = run(settings_for(tmp_path / "in", tmp_path / "out", tiny, as_stack=True))
    assert states(result) == {"bad": "failed", "good": "done"}
    assert "s_9.tif" in result.rows[0].reason


def test_what_is_no_folder_of_slices_is_told(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="contains no folder with slices"):
        found(tmp_path / "empty", tmp_path, tiny, as_stack=True)
    with pytest.raises(InputError, match="is no folder of slices"):
        found(write_image(tmp_path / "a.tif"), tmp_path, tiny, as_stack=True)
