"""Make the animated walks of the two main jobs: `xvfb-run -a .venv/bin/python scripts/walks.py`.

*Segment* is taken from a window while it works. *Teach* is made of the pictures of scripts/loop_pictures.py, so run
that first.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PICTURES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 960
STRIP = 40
"""Height of the line of text above the window, in pixels."""
COLORS = 96
LONG, SHORT = 2600, 350
"""Milliseconds of a frame to read, and of one of a growing result."""
GROWING = 6
"""Most frames of the growing result."""
TEACH = (
    ("loop-1-segment.png", "1  Segment: the model of the package found these membranes"),
    ("loop-2-correct.png", "2  Correct: paint a few strokes over what is wrong"),
    ("loop-3-ready.png", "3  Fine-tune: the line says what will be learnt and how long it takes"),
    ("loop-4-compared.png", "4  The new model and the old one, compared where neither has learnt"),
)


def with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """Return a picture of the common width with a line of text above it."""
    height = round(picture.height * WIDTH / picture.width)
    frame = Image.new("RGB", (WIDTH, height + STRIP), (63, 102, 200))
    ImageDraw.Draw(frame).text((14, 9), caption, "white", ImageFont.load_default(20))
    frame.paste(picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS), (0, STRIP))
    return frame


def write_walk(file: Path, frames: list[tuple[Image.Image, str, int]]) -> None:
    """Write an animation without end. frames: picture, caption, milliseconds."""
    palette = with_caption(*frames[-1][:2]).quantize(COLORS)
    drawn = [with_caption(picture, caption).quantize(palette=palette, dither=0) for picture, caption, _ in frames]
    first, *rest = drawn
    first.save(file, save_all=True, append_images=rest, duration=[each[2] for each in frames], loop=0, optimize=True)


def segment(folder: Path) -> list[tuple[Image.Image, str, int]]:
    """Return the frames of a first segmentation, taken from a window. folder: for screenshots."""
    import napari

    from napari_skipseg.widgets.panel import PATIENCE, SIZE, wait_for

    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
    tab, frames = panel.segment_tab, []

    def shoot(caption: str, milliseconds: int) -> None:
        viewer.status = "Ready"
        wait_for(lambda: False, 0.2)
        file = str(folder / "frame.png")
        viewer.screenshot(file, canvas_only=False, flash=False)
        frames.append((Image.open(file).copy(), caption, milliseconds))

    wait_for(lambda: False, 0.5)
    viewer.open_sample("napari-skipseg", "em_stack")
    if not wait_for(lambda: tab.segment_button.isEnabled() and tab.plan.summary.text().startswith("about"), PATIENCE):
        sys.exit(tab.message.text())
    shoot("1  Open a stack: the line below it says axes and voxel size", LONG)
    shoot("2  Press Segment: the estimate says how long it takes", LONG)
    tab.segment_button.click()
    before = len(frames)
    while tab.is_running:
        wait_for(lambda: not tab.is_running, 0.4)
        shoot("3  The result grows while the viewer stays free", SHORT)
    grown = frames[before:]
    frames[before:] = grown[:: -(-len(grown) // GROWING)]
    if not wait_for(lambda: tab.result() is not None and not tab.is_running, PATIENCE):
        sys.exit(tab.message.text())
    wait_for(lambda: False, 1.0)
    shoot("4  Probability, binary image and attention are layers over your image", LONG + SHORT)
    viewer.close()
    return frames


def main() -> None:
    """Make both walks."""
    os.environ["NAPARI_SKIPSEG_SETTINGS"] = ""  # the pictures are the same for everybody
    write_walk(PICTURES / "walk-teach.gif", [(Image.open(PICTURES / name), text, LONG) for name, text in TEACH])
    with tempfile.TemporaryDirectory() as folder:
        write_walk(PICTURES / "walk-segment.gif", segment(Path(folder)))


if __name__ == "__main__":
    main()
