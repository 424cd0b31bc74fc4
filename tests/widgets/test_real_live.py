"""Live in a real window with the real engine: mouse strokes, the layer that follows them, and the model of Quick."""

import numpy as np
import pytest
from hand import Hand, correct

import napari_skipseg.models.catalog
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.jobs.client import Engine
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.widgets.layers.results import KEY

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("painted")]
BUILT_IN = napari_skipseg.models.catalog.BUILT_IN


def test_strokes_of_the_mouse_teach_a_class_while_they_are_painted(open_panel, qtbot, monkeypatch) -> None:
    monkeypatch.setattr("napari_skipseg.models.catalog.BUILT_IN", BUILT_IN)
    sample = make_sample((2, 256, 256))
    truth = sample.mitochondria[0] > 0
    with Engine() as engine:
        viewer, panel = open_panel(engine)
        viewer.add_image(sample.stack.data, name="em", scale=(50, 4, 4), units=("nm", "nm", "nm"))
        viewer.dims.set_current_step(0, 0)
        panel.segment_tab.form.choose_model("em-membrane")
        correct(qtbot, panel)
        tab = panel.correct_tab
        tab.actions.add_class()
        value = tab.session.corrections.classes[-1].value
        tab.actions.rename_class(value, "mitochondrion")
        tab.live.switch.click()
        hand, strokes = Hand(viewer, panel), tab.session.layers.strokes
        strokes.brush_size = 5

        def wait() -> None:
            version = tab.session.corrections.version
            qtbot.waitUntil(lambda: tab.live._shown is not None and tab.live._shown.version == version, timeout=120_000)

        for number, (label, inside) in enumerate(((value, truth), (1, ~truth)) * 4):
            strokes.selected_label = label
            rows = np.argwhere(inside[:, 4:-4].sum(axis=1) > 12)[:, 0]
            y = int(rows[(2 * number + 1) * len(rows) // 16])
            xs = np.flatnonzero(inside[y, 4:-4]) + 4
            runs = np.split(xs, np.flatnonzero(np.diff(xs) > 1) + 1)
            run = max(runs, key=len)
            hand.drag((y, int(run[2])), (y, int(run[len(run) // 2])), (y, int(run[-3])))
            assert viewer.layers.selection.active is strokes
            assert strokes.mode == "paint"
        wait()
        (layer,) = [each for each in viewer.layers if each.metadata.get(KEY, {}).get("role") == "live mitochondrion"]
        corner = np.round(layer.translate / np.array([50, 4, 4])).astype(int)
        assert corner[0] == 0
        found = np.asarray(layer.data[0]) > 0.5
        inside = truth[corner[1] :, corner[2] :][: found.shape[0], : found.shape[1]]
        assert score_overlap(found, inside).dice > 0.3
        tab.live.switch.click()
        assert layer not in viewer.layers
