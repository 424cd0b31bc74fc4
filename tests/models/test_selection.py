"""Which channels are off is read from the file alone, and said as the select step itself would say it."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import ClassLabel, ModelDescription, TrainingRecord
from napari_skipseg.models.model import write_model
from napari_skipseg.models.selection import gate_order, gate_place, read_selection
from napari_skipseg.networks.build import build
from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage, TiramisuSpec, UNetSpec

RESIDUAL = ResidualFCNSpec(skip="sat", width=2, stages=(Stage("simple", 3, 1),), across=Stage("simple", 4, 2))
TIRAMISU = TiramisuSpec(skip="sat", width=2, growth=2, layers=(2, 3), bottom_layers=2)


def describe(spec, **start):
    return ModelDescription("m", spec, (ClassLabel("membrane", 0),), 4, "", training=TrainingRecord(select_start=start))


def write(folder, spec, weights=(), **start):
    torch.manual_seed(0)
    network = build(spec)
    for module, values in zip((m for m in network.modules() if isinstance(m, Select)), weights, strict=False):
        module.weight.data = torch.tensor(values)
    write_model(folder, describe(spec, **start), network)
    return network


def test_weights_at_or_below_zero_are_off_and_those_above_one_count_as_one(tmp_path):
    write(tmp_path / "m", UNetSpec(widths=(4, 8)), [(-0.5, 0.0, 0.25, 1.5)])
    (gate,) = read_selection(tmp_path / "m")
    assert gate.weights.tolist() == [-0.5, 0.0, 0.25, 1.5]
    assert gate.truncated.tolist() == [0.0, 0.0, 0.25, 1.0]
    assert gate.weights.dtype == gate.truncated.dtype == np.float32
    assert gate.fraction_off == 0.5


def test_the_start_is_told_where_it_was_recorded(tmp_path):
    start = {"gates.0.select": (-1.0, 0.1, 0.2, 0.3)}
    write(tmp_path / "m", UNetSpec(widths=(4, 6, 8)), **start)
    first, second = read_selection(tmp_path / "m")
    assert first.start.tolist() == pytest.approx([-1.0, 0.1, 0.2, 0.3])
    assert (first.fraction_off_at_start, second.fraction_off_at_start) == (0.25, None)


def test_the_finest_long_skip_comes_first_however_the_network_numbers_them(tmp_path):
    write(tmp_path / "u", UNetSpec(widths=(4, 6, 8)))
    write(tmp_path / "r", RESIDUAL)
    found = {name: [(g.name, g.place, len(g.weights)) for g in read_selection(tmp_path / name)] for name in "ur"}
    assert found["u"] == [("gates.0", "long skip 1", 4), ("gates.1", "long skip 2", 6)]
    assert found["r"] == [("joins.1", "long skip 1", 2), ("joins.0", "long skip 2", 3)]


def test_gates_inside_dense_blocks_follow_the_long_skips(tmp_path):
    write(tmp_path / "m", TIRAMISU)
    assert [gate.place for gate in read_selection(tmp_path / "m")] == [
        "long skip 1",
        "long skip 2",
        "dense block down 1",
        "dense block up 1",
        "dense block down 2",
        "dense block up 2",
        "dense block at the bottom",
    ]


def test_ten_gates_are_sorted_as_numbers():
    description = describe(UNetSpec(widths=(1,) * 13))
    names = sorted((f"gates.{number}" for number in range(12)), key=lambda name: gate_order(name, description))
    assert [gate_place(name, description) for name in names] == [f"long skip {level}" for level in range(1, 13)]


@pytest.mark.parametrize("skip", ["org", "at", "additive"])
def test_a_model_whose_gates_do_not_select_has_none(tmp_path, skip):
    write(tmp_path / "m", UNetSpec(widths=(4, 8), skip=skip))
    assert read_selection(tmp_path / "m") == ()


def test_damaged_weights_are_refused(tmp_path):
    write(tmp_path / "m", UNetSpec(widths=(4, 8)))
    content = b"\x80\x04nonsense"
    (tmp_path / "m" / "weights.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        read_selection(tmp_path / "m")
    from napari_skipseg.models.description import description_to_json
    from napari_skipseg.models.folder import read_description

    description = replace(read_description(tmp_path / "m"), weights_sha256=hashlib.sha256(content).hexdigest())
    (tmp_path / "m" / "model.json").write_text(description_to_json(description), encoding="utf-8")
    with pytest.raises(ModelError, match="weights of model 'm' are not those"):
        read_selection(tmp_path / "m")
