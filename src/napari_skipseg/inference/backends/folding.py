"""A model's network for inference: it returns probabilities, and gates and batch norms are folded."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_skipseg.models.model import Model
from napari_skipseg.networks.gates import fold_gates
from napari_skipseg.networks.network import Network

BATCH_NORM = (nn.BatchNorm2d, nn.BatchNorm3d)
UP_CONVOLUTION = (nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTION = (nn.Conv2d, nn.Conv3d, *UP_CONVOLUTION)


class Probabilities(nn.Module):
    """A network that returns probabilities instead of logits, and its attention maps, in float32.

    attention: whether the maps are returned; it may be changed between two runs.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.attention = True

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return (N, classes, *space), and the attention maps if `attention` is set."""
        output = self.network(image)
        maps = output.attentions if self.attention else ()
        return (self.network.probability(output.logits.float()), *(values.float() for values in maps))


def ready_for_inference(model: Model) -> Probabilities:
    """Return a copy of the model's network, folded; the model keeps its own."""
    network = Probabilities(copy.deepcopy(model.network)).eval()
    fold_gates(network)
    fold_batch_norms(network)
    return network


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm that directly follows a convolution into it; outputs stay the same up to rounding.

    `network` must be in eval mode. Other batch norms, such as the first one of a pre-activation block, stay.
    """
    for parent in network.modules():
        if type(parent).forward is not nn.Sequential.forward:
            continue
        for (name, first), (next_name, second) in pairwise(list(parent.named_children())):
            if isinstance(first, CONVOLUTION) and isinstance(second, BATCH_NORM):
                transpose = isinstance(first, UP_CONVOLUTION)
                setattr(parent, name, fuse_conv_bn_eval(first, second, transpose=transpose))
                setattr(parent, next_name, nn.Identity())
