"""The command `objects` and `skipseg.find_objects`: from a file of ours to labels, measurements and scores."""

import csv
import json
import signal
import sys

import numpy as np
import pytest
from made import bumpy, cells

import napari_skipseg as skipseg
from napari_skipseg import cli
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.scores.instances import score_instances
from napari_skipseg.scores.matching import score_matching


@pytest.fixture
def objects(monkeypatch, capsys):
    """Run `objects` in this process; return its exit code and what it said."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["napari-skipseg", "objects", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def probability(tmp_path):
    """A probability of two classes, as `segment` writes it."""
    membrane = cells((40, 60))
    values = np.round(np.stack([bumpy((40, 60)), membrane]) * 255).astype(np.uint8)
    path = tmp_path / "em_probability.tif"
    recipe = {"classes": ["vesicle", "membrane"]}
    write_ome_tiff(path, values, "CYX", (1.0, 4.0, 4.0), "nm", channel_names=recipe["classes"], description=recipe)
    return path


def test_labels_table_and_scores(objects, probability, tmp_path):
    truth = np.repeat(np.repeat(np.array([[1, 2], [3, 4]], np.uint8), 20, axis=0), 30, axis=1)
    write_ome_tiff(tmp_path / "truth.tif", truth, "YX", (1.0, 4.0, 4.0), "nm")
    image = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8)
    write_ome_tiff(tmp_path / "em.tif", image, "YX", (1.0, 4.0, 4.0), "nm")
    out = tmp_path / "out"
    flags = ("--method", "cells", "--image", tmp_path / "em.tif", "--truth", tmp_path / "truth.tif")
    code, shown, errors = objects(probability, out, *flags)
    assert (code, errors) == (0, "")
    assert shown.splitlines()[:2] == [str(out / "em_objects.tif"), str(out / "em_objects.csv")]
    labels = read_stack(out / "em_objects.tif")
    assert (labels.voxel_size, labels.unit) == ((1.0, 4.0, 4.0), "nm")
    found = labels.data[...]
    assert found.max() == 4
    with (out / "em_objects.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["area (nm²)"]) for row in rows] == [16 * int((found == n).sum()) for n in (1, 2, 3, 4)]
    assert float(rows[0]["intensity mean"]) == pytest.approx(image[found == 1].mean(), rel=1e-6)
    assert read_recipe(out / "em_objects.tif")["objects"]["method"] == "cells"
    told = json.loads(objects(probability, out, *flags, "--json")[1])
    assert told["objects"] == 4
    assert told["adapted_rand_error"] == score_instances(found, truth).adapted_rand_error
    assert told["average_precision"] == score_matching(found, truth).mean


def test_flags_reach_the_search(objects, probability, tmp_path):
    out = tmp_path / "out"
    flags = ("--class", "vesicle", "--threshold", 0.6, "--smallest", 30, "--fill-holes", "--border", "remove")
    assert objects(probability, out, *flags, "--format", "ome-zarr")[0] == 0
    asked = {"class_name": "vesicle", "threshold": 0.6, "smallest": 30, "fill_holes": True, "border": "remove"}
    expected = skipseg.find_objects(probability, **asked)
    assert np.array_equal(read_stack(out / "em_objects.ome.zarr").data[...], expected)
    assert expected.any()


def test_a_wrong_option_or_something_of_others_in_the_way_is_one_sentence(objects, probability, tmp_path):
    code, _, errors = objects(probability, tmp_path / "out", "--method", "magic")
    assert (code, errors.count("\n")) == (1, 1)
    assert "choose one of components, watershed, cells" in errors
    write_ome_tiff(tmp_path / "em_objects.tif", np.ones((4, 4), np.uint8), "YX", (1.0, 1.0, 1.0), "pixel")
    code, _, errors = objects(probability, tmp_path)
    assert (code, "not ours" in errors) == (1, True)
    assert not (tmp_path / "out").exists()


def test_python_takes_arrays_and_stacks():
    values = bumpy((20, 30))
    found = skipseg.find_objects(values, method="watershed", seed_distance=4)
    assert np.array_equal(found, skipseg.find_objects(skipseg.Stack(values, "YX"), method="watershed", seed_distance=4))
    assert len(skipseg.measure_objects(skipseg.Stack(found, "YX"))) == found.max()
