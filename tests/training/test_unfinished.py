"""Interrupted fine-tunings are found by their checkpoints; what is no checkpoint is left out."""

import torch
from torch import nn

from napari_skipseg.models.description import ClassLabel
from napari_skipseg.training.checkpoint import FitState, write_checkpoint
from napari_skipseg.training.settings import FinetuneSettings, settings_to_dict
from napari_skipseg.training.unfinished import find_unfinished

SETTINGS = FinetuneSettings("n", ("a",), ("b",), (ClassLabel("x", 2),), model="m", reach="normal", seed=3)


def write(folder, name):
    folder = folder / f"{name}.training"
    folder.mkdir()
    network = nn.Linear(2, 2)
    record = settings_to_dict(SETTINGS) | {"learnt_from_sha256": "ab", "computed_in": "f32"}
    optimizer = torch.optim.AdamW(network.parameters())
    write_checkpoint(folder / "checkpoint.safetensors", record, FitState(step=12), network, optimizer)


def test_a_checkpoint_without_its_model_is_unfinished(tmp_path):
    assert find_unfinished(tmp_path) == []
    write(tmp_path, "n")
    (found,) = find_unfinished(tmp_path)
    assert (found.settings, found.step) == (SETTINGS, 12)
    (tmp_path / "n").mkdir()
    assert find_unfinished(tmp_path) == []


def test_what_cannot_be_read_is_left_out(tmp_path):
    for name, content in (("a", b""), ("b", b"\xff" * 40), ("c", b"\x02" + bytes(7) + b"{}"), ("d", bytes(8))):
        (tmp_path / f"{name}.training").mkdir()
        (tmp_path / f"{name}.training" / "checkpoint.safetensors").write_bytes(content)
    (tmp_path / "e.training").mkdir()
    assert find_unfinished(tmp_path) == []
