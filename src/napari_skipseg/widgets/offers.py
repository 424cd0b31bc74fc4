"""Earlier corrections that are offered: those of the image that is chosen, and those of a napari that broke down."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_skipseg.batch.wording import counted
from napari_skipseg.corrections.catalog import Found
from napari_skipseg.corrections.tallies import Summary
from napari_skipseg.widgets.fields import WARNING_COLOR, PlainLabel

CALM_COLOR = "rgba(99, 137, 255, 70)"


class Offer(QFrame):  # type: ignore[misc]
    """One sentence, a button for what can be done, and a cross that puts it aside."""

    def __init__(self, text: str, button: str, action: Callable[[], None] | None, color: str = CALM_COLOR) -> None:
        super().__init__()
        self.setObjectName("offer")
        self.setStyleSheet(f"QFrame#offer {{ background-color: {color}; border-radius: 4px; }}")
        self.label, self.button, self.cross = PlainLabel(text), QPushButton(button), QToolButton()
        self.label.setWordWrap(True)
        self.cross.setText("×")
        self.cross.setAutoRaise(True)
        self.cross.setToolTip("Not now: the corrections stay on disk, and are offered again")
        for widget in (self.button, self.cross):
            widget.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.is_aside, self.can_act = False, action is not None
        self.cross.clicked.connect(self._put_aside)
        self.button.setVisible(action is not None)
        if action is not None:
            self.button.clicked.connect(partial(press, action))
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


def press(action: Callable[[], None], checked: bool = False) -> None:
    """Do what a button is for."""
    action()


class Offers(QWidget):  # type: ignore[misc]
    """The offers that stand: at most one of the image, and one for each image that a lost napari left open."""

    MOST = 3
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(6)
        self._put_aside: set[str] = set()
        self.of_image: Offer | None = None
        self.interrupted: dict[str, Offer] = {}
        self.hide()

    def offer_for_image(self, key: str, text: str, button: str, action: Callable[[], None] | None) -> None:
        """Offer something about the image that is chosen, unless it was put aside."""
        if self.of_image is not None and self.of_image.property("key") == (key + text):
            return
        self.withdraw()
        if key in self._put_aside:
            return
        offer = self.of_image = Offer(text, button, action, WARNING_COLOR if action is None else CALM_COLOR)
        offer.setProperty("key", key + text)
        offer.cross.clicked.connect(partial(self._put, key))
        self._column.insertWidget(0, offer)
        self.show()

    @property
    def restores(self) -> bool:
        """Whether the image's earlier corrections are on offer."""
        return self.of_image is not None and not self.of_image.is_aside and self.of_image.can_act

    def withdraw(self) -> None:
        """Offer nothing about the image."""
        if self.of_image is not None:
            self._drop(self.of_image)
            self.of_image = None

    def offer_interrupted(self, found: Found, open_it: Callable[[], None]) -> None:
        """Offer corrections that a napari left behind which did not end as it should."""
        if len(self.interrupted) < self.MOST and found.subject.key not in self.interrupted:
            is_file = bool(found.subject.file)
            text = interrupted_text(found) + ("" if is_file else " Open it again to go on.")
            offer = Offer(text, "Open && restore", open_it if is_file else None, WARNING_COLOR)
            self.interrupted[found.subject.key] = offer
            self._column.addWidget(offer)
            self.show()

    def _put(self, key: str, checked: bool = False) -> None:
        self._put_aside.add(key)
        self.changed.emit()

    def settle(self, key: str) -> None:
        """Take out what is restored now."""
        if (offer := self.interrupted.pop(key, None)) is not None:
            self._drop(offer)

    def _drop(self, offer: Offer) -> None:
        self._column.removeWidget(offer)
        offer.hide()
        offer.deleteLater()


def restore_text(found: Found, amount: Summary | None) -> str:
    """Return what is offered for an image that was corrected earlier."""
    much = "" if amount is None else f": {in_words(amount, found.subject.axes)}"
    if found.was_interrupted:
        when = day_of(found.changed)
        return f"napari ended unexpectedly while you corrected this image ({when}){much}. All strokes are saved."
    return f"You corrected this image on {day_of(found.changed)}{much}."


def in_words(amount: Summary, axes: str) -> str:
    """Return how much was corrected, such as "1,234 pixels on 5 slices"."""
    count = sum(amount.pixels.values())
    where = "" if len(axes) == 2 else f" on {counted(amount.slices, 'slice')}"
    return f"{counted(count, 'pixel')}{where}"


def interrupted_text(found: Found) -> str:
    """Return what is said of corrections that a napari left behind which did not end as it should."""
    when = day_of(found.changed)
    return f"napari ended unexpectedly while you corrected '{found.subject.name}' ({when}). All strokes are saved."


def changed_text(found: Found) -> str:
    """Return what is said of an image whose file held other voxels when it was corrected."""
    return (
        f"The file of this image has changed since you corrected it on {day_of(found.changed)}: those corrections are "
        "kept. Export them and import them here if they still fit."
    )


def day_of(seconds: float) -> str:
    """Return a day and its time, such as "3 Nov, 14:05"."""
    then = time.localtime(seconds)
    year = "" if then.tm_year == time.localtime().tm_year else f" {then.tm_year}"
    return f"{then.tm_mday} {time.strftime('%b', then)}{year}, {time.strftime('%H:%M', then)}"
