"""Objects scored against true ones: a labels layer to choose, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.fields import FreshCombo, Message, PlainLabel

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_skipseg.scores.instances import InstanceScores
    from napari_skipseg.scores.matching import MatchingScores

MOST = 2**28
"""Voxels that are scored at once, at the most: they are in memory several times over."""
MEANING = (
    "Adapted Rand error and variation of information (VI) say how well voxels are grouped: 0 = as in the truth. VI "
    "split counts what is cut into too many objects, VI merge what is joined. Both leave out voxels that the truth "
    "leaves at 0. Average precision (AP) counts objects that overlap: 1 = all found and none too many, the mean over "
    "overlaps of 0.5 to 0.95"
)


@dataclass(frozen=True)
class ObjectScores:
    """How objects compare with true ones."""

    instances: InstanceScores
    matching: MatchingScores

    def in_words(self) -> str:
        """Return the scores, one thought a line."""
        found, match = self.instances, self.matching
        hits, false, missed = (
            counts[0] for counts in (match.true_positives, match.false_positives, match.false_negatives)
        )
        return (
            f"Adapted Rand error {found.adapted_rand_error:.3f}\n"
            f"VI {found.variation_of_information:.3f} bits "
            f"(split {found.variation_split:.3f}, merge {found.variation_merge:.3f})\n"
            f"AP {match.mean:.3f}; at overlap 0.5: {match.precisions[0]:.3f} "
            f"({hits} found, {false} too many, {missed} missed)"
        )


def iter_score(found: Stack, truth: Stack) -> Generator[Progress, None, ObjectScores]:
    """Return how objects compare with true ones, stacks of the same voxels.

    Raises:
        InputError: there are too many voxels, or the truth tells no object from another.
    """
    from napari_skipseg.scores.instances import MASK, MaskError, is_mask, score_instances
    from napari_skipseg.scores.matching import score_matching

    if math.prod(found.shape) > MOST:
        raise InputError(
            "So large a volume is not scored at once: crop both, or score it slice by slice with napari-skipseg score."
        )
    yield Progress(0, 2, "reading the truth")
    ours, theirs = (stack.read((...,)) for stack in (found, truth))  # type: ignore[arg-type]
    theirs = theirs.reshape(ours.shape)
    if is_mask(theirs):
        raise MaskError(MASK)
    yield Progress(0, 2, "comparing voxels")
    instances = score_instances(ours, theirs)
    yield Progress(1, 2, "comparing objects")
    return ObjectScores(instances, score_matching(ours, theirs))


class ScoreBox(QWidget):  # type: ignore[misc]
    """The truth, Score, and the scores. `asked` is emitted when they are wanted."""

    asked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.truth, self.button, self.scores = FreshCombo(), QPushButton("Score"), Message()
        self.truth.setToolTip("A labels layer of the same voxels that holds the true objects, 0 = none")
        self.button.setToolTip("Compare the objects that were found with the true ones")
        self.scores.setToolTip(MEANING)
        row = QHBoxLayout()
        row.addWidget(PlainLabel("Score against"))
        row.addWidget(self.truth, 1)
        row.addWidget(self.button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.scores)
        self.button.clicked.connect(self.asked)
        self.truth.activated.connect(lambda: self.scores.say(""))

    def offer(self, layers: list[Layer]) -> None:
        """Offer labels as truth; without any there is nothing to score against."""
        self.truth.offer([(layer.name, layer) for layer in layers], self.truth.currentData())
        self.setVisible(bool(layers))
