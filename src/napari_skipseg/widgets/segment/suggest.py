"""The short list of models that suit the image in view, shown below the choice of the model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_skipseg.images.intensity.normalize import iter_measure_greys
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.suggest import PART_SEEN, Suggestion, Suggestions, SuggestView
from napari_skipseg.jobs.messages import Suggest
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.engine_queue import EngineLike
from napari_skipseg.widgets.forms.fields import WrappedLine
from napari_skipseg.widgets.layers.placement import visible_box
from napari_skipseg.widgets.layers.results import data_of, stack_of_layer
from napari_skipseg.widgets.segment.checks import SegmentFormValues, needs_channel

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

SUGGEST_HINT = (
    "Try all models on what is on screen and list those that suit it, with reasons. A few strokes in the Correct tab "
    "decide, if a model knows their class"
)
MOST_SHOWN = 3
_NOTE = "QLabel { font-size: 8pt; }"
_CHOICE = "QPushButton { text-align: left; padding: 3px; }"

Spans = dict[str, slice]
StrokesIn = Callable[["Image", Spans], tuple[NDArray[np.uint8], tuple[str, ...]] | None]
"""Returns the strokes (Y, X) over a part of an image, 1 = background, 2 and more = the classes, and their names."""


class SuggestionList(QWidget):  # type: ignore[misc]
    """Suggested models, with a button and a line of reasons for each.

    chosen: emitted with the `Suggestion` that is clicked.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        self.buttons: list[QPushButton] = []
        self.hide()

    def show_suggestions(self, found: Suggestions) -> None:
        """Show the best suggestions in place of earlier ones."""
        self.clear()
        if found.note:
            self._add(None, found.note)
        for each in found.ranked[:MOST_SHOWN]:
            button = QPushButton(f"Use {each.model}{', rescaled' if each.rescale else ''}")
            button.setStyleSheet(_CHOICE)
            button.clicked.connect(partial(self._choose, each))
            self._add(button, ". ".join(reason[:1].upper() + reason[1:] for reason in each.reasons) + ".")
            self.buttons.append(button)
        if not found.ranked:
            reasons = "; ".join(f"{name} {reason}" for name, reason in found.left_out.items())
            self._add(None, f"No model suits this image: {reasons}." if reasons else "There is no model.")
        self.show()

    def _choose(self, suggestion: Suggestion) -> None:
        self.clear()
        self.chosen.emit(suggestion)

    def _add(self, button: QPushButton | None, text: str) -> None:
        line = WrappedLine()
        line.setStyleSheet(_NOTE)
        line.setText(text)
        for widget in (button, line):
            if widget is not None:
                self._column.addWidget(widget)

    def clear(self) -> None:
        """Remove all suggestions."""
        self.buttons = []
        while (item := self._column.takeAt(0)) is not None:
            item.widget().deleteLater()
        self.hide()


def iter_suggest_for(
    viewer: ViewerModel, engine: EngineLike, choices: SegmentFormValues, strokes_in: StrokesIn
) -> Callable[[], Generator[Progress, Any, Suggestions]]:
    """Return work that ranks the models on what is on screen.

    Raises:
        SkipsegError: as `stack_of_layer`.
    """
    layer = choices.layer
    if layer is None:
        raise ValueError("no image is chosen")
    stack = stack_of_layer(layer, choices.axes)
    stack = stack.channel(choices.channel) if needs_channel(choices) and choices.channel is not None else stack
    shown = dict(zip(choices.axes, visible_box(viewer, layer), strict=True))
    lengths = dict(zip(choices.axes, data_of(layer).shape, strict=False))
    spans: Spans = {}
    for axis, (low, high) in shown.items():
        most = {"Z": PART_SEEN[3][0], "Y": PART_SEEN[2][0], "X": PART_SEEN[2][0]}.get(axis, 1)
        if axis != "C":
            start = max(0, min((low + high + 1) // 2 - most // 2, int(lengths[axis]) - most))
            spans[axis] = slice(start, min(start + most, int(lengths[axis])))
    at = (shown["Z"][0] + shown["Z"][1]) // 2 if "Z" in shown else 0
    strokes = strokes_in(layer, {**spans, "Z": slice(at, at + 1)})

    def work() -> Generator[Progress, Any, Suggestions]:
        greys = yield from iter_measure_greys(stack)
        labels, names = (None, ()) if strokes is None else strokes
        pixels = _read(stack, spans)
        slice_at = at - spans["Z"].start if "Z" in spans else 0
        space = stack.space.with_axes("CZYX")
        view = SuggestView(pixels, space, greys.normalization, slice_at, labels, names)
        return (yield from engine.run(Suggest(view, choices.device)))

    return work


def _read(stack: Stack, spans: Spans) -> NDArray[Any]:
    """Return a part of a stack as (C, Z, Y, X)."""
    axes = stack.space.axes
    values = stack.read(tuple(spans.get(axis, slice(None)) for axis in axes))
    order = [axes.index(axis) for axis in "TCZYX" if axis in axes]
    missing = tuple(number for number, axis in enumerate("TCZYX") if axis not in axes)
    found: NDArray[Any] = np.expand_dims(values.transpose(order), missing)[0]
    return found
