"""Make the pictures of docs/correct-and-fine-tune.md: `xvfb-run -a .venv/bin/python scripts/loop_pictures.py`.

It walks the loop on the package's own sample: segment, paint where the model was wrong, break down, restore, fine-tune.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.morphology import skeletonize

SIZE = (1280, 860)
PICTURES = Path(__file__).parents[1] / "docs" / "images"
SLICE = 8
STROKES = 8
"""On each of two slices."""
BREAKS_DOWN = "--breaks-down"


class Walk:
    """A window with the sample segmented, and the actions of a user."""

    def __init__(self) -> None:
        import napari

        from napari_skipseg.images.synthetic.sample import make_sample

        self.viewer = napari.Viewer()
        self.viewer.window.resize(*SIZE)
        _, self.panel = self.viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
        self.rest(0.3)
        self.viewer.open_sample("napari-skipseg", "em_stack")
        self.truth = make_sample().membrane
        self.viewer.dims.set_current_step(0, SLICE)
        tab = self.panel.segment_tab
        self.wait(tab.segment_button.isEnabled)

    def segment(self) -> None:
        """Press Segment, and wait for the result."""
        tab = self.panel.segment_tab
        tab.segment_button.click()
        self.wait(lambda: tab.result() is not None and not tab.is_running)

    def correct(self) -> None:
        """Press Correct, and wait for the layers."""
        self.panel.tabs.setCurrentIndex(1)
        tab = self.panel.correct_tab
        self.wait(tab.correct_button.isEnabled)
        tab.correct_button.click()
        self.wait(lambda: tab.session is not None and tab.session.layers.is_shown)

    def paint(self) -> None:
        """Paint strokes along the middle of the largest pieces that the model got wrong."""
        binary = self.viewer.layers["binary"].data
        strokes = next(layer for layer in self.viewer.layers if layer.name.endswith("corrections"))
        strokes.brush_size = 6
        for z in (SLICE - 1, SLICE):
            self.viewer.dims.set_current_step(0, z)
            predicted, truth = np.asarray(binary[z]) > 0, self.truth[z] > 0
            for value, wrong in ((2, truth & ~predicted), (1, predicted & ~truth)):
                pieces, _ = ndimage.label(ndimage.binary_opening(wrong))
                for piece in np.argsort(-np.bincount(pieces.ravel())[1:])[: STROKES // 2]:
                    for y, x in np.argwhere(skeletonize(pieces == piece + 1)):
                        strokes.paint((z, int(y), int(x)), value, refresh=False)
        strokes.refresh()
        self.wait(lambda: self.panel.correct_tab.corrections().flush())
        self.rest(1.5)

    def finetune(self, shoot: Callable[[str], None]) -> None:
        """Open the Fine-tune tab, press Fine-tune, and wait until the view is segmented again."""
        self.panel.tabs.setCurrentIndex(2)
        tab, segment_tab = self.panel.finetune_tab, self.panel.segment_tab
        self.wait(lambda: "held out" in tab.summary_line.summary.text())
        self.rest(0.5)
        shoot("loop-3-ready.png")
        tab.tune_button.click()
        self.wait(lambda: not tab.report.isHidden() and not tab.is_running and not segment_tab.is_running)
        self.rest(1.0)
        shoot("loop-4-compared.png")

    def shoot(self, name: str) -> None:
        """Save a picture of the window."""
        self.viewer.status = "Ready"
        self.rest(0.3)
        self.viewer.screenshot(str(PICTURES / name), canvas_only=False, flash=False)
        picture = PICTURES / name
        Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)

    def wait(self, done: Callable[[], bool]) -> None:
        """Let the window live until `done`."""
        from napari_skipseg.widgets.panel import PATIENCE, wait_for

        if not wait_for(done, PATIENCE):
            sys.exit("The pictures were not ready in time.")

    def rest(self, seconds: float) -> None:
        """Let the window live for a while."""
        from napari_skipseg.widgets.panel import wait_for

        wait_for(lambda: False, seconds)


def break_down() -> None:
    """Segment, paint, and die."""
    walk = Walk()
    walk.segment()
    walk.shoot("loop-1-segment.png")
    walk.correct()
    walk.paint()
    walk.shoot("loop-2-correct.png")
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Walk until napari breaks down, and then to the end."""
    if BREAKS_DOWN in sys.argv:
        break_down()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {f"NAPARI_SKIPSEG_{kind}": f"{folder}/{kind.lower()}" for kind in ("CORRECTIONS", "MODELS")}
        os.environ["NAPARI_SKIPSEG_SETTINGS"] = ""
        subprocess.run([sys.executable, __file__, BREAKS_DOWN], check=False)
        walk = Walk()
        walk.panel.tabs.setCurrentIndex(1)
        walk.wait(lambda: walk.panel.correct_tab.offers.of_image is not None)
        walk.shoot("loop-5-restore.png")
        walk.segment()
        walk.correct()
        walk.finetune(walk.shoot)
        walk.viewer.close()


if __name__ == "__main__":
    main()
