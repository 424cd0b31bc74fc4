"""The folded-away options of the Segment tab: tile, averages over copies or planes, Monte Carlo samples and dropout."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget

from napari_skipseg.widgets.fields import FreshCombo, mark
from napari_skipseg.widgets.folds import Fold

HINTS = {
    "tile": "Longest side of a tile in voxels; smaller tiles need less memory",
    "average": "Average the results of mirrored and turned copies of the image: a little better, and an uncertainty "
    "layer shows where the copies disagree. 4 copies are 4 times slower, 8 copies 8 times",
    "planes": "How a 2D model sees the volume: slice by slice in XY, or along all three axes, whose results are "
    "averaged. The latter suits voxels as deep as they are wide, is 3 times slower or more, and gives an uncertainty "
    "layer but no attention",
    "samples": "Passes with dropout on: the probability is their mean, the uncertainty layer their standard deviation. "
    "10 samples are 10 times slower or more: they run on torch",
    "padding": "Black frames, empty slices and other constant areas without tissue are left out of the grey values, "
    "and are background in the result. If such an area is tissue, such as resin or a lumen of one value, keep it",
    "invert": "Feed the negative of the image to the model, if dark and light are the other way round than in the "
    "images that the model was trained on",
    "dropout": "Share of the features that each sample leaves out, from 0 to 0.95",
}
AVERAGES = (("one pass", 1), ("4 copies", 4), ("8 copies", 8))
PLANES = (("XY slices", "xy"), ("all three axes", "xyz"))
PADDINGS = (("leave out", "auto"), ("keep as tissue", "none"))


class OptionsFold(Fold):
    """What few people change. `edited` says that one of the fields was."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__("Options")
        self.tile, self.average, self.planes = QSpinBox(), FreshCombo(), FreshCombo()
        self.average.offer(list(AVERAGES), 1)
        self.planes.offer(list(PLANES), "xy")
        self.padding = FreshCombo()
        self.padding.offer(list(PADDINGS), "auto")
        self.invert = QCheckBox("Invert contrast")
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
        for signal in (
            self.tile.valueChanged,
            self.average.activated,
            self.planes.activated,
            self.padding.activated,
            self.invert.toggled,
            self.dropout.valueChanged,
        ):
            signal.connect(self._tell)
        self.samples.valueChanged.connect(self._follow_samples)

    def _lay_out(self) -> None:
        inner = QWidget()
        rows = self._rows = QFormLayout(inner)
        rows.setContentsMargins(12, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Tile", self.tile)
        rows.addRow("Average", self.average)
        rows.addRow("Planes", self.planes)
        rows.addRow("Constant areas", self.padding)
        rows.addRow("", self.invert)
        rows.addRow("Monte Carlo samples", self.samples)
        rows.addRow("Dropout rate", self.dropout)
        self.fill(inner)

    def offer_planes(self, offered: bool) -> None:
        """Show the choice of planes, or hide it."""
        self._rows.setRowVisible(self.planes, offered)
        self.fit()

    def _follow_samples(self, samples: int) -> None:
        self.dropout.setEnabled(samples > 0)
        self._tell()

    def _tell(self, value: object = None) -> None:
        self.edited.emit()

    @property
    def rate(self) -> float | None:
        """The dropout rate, None for that of the model's training."""
        return float(self.dropout.value()) or None

    def mark(self, faults: dict[str, str]) -> None:
        """Colour the fields that are wrong, and say what each is for."""
        for name, hint in HINTS.items():
            mark(getattr(self, name), faults.get(name, ""), hint)
