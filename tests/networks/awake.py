"""Networks whose channels all say something: a tiny network's may be off everywhere before its first training."""

import torch
from torch import nn

from napari_skipseg.networks.build import build


def build_awake(spec, image):
    """The network of `spec` with seeded weights, in evaluation, its batch-norm statistics those of `image`."""
    torch.manual_seed(0)
    network = build(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(image)
    return network.eval()
