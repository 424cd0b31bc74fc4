"""What a fine-tuning learns from, put together from the tabs: sources, classes, settings; and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from napari_skipseg.corrections.coding import FIRST_CLASS, CorrectionClass
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs.teaching_calls import CorrectedStack
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.progress import Progress
from napari_skipseg.training.finetune_settings import FinetuneSettings
from napari_skipseg.widgets.axes import axes_of
from napari_skipseg.widgets.class_colors import is_unnamed
from napari_skipseg.widgets.fields import Missing
from napari_skipseg.widgets.finetune_form import FinetuneForm
from napari_skipseg.widgets.finetune_sources import (
    Source,
    SourceList,
    earlier_sources,
    iter_open_sources,
    open_source,
)
from napari_skipseg.widgets.layers import stack_of

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_skipseg.widgets.segment import SegmentTab

NOTHING = Missing("Nothing is corrected yet: open the Correct tab, paint over what is wrong, accept what is right.")

Opening = Callable[[], Generator[Progress, Any, list[CorrectedStack]]]


class Corrected(Protocol):
    """Corrections that are open, and their layers; `widgets.sessions.Session` is one."""

    @property
    def corrections(self) -> Corrections:
        """The corrections."""
        ...

    @property
    def layers(self) -> Any:
        """Their layers; `image` is that of the image."""
        ...


class CorrectingTab(Protocol):
    """What is asked of the Correct tab."""

    @property
    def sessions(self) -> Iterable[Corrected]:
        """All corrections that are open in this window."""
        ...

    def corrections(self) -> Corrections | None:
        """Return the corrections of the image that is chosen."""
        ...

    def judged_classes(self) -> tuple[CorrectionClass, ...]:
        """Return the classes that they tell about."""
        ...


class Material:
    """What is chosen to learn from, as the tabs stand."""

    def __init__(
        self, form: FinetuneForm, sources: SourceList, segment_tab: SegmentTab, correct_tab: CorrectingTab
    ) -> None:
        self._form, self._sources = form, sources
        self._segment_tab, self._correct_tab = segment_tab, correct_tab

    def state(self) -> Hashable:
        """Return what tells the open corrections from themselves with another stroke."""
        corrections = self._correct_tab.corrections()
        version = 0 if corrections is None else corrections.version
        return id(corrections), version, self._correct_tab.judged_classes()

    def find_sources(self) -> Iterator[Source]:
        """Yield what could be learnt from: the image that is chosen, others that are open, earlier ones."""
        present = self._correct_tab.corrections()
        keys = set()
        choices = self._segment_tab.form.read()
        if present is not None and choices.layer is not None:
            keys.add(present.subject.key)
            yield from _open(choices.layer, choices.axes, present, is_present=True)
        for session in self._correct_tab.sessions:
            if session.corrections.subject.key not in keys:
                keys.add(session.corrections.subject.key)
                image = session.layers.image
                yield from _open(image, axes_of(image), session.corrections, is_present=False)
        yield from earlier_sources(keys)

    def labels(self) -> tuple[ClassLabel, ...]:
        """Return the classes that are learnt: those that the image's corrections tell about, else all of the others."""
        sources = self._sources.chosen()
        if any(source.is_present for source in sources):
            return tuple(ClassLabel(each.name, each.value) for each in self._correct_tab.judged_classes())
        names = dict.fromkeys(each.name for source in sources for each in source.classes)
        return tuple(ClassLabel(name, value) for value, name in enumerate(names, start=FIRST_CLASS))

    def fault(self) -> str:
        """Return why nothing can be learnt, empty where it can; mark the fields that are wrong."""
        faults, sources = self._form.find_faults(), self._sources.chosen()
        if not self._sources.count():
            return NOTHING
        if faults:
            return next(iter(faults.values()))
        if not sources:
            return Missing("Tick at least one image to learn from.")
        names = [label.name for label in self.labels()]
        if not names:
            return Missing("Tick a class in the Correct tab that is to be learnt.")
        if unnamed := self._unnamed(names):
            return f"Name the new class '{unnamed}' first: double-click its name in the Correct tab."
        for source in sources:
            if not any(each.name in names for each in source.classes):
                missing = ", ".join(names)
                return f"The corrections of '{source.name}' hold nothing of {missing}: clear its tick in the list."
        return ""

    def _unnamed(self, names: list[str]) -> str:
        """Return the first class that would come into the new model without anybody having named it."""
        model = self._form.read().model
        known = () if model is None else model.class_names
        return next((name for name in names if is_unnamed(name) and name not in known), "")

    def settings(self, name: str | None = None) -> FinetuneSettings:
        """Return the engine's settings; `name` in place of the new model's.

        Raises:
            SpecError: something is impossible.
        """
        images = tuple(source.name for source in self._sources.chosen())
        return self._form.read().settings(images, self.labels(), name)

    def version(self) -> Hashable:
        """Return what tells the chosen corrections from others, and from themselves with another stroke."""
        return tuple((source.key, source.version) for source in self._sources.chosen())

    def opening(self) -> Opening:
        """Return what opens the chosen images with their corrections, beside the window."""
        sources, labels = self._sources.chosen(), self.labels()
        model, channel = self._form.read().model, self._segment_tab.form.read().channel

        def iter_open() -> Generator[Progress, Any, list[CorrectedStack]]:
            if model is None:
                raise ValueError("there is no model")
            return (yield from iter_open_sources(sources, labels, model, channel))

        return iter_open


def _open(image: Image, axes: str, corrections: Corrections, is_present: bool) -> Iterator[Source]:
    """Yield the corrections of an image that is open, where there are some."""
    stack = _stack(image, axes)
    if stack is not None and corrections.summary().pixels:
        yield open_source(stack, corrections, is_present)


def _stack(image: Image, axes: str) -> Stack | None:
    try:
        return stack_of(image, axes)
    except SkipsegError:
        return None
