"""Areas without tissue that a segmentation left out: no objects, and a border of the image."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chosen_cases import pairs_first
from made import bumpy, finished, image_of
from numpy.typing import NDArray

import napari_skipseg as skipseg
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.formats import Format
from napari_skipseg.images.space import Space
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.recipes.recipe import OBJECTS_OPERATION
from napari_skipseg.inference.saving import save_prediction
from napari_skipseg.objects.classes import records_padding
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.options import ObjectOptions

SIZE = (2.0, 1.0, 1.0)
PADDED = {"classes": ["membrane"], "normalization": {"mean": 128, "deviation": 30, "padding": [0]}}
WAYS = [
    ("components", "distance"),
    ("watershed", "distance"),
    ("watershed", "probability"),
    ("cells", "distance"),
    ("cells", "probability"),
]
INNER = (slice(None), slice(7, -9), slice(5, -11))


def tissue(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """A probability with plateaus that is nowhere 0, as tissue has it."""
    return np.maximum(np.round(bumpy(shape, seed) * 40) / 40, 1 / 255).astype(np.float32)


def framed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(values, ((0, 0), (7, 9), (5, 11)))


def mask_of(kind: str, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Where padding is."""
    mask = np.zeros(shape, np.bool_)
    if kind == "frame":
        mask[:] = True
        mask[INNER] = False
    elif kind == "lost slice":
        mask[4] = True
    elif kind == "missing tile":
        mask[2:7, 10:22, 9:25] = True
    else:
        rows, columns = np.indices(shape[1:])
        mask[:, rows + columns < 20] = True
    return mask


@pytest.mark.parametrize(("method", "seeds"), WAYS)
@pytest.mark.parametrize("planes", ["volume", "slices"])
def test_objects_in_a_frame_are_those_of_the_tissue_alone(method: Any, seeds: Any, planes: Any) -> None:
    for holes, border in itertools.product((False, True), ("keep", "remove")):
        how = {"planes": planes, "fill_holes": holes, "seed_distance": 4, "merge": 0.55, "border": border}
        options = ObjectOptions(method, seeds=seeds, **how)
        values = tissue((5, 30, 34))
        alone = find_objects_in_array(values, Space("ZYX", SIZE), (), options)
        found = find_objects_in_array(framed(values), Space("ZYX", SIZE), (), options, has_padding=True)
        np.testing.assert_array_equal(found, np.pad(alone, ((0, 0), (7, 9), (5, 11))))


@pytest.mark.parametrize("border", ["keep", "remove"])
def test_a_lost_slice_ends_the_cells_on_both_sides(border: Any) -> None:
    values = tissue((9, 30, 34))
    values[4] = 0
    options = ObjectOptions("cells", seeds="probability", seed_distance=4, border=border)
    above, below = (find_objects_in_array(part, Space("ZYX", SIZE), (), options) for part in (values[:4], values[5:]))
    found = find_objects_in_array(values, Space("ZYX", SIZE), (), options, has_padding=True)
    assert not found[4].any()
    np.testing.assert_array_equal(found[:4], above)
    np.testing.assert_array_equal(found[5:], np.where(below > 0, below + above.max(), 0))


@pytest.mark.parametrize(("way", "kind"), pairs_first(WAYS, ("frame", "lost slice", "missing tile", "corner")))
def test_blocks_give_what_the_whole_gives(way: Any, kind: str, tmp_path: Path) -> None:
    method, seeds = way
    mask = mask_of(kind, (9, 36, 40))
    values = np.where(mask, np.float32(0), tissue(mask.shape, 3))
    for number, (planes, border) in enumerate([("volume", "remove"), ("slices", "keep")]):
        how = {"planes": planes, "border": border, "fill_holes": True, "seed_distance": 4, "merge": 0.55}
        options = ObjectOptions(method, seeds=seeds, **how)
        whole = find_objects_in_array(values, Space("ZYX", SIZE), (), options, has_padding=True)
        target = ObjectsTarget(tmp_path, str(number))
        work = iter_find_objects(image_of(values, SIZE, padded=True), options, target, (4, 14, 15))
        found = read_stack(finished(work).file).data[...]
        np.testing.assert_array_equal(found, whole)
        assert not found[mask].any()


def test_padding_inside_an_object_is_no_hole_that_is_filled() -> None:
    values = np.full((20, 20), 0.9, np.float32)
    values[0] = values[-1] = values[:, 0] = values[:, -1] = 0.1
    values[5:9, 5:9] = 0
    values[12:15, 12:15] = 0.2
    options = ObjectOptions(fill_holes=True)
    found = find_objects_in_array(values, Space("YX"), (), options, has_padding=True)
    assert (found[5:9, 5:9] == 0).all()
    assert (found[12:15, 12:15] == 1).all()
    assert (find_objects_in_array(values, Space("YX"), (), options)[5:9, 5:9] == 1).all()


def test_the_edge_of_the_tissue_is_a_border() -> None:
    values = np.full((30, 30), 0.1, np.float32)
    values[:8] = 0
    values[8:12, 10:14] = values[20:24, 10:14] = 0.9
    options = ObjectOptions(border="remove")
    assert find_objects_in_array(values, Space("YX"), (), options, has_padding=True).max() == 1
    assert find_objects_in_array(values, Space("YX"), (), options).max() == 2


def test_a_zero_is_tissue_where_no_padding_was_left_out() -> None:
    values = np.zeros((20, 20), np.float32)
    values[:, 10] = 1
    found = find_objects_in_array(values, Space("YX"), (), ObjectOptions("cells"))
    assert found.all()
    assert found.max() == 2


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (PADDED, True),
        ({"normalization": {"padding": [], "flat": 3.0}}, True),
        ({"normalization": {"padding": [None]}}, True),
        ({"operation": OBJECTS_OPERATION, "segmentation": PADDED}, True),
        ({"normalization": {"padding": [], "flat": None}}, False),
        ({"normalization": {"mean": 1.0}}, False),
        ({"normalization": 7}, False),
        ({"segmentation": None}, False),
        ({}, False),
    ],
)
def test_the_recipe_says_whether_padding_was_left_out(recipe: dict[str, Any], expected: bool) -> None:
    assert records_padding(recipe) is expected


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_command_and_python_leave_the_frame_out_and_the_command_says_so(
    form: Format, dtype: Any, tmp_path: Path, objects: Any
) -> None:
    values = framed(tissue((3, 40, 44)))
    prediction = Prediction(values, Space("ZYX", SIZE, "nm"), ("membrane",), recipe=PADDED)
    saved = save_prediction(prediction, tmp_path, "em", dtype=dtype, form=form)
    probability = next(file for file in saved if "probability" in file.name)
    assert "without tissue" in objects(probability, tmp_path / "out", "--method", "cells").err
    found = read_stack(tmp_path / "out" / "em_objects.tif").data[...]
    np.testing.assert_array_equal(found > 0, values > 0)
    np.testing.assert_array_equal(found, skipseg.find_objects(probability, method="cells"))
    if dtype == "float32":
        np.testing.assert_array_equal(found, skipseg.find_objects(prediction, method="cells"))
    skipseg.run_recipe(tmp_path / "out" / "em_objects_recipe.json", tmp_path / "again")
    np.testing.assert_array_equal(found, read_stack(tmp_path / "again" / "em_objects.tif").data[...])


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_labels_show_padding_through_the_probability_beside_them(form: Format, tmp_path: Path, objects: Any) -> None:
    values = framed(tissue((3, 40, 44)))
    prediction = Prediction(values, Space("ZYX"), ("membrane",), recipe=PADDED)
    files = {file.name.split(".")[0]: file for file in save_prediction(prediction, tmp_path, "em", form=form)}
    assert "are no cells" in objects(files["em_binary"], tmp_path / "out", "--method", "cells").err
    found = read_stack(tmp_path / "out" / "em_objects.tif").data[...]
    np.testing.assert_array_equal(found > 0, values > 0)
    assert "probability" not in (tmp_path / "out" / "em_objects.csv").read_text(encoding="utf-8-sig")
    skipseg.run_recipe(tmp_path / "out" / "em_objects_recipe.json", tmp_path / "again")
    np.testing.assert_array_equal(found, read_stack(tmp_path / "again" / "em_objects.tif").data[...])


@pytest.mark.parametrize("change", ["gone", "another run"])
def test_labels_without_their_probability_do_not_show_padding_and_the_command_says_so(
    change: str, tmp_path: Path, objects: Any
) -> None:
    prediction = Prediction(framed(tissue((3, 40, 44))), Space("ZYX"), ("membrane",), recipe=PADDED)
    save_prediction(prediction, tmp_path, "em")
    (tmp_path / "em_probability.tif").unlink()
    if change == "another run":
        other = replace(prediction, recipe={**PADDED, "model_sha256": "of a different model"})
        save_prediction(other, tmp_path, "em", results={"probability"})
    assert (
        "find the cells in the probability"
        in objects(tmp_path / "em_binary.tif", tmp_path / "out", "--method", "cells").err
    )
