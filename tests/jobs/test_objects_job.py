"""What the engine makes of a search for objects: the same as in memory, measured, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_skipseg.batch.run import iter_batch
from napari_skipseg.batch.settings import BatchSettings, make_settings
from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.identity import identify
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import QuantizedArray
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.encoding import find_npy_file
from napari_skipseg.jobs.messages import FindObjects, ListDevices, Segment
from napari_skipseg.objects.classes import ClassImage, probability_of_class
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.measure import measure_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end

SIZE, UNIT = (50.0, 4.0, 4.0), "nm"
OPTIONS = ObjectOptions(smallest=3)


def make_probability(seed: int = 0) -> Stack:
    """Random blocks of 4 x 4 pixels, and where they lie."""
    coarse = np.random.default_rng(seed).random((3, 8, 9)).astype(np.float32)
    return Stack(np.kron(coarse, np.ones((1, 4, 4), np.float32)), Space("ZYX", SIZE, UNIT, (100.0, 0.0, 8.0)), "em")


def test_objects_are_those_found_in_memory_with_their_measurements_and_a_recipe(engine: Engine) -> None:
    probability = make_probability()
    image = replace(probability, data=(np.arange(3 * 32 * 36) % 251).astype(np.uint8).reshape(3, 32, 36))
    found = run_to_end(
        engine.run(FindObjects(probability, ("membrane",), OPTIONS, image, recipe={"segmentation": {"model": "tiny"}}))
    )
    expected = find_objects_in_array(probability.data, Space("ZYX", SIZE), ("membrane",), OPTIONS)
    stack = read_stack(found.labels)
    np.testing.assert_array_equal(stack.read((...,)), expected)
    assert (stack.space.axes, stack.space.voxel_size, stack.space.unit, stack.space.origin) == (
        "ZYX",
        SIZE,
        UNIT,
        (100.0, 0.0, 8.0),
    )
    assert found.count == expected.max() == len(found.table)
    chosen = probability_of_class(ClassImage(probability, ("membrane",)), OPTIONS)
    table = measure_objects(replace(probability, data=expected), image, chosen)
    assert found.table.names == table.names
    for mine, theirs in zip(found.table.columns, table.columns, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    recipe = read_recipe(found.labels)
    assert found.recipe == recipe
    assert (recipe["operation"], recipe["objects"]["smallest"], recipe["layer"]) == ("objects", 3, "labels")
    assert (recipe["inputs"][0]["name"], recipe["segmentation"]) == ("em", {"model": "tiny"})


def test_a_result_taken_as_files_hold_it_has_the_very_objects_that_a_batch_finds_in_its_file(
    engine: Engine, model_folder: Path, tmp_path: Path
) -> None:
    image = gaussian_filter(np.random.default_rng(3).random((3, 80, 96)), (0, 1, 1)).astype(np.float32)
    write_ome_tiff(tmp_path / "a.tif", image, Space("ZYX", SIZE, UNIT))
    options = SegmentOptions(tile=64, device="cpu")
    result = run_to_end(engine.run(Segment(read_stack(tmp_path / "a.tif"), str(model_folder), options)))
    asked = ObjectOptions("watershed", threshold=float(np.median(result.probability)), seed_distance=2)
    request = replace(make_settings(str(model_folder), options), objects=asked)
    (row,) = run_to_end(
        iter_batch(BatchSettings(str(tmp_path / "a.tif"), str(tmp_path / "out"), request, inside=True))
    ).rows
    probability, expected = (
        next(file for file in row.outputs if file.endswith(f"_{name}.tif")) for name in ("probability", "objects")
    )
    whole = Stack(result.probability, result.space)
    taken = replace(whole, data=QuantizedArray(result.probability, "uint8"))
    found = [run_to_end(engine.run(FindObjects(each, ("membrane",), asked))) for each in (taken, whole)]
    mine, as_it_is = (read_stack(each.labels).read((...,)) for each in found)
    np.testing.assert_array_equal(mine, read_stack(expected).read((...,)))
    assert (as_it_is != mine).any()
    assert found[0].recipe["inputs"][0]["sha256"] == identify(read_stack(probability))


def test_the_same_search_writes_the_same_bytes(engine: Engine) -> None:
    one, other = (run_to_end(engine.run(FindObjects(make_probability(), (), OPTIONS))) for _ in range(2))
    assert one.labels != other.labels
    files = [{f.relative_to(each.labels): f.read_bytes() for f in each.labels.rglob("*.*")} for each in (one, other)]
    assert files[0] == files[1]


def test_an_image_in_a_file_is_read_there_and_labels_are_labels(engine: Engine, tmp_path: Path) -> None:
    values = (np.asarray(make_probability().data) * 3).astype(np.uint8)
    write_ome_zarr(tmp_path / "labels.ome.zarr", values, Layout(values.shape, Space("ZYX", SIZE, UNIT), "uint8"))
    stack = read_stack(tmp_path / "labels.ome.zarr")
    options = ObjectOptions(class_name="two")
    found = run_to_end(engine.run(FindObjects(stack, ("one", "two"), options, is_labels=True)))
    np.testing.assert_array_equal(
        read_stack(found.labels).read((...,)),
        find_objects_in_array(values, Space("ZYX", SIZE), ("one", "two"), options, labels=True),
    )
    assert "mean probability" not in found.table.names


def test_a_result_of_the_engine_is_not_copied(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "probability.npy", np.stack([make_probability(seed).data for seed in range(3)]))
    mapped = np.load(tmp_path / "probability.npy", mmap_mode="r")
    assert find_npy_file(mapped) == (str(tmp_path / "probability.npy"), None)
    assert find_npy_file(mapped[2]) == (str(tmp_path / "probability.npy"), 2)
    assert find_npy_file(mapped[1:]) == find_npy_file(mapped[1, 0]) == find_npy_file(mapped[:, 0]) == ("", None)
    assert find_npy_file(np.asarray(mapped)) == ("", None)
    monkeypatch.setattr("napari_skipseg.jobs.preparation.iter_write_npy", None)
    found = run_to_end(engine.run(FindObjects(replace(make_probability(), data=mapped[1]), (), OPTIONS)))
    np.testing.assert_array_equal(
        read_stack(found.labels).read((...,)), find_objects_in_array(mapped[1], Space("ZYX", SIZE), (), OPTIONS)
    )


def test_what_is_no_probability_is_one_sentence_and_the_engine_stays_free(engine: Engine, temporary: Path) -> None:
    before = set(temporary.iterdir())
    wrong = replace(make_probability(), data=np.full((3, 8, 8), 7, np.float32))
    with pytest.raises(InputError, match="has values from 0 to 7: probabilities lie between 0 and 1"):
        run_to_end(engine.run(FindObjects(wrong, (), OPTIONS)))
    with pytest.raises(InputError, match="There is no class 'nucleus': its classes are membrane"):
        run_to_end(engine.run(FindObjects(make_probability(), ("membrane",), ObjectOptions(class_name="nucleus"))))
    assert not engine.is_busy
    assert set(temporary.iterdir()) == before


def test_a_search_that_is_given_up_leaves_nothing(engine: Engine, temporary: Path) -> None:
    run_to_end(engine.run(ListDevices()))
    before = set(temporary.iterdir())
    work = engine.run(FindObjects(make_probability(), (), OPTIONS))
    while "reading" not in next(work).message:
        pass
    work.close()
    assert run_to_end(engine.run(FindObjects(make_probability(), (), OPTIONS))).count > 0
    assert len(set(temporary.iterdir()) - before) == 1


def test_padding_that_the_segmentation_left_out_is_no_cell(engine: Engine) -> None:
    probability = make_probability()
    values = np.pad(np.maximum(np.asarray(probability.data), 1 / 255).astype(np.float32), ((0, 0), (9, 5), (7, 7)))
    recipe = {"segmentation": {"normalization": {"padding": [0]}}}
    stack, cells = replace(probability, data=values), ObjectOptions("cells")
    found = run_to_end(engine.run(FindObjects(stack, ("membrane",), cells, recipe=recipe)))
    np.testing.assert_array_equal(read_stack(found.labels).read((...,)) > 0, values > 0)
