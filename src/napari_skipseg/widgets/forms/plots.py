"""Plots in the look of napari's theme: bars of select weights, the weight-update map, curves. Imports pyqtgraph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyqtgraph
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QMouseEvent, QWheelEvent
from qtpy.QtWidgets import QToolTip

from napari_skipseg.foreign_text import without_bidi_marks

if TYPE_CHECKING:
    from napari_skipseg.models.selection import GateSelection

_HEIGHT = 162
BAR, OFF, LINES = "#5aa9ff", "#ff8a5c", ("#5aa9ff", "#ffb347", "#2ee6c5", "#ff7ab6")
FIRST_BAR_WIDTH = 0.8
TICK = 0.07
"""Length of the mark below the axis of a channel that is off."""


_LEGEND_ROOM = 0.3
"""Free height above the curves, as a share of theirs."""


class Colors(NamedTuple):
    """The colours of a theme, as "#rrggbb"."""

    background: str
    text: str


def theme_colors(name: str) -> Colors:
    """Return the colours of napari's theme of that name."""
    from napari.utils.theme import get_theme

    theme = get_theme(name)
    return Colors(theme.background.as_hex(), theme.text.as_hex())


class Plot(pyqtgraph.PlotWidget):  # type: ignore[misc]
    """A plot with a tooltip for the place under the mouse; the wheel scrolls the panel."""

    def __init__(self, bottom: str, left: str) -> None:
        super().__init__()
        self.setFixedHeight(_HEIGHT)
        self.setMinimumWidth(120)
        self.setMouseTracking(True)
        self.setLabel("bottom", bottom)
        self.setLabel("left", left)
        self.getAxis("left").setWidth(48)
        self.getAxis("bottom").setHeight(40)
        for axis in ("bottom", "left"):
            self.getAxis(axis).enableAutoSIPrefix(False)
        self.plotItem.setContentsMargins(0, 4, 8, 6)
        self.plotItem.hideButtons()
        self.plotItem.setMouseEnabled(False, False)

    def use(self, colors: Colors) -> None:
        """Draw in these colours."""
        self.setBackground(colors.background)
        for axis in self._axes():
            axis.setPen(pyqtgraph.mkPen(colors.text, width=1))
            axis.setTextPen(colors.text)

    def _axes(self) -> list[Any]:
        return [self.getAxis("bottom"), self.getAxis("left")]

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802
        """Let the panel scroll."""
        event.ignore()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Show the tooltip of the place under the mouse."""
        super().mouseMoveEvent(event)
        point = self.plotItem.vb.mapSceneToView(self.mapToScene(event.position().toPoint()))
        QToolTip.showText(
            event.globalPosition().toPoint(), without_bidi_marks(self.describe(point.x(), point.y())), self
        )

    def describe(self, x: float, y: float) -> str:
        """Return the tooltip of a place in the plot, "" for none."""
        return ""


class ChannelPlot(Plot):
    """The factors by which a gate multiplies its channels, as bars; those that are off have a mark below the axis.

    channel_chosen: the number of the channel that was clicked, from 0.
    """

    channel_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__("channel", "select weight")
        self._gate: GateSelection | None = None
        self.bars, self.off, self.started = (pyqtgraph.BarGraphItem(x=[], height=[], width=1) for _ in range(3))
        for item in (self.bars, self.off, self.started):
            self.addItem(item)
        self.setYRange(-TICK, 1.0, padding=0.02)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def show_gate(self, gate: GateSelection) -> None:
        """Show the select weights of `gate`, and its first ones as outlines."""
        self._gate = gate
        places = np.arange(len(gate.weights))
        off = places[gate.weights <= 0]
        self.bars.setOpts(x=places, height=gate.truncated, width=FIRST_BAR_WIDTH, pen=None, brush=BAR)
        self.off.setOpts(x=off, y0=-TICK, height=TICK, width=FIRST_BAR_WIDTH, pen=None, brush=OFF)
        start = np.clip(gate.start, 0, 1)
        self.started.setOpts(x=places[: len(start)], height=start, width=1.0, brush=None, pen="#a0a0a0")
        self.setXRange(-0.6, len(places) - 0.4, padding=0.01)

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Choose the channel that is clicked."""
        point = self.plotItem.vb.mapSceneToView(self.mapToScene(event.position().toPoint()))
        if event.button() == Qt.MouseButton.LeftButton and self._has(round(point.x())):
            self.channel_chosen.emit(round(point.x()))
        else:
            super().mousePressEvent(event)

    def _has(self, channel: int) -> bool:
        return self._gate is not None and 0 <= channel < len(self._gate.weights)

    def describe(self, x: float, y: float) -> str:
        """Return channel, weight and first weight."""
        channel = round(x)
        if self._gate is None or not self._has(channel):
            return ""
        weight = self._gate.weights[channel]
        start = f", {self._gate.start[channel]:.3f} at the start" if self._gate.start.size else ""
        return f"channel {channel}: {'off, ' if weight <= 0 else ''}weight {weight:.3f}{start}"


class WeightUpdatePlot(Plot):
    """How far each layer's weights moved in each epoch, as colours on a logarithmic scale; the first layer on top."""

    def __init__(self) -> None:
        super().__init__("epoch", "layer, first on top")
        self._names: tuple[str, ...] = ()
        self._values: NDArray[np.float64] = np.zeros((0, 0))
        colors = pyqtgraph.colormap.get("viridis")
        self.image = pyqtgraph.ImageItem(axisOrder="row-major", colorMap=colors)
        self.addItem(self.image)
        self.plotItem.invertY(True)
        self.bar = pyqtgraph.ColorBarItem(width=12, colorMap=colors, interactive=False, colorMapMenu=False)
        self.bar.setImageItem(self.image, insert_in=self.plotItem)

    def _axes(self) -> list[Any]:
        return [*super()._axes(), *(self.bar.getAxis(side) for side in ("left", "right", "top", "bottom"))]

    def show_updates(self, updates: Mapping[str, Sequence[float]]) -> None:
        """Show the mean update of each layer, one value per epoch."""
        self._names, self._values = tuple(updates), np.array(list(updates.values()), float)
        moved = self._values[self._values > 0]
        low, high = (math.log10(moved.min()), math.log10(moved.max())) if moved.size else (-1.0, 0.0)
        high = max(high, low + 0.1)
        self.image.setImage(np.log10(np.maximum(self._values, 10**low)), autoLevels=False)
        self.image.setRect(0.5, 0.5, self._values.shape[1], self._values.shape[0])
        self.bar.setLevels((low, high))
        self.bar.axis.setTicks([[(place, f"{10**place:.0e}") for place in (low, (low + high) / 2, high)]])
        self.setXRange(0.5, self._values.shape[1] + 0.5, padding=0)
        self.setYRange(0.5, self._values.shape[0] + 0.5, padding=0)

    def describe(self, x: float, y: float) -> str:
        """Return layer, epoch and value."""
        layer, epoch = math.floor(y - 0.5), math.floor(x - 0.5)
        if not (0 <= layer < self._values.shape[0] and 0 <= epoch < self._values.shape[1]):
            return ""
        return f"{self._names[layer]}, epoch {epoch + 1}: mean |ΔW| = {self._values[layer, epoch]:.3g}"


class LegendPlot(Plot):
    """A plot over the steps of a training, with a legend."""

    def __init__(self, left: str) -> None:
        super().__init__("step", left)
        self.legend = self.plotItem.addLegend(offset=(-4, 1), colCount=2)

    def use(self, colors: Colors) -> None:
        """Draw in these colours."""
        super().use(colors)
        self.legend.setLabelTextColor(colors.text)
        for _, label in self.legend.items:
            label.setText(label.text, color=colors.text)


class CurvesPlot(LegendPlot):
    """The loss curves of a training."""

    def __init__(self) -> None:
        super().__init__("loss")

    def show_curves(self, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Show (step, value) pairs by name."""
        self.plotItem.clear()
        for number, (name, points) in enumerate(curves.items()):
            steps, values = zip(*points, strict=True)
            pen = pyqtgraph.mkPen(LINES[number % len(LINES)], width=1.6)
            self.plotItem.plot(list(steps), list(values), name=escape(name), pen=pen, antialias=True)
        heights = [value for points in curves.values() for _, value in points]
        room = _LEGEND_ROOM * (max(heights) - min(heights))
        self.setXRange(min(p[0][0] for p in curves.values()), max(p[-1][0] for p in curves.values()))
        self.setYRange(min(heights), max(heights) + room)
