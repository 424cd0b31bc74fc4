"""Gates of Asgari Taghanaki et al. 2019: select, attend, transfer."""

import pytest
import torch
from torch import nn

from napari_skipseg.networks.gates import Attend, Gate, Select, truncated_relu


def test_truncated_relu_is_held_between_0_and_1():
    values = torch.tensor([-2.0, -0.1, 0.0, 0.3, 1.0, 1.7])
    assert truncated_relu(values).tolist() == pytest.approx([0, 0, 0, 0.3, 1, 1])


def test_select_scales_each_channel_by_its_truncated_weight():
    select = Select(4, "ones")
    select.weight.data = torch.tensor([-1.0, 0.0, 0.25, 3.0])
    image = torch.randn(2, 4, 5, 3)
    expected = image * torch.tensor([0, 0, 0.25, 1]).view(4, 1, 1)
    assert torch.equal(select(image), expected)
    assert select.fraction_off == 0.5


def test_channels_below_zero_and_above_one_get_no_gradient():
    select = Select(4, "ones")
    select.weight.data = torch.tensor([-0.5, 1.5, 0.25, 0.75])
    select(torch.ones(1, 4, 2, 2, 2)).sum().backward()
    assert select.weight.grad.tolist() == [0, 0, 8, 8]


def test_select_weights_start_as_named():
    torch.manual_seed(0)
    glorot, ones, uniform = (Select(4096, init).weight for init in ("glorot", "ones", "uniform01"))
    bound = (3 / 4096**0.5) ** 0.5
    assert glorot.min().item() == pytest.approx(-bound, rel=0.01)
    assert glorot.max().item() == pytest.approx(bound, rel=0.01)
    assert Select(4096, "glorot").fraction_off == pytest.approx(0.5, abs=0.05)
    assert ones.unique().tolist() == [1]
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_attention_is_one_map_in_0_1_computed_by_equation_3_and_4(dimensions):
    attend = Attend(dimensions, 3, norm=False)
    image = 5 * torch.randn(2, 3, *(6, 4, 5)[:dimensions])
    kernel = attend.convolution.weight.view(3, *[1] * dimensions)
    expected = torch.sigmoid((image * kernel).sum(1, keepdim=True) + attend.convolution.bias)
    attention = attend(image)
    assert torch.allclose(attention, expected, atol=1e-6)
    assert attention.shape == (2, 1, *image.shape[2:])
    assert attention.min() >= 0
    assert attention.max() <= 1


@pytest.mark.parametrize(("skip", "channels"), [("org", 6), ("st", 6), ("at", 1), ("sat", 1)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_gate_passes_features_or_one_map(skip, channels, dimensions):
    gate = Gate(dimensions, 6, skip, "uniform01", norm=True)
    image = torch.randn(2, 6, *[4] * dimensions)
    assert gate(image).shape == (2, channels, *[4] * dimensions)
    assert gate.out_channels == channels
    assert gate.attends == (channels == 1)


def test_with_all_channels_on_sat_is_at_and_st_is_org():
    sat, at = Gate(2, 3, "sat", "ones", False), Gate(2, 3, "at", "ones", False)
    at.attend.load_state_dict(sat.attend.state_dict())
    image = torch.randn(1, 3, 4, 4)
    assert torch.equal(sat(image), at(image))
    assert torch.equal(Gate(2, 3, "st", "ones", False)(image), image)
    assert Gate(2, 3, "org", "ones", False)(image) is image


def test_a_channel_that_is_off_does_not_reach_the_map():
    gate = Gate(2, 2, "sat", "ones", False)
    gate.select.weight.data = torch.tensor([1.0, -0.2])
    image, other = torch.randn(2, 1, 2, 4, 4)
    other[:, 0] = image[:, 0]
    assert torch.equal(gate(image), gate(other))


def test_batch_norm_sits_on_the_map_only_where_asked():
    assert isinstance(Attend(2, 3, norm=False).norm, nn.Identity)
    assert Attend(3, 3, norm=True).norm.num_features == 1
