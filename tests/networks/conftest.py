from collections.abc import Callable

import pytest
import torch
from torch import nn

from napari_skipseg.networks.network import Network


@pytest.fixture(scope="session")
def awaken() -> Callable[[nn.Module], nn.Module]:
    """Return a module in eval mode as training leaves it: no batch norm or select weight is where it started.

    In a whole network the statistics are those of an image, so that no ReLU is dead; in a part they are random.
    """

    def awaken(module: nn.Module) -> nn.Module:
        for name, parameter in module.named_parameters():
            if name.endswith("select.weight"):
                nn.init.uniform_(parameter, -0.3, 1.3)
                parameter.data[0] = 0.5  # a gate whose channels are all off lets no gradient through
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.uniform_(norm.weight, 0.7, 1.3)
                nn.init.uniform_(norm.bias, -0.3, 0.3)
                nn.init.uniform_(norm.running_mean, -0.3, 0.3)
                nn.init.uniform_(norm.running_var, 0.5, 1.5)
                norm.momentum = 1.0
        if isinstance(module, Network):
            sides = [2 * module.stride] * module.spec.dimensions
            with torch.no_grad():
                module.train()(torch.randn(2, module.spec.in_channels, *sides))
        return module.eval()

    return awaken
