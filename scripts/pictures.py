"""Make the guide's pictures from the package's own sample: `xvfb-run -a .venv/bin/python scripts/pictures.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication, QWidget

from napari_skipseg.widgets.demo import PATIENCE, SIZE, wait_for

LARGE = (1400, 900)
PICTURES = Path(__file__).parents[1] / "docs" / "images"


def wait(done: Callable[[], bool]) -> None:
    """Let the window live until `done`."""
    if not wait_for(done, PATIENCE):
        sys.exit("The pictures were not ready in time.")


def inspect(viewer: napari.Viewer, panel: QWidget) -> None:
    """Show what the first gate lets through of the image alone."""
    tab = panel.inspect_tab
    viewer.window.resize(*LARGE)
    for layer in list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
    panel.tabs.setCurrentIndex(1)
    wait(lambda: tab.plots is not None and tab.show_button.isEnabled())
    tab.show_button.click()
    wait(lambda: not tab.is_running)
    if "long skip 1 after" not in viewer.layers:
        sys.exit(tab.message.text())
    viewer.layers.selection.active = viewer.layers["long skip 1 after"]
    viewer.reset_view()
    viewer.status = "Ready"


def main() -> None:
    """Segment the sample, then show the panel, the first gate's attention, the model's card, and a look into it."""
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

    wait(lambda: tab.plan.summary.text().startswith("about"))
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
    tab.form.card_dialog.close()
    inspect(viewer, panel)
    shoot("inspect.png")
    viewer.close()
    for picture in PICTURES.glob("*.png"):
        method = Image.Quantize.FASTOCTREE if picture.name == "inspect.png" else None  # it keeps small marks' colours
        Image.open(picture).convert("RGB").quantize(128, method).save(picture, optimize=True)


if __name__ == "__main__":
    main()
