"""A field for the smallest or the largest size of an object: in voxels, and what that is in the image's unit."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QSlider, QSpinBox, QVBoxLayout, QWidget

from napari_skipseg.widgets.fields import PlainLabel

NOTE = "QLabel { font-size: 8pt; }"
TENS = 1000
"""A size from which on it is written in whole numbers."""
DECADE = 30
"""Steps of the slider for ten times the size."""
MOST = 10**9
"""The largest number that can be typed: the same for all fields, so that their sliders are equally long."""


class SizeField(QWidget):  # type: ignore[misc]
    """A slider over all sizes, a tenfold in the same way everywhere; the number beside it, and its meaning below.

    told: what a size means, with {} in its place; free: what 0 means. decades: powers of ten that the slider spans.
    """

    changed = Signal()

    def __init__(self, told: str, free: str, decades: int) -> None:
        super().__init__()
        self._told, self._free, self._steps = told, free, decades * DECADE
        self._voxel = (1.0, "")
        self.slider, self.number, self.note = QSlider(Qt.Orientation.Horizontal), QSpinBox(), PlainLabel()
        self.slider.setRange(0, self._steps)
        self.number.setRange(0, MOST)
        self.number.setKeyboardTracking(False)
        self.number.setStyleSheet("QSpinBox { min-width: 56px; }")
        self.note.setStyleSheet(NOTE)
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.number)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addLayout(row)
        column.addWidget(self.note)
        self.slider.valueChanged.connect(lambda step: self.number.setValue(size_at(step)))
        self.number.valueChanged.connect(self._follow)
        self._say()

    def value(self) -> int:
        """Return the size in voxels."""
        return int(self.number.value())

    def set_value(self, size: int) -> None:
        """Show another size."""
        self.number.setValue(size)

    def set_voxel(self, size: float, unit: str) -> None:
        """Say what a voxel is: so much of a unit, "" where that is not known."""
        self._voxel = size, unit
        self._say()

    def _follow(self, size: int) -> None:
        if size_at(self.slider.value()) != size:
            self.slider.blockSignals(True)
            self.slider.setValue(min(range(self._steps + 1), key=lambda step: abs(size_at(step) - size)))
            self.slider.blockSignals(False)
        self._say()
        self.changed.emit()

    def _say(self) -> None:
        size, (voxel, unit) = self.value(), self._voxel
        total = size * voxel
        measure = f" = {total:,.0f} {unit}" if total >= TENS else f" = {total:.4g} {unit}"
        voxels = f"{size:,} voxel{'' if size == 1 else 's'}{measure if unit else ''}"
        self.note.setText(self._told.format(voxels) if size else self._free)


def size_at(step: int) -> int:
    """Return the number of voxels at a step of the slider: 0, then 1, and ten times as many each `DECADE` steps."""
    return round(10 ** (step / DECADE)) if step else 0
