"""What a training records of its network: layers in order of depth, updates, select weights."""

import pytest
import torch
from torch import nn

from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage, UNetSpec
from napari_skipseg.training.updates import CONVOLUTIONS, convolutions_in_depth_order, kernels, mean_updates
from napari_skipseg.training.updates import select_weights as read_select_weights

SPECS = (
    UNetSpec(widths=(2, 4, 4), dropout=0.5),
    UNetSpec(dimensions=3, in_channels=2, widths=(2, 4)),
    ResidualFCNSpec(width=4, stages=(Stage("bottleneck", 2, 2),), across=Stage("basic", 4, 2), dropout=0.5),
)


def test_layers_come_in_the_order_in_which_they_run():
    names = convolutions_in_depth_order(build(UNetSpec(widths=(2, 4, 4))))
    assert names[:2] == ("encoder.0.0", "encoder.0.3")
    assert names[-1] == "classifier"
    assert names.index("encoder.2.3") < names.index("up.1") < names.index("decoder.1.0")
    assert names.index("decoder.1.3") < names.index("up.0") < names.index("decoder.0.0")


@pytest.mark.parametrize("spec", SPECS)
def test_every_convolution_is_named_once(spec):
    network = build(spec)
    names = convolutions_in_depth_order(network)
    assert sorted(names) == sorted(name for name, m in network.named_modules() if isinstance(m, CONVOLUTIONS))


@pytest.mark.parametrize("spec", SPECS)
def test_asking_for_the_order_changes_nothing(spec):
    network = build(spec).train()
    network.get_submodule(convolutions_in_depth_order(network)[0]).eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    convolutions_in_depth_order(network)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_an_update_is_the_mean_net_change_of_a_kernel():
    layer = nn.Sequential(nn.Conv2d(1, 1, (1, 2)))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([1.0, -2.0]).view(1, 1, 1, 2))
        begin = kernels(layer, ("0",))
        layer[0].weight.copy_(torch.tensor([1.5, -1.0]).view(1, 1, 1, 2))
    assert mean_updates(begin, kernels(layer, ("0",))) == {"0": 0.75}


def test_select_weights_are_named_by_their_module():
    network = build(UNetSpec(widths=(2, 4, 4), select_init="ones"))
    assert read_select_weights(network) == {"gates.0.select": (1.0, 1.0), "gates.1.select": (1.0,) * 4}
    assert read_select_weights(build(UNetSpec(widths=(2, 4), skip="at"))) == {}
