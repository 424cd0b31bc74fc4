"""The form of the Fine-tune tab, its training summary, and the note on an interrupted run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QButtonGroup, QLineEdit, QPushButton, QRadioButton, QVBoxLayout, QWidget

from napari_skipseg.errors import SkipsegError
from napari_skipseg.models.catalog import find_models, user_folder
from napari_skipseg.models.description import ClassLabel, ModelDescription, can_name
from napari_skipseg.option_fields import option_fields
from napari_skipseg.training.progress import TrainingSummary
from napari_skipseg.training.settings import AUGMENTATIONS, AUTO, FinetuneSettings, Reach, slices_to_hold_out
from napari_skipseg.training.unfinished import Unfinished
from napari_skipseg.widgets.correct.classes import short_count
from napari_skipseg.widgets.forms.estimate_line import SettledLine
from napari_skipseg.widgets.forms.fields import (
    WARNING_COLOR,
    Collapsible,
    FreshCombo,
    MessageLine,
    PlainLabel,
    fill_column,
    fill_form,
    mark_field,
    set_hint,
)
from napari_skipseg.widgets.forms.models import ModelCombo
from napari_skipseg.widgets.forms.option_rows import OptionRows
from napari_skipseg.widgets.forms.worker import EngineQueue
from napari_skipseg.wording import counted, in_words

_NO_MODEL = "There is no model to start from: train one from scratch below."


@dataclass(frozen=True)
class FinetuneFormValues:
    """The choices in the form.

    model: None if there is none or it cannot be read; `model_fault` says why. augment: the name of an augmentation.
    asked: values of `FinetuneSettings`, by name.
    """

    model: ModelDescription | None
    model_fault: str
    name: str
    augment: str
    asked: Mapping[str, Any]

    @property
    def reach(self) -> Reach:
        """What the training may change."""
        reach: Reach = self.asked["reach"]
        return reach

    @property
    def remember(self) -> bool:
        """Whether the classes that the model knows are kept."""
        return bool(self.asked["remember"])

    def settings(
        self, images: tuple[str, ...], classes: tuple[ClassLabel, ...], name: str | None = None
    ) -> FinetuneSettings:
        """Return the engine's settings for these images.

        Raises:
            SpecError: the settings are not possible.
        """
        return FinetuneSettings(
            model="" if self.model is None else self.model.name,
            name=self.name if name is None else name,
            images=images,
            labels=tuple(f"corrections of {image}" for image in images),
            classes=classes,
            augmentation=AUGMENTATIONS[self.augment],
            **self.asked,
        )


class FinetuneForm(QWidget):  # type: ignore[misc]
    """Start from, new model, what is trained, what it learns from, and the fold. changed: they may be different now."""

    changed = Signal()

    def __init__(self, sources: QWidget) -> None:
        super().__init__()
        self._suggested = ""
        self.model, self.name = ModelCombo(_NO_MODEL), QLineEdit()
        reach = option_fields(FinetuneSettings)["reach"].option
        self.reaches = {value: QRadioButton(reach.labels[value]) for value in reach.choices}
        self.fold = FinetuneDetails()
        self.follow_model = True
        form = self._form = fill_form(self)
        group, buttons = QButtonGroup(self), QVBoxLayout()
        buttons.setSpacing(2)
        for value, button in self.reaches.items():
            button.setToolTip(reach.notes[value])
            button.toggled.connect(lambda is_on: self.changed.emit() if is_on else None)
            group.addButton(button)
            buttons.addWidget(button)
        self.reaches["quick"].setChecked(True)
        form.addRow("Start from", self.model)
        form.addRow("New model", self.name)
        for title, field in (("Train", buttons), ("Learn from", sources)):
            label = PlainLabel(title)
            label.setAlignment(Qt.AlignmentFlag.AlignTop)
            form.addRow(label, field)
        self.model.opening.connect(self.suggest_name)
        self.model.activated.connect(self._choose)
        self.name.textEdited.connect(lambda _: self.changed.emit())
        self.fold.edited.connect(self.changed)
        self.offer_models()

    def offer_models(self, chosen: str | None = None) -> None:
        """Offer the models, and choose one, by default the same as before."""
        self.model.update_choices(chosen)
        self.suggest_name()

    def update_models(self, renamed: Mapping[str, str]) -> None:
        """Offer the models that there are now. renamed: new names by old ones."""
        self.model.follow_renamed(renamed)
        self.suggest_name()
        self.changed.emit()

    def _choose(self) -> None:
        self.follow_model = False
        self.suggest_name()
        self.changed.emit()

    def show_sources(self, shown: bool) -> None:
        """Show the row with the sources, or hide it."""
        self._form.setRowVisible(self._form.rowCount() - 1, shown)

    def start_from(self, name: str | None) -> None:
        """Start from the model of the Segment tab, unless the user chose one here."""
        if self.follow_model and name is not None and name != self.model.currentData():
            self.offer_models(name)

    def suggest_name(self) -> None:
        """Fill in a free name, unless the user has typed one that is still free."""
        written = self.name.text()
        if written in ("", self._suggested) or why_not_named(written):
            self._suggested = new_model_name(str(self.model.currentData() or "model"))
            self.name.setText(self._suggested)

    def show_settings(self, settings: FinetuneSettings) -> None:
        """Show the settings of an earlier fine-tuning, whose model may have been removed."""
        self.follow_model = False
        self.offer_models(settings.model)
        self.name.setText(settings.name)
        self.reaches[settings.reach].setChecked(True)
        self.fold.rows.show_values(settings)
        augment = next((name for name, each in AUGMENTATIONS.items() if each == settings.augmentation), "default")
        self.fold.augment.setCurrentIndex(self.fold.augment.findData(augment))
        self.changed.emit()

    def read(self) -> FinetuneFormValues:
        """Return the choices as they stand."""
        reach = next(reach for reach, button in self.reaches.items() if button.isChecked())
        return FinetuneFormValues(
            model=self.model.description,
            model_fault=self.model.fault,
            name=self.name.text().strip(),
            augment=self.fold.augment.currentData(),
            asked={"reach": reach, **self.fold.rows.values()},
        )

    def find_faults(self) -> dict[str, str]:
        """Mark the fields that are wrong, and return the faults by field."""
        choices = self.read()
        faults = {"model": choices.model_fault, "name": why_not_named(choices.name), "validate": ""}
        validate = choices.asked["validate"]
        try:
            if validate != AUTO and not slices_to_hold_out(validate):
                faults["validate"] = "Name slices to hold out, such as 5-9, or auto."
        except SkipsegError as error:
            faults["validate"] = str(error)
        about = "" if choices.model is None else choices.model.card.summary
        mark_field(self.model, faults["model"], about)
        mark_field(self.name, faults["name"], "A new model is written; the one you start from stays as it is")
        self.fold.rows.mark(faults)
        return {field: fault for field, fault in faults.items() if fault}


_FIRST = ("remember", "validate", "steps", "minutes", "learning_rate", "loss")
_AFTER_AUGMENTATION = ("batch_norm", "seed")
"""Options in the order of the fold; those that are named nowhere follow in the order of their fields."""
_ELSEWHERE = ("reach", "axes", "patch", "batch", "class_weight", "precision", "padding")
"""Options that have a place of their own in the form, or none."""


class FinetuneDetails(Collapsible):
    """What few people change: a row for each option that has no other place. edited: one was changed."""

    edited = Signal()

    def __init__(self, settings: type[FinetuneSettings] = FinetuneSettings) -> None:
        super().__init__("Details")
        options = option_fields(settings)
        rest = (name for name in options if name not in _FIRST + _AFTER_AUGMENTATION + _ELSEWHERE)
        self.augment = FreshCombo()
        self.augment.offer([(name, name) for name in AUGMENTATIONS], "default")
        self.augment.setToolTip("How the training patches are turned and distorted.")
        first, more = [options[name] for name in _FIRST], [options[name] for name in (*_AFTER_AUGMENTATION, *rest)]
        self.rows = OptionRows([*first, ("Augmentation", self.augment), *more])
        self.rows.edited.connect(self._on_edited)
        self.augment.activated.connect(self._on_edited)
        self.fill(self.rows)

    def _on_edited(self, *_: object) -> None:
        self.note_changes(len(self.rows.changed_values()) + (self.augment.currentData() != "default"))
        self.edited.emit()


def why_not_named(name: str) -> str:
    """Return why a new model cannot have this name, "" if it can."""
    if not can_name(name):
        return "Give the new model a plain name, such as my-membranes."
    if name in find_models() or (user_folder() / name).exists():
        return f"A model called {name} is there already, and is never overwritten: choose another name."
    return ""


def new_model_name(start: str) -> str:
    """Return a name for a model that starts from the one called `start`: NAME-tuned, NAME-tuned-2 and so on."""
    base = re.sub(r"-tuned(-\d+)?$", "", Path(start).name) + "-tuned"
    number = 1
    while why_not_named(name := base if number == 1 else f"{base}-{number}"):
        number += 1
    return name


_LOOKING = "Counting what was corrected, and measuring how long a step takes…"


class TrainingSummaryLine(SettledLine):
    """The training summary in two sentences, with details in the tooltip; or why nothing can be learnt, with the cure.

    refused: nothing can be learnt from the corrections. answered: `refused` has changed. pace: the duration of the last
    fine-tuning of this reach, as a multiple of its estimate. estimated: seconds, by the engine.
    """

    answered = Signal()

    def __init__(self, queue: EngineQueue) -> None:
        super().__init__(queue, _LOOKING, "waits until the corrections are counted")
        self.refused = False
        self.pace, self.estimated = 1.0, 0.0

    def show_answer(self, answer: TrainingSummary) -> None:
        """Show the corrections that are learnt from and held out, and the duration."""
        self.estimated = answer.seconds or 0.0
        paced = replace(answer, seconds=None if answer.seconds is None else answer.seconds * self.pace)
        self.say(describe_training_summary(paced), explain_training_summary(paced))
        self._set_refused(False)

    def show_fault(self, fault: str) -> None:
        """Show why nothing can be learnt."""
        self.say("", warning=fault)
        self._set_refused(True)

    def _set_refused(self, refused: bool) -> None:
        if refused != self.refused:
            self.refused = refused
            self.answered.emit()


def describe_training_summary(summary: TrainingSummary) -> str:
    """Return the corrections that are learnt from and held out, and the duration, in a few words."""
    trained, held = summary.places
    # the classes first and the background last: "1.2k membrane and 3k background"
    named = sorted(summary.pixels, key=lambda name: name == "background")
    parts = [f"{short_count(summary.pixels[name])} {name}" for name in named]
    pixels = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    among = f"{trained} of {counted(trained + held, 'place')}" if held else counted(trained, "place")
    learns = f"Learns from {pixels} pixels in {among}"
    where = f" on {counted(summary.slices, 'slice')}" if summary.slices > 1 else ""
    others = "the other one is" if held == 1 else f"the other {held} are"
    kept = f"; {others} held out to compare old and new." if held else "."
    if summary.is_in_turn:
        kept = "; each stroke is held out in turn to see how well the class is found."
    takes = "" if summary.seconds is None else f" Takes about {in_words(summary.seconds)}."
    return " ".join([learns + where + kept + takes, *summary.notes])


def explain_training_summary(summary: TrainingSummary) -> str:
    """Return all numbers, a line for each class."""
    lines = [
        f"{name}: {counted(count, 'pixel')} to learn from"
        + ("" if summary.is_in_turn else f", {summary.held_out.get(name, 0):,} held out")
        for name, count in summary.pixels.items()
    ]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in summary.facts.items())])


class UnfinishedNote(QWidget):  # type: ignore[misc]
    """A note on an interrupted fine-tuning. wanted: the settings that the form should show."""

    wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._settings: FinetuneSettings | None = None
        self.note, self.button = MessageLine(), QPushButton("Take its settings")
        set_hint(self.button, "Fill in the form as it was; then Fine-tune continues from the saved step")
        self.button.clicked.connect(lambda: self.wanted.emit(self._settings))
        self.button.clicked.connect(self.hide)
        fill_column(self, self.note, self.button)
        self.hide()

    def offer(self, unfinished: Unfinished | None) -> None:
        """Show the note, or hide it."""
        self._settings = None if unfinished is None else unfinished.settings
        self.setVisible(unfinished is not None)
        if unfinished is not None:
            settings = unfinished.settings
            images = " and ".join(dict.fromkeys(settings.images))
            is_there = settings.model in find_models()
            self.button.setVisible(is_there)
            self.note.say(
                f"The fine-tuning '{settings.name}' was interrupted; {counted(unfinished.step, 'step')} are saved. "
                + (
                    f"Open {images}, restore the corrections, take its settings and press Fine-tune to continue."
                    if is_there
                    else f"It started from the model '{settings.model}', which is gone or has a new name: to continue, "
                    "give it this name again (Library… in the Segment tab)."
                ),
                WARNING_COLOR,
            )
