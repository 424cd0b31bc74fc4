"""From a protocol to torch: groups and values of the optimiser, its rate, the first weights."""

import math

import pytest
import torch

from napari_skipseg.models.description import ClassLabel
from napari_skipseg.networks.build import build
from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage, UNetSpec
from napari_skipseg.training.fit import initialise, learning_rate, make_optimizer
from napari_skipseg.training.protocols import PROTOCOLS
from napari_skipseg.training.settings import TrainSettings
from napari_skipseg.training.updates import CONVOLUTIONS, convolutions_in_depth_order


def settings_of(**options):
    values = {"spec": UNetSpec(widths=(2, 4)), "patch": (16, 16), "steps": 100}
    return TrainSettings("t", ("a.tif",), ("b.tif",), (ClassLabel("membrane", 0),), **values | options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_weight_decay_falls_on_kernels_only(protocol, dimensions):
    settings = settings_of(
        spec=UNetSpec(dimensions=dimensions, widths=(2, 4)),
        patch=(16,) * dimensions,
        weight_decay=0.1,
        protocol=protocol,
    )
    network = build(settings.spec)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed, plain = make_optimizer(settings, network).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0)
    kernels = {names[id(p)] for p in decayed["params"]}
    others = {names[id(p)] for p in plain["params"]}
    assert kernels | others == set(names.values())
    assert not kernels & others
    assert all(p.ndim == dimensions + 2 for p in decayed["params"])
    assert "gates.0.select.weight" in others
    assert "gates.0.attend.convolution.weight" in kernels
    assert {"gates.0.attend.norm.weight", "encoder.0.1.weight", "classifier.bias"} <= others


WITH_DECAY = 0.3 + 0.002 * 0.5  # L2 of 0.001 w² adds 2 · 0.001 · w


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("rmsprop-he", 1e-3 * WITH_DECAY / math.sqrt(0.1 * WITH_DECAY**2)),
        ("adadelta-glorot", math.sqrt(1e-8) / math.sqrt(0.05 * 0.3**2 + 1e-8) * 0.3),
        ("modern", 1.5e-3 * (1 + 1e-4 * 0.5)),
    ],
)
def test_the_first_step_by_hand(protocol, expected):
    """How far it moves one kernel of weight 0.5 and gradient 0.3."""
    kernel = torch.nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.constant_(kernel.weight, 0.5)
    optimizer = make_optimizer(settings_of(protocol=protocol), kernel)
    kernel.weight.grad = torch.full_like(kernel.weight, 0.3)
    optimizer.step()
    assert 0.5 - float(kernel.weight.detach()) == pytest.approx(expected, rel=1e-3)


def test_the_learning_rate_rises_then_falls_as_half_a_cosine():
    settings = settings_of(learning_rate=2.0, warm_up=0.1)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert rates[9] == rates[10] == 2
    assert rates[55] == pytest.approx(1)
    assert rates[70] == pytest.approx(1 + math.cos(math.pi * 60 / 90))
    assert 0 < rates[-1] < 0.001
    assert max(rates) == 2


@pytest.mark.parametrize("warm_up", [0.0, 1.0])
def test_the_learning_rate_has_values_at_both_ends_of_warm_up(warm_up):
    settings = settings_of(steps=4, warm_up=warm_up, learning_rate=0.01)
    assert all(0 <= learning_rate(settings, step) <= 0.01 for step in range(5))


@pytest.mark.parametrize(("protocol", "rate"), [("adadelta-glorot", 1.0), ("rmsprop-he", 1e-3)])
def test_the_papers_rates_are_constant_but_for_a_rise_that_is_asked_for(protocol, rate):
    assert {learning_rate(settings_of(protocol=protocol), step) for step in range(100)} == {rate}
    rising = settings_of(protocol=protocol, warm_up=0.1)
    assert [learning_rate(rising, step) / rate for step in (0, 4, 9, 99)] == pytest.approx([0.1, 0.5, 1, 1])


def kernels_of(network):
    modules = dict(network.named_modules())
    return {name: modules[name] for name in convolutions_in_depth_order(network)}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_glorot_weights_are_uniform_within_their_bound_and_biases_0(dimensions):
    torch.manual_seed(0)
    network = build(UNetSpec(dimensions=dimensions, widths=(16, 32)))
    initialise(network, PROTOCOLS["adadelta-glorot"])
    for name, module in kernels_of(network).items():
        weight = module.weight.detach()
        bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()))
        assert weight.abs().max() <= bound, name
        if weight.numel() > 400:
            assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1), name
        assert module.bias is None or not module.bias.any()


def test_he_weights_are_normal_by_what_an_output_sums_and_the_classifier_is_glorots():
    torch.manual_seed(0)
    network = build(UNetSpec(widths=(16, 32)))
    initialise(network, PROTOCOLS["rmsprop-he"])
    modules = kernels_of(network)
    spread = {name: float(module.weight.detach().std()) for name, module in modules.items()}
    assert spread["encoder.1.3"] == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.1)
    assert spread["up.0"] == pytest.approx(math.sqrt(2 / 32), rel=0.1)  # each output pixel sees one place below
    bound = math.sqrt(6 / (16 + 1))
    last = modules["classifier"].weight.detach().abs().max()
    assert 0.7 * bound < last <= bound
    assert not any(module.bias.any() for module in modules.values() if module.bias is not None)


def test_the_residual_fcns_classifier_is_glorots_too():
    torch.manual_seed(0)
    spec = ResidualFCNSpec(width=64, stages=(Stage("basic", 8, 1),), across=Stage("basic", 8, 2))
    network = build(spec)
    initialise(network, PROTOCOLS["rmsprop-he"])
    bound = math.sqrt(6 / (64 + 1))
    last = list(kernels_of(network).values())[-1].weight
    assert last.shape[:2] == (1, 64)
    assert last.abs().max() <= bound


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_select_weights_and_batch_norm_keep_their_own_first_values(protocol):
    torch.manual_seed(0)
    network = build(UNetSpec(widths=(4, 8), select_init="glorot"))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    initialise(network, PROTOCOLS[protocol])
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    own = {name for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)}
    assert any(isinstance(module, Select) for module in network.modules())
    assert {name.rpartition(".")[0] for name in changed} == (set() if protocol == "modern" else own)


def test_the_modern_protocol_draws_no_random_number():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    network = build(UNetSpec(widths=(2, 4)))
    drawn = torch.get_rng_state()
    initialise(network, PROTOCOLS["modern"])
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not torch.equal(before, drawn)
