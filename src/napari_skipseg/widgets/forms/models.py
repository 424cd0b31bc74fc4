"""Models in forms: the choice of one, its card, and pictures of the patches that are stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QDialog, QGridLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget
from safetensors import SafetensorError
from safetensors.numpy import load

from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.models.catalog import describe_model, find_models
from napari_skipseg.models.description import ModelDescription, card_facts, license_mark
from napari_skipseg.models.folder import DESCRIPTION_FILE, read_description, read_sample
from napari_skipseg.widgets.forms.fields import FreshCombo, RichLabel, ScrolledDown, fill_column, set_hint

NO_MODEL = "There is no model: train one with napari-skipseg train, or copy a model folder into your models."


class ModelCombo(FreshCombo):
    """A combo box of all models by name; one that does not allow every use is marked. Its list is always up to date.

    missing: the fault if there is no model.
    """

    def __init__(self, missing: str = NO_MODEL) -> None:
        super().__init__()
        self._missing = missing
        self._read: tuple[str | None, ModelDescription | None, str] = None, None, missing
        self.opening.connect(self.update_choices)

    def update_choices(self, chosen: str | None = None) -> None:
        """Offer the models that there are now, and choose one, by default the same as before; emit nothing."""
        choices: list[tuple[str, object]] = []
        for name, folder in find_models().items():
            mark = _mark_of(folder, (folder / DESCRIPTION_FILE).stat().st_mtime_ns)
            choices.append((f"{name} ({mark})" if mark else name, name))
        self.offer(choices, chosen or self.currentData())
        self._read = None, None, self._missing

    def follow_renamed(self, renamed: Mapping[str, str]) -> None:
        """Offer the models that there are now. renamed: new names by old ones, so that the same one stays chosen."""
        chosen = str(self.currentData())
        self.update_choices(renamed.get(chosen, chosen))

    @property
    def description(self) -> ModelDescription | None:
        """The description of the chosen model, None if there is none or it cannot be read."""
        return self._read_chosen()[0]

    @property
    def fault(self) -> str:
        """Why there is no description, "" if there is one."""
        return self._read_chosen()[1]

    def _read_chosen(self) -> tuple[ModelDescription | None, str]:
        name = self.currentData()
        if name != self._read[0]:
            try:
                self._read = name, describe_model(name), ""
            except SkipsegError as error:
                self._read = name, None, str(error)
        return self._read[1:]


@lru_cache(maxsize=256)
def _mark_of(folder: Path, changed_at: int) -> str:
    """Return the mark of a model; "" if it is damaged, as the form says what is wrong once it is chosen."""
    try:
        card = read_description(folder).card
    except SkipsegError:
        return ""
    return license_mark(card.license, card.terms)


LINE = QColor("#5aa9ff")
LONGEST_WORD = 24
"""Characters: a longer word, such as a hash, would make the card wider than the window beside the list."""


class CardDialog(QDialog):  # type: ignore[misc]
    """A window with the card of one model."""

    def __init__(self, description: ModelDescription, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Model card: {description.name}")
        self.text = RichLabel(card_html(description))
        self.text.setWordWrap(True)
        self.text.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.LinksAccessibleByMouse
        )
        self.text.setOpenExternalLinks(True)
        self.curves = [CurvePlot(name, points) for name, points in description.training.curves.items() if points]
        inner = QWidget()
        grid = QGridLayout()
        for number, curve in enumerate(self.curves):
            grid.addWidget(curve, number // 2, number % 2)
        fill_column(inner, self.text, grid, margin=9).addStretch(1)
        close = QPushButton("Close")
        close.clicked.connect(self.close)
        layout = QVBoxLayout(self)
        layout.addWidget(ScrolledDown(inner))
        layout.addWidget(close, 0, Qt.AlignmentFlag.AlignRight)
        self.resize(660, 680)


def card_html(description: ModelDescription) -> str:
    """Return the card as HTML: a heading, the summary, and a table of facts."""

    def breakable(text: str) -> str:
        """Return `text` with its long words shortened, and with break points at slashes."""
        parts = (word[:LONGEST_WORD] + "…" if len(word) > LONGEST_WORD else word for word in text.split(" "))
        return " ".join(parts).replace("/", "/\u200b")

    cells = "".join(
        f"<tr><td style='padding: 3px 14px 3px 0'><b>{name}</b></td><td style='padding: 3px 0'>"
        f"{escape(breakable(text)).replace(chr(10), '<br>')}</td></tr>"
        for name, text in card_facts(description).items()
    )
    return f"<h2>{escape(description.name)}</h2><p>{escape(description.card.summary)}</p><table>{cells}</table>"


class CurvePlot(QWidget):  # type: ignore[misc]
    """One training curve: values over steps, with the range of both."""

    def __init__(self, name: str, points: tuple[tuple[int, float], ...]) -> None:
        super().__init__()
        self._name, self._points = name, points
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        set_hint(self, f"{name}: {points[-1][1]:.4g} at step {points[-1][0]}")

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return a size at which two curves fit side by side."""
        return QSize(260, 140)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the frame, the range and the curve."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        height = painter.fontMetrics().height()
        frame = QRectF(self.rect()).adjusted(46, height + 6, -6, -height - 6)
        text = self.palette().windowText().color()
        painter.setPen(text)
        painter.drawText(QRectF(self.rect()), Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignHCenter, self._name)
        steps, values = [step for step, _ in self._points], [value for _, value in self._points]
        low, high = min(values), max(values)
        left = QRectF(0, frame.top(), frame.left() - 4, frame.height())
        painter.drawText(left, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignRight, f"{high:.3g}")
        painter.drawText(left, Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignRight, f"{low:.3g}")
        below = QRectF(frame.left(), frame.bottom() + 2, frame.width(), height)
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, f"step {steps[-1]}")
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, f"{steps[0]}")
        text.setAlpha(90)
        painter.setPen(text)
        painter.drawRect(frame)
        painter.setPen(QPen(LINE, 1.6))
        width, tall = max(1, steps[-1] - steps[0]), (high - low) or 1.0
        painter.drawPolyline(
            [
                QPointF(
                    frame.left() + (step - steps[0]) / width * frame.width(),
                    frame.bottom() - (value - low) / tall * frame.height(),
                )
                for step, value in self._points
            ]
        )
        painter.end()


PICTURES = 3
"""Patches that are shown."""
SIDE = 128
"""Pixels of a picture's side."""
_TINT = np.array([63, 140, 255], np.float32)


def sample_pictures(folder: Path, description: ModelDescription) -> list[NDArray[np.uint8]]:
    """Return pictures (Y, X, 3) of some patches, what is labelled in them in blue; none if the model has no patches.

    Of a volume its middle slice is shown.

    Raises:
        ModelError: the patches are damaged.
    """
    if description.sample_sha256 is None:
        return []
    try:
        arrays = load(read_sample(folder, description))
        images, targets = arrays["images"], arrays["targets"]
        dimensions = description.spec.dimensions
        if images.ndim != dimensions + 2 or targets.shape != (len(images), *images.shape[2:]):
            raise ValueError("the shapes do not fit")
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"The sample of model '{description.name}' is damaged: copy the whole folder again."
        ) from error
    middle = (images.shape[2] // 2,) if dimensions == 3 else ()
    # those with most labels say most
    counts = (targets > 0).reshape(len(targets), -1).sum(axis=1)
    chosen = np.argsort(-counts, kind="stable")[:PICTURES]
    return [_picture(images[(number, 0, *middle)], targets[(number, *middle)]) for number in chosen]


def _picture(image: NDArray[np.float16], target: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return one patch (Y, X) in grey, with its labels."""
    step = max(1, -(-max(image.shape) // SIDE))
    values, labels = image[::step, ::step].astype(np.float32), target[::step, ::step]
    low, high = np.percentile(values, (1, 99))
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)[..., None] * np.full(3, 255, np.float32)
    mixed = np.where((labels > 0)[..., None], 0.6 * grey + 0.4 * _TINT, grey)
    found: NDArray[np.uint8] = np.ascontiguousarray(mixed.astype(np.uint8))
    return found
