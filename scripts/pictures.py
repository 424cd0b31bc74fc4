"""Make the guide's pictures from the package's own sample: `xvfb-run -a .venv/bin/python scripts/pictures.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication

from napari_skipseg.widgets.demo import PATIENCE, SIZE, wait_for

PICTURES = Path(__file__).parents[1] / "docs" / "images"


def wait(done: Callable[[], bool]) -> None:
    """Let the window live until `done`."""
    if not wait_for(done, PATIENCE):
        sys.exit("The pictures were not ready in time.")


def main() -> None:
    """Segment the sample, then show the panel, the attention of the first gate, and the model's card."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
    viewer.open_sample("napari-skipseg", "em_stack")
    tab = panel.segment_tab
    application = QApplication.instance()
    wait(tab.segment_button.isEnabled)
    tab.segment_button.click()
    wait(lambda: tab.result() is not None and not tab.is_running)

    def shoot(name: str) -> None:
        for _ in range(20):
            application.processEvents()
        viewer.screenshot(str(PICTURES / name), canvas_only=False, flash=False)

    viewer.status = "Ready"
    shoot("panel.png")
    for layer in viewer.layers:
        layer.visible = layer.name in ("EM sample (synthetic)", "attention 1")
    viewer.layers.selection.active = viewer.layers["attention 1"]
    shoot("attention.png")
    tab.form.card.click()
    for _ in range(20):
        application.processEvents()
    tab.form.card_dialog.grab().save(str(PICTURES / "card.png"))
    viewer.close()
    for picture in PICTURES.glob("*.png"):
        Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    main()
