"""The Inspect tab in a real window: what the plots hold, and where the layers of the gates lie."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from napari.utils.theme import get_theme
from qtpy.QtCore import QPointF, Qt

from napari_skipseg.errors import EngineError
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs.messages import Inspect
from napari_skipseg.models import catalog
from napari_skipseg.models.catalog import describe_model, locate_model
from napari_skipseg.models.description import TrainingRecord
from napari_skipseg.models.selection import read_selection
from napari_skipseg.progress import Progress
from napari_skipseg.studies.inspection import GateMap, InspectedPart, Inspection, cut_part
from napari_skipseg.widgets.panel import SkipSegPanel

pytestmark = pytest.mark.gui
BUILT_IN = Path(catalog.__file__).parent / "builtin"


@pytest.fixture
def engine(engine):
    """The engine without a process, which also inspects: the image, its half, and a quarter of it as attention."""

    def inspect(request: Inspect) -> Generator[Progress, None, Inspection]:
        engine.calls.append((request.gate, request.part, request.channel))
        return _inspect(engine, request.stack.channel(request.channel or 0), request.gate, request.part)

    engine.answers[Inspect], engine.is_busy = inspect, False
    return engine


def _inspect(engine, stack: Stack, place: str, part: InspectedPart) -> Generator[Progress, None, Inspection]:
    for step in range(engine.steps):
        time.sleep(engine.pause)
        yield Progress(0, 1, f"step {step}")
        if engine.fault is not None:
            raise engine.fault
    seen = "ZYX" if part["Z"].stop - part["Z"].start > 1 else "YX"
    cut = cut_part(stack, part, seen)
    stride = int(place[-1])
    image = np.asarray(cut.data, np.float32)[(slice(None, None, stride),) * len(seen)]
    before = np.stack([image, image + 1, image + 2])
    maps = tuple(GateMap(f"long skip {n}", 1, n, image[..., ::n, ::n]) for n in (1, 2))
    start = {axis: places.start for axis, places in part.items()}
    return Inspection(place, seen, stride, before, before / 2, (0.0, 255.0), 2, maps, start, {"gate": place})


@pytest.fixture
def open_tab(open_panel, qtbot, monkeypatch):
    """Open the panel at its Inspect tab, with the built-in models; give (viewer, tab)."""
    monkeypatch.setattr("napari_skipseg.models.catalog.BUILT_IN", BUILT_IN)

    def open_it(with_engine=None):
        viewer, panel = open_panel(with_engine)
        panel.tabs.setCurrentIndex([panel.tabs.tabText(n) for n in range(panel.tabs.count())].index("Inspect"))
        qtbot.waitUntil(lambda: panel.inspect_tab.plots is not None, timeout=60_000)
        return viewer, panel.inspect_tab

    return open_it


def choose(combo, value: object) -> None:
    index = combo.findData(value)
    assert index >= 0
    combo.setCurrentIndex(index)
    combo.activated.emit(index)


def press(qtbot, tab, wait: bool = True) -> None:
    assert tab.show_button.isEnabled(), tab.message.text()
    qtbot.mouseClick(tab.show_button, Qt.MouseButton.LeftButton)
    assert tab.is_running
    if wait:
        qtbot.waitUntil(lambda: not tab.is_running, timeout=120_000)


def segment_tab_of(tab):
    return tab.window().findChild(SkipSegPanel).segment_tab


def image(*shape: int) -> np.ndarray:
    return np.linspace(0, 255, int(np.prod(shape))).reshape(shape).astype(np.uint8)


def test_plots_start_with_the_model_of_the_segment_tab_and_hold_its_channels(open_tab):
    _, tab = open_tab()
    plots = tab.plots
    assert (tab.model.currentText(), tab.network.text()) == ("em-membrane (non-commercial)", "2D unet, skip sat")
    assert [plots.gate.itemText(n) for n in range(plots.gate.count())] == ["long skip 1", "long skip 2", "long skip 3"]
    for gate in read_selection(BUILT_IN / "em-membrane"):
        choose(plots.gate, gate.place)
        off = np.flatnonzero(gate.weights <= 0)
        np.testing.assert_array_equal(plots.channels.bars.opts["height"], gate.truncated)
        np.testing.assert_array_equal(plots.channels.off.opts["x"], off)
        assert len(plots.channels.started.opts["height"]) == 0
        assert plots.channels_note.text().startswith(f"{len(off)} of {len(gate.weights)} channels are off (")
    assert "before training was not recorded" in plots.channels_note.text()
    assert plots.channels.isVisible()
    assert plots.curves.isVisible()
    assert not plots.updates.isVisible()
    assert "with --epoch N records them" in plots.updates_note.text()
    assert plots.channels.height() == plots.curves.height() == 162
    assert tab.width() <= tab.parent().width()


def test_what_a_training_recorded_is_plotted(open_tab):
    _, tab = open_tab()
    gate = read_selection(BUILT_IN / "em-membrane")[0]
    gate = replace(gate, weights=np.array([0.5, -1, 2, 0], np.float32), start=np.array([1, -1, 1, 1], np.float32))
    record = TrainingRecord(
        curves={"training loss": ((1, 0.5), (9, 0.25)), "held-out loss": ((9, 0.3),), "held-out Dice": ((9, 0.9),)},
        updates={"first": (0.1, 0.01, 0.0), "last": (0.001, 0.1, 0.1)},
    )
    tab.plots.show_model(replace(describe_model("em-membrane"), training=record), (gate,))
    plots = tab.plots
    assert plots.channels_note.text() == "2 of 4 channels are off (50 %, orange); 25 % at the start (grey)."
    np.testing.assert_array_equal(plots.channels.started.opts["height"], [1, 0, 1, 1])
    assert plots.channels.describe(1.2, 0) == "channel 1: off, weight -1.000, -1.000 at the start"
    np.testing.assert_allclose(plots.updates.image.image, [[-1, -2, -3], [-3, -1, -1]])
    assert plots.updates.describe(2.1, 1.4) == "first, epoch 2: mean |ΔW| = 0.01"
    assert plots.updates.describe(1, 3) == ""
    shown = {item.name(): list(item.getData()[1]) for item in plots.curves.plotItem.listDataItems()}
    assert shown == {"training loss": [0.5, 0.25], "held-out loss": [0.3]}


def test_a_model_without_gates_says_so(open_tab):
    viewer, tab = open_tab()
    viewer.add_image(image(8, 8))
    choose(tab.model, "em-membrane-residual")
    assert "no gates that select or attend (its skip is sum)" in tab.plots.channels_note.text()
    assert not tab.plots.channels.isVisible()
    assert not tab.show_button.isEnabled()
    assert "no gates to show" in tab.message.text()


def test_gates_lie_exactly_over_the_slice_that_is_on_screen(open_tab, qtbot, engine):
    viewer, tab = open_tab()
    assert "Open an image first" in tab.message.text()
    em = viewer.add_image(image(5, 32, 48), name="em", scale=(50, 4, 4), units="nm", translate=(0, 8, 0))
    viewer.dims.set_current_step(0, 3)
    choose(tab.plots.gate, "long skip 2")
    press(qtbot, tab)
    assert engine.calls[-1] == ("long skip 2", {"Z": slice(3, 4), "Y": slice(0, 32), "X": slice(0, 48)}, None)
    names = ["em", "long skip 2 attention", "long skip 2 before", "long skip 2 after"]
    assert [layer.name for layer in viewer.layers] == names
    after, attention = viewer.layers[names[3]], viewer.layers[names[1]]
    np.testing.assert_array_equal(after.data[1, 0], (em.data[3, ::2, ::2].astype(float) + 1) / 2)
    assert (list(after.scale), list(after.translate)) == ([1, 50, 8, 8], [0, 150, 10, 2])
    assert [str(unit) for unit in after.units] == ["pixel", "nanometer", "nanometer", "nanometer"]
    assert (list(attention.scale), list(attention.translate)) == ([50, 8, 8], [150, 10, 2])
    assert not attention.visible
    assert (viewer.dims.current_step[-4], viewer.dims.current_step[-3]) == (2, 3)
    assert "long skip 2 of the slice at z = 3" in tab.message.text()
    assert segment_tab_of(tab).form.image.count() == 1
    em.scale = (50, 2, 2)
    assert (list(after.scale), list(after.translate)) == ([1, 50, 4, 4], [0, 150, 9, 1])


def test_another_look_takes_the_place_of_the_first_and_a_click_chooses_the_channel(open_tab, qtbot):
    viewer, tab = open_tab()
    viewer.add_image(image(2, 16, 16), name="em")
    tab.all_maps.setChecked(True)
    press(qtbot, tab)
    choose(tab.plots.gate, "long skip 2")
    press(qtbot, tab)
    assert [layer.name for layer in viewer.layers][1:] == [
        "long skip 2 attention",
        "long skip 1 attention",
        "long skip 2 before",
        "long skip 2 after",
    ]
    plot = tab.plots.channels
    place = plot.mapFromScene(plot.plotItem.vb.mapViewToScene(QPointF(1, 0)))
    qtbot.mouseClick(plot.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert viewer.dims.current_step[0] == 1


def test_channels_of_an_image_and_a_volume_are_looked_into(open_tab, qtbot, engine):
    viewer, tab = open_tab()
    viewer.add_image(image(2, 8, 16, 16), name="em", axis_labels=("c", "z", "y", "x"))
    choose(tab.model, "em-boundary-3d")
    assert "Choose the channel" in tab.message.text()
    choose(segment_tab_of(tab).form.channel, 1)
    assert tab.show_button.text() == "Show gates in this volume"
    press(qtbot, tab)
    assert engine.calls[-1][1:] == ({"Z": slice(0, 8), "Y": slice(0, 16), "X": slice(0, 16)}, 1)
    after = viewer.layers["long skip 1 after"]
    assert after.data.shape == (3, 2, 8, 16, 16)
    assert after.axis_labels == ("feature", "c", "z", "y", "x")
    np.testing.assert_array_equal(after.data[0, 0], image(2, 8, 16, 16)[1] / 2)


def test_cancel_and_a_fault_change_nothing_and_the_next_run_works(open_tab, qtbot, engine):
    viewer, tab = open_tab()
    viewer.add_image(image(16, 16))
    engine.steps, engine.pause = 200, 0.02
    press(qtbot, tab, wait=False)
    qtbot.waitUntil(lambda: "step" in tab.progress_text.text(), timeout=20_000)
    assert not tab.show_button.isEnabled()
    qtbot.mouseClick(tab.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=20_000)
    assert "Nothing was changed" in tab.message.text()
    engine.steps, engine.pause, engine.fault = 2, 0.0, EngineError("It went wrong: try again.")
    press(qtbot, tab)
    assert tab.message.text() == str(engine.fault)
    assert len(viewer.layers) == 1
    engine.fault = None


def test_while_the_segment_tab_runs_the_button_says_so(open_tab, qtbot, engine):
    viewer, tab = open_tab()
    viewer.add_image(image(16, 16))
    engine.steps, engine.pause = 50, 0.02
    segment_tab = segment_tab_of(tab)
    segment_tab.segment()
    tab.hide()
    tab.show()
    assert not tab.show_button.isEnabled()
    assert "Segment tab is running" in tab.message.text()
    segment_tab.cancel()
    qtbot.waitUntil(lambda: not segment_tab.is_running, timeout=20_000)
    assert tab.show_button.isEnabled()


def test_plots_follow_the_theme(open_tab):
    viewer, tab = open_tab()
    for theme in ("dark", "light"):
        viewer.theme = theme
        for plot in (tab.plots.channels, tab.plots.updates, tab.plots.curves):
            assert plot.backgroundBrush().color().name() == get_theme(theme).background.as_hex("long")
            assert plot.getAxis("left").textPen().color().name() == get_theme(theme).text.as_hex("long")


def test_the_real_engine_shows_what_a_gate_lets_through(open_tab, qtbot, real_engine):
    viewer, tab = open_tab(real_engine)
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (3, 60, 70), np.uint8), name="em")
    choose(tab.plots.gate, "long skip 3")
    press(qtbot, tab)
    before, after = (np.asarray(viewer.layers[f"long skip 3 {kind}"].data) for kind in ("before", "after"))
    assert before.shape == after.shape == (128, 1, 15, 18)
    gate = read_selection(locate_model("em-membrane"))[2]
    np.testing.assert_allclose(after, before * gate.truncated[:, None, None, None], rtol=1e-3, atol=1e-6)
    assert list(viewer.layers["long skip 3 after"].translate) == [0, 1, 1.5, 1.5]
