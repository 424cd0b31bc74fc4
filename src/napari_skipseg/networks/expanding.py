"""What U-Net and V-Net share: an encoder, and a decoder of the same levels with a gated long skip at each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from napari_skipseg.networks.network import Deep, FeatureLevel, Network, NetworkOutput, Parts


class ExpandingNetwork(Network):
    """A network with an encoder, a decoder, and a long skip between them at each level but the bottom.

    A subclass makes `encoder` (with the bottom), `up`, `gates` and `decoder`, a module for each level, the finest
    first, the `classifier` of the finest level, and `levels` with `levels_of`.
    """

    encoder: nn.ModuleList
    up: nn.ModuleList
    gates: nn.ModuleList
    decoder: nn.ModuleList
    classifier: nn.Module
    parts = Parts(("up.0", "gates.0", "decoder.0", "classifier"), ("up", "gates", "decoder", "classifier"))
    head = "classifier"

    def contract(self, level: int, features: Tensor) -> Tensor:
        """Return the input of a level of the encoder, from the features of the level above."""
        raise TypeError(f"{type(self).__name__} has no `contract`")

    def deep(self, image: Tensor) -> Deep:
        """Return the input of the last decoder level; the sides of `image` are multiples of `stride`."""
        features = self.encoder[0](image)
        skips = []
        for level, encode in enumerate(self.encoder[1:], start=1):
            skips.append(features)
            features = encode(self.contract(level, features))  # (N, widths[level], *space / 2^level)
        attentions: tuple[Tensor, ...] = ()
        for level in range(len(self.gates) - 1, 0, -1):
            joined = self.gates[level](self.up[level](features), skips.pop())
            attentions = (*joined.attentions, *attentions)
            features = self.decoder[level](joined.features)
        return Deep(features, skips.pop(), attentions)

    def finish(self, deep: Deep) -> NetworkOutput:
        """Return the output of the last decoder level, without changing `deep`."""
        joined = self.gates[0](self.up[0](deep.features), deep.skip)
        logits = self.classifier(self.decoder[0](joined.features))
        return NetworkOutput(logits, (*joined.attentions, *deep.attentions))


def levels_of(encoder: Sequence[int], decoder: Sequence[int]) -> tuple[FeatureLevel, ...]:
    """Return the features of each level, the finest first. encoder, decoder: channels of their levels."""
    return (
        *(FeatureLevel(f"encoder.{level}", 2**level, width) for level, width in enumerate(encoder)),
        *(FeatureLevel(f"decoder.{level}", 2**level, width) for level, width in enumerate(decoder)),
    )
