"""Layers that fill while a run goes on, and what the engine is told of the view."""

from __future__ import annotations

import time

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QObject, Qt

from napari_skipseg.images.space import Space
from napari_skipseg.inference.prediction import AttentionMap, Focus, Prediction, ResultsOpened, TileWritten
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.layers.live import FilledPart, ResultFiller, find_focus, with_first_view
from napari_skipseg.widgets.layers.results import set_threshold

pytestmark = pytest.mark.gui


def empty_prediction(*shape: int, axes: str = "ZYX") -> Prediction:
    maps = (AttentionMap(1, (1,) * len(shape), np.zeros(shape, np.float32)),)
    values = np.zeros(shape, np.float32)
    return Prediction(values, Space(axes, (1, 1, 1), "pixel", (0, 0, 0)), ("membrane",), maps, {"model": "tiny"})


def written(done: int, total: int, *region: tuple[int, int]) -> TileWritten:
    return TileWritten(done, total, f"tile {done} of {total}", region)


def press(qtbot, panel) -> None:
    qtbot.mouseClick(panel.segment_tab.segment_button, Qt.MouseButton.LeftButton)


@pytest.fixture
def filling(qapp):
    """A viewer with an image of 4 slices, of which the second is on screen, and the layers of a run over it."""
    viewer, owner = ViewerModel(), QObject()
    layer = viewer.add_image(np.zeros((4, 8, 8)), name="em")
    viewer.dims.set_current_step(0, 1)
    made = ResultFiller(owner, viewer, layer, FilledPart("ZYX", {}, str(layer.unique_id)), None)
    made.open(empty_prediction(4, 8, 8), 0.5, {})
    yield viewer, made
    owner.deleteLater()


def test_what_comes_is_on_screen_soon_and_the_labels_follow(filling, qtbot):
    viewer, made = filling
    probability = made.shown.prediction.probability
    assert viewer.layers["binary"].get_value((1, 2, 2)) == 0
    probability[1, :4] = 0.9
    made.on_tile_written(written(1, 8, (1, 2), (0, 4), (0, 8)))
    qtbot.waitUntil(lambda: viewer.layers["binary"].get_value((1, 2, 2)) == 1)
    assert viewer.layers["probability"].get_value((1, 2, 2)) == np.float32(0.9)
    assert viewer.layers["probability"].contrast_limits == [0, 1]
    set_threshold(viewer, made.shown, 0.95)
    assert viewer.layers["binary"].get_value((1, 2, 2)) == 0


def test_only_the_slice_on_screen_is_drawn_again_and_not_too_often(filling, qtbot):
    viewer, made = filling
    drawn = []
    viewer.layers["probability"].events.set_data.connect(lambda event: drawn.append(time.monotonic()))
    for number in range(1, 5):
        made.on_tile_written(written(number, 8, (2, 3), (0, 4), (0, 8)))
    qtbot.wait(50)
    assert drawn == []
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        made.on_tile_written(written(5, 8, (1, 2), (0, 4), (0, 8)))
        qtbot.wait(5)
    assert 1 <= len(drawn) <= 6
    assert all(np.diff(drawn) > 0.15)


def test_a_map_that_is_hidden_is_not_read(filling, qtbot):
    viewer, made = filling
    drawn = []
    viewer.layers["attention 1"].events.set_data.connect(drawn.append)
    made.on_tile_written(written(1, 8, (1, 2), (0, 4), (0, 8)))
    qtbot.wait(50)
    assert drawn == []


def test_the_end_writes_the_recipe_and_does_not_bring_removed_layers_back(filling):
    viewer, made = filling
    viewer.layers.remove(viewer.layers["attention 1"])
    whole = made.finish(Prediction(**{**vars(made.shown.prediction), "recipe": {"ended": True}}))
    assert whole.is_whole
    assert [layer.name for layer in viewer.layers] == ["em", "probability", "binary"]
    assert viewer.layers["binary"].metadata["skipseg"]["recipe"] == {"ended": True}


def test_a_stopped_run_says_how_much_is_done(filling):
    _, made = filling
    made.on_tile_written(written(1, 8, (1, 2), (0, 4), (0, 8)))
    assert made.stop(0.5)[1] == "1 of 8 tiles is done; the rest is empty."
    made.on_tile_written(written(2, 8, (1, 2), (4, 8), (0, 8)))
    shown, said = made.stop(0.5)
    assert said == "2 of 8 tiles are done; the rest is empty."
    assert not shown.is_whole


def test_where_a_tile_takes_several_passes_the_share_is_told(filling):
    _, made = filling
    made.on_tile_written(written(10, 80, (1, 2), (0, 8), (0, 8)))
    assert made.stop(0.5)[1] == "25 % is done; the rest is empty."


def test_an_earlier_result_comes_back_into_the_same_layers(filling):
    viewer, made = filling
    before = made.part.show(empty_prediction(4, 8, 8), is_whole=True)
    layers = list(viewer.layers)
    made.earlier = before
    assert made.stop(0.5) == (before, "the earlier result is back.")
    made.on_tile_written(written(1, 8, (1, 2), (0, 4), (0, 8)))
    assert made.stop(0.5) == (before, "1 of 8 tiles is done; the earlier result is back.")
    assert list(viewer.layers) == layers
    assert viewer.layers["probability"].data is before.prediction.probability


def test_a_run_stopped_before_its_first_tile_leaves_no_layers(filling):
    viewer, made = filling
    assert made.stop(0.5) == (None, "")
    assert [layer.name for layer in viewer.layers] == ["em"]


def test_the_focus_is_in_voxels_of_the_result_and_names_no_channel():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((2, 6, 40, 50)))
    getattr(viewer, "scene", viewer).camera.zoom = 0.01
    viewer.dims.set_current_step(1, 4)
    assert find_focus(viewer, layer, "CZYX", {}) == Focus({"Z": (4, 4), "Y": (0, 39), "X": (0, 49)})
    assert find_focus(viewer, layer, "CZYX", {1: 3, 2: 8}).view == {"Z": (1, 1), "Y": (-8, 31), "X": (0, 49)}


def test_the_focus_is_told_until_the_results_are_open_and_then_only_news_are():
    heard = []

    def work():
        for progress in (Progress(0, 1), Progress(0, 1), ResultsOpened(0, 1), written(1, 2), written(2, 2)):
            heard.append((yield progress))
        return "done"

    first, newer, last = Focus({"Z": (1, 1)}), Focus({"Z": (2, 2)}), Focus({"Z": (3, 3)})
    steps = with_first_view(work, first)
    progress = [steps.send(focus) for focus in (None, None, None, newer, None)]
    assert [each.done for each in progress] == [0, 0, 0, 1, 2]
    with pytest.raises(StopIteration, match="done"):
        steps.send(last)
    assert heard == [first, first, newer, None, last]


def test_layers_appear_at_once_and_the_threshold_moves_while_they_fill(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image = np.full((3, 32, 48), 100, np.uint8)
    viewer.add_image(image, name="em")
    engine.steps, engine.held_at = 16, 9
    press(qtbot, panel)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    tab = panel.segment_tab
    assert tab.is_running
    assert viewer.layers["probability"].data[:, 20:].max() == 0
    binary = viewer.layers["binary"]
    tab.form.threshold.setValue(0.2)
    qtbot.waitUntil(lambda: binary.get_value((*viewer.dims.point[:1], 3, 3)) == 1)
    assert binary.get_value((*viewer.dims.point[:1], 31, 3)) == 0
    assert tab.is_running
    assert not tab.save_button.isEnabled()
    engine.release.set()
    qtbot.waitUntil(lambda: not tab.is_running)
    assert np.asarray(binary.data).all()
    assert viewer.layers["probability"].metadata["skipseg"]["recipe"]["notes"] == ("ended",)


def test_the_engine_hears_where_one_looks_at_the_start_and_when_that_changes(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((5, 32, 48), np.uint8), name="em")
    viewer.dims.set_current_step(0, 3)
    engine.steps, engine.pause = 40, 0.05
    press(qtbot, panel)
    qtbot.waitUntil(lambda: len(engine.sent) > 0)
    assert engine.sent[0].view == {"Z": (3, 3), "Y": (0, 31), "X": (0, 47)}
    for step in (2, 1, 0):
        viewer.dims.set_current_step(0, step)
    qtbot.waitUntil(lambda: len(engine.sent) > 1)
    assert engine.sent[1].view["Z"] == (0, 0)
    camera = getattr(viewer, "scene", viewer).camera
    camera.center, camera.zoom = (0, 8, 8), 100.0
    qtbot.waitUntil(lambda: len(engine.sent) > 2)
    low, high = engine.sent[2].view["Y"]
    assert 0 < low < 8 < high < 31
    panel.segment_tab.cancel()
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    assert len(engine.sent) == 3


def test_labels_over_channels_follow_too(open_panel, qtbot):
    viewer, panel = open_panel()
    image = np.full((2, 3, 32, 48), 200, np.uint8)
    viewer.add_image(image, axis_labels=("z", "c", "y", "x"))
    combo = panel.segment_tab.form.channel
    combo.setCurrentIndex(combo.findData(1))
    combo.activated.emit(combo.currentIndex())
    press(qtbot, panel)
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    binary = viewer.layers["binary"]
    assert binary.data.shape == (2, 3, 32, 48)
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    panel.segment_tab.form.threshold.setValue(0.9)
    assert not np.asarray(binary.data).any()
