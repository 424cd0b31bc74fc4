"""A model on disk: whole or not at all, checked, never a pickle, never overwritten."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from full_disk import full_disk
from safetensors.torch import load_file

from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import Card, ClassLabel, ModelDescription, TrainingRecord, description_to_json
from napari_skipseg.models.folder import PICKLES, read_description
from napari_skipseg.models.model import as_stored, read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage, UNetSpec

SPEC = UNetSpec(widths=(2, 4), out_channels=3)
DESCRIPTION = ModelDescription(
    "mine",
    SPEC,
    (ClassLabel("membrane", 0), ClassLabel("mitochondrion", 7)),
    margin=6,
    weights_sha256="",
    voxel_size=(50.0, 4.0, 4.0),
    unit="nm",
    card=Card("finds membranes", "a larva", "CC BY 4.0", ("napari-skipseg train x.json",), {"Dice": 0.9}, "slice 3"),
    training=TrainingRecord({"steps": 2}, {"training loss": ((1, 0.9), (2, 0.7))}, {"torch": "2"}, "em-membrane"),
)


def write(folder, description=DESCRIPTION):
    torch.manual_seed(0)
    return write_model(folder, description, build(description.spec))


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "mine")


@pytest.fixture
def folder(model, tmp_path):
    return tmp_path / "mine"


def change(folder, **values):
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_everything_but_the_hash_comes_back_as_it_was_written(model, folder):
    read = read_model(folder)
    assert read.description == model.description
    expected = json.loads(description_to_json(DESCRIPTION))
    found = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert found.pop("weights_sha256") == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    expected.pop("weights_sha256")
    assert found == expected


def test_a_model_read_back_computes_what_was_returned_when_written(model, folder):
    image = torch.randn(1, 1, 12, 12)
    with torch.inference_mode():
        assert torch.equal(read_model(folder).network(image).logits, model.network(image).logits)


def test_weights_are_stored_in_half_precision_and_statistics_in_full(folder):
    for name, tensor in load_file(folder / "weights.safetensors").items():
        if name.endswith(("running_mean", "running_var")):
            assert tensor.dtype == torch.float32
        elif name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.int64
        else:
            assert tensor.dtype == torch.float16


def test_as_stored_rounds_weights_as_the_file_does(tmp_path):
    network = build(SPEC)
    rounded = as_stored(network)
    written = write_model(tmp_path / "m", DESCRIPTION, network).network.state_dict()
    assert all(torch.equal(tensor, written[name]) for name, tensor in rounded.state_dict().items())


def test_the_folder_holds_two_files_and_may_be_read_by_others(folder):
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "weights.safetensors"]
    assert [file.name for file in folder.parent.iterdir()] == ["mine"]
    assert os.name == "nt" or folder.stat().st_mode & 0o777 == 0o755


def test_a_residual_network_with_its_stages_survives_the_folder(tmp_path):
    spec = ResidualFCNSpec(width=2, stages=(Stage("basic", 2, 1),), across=Stage("simple", 2, 2), projection="narrow")
    description = ModelDescription("r", spec, (ClassLabel("membrane", 255),), 4, "")
    write(tmp_path / "r", description)
    assert read_description(tmp_path / "r").spec == spec


def test_a_model_is_never_overwritten(model, folder):
    before = (folder / "weights.safetensors").read_bytes()
    with pytest.raises(ModelError, match="never overwritten: choose a different name"):
        write_model(folder, DESCRIPTION, build(SPEC))
    assert (folder / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(("owner", "broken"), [(Path, "write_bytes"), (os, "fsync"), (os, "replace")])
def test_a_full_disk_leaves_nothing_behind(owner, broken, tmp_path, monkeypatch):
    monkeypatch.setattr(owner, broken, full_disk)
    with pytest.raises(ModelError, match=r"cannot be written.*No space left"):
        write(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_hold_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written to"):
        write(tmp_path / "file" / "mine")


def test_changed_weights_are_refused(folder):
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"SHA-256 differs.*copy the whole folder again"):
        read_model(folder)


def test_a_wrong_hash_is_refused(folder):
    change(folder, weights_sha256="0" * 64)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        read_model(folder)


def test_weights_that_are_no_safetensors_are_refused_even_with_the_right_hash(folder):
    (folder / "weights.safetensors").write_bytes(b"\x80\x04nonsense")
    change(folder, weights_sha256=hashlib.sha256(b"\x80\x04nonsense").hexdigest())
    with pytest.raises(ModelError, match="do not fit the network"):
        read_model(folder)


def test_weights_of_another_network_are_refused(folder):
    change(folder, spec=json.loads(description_to_json(DESCRIPTION))["spec"] | {"widths": [2, 6]})
    with pytest.raises(ModelError, match="do not fit the network"):
        read_model(folder)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"colour": "red"}, "colour"),
        ({"format_version": 2}, "format_version"),
        ({"spec": {"network": "unet", "depth": 4}}, "depth"),
        ({"spec": {"network": "vgg"}}, "spec"),
        ({"card": {"author": "me"}}, "author"),
        ({"classes": []}, "names 0 classes"),
        ({"classes": [{"name": "membrane", "label": 0}]}, "returns 3 channels"),
        ({"margin": -1}, "margin of 0 or more"),
        ({"voxel_size": [0, 4, 4]}, "voxel size of positive numbers"),
        ({"normalization": "percentile"}, "normalization"),
    ],
)
def test_a_description_that_is_not_understood_is_refused(folder, values, fault):
    change(folder, **values)
    with pytest.raises(ModelError, match=f"invalid model.json.*{fault}") as caught:
        read_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"null"])
def test_a_description_that_is_no_json_object_is_refused(folder, content):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"invalid model\.json"):
        read_description(folder)


def test_missing_files_are_named(folder):
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no readable weights\.safetensors"):
        read_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(ModelError, match=r"not a model: model\.json"):
        read_model(folder)


def test_a_missing_folder_is_named_with_the_way_to_find_others(tmp_path):
    with pytest.raises(ModelError, match=r"no model folder at.*napari-skipseg models"):
        read_model(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", [*PICKLES, ".PT"])
def test_files_that_can_run_code_are_never_loaded(tmp_path, suffix):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")
    with pytest.raises(ModelError, match="can run code"):
        read_model(file)
