"""Pixel heads: classes beside a network's own, which stay what they are."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from chosen_cases import pairs_first

from napari_skipseg.devices import Device, has_openvino
from napari_skipseg.errors import ModelError, SpecError
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.models.description import ClassLabel, ModelDescription, description_from_json, description_to_json
from napari_skipseg.models.model import Model, read_model, write_model
from napari_skipseg.models.selection import gate_place
from napari_skipseg.networks.build import build
from napari_skipseg.networks.network import LAYERS
from napari_skipseg.networks.pixel_head import FILTERS_PER_SCALE, FilterBank
from napari_skipseg.networks.specs import (
    NETWORK_NAMES,
    DI2INSpec,
    PixelHeadSpec,
    ResidualFCNSpec,
    Stage,
    TiramisuSpec,
    UNetSpec,
    VNetSpec,
)

SMALL = (
    UNetSpec(widths=(4, 6, 8)),
    ResidualFCNSpec(width=4, stages=(Stage("simple", 6, 1), Stage("basic", 4, 2)), across=Stage("basic", 10, 2)),
    VNetSpec(widths=(4, 6, 8), convolutions=(1, 2, 1), kernel=3),
    TiramisuSpec(width=6, growth=4, layers=(2, 3), bottom_layers=2, dropout=0.0),
    DI2INSpec(widths=(4, 6)),
)
HEADS = {
    "a class beside one": PixelHeadSpec((0, None), scales=(1, 4)),
    "hidden units": PixelHeadSpec((0, None), hidden=3, scales=(1, 4)),
    "between classes": PixelHeadSpec((None, 1, None, 0), scales=(2,)),
    "shrunken images too": PixelHeadSpec((0, None), scales=(1,), zooms=(1, 2, 4)),
}
CPU = Device("cpu", "CPU", "for the test")


def taught(spec, pixel_head, awaken):
    """Return a network with heads whose weights are not zero."""
    torch.manual_seed(0)
    network = awaken(build(spec, pixel_head)).eval()
    for head in network.heads:
        for part in head.inputs:
            torch.nn.init.normal_(part.weight, std=0.3)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
        torch.nn.init.normal_(head.bias)
    return network


def described(network, margin=0):
    classes = tuple(ClassLabel(f"class {n}", n) for n in range(1, len(network.pixel_head.sources) + 1))
    return ModelDescription("m", network.spec, classes, margin, "", pixel_head=network.pixel_head)


def image_of(spec, size, batch=1):
    return torch.randn(batch, spec.in_channels, *size)


SPECS = [(small, dimensions) for small in SMALL for dimensions in (2, 3)]


@pytest.fixture(params=SPECS, ids=lambda p: f"{p[0].network}-{p[1]}d")
def spec(request):
    small, dimensions = request.param
    return replace(small, dimensions=dimensions, out_channels=3)


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def pixel_head(request):
    return request.param


def test_the_levels_of_every_network_are_as_they_say(spec):
    network = build(spec).eval()
    image = image_of(spec, [2 * network.stride] * spec.dimensions)
    features = build(spec, HEADS["a class beside one"]).eval().features(image)
    assert [values.shape[1] for values in features[: len(network.levels)]] == [e.channels for e in network.levels]
    assert [image.shape[-1] // values.shape[-1] for values in features[: len(network.levels)]] == [
        level.stride for level in network.levels
    ]
    deepest = spec.levels - (spec.network == "residual-fcn")  # what is deeper ends before its block does
    assert {level.stride for level in network.levels} == {2**level for level in range(deepest + 1)}
    assert tuple(SMALL[n].network for n in range(5)) == NETWORK_NAMES


def test_own_classes_stay_to_the_bit_and_the_others_stand_between_them(spec, pixel_head, awaken):
    network = taught(spec, pixel_head, awaken)
    size = (19, 37) if spec.dimensions == 2 else (5, 19, 11)
    if len(pixel_head.zooms) > 1:  # else it is padded farther than the network alone
        size = (network.stride,) * spec.dimensions
    image = image_of(spec, size, batch=2)
    with torch.inference_mode():
        own = network.body.probability(network.body(image).logits)
        both = network.probability(network(image).logits)
    assert both.shape == (2, len(pixel_head.sources), *size)
    for number, source in enumerate(pixel_head.sources):
        if source is None:
            assert both[:, number].std() > 1e-3
        elif network.stride == network.body.stride or len(pixel_head.zooms) > 1:
            assert torch.equal(both[:, number], own[:, source])
        else:
            assert torch.allclose(both[:, number], own[:, source], atol=1e-5)


def test_the_head_is_the_classifier_of_the_features_up_sampled_to_the_image(spec, awaken):
    network = taught(spec, HEADS["hidden units"], awaken)
    image = image_of(spec, [2 * network.stride] * spec.dimensions)
    with torch.inference_mode():
        features, head = network.features(image), network.heads[0]
        total = head.bias.view(1, -1, *[1] * spec.dimensions)
        for stride, part, values in zip(network.feature_strides, head.inputs, features, strict=True):
            large = torch.nn.functional.interpolate(values, scale_factor=stride, mode=LAYERS[spec.dimensions].linear)
            around = (1, -1, *[1] * spec.dimensions)
            standard = (large - part.running_mean.view(around)) / (part.running_var.view(around) + 1e-6).sqrt()
            total = total + torch.einsum("hc,nc...->nh...", part.weight.flatten(1), standard)
        wanted = head.classifier(total)
        found = network.run(image).logits[:, -1:]
    assert torch.allclose(found, wanted, atol=1e-3)


def test_shrunken_images_show_the_network_what_lies_farther_away(awaken):
    spec = SMALL[0]
    plain, zoomed = (taught(spec, PixelHeadSpec((0, None), scales=(1,), zooms=z), awaken) for z in ((1,), (1, 4)))
    image = image_of(spec, (128, 128))
    pooled = torch.nn.functional.avg_pool2d(image, 4)
    with torch.inference_mode():
        features = zoomed.features(image)
        levels = len(zoomed.body.levels)
        small = zoomed.features(torch.nn.functional.pad(pooled, (0, 96, 0, 96)))[:levels]
        wanted = [values[..., :4, :4] for values in small]
    for found, values, stride in zip(features[levels : 2 * levels], wanted, (1, 2, 4, 1, 2), strict=True):
        assert found.shape[-1] == 32 // stride
        assert torch.allclose(found[..., :2, :2], values[..., :2, :2], atol=1e-4)
    assert zoomed.stride == 4 * plain.stride
    changed = image.clone()
    changed[..., 60:68, 60:68] += 3
    with torch.inference_mode():
        near, far = (
            torch.nonzero((network(changed).logits - network(image).logits)[0, 1].abs() > 1e-4).amin()
            for network in (plain, zoomed)
        )
    assert far < near


def test_a_model_with_a_pixel_head_survives_its_folder(pixel_head, awaken, tmp_path):
    spec = replace(SMALL[0], out_channels=3)
    network = taught(spec, pixel_head, awaken)
    written = write_model(tmp_path / "m", described(network), network)
    assert written.description.pixel_head == pixel_head
    assert written.description.stride == network.stride
    assert description_from_json(description_to_json(written.description), "here") == written.description
    read = read_model(tmp_path / "m").network
    image = image_of(spec, (24, 24))
    with torch.inference_mode():
        logits = network(image).logits
        assert torch.allclose(read(image).logits, logits, atol=1e-2 * float(logits.abs().max()))
    for head, again in zip(network.heads, read.heads, strict=True):
        assert all(torch.equal(a.running_mean, b.running_mean) for a, b in zip(head.inputs, again.inputs, strict=True))


@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
@pytest.mark.parametrize(("title", "dimensions"), pairs_first(HEADS, (2, 3)))
def test_openvino_and_torch_agree(title, dimensions, awaken):
    spec = replace(SMALL[0], dimensions=dimensions, out_channels=3)
    network = taught(spec, HEADS[title], awaken)
    model = Model(described(network), network)
    shape = ({2: 21, 3: 16}[dimensions],) * dimensions
    images = image_of(spec, shape, batch=2).numpy()
    fast = OpenVINOBackend(model, shape, "f32").run(images)
    plain = TorchBackend(model, CPU, "f32").run(images)
    with torch.inference_mode():
        wanted = network.probability(network(torch.from_numpy(images)).logits).numpy()
    for ours in (fast, plain):
        np.testing.assert_allclose(ours.probability, wanted, atol=1e-4)
    halved = TorchBackend(model, CPU, "bf16").run(images)
    assert np.abs(halved.probability - wanted).mean() < 0.02


def test_a_tile_is_a_part_of_the_whole_image(awaken):
    spec = SMALL[0]
    network = taught(spec, PixelHeadSpec((0, None), scales=(1, 2, 4, 8)), awaken)
    image, margin = image_of(spec, (160, 128)), 64
    with torch.inference_mode():
        whole = network(image).logits
        tile = network(image[:, :, 160 - 96 :]).logits
    assert torch.allclose(tile[:, :, margin:], whole[:, :, 160 - 96 + margin :], atol=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("scale", [1, 2, 8])
def test_filters_do_not_depend_on_directions(dimensions, scale):
    bank = FilterBank(dimensions, 2, scale, max(1, scale // 2))
    image = torch.randn(1, 2, *(32,) * dimensions)
    found = bank(image)
    assert found.shape == (1, 2 * FILTERS_PER_SCALE, *(32 // bank.stride,) * dimensions)
    turned = bank(image.rot90(1, (-2, -1)).flip(2)).flip(2).rot90(-1, (-2, -1))
    assert torch.allclose(turned, found, atol=1e-4)


def test_filters_of_a_ramp_and_of_a_bowl_are_their_derivatives():
    at = torch.arange(33.0) - 16
    ramp, bowl = at.expand(1, 1, 33, 33), ((at**2)[:, None] + (at**2)[None]).view(1, 1, 33, 33)
    smooth, gradient, laplacian, rest, deviation = FilterBank(2, 1, 2, 1)(ramp)[0, :, 16, 16]
    assert (abs(smooth), abs(laplacian)) == pytest.approx((0, 0), abs=1e-2)
    assert gradient == pytest.approx(2, rel=0.05), "in units of the scale"
    assert deviation == pytest.approx(2, rel=0.05)
    assert rest < 0.1
    assert FilterBank(2, 1, 2, 1)(bowl)[0, 2, 16, 16] == pytest.approx(4 * 4, rel=0.1)


@pytest.mark.parametrize(
    "wrong",
    [{"sources": (0, 1)}, {"sources": ()}, {"sources": (0, 0, None)}, {"sources": (-1, None)}, {"hidden": -1},
     {"scales": (3,)}, {"scales": (64,)}, {"hidden": 10**6}, {"zooms": (2,)}, {"zooms": (1, 3)}, {"zooms": (1, 16)}],
    ids=repr,
)  # fmt: skip
def test_an_impossible_pixel_head_is_refused(wrong):
    with pytest.raises(SpecError):
        PixelHeadSpec(**{"sources": (0, None)} | wrong)


@pytest.mark.parametrize("sources", [(None,), (2, None)], ids=["too few", "no such class"])
def test_a_model_whose_pixel_head_does_not_fit_is_refused(sources):
    spec = replace(SMALL[0], out_channels=3)
    classes = (ClassLabel("a", 1), ClassLabel("b", 2))
    with pytest.raises(ModelError, match="pixel head"):
        ModelDescription("m", spec, classes, 0, "", pixel_head=PixelHeadSpec(sources))


def test_the_classes_with_a_pixel_head_are_named():
    spec = replace(SMALL[0], out_channels=1)
    classes = (ClassLabel("membrane", 1), ClassLabel("mitochondrion", 2))
    with_head = ModelDescription("m", spec, classes, 0, "", pixel_head=PixelHeadSpec((0, None)))
    assert with_head.pixel_classes == ("mitochondrion",)
    assert asdict(with_head)["pixel_head"]["sources"] == (0, None)


def test_gates_are_called_by_their_place_in_the_network_inside():
    description = described(build(SMALL[0], PixelHeadSpec((0, None))))
    assert gate_place("body.gates.1", description) == gate_place("gates.1", description) == "long skip 2"
