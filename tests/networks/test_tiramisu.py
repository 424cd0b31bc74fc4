"""The Tiramisu of Jégou et al. 2017: its published sizes, its stages, its gates."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.gates import Gate, GateOptions, LongSkip
from napari_skipseg.networks.network import count_trainable
from napari_skipseg.networks.specs import TiramisuSpec
from napari_skipseg.networks.tiramisu import DenseBlock, TransitionDown

CONVOLUTIONS = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
PUBLISHED = {
    56: TiramisuSpec(skip="org", in_channels=3, growth=12, layers=(4,) * 5, bottom_layers=4),
    67: TiramisuSpec(skip="org", in_channels=3, layers=(5,) * 5, bottom_layers=5),
    103: TiramisuSpec(skip="org", in_channels=3),
}
SMALL = {"width": 6, "growth": 4, "layers": (2, 3), "bottom_layers": 2}


def build_without_weights(spec):
    with torch.device("meta"):
        return build(spec)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_the_number_in_a_tiramisu_s_name_counts_its_convolutions(depth):
    network = build_without_weights(PUBLISHED[depth])
    assert sum(isinstance(module, CONVOLUTIONS) for module in network.modules()) == depth


@pytest.mark.parametrize(("depth", "trainable"), [(56, 1_376_988), (67, 3_463_532), (103, 9_322_348)])
def test_trainable_parameters_for_the_12_classes_of_camvid(depth, trainable):
    assert count_parameters(replace(PUBLISHED[depth], out_channels=12)) == trainable


@pytest.mark.parametrize(("depth", "millions"), [(56, 1.4), (67, 3.5), (103, 9.4)])
def test_with_the_running_statistics_it_has_the_parameters_the_paper_prints(depth, millions):
    """The authors' summary counts them. For FC-DenseNet56 alone the paper prints 1.5, which no known layout has."""
    network = build_without_weights(replace(PUBLISHED[depth], out_channels=11))
    values = sum(value.numel() for name, value in network.state_dict().items() if not name.endswith("tracked"))
    assert round(values / 1e6, 1) == millions


def test_fc_densenet103_stage_by_stage():
    network = build_without_weights(PUBLISHED[103])
    assert network.stride == 32
    assert [transition[2].in_channels for transition in network.transitions_down] == [112, 192, 304, 464, 656]
    ups = [(up.in_channels, up.out_channels) for up in network.transitions_up]
    assert ups == [(16 * layers, 16 * layers) for layers in (15, 12, 10, 7, 5)]  # new features and nothing else
    assert [join.joined_channels for join in network.joins] == [240 + 656, 192 + 464, 160 + 304, 112 + 192, 80 + 112]
    assert [len(block.layers) + 1 for block in (*network.down, network.bottom)] == [4, 5, 7, 10, 12, 15]
    assert network.classifier.in_channels == 256


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_whole_network_by_hand(dimensions, awaken):
    spec = TiramisuSpec(dimensions=dimensions, width=5, growth=3, layers=(2,), bottom_layers=1, skip="org")
    network = awaken(build(spec))
    image = torch.randn(2, 1, *(8, 6, 4)[:dimensions])
    with torch.no_grad():
        first = network.first(image)
        skip = torch.cat([first, network.down[0](first)], 1)
        up = network.transitions_up[0](network.bottom(network.transitions_down[0](skip)))
        joined = torch.cat([up, skip], 1)
        expected = network.classifier(torch.cat([joined, network.up[0](joined)], 1))
        assert torch.equal(network(image).logits, expected)


def test_a_transition_down_keeps_the_channels_and_halves():
    network = build(TiramisuSpec(**SMALL))
    transition = network.transitions_down[0]
    assert [type(layer).__name__ for layer in transition] == ["BatchNorm2d", "ReLU", "Conv2d", "Dropout", "MaxPool2d"]
    assert isinstance(transition, TransitionDown)
    assert transition.eval()(torch.randn(1, 14, 6, 4)).shape == (1, 14, 3, 2)


def test_every_dropout_is_there_at_rate_0():
    network = build(TiramisuSpec(dropout=0.0, **SMALL))
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0] * (2 * (2 + 3) + 2 + 2)  # layers of both paths, of the bottom, transitions down


def gated_blocks(network):
    blocks = [*network.down, network.bottom, *reversed(network.up)]
    return [block.gate.skip if block.gate else "" for block in blocks]


def test_dense_blocks_follow_the_skip_of_their_level_and_the_bottom_that_of_the_deepest():
    assert gated_blocks(build(TiramisuSpec(level_skips=("org", "sat"), **SMALL))) == ["", "sat", "sat", "", "sat"]
    assert gated_blocks(build(TiramisuSpec(level_skips=("st", "sum"), **SMALL))) == ["st", "", "", "st", ""]
    assert gated_blocks(build(TiramisuSpec(skip="reduce", dense_gates=False, **SMALL))) == [""] * 5


@pytest.mark.parametrize("skip", ["none", "sum", "org", "additive"])
def test_no_other_skip_changes_a_dense_block(skip):
    gated, plain = (build(TiramisuSpec(skip=skip, dense_gates=gates, **SMALL)) for gates in (True, False))
    assert list(gated.state_dict()) == list(plain.state_dict())
    assert not any(block.gate for block in gated.modules() if isinstance(block, DenseBlock))


def test_the_classifier_and_the_long_skip_take_a_gated_block_s_input_whole():
    org, sat = (build(TiramisuSpec(skip=skip, **SMALL)) for skip in ("org", "sat"))
    assert [join.select.weight.shape for join in reversed(sat.joins)] == [(6 + 8,), (6 + 8 + 12,)]
    assert (org.classifier.in_channels, sat.classifier.in_channels) == (12 + 14 + 8, 12 + 1 + 8)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_attentions_are_those_of_the_long_skips_alone(dimensions):
    network = build(TiramisuSpec(dimensions=dimensions, skip="sat", gate_maps=2, **SMALL)).eval()
    gates = [module for module in network.modules() if isinstance(module, Gate)]
    with torch.no_grad():
        attentions = network(torch.randn(1, 1, *(9, 6, 5)[:dimensions])).attentions
    assert (len(gates), sum(isinstance(gate, LongSkip) for gate in gates)) == (2 + 5, 2)
    sizes = [(9, 6, 5), (9, 6, 5), (5, 3, 3), (5, 3, 3)]
    assert [tuple(attention.shape[2:]) for attention in attentions] == [size[:dimensions] for size in sizes]


def gate_parameters(channels):
    return count_trainable(Gate(GateOptions(2, "ones", norm=True), channels, "sat"))


def test_what_sat_saves_is_counted_gate_by_gate():
    org = replace(PUBLISHED[103], in_channels=1)
    long, dense = (count_parameters(replace(org, skip="sat", dense_gates=gates)) for gates in (False, True))
    skips, layers = (112, 192, 304, 464, 656), (4, 5, 7, 10, 12)
    per_channel = [count * 2 + 9 * 16 * count for count in layers]  # batch norm and kernels of a level's layers
    per_channel[0] += 1  # and the classifier
    saved = sum((width - 1) * each - gate_parameters(width) for width, each in zip(skips, per_channel, strict=True))
    assert count_parameters(org) - long == saved
    inputs = (48, 112, 192, 304, 464, 656, *(16 * below + 1 for below in (15, 12, 10, 7, 5)))
    assert long - dense == sum((width - 1) * (2 + 9 * 16) - gate_parameters(width) for width in inputs)
    shares = [1 - count / count_parameters(org) for count in (long, dense)]
    assert shares == pytest.approx([0.2505, 0.2899], abs=5e-5)


def test_kernels_start_he_uniform_and_biases_at_zero():
    torch.manual_seed(0)
    network = build(TiramisuSpec(width=16, growth=16, layers=(2,), bottom_layers=2))
    bounds = {network.first: 9, network.down[0].last[2]: 9 * 17, network.transitions_up[0]: 9 * 32}
    for convolution, fan_in in bounds.items():
        assert convolution.weight.abs().max().item() == pytest.approx((6 / fan_in) ** 0.5, rel=0.03)
    biases = [module.bias for module in network.modules() if isinstance(module, CONVOLUTIONS)]
    assert all(not bias.any() for bias in biases)
