"""Which device and which precision are chosen: a GPU only if it computes, half precision only where it is fast."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from napari_skipseg import devices
from napari_skipseg.devices import best_precision, choose_device, has_kernels
from napari_skipseg.errors import DeviceError

BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be reported later."


@pytest.fixture(autouse=True)
def nothing_started_yet() -> Iterator[None]:
    kept = set(devices._STARTED)
    devices._STARTED.clear()
    yield
    devices._STARTED.clear()
    devices._STARTED.update(kept)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Torch says that there is a CUDA GPU of capability 8.6, and a step on it succeeds."""
    answers: dict[str, Any] = {
        "is_available": True,
        "get_device_name": "Some GPU",
        "get_device_capability": (8, 6),
        "get_arch_list": ["sm_75", "sm_80", "sm_90"],
        "mem_get_info": (2**33, 2**33),
        "memory_reserved": 0,
        "memory_allocated": 0,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(devices, "take_small_step", lambda name: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def failing(message: str, kind: type[Exception] = RuntimeError) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise kind(message)

    return fail


def test_a_gpu_that_computes_is_taken(gpu: pytest.MonkeyPatch) -> None:
    assert (choose_device("auto").name, choose_device("auto").title) == ("cuda", "Some GPU")
    assert choose_device("cuda").reason == "chosen by you"


@pytest.mark.parametrize("asked", ["get_device_name", "get_device_capability", "mem_get_info"])
def test_a_gpu_that_answers_with_an_error_is_left_for_the_cpu(gpu: pytest.MonkeyPatch, asked: str) -> None:
    gpu.setattr(torch.cuda, asked, failing(BUSY))
    chosen = choose_device("auto")
    assert chosen.name == "cpu"
    assert chosen.reason.startswith("no GPU: CUDA cannot be started (CUDA error: CUDA-capable device(s) is/are busy")
    assert "\n" not in chosen.reason
    with pytest.raises(DeviceError, match="busy or unavailable") as error:
        choose_device("cuda")
    assert "--device auto or cpu" in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        AssertionError("Torch not compiled with CUDA enabled"),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_a_gpu_on_which_a_step_fails_is_left_for_the_cpu(gpu: pytest.MonkeyPatch, error: Exception) -> None:
    gpu.setattr(devices, "take_small_step", failing(str(error), type(error)))
    assert choose_device("auto").name == "cpu"
    assert str(error).rstrip(".") in choose_device("auto").reason


def test_a_gpu_that_this_torch_has_no_kernels_for_is_left_without_a_step(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda *_: (6, 1))
    gpu.setattr(devices, "take_small_step", failing("this would end the process"))
    reason = choose_device("auto").reason
    assert "no kernels for Some GPU (capability 6.1; it has sm_75, sm_80, sm_90)" in reason


def test_a_step_that_succeeded_is_not_taken_again_and_one_that_failed_is(gpu: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    gpu.setattr(devices, "take_small_step", failing(BUSY))
    assert choose_device("auto").name == "cpu"
    gpu.setattr(devices, "take_small_step", taken.append)
    assert [choose_device("auto").name for _ in range(3)] == ["cuda"] * 3
    assert taken == ["cuda"]


def test_what_torch_says_of_a_driver_is_in_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> bool:
        import warnings

        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "The NVIDIA driver on your system is too old" in devices.why_no_cuda()


def test_a_metal_gpu_on_which_a_step_fails_is_left_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(devices, "take_small_step", failing("MPS backend out of memory"))
    assert choose_device("auto").reason == "no GPU: Metal cannot be started (MPS backend out of memory)"
    with pytest.raises(DeviceError, match="Metal cannot be started"):
        choose_device("mps")
    monkeypatch.setattr(devices, "take_small_step", lambda name: None)
    assert choose_device("auto").name == "mps"


def test_the_small_step_runs_and_leaves_the_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    devices.take_small_step("cpu")
    with torch.no_grad():
        devices.take_small_step("cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_86"], False),
        ((9, 0), ["sm_86", "compute_86"], True),
        ((8, 0), ["compute_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((12, 0), ["sm_100", "sm_120"], True),
        ((12, 1), ["sm_120f"], True),
        ((6, 1), ["sm_75", "sm_80", "compute_90"], False),
    ],
)
def test_kernels_run_on_their_own_generation_and_later_where_the_driver_compiles_them(
    capability: tuple[int, int], built_for: list[str], runs: bool
) -> None:
    assert has_kernels(capability, built_for) == runs


@pytest.mark.parametrize(
    ("capability", "inference", "training"),
    [
        ((6, 1), "f32", "f32"),
        ((7, 0), "f16", "f32"),
        ((7, 5), "f16", "f32"),
        ((8, 0), "bf16", "bf16"),
        ((8, 6), "bf16", "bf16"),
        ((12, 0), "bf16", "bf16"),
    ],
)
def test_the_precision_on_cuda_follows_its_capability(
    gpu: pytest.MonkeyPatch, capability: tuple[int, int], inference: str, training: str
) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert (best_precision("cuda").name, best_precision("cuda", training=True).name) == (inference, training)
    assert f"capability {capability[0]}.{capability[1]}" in best_precision("cuda").reason


@pytest.mark.parametrize(
    ("machine", "accepted", "native", "limit", "inference", "training"),
    [
        ("x86_64", True, True, "", "bf16", "bf16"),
        ("AMD64", True, True, "", "bf16", "bf16"),
        ("x86_64", False, True, "", "f32", "f32"),  # AVX2
        ("x86_64", True, False, "", "f32", "f32"),  # AVX-512 without bf16: oneDNN accepts it and imitates it
        ("x86_64", True, True, "AVX512_CORE", "f32", "f32"),
        ("aarch64", True, False, "", "bf16", "f32"),
        ("arm64", False, False, "", "f32", "f32"),
    ],
)
def test_the_precision_on_a_cpu_is_bf16_where_it_has_it(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    accepted: bool,
    native: bool,
    limit: str,
    inference: str,
    training: str,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: accepted)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert (best_precision("cpu").name, best_precision("cpu", training=True).name) == (inference, training)


def test_a_torch_without_onednn_computes_in_f32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", raising=False)
    assert best_precision("cpu").name == "f32"


def test_apples_gpu_computes_in_f32() -> None:
    assert best_precision("mps").name == best_precision("mps", training=True).name == "f32"
