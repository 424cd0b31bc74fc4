"""DI2IN as Asgari Taghanaki et al. 2019 count it."""

import pytest
import torch
from torch import nn

from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.specs import DI2INSpec

SMALL = {"widths": (4, 8)}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_sat_saves_10_760_kernels_and_adds_its_gates(dimensions):
    org, sat = (count_parameters(DI2INSpec(dimensions=dimensions, skip=skip)) for skip in ("org", "sat"))
    levels = (16, 32, 64, 128)
    assert sum((c - 1) * c // 2 for c in levels) == 10_760
    assert org - sat == 10_760 * 3**dimensions - sum(2 * c + 1 for c in levels)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_parameters_of_a_small_di2in_are_those_of_its_layout(dimensions):
    def layer(inputs, outputs):  # convolution with bias and batch norm
        return inputs * outputs * 3**dimensions + 3 * outputs

    contracting = layer(1, 4) + layer(4, 4) + layer(4, 8) + layer(8, 8) + 2 * layer(8, 8)
    expanding = layer(8 + 8, 4) + layer(4 + 4, 2)
    assert count_parameters(DI2INSpec(dimensions=dimensions, skip="org", **SMALL)) == contracting + expanding + 3


def test_the_layout_stage_by_stage():
    with torch.device("meta"):
        network = build(DI2INSpec(skip="org"))
    shapes = {}
    stages = {
        f"{path} {n}": stage
        for path in ("encoder", "down", "decoder")
        for n, stage in enumerate(getattr(network, path))
    }
    for name, module in (stages | {"bottom": network.bottom}).items():
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    network.run(torch.empty(1, 1, 32, 64, 64, device="meta"))
    assert network.stride == 16
    assert list(shapes.items()) == [
        ("encoder 0", (16, 32, 64, 64)),
        ("down 0", (16, 16, 32, 32)),
        ("encoder 1", (32, 16, 32, 32)),
        ("down 1", (32, 8, 16, 16)),
        ("encoder 2", (64, 8, 16, 16)),
        ("down 2", (64, 4, 8, 8)),
        ("encoder 3", (128, 4, 8, 8)),
        ("down 3", (128, 2, 4, 4)),
        ("bottom", (128, 2, 4, 4)),
        ("decoder 3", (64, 4, 8, 8)),
        ("decoder 2", (32, 8, 16, 16)),
        ("decoder 1", (16, 16, 32, 32)),
        ("decoder 0", (8, 32, 64, 64)),
    ]


def test_up_sampling_keeps_a_ramp_a_ramp_with_pixel_areas_aligned():
    up = build(DI2INSpec(**SMALL)).up
    ramp = torch.arange(4.0).expand(1, 1, 4, 4, 4)
    inside = up(ramp)[0, 0, 3, 3]
    assert inside.tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert not list(up.parameters())


def test_a_part_of_the_image_gives_that_part_of_the_output():
    torch.manual_seed(0)
    network = build(DI2INSpec(dimensions=2, **SMALL)).eval()
    image = torch.randn(1, 1, 64, 96)
    with torch.inference_mode():
        whole, part = network(image).logits, network(image[..., 32:]).logits
    assert whole.std() > 1e-3
    torch.testing.assert_close(part[..., 28:], whole[..., 60:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_channel_dropout_ends_every_stage_even_at_rate_0(rate):
    network = build(DI2INSpec(dimensions=2, dropout=rate, **SMALL))
    stages = [*network.down, network.bottom, *network.decoder]
    assert [type(stage[-1]) for stage in stages] == [nn.Dropout2d] * 5
    assert {stage[-1].p for stage in stages} == {rate}
