"""The form of the Fine-tune tab: where to start, what to call it, how far it may move; the rest folded away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QLineEdit,
    QRadioButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_skipseg.errors import SkipsegError
from napari_skipseg.models.catalog import find_models, user_folder
from napari_skipseg.models.description import ClassLabel, ModelDescription, can_name
from napari_skipseg.training.progress import TrainingSummary
from napari_skipseg.training.settings import (
    AUGMENTATIONS,
    AUTO,
    BatchNorm,
    FinetuneSettings,
    LossName,
    Reach,
    slices_to_hold_out,
)
from napari_skipseg.widgets.correct.classes import short_count
from napari_skipseg.widgets.forms.engine_line import EngineLine
from napari_skipseg.widgets.forms.estimate_line import SettledLine
from napari_skipseg.widgets.forms.fields import Collapsible, FreshCombo, PlainLabel, mark_field
from napari_skipseg.widgets.segment.form import describe_or_fault
from napari_skipseg.wording import counted, in_words

_REACHES: dict[Reach, tuple[str, str]] = {
    "quick": ("Quick", "the last layers learn"),
    "normal": ("Normal", "the decoder learns"),
    "full": ("Full", "all layers learn"),
}
REACH_HINTS = {
    "quick": "Only the last level, its gate and the classifier learn: the fastest choice. For a few strokes",
    "normal": "The whole decoder learns, which takes longer. For a new class, or for corrections on several slices",
    "full": "Every weight learns, which takes longest. For another kind of image, with many corrections",
}
_HINTS = {
    "steps": "Training steps",
    "minutes": "Minutes after which training stops and keeps the best weights",
    "rate": "Highest learning rate",
    "validate": "Corrections that are not learnt from, but used to compare old and new: auto = a fifth of the places; "
    "or slices such as 5-9",
    "loss": "The error that training makes smaller",
    "augment": "How the training patches are turned and distorted",
    "norm": "Whether the running statistics of batch norm may change: frozen suits few corrections",
    "remember": "Do not forget what the model knew: mix in its own sample, and keep its other classes as they were",
    "seed": "A different seed draws different patches, and holds out different places",
}
_NO_MODEL = "There is no model to start from: train one from scratch below."


@dataclass(frozen=True)
class FinetuneFormValues:
    """What the form says; model None where there is none or it cannot be read, which `model_fault` then says."""

    model: ModelDescription | None
    model_fault: str
    name: str
    reach: Reach
    steps: int
    minutes: float
    rate: float
    validate: str
    loss: LossName
    augment: str
    norm: BatchNorm
    remember: bool
    seed: int

    def settings(
        self, images: tuple[str, ...], classes: tuple[ClassLabel, ...], name: str | None = None
    ) -> FinetuneSettings:
        """Return the engine's settings for these images.

        Raises:
            SpecError: something is impossible.
        """
        return FinetuneSettings(
            model="" if self.model is None else self.model.name,
            name=self.name if name is None else name,
            images=images,
            labels=tuple(f"corrections of {image}" for image in images),
            classes=classes,
            reach=self.reach,
            remember=self.remember,
            validate=self.validate,
            steps=self.steps,
            minutes=self.minutes,
            learning_rate=self.rate or None,
            loss=self.loss,
            augmentation=AUGMENTATIONS[self.augment],
            batch_norm=self.norm,
            seed=self.seed,
        )


class FinetuneForm(QWidget):  # type: ignore[misc]
    """Start from, new model, how far, learn from, and the fold. `changed` says that the choices may be others now."""

    changed = Signal()

    def __init__(self, sources: QWidget) -> None:
        super().__init__()
        self._suggested = ""
        self._described: tuple[str, ModelDescription | None, str] = ("", None, _NO_MODEL)
        self.model, self.name = FreshCombo(), QLineEdit()
        self.reaches = {reach: QRadioButton(f"{title}: {what}") for reach, (title, what) in _REACHES.items()}
        self.fold = FinetuneDetails()
        self.follow_model = True
        self._lay_out(sources)
        self._connect()
        self.offer_models()

    def _lay_out(self, sources: QWidget) -> None:
        form = self._form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(7)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        group = QButtonGroup(self)
        far = QVBoxLayout()
        far.setSpacing(2)
        for reach, button in self.reaches.items():
            button.setToolTip(REACH_HINTS[reach])
            group.addButton(button)
            far.addWidget(button)
        self.reaches["quick"].setChecked(True)
        form.addRow("Start from", self.model)
        form.addRow("New model", self.name)
        for title, field in (("Train", far), ("Learn from", sources)):
            label = PlainLabel(title)
            label.setAlignment(Qt.AlignmentFlag.AlignTop)
            form.addRow(label, field)

    def _connect(self) -> None:
        self.model.opening.connect(self.offer_models)
        self.model.activated.connect(self._choose)
        self.name.textEdited.connect(self._tell)
        self.fold.edited.connect(self.changed)
        for button in self.reaches.values():
            button.toggled.connect(lambda on: self.changed.emit() if on else None)

    def offer_models(self, chosen: str | None = None) -> None:
        """Offer the models that there are, and choose one, by default the same as before."""
        names = list(find_models())
        self.model.offer([(name, name) for name in names], chosen or self.model.currentData())
        self._described = describe_or_fault(self.model.currentData(), _NO_MODEL)
        self.suggest_name()

    def _tell(self) -> None:
        self.changed.emit()

    def _choose(self) -> None:
        self.follow_model = False
        self._described = describe_or_fault(self.model.currentData(), _NO_MODEL)
        self.suggest_name()
        self.changed.emit()

    def show_sources(self, shown: bool) -> None:
        """Show what can be learnt from, or leave it out."""
        self._form.setRowVisible(self._form.rowCount() - 1, shown)

    def start_from(self, name: str | None) -> None:
        """Start from the model that is chosen elsewhere, as long as none was chosen here."""
        if self.follow_model and name is not None and name != self.model.currentData():
            self.offer_models(name)

    def suggest_name(self) -> None:
        """Put a fresh name into its field, unless the user has written one that is still free."""
        written = self.name.text()
        if written in ("", self._suggested) or why_not_named(written):
            self._suggested = new_model_name(str(self.model.currentData() or "model"))
            self.name.setText(self._suggested)

    def take(self, settings: FinetuneSettings) -> None:
        """Show the settings of an earlier fine-tuning, whose model need not be there any more."""
        self.follow_model = False
        self.offer_models(settings.model)
        self.name.setText(settings.name)
        self.reaches[settings.reach].setChecked(True)
        fold = self.fold
        fold.steps.setValue(settings.steps)
        fold.minutes.setValue(settings.minutes)
        fold.rate.setValue(settings.learning_rate or 0.0)
        fold.validate.setText(settings.validate)
        fold.remember.setChecked(settings.remember)
        fold.seed.setValue(settings.seed)
        augment = next((name for name, one in AUGMENTATIONS.items() if one == settings.augmentation), "default")
        fold.loss.setCurrentIndex(fold.loss.findData(settings.loss))
        fold.norm.setCurrentIndex(fold.norm.findData(settings.batch_norm))
        fold.augment.setCurrentIndex(fold.augment.findData(augment))
        self.changed.emit()

    def read(self) -> FinetuneFormValues:
        """Return the choices as they stand."""
        reach = next(reach for reach, button in self.reaches.items() if button.isChecked())
        fold = self.fold
        return FinetuneFormValues(
            *self._described[1:],
            self.name.text().strip(),
            reach,
            fold.steps.value(),
            float(fold.minutes.value()),
            float(fold.rate.value()),
            fold.validate.text().strip() or AUTO,
            fold.loss.currentData(),
            fold.augment.currentData(),
            fold.norm.currentData(),
            fold.remember.isChecked(),
            fold.seed.value(),
        )

    def find_faults(self) -> dict[str, str]:
        """Return what is wrong, by field; and mark it."""
        choices = self.read()
        faults = {"model": choices.model_fault, "name": why_not_named(choices.name), "validate": ""}
        try:
            if choices.validate != AUTO and not slices_to_hold_out(choices.validate):
                faults["validate"] = "Name slices to hold out, such as 5-9, or auto."
        except SkipsegError as error:
            faults["validate"] = str(error)
        summary = "" if choices.model is None else choices.model.card.summary
        mark_field(self.model, faults["model"], summary)
        mark_field(self.name, faults["name"], "A new model is written; the one you start from stays as it is")
        mark_field(self.fold.validate, faults["validate"], _HINTS["validate"])
        return {field: fault for field, fault in faults.items() if fault}


class FinetuneDetails(Collapsible):
    """What few people change. `edited` says that one of the fields was."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__("Details")
        self.steps, self.seed, self.minutes, self.rate = QSpinBox(), QSpinBox(), QDoubleSpinBox(), QDoubleSpinBox()
        self.validate, self.loss, self.augment, self.norm = QLineEdit(AUTO), FreshCombo(), FreshCombo(), FreshCombo()
        self.remember = QCheckBox("what the model knew before")
        self.remember.setChecked(True)
        self.steps.setRange(0, 100_000)
        self.steps.setSingleStep(50)
        self.steps.setSpecialValueText("auto")
        self.minutes.setRange(0.0, 10_000.0)
        self.minutes.setDecimals(1)
        self.minutes.setSpecialValueText("no limit")
        self.rate.setDecimals(5)
        self.rate.setRange(0.0, 1.0)
        self.rate.setSingleStep(1e-4)
        self.rate.setSpecialValueText("auto")
        self.seed.setRange(0, 10**6)
        self.loss.offer([(name, name) for name in get_args(LossName)], "bce+dice")
        self.augment.offer([(name, name) for name in AUGMENTATIONS], "default")
        self.norm.offer([(name, name) for name in get_args(BatchNorm)], "frozen")
        self._lay_out()
        for number in (self.steps, self.seed, self.minutes, self.rate):
            number.setKeyboardTracking(False)
            number.valueChanged.connect(self._tell)
        for combo in (self.loss, self.augment, self.norm):
            combo.activated.connect(self._tell)
        self.validate.editingFinished.connect(self._tell)
        self.remember.clicked.connect(self._tell)

    def _tell(self) -> None:
        self.edited.emit()

    def _lay_out(self) -> None:
        inner = QWidget()
        rows = QFormLayout(inner)
        rows.setContentsMargins(12, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for title, name in (
            ("Remember", "remember"),
            ("Held out", "validate"),
            ("Steps", "steps"),
            ("Minutes", "minutes"),
            ("Learning rate", "rate"),
            ("Loss", "loss"),
            ("Augmentation", "augment"),
            ("Batch norm", "norm"),
            ("Seed", "seed"),
        ):
            field = getattr(self, name)
            field.setToolTip(_HINTS[name])
            rows.addRow(title, field)
        self.fill(inner)


def why_not_named(name: str) -> str:
    """Return why a new model cannot have this name, empty where it can."""
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
    """The lesson in two sentences, more of it in the tooltip; and why there is none, with the cure.

    refused: nothing can be learnt from what there is, as far as is known. answered: that may have changed. pace: what
    the last fine-tuning of this kind took, as a multiple of what was estimated. estimated: seconds, by the engine.
    """

    answered = Signal()

    def __init__(self, line: EngineLine) -> None:
        super().__init__(line, _LOOKING, "waits until the corrections are counted")
        self.refused = False
        self.pace, self.estimated = 1.0, 0.0

    def show_answer(self, answer: TrainingSummary) -> None:
        """Say what will be learnt from, held out, and how long it takes."""
        self.estimated = answer.seconds or 0.0
        told = replace(answer, seconds=None if answer.seconds is None else answer.seconds * self.pace)
        self.say(describe_training_summary(told), explain_training_summary(told))
        self._settle(False)

    def show_fault(self, fault: str) -> None:
        """Say why nothing can be learnt."""
        self.say("", warning=fault)
        self._settle(True)

    def _settle(self, refused: bool) -> None:
        if refused != self.refused:
            self.refused = refused
            self.answered.emit()


def describe_training_summary(lesson: TrainingSummary) -> str:
    """Return what will be learnt from, held out, and how long it takes, in a few words."""
    trained, held = lesson.places
    among = f"{trained} of {counted(trained + held, 'place')}" if held else counted(trained, "place")
    learns = f"Learns from {_counted(lesson.pixels)} pixels in {among}"
    where = f" on {counted(lesson.slices, 'slice')}" if lesson.slices > 1 else ""
    others = "the other one is" if held == 1 else f"the other {held} are"
    kept = f"; {others} held out to compare old and new." if held else "."
    takes = "" if lesson.seconds is None else f" Takes about {in_words(lesson.seconds)}."
    return " ".join([learns + where + kept + takes, *lesson.notes])


def explain_training_summary(lesson: TrainingSummary) -> str:
    """Return the numbers in full, a line for each class."""
    lines = [
        f"{name}: {counted(count, 'pixel')} to learn from, {lesson.held_out.get(name, 0):,} held out"
        for name, count in lesson.pixels.items()
    ]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in lesson.facts.items())])


def _counted(pixels: Mapping[str, int]) -> str:
    """Return the classes first and the background last: "1.2k membrane and 3k background"."""
    named = sorted(pixels, key=lambda name: name == "background")
    parts = [f"{short_count(pixels[name])} {name}" for name in named]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
