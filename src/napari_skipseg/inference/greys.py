"""The grey values of a stack as a segmentation measures them: viewer, shell and engine measure the same."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from napari_skipseg.images.normalize import GreyStatistics, iter_measure_greys
from napari_skipseg.images.padding import PaddingRule
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.guards import iter_examine
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.scale import lengths_of
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.progress import Progress

SEED = 0
"""Of the sample that grey values are measured on."""


def iter_measure_for(
    stack: Stack, description: ModelDescription, options: SegmentOptions
) -> Generator[Progress, None, GreyStatistics]:
    """Yield now and then; return how a stack is normalised for a model, and what was found about it.

    stack: as the network takes it, one channel if it takes one.

    Raises:
        InputError: as `measure_greys` and `scale.seen_lengths`.
    """
    lengths = lengths_of(stack, description, options)
    rule = padding_rule(description, options)
    greys = yield from iter_measure_greys(stack, SEED, lengths, rule)
    normalization = replace(greys.normalization, inverted=options.invert)
    examined = yield from iter_examine(stack, description, lengths, normalization, keeps_empty=rule == "none")
    findings = (*greys.findings, *examined.findings)
    return GreyStatistics(normalization, findings, examined.unlike, examined.may_be_inverted)


def padding_rule(description: ModelDescription, options: SegmentOptions) -> PaddingRule:
    """Return whether constant areas may be padding: not if the options say so, or the model was taught otherwise."""
    return "none" if "none" in (options.padding, description.padding) else "auto"
