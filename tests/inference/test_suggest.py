"""Suggest: which models are tried, how strokes and scale decide, and what is said."""

from dataclasses import replace
from shutil import rmtree

import numpy as np
import pytest
import torch

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.inference import suggest
from napari_skipseg.inference.suggest import Suggestion, is_same_class, iter_suggest, view_of_stack
from napari_skipseg.models import catalog
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end

BUILT_IN = catalog.BUILT_IN


@pytest.fixture(scope="module")
def sample():
    return make_sample((2, 256, 256))


@pytest.fixture
def small(monkeypatch):
    """Parts that are seen fast."""
    monkeypatch.setattr(suggest, "PART_SEEN", {2: (192, 192), 3: (16, 64, 64)})
    monkeypatch.setattr(suggest, "PART_CHANGED", {2: (128, 128), 3: (16, 48, 48)})


@pytest.fixture
def library(tmp_path, monkeypatch, small):
    """em-membrane; the same network under another name for mitochondria; one for 3 channels; one for volumes."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(catalog, "BUILT_IN", tmp_path / "none")
    good = read_model(BUILT_IN / "em-membrane")
    write_model(tmp_path / "membranes", replace(good.description, name="membranes"), good.network)
    wrong = replace(good.description, name="organelles", classes=(ClassLabel("mitochondria", 0),))
    write_model(tmp_path / "organelles", wrong, good.network)
    for name, options in {"colours": {"in_channels": 3}, "volumes": {"dimensions": 3}}.items():
        spec = UNetSpec(widths=(4, 8), **options)
        write_model(tmp_path / name, replace(good.description, name=name, spec=spec), build(spec))
    return tmp_path


def strokes_of(sample, truth) -> Stack:
    """Return strokes on the first slice: rows of the truth, background and class."""
    labels = np.zeros(sample.stack.shape, np.uint8)
    labels[0, 100:130:6] = 1 + truth[0, 100:130:6]
    return Stack(labels, sample.stack.space, name="strokes")


def ranked(stack, labels=None, names=()):
    return run_to_end(iter_suggest(view_of_stack(stack, measure(stack), labels, names), "cpu"))


def test_strokes_of_a_class_put_the_model_that_finds_it_first(library, sample) -> None:
    found = ranked(sample.stack, strokes_of(sample, sample.membrane), ("membrane",))
    first = found.ranked[0]
    assert first.model == "membranes"
    assert first.by_strokes
    assert first.score > 0.9
    assert "membrane" in first.reasons[0]


def test_a_model_that_contradicts_the_strokes_comes_last(library, sample) -> None:
    found = ranked(sample.stack, strokes_of(sample, sample.mitochondria), ("mitochondrion",))
    assert [each.model for each in found.ranked][-1] == "organelles"
    assert "contradicts" in found.ranked[-1].reasons[0]
    assert "does not know mitochondrion" in found.ranked[0].reasons


def test_models_that_cannot_be_used_are_named_with_the_reason(library, sample) -> None:
    found = ranked(replace(sample.stack, data=sample.stack.data[:1]))
    assert "channels" in found.left_out["colours"]
    assert "volume" in found.left_out["volumes"]
    assert {each.model for each in found.ranked} == {"membranes", "organelles"}


def test_an_image_with_larger_pixels_is_rescaled(library, sample) -> None:
    fine = np.asarray(sample.stack.data)
    coarse = fine.reshape(2, 128, 2, 128, 2).mean(axis=(2, 4)).astype(np.uint8)
    stack = Stack(coarse, Space("ZYX", (50, 8, 8), "nm"), name="coarse")
    truth = sample.membrane.reshape(2, 128, 2, 128, 2).max(axis=(2, 4))
    labels = np.zeros(coarse.shape, np.uint8)
    labels[0, 40:90:4] = 1 + truth[0, 40:90:4]
    found = ranked(stack, Stack(labels, stack.space, name="strokes"), ("membrane",))
    assert found.ranked[0].model == "membranes"
    assert found.ranked[0].rescale


def test_without_a_voxel_size_nothing_is_rescaled_and_that_is_said(library, sample) -> None:
    stack = Stack(sample.stack.data, Space("ZYX"), name="unknown")
    found = ranked(stack)
    assert not any(each.rescale for each in found.ranked)
    assert "the voxel size of the image is not known" in found.ranked[0].reasons


def test_a_model_without_a_voxel_size_is_named_as_such(library, sample) -> None:
    model = read_model(library / "membranes")
    rmtree(library / "membranes")
    write_model(library / "membranes", replace(model.description, unit="pixel"), model.network)
    reasons = {each.model: each.reasons for each in ranked(sample.stack).ranked}
    assert "the voxel size of the model is not known" in reasons["membranes"]
    assert not any("not known" in reason for reason in reasons["organelles"])


def test_without_strokes_it_is_said_that_models_of_other_classes_suit_the_image_as_well(library, sample) -> None:
    found = ranked(sample.stack)
    assert found.note.startswith("Which model it is cannot be decided without strokes: ")
    for part in ("membranes finds membrane", "organelles finds mitochondria", "Paint five strokes"):
        assert part in found.note
    assert ranked(sample.stack, strokes_of(sample, sample.membrane), ("membrane",)).note == ""
    rmtree(library / "organelles")
    assert ranked(sample.stack).note == ""


@pytest.mark.parametrize(("other", "is_told"), [(0.9, True), (0.6, False)])
def test_a_model_of_other_classes_that_suits_the_image_much_less_leaves_no_doubt(other, is_told) -> None:
    of = [("one", 0.9, ("membrane",)), ("two", 0.85, ("membranes",)), ("three", 0.9 * other, ("mitochondrion",))]
    suggestions = tuple(Suggestion(name, False, score, (), classes=classes) for name, score, classes in of)
    assert ("three finds mitochondrion" in suggest._describe_doubt(suggestions)) is is_told


def test_a_model_that_finds_nearly_everything_suits_no_image(library, sample) -> None:
    model = read_model(library / "membranes")
    rmtree(library / "organelles")
    everything = replace(model.description, name="everything")
    with torch.no_grad():
        for name, value in model.network.state_dict().items():
            if name == "classifier.bias" or (name.endswith(".bias") and value.shape == (1,)):
                value += 30
    write_model(library / "everything", everything, model.network)
    last = ranked(sample.stack).ranked[-1]
    assert (last.model, last.score) == ("everything", 0)
    assert "finds nearly everything" in last.reasons


def test_of_models_that_sort_the_strokes_alike_the_one_that_suits_the_image_comes_first() -> None:
    far, near = (Suggestion(str(suits), False, 0.99, (), True, suits) for suits in (0.2, 0.9))
    assert suggest._rank(near) > suggest._rank(far)
    assert suggest._rank(replace(far, score=1.0)) < suggest._rank(near)
    assert suggest._rank(replace(near, score=0.8)) < suggest._rank(far)
    assert suggest._rank(replace(near, score=0.6)) < suggest._rank(replace(far, by_strokes=False))


def test_copies_of_a_model_take_one_place(library, sample) -> None:
    model = read_model(library / "membranes")
    write_model(library / "my-membranes", replace(model.description, name="my-membranes"), model.network)
    reasons = {each.model: each.reasons for each in ranked(sample.stack).ranked}
    assert set(reasons) == {"membranes", "organelles"}
    assert "same weights as my-membranes" in reasons["membranes"]


def test_noise_suits_a_model_less_than_tissue(library, sample) -> None:
    noise = np.random.default_rng(0).normal(128, 30, sample.stack.shape).clip(0, 255).astype(np.uint8)
    tissue, random = (ranked(replace(sample.stack, data=data)) for data in (sample.stack.data, noise))
    assert random.ranked[0].score < tissue.ranked[0].score


def test_the_part_around_strokes_is_looked_at() -> None:
    image = np.arange(2 * 700 * 900).reshape(2, 700, 900).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[1, 650:660, 20:40], labels[1, 600:610, 20:40] = 1, 2
    stack = Stack(image, Space("ZYX", (50, 4, 4), "nm"), name="large")
    view = view_of_stack(stack, measure(stack), Stack(labels, stack.space, name="strokes"), ("a",))
    assert view.pixels.shape == (1, 2, 512, 512)
    assert view.at == 1
    np.testing.assert_array_equal(view.pixels[0, 1], image[1, 188:, :512])
    assert np.count_nonzero(view.labels) == 400


def test_labels_of_another_shape_are_refused(sample) -> None:
    labels = Stack(np.zeros((2, 5, 5), np.uint8), Space("ZYX"), name="strokes")
    with pytest.raises(InputError, match="shape"):
        view_of_stack(sample.stack, measure(sample.stack), labels, ("a",))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("mitochondrion", "Mitochondria", True),
        ("mito", "mitochondria", True),
        ("membrane", "membranes", True),
        ("membrane", "mitochondrion", False),
        ("ER", "er", True),
        ("ER", "era", False),
    ],
)
def test_names_of_one_class(one, other, expected) -> None:
    assert is_same_class(one, other) is expected
