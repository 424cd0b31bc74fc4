"""What a fine-tuning learns from: images with corrections, classes and settings, collected from the tabs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_skipseg.corrections.catalog import find_corrections
from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.corrections.store import Corrections, open_corrections
from napari_skipseg.corrections.subject import BACKGROUND, FIRST_CLASS, CorrectionClass, Subject
from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.images.files import is_there, read_stack
from napari_skipseg.images.identity import identify
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs.messages import CorrectedStack
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.progress import Progress
from napari_skipseg.training.settings import FinetuneSettings
from napari_skipseg.widgets.correct.classes import is_unnamed, short_count
from napari_skipseg.widgets.correct.sessions import OpenCorrections, day_of
from napari_skipseg.widgets.finetune.form import FinetuneForm
from napari_skipseg.widgets.forms.fields import Missing, set_hint
from napari_skipseg.widgets.layers.axes import axes_of
from napari_skipseg.widgets.layers.files import choose_colors
from napari_skipseg.widgets.layers.results import stack_of_layer

if TYPE_CHECKING:
    from napari_skipseg.widgets.segment.checks import SegmentFormValues


MOST_ROWS = 4


@dataclass(frozen=True)
class TrainingSource:
    """Corrections that can be learnt from.

    key: of their image. version: it changes with each stroke. open: gives the image with its corrections; called in a
    thread. is_present: it is the image of the Segment tab.
    """

    key: str
    name: str
    detail: str
    version: tuple[object, ...]
    classes: tuple[CorrectionClass, ...]
    open: Callable[[], tuple[Stack, Callable[[Path], Snapshot]]]
    is_present: bool = False


def open_source(stack: Stack, corrections: Corrections, is_present: bool) -> TrainingSource:
    """Return an image that is open, with its corrections."""
    summary = corrections.summary()
    total = sum(summary.pixels.values())
    where = f" on {summary.slices} slices" if summary.slices > 1 else ""
    return TrainingSource(
        key=corrections.subject.key,
        name=stack.name,
        detail=f"{short_count(total)} pixel{'s' * (total != 1)}{where}",
        version=(corrections.version, total),
        classes=corrections.classes,
        open=lambda: (stack, corrections.snapshot),
        is_present=is_present,
    )


def earlier_sources(but: Container[str]) -> list[TrainingSource]:
    """Return the earlier corrections of images whose files still exist. but: keys of images to leave out."""
    return [
        TrainingSource(
            key=found.subject.key,
            name=found.subject.name,
            detail=day_of(found.changed),
            version=(found.changed,),
            classes=found.classes,
            open=partial(_open_earlier, found.subject),
        )
        for found in find_corrections()
        if found.subject.key not in but and not found.is_empty and found.subject.file and is_there(found.subject.file)
    ]


def _open_earlier(subject: Subject) -> tuple[Stack, Callable[[Path], Snapshot]]:
    """Return the image of earlier corrections, and a function that writes these into a folder.

    Raises:
        SkipsegError: the file cannot be read, or shows a different image now.
    """
    stack = read_stack(subject.file)
    kept = [place for place, axis in enumerate(stack.space.axes) if axis != "C"]
    if len(kept) == len(subject.space.axes):
        letters = list(stack.space.axes)
        for place, axis in zip(kept, subject.space.axes, strict=True):
            letters[place] = axis
        stack = replace(stack, space=subject.space.with_axes("".join(letters)))
    if tuple(stack.length(axis) for axis in subject.space.axes) != subject.shape or identify(stack) != subject.key:
        raise InputError(
            f"'{subject.name}' shows another image than the one that was corrected. "
            "Clear its tick in the list, or correct the image that it shows now."
        )

    def write(folder: Path) -> Snapshot:
        with contextlib.closing(open_corrections(stack, subject.key)) as corrections:
            return corrections.snapshot(folder)

    return replace(stack, name=subject.name), write


def iter_open_sources(
    sources: Sequence[TrainingSource], labels: Sequence[ClassLabel], model: ModelDescription, channel: int | None
) -> Generator[Progress, None, list[CorrectedStack]]:
    """Return the images with their corrections, coded as the classes that are learnt.

    labels: the classes that are learnt, and their values. channel: the channel of images that have several, for a model
    that takes one.

    Raises:
        SkipsegError: an image or its corrections cannot be read, or a channel has to be chosen.
    """
    opened = []
    for source in sources:
        yield Progress(0, 1, f"opening {source.name}")
        stack, write = source.open()
        asked = stack.length("C") > 1 and model.spec.in_channels == 1
        if asked and channel is None:
            raise InputError(f"'{stack.name}' has {stack.length('C')} channels: choose one in the Segment tab.")
        opened.append(CorrectedStack(stack, write, coding_of(source.classes, labels), channel if asked else None))
    return opened


def coding_of(classes: Sequence[CorrectionClass], labels: Sequence[ClassLabel]) -> dict[int, int]:
    """Return the meaning of each value of corrections: a class that is learnt, or else the background."""
    values = {label.name: label.label for label in labels}
    return {each.value: values.get(each.name, BACKGROUND) for each in classes}


class TrainingSourceList(QListWidget):  # type: ignore[misc]
    """Images with corrections, each with a check box. At first only the image of the Segment tab is ticked."""

    ticked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._sources: list[TrainingSource] = []
        self._unticked: set[str] = set()
        self._ticked: set[str] = set()
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # Space ticks; a click leaves the keys to the image
        self.setAccessibleName("Learn from")
        self.setSelectionMode(QListWidget.SelectionMode.NoSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.itemChanged.connect(self._on_item_changed)

    def show_sources(self, sources: list[TrainingSource]) -> None:
        """Show these sources; check boxes stay as the user set them."""
        self._sources = sources
        self.blockSignals(True)
        self.clear()
        for source in sources:
            item = QListWidgetItem(f"{source.name}: {source.detail}")
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if self._is_ticked(source) else Qt.CheckState.Unchecked)
            classes = ", ".join(each.name for each in source.classes)
            set_hint(item, f"{source.name}, {source.detail}\nclasses: {classes}")
            self.addItem(item)
        self.blockSignals(False)
        row = self.sizeHintForRow(0) if sources else 0
        self.setFixedHeight(row * min(len(sources), MOST_ROWS) + 2 * self.frameWidth() + 4)

    def chosen(self) -> list[TrainingSource]:
        """Return those that are ticked."""
        return [source for source in self._sources if self._is_ticked(source)]

    def _is_ticked(self, source: TrainingSource) -> bool:
        return source.key not in self._unticked if source.is_present else source.key in self._ticked

    def _on_item_changed(self, item: QListWidgetItem) -> None:
        source = self._sources[self.row(item)]
        is_on = item.checkState() == Qt.CheckState.Checked
        (self._ticked.add if is_on else self._ticked.discard)(source.key)
        (self._unticked.discard if is_on else self._unticked.add)(source.key)
        self.ticked.emit()


_NOTHING = Missing("Nothing is corrected yet: open the Correct tab, paint over what is wrong, accept what is right.")
EARLIER = Missing("This image was corrected earlier: press Restore in the Correct tab to learn from that.")

Opening = Callable[[], Generator[Progress, Any, list[CorrectedStack]]]


class TrainingImages:
    """The images and classes that a fine-tuning learns from, as the tabs stand.

    read_segment: gives the choices of the Segment tab.
    """

    def __init__(
        self,
        form: FinetuneForm,
        sources: TrainingSourceList,
        read_segment: Callable[[], SegmentFormValues],
        corrections: OpenCorrections,
    ) -> None:
        self._form, self._sources, self._read_segment, self._corrections = form, sources, read_segment, corrections

    def state(self) -> Hashable:
        """Return a value that changes with each stroke in the chosen image, and with its classes."""
        corrections = self._corrections.chosen()
        version = 0 if corrections is None else corrections.version
        return id(corrections), version, self._corrections.judged_classes()

    def find_sources(self) -> Iterator[TrainingSource]:
        """Yield all images with corrections: the chosen one, others that are open, earlier ones."""
        present, choices = self._corrections.chosen(), self._read_segment()
        opened = [(image, axes_of(image), corrections) for image, corrections in self._corrections.all()]
        if present is not None and choices.layer is not None:
            opened.insert(0, (choices.layer, choices.axes, present))
        keys = set()
        for image, axes, corrections in opened:
            if corrections.subject.key in keys:
                continue
            keys.add(corrections.subject.key)
            with contextlib.suppress(SkipsegError):  # such as axes that are not valid at the moment
                stack = stack_of_layer(image, axes)
                if corrections.summary().pixels:
                    yield open_source(stack, corrections, corrections is present)
        yield from earlier_sources(keys)

    def labels(self) -> tuple[ClassLabel, ...]:
        """Return the classes that are learnt: those that the chosen image judges, else all of the ticked images."""
        sources = self._sources.chosen()
        if any(source.is_present for source in sources):
            return tuple(ClassLabel(each.name, each.value) for each in self._corrections.judged_classes())
        names = dict.fromkeys(each.name for source in sources for each in source.classes)
        return tuple(ClassLabel(name, value) for value, name in enumerate(names, start=FIRST_CLASS))

    def colors(self, known: Mapping[str, str]) -> tuple[tuple[str, ...], int]:
        """Return the colours of the new model's classes, and the number (from 0) of the class in the training picture.

        known: the colours that the user chose, by class. The engine draws the last class that is learnt.
        """
        model, taught = self._form.read().model, [label.name for label in self.labels()]
        kept = () if model is None else model.class_names
        if not self._form.read().remember:
            kept = tuple(name for name in kept if name in taught)
        names = [*kept, *(name for name in taught if name not in kept)]
        learnt = [number for number, name in enumerate(names) if name in taught]
        return choose_colors(names, known), learnt[-1] if learnt else 0

    def fault(self) -> str:
        """Return why nothing can be learnt, "" if something can; mark the fields that are wrong."""
        faults, sources = self._form.find_faults(), self._sources.chosen()
        if not self._sources.count():
            return EARLIER if self._corrections.can_restore() else _NOTHING
        if faults:
            return next(iter(faults.values()))
        if not sources:
            return Missing("Tick at least one image to learn from.")
        names = [label.name for label in self.labels()]
        if not names:
            return Missing("Tick a class in the Correct tab that is to be learnt.")
        model = self._form.read().model
        known = () if model is None else model.class_names
        if unnamed := next((name for name in names if is_unnamed(name) and name not in known), ""):
            return f"Name the new class '{unnamed}' first: double-click its name in the Correct tab."
        for source in sources:
            if not any(each.name in names for each in source.classes):
                missing = ", ".join(names)
                return f"The corrections of '{source.name}' hold nothing of {missing}: clear its tick in the list."
        return ""

    def settings(self, name: str | None = None) -> FinetuneSettings:
        """Return the engine's settings; `name` in place of the new model's.

        Raises:
            SpecError: something is impossible.
        """
        images = tuple(source.name for source in self._sources.chosen())
        return self._form.read().settings(images, self.labels(), name)

    def version(self) -> Hashable:
        """Return a value that changes with the choice of sources and with each stroke in them."""
        return tuple((source.key, source.version) for source in self._sources.chosen())

    def opening(self) -> Opening:
        """Return a function that opens the chosen images with their corrections, for a thread."""
        sources, labels = self._sources.chosen(), self.labels()
        model, channel = self._form.read().model, self._read_segment().channel

        def iter_open() -> Generator[Progress, Any, list[CorrectedStack]]:
            if model is None:
                raise ValueError("there is no model")
            return (yield from iter_open_sources(sources, labels, model, channel))

        return iter_open
