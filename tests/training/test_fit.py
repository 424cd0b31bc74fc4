"""The fit: steps, parts of a batch, early stopping, checkpoints, exact resume."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from full_disk import full_disk
from safetensors import safe_open

from napari_skipseg import devices
from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage, UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training import checkpoint, fit, train
from napari_skipseg.training.compute import Compute, choose_compute
from napari_skipseg.training.distributed import ONE_PROCESS
from napari_skipseg.training.fit import learning_rate, make_optimizer
from napari_skipseg.training.patches import LabelledImage, TrainingData
from napari_skipseg.training.progress import ValidationPicture
from napari_skipseg.training.protocols import PROTOCOLS
from napari_skipseg.training.settings import TrainSettings
from napari_skipseg.training.train import iter_fit

CPU = Compute(torch.device("cpu"))
GLOBAL_STATE = (5, 77)


def settings_of(**options):
    values = {
        "spec": UNetSpec(widths=(2, 4), dropout=0.3),
        "patch": (16, 16),
        "batch": 2,
        "steps": 6,
        "validate_every": 2,
        "learning_rate": 0.01,
        "validate": "2",
    }
    return TrainSettings("t", ("a.tif",), ("b.tif",), (ClassLabel("membrane", 0),), **values | options)


def labelled(seed, depth=2):
    generator = np.random.default_rng(seed)
    target = (generator.random((depth, 24, 24)) < 0.4).astype(np.int16)
    image = target[None] + generator.normal(size=(1, depth, 24, 24))
    return LabelledImage(image.astype(np.float32), target)


DATA = TrainingData((labelled(0),), (labelled(1, 1),), Stack(np.zeros((3, 24, 24)), Space("ZYX")))


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

    def pretend(run):
        value = next(values)
        seen.append({name: tensor.clone() for name, tensor in run.network.state_dict().items()})
        if value < run.state.best_loss:
            run.state.best_loss, run.state.best_weights = value, seen[-1]
        yield from ()

    monkeypatch.setattr(fit, "_iter_validate", pretend)
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


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    run(settings_of(), tmp_path / "file", stop_after=2)
    with pytest.raises(SpecError, match=r"belongs to other settings; choose a different name or delete it"):
        run(settings_of(learning_rate=0.02), tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(SpecError, match="is damaged; delete it to start again"):
        run(settings_of(), tmp_path / "file")


def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path, monkeypatch):
    file = tmp_path / "file"
    run(settings_of(), file, stop_after=3)
    before = file.read_bytes()
    monkeypatch.setattr(checkpoint, "write_durably", full_disk)
    with pytest.raises(FileError, match=r"cannot be written.*No space left.*free some space and resume"):
        run(settings_of(), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    monkeypatch.undo()
    assert run(settings_of(), file)[1].step == 6


def test_a_fault_within_a_step_writes_no_checkpoint_of_it(tmp_path):
    broken = LabelledImage(np.full_like(DATA.training[0].image, np.nan), DATA.training[0].target)
    data = TrainingData((broken,), (), DATA.stack)
    with pytest.raises(SpecError, match="not finite at step 0: train with a smaller learning rate"):
        run(settings_of(), tmp_path / "file", data=data)
    assert list(tmp_path.iterdir()) == []


def test_each_step_sets_the_rate_of_the_optimizer(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(fit, "make_optimizer", lambda *given: made.append(make_optimizer(*given)) or made[0])
    settings = settings_of(steps=3, warm_up=0)
    work = iter_fit(settings, DATA, network_of(settings), tmp_path / "file", CPU)
    rates = [made[0].param_groups[1]["lr"] for told in work if not isinstance(told, ValidationPicture)]
    assert rates == [learning_rate(settings, step) for step in range(3)]


RESUMED = {
    protocol: settings_of(protocol=protocol, learning_rate=None, patience=9, epoch=3, accumulate=2, seed=4)
    for protocol in PROTOCOLS
}


STRAIGHT = {}


@pytest.fixture
def straight_fit(protocol, tmp_path):
    """The network and the state of an undisturbed fit of a protocol, which is done once."""
    if protocol not in STRAIGHT:
        STRAIGHT[protocol] = run(RESUMED[protocol], tmp_path / "straight")
    return STRAIGHT[protocol]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("stop_after", [1, 2, 4, 5, 6])
def test_every_protocol_resumes_exactly_with_its_best_weights_its_patience_and_its_map(
    tmp_path, straight_fit, protocol, stop_after
):
    settings, (straight, state) = RESUMED[protocol], straight_fit
    run(settings, tmp_path / "resumed", stop_after)
    torch.manual_seed(GLOBAL_STATE[stop_after % 2])
    resumed, resumed_state = run(settings, tmp_path / "resumed")
    assert_equal_weights(straight, resumed)
    for name in (*checkpoint.NUMBERS, "best_weights"):
        first, second = getattr(state, name), getattr(resumed_state, name)
        if name != "best_weights":
            assert first == second, name
        else:
            assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert all(len(column) == 2 and min(column) > 0 for column in state.updates.values())


def test_the_curve_goes_on_between_its_points(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SHOWN_EVERY", 4)
    settings = settings_of(steps=8, validate_every=3)
    _, state = run(settings, tmp_path / "straight")
    kept = tmp_path / "kept"
    work = iter_fit(settings, DATA, network_of(settings), tmp_path / "running", CPU)
    while next(work).done < 3:
        pass
    shutil.copy(tmp_path / "running", kept)  # step 3: three losses since the last point
    work.close()
    assert run(settings, kept)[1].curves == state.curves


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path):
    first, second, other = (run(settings_of(seed=s), tmp_path / str(n))[0] for n, s in enumerate((3, 3, 4)))
    assert_equal_weights(first, second)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


WITHOUT_NORM = ResidualFCNSpec(
    norm=False, width=4, stages=(Stage("simple", 4, 1),), across=Stage("simple", 4, 2), dropout=0
)


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path, monkeypatch, name):
    gradients, values = [], []

    class Watched(torch.optim.SGD):
        def step(self):
            gradients.append([p.grad.clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(fit, "make_optimizer", lambda _settings, network: Watched(network.parameters(), 0.1))
    for parts in (1, 2, 4):
        settings = settings_of(spec=WITHOUT_NORM, batch=4, steps=1, accumulate=parts, precision="f32", loss=name)
        _, state = run(settings, tmp_path / str(parts))
        values.append(state.curves["training loss"][0][1])
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    for parts in gradients[1:]:
        for whole, summed in zip(gradients[0], parts, strict=True):
            assert torch.allclose(whole, summed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "has_bf16", "kind"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("f32", True, torch.float32),
    ],
)
def test_convolutions_compute_in_the_precision_asked_for(tmp_path, monkeypatch, precision, has_bf16, kind):
    monkeypatch.setattr(devices, "has_bf16", lambda: has_bf16)
    monkeypatch.setattr(devices, "_is_x86", lambda: True)
    settings = settings_of(steps=1, precision=precision)
    network = network_of(settings)
    found = []
    network.classifier.register_forward_hook(lambda _module, _inputs, output: found.append(output.dtype))
    compute = choose_compute(network, precision, "cpu", tmp_path / "file", ONE_PROCESS)
    run_to_end(iter_fit(settings, DATA, network, tmp_path / "file", compute))
    assert set(found) == {kind}


def pretend_losses(monkeypatch, *losses):
    values = iter(losses)

    def pretend(run):
        value = next(values)
        run.state.stale = 0 if value < run.state.best_loss else run.state.stale + 1
        run.state.best_loss = min(value, run.state.best_loss)
        yield from ()

    monkeypatch.setattr(fit, "_iter_validate", pretend)


def test_training_stops_after_so_many_validations_without_a_lower_loss(tmp_path, monkeypatch):
    settings = settings_of(steps=20, validate_every=2, validate="2", patience=2)
    pretend_losses(monkeypatch, 0.5, 0.4, 0.4, 0.3, 0.3, 0.31)
    _, state = run(settings, tmp_path / "file")
    assert state.step == 12
    assert state.curves["training loss"][-1][0] == 12
    assert [p.done for p in iter_fit(settings, DATA, network_of(settings), tmp_path / "file", CPU)] == []


def test_patience_is_remembered_over_a_resume(tmp_path, monkeypatch):
    settings = settings_of(steps=20, validate_every=2, validate="2", patience=2)
    pretend_losses(monkeypatch, 0.5, 0.6)
    run(settings, tmp_path / "file", stop_after=5)
    pretend_losses(monkeypatch, 0.6)
    assert run(settings, tmp_path / "file")[1].step == 6


def test_validation_counts_how_long_the_loss_has_not_fallen(tmp_path):
    settings = settings_of(steps=4, validate_every=1, learning_rate=1e-30, warm_up=0.0)
    _, state = run(settings, tmp_path / "file")
    losses = [value for _, value in state.curves["held-out loss"]]
    assert state.stale == len(losses) - 1 - losses.index(min(losses))


def test_the_map_holds_the_net_change_of_every_convolution_over_each_whole_epoch(tmp_path):
    settings = settings_of(steps=7, epoch=3)
    network = network_of(settings)
    seen = []
    work = iter_fit(settings, DATA, network, tmp_path / "file", CPU)
    before = network.encoder[0][0].weight.detach().clone()
    for progress in work:
        if progress.done in (3, 6) and not isinstance(progress, ValidationPicture):
            now = network.encoder[0][0].weight.detach().clone()
            seen.append(float((now - before).abs().mean()))
            before = now
    state = run_to_end(iter_fit(settings, DATA, network, tmp_path / "file", CPU))
    assert state.updates["encoder.0.0"] == seen
    assert next(iter(state.updates)) == "encoder.0.0"
    assert list(state.updates)[-1] == "classifier"


def test_without_an_epoch_there_is_no_map_and_the_first_select_weights_are_kept(tmp_path):
    settings = settings_of(steps=2)
    start = network_of(settings).gates[0].select.weight.tolist()
    _, state = run(settings, tmp_path / "file")
    assert state.updates == state.epoch_begin == {}
    assert state.select_start == {"gates.0.select": tuple(round(weight, 5) for weight in start)}


THREE_HELD_OUT = replace(DATA, validation=(labelled(1, 3),))


@pytest.mark.parametrize("seen", [1, 2])
@pytest.mark.parametrize("step", [2, 6])
def test_a_fit_that_was_closed_within_a_validation_validates_that_step_when_resumed(tmp_path, step, seen):
    settings = settings_of()
    straight, state = run(settings, tmp_path / "straight", data=THREE_HELD_OUT)
    work = iter_fit(settings, THREE_HELD_OUT, network_of(settings), tmp_path / "closed", CPU)
    while f"step {step} of 6" not in (told := next(work)).message or f"held out: {seen} of 3" not in told.message:
        pass
    work.close()
    resumed, resumed_state = run(settings, tmp_path / "closed", data=THREE_HELD_OUT)
    assert_equal_weights(straight, resumed)
    assert resumed_state.curves == state.curves


def test_a_caller_between_two_parts_of_a_validation_computes_gradients(tmp_path):
    settings = settings_of(steps=2)
    for _ in iter_fit(settings, THREE_HELD_OUT, network_of(settings), tmp_path / "file", CPU):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_each_step_that_takes_long_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "LONG_STEP", 0.0)
    work = iter_fit(settings_of(validate_every=100), DATA, network_of(settings_of()), tmp_path / "file", CPU)
    for step in (1, 2, 3):
        next(work)
        with safe_open(tmp_path / "file", framework="pt") as opened:
            assert json.loads(opened.metadata()["fit"])["step"] == step
    work.close()


def test_the_picture_is_that_of_the_patch_with_the_most_of_a_class(tmp_path):
    image = np.stack([np.full((24, 24), value, np.float32) for value in (1, 2, 3)])[None]
    target = np.zeros((3, 24, 24), np.int16)
    target[1, :4], target[2, :2] = 1, 1
    data = replace(DATA, validation=(LabelledImage(image, target),))
    work = iter_fit(settings_of(steps=1), data, network_of(settings_of()), tmp_path / "file", CPU)
    (picture,) = (told for told in work if isinstance(told, ValidationPicture))
    assert (picture.image == 2).all()
    assert (picture.target == target[1]).all()


def test_a_volume_is_validated_in_blocks_that_cover_it_once(monkeypatch):
    monkeypatch.setattr(train, "VALIDATION_VOXELS", 1000)
    run_of_slices = labelled(0, 7)
    patches = train._validation_patches((run_of_slices,), 3)
    assert len(patches) > 3
    assert max(patch.target.size for patch in patches) <= 1000
    assert sum(patch.target.size for patch in patches) == run_of_slices.target.size
    assert sum(int(patch.target.sum()) for patch in patches) == int(run_of_slices.target.sum())
    assert all(patch.image.shape[1:] == patch.target.shape for patch in patches)


def test_the_picture_of_a_volume_is_the_slice_with_the_most_of_a_class(tmp_path):
    settings = settings_of(spec=UNetSpec(dimensions=3, widths=(2, 4)), patch=(8, 8, 8), steps=1)
    target = np.zeros((8, 16, 16), np.int16)
    target[5, :4] = 1
    target[2, :2] = 1
    image = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None], target.shape)[None].copy()
    data = TrainingData((LabelledImage(image, target),), (LabelledImage(image, target),), DATA.stack)
    (picture,) = (
        told
        for told in iter_fit(settings, data, network_of(settings), tmp_path / "file", CPU)
        if isinstance(told, ValidationPicture)
    )
    assert (picture.image == 5).all()


def test_the_first_step_of_a_call_is_saved_so_that_any_signal_leaves_a_checkpoint(tmp_path):
    settings = settings_of(validate_every=100)
    work = iter_fit(settings, DATA, network_of(settings), tmp_path / "file", CPU)
    next(work)
    assert (tmp_path / "file").exists()
    next(work)
    with safe_open(tmp_path / "file", framework="pt") as opened:
        assert json.loads(opened.metadata()["fit"])["step"] == 1
    work.close()
