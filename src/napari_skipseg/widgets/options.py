"""The folded-away options of the Segment tab: tile, mirrored copies, Monte Carlo samples and their dropout."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QIcon, QPixmap
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget
from superqt import QCollapsible

from napari_skipseg.widgets.fields import mark

FLAT = "QPushButton, QPushButton:checked { text-align: left; border: none; background: transparent; padding: 3px 0px; }"
HINTS = {
    "tile": "Longest side of a tile in voxels; smaller tiles need less memory",
    "flips": "Test-time flips: a little better, 4 times slower in 2D and 8 times in 3D",
    "samples": "Passes with dropout on: probability is their mean, uncertainty their standard deviation; on torch, and "
    "as many times slower",
    "dropout": "Share of the features that each sample leaves out",
}


class OptionsFold(QCollapsible):  # type: ignore[misc]
    """What few people change. `edited` says that one of the fields was."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__("▸ Options", expandedIcon=_no_icon(), collapsedIcon=_no_icon())
        self.tile, self.flips = QSpinBox(), QCheckBox("average mirrored copies")
        self.tile.setRange(0, 8192)
        self.tile.setSingleStep(32)
        self.tile.setSpecialValueText("auto")
        self.samples, self.dropout = QSpinBox(), QDoubleSpinBox()
        self.samples.setRange(0, 1000)
        self.samples.setSingleStep(10)
        self.samples.setKeyboardTracking(False)  # the 1 of a 10 that is being typed is no fault
        self.samples.setSpecialValueText("off")
        self.dropout.setRange(0.0, 0.95)
        self.dropout.setSingleStep(0.05)
        self.dropout.setSpecialValueText("as trained")
        self.dropout.setEnabled(False)
        self._lay_out()
        self.mark({})
        for signal in (self.tile.valueChanged, self.flips.toggled, self.dropout.valueChanged):
            signal.connect(self._tell)
        self.samples.valueChanged.connect(self._follow_samples)

    def _lay_out(self) -> None:
        inner = QWidget()
        rows = QFormLayout(inner)
        rows.setContentsMargins(12, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Tile", self.tile)
        rows.addRow("Flips", self.flips)
        rows.addRow("Monte Carlo samples", self.samples)
        rows.addRow("Dropout rate", self.dropout)
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.toggleButton().setStyleSheet(FLAT)
        self.toggled.connect(lambda opened: self.setText(("▾" if opened else "▸") + " Options"))
        self.setDuration(0)
        self.setContent(inner)
        self.collapse(animate=False)

    def _follow_samples(self, samples: int) -> None:
        self.dropout.setEnabled(samples > 0)
        self._tell()

    def _tell(self) -> None:
        self.edited.emit()

    @property
    def rate(self) -> float | None:
        """The dropout rate, None for that of the model's training."""
        return float(self.dropout.value()) or None

    def mark(self, faults: dict[str, str]) -> None:
        """Colour the fields that are wrong, and say what each is for."""
        for name, hint in HINTS.items():
            mark(getattr(self, name), faults.get(name, ""), hint)


def _no_icon() -> QIcon:
    """Return an icon that shows nothing: superqt's own would keep the colour of the first theme."""
    pixmap = QPixmap(1, 1)
    pixmap.fill(Qt.GlobalColor.transparent)
    return QIcon(pixmap)
