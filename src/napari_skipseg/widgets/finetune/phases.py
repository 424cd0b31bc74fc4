"""The progress of a whole fine-tuning: one bar for all phases, each of which counts from 0."""

from __future__ import annotations

from napari_skipseg.progress import Progress

PHASES: tuple[tuple[tuple[str, ...], float], ...] = (
    (("reading", "opening", "saving"), 0.04),
    (("preparing patches", "computing features"), 0.16),
    (("warming up",), 0.15),
    (("step", "fitting"), 0.5),
    (("measuring", "writing"), 0.05),
    (("scoring",), 0.1),
)
"""The first words of each phase's messages, and its share of the bar, in the order of the work."""
_PARTS = 1000
"""Steps of the whole bar."""


class OverallProgress:
    """Turns the progress of a phase into that of the whole, which never goes back.

    new: the name of the new model, which is scored after the old one.
    """

    def __init__(self, new: str) -> None:
        self._new, self._reached = new, 0.0

    def of(self, progress: Progress) -> Progress:
        """Return the progress of the whole at `progress`, with the same message."""
        start = 0.0
        for beginnings, share in PHASES:
            if progress.message.startswith(beginnings):
                done = progress.fraction if progress.total > 1 else 0.0
                if progress.message.startswith("scoring"):  # the old model, then the new one
                    done = (done + progress.message.startswith(f"scoring {self._new}:")) / 2
                self._reached = max(self._reached, start + share * done)
                break
            start += share
        return Progress(round(_PARTS * self._reached), _PARTS, progress.message)
