"""The switch Live: what is asked of the engine after strokes and moves, and what the layers and the brush do."""

import threading

import numpy as np
import pytest
from hand import Hand, choose, correct, open_and_correct, settle
from qtpy.QtCore import Qt
from vispy.color import Color

from napari_skipseg.errors import EngineError
from napari_skipseg.jobs.messages import LiveView
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import LiveResult
from napari_skipseg.widgets.correct.live_view import LARGEST_SIDE, MOST_TILES_ELSEWHERE
from napari_skipseg.widgets.layers.results import KEY

pytestmark = pytest.mark.gui


class LiveEngine:
    """Answers as the live view does: the probability of each class is 1 where it is painted in the view."""

    def __init__(self, engine) -> None:
        self.requests: list[LiveView] = []
        self.fault: Exception | None = None
        self.held = threading.Event()
        self.held.set()
        self.cancelled = 0
        engine.answers[LiveView] = self._answer

    def _answer(self, request: LiveView):
        self.requests.append(request)
        try:
            while not self.held.wait(0.01):
                yield Progress(0, 1, "fitting")
            yield Progress(0, 1, "fitting")
        except GeneratorExit:
            self.cancelled += 1
            raise
        if self.fault is not None:
            raise self.fault
        if not request.parts:
            return LiveResult()
        labels = request.parts[0].labels
        found = [np.float32(labels == number) for number in range(2, len(request.names) + 2)]
        return LiveResult(request.names, np.stack(found))

    def last(self) -> LiveView:
        return self.requests[-1]


@pytest.fixture
def live_engine(engine) -> LiveEngine:
    return LiveEngine(engine)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


def live_layers(viewer):
    return [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("role", "").startswith("live ")]


def switch_on(qtbot, panel, engine) -> None:
    """Turn Live on, and wait until nothing is left to do."""
    panel.correct_tab.live.switch.click()
    wait_for_rest(qtbot, panel, engine)


def wait_for_rest(qtbot, panel, engine) -> None:
    live = panel.correct_tab.live
    version = panel.correct_tab.session.corrections.version
    qtbot.waitUntil(lambda: live._seen == live._shown and live._shown.version == version, timeout=10000)


def test_each_stroke_is_shown_in_a_layer_with_the_colour_of_its_class_and_the_brush_stays(
    open_panel, qtbot, live_engine
) -> None:
    viewer, panel, hand = open_and_correct(open_panel, qtbot, noise(3, 200, 300))
    viewer.dims.set_current_step(0, 2)
    switch_on(qtbot, panel, live_engine)
    strokes = panel.correct_tab.session.layers.strokes
    hand.drag((40, 40), (40, 60))
    wait_for_rest(qtbot, panel, live_engine)
    (layer,) = live_layers(viewer)
    assert layer.name == "membrane live"
    assert layer.data.shape[0] == 1
    np.testing.assert_allclose(layer.translate[0], 2)
    view = live_engine.last().parts[0]
    assert (view.time, view.z) == (0, 2)
    assert layer.data[0, 40 - view.box[0][0], 50 - view.box[1][0]] == 1
    np.testing.assert_allclose(
        layer.colormap.colors[-1], Color(panel.correct_tab.session.corrections.classes[0].color).rgba, atol=0.01
    )
    assert viewer.layers.selection.active is strokes
    assert strokes.mode == "paint"
    hand.drag((120, 100), (120, 140))
    wait_for_rest(qtbot, panel, live_engine)
    assert live_layers(viewer) == [layer]
    assert layer.data[0, 120 - view.box[0][0], 120 - view.box[1][0]] == 1


def test_strokes_elsewhere_are_sent_with_their_surroundings_and_classes_that_are_not_judged_are_background(
    open_panel, qtbot, live_engine
) -> None:
    image = np.arange(4 * 200 * 300).reshape(4, 200, 300).astype(np.uint16)
    viewer, panel, _ = open_and_correct(open_panel, qtbot, image)
    tab = panel.correct_tab
    tab.actions.add_class()
    tab.actions.rename_class(3, "vesicle")
    strokes = tab.session.corrections.strokes
    strokes[0, 10:20, 10:20] = 2
    strokes[3, 130:140, 200:210] = 3
    viewer.dims.set_current_step(0, 3)
    tab.show_amounts()
    tab.body.classes.rows[2].judged.click()  # membrane
    switch_on(qtbot, panel, live_engine)
    request = live_engine.last()
    assert request.names == ("vesicle",)
    view, other = request.parts
    assert (other.time, other.z, other.box) == (0, 0, ((0, 64), (0, 64)))
    assert set(np.unique(other.labels)) == {0, 1}
    assert view.labels[135 - view.box[0][0], 205 - view.box[1][0]] == 2
    np.testing.assert_array_equal(other.pixels, image[None, 0, :128, :128])


def test_moving_to_another_slice_asks_anew_and_cancels_what_is_at_work(open_panel, qtbot, live_engine) -> None:
    viewer, panel, _ = open_and_correct(open_panel, qtbot, noise(3, 200, 300))
    viewer.dims.set_current_step(0, 0)
    live_engine.held.clear()
    panel.correct_tab.live.switch.click()
    qtbot.waitUntil(lambda: len(live_engine.requests) == 1)
    viewer.dims.set_current_step(0, 1)
    qtbot.waitUntil(lambda: live_engine.cancelled == 1)
    live_engine.held.set()
    wait_for_rest(qtbot, panel, live_engine)
    assert live_engine.last().parts[0].z == 1


def test_strokes_during_a_request_make_no_queue(open_panel, qtbot, live_engine) -> None:
    _, panel, hand = open_and_correct(open_panel, qtbot, noise(200, 300))
    live_engine.held.clear()
    panel.correct_tab.live.switch.click()
    qtbot.waitUntil(lambda: len(live_engine.requests) == 1)
    for x in (40, 80, 120, 160):
        hand.drag((40, x), (60, x))
    qtbot.wait(300)
    assert len(live_engine.requests) == 1
    live_engine.held.set()
    wait_for_rest(qtbot, panel, live_engine)
    assert np.count_nonzero(live_engine.last().parts[0].labels) == np.count_nonzero(
        np.asarray(panel.correct_tab.session.corrections.strokes)
    )
    assert len(live_engine.requests) <= 4


def test_off_the_layers_go_and_the_engine_drops_what_it_keeps(open_panel, qtbot, live_engine) -> None:
    viewer, panel, hand = open_and_correct(open_panel, qtbot, noise(200, 300))
    switch_on(qtbot, panel, live_engine)
    hand.drag((40, 40), (40, 60))
    wait_for_rest(qtbot, panel, live_engine)
    assert live_layers(viewer)
    painted = np.asarray(panel.correct_tab.session.corrections.strokes).copy()
    panel.correct_tab.live.switch.click()
    assert not live_layers(viewer)
    qtbot.waitUntil(lambda: live_engine.last().parts == ())
    count = len(live_engine.requests)
    hand.drag((90, 40), (90, 60))
    qtbot.wait(400)
    assert len(live_engine.requests) == count
    assert np.count_nonzero(np.asarray(panel.correct_tab.session.corrections.strokes)) > np.count_nonzero(painted)


def test_a_dead_engine_is_one_sentence_and_the_next_stroke_asks_again(open_panel, qtbot, live_engine) -> None:
    viewer, panel, hand = open_and_correct(open_panel, qtbot, noise(200, 300))
    live_engine.fault = EngineError("The engine process was killed: try again.")
    panel.correct_tab.live.switch.click()
    qtbot.waitUntil(lambda: "killed" in panel.correct_tab.live.message.text())
    count = len(live_engine.requests)
    qtbot.wait(800)
    assert len(live_engine.requests) == count
    live_engine.fault = None
    hand.drag((40, 40), (40, 60))
    wait_for_rest(qtbot, panel, live_engine)
    assert panel.correct_tab.live.message.text() == ""
    assert live_layers(viewer)


def test_while_a_segmentation_runs_live_waits_and_says_so(open_panel, qtbot, live_engine, engine) -> None:
    _, panel, hand = open_and_correct(open_panel, qtbot, noise(200, 300))
    switch_on(qtbot, panel, live_engine)
    engine.held_at = 2
    panel.segment_tab.segment_button.click()
    hand.drag((40, 40), (40, 60))
    qtbot.waitUntil(lambda: "waits for the segmentation" in panel.correct_tab.live.message.text())
    engine.release.set()
    wait_for_rest(qtbot, panel, live_engine)
    assert np.count_nonzero(live_engine.last().parts[0].labels)


def test_a_click_on_segment_does_not_wait_for_live(open_panel, qtbot, live_engine, engine) -> None:
    _, panel, _ = open_and_correct(open_panel, qtbot, noise(200, 300))
    live_engine.held.clear()
    panel.correct_tab.live.switch.click()
    qtbot.waitUntil(lambda: len(live_engine.requests) == 1)
    panel.segment_tab.segment_button.click()
    qtbot.waitUntil(lambda: live_engine.cancelled == 1)
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    live_engine.held.set()
    wait_for_rest(qtbot, panel, live_engine)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda viewer, panel: choose(panel.segment_tab.form.model, "tiny-3d"), "3D model"),
        (lambda viewer, panel: setattr(viewer.dims, "ndisplay", 3), "3D view"),
        (lambda viewer, panel: viewer.dims.transpose(), ""),
    ],
)
def test_what_live_cannot_show_is_a_sentence(open_panel, qtbot, live_engine, prepare, said) -> None:
    viewer, panel, _ = open_and_correct(open_panel, qtbot, noise(4, 200, 300))
    switch_on(qtbot, panel, live_engine)
    prepare(viewer, panel)
    if said:
        qtbot.waitUntil(lambda: said in panel.correct_tab.live.message.text())
    else:
        wait_for_rest(qtbot, panel, live_engine)


@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 3, 200, 300), "TZYX"), ((2, 200, 300), "CYX"), ((3, 2, 200, 300), "ZCYX")]
)
def test_images_with_more_axes(open_panel, qtbot, live_engine, shape, axes) -> None:
    viewer, panel = open_panel()
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    viewer.add_image(image, name="em")
    panel.segment_tab.form.axes.setText(axes)
    panel.segment_tab.form.axes.edited.emit()
    settle()
    if "C" in axes:
        choose(panel.segment_tab.form.channel, 1)
    if axes == "ZCYX":  # such an image cannot be corrected, with or without Live
        assert not panel.correct_tab.correct_button.isEnabled()
        return
    correct(qtbot, panel)
    viewer.dims.set_current_step(0, 1)
    switch_on(qtbot, panel, live_engine)
    Hand(viewer, panel).drag((40, 40), (40, 60))
    wait_for_rest(qtbot, panel, live_engine)
    view = live_engine.last().parts[0]
    plane = {"TZYX": image[1, viewer.dims.current_step[1]], "CYX": image[1]}[axes]
    height, width = view.pixels.shape[1:]
    np.testing.assert_array_equal(view.pixels[0], plane[view.corner[0] :, view.corner[1] :][:height, :width])
    (layer,) = live_layers(viewer)
    assert layer.ndim == len(axes.replace("C", ""))


def test_of_a_large_image_a_part_around_the_last_stroke_is_shown(open_panel, qtbot, live_engine) -> None:
    viewer, panel, hand = open_and_correct(open_panel, qtbot, noise(2000, 2400))
    viewer.reset_view()
    switch_on(qtbot, panel, live_engine)
    hand.drag((200, 300), (240, 300))
    wait_for_rest(qtbot, panel, live_engine)
    (top, bottom), (left, right) = live_engine.last().parts[0].box
    assert top <= 200 < 240 <= bottom
    assert left <= 300 < right
    assert max(bottom - top, right - left) == LARGEST_SIDE
    assert "zoom in" in panel.correct_tab.live.message.text()


def test_of_very_many_labels_only_some_tiles_are_sent(open_panel, qtbot, live_engine) -> None:
    viewer, panel, _ = open_and_correct(open_panel, qtbot, noise(12, 400, 400))
    panel.correct_tab.session.corrections.strokes[...] = 1
    panel.correct_tab.session.corrections.strokes[3, 5:9, 5:9] = 2
    viewer.dims.set_current_step(0, 11)
    switch_on(qtbot, panel, live_engine)
    parts = live_engine.last().parts
    assert len(parts) == MOST_TILES_ELSEWHERE + 1
    assert any((part.labels == 2).any() for part in parts)


def test_a_stroke_that_is_undone_is_taken_back_in_the_view(open_panel, qtbot, live_engine) -> None:
    _, panel, hand = open_and_correct(open_panel, qtbot, noise(200, 300))
    switch_on(qtbot, panel, live_engine)
    hand.drag((40, 40), (40, 60))
    wait_for_rest(qtbot, panel, live_engine)
    assert live_engine.last().parts[0].labels.any()
    hand.press(Qt.Key.Key_U)
    wait_for_rest(qtbot, panel, live_engine)
    assert not live_engine.last().parts[0].labels.any()
