"""V-Net (Milletari et al. 2016) with the skips of Asgari Taghanaki et al. 2019."""

import pytest
import torch
from torch import nn

from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.network import count_trainable
from napari_skipseg.networks.specs import VNetSpec
from napari_skipseg.networks.vnet import Repeat

SMALL = {"widths": (2, 4, 8), "convolutions": (1, 2, 2), "kernel": 3}


def on_meta(spec):
    with torch.device("meta"):
        return build(spec)


def sizes_inside(network, image):
    """Output shapes of the stages of a network, without the batch, by name."""
    shapes = {}
    stages = {f"{path} {n}": stage for path in ("encoder", "decoder") for n, stage in enumerate(getattr(network, path))}
    for name, module in stages.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    network.run(image)
    return shapes


def test_the_paper_s_layout_stage_by_stage():
    network = on_meta(VNetSpec(dimensions=3, skip="org"))
    assert network.stride == 16
    assert sizes_inside(network, torch.empty(1, 1, 64, 128, 128, device="meta")) == {
        "encoder 0": (16, 64, 128, 128),
        "encoder 1": (32, 32, 64, 64),
        "encoder 2": (64, 16, 32, 32),
        "encoder 3": (128, 8, 16, 16),
        "encoder 4": (256, 4, 8, 8),
        "decoder 3": (256, 8, 16, 16),
        "decoder 2": (128, 16, 32, 32),
        "decoder 1": (64, 32, 64, 64),
        "decoder 0": (32, 64, 128, 128),
    }
    kernels = [
        [layer.kernel_size for layer in stage.branch if isinstance(layer, nn.Conv3d)]
        for stage in (*network.encoder, *reversed(network.decoder))
    ]
    assert [len(stage) for stage in kernels] == [1, 2, 3, 3, 3, 3, 3, 2, 1]
    assert {kernel for stage in kernels for kernel in stage} == {(5, 5, 5)}


def test_the_first_stage_adds_the_image_repeated_to_its_width():
    image = torch.randn(2, 3, 4, 5)
    repeated = Repeat(7)(image)
    assert torch.equal(repeated, image[:, [0, 1, 2, 0, 1, 2, 0]])
    assert torch.equal(Repeat(2)(image), image[:, :2])

    first = build(VNetSpec(dimensions=2, **SMALL)).eval().encoder[0]
    grey = torch.rand(1, 1, 6, 6)
    nn.init.zeros_(first.branch[0].weight)
    nn.init.zeros_(first.branch[0].bias)
    assert torch.equal(first(grey), grey.repeat(1, 2, 1, 1))


def test_a_stage_without_its_branch_passes_what_was_joined_through_a_prelu():
    stage = build(VNetSpec(skip="org", **SMALL)).eval().decoder[1]
    assert [type(layer) for layer in stage.branch] == [
        *(nn.Conv2d, nn.BatchNorm2d, nn.PReLU),
        *(nn.Conv2d, nn.BatchNorm2d, nn.Dropout2d),
    ]
    nn.init.zeros_(stage.branch[3].weight)
    nn.init.zeros_(stage.branch[3].bias)
    joined = torch.randn(1, 8, 4, 4)
    assert torch.equal(stage(joined), torch.where(joined > 0, joined, 0.25 * joined))


@pytest.mark.parametrize(
    ("skip", "maps", "repairs"),
    [
        ("org", 1, [None, None]),
        ("st", 1, [None, None]),
        ("additive", 1, [None, None]),
        ("sat", 1, [(4, 3), (8, 5)]),
        ("at", 2, [None, (8, 6)]),
        ("reduce", 1, [(4, 3), (8, 5)]),
        ("sum", 1, [(4, 2), (8, 4)]),
        ("none", 1, [(4, 2), (8, 4)]),
    ],
)
def test_the_residual_is_repaired_only_where_the_joined_width_is_not_the_stage_s(skip, maps, repairs):
    network = build(VNetSpec(skip=skip, gate_maps=maps, **SMALL))
    residuals = [stage.residual for stage in network.decoder]
    assert [None if isinstance(r, nn.Identity) else tuple(r.weight.shape[:2]) for r in residuals] == repairs
    assert all(isinstance(stage.residual, nn.Identity) for stage in network.encoder[1:])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_sat_saves_43_040_kernels_and_adds_gates_and_repairs(dimensions):
    """The papers' V-Nets differ by 43,040·k^d - 2,380; of the constant only the gates' 492 are known.

    Ours: each gate adds 2C + 3, and each repair, a 1×1 convolution of C + 1 to 2C channels, (C + 1)·2C + 2C.
    """
    levels = (16, 32, 64, 128)
    org, sat = (on_meta(VNetSpec(dimensions=dimensions, skip=skip)) for skip in ("org", "sat"))
    firsts = [
        sum(stage.branch[0].weight.numel() for stage in network.decoder) // 5**dimensions for network in (org, sat)
    ]
    assert firsts[0] - firsts[1] == sum((c - 1) * 2 * c for c in levels) == 43_040

    gates = sum(2 * c + 3 for c in levels)
    repairs = sum((c + 1) * 2 * c + 2 * c for c in levels)
    assert (gates, repairs) == (492, 44_480)
    assert count_trainable(sat.gates) == gates
    assert count_trainable(nn.ModuleList(stage.residual for stage in sat.decoder)) == repairs
    assert count_trainable(org.gates) == count_trainable(nn.ModuleList(s.residual for s in org.decoder)) == 0
    assert count_trainable(org) - count_trainable(sat) == 43_040 * 5**dimensions - gates - repairs


@pytest.mark.parametrize("dimensions", [2, 3])
def test_parameters_are_those_of_the_layout(dimensions):
    def layer(inputs, outputs, side):  # convolution with bias, batch norm, PReLU
        return inputs * outputs * side**dimensions + 4 * outputs

    contracting = layer(1, 2, 3) + 2 * layer(4, 4, 3) + 2 * layer(8, 8, 3) + layer(2, 4, 2) + layer(4, 8, 2)
    expanding = layer(8, 4, 2) + 2 * layer(8, 8, 3) + layer(8, 2, 2) + layer(4, 4, 3)
    assert count_parameters(VNetSpec(dimensions=dimensions, skip="org", **SMALL)) == contracting + expanding + 5


def test_the_paper_s_widths_have_these_counts():
    counts = [count_parameters(VNetSpec(dimensions=d, skip=skip)) for d in (2, 3) for skip in ("org", "sat")]
    assert counts == [13_282_225, 12_251_197, 65_182_193, 59_847_165]


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_channel_dropout_ends_every_branch_even_at_rate_0(rate):
    network = build(VNetSpec(dimensions=3, dropout=rate, **SMALL))
    stages = [*network.encoder, *network.decoder]
    assert [type(stage.branch[-1]) for stage in stages] == [nn.Dropout3d] * 5
    assert {stage.branch[-1].p for stage in stages} == {rate}
