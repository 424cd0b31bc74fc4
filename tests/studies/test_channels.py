"""What the study of channels says of every gate is what the gate itself does."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_models import NETWORKS, grey_stack, make, write

from napari_skipseg.errors import FileError, InputError, ModelError
from napari_skipseg.networks.gates import Gate
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.studies.channels import iter_channels
from napari_skipseg.studies.gates import gate_features, run_with_gates
from napari_skipseg.studies.pictures import choose_channels

IMAGE = np.random.default_rng(0).normal(size=(1, 13, 17)).astype(np.float32)


@pytest.mark.parametrize("skip", ["st", "at", "sat", "reduce"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_entered_a_gate_gives_what_left_it(network, skip):
    model = make(replace(NETWORKS[network], skip=skip))
    left = {}
    for name, module in model.network.named_modules():
        if isinstance(module, Gate):
            module.attend.register_forward_hook(lambda m, i, output, name=name: left.update({name: output[0]}))
    gates = gate_features(model, IMAGE)
    assert {gate.name for gate in gates} == set(left)
    with torch.no_grad():
        for gate in gates:
            after = torch.from_numpy(gate.after)[None]
            expected = left[gate.name][(slice(None), *(slice(0, n) for n in gate.before.shape[1:]))]
            module = model.network.get_submodule(gate.name)
            assert torch.allclose(module.attend(after)[0], expected, atol=1e-6)
            assert gate.before.shape[1:] == (-(-13 // gate.stride), -(-17 // gate.stride))


@pytest.mark.parametrize("skip", ["at", "sat", "additive"])
@pytest.mark.parametrize("network", NETWORKS)
def test_attention_maps_of_long_skips_come_first_and_are_those_the_network_returns(network, skip):
    model = make(replace(NETWORKS[network], skip=skip))
    with torch.inference_mode():
        output = model.network(torch.from_numpy(IMAGE)[None])
    run = run_with_gates(model, IMAGE)
    found = [attention for gate in run.gates for attention in gate.attentions]
    strides = [gate.stride for gate in run.gates for _ in gate.attentions]
    assert strides[: len(output.attentions)] == list(model.network.attention_strides)
    for attention, expected in zip(found, output.attentions, strict=False):
        assert np.array_equal(attention, expected[0, 0].numpy())
    assert np.allclose(run.output.probability, torch.sigmoid(output.logits)[0].numpy(), atol=1e-6)


def test_a_tiramisu_has_gates_in_its_dense_blocks_too():
    gates = gate_features(make(NETWORKS["tiramisu"]), IMAGE)
    assert [(gate.place, gate.stride) for gate in gates] == [
        ("long skip 1", 1),
        ("long skip 2", 2),
        ("dense block down 1", 1),
        ("dense block up 1", 1),
        ("dense block down 2", 2),
        ("dense block up 2", 2),
        ("dense block at the bottom", 4),
    ]


def test_several_maps_of_a_gate_are_told_apart():
    gates = gate_features(make(UNetSpec(widths=(3, 4), gate_maps=3)), IMAGE)
    assert [len(gate.attentions) for gate in gates] == [3]


@pytest.mark.parametrize("skip", ["none", "sum", "org"])
def test_plain_skips_are_no_gates(skip):
    assert gate_features(make(replace(NETWORKS["residual-fcn"], skip=skip)), IMAGE) == ()


def test_no_hook_is_left_behind():
    model = make(NETWORKS["unet"])
    gate_features(model, IMAGE)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())


def test_channels_are_chosen_evenly_among_on_and_off_ones():
    assert choose_channels(np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 0], np.float32), 4) == [2, 6, 3, 7]
    assert choose_channels(np.array([1, 1, 1, 0], np.float32), 4) == [0, 1, 2, 3]
    assert choose_channels(np.array([0, 0, 0], np.float32), 8) == [0, 1, 2]


def test_the_study_writes_a_table_and_two_pictures(tmp_path):
    write(tmp_path / "m", NETWORKS["unet"])
    result = run_to_end(iter_channels(tmp_path / "m", tmp_path / "out", grey_stack(4, 20, 24), number=2))
    assert [file.name for file in result.files] == ["channels.csv", "weights.csv", "channels.png", "features.png"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "channels.csv",
        "channels.png",
        "features.png",
        "weights.csv",
    ]
    with (tmp_path / "out" / "channels.csv").open(newline="", encoding="utf-8-sig") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["gate"], row["channels"], row["off_at_start_percent"]) for row in rows] == [
        ("gates.0", "3", ""),
        ("gates.1", "4", ""),
    ]
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG") for name in result_pictures(result))


def result_pictures(result):
    return [file.name for file in result.files if file.suffix == ".png"]


def test_a_3d_model_takes_the_volume_around_the_slice(tmp_path):
    write(tmp_path / "m", UNetSpec(dimensions=3, widths=(2, 3)))
    result = run_to_end(iter_channels(tmp_path / "m", tmp_path / "out", grey_stack(5, 12, 12), number=4))
    assert [file.name for file in result.files] == ["channels.csv", "weights.csv", "channels.png", "features.png"]


def test_a_model_without_select_step_is_refused_and_leaves_nothing(tmp_path):
    write(tmp_path / "m", UNetSpec(widths=(3, 4), skip="at"))
    with pytest.raises(ModelError, match=r"select no channels: choose a model whose skip is st or sat\.$"):
        run_to_end(iter_channels(tmp_path / "m", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_slice_that_is_not_there_is_refused_and_leaves_nothing(tmp_path):
    write(tmp_path / "m", UNetSpec(widths=(3, 4)))
    with pytest.raises(InputError, match=r"There is no slice 4 in 'cells': it has slices 0 to 3\."):
        run_to_end(iter_channels(tmp_path / "m", tmp_path / "out", grey_stack(4, 20, 24), number=4))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    write(tmp_path / "m", UNetSpec(widths=(3, 4)))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Nothing can be written to"):
        run_to_end(iter_channels(tmp_path / "m", tmp_path / "file" / "out"))
