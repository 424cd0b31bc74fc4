"""A mouse and a keyboard over the image, for tests that paint."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QComboBox

LEFT = Qt.MouseButton.LeftButton
PLAIN = Qt.KeyboardModifier.NoModifier


def settle() -> None:
    """Handle all events that are waiting, and those that they cause, such as a drawing."""
    for _ in range(3):
        QApplication.processEvents()


def choose(combo: QComboBox, value: object) -> None:
    """Choose an item by its value, as a user does."""
    index = [combo.itemData(number) for number in range(combo.count())].index(value)
    combo.setCurrentIndex(index)
    combo.activated.emit(index)


class Hand:
    """A mouse and a keyboard over the image of a viewer, in voxels of its slice."""

    def __init__(self, viewer, panel) -> None:
        self.viewer = viewer
        self.canvas = panel.window().findChild(QOpenGLWidget)

    def _at(self, voxel: tuple[float, float], layer) -> QPoint:
        world = np.asarray(layer.data_to_world((*self.viewer.dims.current_step[: layer.ndim - 2], *voxel)))[-2:]
        camera = getattr(self.viewer, "scene", self.viewer).camera
        y, x = (world - np.asarray(camera.center[-2:])) * camera.zoom
        return QPoint(round(self.canvas.width() / 2 + x), round(self.canvas.height() / 2 + y))

    def drag(self, *voxels: tuple[float, float]) -> None:
        places = [self._at(voxel, self.viewer.layers[0]) for voxel in voxels]
        self._move(places[0], Qt.MouseButton.NoButton)
        QTest.mousePress(self.canvas, LEFT, PLAIN, places[0])
        for place in places[1:]:
            self._move(place, LEFT)
        QTest.mouseRelease(self.canvas, LEFT, PLAIN, places[-1])
        settle()

    def click(self, voxel: tuple[float, float]) -> None:
        self.drag(voxel)

    def double_click(self, voxel: tuple[float, float]) -> None:
        QTest.mouseDClick(self.canvas, LEFT, PLAIN, self._at(voxel, self.viewer.layers[0]))
        settle()

    def _move(self, place: QPoint, button: Qt.MouseButton) -> None:
        where = QPointF(place)
        there = self.canvas.mapToGlobal(where)
        event = QMouseEvent(QEvent.Type.MouseMove, where, there, Qt.MouseButton.NoButton, button, PLAIN)
        QApplication.sendEvent(self.canvas, event)
        QTest.qWait(12)  # vispy drops a move that comes less than 10 ms after the one before
        settle()

    def press(self, key: Qt.Key, modifier: Qt.KeyboardModifier = PLAIN) -> None:
        QTest.keyClick(self.canvas, key, modifier)
        settle()


def ramp(*shape: int) -> np.ndarray:
    """An image that rises from 0 to 255, so that a threshold has an exact answer."""
    return np.linspace(0, 255, int(np.prod(shape))).reshape(shape).astype(np.uint8)


def segment(qtbot, panel) -> None:
    """Press Segment, and wait for the result."""
    qtbot.mouseClick(panel.segment_tab.segment_button, LEFT)
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)


def correct(qtbot, panel) -> None:
    """Show the Correct tab, press Correct, and wait for the layers."""
    tab = panel.correct_tab
    panel.tabs.setCurrentWidget(panel.tabs.widget(1))
    qtbot.waitUntil(tab.correct_button.isEnabled)
    qtbot.mouseClick(tab.correct_button, LEFT)
    qtbot.waitUntil(lambda: tab.session is not None and tab.session.layers.is_shown)
    settle()


def open_and_correct(open_panel, qtbot, image: np.ndarray, is_segmented: bool = False, **looks):
    """Open an image called "em", segment it where requested, press Correct; return viewer, panel and hand."""
    viewer, panel = open_panel()
    viewer.add_image(image, name="em", **looks)
    if is_segmented:
        segment(qtbot, panel)
    correct(qtbot, panel)
    return viewer, panel, Hand(viewer, panel)


def put_away(qtbot, viewer, panel) -> None:
    """Remove all layers, and wait until the corrections are stored and closed."""
    tab = panel.correct_tab
    viewer.layers.clear()
    qtbot.waitUntil(lambda: tab.session is None and not tab.is_closing)
