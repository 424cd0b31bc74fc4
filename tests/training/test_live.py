"""The engine's part of a live view: what strokes teach about it, what is kept, and how near it is to Quick."""

from dataclasses import replace

import numpy as np
import pytest
from test_finetuning import settings_of
from test_pixel_classifier import VESICLE, stroked, texture
from torch.nn import functional

from napari_skipseg.api import segment
from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.catalog import MODELS_VARIABLE, locate_model
from napari_skipseg.models.model import read_model
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.training.finetune.labelled_pixels import columns_at
from napari_skipseg.training.finetune.labels import Corrected
from napari_skipseg.training.finetune.live import LiveFeatures
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.progress import LIVE_TILE, LivePart

SIDE = 192


@pytest.fixture(autouse=True)
def _models(library, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, str(library))


@pytest.fixture
def model(library):
    return read_model(locate_model("membranes"))


def part(stack: Stack, z: int, labels: np.ndarray, box=((0, SIDE), (0, SIDE))) -> LivePart:
    """Return a part of a slice with all of the slice around it."""
    inside = tuple(slice(*side) for side in box)
    return LivePart(0, z, box, (0, 0), stack.data[z][None], labels[inside])


@pytest.fixture
def texture_live(model):
    stack, truth = texture()
    return stack, truth, LiveFeatures(model, "key", measure(stack), "cpu")


def update(live: LiveFeatures, *parts: LivePart, names=("vesicle",)):
    """Return the result of an update, and what was said on the way."""
    said = []
    return run_to_end(live.iter_update(names, parts), lambda progress: said.append(progress.message)), said


def test_a_class_is_found_in_the_view_from_a_few_strokes(texture_live) -> None:
    stack, truth, live = texture_live
    labels = stroked(truth)
    result, said = update(live, part(stack, 0, labels[0]))
    assert result.names == ("vesicle",)
    assert result.note == ""
    assert result.probability.shape == (1, SIDE, SIDE)
    assert score_overlap(result.probability[0] > 0.5, truth[0] == 2).dice > 0.65
    assert any("view" in message for message in said)


def test_a_new_stroke_computes_no_features(texture_live) -> None:
    stack, truth, live = texture_live
    labels = stroked(truth)
    update(live, part(stack, 0, labels[0]))
    labels[0, 100:104, 10:20] = 1
    _, said = update(live, part(stack, 0, labels[0]))
    assert not any("computing" in message for message in said)


def test_the_view_is_what_quick_teaches_the_model(texture_live, tmp_path) -> None:
    stack, truth, live = texture_live
    labels = stroked(truth)
    labels[1] = 0
    shown, _ = update(live, part(stack, 0, labels[0]))
    settings = settings_of("new", classes=(VESICLE,), reach="quick")
    coded = np.where(labels == 2, VESICLE.label, labels).astype(np.uint8)
    made = run_to_end(iter_finetune(settings, [Corrected(stack, coded, "texture")], tmp_path, "cpu"))
    prediction = segment(stack, made.folder, attention=False)
    taught = np.asarray(prediction.probability)[prediction.class_names.index("vesicle"), 0]
    # not the same: other pixels of the strokes are drawn, and a written model is in half precision
    assert np.corrcoef(taught.ravel(), shown.probability[0].ravel())[0, 1] > 0.97
    assert score_overlap(taught > 0.5, shown.probability[0] > 0.5).dice > 0.93


def test_strokes_of_a_view_that_was_left_still_count_and_are_not_read_again(texture_live) -> None:
    stack, truth, live = texture_live
    labels = stroked(truth)
    update(live, part(stack, 0, labels[0]))
    tiles = [
        part(stack, 0, labels[0], ((y, y + LIVE_TILE), (x, x + LIVE_TILE)))
        for y in range(0, SIDE, LIVE_TILE)
        for x in range(0, SIDE, LIVE_TILE)
        if labels[0, y : y + LIVE_TILE, x : x + LIVE_TILE].any()
    ]
    result, said = update(live, part(stack, 1, np.zeros_like(labels[1])), *tiles)
    assert score_overlap(result.probability[0] > 0.5, truth[1] == 2).dice > 0.65
    assert not any("earlier" in message for message in said)


def test_strokes_elsewhere_are_read_if_they_were_painted_before(texture_live) -> None:
    stack, truth, live = texture_live
    labels = stroked(truth)
    box = (LIVE_TILE, 2 * LIVE_TILE), (LIVE_TILE, 2 * LIVE_TILE)
    labels[0, 64:80, 64:80] = 2
    view = part(stack, 1, labels[1])
    result, said = update(live, view, part(stack, 0, labels[0], box))
    assert "reading earlier strokes: 1 of 1" in said
    assert result.probability is not None


def test_columns_of_single_pixels_are_those_that_the_head_sees(texture_live) -> None:
    stack, _, live = texture_live
    features, _ = live._compute_features(part(stack, 0, np.zeros((SIDE, SIDE), np.uint8)))
    strides = live._network.feature_strides
    places = np.array([0, 70, SIDE - 1]), np.array([SIDE - 1, 33, 0])
    columns = columns_at(strides, features, places)
    large = [
        functional.interpolate(maps, scale_factor=stride, mode="bilinear", align_corners=False)
        for stride, maps in zip(strides, features, strict=True)
    ]
    expected = np.concatenate([maps[0, :, places[0], places[1]].T.numpy() for maps in large], axis=1)
    np.testing.assert_allclose(columns, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "said"), [((), "Paint a stroke of vesicle"), ((1,), "vesicle too"), ((2,), "background too")]
)
def test_strokes_of_one_class_only_say_what_is_needed(texture_live, values, said) -> None:
    stack, _, live = texture_live
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for value in values:
        labels[20 * value : 20 * value + 5, 20:60] = value
    result, _ = update(live, part(stack, 0, labels))
    assert result.probability is None
    assert said in result.note


def test_a_class_on_one_pixel_is_shown(texture_live) -> None:
    stack, _, live = texture_live
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[5:9, 5:50] = 1
    labels[90, 70] = 2
    result, _ = update(live, part(stack, 0, labels))
    assert np.isfinite(result.probability).all()
    assert result.probability[0, 90, 70] > 0.5


def test_of_two_classes_the_painted_one_is_shown(texture_live) -> None:
    stack, truth, live = texture_live
    result, _ = update(live, part(stack, 0, stroked(truth)[0]), names=("vesicle", "vacuole"))
    assert result.names == ("vesicle",)


def test_strokes_that_cannot_be_told_apart_are_a_note(texture_live) -> None:
    stack, _, live = texture_live
    labels = np.zeros((SIDE, SIDE), np.uint8)
    generator = np.random.default_rng(0)
    for number, (y, x) in enumerate(generator.integers(0, SIDE // 12 - 1, (40, 2)) * 12):
        labels[y : y + 4, x : x + 4] = 1 + number % 2
    result, _ = update(live, part(stack, 0, labels))
    assert "vesicle look like" in result.note


def test_a_volume_model_is_refused(model) -> None:
    description = replace(model.description, spec=replace(model.description.spec, dimensions=3))
    with pytest.raises(InputError, match="2D"):
        LiveFeatures(replace(model, description=description), "key", measure(texture()[0]), "cpu")


def test_an_image_smaller_than_a_tile(model) -> None:
    generator = np.random.default_rng(0)
    stack = Stack(
        generator.integers(0, 255, (1, 50, 70)).astype(np.uint8), Space("ZYX", (50, 4, 4), "nm"), name="small"
    )
    labels = np.zeros((50, 70), np.uint8)
    labels[2:6, 2:30], labels[40:44, 40:69] = 1, 2
    box = (0, 50), (0, 70)
    result, _ = update(LiveFeatures(model, "key", measure(stack), "cpu"), part(stack, 0, labels, box))
    assert result.probability.shape == (1, 50, 70)
