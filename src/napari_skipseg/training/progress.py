"""Messages of a training: its progress, its results, and the command to end it early. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from napari_skipseg.progress import Progress


@dataclass(frozen=True)
class KeepBest:
    """The command to end a training and keep the best weights so far, sent back through its `yield`."""


@dataclass(frozen=True)
class TrainingProgress(Progress):
    """A step of a training, with the new points of its curves at `step`, by name such as "held-out Dice"."""

    step: int = 0
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationPicture(Progress):
    """The network's current result for one held-out patch.

    image: (Y, X) float32 in standard units. probability: (Y, X) float32 of the class that is learnt. target: (Y, X)
    int16 as in `LabelledImage`. All three are None if nothing is held out. is_final: the network is the finished model.
    """

    image: NDArray[np.float32] | None = None
    probability: NDArray[np.float32] | None = None
    target: NDArray[np.int16] | None = None
    is_final: bool = False


EVEN = 0.0005
"""Scores that differ by less look the same in a table, and count as equal."""


@dataclass(frozen=True)
class ScoreRow:
    """One score of the old and the new model; old is None if that model does not know the class.

    on: what was scored: "held-out corrections", of those the "held-out strokes" alone if others were accepted, or
    "its own sample". score: "Dice", "precision", "FPR", "FNR" or "V_rand". first: on its own sample, the score of the
    first model of a line of fine-tuned ones, as it was stored then; else None. limits: between which the new score
    probably lies; None if that was not estimated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    on: str
    class_name: str
    score: str
    old: float | None
    new: float
    first: float | None = None
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """The old model beside the new one; `reason` says in one or two sentences why the new one is better or not.

    is_better: the new model scores higher, and enough was held out to rely on that. is_unsure: it scores higher, but
    too little was held out to tell; is_better is False then.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rows: tuple[ScoreRow, ...]
    is_better: bool
    reason: str
    is_unsure: bool = False


@dataclass(frozen=True)
class Finetuned:
    """A new model: its folder, and how it compares with the one it started from."""

    folder: Path
    report: ComparisonReport


@dataclass(frozen=True)
class Trained:
    """The folder of a model that was trained from scratch."""

    folder: Path


@dataclass(frozen=True)
class TrainingSummary:
    """What a fine-tuning will learn from, reported before it starts.

    pixels: labelled ones by class name, "background" included, to train on; held_out: those kept for scores. places:
    blocks with labels to train on and held out. slices: slices with labels. seconds: about how long it will take;
    None if that is not known yet. is_in_turn: every stroke is learnt from, and held out of a fit for the scores. facts:
    more of it for the record. notes: sentences that a user should read first.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    pixels: dict[str, int]
    held_out: dict[str, int]
    places: tuple[int, int]
    slices: int
    seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_in_turn: bool = False


def without_losses(message: str) -> str:
    """Return the message of a training step without its losses, so that there is room for the time left."""
    return ", ".join(part for part in message.split(", ") if " loss " not in part)


LIVE_TILE = 64
"""Side of the tiles in which a live view keeps labelled pixels. Views and tiles begin on its multiples."""


@dataclass(frozen=True)
class LivePart:
    """A rectangle of a slice with its labels, for a live view.

    time, z, box: where it lies, box being (start, stop) along Y and X. corner: where `pixels` begin along Y and X,
    around the box. pixels: grey values (C, Y, X) as they are in the image. labels: (Y, X) of the box: 0 = not labelled,
    1 = background, 2 and more = the classes in their order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    time: int
    z: int
    box: tuple[tuple[int, int], tuple[int, int]]
    corner: tuple[int, int]
    pixels: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True)
class LiveResult:
    """What the strokes so far teach about a view.

    probability: (classes, Y, X) float32 of the view's box, for the classes in `names`; None if nothing can be shown.
    note: a sentence on what is still needed, or what is odd about the strokes; "" if nothing is.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    names: tuple[str, ...] = ()
    probability: NDArray[Any] | None = None
    note: str = ""
