from collections.abc import Callable, Iterator

import pytest
import torch

from napari_skipseg.networks.network import Network


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def awaken() -> Callable[[Network], Network]:
    """Return a network in eval mode as training leaves it: no batch norm or select weight is where it started."""

    def awaken(network: Network) -> Network:
        for name, parameter in network.named_parameters():
            if name.endswith("select.weight"):
                torch.nn.init.uniform_(parameter, -0.3, 1.3)
                parameter.data[0] = 0.5  # a gate whose channels are all off lets no gradient through
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                torch.nn.init.uniform_(module.weight, 0.7, 1.3)
                torch.nn.init.uniform_(module.bias, -0.3, 0.3)
                module.momentum = 1.0
        sides = [2 * network.stride] * network.spec.dimensions
        with torch.no_grad():
            network.train()(torch.randn(2, network.spec.in_channels, *sides))
        return network.eval()

    return awaken
