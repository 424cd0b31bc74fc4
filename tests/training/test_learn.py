"""The loop with any task: what it tells, what it can be told, what it trains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training import fit
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.fit import iter_learn
from napari_skipseg.training.progress import KeepBest, TrainingProgress, ValidationPicture
from napari_skipseg.training.protocols import PROTOCOLS
from napari_skipseg.training.task import TrainingPace, Validation

CPU = Compute(torch.device("cpu"))
SPEC = UNetSpec(widths=(2, 4), dropout=0.3)
RATE = replace(PROTOCOLS["modern"], learning_rate=0.01, warm_up=0.0)
PICTURE = ValidationPicture(0, 0, "", *(np.zeros((4, 4), kind) for kind in (np.float32, np.float32, np.int16)))


class Likeness:
    """Learns to give back its images by the submodules named `parts`, in evaluation mode below them."""

    def __init__(self, parts=("up", "gates", "decoder", "classifier"), losses=None, title="a", held_out=1, **pace):
        self.parts, self.title = parts, title
        self.losses = None if losses is None else iter(losses)
        values = {"steps": 6, "validate_every": 2, "shown_every": 1} | pace
        self.pace = TrainingPace(training_protocol=RATE, **values)
        self.modes = []
        self.held_out = held_out

    def record(self):
        return {"title": self.title}

    def is_same_run(self, written):
        return written == self.record()

    def parameters(self, network):
        return [parameter for part in self.parts for parameter in network.get_submodule(part).parameters()]

    def set_modes(self, network):
        network.eval()
        for part in self.parts:
            network.get_submodule(part).train()

    def loss(self, network, number):
        image = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(number))
        return nn.functional.mse_loss(network(image).logits, image)

    def iter_validate(self, network):
        for part in range(1, self.held_out):
            yield part, self.held_out
        self.modes.append(network.training)
        if self.losses is None:
            return Validation(float(self.loss(network, 999).detach()), {"likeness": 0.5}, PICTURE)
        return Validation(next(self.losses))


def network_of():
    torch.manual_seed(1)
    return build(SPEC)


def learn(task, file, stop_after=None):
    network = network_of()
    work = iter_learn(task, network, file, CPU)
    if stop_after is None:
        return network, run_to_end(work)
    while next(work).done < stop_after:
        pass
    work.close()
    return network, None


def keep(work):
    """Send `KeepBest` back; return the end state, which comes at once."""
    with pytest.raises(StopIteration) as stopped:
        work.send(KeepBest())
    return stopped.value.value


def test_points_of_curves_and_pictures_come_as_they_are_made(tmp_path):
    told = list(iter_learn(Likeness(steps=5, validate_every=2, shown_every=3), network_of(), tmp_path / "file", CPU))
    kinds = [(type(news).__name__, news.done, news.total) for news in told]
    assert kinds == [
        ("TrainingProgress", 1, 5),
        ("TrainingProgress", 2, 5),
        ("ValidationPicture", 2, 5),
        ("TrainingProgress", 3, 5),
        ("TrainingProgress", 4, 5),
        ("ValidationPicture", 4, 5),
        ("TrainingProgress", 5, 5),
        ("ValidationPicture", 5, 5),
    ]
    learned = {news.step: set(news.values) for news in told if isinstance(news, TrainingProgress)}
    held_out = {"held-out loss", "likeness"}
    assert learned == {1: set(), 2: held_out, 3: {"training loss"}, 4: held_out, 5: {"training loss", *held_out}}
    assert told[2].image is PICTURE.image
    assert told[2].message.startswith("step 2 of 5, held-out loss")


def test_where_minutes_end_it_the_step_is_told_without_a_total_that_would_not_be_reached(tmp_path):
    task = Likeness(steps=5, minutes=30.0)
    told = next(iter_learn(task, network_of(), tmp_path / "file", CPU))
    assert told.message.startswith("step 1, 0.0 of 30 min")


def test_what_is_not_trained_stays_and_asks_for_gradients_again_in_the_end(tmp_path):
    network = network_of()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    task = Likeness()
    run_to_end(iter_learn(task, network, tmp_path / "file", CPU))
    changed = {
        name.partition(".")[0] for name, tensor in network.state_dict().items() if not tensor.equal(before[name])
    }
    assert changed == {"up", "gates", "decoder", "classifier"}
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert task.modes == [False] * 3
    assert not network.training


def test_only_what_is_trained_has_a_gradient_and_is_in_the_optimizer(tmp_path, monkeypatch):
    made = []
    real = fit.make_optimizer
    monkeypatch.setattr(fit, "make_optimizer", lambda *given: made.append(real(*given)) or made[0])
    network = network_of()
    network.up[0].bias.requires_grad_(False)
    work = iter_learn(Likeness(parts=("classifier",)), network, tmp_path / "file", CPU)
    next(work)
    assert {p for group in made[0].param_groups for p in group["params"]} == set(network.classifier.parameters())
    assert {name for name, p in network.named_parameters() if p.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }
    work.close()
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["up.0.bias"]


def test_the_task_says_whose_checkpoint_it_is(tmp_path):
    learn(Likeness(title="a"), tmp_path / "file", stop_after=2)
    with pytest.raises(SpecError, match="belongs to other settings"):
        learn(Likeness(title="b"), tmp_path / "file")


@pytest.mark.parametrize(("step", "losses", "best"), [(3, [0.5, 0.2], 3), (3, [0.2, 0.5], 2), (4, [0.9, 0.3], 4)])
def test_keep_ends_the_fit_with_the_best_weights_so_far(tmp_path, step, losses, best):
    network, seen = network_of(), {}
    work = iter_learn(Likeness(losses=losses, steps=50), network, tmp_path / "file", CPU)
    for number in range(1, step + 1):
        next(work)
        seen[number] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = keep(work)
    assert (state.step, state.ended, state.best_loss) == (step, True, min(losses))
    assert [at for at, _ in state.curves["held-out loss"]] == [2, step]
    assert all(tensor.equal(seen[best][name]) for name, tensor in network.state_dict().items())
    assert list(iter_learn(Likeness(steps=50), network_of(), tmp_path / "file", CPU)) == []


def test_keep_is_heard_at_a_picture_too(tmp_path):
    work = iter_learn(Likeness(steps=50), network_of(), tmp_path / "file", CPU)
    while not isinstance(next(work), ValidationPicture):
        pass
    assert keep(work).step == 2


def test_without_anything_held_out_keep_keeps_the_last_weights(tmp_path):
    task = Likeness(steps=50)
    task.iter_validate = lambda _network: iter(())
    work = iter_learn(task, network_of(), tmp_path / "file", CPU)
    while next(work).done < 3:
        pass
    state = keep(work)
    assert (state.step, state.best_weights) == (3, {})
    assert [step for step, _ in state.curves["training loss"]] == [1, 2, 3]


class Clock:
    """Every look at it takes so many seconds."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def monotonic(self):
        self.now += self.seconds
        return self.now


def test_when_time_is_up_the_fit_ends_validated_at_the_end_of_its_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "time", Clock(1.0))
    monkeypatch.setattr(fit, "SAVED_EVERY", 1e9)
    rates = []
    real = fit.learning_rate
    monkeypatch.setattr(fit, "learning_rate", lambda *given: rates.append(real(*given)) or rates[-1])
    task = Likeness(steps=1000, validate_every=1000, minutes=0.5)
    told = list(iter_learn(task, network_of(), tmp_path / "file", CPU))
    assert 10 < len(rates) < 40
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.01
    assert rates[-1] < 1e-3
    assert [news.done for news in told] == sorted(news.done for news in told)
    assert told[-1].done == told[-1].total == 1000
    assert isinstance(told[-1], ValidationPicture)
    assert list(iter_learn(task, network_of(), tmp_path / "file", CPU)) == []


def test_time_goes_on_where_a_resumed_fit_left_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "time", Clock(1.0))
    task = Likeness(steps=1000, validate_every=5, minutes=0.5)
    learn(task, tmp_path / "file", stop_after=300)
    monkeypatch.setattr(fit, "time", Clock(1.0))
    _, state = learn(task, tmp_path / "file")
    assert 30 <= state.seconds < 35


def test_a_generous_limit_changes_nothing(tmp_path):
    straight, _ = learn(Likeness(), tmp_path / "straight")
    limited, state = learn(Likeness(minutes=100), tmp_path / "limited")
    assert all(tensor.equal(straight.state_dict()[name]) for name, tensor in limited.state_dict().items())
    assert not state.ended


def test_keep_is_heard_within_a_validation_too(tmp_path):
    work = iter_learn(Likeness(steps=50, held_out=3), network_of(), tmp_path / "file", CPU)
    while "held out: 1 of 3" not in next(work).message:
        pass
    work.send(KeepBest())
    state = run_to_end(work)
    assert (state.step, state.ended) == (2, True)


def test_a_validation_says_how_far_it_is(tmp_path):
    told = list(iter_learn(Likeness(steps=2, held_out=3), network_of(), tmp_path / "file", CPU))
    assert [news.message.partition(", looking ")[2] for news in told if "looking" in news.message] == [
        "at what is held out: 1 of 3",
        "at what is held out: 2 of 3",
    ]
