"""The thresholds of the classes of the chosen model: a slider for each."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.widgets.forms.fields import KeyedSlider, PlainLabel

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
        self._own: dict[str, float] = {}
        self.sliders: dict[str, KeyedSlider] = {}
        self.labels: dict[str, PlainLabel] = {}
        self.setToolTip(HINT)
        self.offer({"": DEFAULT_THRESHOLD})

    def offer(self, own: Mapping[str, float]) -> None:
        """Show a slider for each class of a model. own: its thresholds.

        A class that the model before had too keeps the threshold that the user chose for it.
        """
        before = self.values()
        chosen = {name: value for name, value in before.items() if value != round(self._own.get(name, value), 2)}
        old: tuple[QWidget, ...] = (*self.sliders.values(), *self.labels.values())
        for each in old:
            self._grid.removeWidget(each)
            each.hide()
            each.deleteLater()
        self._own, self.sliders, self.labels = dict(own), {}, {}
        for row, (name, value) in enumerate(own.items()):
            slider = self.sliders[name] = KeyedSlider(1.0, 0.01, chosen.get(name, value))
            slider.setToolTip(HINT if len(own) == 1 else f"{HINT} ({name})")
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
