"""`napari-skipseg export`: what it writes is opened again by the programs' own libraries, and nothing is half there."""

import errno
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from labels_to_export import SPACE, shapes

import napari_skipseg as skipseg
from napari_skipseg.csv_files import ENCODING
from napari_skipseg.exports import to_folder
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.objects.measure import measure_objects
from napari_skipseg.proofread.edits import Delete, Merge
from napari_skipseg.proofread.exchange import write_edits
from napari_skipseg.proofread.store import edits_record


def rows_of(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text(ENCODING).splitlines()]


def test_neuroglancer_labels_are_opened_by_cloud_volume(run, labels_file: Path, tmp_path: Path) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    ran = run("export", labels_file, tmp_path / "out", "--precomputed", "--meshes", "ply", "--simplify", "1")
    assert ran.code == 0, ran.err
    folder = tmp_path / "out" / "made_precomputed"
    volume = cloudvolume.CloudVolume(f"file://{folder}", progress=False, fill_missing=True)
    assert list(volume.resolution) == [8, 10, 30]
    assert list(volume.voxel_offset) == [10, 20, 10]
    assert volume.layer_type == "segmentation"
    assert volume.dtype == "uint32"
    np.testing.assert_array_equal(np.asarray(volume[:])[..., 0].T, shapes())
    properties = json.loads((folder / "segment_properties" / "info").read_text())["inline"]
    assert properties["ids"] == ["1", "3", "9", "70"]
    assert properties["properties"][0]["values"][1] == (shapes() == 3).sum() * 2400
    mesh = volume.mesh.get(70)[70] if isinstance(volume.mesh.get(70), dict) else volume.mesh.get(70)
    # the middle of the last voxel; Neuroglancer's voxels begin at their offset
    expected = [(10 + 49.5) * 8, (20 + 43.5) * 10, (10 + 29.5) * 30]
    np.testing.assert_allclose(np.unique(mesh.vertices, axis=0).mean(axis=0), expected)


def test_numbers_above_32_bits_go_to_neuroglancer_as_uint64(run, tmp_path: Path) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    wide = shapes().astype(np.uint64)
    wide[wide == 3] = 2**40
    store = zarr.create_array(
        tmp_path / "wide.zarr", shape=wide.shape, dtype=wide.dtype, chunks=(16, 16, 16), zarr_format=2
    )
    store[:] = wide
    flags = ("--voxel-size", 30, 10, 8, "--unit", "nm", "--axes", "ZYX")
    ran = run("export", tmp_path / "wide.zarr", tmp_path, "--precomputed", "--table", *flags)
    assert ran.code == 0, ran.err
    volume = cloudvolume.CloudVolume(f"file://{tmp_path / 'wide_precomputed'}", progress=False, fill_missing=True)
    np.testing.assert_array_equal(np.asarray(volume[:])[..., 0].T, wide)
    assert [row[0] for row in rows_of(tmp_path / "wide_table.csv")[1:]] == ["1", "9", "70", str(2**40)]


@pytest.mark.parametrize("content", ["contours", "points"])
def test_an_imod_model_is_opened_by_imodmodel(run, labels_file: Path, tmp_path: Path, content: str) -> None:
    imodmodel = pytest.importorskip("imodmodel")
    ran = run("export", labels_file, tmp_path, "--imod", content)
    assert ran.code == 0, ran.err
    model = imodmodel.ImodModel.from_file(tmp_path / "made.mod")
    assert (model.header.xmax, model.header.ymax, model.header.zmax) == (50, 44, 30)
    assert model.header.pixelsize == 8
    assert model.header.units == -9
    assert model.header.zscale == 3.75
    assert [each.header.name.strip("\x00") for each in model.objects] == ["1", "3", "9", "70"]
    last = model.objects[-1].contours
    assert len(last) == 1
    np.testing.assert_allclose(last[0].points.mean(axis=0), (49.5, 43.5, 29))
    if content == "contours":
        ball = model.objects[1].contours
        assert sorted({float(each.points[0, 2]) for each in ball}) == list(range(4, 25))
        (slice_5,) = (each.points for each in ball if each.points[0, 2] == 5)
        x, y = slice_5[:, 0], slice_5[:, 1]
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        assert area == pytest.approx((shapes()[5] == 3).sum(), rel=0.15)


def test_a_webknossos_dataset_has_the_labels_at_their_place(run, labels_file: Path, tmp_path: Path) -> None:
    """`test_webknossos_library.py` opens it with the library, which needs an environment of its own."""
    ran = run("export", labels_file, tmp_path, "--webknossos")
    assert ran.code == 0, ran.err
    described = json.loads((tmp_path / "made_webknossos" / "datasource-properties.json").read_text())
    assert described["scale"] == {"factor": [8, 10, 30], "unit": "nanometer"}
    (layer,) = described["dataLayers"]
    assert layer["boundingBox"] == {"topLeft": [10, 20, 10], "width": 50, "height": 44, "depth": 30}
    assert layer["largestSegmentId"] == 70
    array = zarr.open_array(tmp_path / "made_webknossos" / "segmentation" / "1", mode="r")
    np.testing.assert_array_equal(np.asarray(array[0, 10:60, 20:64, 10:40]).T, shapes())


def test_the_table_and_the_meshes_follow_the_edits(run, labels_file: Path, tmp_path: Path) -> None:
    stack = read_stack(labels_file, are_labels=True)
    edits = [Merge(((0, 14, 14, 22), (0, 14, 20, 45))), Delete(((0, 0, 0, 0),))]
    write_edits(tmp_path / "edits.json", edits_record(stack, ""), edits)
    flags = ("--table", "--contacts", "--meshes", "obj", "--edits", tmp_path / "edits.json")
    ran = run("export", labels_file, tmp_path / "out", *flags)
    assert ran.code == 0, ran.err
    merged = shapes()
    merged[np.isin(merged, (3, 9))] = 3
    merged[merged == 1] = 0
    expected = measure_objects(type(stack)(merged, SPACE))
    rows = rows_of(tmp_path / "out" / "made_table.csv")
    assert rows[0] == list(expected.names)
    kept = {row[0] for row in rows[1:]}
    assert len(kept) == 2
    assert sorted(int(row[1]) for row in rows[1:]) == sorted(expected.column("voxels").tolist())
    assert len(rows_of(tmp_path / "out" / "made_contacts.csv")) == 1  # what touched is one object now
    assert {path.stem for path in (tmp_path / "out" / "made_meshes").iterdir()} == kept


def test_chosen_objects_and_large_ones_only(run, labels_file: Path, tmp_path: Path) -> None:
    ran = run("export", labels_file, tmp_path, "--meshes", "ply", "--objects", "9,70", "--least-voxels", "2")
    assert ran.code == 0, ran.err
    assert [path.name for path in (tmp_path / "made_meshes").iterdir()] == ["9.ply"]


@pytest.mark.parametrize(
    ("values", "flags", "sentence"),
    [
        (shapes(), (), "Nothing is chosen to be exported"),
        (shapes(), ("--meshes", "ply", "--objects", "4"), "There is no object 4 in 'made'."),
        (shapes(), ("--meshes", "ply", "--objects", "three"), "'three' are no objects"),
        (shapes()[:1], ("--meshes", "ply"), "is a plane, and its objects have no surface"),
        (shapes().astype(np.float32), ("--contacts",), "contains float32 values: objects are whole numbers"),
        (shapes().astype(np.int16) - 1, ("--contacts",), "contains numbers below 0, which are no labels"),
        (np.zeros_like(shapes()), ("--contacts",), "has no objects of 1 voxels or more"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(run, tmp_path: Path, values, flags, sentence) -> None:
    write_ome_tiff(tmp_path / "made.tif", values, SPACE)
    ran = run("export", tmp_path / "made.tif", tmp_path / "out", *flags)
    assert ran.code == 1
    assert sentence in " ".join(ran.err.split())
    assert not (tmp_path / "out").exists()


def test_without_a_voxel_size_lengths_are_in_pixels_and_neuroglancer_asks(run, tmp_path: Path) -> None:
    write_ome_tiff(tmp_path / "made.tif", shapes(), Space("ZYX"))
    ran = run("export", tmp_path / "made.tif", tmp_path, "--contacts")
    assert ran.code == 0
    assert "has no voxel size, so lengths are in pixels" in " ".join(ran.err.split())
    assert rows_of(tmp_path / "made_contacts.csv")[0][-1] == "area (pixel²)"
    ran = run("export", tmp_path / "made.tif", tmp_path, "--precomputed")
    assert ran.code == 1
    assert "which Neuroglancer needs: give it with --voxel-size" in " ".join(ran.err.split())


def test_several_times_are_exported_one_by_one(run, tmp_path: Path) -> None:
    write_ome_tiff(tmp_path / "made.tif", np.stack([shapes(), 2 * shapes()]), SPACE.with_axes("TZYX"))
    ran = run("export", tmp_path / "made.tif", tmp_path, "--contacts")
    assert "has 2 times: choose one with --time, from 0 to 1" in " ".join(ran.err.split())
    ran = run("export", tmp_path / "made.tif", tmp_path, "--contacts", "--time", "1")
    assert ran.code == 0, ran.err
    assert rows_of(tmp_path / "made_contacts.csv")[1][:2] == ["6", "18"]


def test_what_is_there_stays_unless_it_is_to_be_replaced(run, labels_file: Path, tmp_path: Path) -> None:
    (tmp_path / "made_meshes").mkdir()
    (tmp_path / "made_meshes" / "mine.txt").write_text("mine")
    ran = run("export", labels_file, tmp_path, "--meshes", "ply")
    assert ran.code == 1
    assert "is there already" in ran.err
    assert (tmp_path / "made_meshes" / "mine.txt").exists()
    assert run("export", labels_file, tmp_path, "--meshes", "ply", "--overwrite").code == 0
    assert {path.name for path in (tmp_path / "made_meshes").iterdir()} == {"1.ply", "3.ply", "9.ply", "70.ply"}


def test_a_full_disk_leaves_what_was_there(run, labels_file: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    assert run("export", labels_file, out, "--contacts", "--meshes", "ply").code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(to_folder, "write_mesh", full)
    ran = run("export", labels_file, out, "--contacts", "--meshes", "ply", "--overwrite")
    assert ran.code == 1
    assert "There is no space left to write" in " ".join(ran.err.split())
    kept = {path for path in out.rglob("*") if path.is_relative_to(out / "made_unfinished")}
    assert out / "made_unfinished" / "mesh-0" in kept
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path not in kept} == before
    monkeypatch.undo()
    assert run("export", labels_file, out, "--contacts", "--meshes", "ply", "--overwrite").code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_missing_package_is_named_with_the_line_to_install_it(run, labels_file: Path, tmp_path: Path, monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for flags, extra in (
        (("--meshes", "ply"), "meshes"),
        (("--skeletons",), "skeletons"),
        (("--imod", "points"), "imod"),
    ):
        ran = run("export", labels_file, tmp_path, *flags)
        assert ran.code == 1
        assert f"install it with pip install 'napari-skipseg[{extra}]'" in " ".join(ran.err.split())


def test_objects_of_slices_are_measured_as_when_they_were_found(run, tmp_path: Path) -> None:
    values = np.random.default_rng(2).random((3, 30, 40), np.float32)
    write_ome_tiff(tmp_path / "em.tif", values, Space("ZYX", (50, 4, 4), "nm"))
    flags = ("--planes", "slices", "--threshold", 0.7, "--smallest", 3)
    assert run("objects", tmp_path / "em.tif", tmp_path, *flags).code == 0
    ran = run("export", tmp_path / "em_objects.tif", tmp_path, "--table", "--contacts")
    assert (ran.code, "were found slice by slice" in ran.err) == (0, True)
    table, found = rows_of(tmp_path / "em_objects_table.csv"), rows_of(tmp_path / "em_objects.csv")
    assert "area (nm²)" in table[0]
    assert table == [row[: len(table[0])] for row in found]
    assert rows_of(tmp_path / "em_objects_contacts.csv")[0][-1] == "length (nm)"
    exported = skipseg.export_objects(tmp_path / "em_objects.tif", tmp_path / "python", table=True)
    assert rows_of(exported[0]) == table
