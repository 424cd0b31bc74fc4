"""Which torch a machine's GPU needs, by its driver and generation."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from napari_skipseg import gpus
from napari_skipseg.gpus import NvidiaGpu, driving_versions, nvidia_gpus, usable_gpus
from napari_skipseg.inference import system_report
from napari_skipseg.inference.system_report import advice_for_nvidia, torch_advice


def gpu(driver: str, capability: tuple[int, int], cuda: tuple[int, int] = (0, 0)) -> NvidiaGpu:
    return NvidiaGpu("GPU-1", "Some GPU", driver, 8192, capability, cuda)


@pytest.mark.parametrize(
    ("driver", "capability", "cuda", "build"),
    [
        ("580.65", (8, 6), (0, 0), "cu130"),
        ("580.65", (6, 1), (13, 0), "cu126"),
        ("580.65", (7, 0), (13, 0), "cu126"),
        ("570.10", (12, 0), (0, 0), "cu128"),
        ("590.10", (12, 0), (13, 1), "cu130"),
        ("550.54", (9, 0), (12, 4), "cu126"),
        ("525.60", (7, 5), (0, 0), "cu126"),
        ("522.06", (8, 6), (11, 8), "cu118"),
    ],
)
def test_the_build_fits_driver_and_generation(
    driver: str, capability: tuple[int, int], cuda: tuple[int, int], build: str
) -> None:
    told = advice_for_nvidia(gpu(driver, capability, cuda))
    assert told.startswith("pip install ")
    assert told.endswith(f"/{build}")


@pytest.mark.parametrize(("driver", "capability", "least"), [("470.82", (7, 5), "525"), ("550.54", (12, 0), "570")])
def test_a_driver_that_is_too_old_comes_first(driver: str, capability: tuple[int, int], least: str) -> None:
    told = advice_for_nvidia(gpu(driver, capability))
    assert told.startswith(f"update the NVIDIA driver ({driver}) to {least} or later")


def test_only_a_machine_whose_gpu_is_not_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_report, "nvidia_gpus", lambda: (gpu("580.1", (8, 6)),))
    assert torch_advice(True, False) == ""
    assert "cu130" in torch_advice(False, False, "this torch was built without CUDA")
    assert "cu130" in torch_advice(True, False, "this torch has no kernels for Some GPU")
    monkeypatch.setattr(system_report, "nvidia_gpus", lambda: ())
    assert torch_advice(False, False, "no GPU") == ""
    monkeypatch.setattr(system_report, "has_amd_gpu", lambda: True)
    assert "/rocm" in torch_advice(False, False)
    assert torch_advice(False, True) == ""
    monkeypatch.setattr(system_report, "has_amd_gpu", lambda: False)
    monkeypatch.setattr(system_report, "is_apple_silicon", lambda: True)
    assert torch_advice(False, False) == ""
    assert "MPS" in torch_advice(False, False, "torch finds no Metal GPU")


ANSWERS = {
    "compute_cap": "GPU-a, NVIDIA RTX A2000, 550.54.14, 6138, 8.6\nGPU-b, NVIDIA H200, 550.54.14, 143771, 9.0\n",
    "plain": "| NVIDIA-SMI 550.54.14   Driver Version: 550.54.14   CUDA Version: 12.4     |\n",
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(command: list[str], **how: Any) -> Any:
        kind = "compute_cap" if any("compute_cap" in part for part in command) else "plain"
        return subprocess.CompletedProcess(command, 0, ANSWERS[kind].encode(), b"")

    monkeypatch.setattr(gpus.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(gpus.subprocess, "run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvidia_gpus.cache_clear()
    yield
    nvidia_gpus.cache_clear()


def test_the_driver_says_which_gpus_there_are(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = nvidia_gpus()
    assert first == NvidiaGpu("GPU-a", "NVIDIA RTX A2000", "550.54.14", 6138, (8, 6), (12, 4))
    assert second.capability == (9, 0)
    assert usable_gpus() == ("GPU-a", "GPU-b")
    for named, expected in (("1", ("1",)), ("GPU-b, GPU-a", ("GPU-b", "GPU-a")), ("-1", ()), ("", ())):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert usable_gpus() == expected


@pytest.mark.parametrize("fault", [OSError("no such file"), subprocess.TimeoutExpired("nvidia-smi", 10)])
def test_a_tool_that_does_not_answer_means_no_gpu(
    fault: Exception, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*command: Any, **how: Any) -> Any:
        raise fault

    monkeypatch.setattr(gpus.subprocess, "run", fail)
    assert nvidia_gpus() == ()
    assert driving_versions("cpu") == {}
