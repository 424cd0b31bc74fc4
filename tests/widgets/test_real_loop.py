"""The loop as a user walks it: real EM, real strokes of the mouse, the real engine, which is killed in mid-training."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hand import Hand, correct, put_away
from qtpy.QtCore import Qt
from scipy import ndimage

import napari_skipseg.models.catalog
from napari_skipseg.api import segment
from napari_skipseg.corrections.catalog import find_corrections
from napari_skipseg.corrections.exchange import export_corrections
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs.client import Engine
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.folder import read_description
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.widgets.panel import wait_for

pytestmark = [
    pytest.mark.gui,
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL"),
    pytest.mark.usefixtures("painted"),
]
BUILT_IN = Path(napari_skipseg.models.catalog.__file__).parent / "builtin"
VOXEL_SIZE = (50.0, 4.6, 4.6)
WINDOW = (slice(704, 1024), slice(384, 704))
"""A part of each slice with many mitochondria."""
PAINTED, HELD_OUT = (0, 1), slice(5, 7)
MITOCHONDRIA, LINES = 6, 8
"""Strokes on each slice: through the largest mitochondria, and away from all of them."""


class Larva:
    """Real EM of a fly's nerve cord and its mitochondria."""

    def __init__(self, folder: Path) -> None:
        raw, truth = (tifffile.imread(folder / f"stack1-{kind}-00-09.tif") for kind in ("raw", "mitochondria"))
        self.image, self.truth = raw[:, *WINDOW], truth[:, *WINDOW] >= 128

    def strokes(self, z: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """Return (value, the places that the mouse goes through) of the strokes on a slice."""
        pieces, count = ndimage.label(self.truth[z])
        inner = ndimage.binary_erosion(self.truth[z], iterations=4)
        sizes = ndimage.sum_labels(inner, pieces, range(1, count + 1))
        found = []
        for piece in 1 + np.argsort(-np.asarray(sizes))[:MITOCHONDRIA]:
            ys, xs = np.nonzero(inner & (pieces == piece))
            order = np.argsort(xs)[np.linspace(0, len(xs) - 1, 5).astype(int)]
            found.append((2, [(int(ys[i]), int(xs[i])) for i in order]))
        chance, far = np.random.default_rng(z), ~ndimage.binary_dilation(self.truth[z], iterations=6)
        lines = 0
        while lines < LINES:
            y, x = (int(n) for n in chance.integers(20, 280, 2))
            if far[y, x : x + 40].all() and x + 40 < 300:
                found.append((1, [(y, x), (y, x + 20), (y, x + 40)]))
                lines += 1
        return found


@pytest.fixture
def larva(data_folder: Path) -> Larva:
    return Larva(data_folder / "vnc_larva3")


def test_mitochondria_are_painted_learnt_and_found_where_nobody_painted(
    open_panel, qtbot, larva, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("napari_skipseg.models.catalog.BUILT_IN", BUILT_IN)
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    write_ome_tiff(tmp_path / "larva.ome.tif", larva.image[list(PAINTED)], Space("ZYX", VOXEL_SIZE, "nm"))
    parent = read_description(BUILT_IN / "em-membrane").weights_sha256
    with Engine() as engine:
        viewer, panel = open_panel(engine)
        viewer.open(tmp_path / "larva.ome.tif", plugin="napari-skipseg")
        painted = paint(qtbot, viewer, panel, larva)
        name = teach(qtbot, panel, engine)

        corrections = panel.correct_tab.corrections()
        np.testing.assert_array_equal(corrections.strokes[...], painted)
        assert panel.segment_tab.form.model.currentData() == name
        verdict = panel.finetune_tab.report.verdict.text()
        assert "of the held-out mitochondrion" in verdict
        assert "6 strokes of it" in verdict  # the second slice shows none here
        assert list(panel.segment_tab.form.threshold.sliders) == ["membrane", "mitochondrion"]
        assert not panel.finetune_tab.plots.note.isHidden()
        assert {"membrane", "mitochondrion"} <= set(read_description(tmp_path / "models" / name).class_names)
        put_away(qtbot, viewer, panel)
    assert read_description(BUILT_IN / "em-membrane").weights_sha256 == parent
    (found,) = find_corrections()
    np.testing.assert_array_equal(read_stack(export_corrections(found, tmp_path / "later.zarr")).data[...], painted)
    check_held_out(larva, name)


def paint(qtbot, viewer, panel, larva: Larva) -> np.ndarray:
    """Paint a new class and some background with the mouse; return the strokes."""
    correct(qtbot, panel)
    tab, hand = panel.correct_tab, Hand(viewer, panel)
    qtbot.mouseClick(tab.body.add_class, Qt.MouseButton.LeftButton)
    wait_for(lambda: False, 0.1)
    qtbot.keyClicks(tab.body.classes.rows[3].name, "mitochondrion")
    qtbot.keyClick(tab.body.classes.rows[3].name, Qt.Key.Key_Return)
    tab.session.layers.strokes.brush_size = 5
    for z in PAINTED:
        viewer.dims.set_current_step(0, z)
        wait_for(lambda: False, 0.1)
        for value, places in larva.strokes(z):
            tab.body.classes.chosen.emit(3 if value == 2 else 1)
            hand.drag(*places)
    painted = np.asarray(tab.corrections().strokes[...])
    is_mitochondrion = painted == 3
    assert is_mitochondrion.sum() > 500
    assert larva.truth[list(PAINTED)][is_mitochondrion].mean() > 0.95
    return painted


def teach(qtbot, panel, engine: Engine) -> str:
    """Press Fine-tune, kill the engine in the middle, and press it again; return the new model's name."""
    panel.tabs.setCurrentIndex([panel.tabs.tabText(n) for n in range(panel.tabs.count())].index("Fine-tune"))
    tab = panel.finetune_tab
    qtbot.waitUntil(tab.tune_button.isEnabled, timeout=120_000)
    qtbot.mouseClick(tab.tune_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "feature" in tab.progress_text.text(), timeout=240_000)
    killed = engine.pid
    os.kill(killed, signal.SIGKILL)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=240_000)
    assert tab.report.isHidden()
    assert "try again" in tab.message.text()
    qtbot.waitUntil(tab.tune_button.isEnabled, timeout=120_000)
    qtbot.mouseClick(tab.tune_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running and not tab.report.isHidden(), timeout=240_000)
    assert engine.pid != killed
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running, timeout=60_000)
    return str(panel.segment_tab.form.model.currentData())


def check_held_out(larva: Larva, name: str) -> None:
    """See that the new model finds mitochondria on slices that it never saw, and membranes as before."""
    held_out = Stack(larva.image[HELD_OUT], Space("ZYX", VOXEL_SIZE, "nm"), name="held out")
    before, after = (np.asarray(segment(held_out, model).probability) > 0.5 for model in ("em-membrane", name))
    assert score_overlap(after[1], larva.truth[HELD_OUT]).dice > 0.3
    assert score_overlap(before, larva.truth[HELD_OUT]).dice < 0.1
    assert score_overlap(after[0], before).dice > 0.999  # other tiles, so bf16 rounds some voxels differently
