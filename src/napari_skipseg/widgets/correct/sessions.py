"""The corrections that are open in this window, and offers to open earlier ones."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_skipseg.corrections.catalog import StoredCorrections, find_by_file, find_corrections, find_for
from napari_skipseg.corrections.saved import CorrectionSummary, LabelCounts, load_saved
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.files import is_there
from napari_skipseg.images.identity import identify
from napari_skipseg.images.stack import Stack
from napari_skipseg.widgets.correct.layers import CorrectionLayers
from napari_skipseg.widgets.forms.fields import WARNING_COLOR, ConnectionGroup, PlainLabel, call_action, fill_column
from napari_skipseg.widgets.forms.job_tab import pop_up
from napari_skipseg.widgets.forms.worker import WorkOutcome, first_line_of, in_one_step, start_work
from napari_skipseg.widgets.layers.axes import axes_of
from napari_skipseg.widgets.layers.files import open_image, opened_from
from napari_skipseg.widgets.layers.results import stack_of_layer
from napari_skipseg.widgets.segment.checks import SegmentFormValues, find_faults
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_skipseg.widgets.segment.checks import SegmentFormValues


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
            self.links.tie(layer.events.data, lambda event: self.forget(layer))
            self.links.tie(layer.events.data, lambda event: self.known.emit())
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

        work = in_one_step("looking for corrections", partial(_look_for_corrections, stack))
        start_work(self, work, "Looking for corrections", on_outcome=on_outcome, on_end=on_end, is_quiet=True)


def corrected_stack(layer: Image, axes: str) -> Stack:
    """Return the stack of an image layer, with the file that napari read it from if it is known.

    Raises:
        SkipsegError: as `stack_of_layer`.
    """
    stack = stack_of_layer(layer, axes)
    path = "" if stack.file else opened_from(layer)
    there = bool(path) and is_there(path)
    return replace(stack, file=os.path.abspath(path)) if there else stack  # noqa: PTH100  # as `find_by_file` does


def _look_for_corrections(stack: Stack) -> KnownImage:
    key = identify(stack)
    found = find_for(key)
    before = find_by_file(stack.file) if stack.file and found is None else None
    amount = None
    if found is not None and not found.is_open and not found.is_empty:
        with contextlib.suppress(OSError, SkipsegError):  # opening the corrections will say what is wrong
            amount = LabelCounts(*load_saved(found.folder, found.subject.shape).arrays).summary()
    return KnownImage(key, found, before, amount)


CALM_COLOR = "rgba(99, 137, 255, 70)"


class RecoveryOffer(QFrame):  # type: ignore[misc]
    """One sentence, a button with the action, and a cross that puts the offer aside."""

    def __init__(self, text: str, button: str, action: Callable[[], None] | None, color: str = CALM_COLOR) -> None:
        super().__init__()
        self.setObjectName("offer")
        self.setStyleSheet(f"QFrame#offer {{ background-color: {color}; border-radius: 4px; }}")
        self.label, self.button, self.cross = PlainLabel(text), QPushButton(button), QToolButton()
        self.label.setWordWrap(True)
        self.cross.setText("×")
        self.cross.setAutoRaise(True)
        self.cross.setAccessibleName("Not now")
        self.cross.setToolTip("Not now: the corrections stay on disk, and are offered again")
        for widget in (self.button, self.cross):
            widget.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.is_aside, self.can_act = False, action is not None
        self.cross.clicked.connect(self._put_aside)
        self.button.setVisible(action is not None)
        if action is not None:
            self.button.clicked.connect(partial(call_action, action))
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 6, 6, 6)
        column.setSpacing(4)
        top = QHBoxLayout()
        top.addWidget(self.label, 1)
        top.addWidget(self.cross, 0, Qt.AlignmentFlag.AlignTop)
        column.addLayout(top)
        column.addWidget(self.button)

    def _put_aside(self, checked: bool = False) -> None:
        self.is_aside = True
        self.hide()


class RecoveryPrompt(QWidget):  # type: ignore[misc]
    """The present offers: at most one of the chosen image, and one for each image of an interrupted session."""

    MOST = 3
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._column = fill_column(self, spacing=6)
        self._put_aside: set[str] = set()
        self.of_image: RecoveryOffer | None = None
        self.interrupted: dict[str, RecoveryOffer] = {}
        self.hide()

    def offer_for_image(self, key: str, text: str, button: str, action: Callable[[], None] | None) -> None:
        """Offer an action for the chosen image, unless the offer was put aside."""
        if self.of_image is not None and self.of_image.property("key") == (key + text):
            return
        self.withdraw()
        if key in self._put_aside:
            return
        offer = self.of_image = RecoveryOffer(text, button, action, WARNING_COLOR if action is None else CALM_COLOR)
        offer.setProperty("key", key + text)
        offer.cross.clicked.connect(lambda: self._put_aside.add(key))
        offer.cross.clicked.connect(self.changed)
        self._column.insertWidget(0, offer)
        self.show()

    @property
    def restores(self) -> bool:
        """Whether the image's earlier corrections are on offer."""
        return self.of_image is not None and not self.of_image.is_aside and self.of_image.can_act

    def withdraw(self) -> None:
        """Remove the offer of the image."""
        if self.of_image is not None:
            self._drop(self.of_image)
            self.of_image = None

    def offer_interrupted(self, found: StoredCorrections, open_it: Callable[[], None]) -> None:
        """Offer the corrections of an interrupted session."""
        if len(self.interrupted) < self.MOST and found.subject.key not in self.interrupted:
            is_file = bool(found.subject.file)
            text = interrupted_text(found) + ("" if is_file else " Open it again to go on.")
            offer = RecoveryOffer(text, "Open && restore", open_it if is_file else None, WARNING_COLOR)
            self.interrupted[found.subject.key] = offer
            self._column.addWidget(offer)
            self.show()

    def settle(self, key: str) -> None:
        """Remove the offer of corrections that are restored now."""
        if (offer := self.interrupted.pop(key, None)) is not None:
            self._drop(offer)

    def _drop(self, offer: RecoveryOffer) -> None:
        self._column.removeWidget(offer)
        offer.hide()
        offer.deleteLater()


def restore_text(found: StoredCorrections, amount: CorrectionSummary | None) -> str:
    """Return the text of the offer for an image that was corrected earlier."""
    much = "" if amount is None else f": {describe_session(amount, found.subject.space.axes)}"
    if found.was_interrupted:
        when = day_of(found.changed)
        return f"napari ended unexpectedly while you corrected this image ({when}){much}. All strokes are saved."
    return f"You corrected this image on {day_of(found.changed)}{much}."


def describe_session(amount: CorrectionSummary, axes: str) -> str:
    """Return how much was corrected, such as "1,234 pixels on 5 slices"."""
    count = sum(amount.pixels.values())
    where = "" if len(axes) == 2 else f" on {counted(amount.slices, 'slice')}"
    return f"{counted(count, 'pixel')}{where}"


def interrupted_text(found: StoredCorrections) -> str:
    """Return the text of the offer for an interrupted session."""
    when = day_of(found.changed)
    return f"napari ended unexpectedly while you corrected '{found.subject.name}' ({when}). All strokes are saved."


def changed_text(found: StoredCorrections) -> str:
    """Return the text about an image that was corrected before its file changed."""
    return (
        f"The file of this image has changed since you corrected it on {day_of(found.changed)}: those corrections are "
        "kept. Export them and import them here if they still fit."
    )


def day_of(seconds: float) -> str:
    """Return a day and its time, such as "3 Nov, 14:05"."""
    then = time.localtime(seconds)
    year = "" if then.tm_year == time.localtime().tm_year else f" {then.tm_year}"
    return f"{then.tm_mday} {time.strftime('%b', then)}{year}, {time.strftime('%H:%M', then)}"


def lost_text(lost: Sequence[StoredCorrections]) -> str:
    """Return the notification about all interrupted sessions; it names the latest."""
    latest = max(lost, key=lambda found: found.changed)
    more = f" and {counted(len(lost) - 1, 'other image')}" if len(lost) > 1 else ""
    return (
        f"napari ended while you painted on '{latest.subject.name}' ({day_of(latest.changed)}){more}: restore the "
        "corrections in the Correct tab."
    )


class SessionReopener(QObject):  # type: ignore[misc]
    """Offers earlier corrections, and opens the file of those that an interrupted napari left behind.

    restore_requested: the user wants the corrections of the image that is chosen.
    image_opened: the layer of an interrupted session's image, which is open and known now.
    failed: why a file cannot be opened, or that it holds a different image now.
    """

    restore_requested = Signal()
    image_opened = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: ViewerModel, identities: ImageHashes, offers: RecoveryPrompt) -> None:
        super().__init__(offers)
        self._viewer, self._identities, self._offers = viewer, identities, offers
        self._key = ""
        self._opened: list[Image] = []

    def update_offer(self, choices: SegmentFormValues, can_be_corrected: bool, is_open: bool) -> None:
        """Offer the earlier corrections of the image that is chosen, if there are any and none are open."""
        layer, offers = choices.layer, self._offers
        # this is done for open corrections too: it notices that the image got different voxels
        known = self._identities.find(layer, choices.axes) if layer is not None and can_be_corrected else None
        if known is None or is_open:
            offers.withdraw()
        elif known.found is not None and not known.found.is_empty and not known.found.is_open:
            offers.settle(known.key)
            text = restore_text(known.found, known.amount)
            offers.offer_for_image(known.key, text, "Restore", self.restore_requested.emit)
        elif known.before is not None and not known.before.is_empty:
            offers.offer_for_image(known.key, changed_text(known.before), "", None)
        else:
            offers.withdraw()

    def find_interrupted(self) -> None:
        """Search for corrections that an interrupted napari left behind, and offer them."""

        def find() -> list[StoredCorrections]:
            return [
                each for each in find_corrections() if each.was_interrupted and not each.is_open and not each.is_empty
            ]

        def on_outcome(outcome: WorkOutcome) -> None:
            lost: list[StoredCorrections] = outcome.value or []
            for found in lost:
                self._offers.offer_interrupted(found, partial(self.open, found))
            if lost:
                pop_up(lost_text(lost), "Strokes to restore in Correct.")

        work = in_one_step("looking for corrections", find)
        start_work(self, work, "Looking for corrections", on_outcome=on_outcome, is_quiet=True)

    def open(self, found: StoredCorrections) -> None:
        """Open the image of an interrupted session."""
        from napari.layers import Image

        name = found.subject.file
        try:
            layers = open_image(self._viewer, name)
        except (OSError, ValueError, RuntimeError, SkipsegError) as error:
            self.failed.emit(
                f"'{name}' cannot be opened: open the image from where it is now. ({first_line_of(error)})"
            )
            return
        self._key, self._opened = found.subject.key, [layer for layer in layers if isinstance(layer, Image)]
        self.on_image_known()

    def on_image_known(self) -> None:
        """Emit the layer of the interrupted session as soon as the content of the opened layers is known."""
        if not self._key:
            return
        there = [layer for layer in self._opened if layer in self._viewer.layers]
        known = [(layer, self._identities.find(layer, axes_of(layer))) for layer in there]
        same = [layer for layer, each in known if each is not None and each.key == self._key]
        if same:
            self._key = ""
            self.image_opened.emit(same[0])
        elif all(each is not None for _, each in known):
            self._key = ""
            self.failed.emit("This file now holds a different image. The corrections are kept, and can be exported.")


@dataclass(frozen=True)
class OpenCorrections:
    """The corrections that are open in the window, at the time of each call.

    chosen: those of the image in the Segment tab. judged_classes: the classes that these judge. all: images with their
    corrections. can_restore: the Correct tab offers earlier corrections of the image in the Segment tab.
    """

    chosen: Callable[[], Corrections | None]
    judged_classes: Callable[[], tuple[CorrectionClass, ...]]
    all: Callable[[], Iterable[tuple[Image, Corrections]]]
    can_restore: Callable[[], bool]
