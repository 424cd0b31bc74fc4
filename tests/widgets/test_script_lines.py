"""The lines of Python on the page about scripts do what it says of them."""

from __future__ import annotations

import re
from pathlib import Path

import napari
import numpy as np
import pytest

import napari_skipseg
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_sample

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "scripts.md"


def lines_with(word: str) -> str:
    """Return the one block of Python on the page in which a word is."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return found


@pytest.mark.gui
def test_a_script_opens_an_image_and_the_panel(make_napari_viewer, engine, qtbot, monkeypatch, tmp_path):
    viewer = make_napari_viewer(show=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(napari, "Viewer", lambda: viewer)
    monkeypatch.setattr(napari, "run", lambda: None)
    monkeypatch.setattr("napari_skipseg.widgets.panel.Engine", lambda: engine)
    image = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    write_ome_tiff(tmp_path / "em-sample.tif", image, Space("ZYX", (50, 4, 4), "nm"))
    exec(lines_with("add_plugin_dock_widget"), {})
    np.testing.assert_allclose(viewer.layers["em-sample"].scale, (50, 4, 4))
    (dock,) = viewer.window.dock_widgets.values()
    assert type(dock).__name__ == "SkipSegPanel"
    assert dock.segment_tab.form.read().layer is viewer.layers["em-sample"]
    qtbot.waitUntil(lambda: "asking" not in dock.segment_tab.form.device_note.text(), timeout=60_000)
    qtbot.waitUntil(lambda: not dock.segment_tab.is_running, timeout=60_000)
    qtbot.wait(1_000)  # a plan that began before the window closes must come to its end


def test_the_sample_is_written_with_its_voxel_size(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    small = make_sample((2, 64, 64))
    monkeypatch.setattr(napari_skipseg, "make_sample", lambda: small, raising=False)
    exec(lines_with("make_sample"), {})
    stack = read_stack(tmp_path / "em-sample.tif")
    assert (stack.space.axes, stack.shape) == ("ZYX", (2, 64, 64))
    assert (stack.space.voxel_size, stack.space.unit) == ((50.0, 4.0, 4.0), "nm")
