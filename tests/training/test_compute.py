"""Where a training computes and in which precision: the GPU only if the network runs on it, the same when resumed."""

import copy

import pytest
import torch

from napari_skipseg import devices
from napari_skipseg.devices import ChosenPrecision, Device
from napari_skipseg.errors import DeviceError
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.training import compute as compute_module
from napari_skipseg.training.checkpoint import PRECISION, FitState, write_checkpoint
from napari_skipseg.training.compute import Compute, choose_compute, one_thread
from napari_skipseg.training.distributed import ONE_PROCESS, Processes

SPEC = UNetSpec(widths=(2, 4))
GPU = Device("mps", "Apple GPU", "the fastest device here")


@pytest.fixture
def apple(monkeypatch):
    """A Mac's GPU is chosen; nothing can be placed on it, as this torch has none."""
    monkeypatch.setattr(compute_module, "choose_device", lambda name: GPU)
    return monkeypatch


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr(devices, "has_bf16", lambda: False)
    return monkeypatch


def choose(asked="auto", device="auto", file=None, processes=ONE_PROCESS):
    return choose_compute(build(SPEC), asked, device, file, processes)


def write(file, precision):
    network = build(SPEC)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    write_checkpoint(file, {"seed": 0, PRECISION: precision}, FitState(step=3), network, optimizer)


def test_auto_is_the_best_precision_for_training(without_bf16):
    found = choose(device="cpu")
    assert (found.device.type, found.precision) == ("cpu", "f32")
    assert "in f32 (this processor has no bf16 of its own)" in found.reason
    without_bf16.setattr(
        compute_module, "best_precision", lambda name, training: ChosenPrecision("bf16", str(training))
    )
    assert choose(device="cpu").precision == "bf16"


def test_a_precision_that_is_named_is_taken(without_bf16):
    assert choose("bf16", "cpu").precision == "bf16"


@pytest.mark.parametrize("begun_in", ["bf16", "f32"])
def test_a_training_that_is_resumed_keeps_its_precision(tmp_path, monkeypatch, begun_in):
    write(tmp_path / "file", begun_in)
    for is_fast in (True, False):
        monkeypatch.setattr(devices, "has_bf16", lambda is_fast=is_fast: is_fast)
        found = choose(device="cpu", file=tmp_path / "file")
        assert (found.precision, "as this training was begun" in found.reason) == (begun_in, True)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"\x02\0\0\0\0\0\0\0{}"])
def test_without_a_checkpoint_that_says_it_the_precision_is_chosen(tmp_path, without_bf16, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert choose(device="cpu", file=tmp_path / "file").precision == "f32"


def test_a_network_that_runs_on_the_gpu_is_trained_there(apple):
    network = build(SPEC)
    before = copy.deepcopy(network.state_dict())
    apple.setattr(Compute, "place", lambda self, network: network)
    apple.setattr(Compute, "upload", lambda self, images: images)
    found = choose_compute(network, "auto", "auto", None, ONE_PROCESS)
    assert (found.device.type, found.precision) == ("mps", "f32")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_with_a_layer_that_the_gpu_lacks_is_trained_on_the_cpu(apple, without_bf16):
    def lacks(self, images):
        raise NotImplementedError("The operator 'aten::max_pool3d_with_indices' is not implemented for the MPS device.")

    apple.setattr(Compute, "place", lambda self, network: network)
    apple.setattr(Compute, "upload", lacks)
    found = choose()
    assert (found.device.type, found.precision) == ("cpu", "f32")
    assert "Apple GPU cannot train this network (The operator 'aten::max_pool3d_with_indices'" in found.reason
    for asked in ({"device": "mps"}, {"processes": Processes(0, 2)}):
        with pytest.raises(DeviceError, match=r"Apple GPU cannot train this network.*choose --device cpu"):
            choose(**asked)


def test_autocast_is_made_for_half_precision_alone(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "autocast", lambda *given: made.append(given))
    Compute(torch.device("mps"), "f32").autocast()
    assert made == []
    Compute(torch.device("cpu"), "bf16").autocast()
    assert made == [("cpu", torch.bfloat16)]


def test_values_lie_as_the_device_is_fastest(monkeypatch):
    monkeypatch.setattr(compute_module, "computes_in_avx2", lambda: False)
    assert Compute(torch.device("mps")).memory_format(3) == torch.contiguous_format
    assert Compute(torch.device("cpu")).memory_format(2) == torch.channels_last
    assert Compute(torch.device("cuda")).memory_format(3) == torch.channels_last_3d


def test_gradients_in_avx2_are_computed_on_contiguous_slices(monkeypatch):
    """Only there: in 2D, in f32, on a processor without AVX-512 or with oneDNN limited to AVX2."""
    cpu = torch.device("cpu")
    for capability, limit, expected in (
        ("AVX512", "", torch.channels_last),
        ("AVX512", "avx2", torch.contiguous_format),
        ("AVX512", "AVX512_CORE", torch.channels_last),
        ("AVX2", "", torch.contiguous_format),
        ("DEFAULT", "", torch.channels_last),
    ):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert Compute(cpu, "f32").memory_format(2) == expected
        assert Compute(cpu, "f32").memory_format(3) == torch.channels_last_3d
        assert Compute(cpu, "bf16").memory_format(2) == torch.channels_last
        assert Compute(torch.device("cuda"), "f32").memory_format(2) == torch.channels_last


def test_a_step_in_either_order_gives_the_same_gradients(monkeypatch):
    torch.manual_seed(0)
    network, images = build(SPEC), torch.randn(2, 1, 16, 16)
    gradients = []
    for limit in ("AVX2", "AVX512_CORE"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        compute, trained = Compute(torch.device("cpu")), copy.deepcopy(network)
        compute.logits(compute.place(trained), images).square().mean().backward()
        assert images.is_contiguous()
        gradients.append([parameter.grad for parameter in trained.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_fit_in_one_thread_gives_the_threads_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
