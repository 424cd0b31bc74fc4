"""Other classes for a trained network: what it knew stays as it was, what is new starts small."""

from dataclasses import replace

import pytest
import torch

from napari_skipseg.networks.build import build
from napari_skipseg.networks.head import grow_classes
from napari_skipseg.networks.network import class_probability
from napari_skipseg.networks.specs import DI2INSpec, ResidualFCNSpec, Stage, TiramisuSpec, UNetSpec, VNetSpec

SPECS = {
    "unet": UNetSpec(widths=(4, 6)),
    "residual-fcn": ResidualFCNSpec(width=4, stages=(Stage("simple", 6, 1),), across=Stage("basic", 6, 2)),
    "residual-fcn-post": ResidualFCNSpec(
        width=4, stages=(Stage("simple", 6, 1),), across=Stage("basic", 6, 2), block_order="post-activation"
    ),
    "vnet": VNetSpec(widths=(4, 6), convolutions=(1, 1), kernel=3),
    "tiramisu": TiramisuSpec(width=6, growth=4, layers=(2,), bottom_layers=2),
    "di2in-3d": DI2INSpec(widths=(4, 6)),
}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request):
    return request.param


def network_of(spec, channels, awaken):
    torch.manual_seed(0)
    network = awaken(build(replace(spec, out_channels=channels)))
    with torch.no_grad():
        network.get_submodule(network.head).weight *= 5  # so that probabilities lie far apart
    return network.double()


def probability(network):
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, 1, *(16,) * network.spec.dimensions, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        return class_probability(network(image).logits)


def test_a_new_class_takes_one_percent_of_the_background_and_the_old_one_all_but_stays(spec, awaken):
    old = network_of(spec, 1, awaken)
    before, after = probability(old), probability(grow_classes(old, (0,), channels=3))
    assert after.shape[1] == 2
    background = 1 - after.sum(dim=1)
    judged = background > 1e-6
    assert torch.allclose((after[:, 1] / (after[:, 1] + background))[judged], torch.tensor(0.01).double())
    assert (before - after[:, :1]).abs().max() < 0.003
    assert before.max() - before.min() > 0.1


def test_old_classes_in_softmax_form_keep_their_probabilities_exactly(spec, awaken):
    one = network_of(spec, 1, awaken)
    three = network_of(spec, 4, awaken)
    assert torch.equal(probability(grow_classes(one, (0,), channels=1)), probability(one))
    assert torch.allclose(probability(grow_classes(three, (2, 0, 1), channels=4)), probability(three)[:, [2, 0, 1]])
    grown = grow_classes(three, (0, 1, 2), channels=6)
    assert (probability(grown)[:, :3] - probability(three)).abs().max() < 0.01
    assert probability(grown)[:, 3:].max() < 0.01 + 1e-9


def test_one_class_of_several_is_judged_against_the_background_alone(awaken):
    old = network_of(SPECS["unet"], 4, awaken)
    before = probability(old)
    both = before[:, 1] + 1 - before.sum(dim=1)
    judged = both > 1e-6
    after = probability(grow_classes(old, (1,), channels=1))[:, 0]
    assert torch.allclose(after[judged], (before[:, 1] / both)[judged])


def test_one_class_and_its_softmax_are_the_same_there_and_back(awaken):
    old = network_of(SPECS["unet"], 1, awaken)
    grown = grow_classes(old, (0,), channels=3)
    back = grow_classes(grown, (0,), channels=1)
    assert torch.allclose(probability(back), probability(old))


def test_only_the_head_changes_and_the_old_network_not_at_all(spec, awaken):
    old = network_of(spec, 1, awaken)
    before = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    grown = grow_classes(old, (0,), channels=3)
    assert grown.spec == replace(old.spec, out_channels=3)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1)
    after = grown.state_dict()
    assert list(after) == list(before) == list(build(grown.spec).state_dict())
    assert {name for name in before if after[name].shape != before[name].shape} == {
        f"{old.head}.weight",
        f"{old.head}.bias",
    }
    assert all(tensor.equal(before[name]) for name, tensor in old.state_dict().items())
    assert not grown.training


def test_without_a_class_that_is_kept_the_head_starts_afresh(awaken):
    old = network_of(SPECS["unet"], 1, awaken)
    torch.manual_seed(5)
    first, second = (grow_classes(old, (), channels=1) for _ in range(2))
    weights = [network.classifier.weight for network in (old, first, second)]
    assert not any(weights[a].equal(weights[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert first.encoder[0][0].weight.equal(old.encoder[0][0].weight)


def test_the_new_head_has_the_precision_of_the_old_one(awaken):
    old = network_of(SPECS["unet"], 1, awaken)
    assert {p.dtype for p in grow_classes(old, (0,), channels=3).parameters()} == {torch.float64}


@pytest.mark.parametrize(("kept", "channels"), [((1,), 3), ((0, 0), 4), ((-1,), 3), ((0, 1), 1), ((0, 1, 2), 3)])
def test_classes_that_there_are_not_are_refused(kept, channels, awaken):
    old = network_of(SPECS["unet"], 1 if len(kept) == 1 else 4, awaken)
    with pytest.raises(ValueError, match="cannot be kept"):
        grow_classes(old, kept, channels=channels)
