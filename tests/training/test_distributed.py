"""One training in two processes: the weights of one alone, and no process that waits for ever."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import Command

from napari_skipseg.devices import Device
from napari_skipseg.errors import DeviceError, EngineError, SpecError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import read_model
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.distributed import ONE_PROCESS, Processes, joined, own_device, started_by_torchrun
from napari_skipseg.training.settings import TrainSettings, settings_to_dict
from napari_skipseg.training.train import iter_train

SPEC = ResidualFCNSpec(norm=False, width=4, stages=(Stage("simple", 4, 1),), across=Stage("simple", 4, 2))
STARTED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}


def settings_of(**options):
    values = {
        "spec": SPEC,
        "patch": (32, 32),
        "batch": 4,
        "steps": 6,
        "validate": "2",
        "validate_every": 3,
        "learning_rate": 1e-3,
        "precision": "f32",
        "loss": "bce",
        "epoch": 3,
    }
    return TrainSettings("two", ("a.tif",), ("b.tif",), (ClassLabel("membrane", 1),), **values | options)


def torchrun(*arguments):
    """Run a program in two processes; return what ended."""
    environment = {key: value for key, value in os.environ.items() if key not in STARTED}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*two, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    sample = make_sample((3, 64, 64))
    for name, data in (("image", sample.stack.data), ("labels", sample.membrane)):
        write_ome_tiff(folder / f"{name}.tif", data, Space("ZYX", (50, 4, 4), "nm"))
    return {"images": (str(folder / "image.tif"),), "labels": (str(folder / "labels.tif"),)}


def run_two(*arguments):
    """Run a command in two processes with the environment that torchrun gives them; return what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    commands = [Command(*arguments, RANK=rank, LOCAL_RANK=rank, **place) for rank in ("0", "1")]
    said = [command.communicate() for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    return [out for out, _ in said]


def test_two_processes_train_the_weights_of_one_and_one_of_them_speaks(pair, tmp_path):
    settings = replace(settings_of(accumulate=2), **pair)
    (tmp_path / "settings.json").write_text(json.dumps(settings_to_dict(settings)))
    said = run_two("train", tmp_path / "settings.json", "--out", tmp_path / "two", "--device", "cpu")
    assert [out.split() for out in said] == [[str(tmp_path / "two" / "two")], []]
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["two"]
    two = read_model(tmp_path / "two" / "two")
    one = read_model(run_to_end(iter_train(replace(settings, accumulate=1), tmp_path / "one", "cpu")))
    second = two.network.state_dict()
    for name, tensor in one.network.state_dict().items():
        assert torch.allclose(tensor, second[name], atol=1e-3), name  # stored in half precision
    for name, curve in one.description.training.curves.items():
        values = np.array(two.description.training.curves[name])
        assert np.allclose(np.array(curve), values, atol=1e-4), name
    updates = two.description.training.updates
    for name, column in one.description.training.updates.items():
        assert updates[name] == pytest.approx(column, rel=1e-2), name


FAULTS = """
import sys
from pathlib import Path
import numpy as np, torch
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.networks.build import build
from napari_skipseg.progress import run_to_end
from napari_skipseg.training import fit, train
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.distributed import joined, started_by_torchrun
from napari_skipseg.training.progress import KeepBest
from napari_skipseg.training.patches import LabelledImage, TrainingData
from napari_skipseg.training.settings import TrainSettings, settings_from_json

folder = Path(sys.argv[1])
processes = started_by_torchrun()
settings = settings_from_json(TrainSettings, (folder / "settings.json").read_text())
generator = np.random.default_rng(0)
target = (generator.random((2, 48, 48)) < 0.4).astype(np.int16)
image = generator.normal(size=(1, 2, 48, 48)).astype(np.float32)
said = []


def full(*_):
    raise SkipsegError("the disk is full")


def attempt(name, image, keeps=False):
    data = TrainingData((LabelledImage(image, target),), (LabelledImage(image, target),), Stack(target, Space("ZYX")))
    torch.manual_seed(0)
    work = train.iter_fit(settings, data, build(settings.spec), folder / name, Compute(torch.device("cpu")), processes)
    try:
        state = stop_after_a_step(work, keeps) if name == "kept" else run_to_end(work)
        said.append(f"{name}: stopped at {state.step}, stale {state.stale}")
    except SkipsegError as error:
        said.append(f"{name}: {error}")


def stop_after_a_step(work, keeps):
    try:
        next(work)
        work.send(KeepBest() if keeps else None)
        while True:
            next(work)
    except StopIteration as stop:
        return stop.value


with joined(processes, torch.device("cpu")):
    attempt("broken", np.full_like(image, np.nan) if processes.rank == 1 else image)
    real, fit.write_checkpoint = fit.write_checkpoint, full
    attempt("full", image)
    fit.write_checkpoint = real
    fit.learning_rate = lambda *_: 0.0  # no step changes the weights: the held-out loss never falls again
    attempt("early", image)
    attempt("kept", image, keeps=processes.rank == 1)
    attempt("early" if processes.is_first else "elsewhere", image)
(folder / f"said-{processes.rank}").write_text("\\n".join(said))
"""


@pytest.mark.slow
def test_a_failure_and_the_end_reach_all_processes(tmp_path):
    settings = settings_of(steps=20, patience=2)
    (tmp_path / "settings.json").write_text(json.dumps(settings_to_dict(settings)))
    (tmp_path / "program.py").write_text(FAULTS)
    ended = torchrun(tmp_path / "program.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    first, second = ((tmp_path / f"said-{rank}").read_text().splitlines() for rank in (0, 1))
    assert first[0] == "broken: Another process of this training failed; its own message says why."
    assert second[0] == "broken: The loss is not finite at step 0: train with a smaller learning rate."
    assert first[1] == "full: the disk is full"
    assert second[1] == "full: Another process of this training failed; its own message says why."
    assert first[2] == second[2] == "early: stopped at 9, stale 2"
    assert first[3] == second[3] == "kept: stopped at 1, stale 0"  # any process may hear it
    assert all("Not all processes of this training see" in said[4] for said in (first, second))


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(SpecError, match="A batch of 4 cannot be shared by 3 processes in 1 parts each"):
        next(iter_train(settings_of(), tmp_path, "cpu", Processes(0, 3)))
    with pytest.raises(SpecError, match="choose a batch that 8 divides"):
        Processes(0, 4).share(settings_of(accumulate=2))
    assert list(tmp_path.iterdir()) == []


def test_a_share_is_the_batch_of_one_backward_pass():
    assert Processes(1, 2).share(settings_of(batch=8, accumulate=2)).batch == 2
    assert ONE_PROCESS.share(settings_of()) == settings_of()


def test_torchrun_is_known_by_all_it_sets(monkeypatch):
    for name in STARTED:
        monkeypatch.delenv(name, raising=False)
    assert started_by_torchrun() == ONE_PROCESS
    for name, value in STARTED.items():
        monkeypatch.setenv(name, value)
    assert started_by_torchrun() == Processes(1, 2, 0)
    assert not started_by_torchrun().is_first
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert started_by_torchrun() == ONE_PROCESS


def test_each_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    gpu = Device("cuda", "a GPU", "")
    assert own_device(gpu, ONE_PROCESS) == torch.device("cuda")
    assert own_device(Device("cpu", "", ""), Processes(1, 2, 1)) == torch.device("cpu")
    with pytest.raises(DeviceError, match="There are 1 GPUs for more processes"):
        own_device(gpu, Processes(1, 2, 1))


def test_one_process_alone_needs_no_other():
    value = torch.tensor([1.5])
    with joined(ONE_PROCESS, torch.device("cpu")), ONE_PROCESS.failing_together():
        ONE_PROCESS.average([value])
    assert (float(value), ONE_PROCESS.highest(2.5)) == (1.5, 2.5)
    with pytest.raises(EngineError, match="mine"), ONE_PROCESS.failing_together():
        raise EngineError("mine")
