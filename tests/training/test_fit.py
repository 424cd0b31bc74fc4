"""The fit: optimiser, learning rate, checkpoints, exact resume."""

import errno
import math
import os
import shutil

import numpy as np
import pytest
import torch

from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training import checkpoint, fit
from napari_skipseg.training.fit import iter_fit, learning_rate, make_optimizer
from napari_skipseg.training.samples import Labelled, TrainingData
from napari_skipseg.training.settings import TrainSettings

CPU = torch.device("cpu")
GLOBAL_STATE = (5, 77)


def settings_of(**options):
    values = {
        "spec": UNetSpec(widths=(2, 4), dropout=0.3),
        "patch": (16, 16),
        "batch": 2,
        "steps": 6,
        "validate_every": 2,
        "learning_rate": 0.01,
    }
    return TrainSettings("t", ("a.tif",), ("b.tif",), (ClassLabel("membrane", 0),), **values | options)


def labelled(seed, depth=2):
    generator = np.random.default_rng(seed)
    target = (generator.random((depth, 24, 24)) < 0.4).astype(np.int16)
    image = target[None] + generator.normal(size=(1, depth, 24, 24))
    return Labelled(image.astype(np.float32), target)


DATA = TrainingData((labelled(0),), (labelled(1, 1),), Stack(np.zeros((3, 24, 24)), "ZYX"))


def network_of(settings):
    torch.manual_seed(settings.seed)
    return build(settings.spec)


@pytest.fixture(autouse=True)
def _every_step_is_shown(monkeypatch):
    monkeypatch.setattr(fit, "SHOWN_EVERY", 1)


def run(settings, file, stop_after=None, data=DATA):
    """Fit, or close the generator after so many steps; return the network and the end state."""
    network = network_of(settings)
    work = iter_fit(settings, data, network, file, CPU)
    if stop_after is None:
        return network, run_to_end(work)
    for progress in work:
        if progress.done == stop_after:
            work.close()
    return network, None


def assert_equal_weights(first, second):
    second = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5, 6])
def test_a_closed_fit_that_is_resumed_ends_with_the_same_weights(tmp_path, stop_after):
    settings = settings_of()
    straight, state = run(settings, tmp_path / "straight")
    run(settings, tmp_path / "resumed", stop_after)
    torch.manual_seed(GLOBAL_STATE[stop_after % 2])
    resumed, resumed_state = run(settings, tmp_path / "resumed")
    assert_equal_weights(straight, resumed)
    assert resumed_state.curves == state.curves
    assert resumed_state.best_loss == state.best_loss


def test_a_killed_fit_goes_on_from_its_last_checkpoint(tmp_path):
    settings = settings_of(steps=7, validate_every=3)
    straight, _ = run(settings, tmp_path / "straight")
    work = iter_fit(settings, DATA, network_of(settings), tmp_path / "running", CPU)
    while next(work).done < 5:
        pass
    shutil.copy(tmp_path / "running", tmp_path / "left behind")  # what a kill -9 at step 5 would leave: step 3
    work.close()
    network = network_of(settings)
    work = iter_fit(settings, DATA, network, tmp_path / "left behind", CPU)
    assert next(work).done == 4
    run_to_end(work)
    assert_equal_weights(straight, network)


def test_a_finished_fit_that_is_called_again_takes_no_step(tmp_path):
    settings = settings_of()
    first, _ = run(settings, tmp_path / "file")
    again = network_of(settings)
    assert [p.done for p in iter_fit(settings, DATA, again, tmp_path / "file", CPU)] == []
    assert_equal_weights(first, again)


def test_the_best_weights_on_the_held_out_slices_are_kept(tmp_path, monkeypatch):
    values = iter([0.5, 0.2, 0.9])
    seen = []

    def pretend(_settings, _data, network, state, _device):
        value = next(values)
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        if value < state.best_loss:
            state.best_loss, state.best_weights = value, seen[-1]

    monkeypatch.setattr(fit, "_validate", pretend)
    network, state = run(settings_of(), tmp_path / "file")
    assert state.best_loss == 0.2
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in network.state_dict().items())
    assert not network.training


def test_without_held_out_slices_the_last_weights_count(tmp_path):
    data = TrainingData(DATA.training, (), DATA.stack)
    network, state = run(settings_of(), tmp_path / "file", data=data)
    assert set(state.curves) == {"training loss"}
    assert state.best_weights == {}
    assert not network.training


def test_curves_are_recorded_at_their_steps(tmp_path):
    _, state = run(settings_of(steps=5), tmp_path / "file")
    assert [step for step, _ in state.curves["training loss"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in state.curves["held-out loss"]] == [2, 4, 5]
    assert all(0 <= value <= 1 for _, value in state.curves["held-out Dice"])


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    run(settings_of(), tmp_path / "file", stop_after=2)
    with pytest.raises(SpecError, match=r"belongs to other settings; choose another name or delete it"):
        run(settings_of(learning_rate=0.02), tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(SpecError, match="is damaged; delete it to start anew"):
        run(settings_of(), tmp_path / "file")


def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path, monkeypatch):
    def full(_tensors, file, metadata):
        file.write_bytes(b"half a che")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "file"
    run(settings_of(), file, stop_after=3)
    before = file.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(FileError, match=r"cannot be written.*No space left.*free some space and resume"):
        run(settings_of(), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    monkeypatch.undo()
    assert run(settings_of(), file)[1].step == 6


def test_a_fault_within_a_step_writes_no_checkpoint_of_it(tmp_path):
    broken = Labelled(np.full_like(DATA.training[0].image, np.nan), DATA.training[0].target)
    data = TrainingData((broken,), (), DATA.stack)
    with pytest.raises(SpecError, match="not finite at step 0: train with a smaller learning rate"):
        run(settings_of(), tmp_path / "file", data=data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dimensions", [2, 3])
def test_weight_decay_falls_on_kernels_only(dimensions):
    settings = settings_of(
        spec=UNetSpec(dimensions=dimensions, widths=(2, 4)), patch=(16,) * dimensions, weight_decay=0.1
    )
    network = network_of(settings)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed, plain = make_optimizer(settings, network).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0)
    kernels = {names[id(p)] for p in decayed["params"]}
    others = {names[id(p)] for p in plain["params"]}
    assert kernels | others == set(names.values())
    assert not kernels & others
    assert all(p.ndim == dimensions + 2 for p in decayed["params"])
    assert "gates.0.select.weight" in others
    assert "gates.0.attend.convolution.weight" in kernels
    assert {"gates.0.attend.norm.weight", "encoder.0.1.weight", "classifier.bias"} <= others


def test_the_learning_rate_rises_then_falls_as_half_a_cosine():
    settings = settings_of(steps=100, learning_rate=2.0, warm_up=0.1)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert rates[9] == rates[10] == 2
    assert rates[55] == pytest.approx(1)
    assert rates[70] == pytest.approx(1 + math.cos(math.pi * 60 / 90))
    assert 0 < rates[-1] < 0.001
    assert max(rates) == 2


@pytest.mark.parametrize("warm_up", [0.0, 1.0])
def test_the_learning_rate_has_values_at_both_ends_of_warm_up(warm_up):
    settings = settings_of(steps=4, warm_up=warm_up)
    assert all(0 <= learning_rate(settings, step) <= 0.01 for step in range(5))


def test_each_step_sets_the_rate_of_the_optimizer(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(fit, "make_optimizer", lambda *given: made.append(make_optimizer(*given)) or made[0])
    settings = settings_of(steps=3, warm_up=0)
    work = iter_fit(settings, DATA, network_of(settings), tmp_path / "file", CPU)
    rates = [made[0].param_groups[1]["lr"] for _ in work]
    assert rates == [learning_rate(settings, step) for step in range(3)]
