"""The demonstration: napari with the synthetic EM stack, the panel docked, and Segment pressed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari_skipseg.errors import EngineError, FileError

SCREENSHOT = "napari-skipseg-demo.png"
SIZE = (1280, 800)
PATIENCE = 600.0
"""Seconds after which a demonstration without a screen gives up."""


def open_demo(headless_folder: Path | None = None) -> list[Path]:
    """Open napari with the sample and segment it with the default model.

    Without a folder it returns, with no files, when the window is closed. With one it waits for the result, saves a
    screenshot of the whole window and the result files there, closes the window, and returns the files.

    Raises:
        EngineError: the segmentation failed or took too long; the message says why.
        FileError: the folder cannot be written.
    """
    import napari

    if headless_folder is not None:
        _make_folder(headless_folder)
    viewer = napari.Viewer()
    try:
        viewer.window.resize(*SIZE)
        _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
        wait_for(lambda: False, 0.3)  # the window takes its size, so that the image fills it
        viewer.open_sample("napari-skipseg", "em_stack")
        tab = panel.segment_tab
        tab.segment_button.click()
        if headless_folder is None:
            napari.run()
            return []
        return _record(viewer, tab, headless_folder)
    finally:
        if headless_folder is not None:
            viewer.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"The folder '{folder}' cannot be made ({error.strerror}): choose another one.") from error


def _record(viewer: Any, tab: Any, folder: Path) -> list[Path]:
    if not wait_for(lambda: not tab.is_running, PATIENCE):
        raise EngineError(f"The demonstration was not done after {PATIENCE / 60:.0f} minutes: try a faster machine.")
    shown = tab.result()
    if shown is None:
        raise EngineError(tab.message.text() or "The demonstration gave no result: run napari-skipseg doctor.")
    from napari_skipseg.inference.saving import save_prediction

    wait_for(lambda: False, 1.0)
    picture = folder / SCREENSHOT
    viewer.screenshot(str(picture), canvas_only=False, flash=False)
    threshold = float(tab.form.threshold.value())
    return [picture, *save_prediction(shown.prediction, folder, "em-sample", threshold)]


def wait_for(done: Callable[[], bool], seconds: float) -> bool:
    """Let the window live until `done`, or for so many seconds; return whether it was done."""
    from qtpy.QtCore import QEventLoop, QTimer

    end, loop = time.monotonic() + seconds, QEventLoop()
    while not done() and time.monotonic() < end:
        QTimer.singleShot(50, loop.quit)
        loop.exec()
    return done()
