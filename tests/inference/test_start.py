"""A run with a compiled network on disk starts without torch, and gives the same bytes; nothing stale is ever used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from run_python import run_python
from tiny_models import write_tiny

from napari_skipseg.devices import has_openvino
from napari_skipseg.errors import ModelError
from napari_skipseg.inference.backends import compiled
from napari_skipseg.inference.backends.warm import open_model
from napari_skipseg.inference.memory import measure_memory
from napari_skipseg.models.folder import WEIGHTS_FILE
from napari_skipseg.models.model import CheckedModel, Model, read_model

SEGMENT = """
import sys
import napari_skipseg as skipseg

skipseg.segment_to_folder(sys.argv[1], sys.argv[2], sys.argv[3], device="auto")
print("torch" in sys.modules)
"""
FACTS = """
import sys
from napari_skipseg import devices

def say():
    return [devices.has_bf16(), devices.why_no_cuda(), devices.why_no_mps(), devices.best_precision("cpu").reason]

before, loaded = say(), "torch" in sys.modules
import torch
print([loaded, before == say(), devices.torch_build().version == torch.__version__])
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(compiled.COMPILED_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights_of(model: Model) -> dict[str, Any]:
    return {name: values.copy() for name, values in model.iter_weights()}


@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
def test_a_second_run_imports_no_torch_and_writes_the_same_bytes(tmp_path: Path) -> None:
    model, image = write_tiny(tmp_path / "tiny"), tmp_path / "em.tif"
    grey = np.random.default_rng(0).integers(60, 200, (96, 96)).astype(np.uint8)
    tifffile.imwrite(image, grey)
    said = []
    for number in range(2):
        ended = run_python(SEGMENT, image, model, tmp_path / f"out{number}")
        assert ended.returncode == 0, ended.stderr
        said.append(ended.stdout.split()[-1])
    assert said == ["True", "False"]
    first, second = ({file.name: file.read_bytes() for file in sorted(tmp_path.glob(f"out{n}/*.tif"))} for n in (0, 1))
    assert len(first) == 2
    assert first == second


@pytest.mark.parametrize("limit", ["", "AVX2"])
def test_devices_say_the_same_without_torch_as_with_it(limit: str) -> None:
    ended = run_python(FACTS, ONEDNN_MAX_CPU_ISA=limit)
    assert ended.returncode == 0, ended.stderr
    loaded, *same = json.loads(ended.stdout.replace("True", "true").replace("False", "false"))
    assert all(same)
    assert not loaded or has_torch_to_ask()


def has_torch_to_ask() -> bool:
    """Whether torch must be asked: a Mac, an ARM processor, or a GPU's driver beside a torch that was built for it."""
    import platform

    import torch

    return platform.system() != "Linux" or platform.machine() != "x86_64" or torch.cuda.is_available()


def test_a_model_that_was_checked_gives_the_same_weights_without_a_network(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "tiny")
    first, again = open_model(folder), open_model(folder)
    assert isinstance(again, CheckedModel)
    assert not isinstance(first, CheckedModel)
    without = weights_of(again)
    assert "network" not in vars(again)
    of_network = {name: tensor.numpy() for name, tensor in again.network.state_dict().items()}
    assert "network" in vars(again)
    for found in (weights_of(first), weights_of(again), of_network):
        assert {name: (values.dtype, values.tobytes()) for name, values in found.items()} == {
            name: (values.dtype, values.tobytes()) for name, values in without.items()
        }


def test_changed_weights_are_refused_even_if_the_model_was_checked_before(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "tiny")
    open_model(folder)
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="SHA-256"):
        open_model(folder)


def test_weights_that_do_not_fit_are_never_noted_as_checked(tmp_path: Path, own_cache: Path) -> None:
    folder, wider = write_tiny(tmp_path / "tiny"), write_tiny(tmp_path / "volume", 3)
    description = json.loads((folder / "model.json").read_text())
    description["spec"] = json.loads((wider / "model.json").read_text())["spec"]
    (folder / "model.json").write_text(json.dumps(description))
    for _ in range(2):
        with pytest.raises(ModelError, match="do not fit"):
            open_model(folder)
    assert not own_cache.exists()


def test_what_a_network_needs_is_counted_once_for_a_model_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_skipseg.inference import activations

    model = read_model(write_tiny(tmp_path / "tiny"))
    counted: list[str] = []
    count = activations.count_bytes
    monkeypatch.setattr(
        activations, "count_bytes", lambda model, precision: counted.append(precision) or count(model, precision)
    )
    found = [measure_memory(model, precision) for precision in ("f32", "bf16", "f32", "bf16")]
    assert counted == ["f32", "bf16"]
    assert found[:2] == found[2:]
    assert found[0].bytes > found[1].bytes
    draft = Model(replace(model.description, weights_sha256=""), model.network)
    assert measure_memory(draft, "f32") == found[0]
    assert counted == ["f32", "bf16", "f32"], "a network in memory may be another one than its description says"


def test_damaged_facts_count_as_missing() -> None:
    compiled.write_compiled("some", b"[1, 2]")
    compiled.write_compiled("text", b"no json")
    compiled.write_facts("good", {"weights": 3})
    assert [compiled.read_facts(key) for key in ("some", "text", "good")] == [None, None, {"weights": 3}]
