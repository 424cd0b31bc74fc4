"""How far a whole fine-tuning is: one bar for all of its phases, which each count from 0 by themselves."""

from __future__ import annotations

from napari_skipseg.progress import Progress

PHASES: tuple[tuple[tuple[str, ...], float], ...] = (
    (("reading", "opening", "saving"), 0.04),
    (("preparing patches",), 0.16),
    (("warming up",), 0.15),
    (("step",), 0.5),
    (("measuring", "writing"), 0.05),
    (("scoring",), 0.1),
)
"""How the messages of each phase begin, and which share of the bar it has; their order is that of the work."""
_PARTS = 1000
"""Steps of the whole bar."""


class OverallProgress:
    """Turns the progress of single phases into that of the whole; it never goes back.

    new: the name of the new model, which is scored after the old one.
    """

    def __init__(self, new: str) -> None:
        self._new, self._reached = new, 0.0

    def of(self, progress: Progress) -> Progress:
        """Return how far the whole is as of `progress`, with the same message."""
        start = 0.0
        for beginnings, share in PHASES:
            if progress.message.startswith(beginnings):
                self._reached = max(self._reached, start + share * self._within(progress))
                break
            start += share
        return Progress(round(_PARTS * self._reached), _PARTS, progress.message)

    def _within(self, progress: Progress) -> float:
        done = progress.fraction if progress.total > 1 else 0.0
        if progress.message.startswith("scoring"):
            return (done + progress.message.startswith(f"scoring {self._new}:")) / 2
        return done
