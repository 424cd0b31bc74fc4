"""Gates of Asgari Taghanaki et al. 2019: select, attend, transfer; and Attention U-Net's (Oktay et al. 2018)."""

import pytest
import torch
from torch import nn

from napari_skipseg.networks.gates import AdditiveAttend, Attend, Gate, GateOptions, Reduce, Select, truncated_relu
from napari_skipseg.networks.network import count_trainable
from napari_skipseg.networks.specs import UNetSpec


def options(dimensions=2, init="uniform01", norm=False, maps=1):
    return GateOptions(dimensions, init, norm, maps)


def weighted_sum(convolution, image):
    """A 1×1 convolution, by its definition."""
    kernel = convolution.weight.flatten(1)
    return torch.einsum("oc,nc...->no...", kernel, image) + convolution.bias.view(-1, *[1] * (image.ndim - 2))


def randomise(norm):
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, -1, 1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ------------------------------------------------------------------------------------------------------------- select


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
    glorot, ones, uniform = (Select(4096, init).weight for init in ("glorot", "ones", "uniform01"))
    bound = (3 / 4096**0.5) ** 0.5
    assert glorot.min().item() == pytest.approx(-bound, rel=0.01)
    assert glorot.max().item() == pytest.approx(bound, rel=0.01)
    assert Select(4096, "glorot").fraction_off == pytest.approx(0.5, abs=0.05)
    assert ones.unique().tolist() == [1]
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.03)


# ---------------------------------------------------------------------------------------------------- attend, reduce


@pytest.mark.parametrize("maps", [1, 3])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_attention_is_maps_in_0_1_computed_by_equation_3_and_4(dimensions, maps):
    attend = Attend(options(dimensions, maps=maps), 4)
    image = 5 * torch.randn(2, 4, *(6, 4, 5)[:dimensions])
    attention = attend(image)
    assert torch.allclose(attention, torch.sigmoid(weighted_sum(attend.convolution, image)), atol=1e-6)
    assert attention.shape == (2, maps, *image.shape[2:])
    assert attention.min() >= 0
    assert attention.max() <= 1


@pytest.mark.parametrize("dimensions", [2, 3])
def test_reduce_is_a_1x1_convolution_and_nothing_else(dimensions):
    gate = Gate(options(dimensions, maps=2), 4, "reduce")
    image = torch.randn(2, 4, *(6, 4, 5)[:dimensions])
    crossed = gate.cross(image)
    assert torch.allclose(crossed.features, weighted_sum(gate.attend.convolution, image), atol=1e-6)
    assert crossed.attentions == ()


def test_batch_norm_sits_on_the_map_only_where_asked():
    assert isinstance(Attend(options(norm=False), 3).norm, nn.Identity)
    assert Attend(options(3, norm=True), 3).norm.num_features == 1
    assert Reduce(options(3, norm=True, maps=2), 3).norm.num_features == 2


# ----------------------------------------------------------------------------------------------------------- additive


@pytest.mark.parametrize("dimensions", [2, 3])
def test_additive_attention_is_attention_unets_formula(dimensions):
    gate = Gate(options(dimensions), 6, "additive", signal_channels=5)
    attend = gate.attend
    skip, signal = (torch.randn(2, channels, *(6, 4, 5)[:dimensions]) for channels in (6, 5))
    inner = weighted_sum(attend.from_skip[0], skip) + weighted_sum(attend.from_signal[0], signal)
    assert inner.shape[1] == 3
    expected = torch.sigmoid(weighted_sum(attend.to_map[0], inner.clamp(min=0)))
    crossed = gate.cross(skip, signal)
    (attention,) = crossed.attentions
    assert attention.shape == (2, 1, *skip.shape[2:])
    assert torch.allclose(attention, expected, atol=1e-6)
    assert torch.allclose(crossed.features, skip * expected, atol=1e-5)


def test_additive_attention_follows_the_expanding_path():
    gate = Gate(options(), 6, "additive", signal_channels=5)
    skip, signal = torch.randn(1, 6, 4, 4), torch.randn(1, 5, 4, 4)
    assert not torch.allclose(gate.cross(skip, signal).features, gate.cross(skip, -signal).features)


@pytest.mark.parametrize(("channels", "signal_channels", "width"), [(6, 5, 3), (1, 2, 1), (7, 4, 3)])
def test_the_additive_gate_has_the_parameters_of_its_formula(channels, signal_channels, width):
    plain = width * (channels + signal_channels) + width + 2 * width + 1
    assert count_trainable(AdditiveAttend(options(), channels, signal_channels)) == plain
    assert count_trainable(AdditiveAttend(options(norm=True), channels, signal_channels)) == plain + 4 * width + 2


# --------------------------------------------------------------------------------------------------------------- gate


@pytest.mark.parametrize(
    ("skip", "features", "attentions"),
    [("org", 6, 0), ("sum", 6, 0), ("st", 6, 0), ("at", 2, 2), ("sat", 2, 2), ("reduce", 2, 0), ("additive", 6, 1)],
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_gate_passes_features_or_maps(skip, features, attentions, dimensions):
    gate = Gate(options(dimensions, norm=True, maps=2), 6, skip, signal_channels=4)
    skip_features, signal = (torch.randn(2, channels, *[4] * dimensions) for channels in (6, 4))
    crossed = gate.cross(skip_features, signal)
    assert crossed.features.shape == (2, features, *[4] * dimensions)
    assert gate.out_channels == features
    assert [a.shape for a in crossed.attentions] == [(2, 1, *[4] * dimensions)] * attentions
    assert all(a.min() >= 0 and a.max() <= 1 for a in crossed.attentions)


def test_what_at_and_sat_pass_are_the_attention_maps_themselves():
    for skip in ("at", "sat"):
        crossed = Gate(options(maps=3), 5, skip).cross(torch.randn(2, 5, 4, 4))
        assert torch.equal(crossed.features, torch.cat(crossed.attentions, 1))


def test_st_and_at_are_special_cases_of_sat():
    image = torch.randn(1, 3, 4, 4)
    sat = Gate(options(init="ones"), 3, "sat")
    at = Gate(options(), 3, "at")
    at.attend.load_state_dict(sat.attend.state_dict())
    assert torch.equal(sat.cross(image).features, at.cross(image).features), "at is sat with all channels on"
    sat.select.weight.data = torch.tensor([0.2, -1.0, 2.0])
    st = Gate(options(), 3, "st")
    st.select.load_state_dict(sat.select.state_dict())
    selected = st.cross(image).features
    assert torch.equal(sat.attend(selected), sat.cross(image).features), "st is sat before attention"
    assert torch.equal(Gate(options(init="ones"), 3, "st").cross(image).features, image)
    assert Gate(options(), 3, "org").cross(image).features is image


def test_a_channel_that_is_off_does_not_reach_the_map():
    gate = Gate(options(init="ones"), 2, "sat")
    gate.select.weight.data = torch.tensor([1.0, -0.2])
    image, other = torch.randn(2, 1, 2, 4, 4)
    other[:, 0] = image[:, 0]
    assert torch.equal(gate.cross(image).features, gate.cross(other).features)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_gates_of_c_channels_have_0_c_c1_and_2c1_parameters(dimensions):
    skips = ("org", "sum", "st", "at", "reduce", "sat")
    plain, normed, three = (
        [count_trainable(Gate(options(dimensions, norm=norm, maps=maps), 24, skip)) for skip in skips]
        for norm, maps in ((False, 1), (True, 1), (True, 3))
    )
    assert plain == [0, 0, 24, 25, 25, 49]
    assert normed == [0, 0, 24, 27, 27, 51]
    assert three == [0, 0, 24, 3 * 27, 3 * 27, 24 + 3 * 27]


def test_the_options_of_gates_are_those_of_the_specification():
    spec = UNetSpec(dimensions=3, select_init="glorot", gate_norm=False, gate_maps=2)
    assert GateOptions.of(spec) == GateOptions(3, "glorot", False, 2)


# --------------------------------------------------------------------------------------------------------------- fold


@pytest.mark.parametrize("skip", ["sat", "at", "reduce"])
@pytest.mark.parametrize(("norm", "maps"), [(True, 1), (True, 3), (False, 1)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_folded_gate_is_one_convolution_with_the_same_output(skip, norm, maps, dimensions):
    gate = Gate(options(dimensions, "glorot", norm, maps), 6, skip).eval()
    if norm:
        randomise(gate.attend.norm)
    image = torch.randn(2, 6, *(6, 4, 5)[:dimensions])
    with torch.no_grad():
        before = gate.cross(image)
        gate.fold()
        after = gate.cross(image)
    assert count_trainable(gate) == maps * (6 + 1)
    assert [name for name, _ in gate.named_parameters()] == ["attend.convolution.weight", "attend.convolution.bias"]
    assert torch.allclose(after.features, before.features, atol=1e-6)
    assert [a.shape for a in after.attentions] == [a.shape for a in before.attentions]
    gate.fold()
    with torch.no_grad():
        assert torch.equal(gate.cross(image).features, after.features), "folding twice changes nothing"


def test_a_gate_in_training_is_not_folded():
    gate = Gate(options(norm=True), 6, "sat")
    gate.fold()
    assert count_trainable(gate) == 2 * 6 + 3


@pytest.mark.parametrize("skip", ["org", "st", "additive"])
def test_folding_leaves_gates_alone_that_pass_features(skip):
    gate = Gate(options(), 6, skip, signal_channels=6).eval()
    before = count_trainable(gate)
    image = torch.randn(2, 6, 4, 4)
    crossed = gate.cross(image, image)
    gate.fold()
    assert count_trainable(gate) == before
    assert torch.equal(gate.cross(image, image).features, crossed.features)
