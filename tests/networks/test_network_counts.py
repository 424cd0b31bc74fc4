"""The parameter counts of the papers: Drozdzal et al. 2016 (Table 1 and its variants), Asgari Taghanaki et al. 2019."""

import pytest
import torch

from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.gates import Gate
from napari_skipseg.networks.network import count_trainable
from napari_skipseg.networks.presets import PRESETS, variants
from napari_skipseg.networks.specs import GATES, TABLE_1, ResidualFCNSpec, Stage, UNetSpec

FIRST = Stage("simple", 32, 1)


def main_stages(block, *repetitions):
    """The stages of Table 1 after the first, of another block or repetition."""
    inner = (32, 64, 128, 256)
    stages = [Stage(block, width, times) for width, times in zip(inner, repetitions, strict=True)]
    return {"stages": (FIRST, *stages[:3]), "across": stages[3]}


RESIDUAL = {
    "Table 1, narrow projection": ({"projection": "narrow"}, 11_042_273, 11_093_665),
    "Table 1": ({}, 11_451_745, 11_504_481),
    "only short": ({"skip": "none"}, 11_567_393, 11_622_113),
    "only long, narrow": ({"short_skips": False, "projection": "narrow"}, 10_261_217, 10_312_609),
    "only long": ({"short_skips": False}, 10_757_601, 10_810_337),
    "neither": ({"skip": "none", "short_skips": False}, 10_180_097, 10_234_817),
    "concatenated": ({"skip": "org"}, 12_018_785, 12_075_361),
    "two first stages, concatenated": ({"skip": "org", "stages": (FIRST, *TABLE_1)}, 12_048_769, 12_105_537),
    "no batch norm": ({"norm": False}, 11_399_009, 11_399_009),
    "basic blocks": (main_stages("basic", 3, 8, 10, 3), 10_482_145, 10_500_065),
    "figure 4b": ({"short_skips": False, **main_stages("simple", 9, 9, 9, 9)}, 8_495_073, 8_507_489),
    "figure 4c": ({"short_skips": False, **main_stages("simple", 3, 3, 3, 3)}, 2_621_025, 2_624_993),
    "figure 4d": ({"short_skips": False, "norm": False, **main_stages("simple", 7, 7, 7, 7)}, 6_527_457, 6_527_457),
}


@pytest.mark.parametrize("variant", RESIDUAL)
def test_residual_fcn_has_the_parameters_of_the_paper(variant):
    options, trainable, with_statistics = RESIDUAL[variant]
    with torch.device("meta"):
        network = build(ResidualFCNSpec(**options))
    statistics = sum(b.numel() for name, b in network.named_buffers() if name.endswith(("_mean", "_var")))
    assert count_trainable(network) == trainable
    assert trainable + statistics == with_statistics


def gate_parameters(dimensions, skip, norm, channels=24):
    return count_trainable(Gate(dimensions, channels, skip, "ones", norm))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_gates_of_c_channels_have_0_c_c1_and_2c1_parameters(dimensions):
    counts = [gate_parameters(dimensions, skip, norm=False) for skip in ("org", "st", "at", "sat")]
    assert counts == [0, 24, 25, 49]
    counts = [gate_parameters(dimensions, skip, norm=True) for skip in ("org", "st", "at", "sat")]
    assert counts == [0, 24, 27, 51]


@pytest.mark.parametrize(("dimensions", "channels", "fewer"), [(3, 1, 574_103), (2, 3, 191_063)])
def test_sat_saves_what_the_paper_says(dimensions, channels, fewer):
    org, sat = (
        count_parameters(
            UNetSpec(dimensions=dimensions, in_channels=channels, skip=skip, widths=(32, 64, 128, 256), gate_norm=True)
        )
        for skip in ("org", "sat")
    )
    assert org - sat == fewer


@pytest.mark.parametrize("dimensions", [2, 3])
def test_each_gate_of_a_unet_adds_its_parameters_and_saves_kernels(dimensions):
    widths = (8, 16, 32)
    org, st, at, sat = (
        count_parameters(UNetSpec(dimensions=dimensions, skip=skip, widths=widths, gate_norm=False)) for skip in GATES
    )
    kernels = sum((width - 1) * width * 3**dimensions for width in widths[:-1])
    assert st - org == 8 + 16
    assert org - at == kernels - (8 + 16 + 2)
    assert org - sat == kernels - (2 * (8 + 16) + 2)


def test_counting_makes_no_weights():
    wide = UNetSpec(widths=(4096, 4096, 4096))
    assert count_parameters(wide) > 1_000_000_000


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_exists_in_2d_and_3d(preset):
    specs = variants(preset)
    assert {spec.dimensions for spec in specs} == {2, 3}
    assert {spec.skip for spec in specs} == (set(GATES) if preset.spec.network == "unet" else {preset.spec.skip})
    assert all(count_parameters(spec) > 0 for spec in specs)
