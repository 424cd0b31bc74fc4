"""Normal and full from strokes: they go on from what quick learns, keep the old classes and how often one is found."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_skipseg.errors import ModelError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.description import Card, ClassLabel, ModelDescription
from napari_skipseg.models.model import read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.network import class_probability
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.distributed import ONE_PROCESS
from napari_skipseg.training.finetune import priors, run
from napari_skipseg.training.finetune.head_task import HeadTask, balanced_loss, classes_with_heads
from napari_skipseg.training.finetune.keep_better import QUICK_IS_BETTER, has_body_of, iter_is_first_better
from napari_skipseg.training.finetune.labels import Corrected
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.settings import AUGMENTATIONS, FinetuneSettings

MITO = (ClassLabel("mitochondrion", 2),)
CPU = Compute(torch.device("cpu"))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A folder with an untrained tiny model of two classes, so that its own classes go through a softmax."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    spec = UNetSpec(widths=(4, 8), out_channels=3)
    classes = (ClassLabel("membrane", 1), ClassLabel("nucleus", 2))
    description = ModelDescription("two", spec, classes, 8, "", (50.0, 4.0, 4.0), "nm", card=Card("tiny"))
    write_model(folder / "two", description, build(spec))
    return folder


@pytest.fixture(autouse=True)
def _models(parent, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, str(parent))


def strokes(share: float = 1.0) -> Corrected:
    """Return an image of bright squares of 4 % of it, with strokes in six of them and around."""
    image = np.random.default_rng(0).normal(100, 10, (1, 160, 160))
    labels = np.zeros(image.shape, np.uint8)
    for number, (y, x) in enumerate(np.ndindex(3, 3)):
        top, left = 50 * y + 15, 50 * x + 15
        image[0, top : top + 11, left : left + 11] += 60
        labels[0, top + 2 : top + 9, left + 2 : left + 9] = 2
        labels[0, top - 12 : top - 6, left : left + 12] = 1
        if number >= 9 * share:
            labels[0, top - 12 : top + 9, left : left + 12] = 0
    return Corrected(Stack(image.astype(np.uint8), Space("ZYX", (50, 4, 4), "nm"), name="squares"), labels, "squares")


def settings_of(**options) -> FinetuneSettings:
    values = {
        "reach": "normal",
        "steps": 12,
        "patch": (64, 64),
        "augmentation": AUGMENTATIONS["none"],
        "classes": MITO,
        "precision": "f32",
        "learning_rate": 2e-3,
    }
    return FinetuneSettings("new", ("squares.tif",), ("labels.tif",), model="two", **values | options)


def begin(tmp_path, settings, corrected=None):
    """Return what a fine-tuning works with before its first step."""
    model = read_model(tmp_path)
    setup = run_to_end(run._iter_prepare(settings, (corrected or strokes(),), model, ONE_PROCESS))
    return run_to_end(run._iter_begin(setup, CPU, tmp_path / "none"))


def test_it_begins_at_what_a_fit_to_the_strokes_finds_and_the_old_classes_are_the_same(parent):
    data, network, task, fits = begin(parent / "two", settings_of())
    assert isinstance(task, HeadTask)
    assert isinstance(network, TaughtNetwork)
    image = torch.from_numpy(data.patches.corrections.crops[0].image[None].astype(np.float32))
    with torch.inference_mode():
        probability = network.probability(network(image).logits)[0].numpy()
        old = class_probability(read_model(parent / "two").network(image).logits)[0].numpy()
    assert np.allclose(probability[:2], old, atol=1e-5)  # the order of values in memory differs
    target = data.patches.corrections.crops[0].target
    assert (probability[2][target == 3] > 0.5).mean() > 0.9
    assert (probability[2][target == 0] < 0.5).mean() > 0.9
    assert list(fits) == [2]


@pytest.mark.parametrize("reach", ["normal", "full"])
def test_the_written_model_finds_the_class_keeps_the_old_ones_and_calls_it_as_often_as_at_first(
    parent, tmp_path, reach
):
    made = run_to_end(iter_finetune(settings_of(reach=reach), (strokes(),), tmp_path, "cpu"))
    model = read_model(made.folder)
    before, after = read_model(parent / "two").network.state_dict(), model.network.body.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.allclose(before[name], after[name], atol=1e-3)}
    assert moved
    assert ("encoder" in moved) == (reach == "full")
    assert model.description.class_names == ("membrane", "nucleus", "mitochondrion")
    assert {row.class_name for row in made.report.rows} == {"mitochondrion"}
    corrected = strokes()
    pixels = (corrected.stack.data[:, None].astype(np.float32) - 104) / 15
    with torch.inference_mode():
        found = model.network.probability(model.network(torch.from_numpy(pixels)).logits)[0, 2].numpy() > 0.5
    truth = corrected.labels[0] == 2
    assert found[truth].mean() > 0.7
    assert 0.5 < found.sum() / (9 * 121) < 2


def test_labels_all_over_teach_an_output_of_the_network_itself(parent):
    dense = strokes()
    dense.labels[dense.labels == 0] = 1
    data, network, _, fits = begin(parent / "two", settings_of(steps=1), dense)
    assert not isinstance(network, TaughtNetwork)
    assert fits == {}
    plan, old = data.patches.plan, read_model(parent / "two").network
    assert classes_with_heads(settings_of(), plan, old, share=0.5) == [2]
    assert classes_with_heads(settings_of(reach="quick"), plan, old, share=0.1) == []


def test_a_class_with_a_pixel_head_is_remembered_where_another_one_is_taught(parent, tmp_path):
    quick = settings_of(reach="quick", steps=0, learning_rate=None)
    first = run_to_end(iter_finetune(quick, (strokes(),), tmp_path, "cpu"))
    again = replace(settings_of(classes=(ClassLabel("vesicle", 2),)), model=str(first.folder), name="both")
    setup = run_to_end(run._iter_prepare(again, (strokes(),), read_model(first.folder), ONE_PROCESS))
    data, network, task, fits = run_to_end(run._iter_begin(setup, CPU, tmp_path / "none"))
    assert network.pixel_head.sources == (0, 1, None, None)
    assert list(fits) == [3]
    batch = data.patches.draw(range(1, 3))
    logits = CPU.logits(network, batch.images).detach().requires_grad_()
    answers = task._ask_teacher(batch)
    assert answers is not None
    task._total_loss(logits, batch, answers, 5.0).backward()
    gradient = logits.grad[:, 3].abs()  # of the old head: its own answers are its target, so it stays
    assert float(gradient.max()) < 1e-4 * float(logits.grad[:, 4].abs().max())
    moved = logits.detach().clone()
    moved[:, 3] += 25
    assert task._total_loss(moved, batch, answers, 5.0) > task._total_loss(logits, batch, answers, 5.0) + 1


def test_the_class_weighs_as_much_as_all_else_and_what_is_not_counted_nothing():
    logits = torch.tensor([[2.0, -1.0, -1.0, 9.0]], requires_grad=True)
    positive, counted = torch.tensor([[True, False, False, True]]), torch.tensor([[True, True, True, False]])
    value = balanced_loss(logits, positive, counted)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))) / 2
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert float(logits.grad[0, 3]) == 0
    assert balanced_loss(logits, positive, torch.zeros_like(counted)).item() == 0


def test_a_head_that_calls_its_class_too_often_is_shifted_back(parent, monkeypatch):
    monkeypatch.setattr(priors, "PRIOR_PATCHES", 6)
    data, network, _, fits = begin(parent / "two", settings_of())
    bias = network.head_of(2).bias
    with torch.no_grad():
        bias.add_(3.0)
    run_to_end(priors.iter_keep_shares(network, {2: replace(fits[2], marked=0.1)}, data, CPU))
    called = []
    for image, _ in priors.iter_sample_images(data):
        with torch.inference_mode():
            called.append(float((network(image).logits[0, -1] > 0).float().mean()))
    assert np.mean(called) == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("side", ["found", "wrong"])
def test_on_the_held_out_strokes_the_better_of_first_fit_and_training_is_known(parent, side):
    data, network, _, fits = begin(parent / "two", settings_of())
    worse = copy.deepcopy(network)
    with torch.no_grad():  # the class is called nowhere, or everywhere
        worse.head_of(2).bias.add_(-50.0 if side == "found" else 50.0)
    read, margin = data.patches.corrections, 8
    assert run_to_end(iter_is_first_better(network, worse, fits, read, margin, CPU))
    assert not run_to_end(iter_is_first_better(worse, network, fits, read, margin, CPU))
    assert not run_to_end(iter_is_first_better(network, copy.deepcopy(network), fits, read, margin, CPU))  # a tie


def test_a_training_that_quick_beats_gives_what_quick_learns_and_says_so_after_a_break_too(
    parent, tmp_path, monkeypatch
):
    def quick_is_better(*_):
        yield from ()
        return True

    monkeypatch.setattr(run, "iter_is_first_better", quick_is_better)
    with monkeypatch.context() as patch:
        patch.setattr(run, "compare_on_strokes", lambda *_: 1 / 0)
        with pytest.raises(ModelError, match="only scores it"):
            run_to_end(iter_finetune(settings_of(steps=2), (strokes(),), tmp_path, "cpu"))
    made = run_to_end(iter_finetune(settings_of(steps=2), (strokes(),), tmp_path, "cpu"))
    quick = replace(settings_of(reach="quick", steps=0, learning_rate=None), name="quick")
    other = run_to_end(iter_finetune(quick, (strokes(),), tmp_path, "cpu"))
    assert made.report.reason == f"{QUICK_IS_BETTER} {other.report.reason}".replace(
        "train with Normal or Full (in a shell --reach normal or full), or paint more places",
        "paint more places, let it train longer, or train with Full (in a shell --reach full)",
    )
    assert made.report.rows == other.report.rows
    models = [read_model(each.folder).network for each in (made, other)]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert has_body_of(models[0], read_model(parent / "two").network)
