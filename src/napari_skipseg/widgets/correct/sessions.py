"""The corrections that are open in this window, one session for each image content, closed with the window."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from napari_skipseg.corrections.catalog import StoredCorrections, find_by_file, find_for
from napari_skipseg.corrections.saved import CorrectionSummary, LabelCounts, load_saved
from napari_skipseg.corrections.store import Corrections, open_corrections
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.files import is_there
from napari_skipseg.images.identity import identify
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.correct.layers import CorrectionLayers
from napari_skipseg.widgets.forms.fields import ConnectionGroup
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work
from napari_skipseg.widgets.layers.files import opened_from
from napari_skipseg.widgets.layers.results import stack_of_layer
from napari_skipseg.widgets.segment.checks import SegmentFormValues, find_faults

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


_BETWEEN = (
    "The channels of '{}' lie between its other axes: open it with each channel as a layer (viewer.add_image with "
    "channel_axis={})."
)


@dataclass
class CorrectionSession:
    """Open corrections and their layers."""

    corrections: Corrections
    layers: CorrectionLayers

    @property
    def key(self) -> str:
        """The key of the image's content."""
        return self.corrections.subject.key


class CorrectionSessions:
    """The open sessions, by the key of their image."""

    def __init__(self) -> None:
        self._open: dict[str, CorrectionSession] = {}

    def __iter__(self) -> Generator[CorrectionSession, None, None]:
        yield from self._open.values()

    def keep(self, session: CorrectionSession) -> None:
        """Add a session that was opened."""
        self._open[session.key] = session

    def find(self, key: str) -> CorrectionSession | None:
        """Return the session of an image content, None if there is none."""
        return self._open.get(key)

    def find_of(self, image: Image | None) -> CorrectionSession | None:
        """Return the session whose layers lie over an image layer, None if there is none."""
        return next((session for session in self if session.layers.image is image), None)

    def take_out(self, session: CorrectionSession) -> None:
        """Remove a session that is being closed."""
        self._open.pop(session.key, None)

    def abandoned(self, viewer: ViewerModel) -> list[CorrectionSession]:
        """Return the sessions whose image and strokes were both removed from the viewer."""
        return [each for each in self if each.layers.image not in viewer.layers and not each.layers.is_shown]

    def close_all(self) -> None:
        """Write all corrections to disk and close them."""
        for session in list(self):
            session.layers.cut()
            self.take_out(session)
            with contextlib.suppress(SkipsegError):  # what was painted is in the journal
                session.corrections.close()


def find_correcting_fault(choices: SegmentFormValues) -> str:
    """Return why the image cannot be corrected, "" if it can."""
    faults = find_faults(choices)
    wrong = [faults[field] for field in ("image", "axes") if field in faults]
    if not wrong and choices.axes.find("C") > 0 and choices.layer is not None:
        wrong = [_BETWEEN.format(choices.layer.name, choices.axes.index("C"))]
    return wrong[0] if wrong else ""


def iter_open(stack: Stack, key: str) -> Generator[Progress, None, Corrections]:
    """Open the corrections of an image and return them.

    Raises:
        SkipsegError: they are open in another window, or cannot be written.
    """
    yield Progress(0, 1, "opening the corrections")
    return open_corrections(stack, key)


def iter_close(session: CorrectionSession) -> Generator[Progress, None, None]:
    """Write the corrections into their chunks and close them."""
    yield Progress(0, 1, "storing the corrections")
    session.corrections.close()


@dataclass(frozen=True)
class KnownImage:
    """The key of an image's content, and its corrections.

    found: the corrections of this content. before: if there are none, those of an earlier content of the same file.
    amount: how much was corrected.
    """

    key: str
    found: StoredCorrections | None
    before: StoredCorrections | None
    amount: CorrectionSummary | None = None


class ImageHashes(QObject):  # type: ignore[misc]
    """What each image is, by a hash of its voxels. known: emitted when one more is known, or cannot be."""

    known = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.links = ConnectionGroup()
        self._known: dict[tuple[str, str], KnownImage] = {}
        self._faults: dict[str, str] = {}
        self._at_work: set[tuple[str, str]] = set()
        self._watched: set[str] = set()

    def find(self, layer: Image, axes: str) -> KnownImage | None:
        """Return what is known of an image with such axes; None while that is not known: `known` is emitted then."""
        place = str(layer.unique_id), axes
        if place in self._known:
            return self._known[place]
        if place not in self._at_work and place[0] not in self._faults:
            self._ask(layer, axes, place)
        return None

    def fault(self, layer: Image | None) -> str:
        """Return why an image cannot be read, "" if it can."""
        return "" if layer is None else self._faults.get(str(layer.unique_id), "")

    def forget(self, layer: Image) -> None:
        """Identify an image again when it is needed next."""
        source = str(layer.unique_id)
        self._faults.pop(source, None)
        self._known = {place: known for place, known in self._known.items() if place[0] != source}

    def _ask(self, layer: Image, axes: str, place: tuple[str, str]) -> None:
        if place[0] not in self._watched:
            self._watched.add(place[0])
            self.links.tie(layer.events.data, lambda event: self._forget_soon(layer))
        try:
            stack = corrected_stack(layer, axes)
        except SkipsegError as error:
            self._faults[place[0]] = str(error)
            QTimer.singleShot(0, self.known.emit)
            return
        self._at_work.add(place)
        data = layer.data

        def on_outcome(outcome: WorkOutcome) -> None:
            if outcome.fault:
                self._faults[place[0]] = outcome.fault
            elif isinstance(outcome.value, KnownImage) and layer.data is data:
                self._known[place] = outcome.value

        def on_end() -> None:
            self._at_work.discard(place)
            self.known.emit()

        start_work(
            self,
            partial(_iter_look, stack),
            "Looking for corrections",
            lambda _: None,
            on_outcome,
            on_end,
            is_quiet=True,
        )

    def _forget_soon(self, layer: Image) -> None:
        self.forget(layer)
        self.known.emit()


def corrected_stack(layer: Image, axes: str) -> Stack:
    """Return the stack of an image layer, with the file that napari read it from if it is known.

    Raises:
        SkipsegError: as `stack_of_layer`.
    """
    stack = stack_of_layer(layer, axes)
    path = "" if stack.file else opened_from(layer)
    there = bool(path) and is_there(path)
    return replace(stack, file=os.path.abspath(path)) if there else stack  # noqa: PTH100  # as `find_by_file` asks


def _iter_look(stack: Stack) -> Generator[Progress, None, KnownImage]:
    yield Progress(0, 1, "looking for corrections")
    key = identify(stack)
    found = find_for(key)
    before = find_by_file(stack.file) if stack.file and found is None else None
    amount = None
    if found is not None and not found.is_open and not found.is_empty:
        with contextlib.suppress(OSError, SkipsegError):  # opening the corrections will say what is wrong
            amount = LabelCounts(*load_saved(found.folder, found.subject.shape).arrays).summary()
    return KnownImage(key, found, before, amount)
