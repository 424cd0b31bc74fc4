"""What a fine-tuning needs to know: one frozen value, from which form, command line and JSON derive. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_skipseg.errors import SpecError
from napari_skipseg.images.padding import PaddingRule
from napari_skipseg.models.description import ClassLabel, can_name
from napari_skipseg.networks.specs import first_fault
from napari_skipseg.training.augmentation import Augmentation
from napari_skipseg.training.settings import LossName, Precision, held_out

Reach = Literal["quick", "normal", "full"]
BatchNorm = Literal["frozen", "updated"]
STEPS: dict[str, int] = {"quick": 40, "normal": 300, "full": 600}
"""Steps by reach, where the settings name none."""
RATES: dict[str, float] = {"quick": 6e-3, "normal": 6e-4, "full": 6e-4}
"""Highest learning rates by reach, where the settings name none."""
AUTO = "auto"


@dataclass(frozen=True)
class FinetuneSettings:
    """A whole fine-tuning.

    model: the one to start from, by name or folder. name: of the new one. images, labels: what it learns from, for the
    record and for the command line: files, one label file per image, 0 = not looked at, 1 = background, 2… = classes.
    classes: names, and the values that stand for them; empty: the model's own, from 2 on. A class that the model does
    not know gets a new output. A class of the model that is not named here is not judged by these labels: where they
    say background, it may be there. reach: how far the network may move: "quick" its last decoder level, "normal" its
    decoder, "full" all of it. remember: keep what the model knew: its own classes, by its own sample and by its own
    answers on the new images. validate: what is held out: "auto" a fifth of the places with labels, or slices as
    "5-9", numbered along Z over all images in order. steps, learning_rate: 0 and None for those of the reach. minutes:
    after which training stops and keeps the best; 0 = never. batch_norm: whether its statistics stay. padding: "auto"
    learns nothing from black frames, empty slices and other constant areas without tissue, unless a class was painted
    on them; "none" takes them for tissue.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[ClassLabel, ...] = ()
    reach: Reach = "normal"
    remember: bool = True
    validate: str = AUTO
    steps: int = 0
    minutes: float = 0.0
    learning_rate: float | None = None
    patch: tuple[int, ...] = ()
    batch: int = 0
    loss: LossName = "bce+dice"
    class_weight: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_norm: BatchNorm = "frozen"
    precision: Precision = "auto"
    seed: int = 0
    padding: PaddingRule = "auto"

    def __post_init__(self) -> None:
        if not can_name(self.name):
            raise SpecError(f"'{self.name}' cannot name a model: give a plain name such as my-membranes.")
        if not self.images or len(self.images) != len(self.labels):
            raise SpecError(
                f"{len(self.images)} images and {len(self.labels)} label files were given; fine-tuning needs one label "
                "file for each image, and at least one."
            )
        names = [label.name for label in self.classes]
        values = [label.label for label in self.classes]
        if len(set(names)) != len(names) or len(set(values)) != len(values):
            raise SpecError("Each class needs a name and a label value of its own (NAME=VALUE).")
        if any(value < 2 for value in values):
            raise SpecError("Classes have values from 2 on: 0 means not looked at, 1 background (NAME=VALUE).")
        named = (("reach", Reach), ("loss", LossName), ("batch_norm", BatchNorm), ("precision", Precision))
        for option, known in named:
            if getattr(self, option) not in get_args(known):
                chosen = getattr(self, option)
                raise SpecError(f"There is no {option} '{chosen}': choose one of {', '.join(get_args(known))}.")
        if self.validate != AUTO and not held_out(self.validate):
            raise SpecError("Nothing is held out: name slices such as 5-9, or auto for a fifth of the places.")
        if self.padding not in get_args(PaddingRule):
            raise SpecError(f"There is no rule for padding '{self.padding}': choose one of auto, none.")
        if min(self.steps, self.batch) < 0 or not 0 <= self.minutes < math.inf:
            raise SpecError("Neither steps, batch nor minutes may be negative: 0 leaves the choice to the reach.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise SpecError("The learning rate must be positive.")
        if not 0 < self.class_weight < math.inf:
            raise SpecError(f"class_weight must be positive, not {self.class_weight}: 1 weighs all pixels the same.")


_ADAPTER: TypeAdapter[FinetuneSettings] = TypeAdapter(FinetuneSettings)


def finetune_from_json(text: str | bytes) -> FinetuneSettings:
    """Return the settings in `text`.

    Raises:
        SpecError: not JSON, an unknown key, a missing or impossible value.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise SpecError(f"The fine-tuning settings are not valid: {first_fault(error)}.") from error


def finetune_to_dict(settings: FinetuneSettings) -> dict[str, Any]:
    """Return `settings` as values that JSON can hold."""
    values: dict[str, Any] = _ADAPTER.dump_python(settings, mode="json")
    return values
