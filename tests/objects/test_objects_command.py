"""The command `objects` and `skipseg.find_objects`: from a file of ours to labels, measurements and scores."""

import contextlib
import csv
import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tifffile
from made import bumpy, cells

import napari_skipseg as skipseg
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.objects import blocks, find_in_blocks
from napari_skipseg.objects.block_regions import find_block_regions
from napari_skipseg.scores.instances import score_instances, score_matching


@pytest.fixture
def probability(tmp_path):
    """A probability of two classes, as `segment` writes it."""
    membrane = cells((40, 60))
    values = np.round(np.stack([bumpy((40, 60)), membrane]) * 255).astype(np.uint8)
    path = tmp_path / "em_probability.tif"
    recipe = {"classes": ["vesicle", "membrane"]}
    write_ome_tiff(
        path, values, Space("CYX", (1.0, 4.0, 4.0), "nm"), channel_names=recipe["classes"], description=recipe
    )
    return path


def test_labels_table_and_scores(objects, probability, tmp_path):
    truth = np.repeat(np.repeat(np.array([[1, 2], [3, 4]], np.uint8), 20, axis=0), 30, axis=1)
    write_ome_tiff(tmp_path / "truth.tif", truth, Space("YX", (1.0, 4.0, 4.0), "nm"))
    image = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8)
    write_ome_tiff(tmp_path / "em.tif", image, Space("YX", (1.0, 4.0, 4.0), "nm"))
    out = tmp_path / "out"
    flags = ("--method", "cells", "--image", tmp_path / "em.tif", "--truth", tmp_path / "truth.tif")
    code, shown, errors = objects(probability, out, *flags, "--class", "membrane")
    assert (code, errors) == (0, "")
    assert shown.splitlines()[:2] == [str(out / "em_objects.tif"), str(out / "em_objects.csv")]
    labels = read_stack(out / "em_objects.tif")
    assert (labels.space.voxel_size, labels.space.unit) == ((1.0, 4.0, 4.0), "nm")
    found = labels.data[...]
    assert found.max() == 4
    with (out / "em_objects.csv").open(newline="", encoding="utf-8-sig") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["area (nm²)"]) for row in rows] == [16 * int((found == n).sum()) for n in (1, 2, 3, 4)]
    assert float(rows[0]["intensity mean"]) == pytest.approx(image[found == 1].mean(), rel=1e-6)
    assert read_recipe(out / "em_objects.tif")["objects"]["method"] == "cells"
    assert "pairs" not in shown
    told = json.loads(objects(probability, out, *flags, "--json")[1])
    assert told["objects"] == 4
    assert told["adapted_rand_error"] == score_instances(found, truth).adapted_rand_error
    assert told["average_precision"] == score_matching(found, truth).mean


def test_an_image_that_passes_for_one_of_colours_has_the_axes_of_its_probability(objects, tmp_path):
    values = np.random.default_rng(1).integers(0, 255, (4, 30, 40)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "em.tif", values, photometric="rgb", planarconfig="separate", extrasamples=[0])
    assert read_stack(tmp_path / "em.tif").space.axes != "ZYX"
    write_ome_tiff(tmp_path / "em_probability.tif", values, Space("ZYX", (1.0, 1.0, 1.0), "nm"))
    code, _, errors = objects(tmp_path / "em_probability.tif", tmp_path / "out", "--image", tmp_path / "em.tif")
    assert code == 0, errors
    labels = read_stack(tmp_path / "out" / "em_objects.tif").data[...]
    with (tmp_path / "out" / "em_objects.csv").open(newline="", encoding="utf-8-sig") as handle:
        first = next(csv.DictReader(handle))
    assert float(first["intensity mean"]) == pytest.approx(values[labels == 1].mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("depth", "planes", "is_told"), [(50, "volume", True), (50, "slices", False), (8, "volume", False)]
)
def test_cells_of_a_volume_with_thick_slices_are_doubted(objects, tmp_path, depth, planes, is_told):
    values = np.stack([np.round(cells((40, 60)) * 255).astype(np.uint8)] * 2)
    write_ome_tiff(
        tmp_path / "em_probability.tif",
        values,
        Space("ZYX", (float(depth), 4.0, 4.0), "nm"),
        description={"classes": ["membrane"]},
    )
    flags = ("--method", "cells", "--planes", planes)
    code, _, errors = objects(tmp_path / "em_probability.tif", tmp_path / "out", *flags)
    assert code == 0
    assert ("12.5 times as thick" in errors) == is_told


def test_flags_reach_the_search(objects, probability, tmp_path):
    out = tmp_path / "out"
    flags = ("--class", "vesicle", "--threshold", 0.6, "--smallest", 30, "--fill-holes", "--border", "remove")
    assert objects(probability, out, *flags, "--format", "ome-zarr")[0] == 0
    asked = {"class_name": "vesicle", "threshold": 0.6, "smallest": 30, "fill_holes": True, "border": "remove"}
    expected = skipseg.find_objects(probability, **asked)
    assert np.array_equal(read_stack(out / "em_objects.ome.zarr").data[...], expected)
    assert expected.any()


def test_of_several_classes_the_one_that_is_searched_is_named(objects, probability, tmp_path):
    assert "class vesicle" in objects(probability, tmp_path / "first")[2]
    assert "--class" not in objects(probability, tmp_path / "named", "--class", "vesicle")[2]


def test_a_wrong_option_or_something_of_others_in_the_way_is_one_sentence(objects, probability, tmp_path):
    code, _, errors = objects(probability, tmp_path / "out", "--method", "magic")
    assert (code, errors.count("\n")) == (1, 1)
    assert "choose one of components, watershed, cells" in errors
    write_ome_tiff(tmp_path / "em_objects.tif", np.ones((4, 4), np.uint8), Space("YX", (1.0, 1.0, 1.0), "pixel"))
    code, _, errors = objects(probability, tmp_path)
    assert (code, "not ours" in errors) == (1, True)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_as_truth_is_refused_before_the_work(objects, probability, tmp_path):
    write_ome_tiff(tmp_path / "truth.tif", np.ones((3, 4), np.uint8), Space("YX", (1.0, 4.0, 4.0), "nm"))
    code, shown, errors = objects(probability, tmp_path / "out", "--truth", tmp_path / "truth.tif")
    assert (code, shown) == (1, "")
    assert "shape (40, 60) is not the truth's (3, 4)" in errors
    assert not (tmp_path / "out").exists()


def test_a_mask_as_truth_gives_no_scores_and_a_note(objects, probability, tmp_path):
    mask = np.where(cells((40, 60)) > 0, 0, 255).astype(np.uint8)
    write_ome_tiff(tmp_path / "truth.tif", mask, Space("YX", (1.0, 4.0, 4.0), "nm"))
    code, shown, errors = objects(probability, tmp_path / "out", "--truth", tmp_path / "truth.tif", "--json")
    assert (code, set(json.loads(shown))) == (0, {"objects", "files"})
    assert "mask of one label: give instances" in errors


def test_objects_are_not_looked_for_in_objects(objects, probability, tmp_path):
    assert objects(probability, tmp_path / "out")[0] == 0
    for file in ("em_objects.tif", "em_objects.ome.zarr"):
        code, _, errors = objects(tmp_path / "out" / file, tmp_path / "again")
        assert (code, "contains objects, as they were found already" in errors) == (1, True)
        assert objects(probability, tmp_path / "out", "--format", "ome-zarr")[0] == 0


def test_a_file_that_does_not_say_what_it_holds_is_warned_about(objects, tmp_path):
    image = (255 * bumpy((20, 30))).astype(np.uint8)
    for name, values, doubt in (
        ("raw", image, "is read as probability × 255"),
        ("labels", image // 40, "is read as labels of classes"),
        ("mask", np.where(image > 99, 255, 0).astype(np.uint8), ""),
        ("bits", (image > 99).astype(np.uint8), ""),
        ("share", bumpy((20, 30)), ""),
    ):
        write_ome_tiff(tmp_path / f"{name}.tif", values, Space("YX", (1.0, 1.0, 1.0), "pixel"))
        code, _, errors = objects(tmp_path / f"{name}.tif", tmp_path / "out")
        assert (code, doubt in errors, bool(errors)) == (0, True, bool(doubt))


def test_labels_in_another_format_do_not_stay_beside_a_new_table(objects, probability, tmp_path):
    out = tmp_path / "out"
    for form, other in (("tiff", "ome.zarr"), ("ome-zarr", "tif"), ("tiff", "ome.zarr")):
        assert objects(probability, out, "--format", form)[0] == 0
        assert not (out / f"em_objects.{other}").exists()
    (out / "em_objects.ome.zarr").mkdir()
    (out / "em_objects.ome.zarr" / "mine.txt").write_text("mine")
    code, _, errors = objects(probability, out)
    assert (code, "not ours" in errors) == (1, True)
    assert (out / "em_objects.ome.zarr" / "mine.txt").exists()


def test_a_table_says_what_it_holds_and_is_saved(tmp_path):
    labels = np.kron(np.arange(1, 3), np.ones((4, 4))).astype(np.uint8)
    table = skipseg.measure_objects(skipseg.Stack(labels, Space("YX", (1.0, 4.0, 4.0), "nm")))
    assert repr(table).startswith("Table of 2 rows: label, voxels, area (nm²)")
    table.write_csv(str(tmp_path / "table.csv"))
    assert (tmp_path / "table.csv").read_text(encoding="utf-8-sig").splitlines()[1].startswith("1,16,256,")


def test_python_takes_arrays_and_stacks():
    values = bumpy((20, 30))
    found = skipseg.find_objects(values, method="watershed", seed_distance=4)
    assert np.array_equal(
        found, skipseg.find_objects(skipseg.Stack(values, Space("YX")), method="watershed", seed_distance=4)
    )
    assert len(skipseg.measure_objects(skipseg.Stack(found, Space("YX")))) == found.max()


def test_a_command_that_was_stopped_goes_on_with_the_blocks_it_found(objects, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_SIDE", 16)
    values = np.round(bumpy((6, 40, 40)) * 255).astype(np.uint8)
    write_ome_tiff(tmp_path / "em_probability.tif", values, Space("ZYX", (1.0, 1.0, 1.0), "nm"))
    out, flags = tmp_path / "out", ("--method", "watershed")
    assert objects(tmp_path / "em_probability.tif", tmp_path / "whole", *flags)[0] == 0
    looked, stopping = [], [KeyboardInterrupt]

    def find(values, low, window, *how):
        if len(looked) >= 4 and stopping:
            raise stopping[0]
        looked.append(window.start)
        return find_block_regions(values, low, window, *how)

    monkeypatch.setattr(find_in_blocks, "find_block_regions", find)
    code, shown, errors = objects(tmp_path / "em_probability.tif", out, *flags)
    assert (code, shown) == (130, "")
    assert "the same command again" in errors
    assert [file.name for file in out.iterdir()] == ["em_objects.unfinished"]
    found = len(list(out.glob("*/blocks/*.npz")))
    assert found >= 3
    with held_by_another(out / "em_objects.unfinished"):
        code, _, errors = objects(tmp_path / "em_probability.tif", out, *flags)
        assert code == 1
        assert "is being written by a different run" in errors
    stopping.clear()
    looked.clear()
    assert objects(tmp_path / "em_probability.tif", out, *flags)[0] == 0
    assert len(looked) == 9 - found
    names = sorted(file.name for file in out.iterdir())
    assert names == ["em_objects.csv", "em_objects.tif", "em_objects_recipe.json", "em_objects_times.json"]
    for name in names[:3]:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((out / names[3]).read_text(encoding="utf-8"))["continued"] is True


@contextlib.contextmanager
def held_by_another(folder):
    """Another process that has taken the folder's lock."""
    code = (
        "import sys; from pathlib import Path; from napari_skipseg.locks import FolderLock;"
        "lock = FolderLock(Path(sys.argv[1]), ''); lock.take(); print('taken', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().strip() == b"taken"
        yield
        process.communicate()


def test_what_cannot_be_found_leaves_no_folder(objects, probability, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_SIDE", 16)
    assert objects(probability, tmp_path / "out", "--class", "cheese")[0] == 1
    monkeypatch.setattr(find_in_blocks, "find_block_regions", mock.Mock(side_effect=KeyboardInterrupt))
    assert objects(probability, tmp_path / "out", "--method", "cells")[0] == 130
    assert list((tmp_path / "out").iterdir()) == []
