"""How long the window does not respond: `xvfb-run -a python benchmarks/window.py [--only strokes training crowd]`.

Strokes of real mouse events, 60 a second, in a real napari, in a Labels layer of napari's own and in a layer of
corrections in turns, and in the latter while the engine fine-tunes. A gap is the time between two ticks of a timer of 2
ms: for so long clicks and keys wait. Under software OpenGL drawing is part of every gap, so ours is compared with the
bare napari of the same run. Nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from measuring import print_place, print_table
from qtpy.QtCore import QEvent, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QApplication

from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.widgets.panel import wait_for

PERIOD = 2
"""Interval of the timer in milliseconds."""
EVENTS, PER_SECOND = 120, 60
"""Mouse events of a stroke."""
PATIENCE = 300
SMALL = 512
"""Side of the slice that is fine-tuned on."""


class Gaps:
    """The times between two ticks of a timer, in milliseconds."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self._timer, self._last = QTimer(), 0.0
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.found.append((now - self._last) * 1e3)
        self._last = now

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Collect the gaps within this context."""
        self._last = time.perf_counter()
        self._timer.start(PERIOD)
        yield
        self._timer.stop()

    def row(self, title: str) -> tuple[str, ...]:
        """Return a row of the table: median, 99th percentile, longest, and how many were over 50 ms."""
        gaps = np.array(self.found)
        figures = (np.median(gaps), np.percentile(gaps, 99), gaps.max())
        return title, *(f"{figure:.0f}" for figure in figures), f"{int((gaps > 50).sum())} of {len(gaps)}"


class Mouse:
    """A mouse over the canvas of a viewer."""

    def __init__(self, window: object) -> None:
        self._canvas = window.findChild(QOpenGLWidget)  # type: ignore[attr-defined]

    def stroke(self, number: int) -> None:
        """Draw a wave from left to right over the middle of the canvas, in real time."""
        width, height = self._canvas.width(), self._canvas.height()
        xs = np.linspace(0.3, 0.7, EVENTS) * width
        ys = (0.35 + 0.03 * (number % 10) + 0.05 * np.sin(np.linspace(0, 9, EVENTS))) * height
        held = Qt.MouseButton.LeftButton
        self._send(QEvent.Type.MouseButtonPress, held, held, xs[0], ys[0])
        for x, y in zip(xs, ys, strict=True):
            began = time.perf_counter()
            self._send(QEvent.Type.MouseMove, Qt.MouseButton.NoButton, held, x, y)
            while time.perf_counter() - began < 1 / PER_SECOND:
                QApplication.processEvents()
        self._send(QEvent.Type.MouseButtonRelease, held, Qt.MouseButton.NoButton, xs[-1], ys[-1])

    def _send(self, kind: QEvent.Type, button: Qt.MouseButton, held: Qt.MouseButton, x: float, y: float) -> None:
        place = QPointF(x, y)
        glob = self._canvas.mapToGlobal(place)
        QApplication.sendEvent(
            self._canvas, QMouseEvent(kind, place, glob, button, held, Qt.KeyboardModifier.NoModifier)
        )


def wait(done: Callable[[], bool], what: str) -> None:
    """Let the window live until `done`."""
    if not wait_for(done, PATIENCE):
        sys.exit(f"{what} did not come within {PATIENCE} s")


def painted(title: str, mouse: Mouse, strokes: int) -> tuple[str, ...]:
    """Return the row of so many strokes."""
    mouse.stroke(0)  # the first draws what is drawn once
    wait_for(lambda: False, 1.0)
    gaps = Gaps()
    with gaps.watched():
        for number in range(strokes):
            mouse.stroke(number)
    return gaps.row(title)


def bare(side: int, strokes: int) -> tuple[str, ...]:
    """Return the row of napari's own Labels layer."""
    import napari

    viewer = napari.Viewer()
    viewer.add_image(np.zeros((2, side, side), np.uint8))
    layer = viewer.add_labels(np.zeros((2, side, side), np.uint8))
    layer.mode, layer.brush_size, layer.selected_label = "paint", 8, 2
    wait_for(lambda: False, 1.0)
    row = painted(f"napari's own Labels, {side}²", Mouse(viewer.window._qt_window), strokes)
    viewer.close()
    return row


def ours(side: int, strokes: int) -> tuple[str, ...]:
    """Return the row of a layer of corrections."""
    import napari

    viewer = napari.Viewer()
    image = np.random.default_rng(0).integers(0, 255, (2, side, side), np.uint8)
    _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
    viewer.add_image(image, name="large")
    open_corrections(panel)
    row = painted(f"corrections, {side}²", Mouse(viewer.window._qt_window), strokes)
    viewer.close()
    return row


def open_corrections(panel: object) -> None:
    """Press Correct and wait for the layers."""
    panel.tabs.setCurrentIndex(1)  # type: ignore[attr-defined]
    tab = panel.correct_tab  # type: ignore[attr-defined]
    wait(tab.correct_button.isEnabled, "the Correct button")
    tab.correct_button.click()
    wait(lambda: tab.session is not None and tab.session.layers.is_shown, "the corrections")
    wait_for(lambda: False, 1.0)


def while_training(strokes: int) -> list[tuple[str, ...]]:
    """Return the rows of a window in which the engine fine-tunes, left alone and painted in."""
    import napari

    sample = make_sample((2, SMALL, SMALL))
    viewer = napari.Viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
    viewer.add_image(sample.stack.data, name="sample", scale=sample.stack.space.voxel_size, units="nm")
    open_corrections(panel)
    target = panel.correct_tab.corrections().strokes
    target[:, 100:400:40, 50:450] = 1 + sample.membrane[:, 100:400:40, 50:450]
    names = [panel.tabs.tabText(number) for number in range(panel.tabs.count())]
    panel.tabs.setCurrentIndex(names.index("Fine-tune"))
    tab = panel.finetune_tab
    tab.form.reaches["full"].click()
    wait(tab.tune_button.isEnabled, "the lesson")
    tab.tune_button.click()
    wait(lambda: tab.progress_text.text().startswith("step "), "the first step")
    alone = Gaps()
    with alone.watched():
        wait_for(lambda: False, 20)
    rows = [alone.row("left alone while the engine fine-tunes (full)")]
    rows.append(
        painted(f"corrections, {SMALL}², while the engine fine-tunes", Mouse(viewer.window._qt_window), strokes)
    )
    if not tab.is_running:
        sys.exit("the training ended before the strokes did")
    tab.cancel_button.click()
    wait(lambda: not tab.is_running, "the end")
    viewer.close()
    return rows


def timed(work: Callable[[], object], rounds: int = 8) -> list[float]:
    """Return the milliseconds of `work` and of all that the window does after it, for each round."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        QApplication.processEvents()
        found.append((time.perf_counter() - begun) * 1e3)
    return found


def crowded(layers: int, objects: int) -> list[tuple[str, ...]]:
    """Return the rows of a window with so many layers, without our panel and with it, and with so many objects."""
    import napari

    rows = []
    for title in ("napari alone", "with the panel"):
        viewer = napari.Viewer()
        panel = None
        if title != "napari alone":
            _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
        for number in range(layers):
            viewer.add_image(np.full((4, 64, 64), number % 255, np.uint8), name=f"layer {number}", visible=False)
        wait_for(lambda: False, 1.0)
        chosen = iter(range(1000))

        def choose(viewer: object = viewer, chosen: Iterator[int] = chosen) -> None:
            layer = viewer.layers[next(chosen) * 37 % layers]  # type: ignore[attr-defined]
            viewer.layers.selection.active = layer  # type: ignore[attr-defined]

        def add(viewer: object = viewer) -> None:
            viewer.add_image(np.zeros((4, 64, 64), np.uint8), visible=False)  # type: ignore[attr-defined]

        for what, work in (("a layer chosen", choose), ("a layer added", add)):
            times = timed(work)
            rows.append((f"{what} of {layers}, {title}", f"{np.median(times):.0f}", f"{max(times):.0f}"))
        if panel is not None:
            side = int(np.sqrt(objects))
            labels = np.kron(
                np.arange(1, side * side + 1, dtype=np.int32).reshape(side, side), np.ones((6, 6), np.int32)
            )
            times = timed(lambda: viewer.add_labels(labels), 1)  # noqa: B023
            rows.append((f"{side * side:,} objects shown", f"{np.median(times):.0f}", f"{max(times):.0f}"))
            times = timed(panel.objects_tab.check)
            rows.append(
                (f"the Objects tab looks at {side * side:,} objects", f"{np.median(times):.0f}", f"{max(times):.0f}")
            )
        viewer.close()
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--strokes", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=["strokes", "training", "crowd"], help="parts: all by default")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ |= {f"NAPARI_SKIPSEG_{kind}": str(Path(folder) / kind) for kind in ("CORRECTIONS", "MODELS")}
        rows, crowd = [], []
        if "strokes" in flags.only:
            for side in (SMALL, flags.side):
                rows += [bare(side, flags.strokes), ours(side, flags.strokes)]
        if "training" in flags.only:
            rows += while_training(flags.strokes)
        if "crowd" in flags.only:
            crowd = crowded(200, 100_000)
    print_place(f"{flags.strokes} strokes of {EVENTS} mouse events, {PER_SECOND} a second")
    print_table(("what", "median gap, ms", "99 %", "longest", "over 50 ms"), rows)
    print()
    print_table(("what", "median, ms", "longest"), crowd)


if __name__ == "__main__":
    main()
