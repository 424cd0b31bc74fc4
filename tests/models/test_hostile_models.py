"""A model of a stranger gets one sentence, in no time and no memory, whatever its description says."""

from __future__ import annotations

import hashlib
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import ClassLabel, ModelDescription, can_name
from napari_skipseg.models.folder import read_description
from napari_skipseg.models.model import read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec

MILLIARD = 10**9
TABLE = {"block": "bottleneck", "width": 4, "repetition": 1}
SPECS: dict[str, dict[str, Any]] = {
    "wide": {"network": "unet", "widths": [60000, 60000]},
    "a bit wide": {"network": "unet", "widths": [4097, 4]},
    "levels": {"network": "unet", "widths": [1] * 5000},
    "huge number": {"network": "unet", "widths": [2**63, 10**400]},
    "channels": {"network": "unet", "in_channels": MILLIARD},
    "gate maps": {"network": "unet", "gate_maps": MILLIARD},
    "convolutions": {"network": "vnet", "widths": [16, 32], "convolutions": [MILLIARD, 1]},
    "kernel": {"network": "vnet", "kernel": 100001, "widths": [1, 1], "convolutions": [1, 1]},
    "layers": {"network": "tiramisu", "layers": [MILLIARD], "width": 1, "growth": 1},
    "growth": {"network": "tiramisu", "layers": [1], "width": 1, "growth": MILLIARD},
    "bottom": {"network": "tiramisu", "layers": [1], "bottom_layers": MILLIARD},
    "bottleneck": {"network": "tiramisu", "layers": [1], "bottleneck": MILLIARD},
    "repetition": {"network": "residual-fcn", "stages": [TABLE | {"repetition": MILLIARD}]},
    "many stages": {"network": "residual-fcn", "stages": [TABLE] * 3000},
    "across": {"network": "residual-fcn", "across": TABLE | {"width": MILLIARD, "repetition": 2}},
    "di2in": {"network": "di2in", "widths": [MILLIARD, 2]},
    "as large as allowed": {"network": "unet", "widths": [4096] * 13, "dimensions": 3},
    "of a different size": {"network": "unet", "widths": [2, 8]},
}


def put(folder: Path, spec: dict[str, Any], content: bytes, **more: Any) -> Path:
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    told = {"name": "m", "spec": spec, "classes": [{"name": "c", "label": 1}], "margin": 0, "weights_sha256": sha256}
    (folder / "model.json").write_text(json.dumps(told | more))
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    spec = UNetSpec(widths=(2, 4))
    write_model(tmp_path / "m", ModelDescription("m", spec, (ClassLabel("c", 1),), 0, ""), build(spec))
    return (tmp_path / "m" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("kind", SPECS)
def test_no_network_is_made_that_the_weights_are_not_of(kind: str, tmp_path: Path, weights: bytes) -> None:
    folder = put(tmp_path / "bomb", SPECS[kind], weights)
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(ModelError) as fault:
        read_model(folder)
    assert time.process_time() - begun < 5
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()
    assert "\n" not in str(fault.value)


def header(told: Any, more: bytes = b"") -> bytes:
    text = json.dumps(told).encode() if not isinstance(told, bytes) else told
    return len(text).to_bytes(8, "little") + text + more


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        header({}),
        header([1, 2]),
        header(b"[" * 100_000),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345"),
        header({"a": {"dtype": "X1", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": "1", "data_offsets": None}}),
        (2**62).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_header_that_does_not_describe_the_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="do not fit the network"):
        read_model(put(tmp_path / "bomb", {"network": "unet", "widths": [2, 4]}, content))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_what_is_no_file_of_a_possible_size_is_not_read(file: str, kind: str, tmp_path: Path, weights: bytes) -> None:
    folder = put(tmp_path / "bomb", {"network": "unet", "widths": [2, 4]}, weights)
    (folder / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / file)
    elif kind == "device":
        (folder / file).symlink_to("/dev/zero")
    else:
        with (folder / file).open("wb") as handle:
            handle.truncate(2**40)
    with pytest.raises(ModelError):
        read_model(folder)


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "", "\x1b[2J", "a\nb"])
def test_a_name_that_is_a_path_or_an_escape_is_refused(name: str, tmp_path: Path, weights: bytes) -> None:
    folder = put(tmp_path / "bomb", {"network": "unet", "widths": [2, 4]}, weights, name=name)
    with pytest.raises(ModelError, match="cannot name a model"):
        read_description(folder)


@pytest.mark.parametrize(
    "name",
    [
        "CON",
        "con",
        "aux.v2",
        "nul ",
        "COM1",
        "lpt³",
        "a:b",
        "a*",
        "a?b",
        'a"',
        "a<b",
        "a|b",
        "a.",
        " a",
        "x" * 201,
        "細" * 70,
    ],
)
def test_names_that_windows_or_a_file_system_refuse_name_no_model(name: str) -> None:
    assert not can_name(name)


@pytest.mark.parametrize("name", ["my-membranes", "con2", "console", "Zellkörper 2", "細胞", "a.b", "com10"])
def test_other_names_do(name: str) -> None:
    assert can_name(name)


def test_an_honest_model_is_read(tmp_path: Path, weights: bytes) -> None:
    model = read_model(tmp_path / "m")
    assert torch.isfinite(model.network(torch.zeros(1, 1, 8, 8)).logits).all()
