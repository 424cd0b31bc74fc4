"""The one contract of every network: any network, any skip, both dimensions."""

import json

import numpy as np
import pytest
import torch

from napari_skipseg.errors import SpecError
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import write_model
from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.network import class_probability, count_trainable
from napari_skipseg.networks.specs import (
    ATTENDING,
    GATES,
    ResidualFCNSpec,
    Stage,
    UNetSpec,
    spec_from_dict,
    spec_to_dict,
)

SMALL = {
    "width": 4,
    "stages": (Stage("simple", 4, 1), Stage("basic", 4, 2), Stage("bottleneck", 4, 1)),
    "across": Stage("bottleneck", 8, 2),
}
SPECS = [
    *(UNetSpec(dimensions=d, skip=skip, widths=(4, 8, 8)) for d in (2, 3) for skip in GATES),
    *(UNetSpec(dimensions=d, skip="sat", widths=(4, 8), select_init="glorot", gate_norm=False) for d in (2, 3)),
    *(
        ResidualFCNSpec(dimensions=d, skip=skip, short_skips=short, **SMALL)
        for d in (2, 3)
        for skip in ("none", "sum", "org")
        for short in (True, False)
    ),
    *(ResidualFCNSpec(dimensions=d, projection="narrow", norm=False, **SMALL) for d in (2, 3)),
    UNetSpec(in_channels=3, out_channels=4, widths=(4, 8), dropout=0.2),
    ResidualFCNSpec(in_channels=3, out_channels=4, dropout=0.2, **SMALL),
]


def title(spec):
    marks = {
        "no-short": not getattr(spec, "short_skips", True),
        "narrow": getattr(spec, "projection", "") == "narrow",
        "glorot": getattr(spec, "select_init", "") == "glorot",
        "classes": spec.out_channels > 1,
    }
    return "-".join([spec.network, f"{spec.dimensions}d", spec.skip, *(mark for mark, is_so in marks.items() if is_so)])


def odd_size(spec):
    return (19, 37) if spec.dimensions == 2 else (5, 19, 11)


def image_for(spec, size, batch=1):
    return torch.randn(batch, spec.in_channels, *size)


@pytest.fixture(params=SPECS, ids=title)
def spec(request):
    torch.manual_seed(0)
    return request.param


@pytest.fixture
def network(spec):
    return build(spec).eval()


def test_any_odd_size_comes_out_as_it_went_in(spec, network):
    for size in (odd_size(spec), [1] * spec.dimensions, [network.stride] * spec.dimensions):
        with torch.inference_mode():
            output = network(image_for(spec, size, batch=2))
        assert output.logits.shape == (2, spec.out_channels, *size)
        assert torch.isfinite(output.logits).all()
        strides = network.attention_strides
        assert [a.shape for a in output.attentions] == [(2, 1, *(-(-n // s) for n in size)) for s in strides]
        assert all(a.min() >= 0 and a.max() <= 1 for a in output.attentions)


def test_there_is_one_attention_map_per_attending_gate_finest_first(spec, network):
    gates = len(spec.widths) - 1 if spec.skip in ATTENDING else 0
    assert network.attention_strides == (1, 2, 4)[:gates]


def test_stride_and_parameters_are_known_without_making_the_network(spec, network):
    assert network.stride == spec.stride
    assert count_parameters(spec) == count_trainable(network)


def test_gradients_reach_every_parameter(spec, network):
    output = network(image_for(spec, odd_size(spec), batch=4))
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


def test_the_specification_survives_json(spec):
    assert spec_from_dict(json.loads(json.dumps(spec_to_dict(spec)))) == spec


def test_weights_survive_the_folder(spec, network, tmp_path):
    network.train()
    with torch.no_grad():
        network(image_for(spec, [2 * network.stride] * spec.dimensions, batch=2))  # moves the batch-norm statistics
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
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


@pytest.mark.parametrize("spec", SPECS[:1], ids=title)
def test_the_same_seed_makes_the_same_network(spec):
    def weights():
        torch.manual_seed(7)
        return build(spec).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_channel_goes_through_a_sigmoid_and_several_through_a_softmax():
    logits = torch.randn(2, 3, 4, 5)
    assert torch.equal(class_probability(logits[:, :1]), torch.sigmoid(logits[:, :1]))
    two = class_probability(logits)
    assert two.shape == (2, 2, 4, 5)
    assert torch.allclose(two.sum(1) + logits.softmax(1)[:, 0], torch.ones(2, 4, 5))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"network": "unet", "colour": "red"}, "colour"),
        ({"network": "residual-fcn", "stages": [{"block": "simple", "width": 4, "repetition": 1, "x": 1}]}, "x"),
        ({"network": "vgg"}, "network settings"),
        ({}, "network settings"),
        ({"network": "unet", "skip": "sum"}, "org, st, at, sat"),
        ({"network": "residual-fcn", "skip": "sat"}, "none, sum or org"),
        ({"network": "unet", "widths": [8]}, "at least two"),
        ({"network": "unet", "widths": [8, 0]}, "at least 1"),
        ({"network": "unet", "dimensions": 4}, "dimensions"),
        ({"network": "unet", "in_channels": 0}, "channel"),
        ({"network": "unet", "dropout": 1.0}, "Dropout"),
        ({"network": "residual-fcn", "stages": []}, "at least one stage"),
        ({"network": "residual-fcn", "across": {"block": "basic", "width": 8, "repetition": 1}}, "2 blocks"),
        ({"network": "residual-fcn", "stages": [{"block": "basic", "width": 0, "repetition": 1}]}, "at least 1"),
    ],
)
def test_an_impossible_specification_is_refused_in_one_sentence(values, fault):
    with pytest.raises(SpecError, match=fault) as caught:
        spec_from_dict(values)
    assert "\n" not in str(caught.value)
