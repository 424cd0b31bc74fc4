"""Dense layers and blocks: what each layer sees, and where a block's gate lies."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_skipseg.networks.gates import Gate, GateOptions
from napari_skipseg.networks.network import count_trainable
from napari_skipseg.networks.tiramisu import DenseBlock, DenseLayer, DenseOptions

CONVOLUTIONS = nn.Conv2d | nn.Conv3d


def normalised(norm, features):
    shape = (1, -1, *[1] * (features.ndim - 2))
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return (features - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_layer_is_batch_norm_relu_and_a_3_wide_convolution(dimensions, awaken):
    layer = awaken(DenseLayer(DenseOptions(dimensions, growth=3, dropout=0.2), 5))
    features = torch.randn(2, 5, *(4, 6, 5)[:dimensions])
    norm, _, convolution, _ = layer
    convolve = functional.conv2d if dimensions == 2 else functional.conv3d
    expected = convolve(normalised(norm, features).relu(), convolution.weight, convolution.bias, padding=1)
    assert convolution.weight.shape == (3, 5, *[3] * dimensions)
    assert torch.allclose(layer(features), expected, atol=1e-5)


def test_a_bottleneck_goes_through_a_1_wide_convolution_to_that_many_times_the_growth(awaken):
    layer = awaken(DenseLayer(DenseOptions(2, growth=3, bottleneck=4), 5))
    norm, _, narrow, norm_2, _, convolution, _ = layer
    assert (narrow.weight.shape, convolution.weight.shape) == ((12, 5, 1, 1), (3, 12, 3, 3))
    assert count_trainable(layer) == 2 * 5 + 5 * 12 + 12 + 2 * 12 + 12 * 3 * 9 + 3
    features = torch.randn(2, 5, 4, 6)
    inner = functional.conv2d(normalised(norm, features).relu(), narrow.weight, narrow.bias)
    expected = functional.conv2d(normalised(norm_2, inner).relu(), convolution.weight, convolution.bias, padding=1)
    assert torch.allclose(layer(features), expected, atol=1e-5)


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_a_layer_has_its_dropout_behind_the_last_convolution_even_at_rate_0(bottleneck):
    layer = DenseLayer(DenseOptions(3, growth=2, bottleneck=bottleneck), 5)
    assert [module.p for module in layer if isinstance(module, nn.Dropout)] == [0]
    assert isinstance(layer[-1], nn.Dropout)


def test_every_layer_of_a_block_sees_the_input_and_all_that_was_added(awaken):
    block = awaken(DenseBlock(DenseOptions(2, growth=3), 5, layers=3))
    features = torch.randn(2, 5, 6, 4)
    first = block.layers[0](features)
    second = block.layers[1](torch.cat([features, first], 1))
    third = block.last(torch.cat([features, first, second], 1))
    assert torch.equal(block(features), torch.cat([first, second, third], 1))
    assert block.out_channels == 9


@pytest.mark.parametrize(("skip", "passing"), [("sat", 1), ("at", 1), ("reduce", 1), ("st", 5)])
def test_only_the_last_layer_sees_what_passes_the_gate(skip, passing, awaken):
    gate = Gate(GateOptions(2, "uniform01", norm=True), 5, skip)
    block = awaken(DenseBlock(DenseOptions(2, growth=3), 5, layers=3, gate=gate))
    features = torch.randn(2, 5, 6, 4)
    first = block.layers[0](features)
    second = block.layers[1](torch.cat([features, first], 1))
    crossed = gate.cross(features).features
    third = block.last(torch.cat([crossed, first, second], 1))
    assert crossed.shape[1] == passing
    assert torch.equal(block(features), torch.cat([first, second, third], 1))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_sat_gate_spares_the_last_layer_all_but_one_channel_of_the_input(dimensions):
    options, channels = DenseOptions(dimensions, growth=3), 20
    gate = Gate(GateOptions(dimensions, "uniform01", norm=False), channels, "sat")
    plain, gated = DenseBlock(options, channels, 4), DenseBlock(options, channels, 4, gate)
    spared = (channels - 1) * (3 * 3**dimensions + 2) - (2 * channels + 1)
    assert count_trainable(plain) - count_trainable(gated) == spared


def test_a_block_of_one_layer_has_no_skip_inside_and_no_gate():
    block = DenseBlock(DenseOptions(2, growth=3), 5, 1, Gate(GateOptions(2, "ones", norm=True), 5, "sat"))
    assert block.gate is None
    assert [layer.in_channels for layer in block.modules() if isinstance(layer, CONVOLUTIONS)] == [5]


@pytest.mark.parametrize("skip", ["sat", "st"])
def test_a_block_does_not_change_its_input(skip):
    gate = Gate(GateOptions(2, "uniform01", norm=True), 5, skip)
    features = torch.randn(2, 5, 4, 4)
    before = features.clone()
    DenseBlock(DenseOptions(2, growth=3, bottleneck=2), 5, 3, gate)(features)
    assert torch.equal(features, before)
