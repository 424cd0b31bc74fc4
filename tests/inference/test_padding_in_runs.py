"""Padding becomes background on every path, and the tissue beside it is what it would be without the padding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from identity import identity, make_model
from made_images import tissue
from numpy.typing import NDArray
from scipy import ndimage

import napari_skipseg as skipseg
from napari_skipseg.errors import ImageWarning
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.images.intensity.normalize import measure, measure_greys, normalization_from
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import Model
from napari_skipseg.objects.files import read_probability
from napari_skipseg.progress import ImageFindings, run_to_end

Values = NDArray[Any]


def padded() -> tuple[Values, Values]:
    """A stack with a frame, an empty slice and a missing tile, and where there is no tissue."""
    empty = np.pad(np.zeros((5, 90, 110), bool), ((0, 0), (30, 20), (20, 40)), constant_values=True)
    empty[2] = True
    empty[3, 30:70, 20:60] = True
    return np.where(empty, np.uint8(0), np.pad(tissue(5, 90, 110), ((0, 0), (30, 20), (20, 40)), mode="edge")), empty


IMAGE, EMPTY = padded()


def through_identity(values: Values, model: Model, axes: str = "ZYX", **options: Any) -> Prediction:
    work = iter_predict(
        RunSpec(Stack(values, Space(axes), name="it"), model, SegmentOptions("cpu", **options), backend_maker=identity)
    )
    return run_to_end(work)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("tile", [0, 24, 56])
def test_every_tiling_gives_the_same_bytes_and_zero_in_padding(dimensions: int, tile: int) -> None:
    model = make_model(dimensions, margin=4)
    found = through_identity(IMAGE, model, tile=tile)
    normalization = measure(Stack(IMAGE, Space("ZYX")))
    assert normalization.padding == (0,)
    seen, mask = normalization.prepare(IMAGE[None], across_slices=dimensions == 3)
    np.testing.assert_array_equal(mask, EMPTY)
    tissue_of = np.maximum(seen[0], np.float32(1 / 255))  # so that exactly 0 means padding
    np.testing.assert_array_equal(found.probability, np.where(EMPTY, np.float32(0), tissue_of))
    inner = tissue(5, 90, 110)
    whole = ~EMPTY[:, 30:-20, 20:-40]
    np.testing.assert_allclose(seen[0, :, 30:-20, 20:-40][whole], normalization.apply(inner)[whole])


@pytest.mark.parametrize("options", [{"average": 4}, {"average": 8}, {"planes": "xyz"}])
def test_averages_and_their_uncertainty_are_zero_in_padding(options: dict[str, Any]) -> None:
    found = through_identity(IMAGE, make_model(margin=4), **options)
    assert found.uncertainty is not None
    assert (found.probability[EMPTY] == 0).all()
    assert (found.uncertainty[EMPTY] == 0).all()
    assert found.probability[~EMPTY].min() == np.float32(1 / 255)
    assert found.probability[~EMPTY].std() > 0.5


def test_a_rescaled_run_leaves_padding_empty_too() -> None:
    model = make_model(margin=4)
    model = replace(model, description=replace(model.description, voxel_size=(50.0, 6.0, 6.0), unit="nm"))
    stack = Stack(IMAGE, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    work = iter_predict(RunSpec(stack, model, SegmentOptions("cpu", rescale=True), backend_maker=identity))
    found = run_to_end(work).probability
    deep = ndimage.binary_erosion(EMPTY, np.ones((1, 5, 5), bool), border_value=1)
    assert (found[deep] == 0).all()
    inside = ndimage.binary_erosion(~EMPTY, np.ones((1, 5, 5), bool))
    assert (found[inside] == 0).mean() < 0.01


def test_options_can_take_constant_areas_for_tissue() -> None:
    kept = through_identity(IMAGE, make_model(margin=4), padding="none")
    wanted = (IMAGE - IMAGE.mean()) / IMAGE.std()
    np.testing.assert_allclose(kept.probability, wanted, atol=1e-5)
    assert kept.recipe["options"]["padding"] == "none"
    assert kept.recipe["findings"] == ()


def test_a_model_that_was_taught_what_constant_areas_are_sees_them() -> None:
    model = make_model(margin=4)
    model = replace(model, description=replace(model.description, padding="none"))
    assert (through_identity(IMAGE, model).probability[EMPTY] != 0).all()


def test_several_channels_are_padded_together() -> None:
    colours = np.stack([IMAGE[0], IMAGE[1], IMAGE[4]], axis=0)
    found = through_identity(colours, make_model(in_channels=3, margin=4), "CYX")
    frame = EMPTY[0]
    assert (found.probability[frame] == 0).all()
    assert (found.probability[~frame] != 0).mean() > 0.99


def test_a_slice_with_the_greys_of_its_stack_is_the_slice_of_the_whole() -> None:
    model, whole = make_model(margin=4), Stack(IMAGE, Space("ZYX"))
    one = Stack(IMAGE[3:4], Space("ZYX"))
    work = iter_predict(
        RunSpec(one, model, SegmentOptions("cpu"), backend_maker=identity, greys=measure_greys(whole), is_preview=True)
    )
    np.testing.assert_array_equal(run_to_end(work).probability[0], through_identity(IMAGE, model).probability[3])


def test_a_run_without_padding_keeps_low_probabilities_as_they_are() -> None:
    inner = tissue(2, 90, 110)
    found = through_identity(inner, make_model(margin=4))
    normalization = measure(Stack(inner, Space("ZYX")))
    np.testing.assert_array_equal(found.probability, normalization.apply(inner))
    assert found.probability.min() < -1


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_is_stored_is_zero_in_padding_and_nowhere_else(form: Format, dtype: Depth, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path, "it", dtype, form)
    work = iter_segment(RunSpec(Stack(IMAGE, Space("ZYX")), make_model(margin=4), SegmentOptions("cpu")), target)
    files = run_to_end(work)
    np.testing.assert_array_equal(read_stack(files[0]).data[...] == 0, EMPTY)
    assert read_probability(files[0]).has_padding


def test_what_was_found_is_told_once_and_stays_in_the_recipe(tmp_path: Path) -> None:
    model, stack = make_model(margin=4), Stack(IMAGE, Space("ZYX"), name="it", notes=("It was read so.",))
    told: list[str] = []

    def hear(progress: Any) -> None:
        told.extend(progress.findings if isinstance(progress, ImageFindings) else ())

    target = FolderTarget(tmp_path, "it")
    run_to_end(iter_segment(RunSpec(stack, model, SegmentOptions("cpu"), backend_maker=identity), target), hear)
    recipe = json.loads((tmp_path / "it_recipe.json").read_text())
    assert tuple(recipe["findings"]) == tuple(told)
    assert told[0] == "It was read so."
    assert any("empty" in each for each in told)
    assert recipe["normalization"]["padding"] == [0]
    assert normalization_from(recipe["normalization"]) == measure(stack)


def test_python_is_warned_of_what_was_found() -> None:
    with pytest.warns(ImageWarning, match="left out") as caught:
        prediction = skipseg.segment(IMAGE[:1], make_model(margin=4), attention=False)
    assert prediction.recipe["findings"]
    assert caught[0].filename == __file__


def cells(border: int) -> tuple[Values, Values]:
    """Dark membranes between grey cells in a black frame, and where they are."""
    random = np.random.default_rng(0)
    points = random.uniform(0, 160, (20, 2))
    rows, columns = np.mgrid[:160, :160]
    distance = np.sort(np.hypot(rows - points[:, :1, None], columns - points[:, 1:, None]), axis=0)
    edge = distance[1] - distance[0]
    image = (170 - 90 * np.exp(-((edge / 3) ** 2)) + random.normal(0, 8, (160, 160))).clip(0, 255).astype(np.uint8)
    return np.pad(image, border), np.pad(edge < 3.5, border)


def test_the_built_in_model_finds_membranes_in_a_black_frame_as_without_it(only_torch: None) -> None:
    model = skipseg.load_model("em-membrane")

    def dice(around: int) -> float:
        image, truth = cells(around)
        work = iter_predict(RunSpec(Stack(image, Space("YX")), model, SegmentOptions("cpu", attention=False)))
        found = run_to_end(work).probability > 0.5
        if around:
            inner = np.zeros(image.shape, bool)
            inner[around:-around, around:-around] = True
            assert found[~inner].mean() <= 0.01
        return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))

    assert abs(dice(96) - dice(0)) < 0.03
