"""The parameter counts of the papers: Drozdzal et al. 2016 (Table 1 and its variants), Asgari Taghanaki et al. 2019."""

import json
from functools import partial

import pytest
import torch

from napari_skipseg.networks.build import count_parameters, outline
from napari_skipseg.networks.network import count_trainable
from napari_skipseg.networks.presets import PRESETS, find_preset, variants
from napari_skipseg.networks.specs import NETWORK_NAMES, SKIPS, UNetSpec

RESIDUAL = {
    "residual-fcn-narrow": (11_042_273, 11_093_665),
    "residual-fcn": (11_451_745, 11_504_481),
    "residual-fcn-short": (11_567_393, 11_622_113),
    "residual-fcn-long-narrow": (10_261_217, 10_312_609),
    "residual-fcn-long": (10_757_601, 10_810_337),
    "residual-fcn-plain": (10_180_097, 10_234_817),
    "residual-fcn-concat": (12_018_785, 12_075_361),
    "residual-fcn-two-first": (12_048_769, 12_105_537),
    "residual-fcn-no-norm": (11_399_009, 11_399_009),
    "residual-fcn-basic": (10_482_145, 10_500_065),
    "residual-fcn-figure-4b": (8_495_073, 8_507_489),
    "residual-fcn-figure-4c": (2_621_025, 2_624_993),
    "residual-fcn-figure-4d": (6_527_457, 6_527_457),
}
"""In 2D: trainable parameters, and these with the statistics of batch norm, as Keras counts."""


def spec_of(name, dimensions, skip=None):
    preset = find_preset(name)
    (spec,) = (s for s in variants(preset) if (s.dimensions, s.skip) == (dimensions, skip or preset.spec.skip))
    return spec


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_fcn_has_the_parameters_of_the_paper(name):
    network = outline(spec_of(name, 2))
    statistics = sum(b.numel() for key, b in network.named_buffers() if key.endswith(("_mean", "_var")))
    trainable = count_trainable(network)
    assert (trainable, trainable + statistics) == RESIDUAL[name]
    assert count_parameters(spec_of(name, 2)) == trainable


@pytest.mark.parametrize("dimensions", [2, 3])
def test_each_gate_of_a_unet_adds_its_parameters_and_saves_kernels(dimensions):
    widths = (8, 16, 32)
    org, st, at, sat, reduce = (
        count_parameters(UNetSpec(dimensions=dimensions, skip=skip, widths=widths, gate_norm=False))
        for skip in ("org", "st", "at", "sat", "reduce")
    )
    kernels = sum((width - 1) * width * 3**dimensions for width in widths[:-1])
    assert st - org == 8 + 16
    assert org - at == org - reduce == kernels - (8 + 16 + 2)
    assert org - sat == kernels - (2 * (8 + 16) + 2)


def test_counting_makes_no_weights():
    wide = UNetSpec(widths=(4096, 4096, 4096))
    assert count_parameters(wide) > 1_000_000_000
    assert {tensor.device.type for tensor in outline(wide).state_dict().values()} == {"meta"}
    before = torch.get_rng_state()
    outline(UNetSpec(widths=(4, 8)))
    assert torch.equal(torch.get_rng_state(), before), "counting draws no random numbers"


def test_the_presets_have_every_network_with_every_skip_in_2d_and_3d():
    assert {preset.spec.network for preset in PRESETS} == set(NETWORK_NAMES)
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    for preset in PRESETS:
        skips = SKIPS if preset.skips else (preset.spec.skip,)
        pairs = [(spec.dimensions, spec.skip) for spec in variants(preset)]
        assert pairs == [(dimensions, skip) for dimensions in (2, 3) for skip in skips], preset.name
    everywhere = {preset.spec.network for preset in PRESETS if preset.skips == SKIPS}
    assert everywhere == set(NETWORK_NAMES)


# ---------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def listed(monkeypatch, run):
    """What `napari-skipseg networks` prints."""
    monkeypatch.setenv("COLUMNS", "200")
    return partial(run, "networks")


def test_the_json_list_has_all_counts_of_the_papers(listed):
    rows = json.loads(listed("--json").out)
    assert all({"name", "dimensions", "skip", "trainable_parameters"} <= row.keys() for row in rows)
    found = {(row["name"], row["dimensions"], row["skip"]): row["trainable_parameters"] for row in rows}
    assert len(found) == len(rows) == sum(len(variants(preset)) for preset in PRESETS)
    assert (found["di2in", 3, "org"], found["di2in", 3, "sat"]) == (2_353_089, 2_063_053)
    assert found["unet", 3, "org"] - found["unet", 3, "sat"] == 574_103
    assert found["unet-rgb", 2, "org"] - found["unet-rgb", 2, "sat"] == 191_063
    saved = [found["vnet", dimensions, "org"] - found["vnet", dimensions, "sat"] for dimensions in (2, 3)]
    assert saved[1] - saved[0] == 43_040 * (5**3 - 5**2)
    in_2d = {name: count for (name, dimensions, _), count in found.items() if dimensions == 2 and name in RESIDUAL}
    expected = {name: trainable for name, (trainable, _) in RESIDUAL.items()}
    in_2d["residual-fcn"] = found["residual-fcn", 2, "sum"]
    assert in_2d == expected


def test_the_table_has_a_line_per_network_and_that_of_one_network_a_line_per_skip(listed, monkeypatch):
    monkeypatch.setattr("napari_skipseg.networks.build.count_parameters", lambda spec: 1_000 * spec.dimensions)
    every, one = listed().out, listed("vnet").out
    assert [line.split()[0] for line in every.splitlines() if "2,000" in line] == [preset.name for preset in PRESETS]
    assert "networks NAME" in every
    lines = [line.split() for line in one.splitlines() if "2,000" in line]
    assert [line[-3:] for line in lines] == [[skip, "2,000", "3,000"] for skip in SKIPS]
    assert {line[0] for line in lines} == {"vnet"}


def test_one_network_is_listed_alone_in_json_too(listed):
    rows = json.loads(listed("di2in", "--json").out)
    assert {row["name"] for row in rows} == {"di2in"}
    assert len(rows) == 2 * len(SKIPS)


def test_an_unknown_network_gets_the_names_there_are(listed):
    err = listed("vgg").err
    assert "no network called 'vgg'" in err
    assert "residual-fcn-narrow" in err
    assert len(err.strip().splitlines()) == 1
