"""The one contract of every network: any network, any skip, both dimensions."""

import copy
import json
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from napari_skipseg.devices import Device, has_openvino
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model, write_model
from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.gates import Gate, Reduce, Select, fold_gates
from napari_skipseg.networks.network import class_probability, count_trainable
from napari_skipseg.networks.specs import (
    MAPPING,
    NETWORK_NAMES,
    SKIPS,
    DI2INSpec,
    ResidualFCNSpec,
    Stage,
    TiramisuSpec,
    UNetSpec,
    VNetSpec,
    spec_from_dict,
    spec_to_dict,
)

UNET = UNetSpec(widths=(4, 6, 8))
RESIDUAL = ResidualFCNSpec(
    width=4, stages=(Stage("simple", 6, 1), Stage("bottleneck", 4, 2)), across=Stage("basic", 10, 2)
)
VNET = VNetSpec(widths=(4, 6, 8), convolutions=(1, 2, 1), kernel=3)
TIRAMISU = TiramisuSpec(width=6, growth=4, layers=(2, 3), bottom_layers=2, dropout=0.0)
DI2IN = DI2INSpec(widths=(4, 6))
SMALL = (UNET, RESIDUAL, VNET, TIRAMISU, DI2IN)

EVERY_SKIP = {
    f"{small.network}-{dimensions}d-{skip}": replace(small, dimensions=dimensions, skip=skip)
    for small in SMALL
    for dimensions in (2, 3)
    for skip in SKIPS
}
MIXES = {
    "unet": ("sat", "sum"),
    "residual-fcn": ("none", "additive", "at"),
    "vnet": ("st", "none"),
    "tiramisu": ("none", "sat"),
    "di2in": ("sum", "reduce"),
}
OPTIONS = {
    **{
        f"{small.network}-{dimensions}d-mixed": replace(
            small, dimensions=dimensions, level_skips=MIXES[small.network], gate_norm=dimensions == 2
        )
        for small in SMALL
        for dimensions in (2, 3)
    },
    **{
        f"{small.network}-{dimensions}d-{skip}-3-maps": replace(small, dimensions=dimensions, skip=skip, gate_maps=3)
        for small, dimensions, skip in zip(SMALL, cycle((2, 3)), cycle(("sat", "at", "reduce")), strict=False)
    },
    **{
        f"{small.network}-2d-classes": replace(
            small, dimensions=2, skip="sat", in_channels=3, out_channels=4, dropout=0.2, select_init="glorot"
        )
        for small in SMALL
    },
    **{
        f"residual-fcn-{dimensions}d-{title}": replace(RESIDUAL, dimensions=dimensions, **options)
        for dimensions, title, options in (
            (2, "no-short", {"short_skips": False}),
            (3, "no-short-sat", {"short_skips": False, "skip": "sat"}),
            (2, "neither", {"short_skips": False, "skip": "none"}),
            (3, "narrow-no-norm", {"projection": "narrow", "norm": False}),
            (2, "narrow-post", {"projection": "narrow", "block_order": "post-activation"}),
            (3, "post-sat", {"skip": "sat", "block_order": "post-activation"}),
        )
    },
    "vnet-2d-5-wide": replace(VNET, kernel=5),
    "vnet-3d-5-wide": replace(VNET, dimensions=3, widths=(2, 4), convolutions=(1, 1), kernel=5),
    "tiramisu-2d-bottleneck": replace(TIRAMISU, bottleneck=2),
    "tiramisu-3d-no-dense-gates": replace(TIRAMISU, dimensions=3, dense_gates=False),
}
SPECS = EVERY_SKIP | OPTIONS
QUICK = {
    f"{NETWORK_NAMES[(column + 3 * row) % len(NETWORK_NAMES)]}-{2 + row}d-{skip}"
    for row in range(2)
    for column, skip in enumerate(SKIPS)
} | OPTIONS.keys()
"""Every skip and every network in both dimensions: a skip knows nothing of the network around it."""


def cases(quick, chosen=lambda spec: True):
    """Return the chosen specifications as parameters, all but the quick ones marked as slow."""
    marks = {name: [] if name in quick else [pytest.mark.slow] for name in SPECS}
    return [pytest.param(spec, id=name, marks=marks[name]) for name, spec in SPECS.items() if chosen(spec)]


QUICK_IN_OPENVINO = {
    *(f"{name}-{3 - number % 2}d-sat" for number, name in enumerate(NETWORK_NAMES)),
    *(f"{name}-{2 + number}d-{skip}" for number, name in enumerate(NETWORK_NAMES[:2]) for skip in ("additive", "sum")),
}


def odd_size(spec):
    return (19, 37) if spec.dimensions == 2 else (5, 19, 11)


def image_for(spec, size, batch=1):
    return torch.randn(batch, spec.in_channels, *size)


@pytest.fixture(params=cases(QUICK))
def spec(request):
    torch.manual_seed(0)
    return request.param


@pytest.fixture
def network(spec):
    return build(spec).eval()


def test_every_network_is_here_with_every_skip_in_both_dimensions():
    assert tuple(small.network for small in SMALL) == NETWORK_NAMES
    assert len(EVERY_SKIP) == 5 * 8 * 2
    assert SPECS.keys() > QUICK_IN_OPENVINO | QUICK
    quick = [spec for name, spec in EVERY_SKIP.items() if name in QUICK]
    assert len({(spec.network, spec.dimensions) for spec in quick}) == 5 * 2
    assert len({(spec.skip, spec.dimensions) for spec in quick}) == 8 * 2


def test_any_odd_size_comes_out_as_it_went_in(spec, network):
    for size in (odd_size(spec), [1] * spec.dimensions, [network.stride] * spec.dimensions):
        with torch.inference_mode():
            output = network(image_for(spec, size, batch=2))
        assert output.logits.shape == (2, spec.out_channels, *size)
        assert torch.isfinite(output.logits).all()
        strides = network.attention_strides
        assert [a.shape for a in output.attentions] == [(2, 1, *(-(-n // s) for n in size)) for s in strides]
        assert all(a.min() >= 0 and a.max() <= 1 for a in output.attentions)


def test_stride_parameters_and_attention_maps_are_known_without_making_the_network(spec, network):
    assert network.stride == spec.stride == 2**spec.levels
    assert count_parameters(spec) == count_trainable(network)
    skips = spec.level_skips or [spec.skip] * spec.levels
    maps = {"at": spec.gate_maps, "sat": spec.gate_maps, "additive": 1}
    expected = [2**level for level, skip in enumerate(skips) for _ in range(maps.get(skip, 0))]
    assert list(network.attention_strides) == list(spec.attention_strides) == expected


def test_gradients_reach_every_parameter(spec, network, awaken):
    output = awaken(network)(image_for(spec, odd_size(spec), batch=4))
    (output.logits * torch.randn_like(output.logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        alive = parameter.detach() > -torch.inf
        if isinstance(network.get_submodule(name.rpartition(".")[0]), Select):
            alive = (parameter > 0) & (parameter < 1)
            assert not parameter.grad[~alive].any(), name
        if alive.any():
            assert parameter.grad[alive].any(), name
        assert torch.isfinite(parameter.grad).all(), name


def test_padding_is_a_reflection_at_the_far_end(spec, network):
    size = odd_size(spec)
    image = image_for(spec, size)
    missing = [(0, 0), (0, 0), *((0, -n % network.stride) for n in size)]
    with torch.inference_mode():
        cropped = network(image)
        whole = network.run(torch.from_numpy(np.pad(image.numpy(), missing, mode="reflect")))
    inside = (..., *(slice(n) for n in size))
    assert torch.allclose(cropped.logits, whole.logits[inside], atol=1e-5)
    for attention, full, stride in zip(cropped.attentions, whole.attentions, network.attention_strides, strict=True):
        assert torch.allclose(attention, full[(..., *(slice(-(-n // stride)) for n in size))], atol=1e-5)


def test_a_network_is_what_lies_deep_and_then_its_last_decoder_level(spec, network, awaken):
    image = image_for(spec, [2 * network.stride] * spec.dimensions, batch=3)
    with torch.inference_mode():
        whole, deep = awaken(network).run(image), network.deep(image)
        kept = [tensor.clone() for tensor in (deep.features, deep.skip, *deep.attentions)]
        for again in (network.finish(deep), network.finish(deep)):  # `finish` leaves what it is given as it is
            assert torch.equal(again.logits, whole.logits)
            assert [a.shape for a in again.attentions] == [a.shape for a in whole.attentions]
            assert all(torch.equal(*pair) for pair in zip(again.attentions, whole.attentions, strict=True))
        one = network.finish(deep.of(torch.tensor([2])))
    assert all(torch.equal(*pair) for pair in zip((deep.features, deep.skip, *deep.attentions), kept, strict=True))
    assert len(deep.features) == len(deep.skip) == 3
    assert [n // 2 for n in deep.skip.shape[2:]] == list(deep.features.shape[2:])
    assert torch.allclose(one.logits, whole.logits[2:], atol=1e-5 * float(whole.logits.abs().max()))


def test_the_parts_are_those_that_gradients_reach_from_the_end(spec, network, awaken):
    with torch.no_grad():
        deep = awaken(network).deep(image_for(spec, [2 * network.stride] * spec.dimensions, batch=4))
    network.finish(deep).logits.square().sum().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    last = {f"{part}.{name}" for part in network.parts.last for name in parameters_of(network, part)}
    decoder = {f"{part}.{name}" for part in network.parts.decoder for name in parameters_of(network, part)}
    everything = {name for name, _ in network.named_parameters()}
    assert reached == last <= decoder < everything
    assert {f"{network.head}.{name}" for name in ("weight", "bias")} < last


def parameters_of(network, part):
    return [name for name, _ in network.get_submodule(part).named_parameters()]


def test_every_specification_survives_json():
    for name, spec in SPECS.items():
        assert spec_from_dict(json.loads(json.dumps(spec_to_dict(spec)))) == spec, name


def test_weights_survive_the_folder(spec, network, awaken, tmp_path):
    before = {name: tensor.clone() for name, tensor in awaken(network).state_dict().items()}
    classes = tuple(ClassLabel(f"class {n}", n) for n in range(1, max(2, spec.out_channels)))
    model = write_model(tmp_path / "m", ModelDescription("m", spec, classes, 0, ""), network)
    assert model.description.spec == spec
    assert not model.network.training
    after = model.network.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(after[name], tensor), name
        else:
            assert torch.equal(after[name], tensor.half().float()), name
            assert torch.allclose(after[name], tensor, rtol=2**-10, atol=1e-7), name


@pytest.mark.parametrize("spec", cases(QUICK, lambda spec: set(MAPPING) & set(spec.skips)), indirect=True)
def test_folded_gates_are_one_convolution_and_change_nothing(spec, network, awaken):
    image = image_for(spec, odd_size(spec), batch=2)
    folded = copy.deepcopy(awaken(network))
    fold_gates(folded)
    gates = [module for module in folded.modules() if isinstance(module, Gate) and isinstance(module.attend, Reduce)]
    assert gates
    for gate in gates:
        convolution = gate.attend.convolution
        assert set(convolution.kernel_size) == {1}
        assert count_trainable(gate) == spec.gate_maps * (convolution.in_channels + 1)
        assert not list(gate.buffers())
    with torch.inference_mode():
        before, after = network(image), folded(image)
    assert torch.allclose(after.logits, before.logits, atol=1e-4, rtol=1e-4)
    for here, there in zip(after.attentions, before.attentions, strict=True):
        assert there.std() > 1e-3, "the attention map has something to compare"
        assert torch.allclose(here, there, atol=1e-5)


@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
@pytest.mark.parametrize("spec", cases(QUICK_IN_OPENVINO), indirect=True)
def test_openvino_and_torch_agree(spec, network, awaken):
    classes = tuple(ClassLabel(f"class {n}", n) for n in range(1, max(2, spec.out_channels)))
    model = Model(ModelDescription("m", spec, classes, 0, ""), awaken(network))
    size = odd_size(spec)
    images = image_for(spec, size, batch=2).numpy()
    fast = OpenVINOBackend(model, size, "f32").run(images)
    plain = TorchBackend(model, Device("cpu", "CPU", "for the test"), "f32").run(images)
    with torch.inference_mode():
        output = network(torch.from_numpy(images))
    wanted = (class_probability(output.logits), *output.attentions)
    for ours in (fast, plain):
        for here, there in zip((ours.probability, *ours.attentions), wanted, strict=True):
            np.testing.assert_allclose(here, there.numpy().reshape(here.shape), atol=1e-4)


@pytest.mark.parametrize("small", SMALL, ids=NETWORK_NAMES)
def test_the_same_seed_makes_the_same_network(small):
    def weights():
        torch.manual_seed(7)
        return build(small).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_channel_goes_through_a_sigmoid_and_several_through_a_softmax():
    logits = torch.randn(2, 3, 4, 5)
    assert torch.equal(class_probability(logits[:, :1]), torch.sigmoid(logits[:, :1]))
    two = class_probability(logits)
    assert two.shape == (2, 2, 4, 5)
    assert torch.allclose(two.sum(1) + logits.softmax(1)[:, 0], torch.ones(2, 4, 5))
