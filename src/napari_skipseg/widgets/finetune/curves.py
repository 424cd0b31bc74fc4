"""A training while it runs: its curves, and the prediction of one tile. Imports pyqtgraph."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import pyqtgraph
from qtpy.QtCore import QRectF
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_skipseg.corrections.subject import CLASS_COLORS
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import TrainingProgress, ValidationPicture
from napari_skipseg.widgets.forms.fields import NoteLabel, PlainLabel, as_note, fill_column
from napari_skipseg.widgets.forms.plots import LINES, LegendPlot, theme_colors

HEIGHT, CURVES_HEIGHT = 128, 104
_LEGEND_ROOM = 0.55
"""Free height above the curves, as a share of theirs."""
LEAST_SPAN = 0.02
"""Least height of the values on show."""
GREYS = (-2.0, 2.0)
"""Standard units shown as black and white."""
CLEAR, SOLID = 0, 150
"""Opacities of the colours over the image, of 255."""


HELD_OUT, LABELLED = "labelled, held out", "labelled"
NO_CURVES = "No curves: Quick fits a classifier of pixels to all strokes at once."
MODEL_NOW, FINISHED = "the model now", "the new model"


class LiveCurves(LegendPlot):
    """Curves that grow, with a legend."""

    def __init__(self, left: str) -> None:
        super().__init__(left)
        self.setFixedHeight(CURVES_HEIGHT)
        self.showLabel("bottom", False)
        self.getAxis("bottom").setHeight(22)
        self._points: dict[str, list[tuple[int, float]]] = {}
        self._lines: dict[str, Any] = {}

    def start(self) -> None:
        """Remove all curves."""
        self.plotItem.clear()
        self._points, self._lines = {}, {}
        self.hide()

    def add(self, learned: Sequence[TrainingProgress], is_mine: Callable[[str], bool]) -> None:
        """Extend the curves of this plot; repeated steps, such as after a resume, replace earlier points."""
        for each in learned:
            for name in filter(is_mine, each.values):
                points = self._points.setdefault(name, [])
                while points and points[-1][0] >= each.step:
                    points.pop()
                points.append((each.step, each.values[name]))
        if not self._points:
            return
        for name, points in self._points.items():
            if name not in self._lines:
                pen = pyqtgraph.mkPen(LINES[len(self._lines) % len(LINES)], width=1.6)
                look = {"symbol": "o", "symbolSize": 4, "symbolPen": None, "symbolBrush": pen.color()}
                self._lines[name] = self.plotItem.plot(name=escape(short_name(name)), pen=pen, antialias=True, **look)
            self._lines[name].setData(*map(list, zip(*points, strict=True)))
        heights = [height for points in self._points.values() for _, height in points]
        span = max(max(heights) - min(heights), LEAST_SPAN)
        last = max(points[-1][0] for points in self._points.values())
        self.setXRange(0, max(last, *(each.total for each in learned)), padding=0.02)
        self.setYRange(min(heights), min(heights) + (1 + _LEGEND_ROOM) * span)
        self.show()

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return the (step, value) pairs on show, by name."""
        return {name: list(points) for name, points in self._points.items()}

    def describe(self, x: float, y: float) -> str:
        """Return the values of the curves at the nearest step."""
        nearest = {name: min(points, key=lambda point: abs(point[0] - x)) for name, points in self._points.items()}
        return "\n".join(f"{name}: {value:.4f} (step {step})" for name, (step, value) in nearest.items())


class CurveTile(pyqtgraph.GraphicsLayoutWidget):  # type: ignore[misc]
    """An image with colours over it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(HEIGHT)
        self.setMinimumWidth(60)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.ci.layout.setContentsMargins(0, 0, 0, 0)
        self._box = self.addViewBox(lockAspect=True, invertY=True, enableMouse=False, enableMenu=False)
        self._box.setDefaultPadding(0.0)
        self.image, self.over = (pyqtgraph.ImageItem(axisOrder="row-major") for _ in range(2))
        self._box.addItem(self.image)
        self._box.addItem(self.over)

    def wheelEvent(self, event: Any) -> None:  # noqa: N802
        """Let the panel scroll."""
        event.ignore()

    def show_tile(self, image: Any, over: Any, levels: tuple[float, float], table: Any) -> None:
        """Show an image in standard units, and values over it in the colours of `table`, which span `levels`."""
        self.image.setImage(image, levels=GREYS)
        self.over.setImage(over, levels=levels, lut=table)
        self._box.setRange(QRectF(0, 0, image.shape[1], image.shape[0]), padding=0)


class TrainingPlots(QWidget):  # type: ignore[misc]
    """Loss and scores as curves, and one tile with its labels and its prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.scores = LiveCurves("loss"), LiveCurves("score")
        self.labelled, self.predicted = CurveTile(), CurveTile()
        self.captions = PlainLabel(HELD_OUT), PlainLabel(MODEL_NOW)
        self._label_colors, self._probability_colors = label_table(CLASS_COLORS), probability_table(CLASS_COLORS[0])
        self.note = NoteLabel(NO_CURVES)
        self._tiles = QWidget()
        grid = QGridLayout(self._tiles)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for column, (caption, tile) in enumerate(zip(self.captions, (self.labelled, self.predicted), strict=True)):
            as_note(caption)
            grid.addWidget(caption, 0, column)
            grid.addWidget(tile, 1, column)
        fill_column(self, self._tiles, self.note, self.loss, self.scores)
        self.start()

    def use_theme(self, name: str) -> None:
        """Draw in the colours of napari's theme of that name."""
        colors = theme_colors(name)
        for plot in (self.loss, self.scores):
            plot.use(colors)
        for tile in (self.labelled, self.predicted):
            tile.setBackground(colors.background)

    def use_classes(self, colors: Sequence[str] = CLASS_COLORS, shown: int = 0) -> None:
        """Draw the tiles in the colours of the model's classes. shown: number (from 0) of the class that is learnt."""
        self._label_colors, self._probability_colors = label_table(colors), probability_table(colors[shown])

    def start(self) -> None:
        """Hide all until there is progress."""
        self.loss.start()
        self.scores.start()
        self._tiles.hide()
        self.note.hide()

    def show_progress(self, news: Sequence[Progress]) -> None:
        """Extend the curves, and show the newest picture."""
        learned = [progress for progress in news if isinstance(progress, TrainingProgress)]
        pictured = [progress for progress in news if isinstance(progress, ValidationPicture)]
        if learned:
            self.loss.add(learned, lambda name: "loss" in name)
            self.scores.add(learned, lambda name: "loss" not in name)
        picture = pictured[-1] if pictured else None
        if picture is None or picture.image is None or picture.probability is None or picture.target is None:
            return
        labels = self._label_colors
        self.labelled.show_tile(picture.image, picture.target, (-1, len(labels) - 1), labels)
        self.predicted.show_tile(picture.image, picture.probability, (0.0, 1.0), self._probability_colors)
        self.note.setVisible(picture.is_final and not (self.loss.curves() or self.scores.curves()))
        self.captions[0].setText(LABELLED if picture.is_final else HELD_OUT)
        self.captions[1].setText(FINISHED if picture.is_final else MODEL_NOW)
        self._tiles.show()


def short_name(name: str) -> str:
    """Return a curve's name without the "loss" that all have."""
    return re.sub(r"\s*loss$", "", name) or name


def label_table(classes: Sequence[str]) -> Any:
    """Return a colour for each target from -1 on: clear if nothing is known, grey for background, then the classes."""
    colors = [(0, 0, 0, CLEAR), (128, 128, 160, SOLID // 2)]
    colors += [(*pyqtgraph.mkColor(color).getRgb()[:3], SOLID) for color in classes]
    return np.array(colors, np.uint8)


def probability_table(color: str) -> Any:
    """Return 256 colours from clear to that of a class."""
    table = np.zeros((256, 4), np.uint8)
    table[:, :3] = pyqtgraph.mkColor(color).getRgb()[:3]
    table[:, 3] = np.linspace(CLEAR, SOLID + 50, 256)
    return table
