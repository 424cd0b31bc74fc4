"""The grey values of a stack as a segmentation measures them: viewer, shell and engine measure the same."""

from __future__ import annotations

from collections.abc import Generator

from napari_skipseg.images.normalize import GreyStatistics, iter_measure_greys
from napari_skipseg.images.padding import PaddingRule
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.scale import lengths_of
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.progress import Progress

SEED = 0
"""Of the sample that grey values are measured on."""


def iter_measure_for(
    stack: Stack, description: ModelDescription, options: SegmentOptions
) -> Generator[Progress, None, GreyStatistics]:
    """Yield now and then; return how the grey values of a stack are normalised for a model.

    stack: as the network takes it, one channel if it takes one.

    Raises:
        InputError: as `measure_greys` and `scale.seen_lengths`.
    """
    lengths = lengths_of(stack, description, options)
    return (yield from iter_measure_greys(stack, SEED, lengths, padding_rule(description, options)))


def padding_rule(description: ModelDescription, options: SegmentOptions) -> PaddingRule:
    """Return whether constant areas may be padding: not if the options say so, or the model was taught otherwise."""
    return "none" if "none" in (options.padding, description.padding) else "auto"
