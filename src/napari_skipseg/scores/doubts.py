"""Notes to the user if a truth may not belong to a prediction, judged by how they overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_skipseg.wording import percent

AT_CHANCE = 0.2
"""Agreement beyond chance (Cohen's kappa) below which a truth is doubted: "slight" (Landis and Koch 1977)."""
MOST_BOUNDARY = 0.6
"""Share of an image above which a truth of boundaries is doubted: it is 0.2 to 0.45 in truths of ssTEM and FIB-SEM."""
_UNLIKE = 3.0
"""Ratio from which on the shares of truth and prediction are unlike."""
POOR = 0.4
"""Agreement beyond chance up to which a truth with an unlike share is doubted: "fair" (Landis and Koch 1977)."""


def doubt_truth(truth: str, class_name: str, is_boundary: bool, counts: Mapping[str, Any]) -> str:
    """Return why a truth may be that of another class or image, "" if nothing suggests it.

    class_name: what is scored, "" for the foreground. counts: of pixels, as in `OverlapScores`.
    """
    hits, false, missed, rest = (
        int(counts[name]) for name in ("true_positives", "false_positives", "false_negatives", "true_negatives")
    )
    total = hits + false + missed + rest
    if not total:
        return ""
    share, found = (hits + missed) / total, (hits + false) / total
    called = class_name or "the class that is scored"
    if is_boundary and share > MOST_BOUNDARY:
        return (
            f"'{truth}' says that {percent(share)} of the image is {called}: check that it is a truth of {called}, and "
            "which value it has there."
        )
    if not (0 < share < 1 and 0 < found < 1):
        return ""
    chance = share * found + (1 - share) * (1 - found)
    agreement = ((hits + rest) / total - chance) / (1 - chance)
    if agreement < AT_CHANCE:
        return (
            f"The result agrees with '{truth}' hardly better than chance (kappa {agreement:.2f}): this may be the "
            f"truth of another class or image, or be turned or mirrored. Check that it is a truth of {called}."
        )
    lies_elsewhere = 2 * hits < min(hits + missed, hits + false)
    if agreement < POOR and lies_elsewhere and not 1 / _UNLIKE < share / found < _UNLIKE:
        return (
            f"{percent(share)} of '{truth}' is {called}, and {percent(found)} of the prediction: this may be the truth "
            "of another class."
        )
    return ""
