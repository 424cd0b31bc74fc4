"""Parts of the Segment form: options, thresholds, suggested models, and the layer that the user selects."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QGridLayout, QPushButton, QSizePolicy, QWidget

from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.suggest import Suggestion, Suggestions
from napari_skipseg.option_fields import option_fields
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.widgets.forms.fields import (
    Collapsible,
    ConnectionGroup,
    KeyedSlider,
    PlainLabel,
    WrappedLine,
    fill_column,
)
from napari_skipseg.widgets.forms.option_rows import OptionRows

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


class SelectedLayers(QObject):  # type: ignore[misc]
    """Emits `chosen` for a layer that the user selects.

    napari selects layers itself, too: a new one when it is added, and one beside a layer that is removed. These are not
    emitted. Both happen within one turn of the event loop, so a selection counts if it still stands after it.
    """

    chosen = Signal(object)

    def __init__(self, owner: QObject, viewer: ViewerModel, links: ConnectionGroup) -> None:
        super().__init__(owner)
        self._viewer = viewer
        self._candidate: Layer | None = None
        self._list_changed = False
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.timeout.connect(self._settle)
        links.tie(viewer.layers.events.inserted, self._on_list_changed)
        links.tie(viewer.layers.events.removed, self._on_list_changed)
        links.tie(viewer.layers.selection.events.active, self._on_active)

    def _on_list_changed(self, event: Any) -> None:
        self._list_changed = True
        self._settling.start(0)

    def _on_active(self, event: Any) -> None:
        self._candidate = event.value
        self._settling.start(0)

    def _settle(self) -> None:
        layer, list_changed = self._candidate, self._list_changed
        self._candidate, self._list_changed = None, False
        if layer is not None and not list_changed and self._viewer.layers.selection.active is layer:
            self.chosen.emit(layer)


HINT = "Probability above which a voxel is set in the binary layer; moving it is instant"


class ThresholdSliders(QWidget):  # type: ignore[misc]
    """A slider for each class, with its name beside it if there are several. moved: a threshold changed."""

    moved = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(1, 1)
        self.sliders: dict[str, KeyedSlider] = {}
        self.labels: dict[str, PlainLabel] = {}
        self.setToolTip(HINT)
        self.offer({"": DEFAULT_THRESHOLD})

    def offer(self, own: Mapping[str, float]) -> None:
        """Show a slider for each class of a model, at its own threshold. own: these thresholds."""
        before = self.values()
        old: tuple[QWidget, ...] = (*self.sliders.values(), *self.labels.values())
        for each in old:
            self._grid.removeWidget(each)
            each.hide()
            each.deleteLater()
        self.sliders, self.labels = {}, {}
        for row, (name, value) in enumerate(own.items()):
            slider = self.sliders[name] = KeyedSlider(1.0, 0.01, value)
            slider.setToolTip(f"{HINT}. The model's own: {value:.2f}" + (f" ({name})" if len(own) > 1 else ""))
            slider.setAccessibleName(f"Threshold of {name}" if name else "Threshold")
            slider.valueChanged.connect(self.moved)
            if len(own) > 1:
                label = self.labels[name] = PlainLabel(name)
                label.setToolTip(name)
                label.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Preferred)
                label.setMaximumWidth(110)
                self._grid.addWidget(label, row, 0)
            self._grid.addWidget(slider, row, 1)
        self.setFocusProxy(next(iter(self.sliders.values())))
        if before and self.values() != before:
            self.moved.emit()

    def values(self) -> dict[str, float]:
        """Return the threshold of each class by its name."""
        return {name: float(slider.value()) for name, slider in self.sliders.items()}

    def show_values(self, thresholds: Mapping[str, float]) -> None:
        """Show thresholds by class; others stay."""
        for name, value in thresholds.items():
            if name in self.sliders:
                self.sliders[name].setValue(value)

    def value(self) -> float:
        """Return the threshold of the first class."""
        return next(iter(self.values().values()))

    def setValue(self, value: float) -> None:  # noqa: N802
        """Show one threshold for all classes."""
        self.show_values(dict.fromkeys(self.sliders, value))


SUGGEST_HINT = (
    "Try all models on what is on screen and list those that suit it, with reasons. A few strokes in the Correct tab "
    "decide, if a model knows their class"
)

MOST_SHOWN = 3


_CHOICE = "QPushButton { text-align: left; padding: 3px; }"


class SuggestionList(QWidget):  # type: ignore[misc]
    """Suggested models, with a button and a line of reasons for each.

    chosen: emitted with the `Suggestion` that is clicked.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._column = fill_column(self, spacing=2)
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
        line = WrappedLine(is_note=True)
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


ELSEWHERE = ("device", "threshold", "class_threshold", "channel", "rescale", "attention", "seed", "box", "mask")
"""Options that have a place of their own in the form, or none."""


class SegmentOptionsBox(Collapsible):
    """Rarely changed options: a row for each option without a place of its own. edited: the user changed one."""

    edited = Signal()

    def __init__(self, options: type = SegmentOptions) -> None:
        super().__init__("Options")
        self.rows = OptionRows(each for name, each in option_fields(options).items() if name not in ELSEWHERE)
        self.tile, self.average, self.planes = (self.rows.field(name) for name in ("tile", "average", "planes"))
        self.samples, self.dropout = self.rows.field("samples"), self.rows.field("dropout")
        self.padding, self.invert = self.rows.field("padding"), self.rows.field("invert")
        self.dropout.setEnabled(False)
        self.samples.valueChanged.connect(lambda samples: self.dropout.setEnabled(samples > 0))
        self.rows.edited.connect(self._on_edited)
        self.fill(self.rows)

    def _on_edited(self) -> None:
        self.note_changes(len(self.rows.changed_values()))
        self.edited.emit()

    def offer_planes(self, offered: bool) -> None:
        """Show the choice of planes, or hide it."""
        self.rows.show_row("planes", offered)
        self.fit()
