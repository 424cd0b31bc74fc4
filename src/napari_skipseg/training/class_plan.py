"""Which classes a fine-tuned model has, which of them it knew, and which the labels judge. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass

from napari_skipseg.corrections.coding import FIRST_CLASS
from napari_skipseg.models.description import ClassLabel, ModelDescription, output_channels
from napari_skipseg.training.finetune_settings import FinetuneSettings


@dataclass(frozen=True)
class ClassPlan:
    """The new model's classes: those it keeps of the old one first, in their order, then those that are new.

    kept: number (from 0) of each kept class among the old model's. judged: whether the labels say where a class is; of
    one that is not judged, background in the labels says nothing. values: which label value stands for which class,
    numbered from 1.
    """

    classes: tuple[ClassLabel, ...]
    kept: tuple[int, ...]
    judged: tuple[bool, ...]
    values: dict[int, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the new model's classes."""
        return tuple(label.name for label in self.classes)

    @property
    def learnt(self) -> tuple[int, ...]:
        """Numbers (from 1) of the classes that the labels judge."""
        return tuple(number for number, judged in enumerate(self.judged, start=1) if judged)

    @property
    def channels(self) -> int:
        """Output channels of the new model's network."""
        return output_channels(len(self.classes))


def plan_classes(settings: FinetuneSettings, parent: ModelDescription) -> ClassPlan:
    """Return the classes of the model that `settings` make of `parent`.

    Without classes in the settings the labels judge the parent's own, from value 2 on. With `remember` off, classes of
    the parent that the labels do not judge are dropped.
    """
    named = settings.classes or tuple(
        ClassLabel(name, value) for value, name in enumerate(parent.class_names, start=FIRST_CLASS)
    )
    by_name = {label.name: label for label in named}
    kept = tuple(number for number, label in enumerate(parent.classes) if settings.remember or label.name in by_name)
    old = [parent.classes[number] for number in kept]
    old_names = {label.name for label in old}
    new = [label for label in named if label.name not in old_names]
    classes = tuple([by_name.get(label.name, label) for label in old] + new)
    judged = tuple(label.name in by_name for label in classes)
    values = {by_name[label.name].label: number for number, label in enumerate(classes, 1) if label.name in by_name}
    return ClassPlan(classes, kept, judged, values)
