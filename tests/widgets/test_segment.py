"""The Segment tab in a real window: real clicks, and the values of the layers that appear."""

from __future__ import annotations

import os
import re
import signal

import numpy as np
import pytest
from hand import choose, ramp, settle
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt

from napari_skipseg.errors import EngineError
from napari_skipseg.images.files import read_stack

pytestmark = pytest.mark.gui


def press(qtbot, panel, wait: bool = True) -> None:
    tab = panel.segment_tab
    assert tab.segment_button.isEnabled(), tab.message.text()
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    assert tab.is_running
    if wait:
        qtbot.waitUntil(lambda: not tab.is_running)


def save_as(qtbot, tab, monkeypatch, folder, results=None, form="tiff", depth="uint8") -> None:
    """Press Save results, choose in its dialog, and wait until all is written."""
    from napari_skipseg.widgets.segment.outcome import SaveDialog

    def choose_and_accept(dialog):
        dialog.folder.text.setText(str(folder))
        for name, tick in dialog.ticks.items():
            tick.setChecked(results is None or name in results)
        dialog.form.setCurrentIndex(dialog.form.findData(form))
        dialog.depth.setCurrentIndex(dialog.depth.findData(depth))
        return SaveDialog.DialogCode.Accepted

    monkeypatch.setattr(SaveDialog, "exec", choose_and_accept)
    qtbot.mouseClick(tab.save_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running)


def test_segment_shows_probability_binary_and_hidden_attention(open_panel, qtbot, engine):
    engine.levels = (1, 2)
    viewer, panel = open_panel()
    image = ramp(4, 32, 48)
    viewer.add_image(image, name="em", scale=(50, 4, 4), units="nm", axis_labels=("z", "y", "x"))
    press(qtbot, panel)
    assert [layer.name for layer in viewer.layers] == ["em", "attention 2", "attention 1", "probability", "binary"]
    np.testing.assert_allclose(viewer.layers["probability"].data, image / 255, atol=1e-6)
    assert viewer.layers["probability"].contrast_limits == [0, 1]
    np.testing.assert_array_equal(np.asarray(viewer.layers["binary"].data), image / 255 > 0.5)
    assert [layer.visible for layer in viewer.layers] == [True, False, False, True, True]
    assert not viewer.layers["binary"].editable
    for layer in viewer.layers:
        assert [str(unit) for unit in layer.units] == ["nanometer"] * 3
        assert layer.axis_labels == ("z", "y", "x")
    stack, model, options = engine.calls[0]
    assert (stack.space.voxel_size, stack.space.unit, model, options.threshold) == (
        (50.0, 4.0, 4.0),
        "nm",
        "tiny-2d",
        0.5,
    )


def test_threshold_moves_the_binary_layer_without_a_run(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image = ramp(32, 48)
    viewer.add_image(image)
    press(qtbot, panel)
    panel.segment_tab.form.threshold.setValue(0.25)
    np.testing.assert_array_equal(np.asarray(viewer.layers["binary"].data), image / 255 > 0.25)
    press(qtbot, panel)
    np.testing.assert_array_equal(np.asarray(viewer.layers["binary"].data), image / 255 > 0.25)
    assert (len(engine.calls), len(viewer.layers)) == (2, 3)


def test_samples_ask_for_a_dropout_rate_and_show_uncertainty(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image, tab = ramp(32, 48), panel.segment_tab
    viewer.add_image(image)
    options = tab.form.options
    options.expand(animate=False)
    assert not options.dropout.isEnabled()
    options.samples.setValue(8)
    assert not tab.segment_button.isEnabled()
    assert "trained without dropout" in tab.message.text()
    assert "trained without dropout" in options.dropout.toolTip()
    options.dropout.setValue(0.2)
    press(qtbot, panel)
    asked = engine.calls[0][2]
    assert (asked.samples, asked.dropout) == (8, 0.2)
    np.testing.assert_allclose(viewer.layers["uncertainty"].data, image / 2550, atol=1e-6)
    options.samples.setValue(0)
    press(qtbot, panel)
    assert "uncertainty" not in viewer.layers


def test_current_slice_is_segmented_alone_and_shown_at_its_place(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(ramp(5, 32, 48), scale=(50, 4, 4))
    choose(panel.segment_tab.form.extent, "current")
    viewer.dims.set_current_step(0, 3)
    press(qtbot, panel)
    assert engine.calls[0][0].shape == (1, 32, 48)
    np.testing.assert_array_equal(np.asarray(engine.calls[0][0].data)[0], ramp(5, 32, 48)[3])
    assert engine.wholes[0].shape == (5, 32, 48)
    assert viewer.layers["z 3 probability"].data.shape == (1, 32, 48)
    assert viewer.layers["z 3 probability"].translate[0] == 150
    assert viewer.dims.current_step[0] == 3


def looks(viewer) -> dict[str, tuple[bool, tuple[int, ...]]]:
    """Whether each probability is on show, and its shape."""
    return {each.name: (each.visible, each.data.shape) for each in viewer.layers if "probability" in each.name}


def test_a_current_slice_never_replaces_a_whole_result_nor_another_slice(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(ramp(5, 32, 48), name="em")
    tab = panel.segment_tab
    press(qtbot, panel)
    whole = viewer.layers["probability"].data
    choose(tab.form.extent, "current")
    for place in (3, 1, 3):
        viewer.dims.set_current_step(0, place)
        press(qtbot, panel)
    assert viewer.layers["probability"].data is whole
    assert looks(viewer) == {
        "probability": (False, (5, 32, 48)),
        "z 3 probability": (True, (1, 32, 48)),
        "z 1 probability": (False, (1, 32, 48)),
    }
    assert "Slice z 3 segmented" in tab.done.text()
    assert "is kept" in tab.done.text()
    choose(tab.form.extent, "whole")
    press(qtbot, panel)
    assert [name for name, (visible, _) in looks(viewer).items() if visible] == ["probability"]


def test_the_whole_result_outlives_slices_in_front_of_it_that_are_removed_or_cancelled(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(ramp(5, 32, 48), name="em")
    tab = panel.segment_tab
    press(qtbot, panel)
    whole = np.array(viewer.layers["probability"].data)
    choose(tab.form.extent, "current")
    press(qtbot, panel)
    for layer in [each for each in viewer.layers if each.name.startswith("z 2 ")]:
        viewer.layers.remove(layer)
    assert looks(viewer) == {"probability": (True, (5, 32, 48))}
    engine.steps, engine.pause = 60, 0.1
    press(qtbot, panel, wait=False)
    qtbot.waitUntil(lambda: any(each.name == "z 2 probability" for each in viewer.layers))
    tab.cancel()
    qtbot.waitUntil(lambda: not tab.is_running)
    np.testing.assert_array_equal(viewer.layers["probability"].data, whole)


def test_what_is_selected_is_saved_a_slice_beside_the_whole(open_panel, qtbot, tmp_path, monkeypatch):
    viewer, panel = open_panel()
    viewer.add_image(ramp(5, 32, 48), name="em", scale=(50, 4, 4), units="nm")
    tab = panel.segment_tab
    press(qtbot, panel)
    choose(tab.form.extent, "current")
    press(qtbot, panel)
    for name in ("probability", "z 2 probability"):
        viewer.layers.selection.active = viewer.layers[name]
        save_as(qtbot, tab, monkeypatch, tmp_path, {"probability"})
    shapes = {path.name: read_stack(path).shape for path in tmp_path.glob("*.tif")}
    assert shapes == {"em_probability.tif": (5, 32, 48), "em_z2_probability.tif": (32, 48)}


def test_a_run_ends_with_a_line_that_says_how_long_it_took_and_what_was_found(open_panel, qtbot):
    viewer, panel = open_panel()
    image = np.zeros((2, 32, 48), np.uint8)
    image[:, :8] = 255
    viewer.add_image(image, name="em")
    tab = panel.segment_tab
    press(qtbot, panel)
    assert tab.done.text().startswith("2 slices segmented in ")
    assert tab.done.text().endswith(": 25 % is membrane (above 0.50).")
    tab.form.model.setCurrentIndex(1)
    tab.form.model.activated.emit(1)
    assert not tab.done.isVisible()


def test_rgb_asks_for_a_channel_first(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image = np.stack([ramp(32, 48), 255 - ramp(32, 48), np.zeros((32, 48), np.uint8)], -1)
    viewer.add_image(image, rgb=True, name="photo")
    tab = panel.segment_tab
    assert not tab.segment_button.isEnabled()
    assert tab.message.text() == tab.form.channel.toolTip() == "Choose the channel to segment."
    choose(tab.form.channel, 1)
    press(qtbot, panel)
    np.testing.assert_allclose(viewer.layers["probability"].data, image[..., 1] / 255, atol=1e-6)


def test_time_series_goes_through_time_and_depth(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(ramp(2, 3, 32, 48), axis_labels=("t", "z", "y", "x"))
    press(qtbot, panel)
    assert engine.calls[0][0].space.axes == "TZYX"
    assert viewer.layers["binary"].data.shape == (2, 3, 32, 48)


def test_what_is_wrong_is_said_and_segment_is_off(open_panel, qtbot):
    viewer, panel = open_panel()
    tab, form = panel.segment_tab, panel.segment_tab.form
    assert not tab.segment_button.isEnabled()
    assert tab.message.text().startswith("Open an image first")
    layer = viewer.add_image(ramp(3, 32, 48), name="em")
    assert tab.segment_button.isEnabled()
    form.axes.setText("ZXY")
    form.axes.textEdited.emit("zxy")
    assert "a different order" in tab.message.text()
    assert "background-color" in form.axes.styleSheet()
    assert not tab.segment_button.isEnabled()
    form.axes.textEdited.emit("TYX")
    assert layer.axis_labels == ("t", "y", "x")
    choose(form.model, "tiny-3d")
    assert "tiny-3d is a 3D model and 'em' has no Z axis" in form.model.toolTip()
    assert not tab.segment_button.isEnabled()
    choose(form.model, "tiny-2d")
    form.options.tile.setValue(5)
    assert "32" in tab.message.text()
    form.options.tile.setValue(0)
    assert tab.segment_button.isEnabled()
    assert form.axes.styleSheet() == ""
    viewer.layers.remove(layer)
    viewer.add_image(np.ones((0, 8, 8)), name="nothing", contrast_limits=(0, 1))
    assert "'nothing' is empty" in tab.message.text()


def test_images_come_and_go_in_the_list(open_panel):
    viewer, panel = open_panel()
    combo = panel.segment_tab.form.image
    first, _ = viewer.add_image(ramp(8, 8), name="a"), viewer.add_labels(np.zeros((8, 8), int))
    viewer.add_image(ramp(8, 8), name="b")
    first.name = "renamed"
    assert [combo.itemText(number) for number in range(combo.count())] == ["renamed", "b"]
    assert combo.currentText() == "renamed"
    shapes = viewer.add_shapes([[[0, 0], [4, 4]]])
    viewer.layers.selection.active = first
    settle()
    viewer.layers.selection.active = shapes
    settle()
    assert combo.currentText() == "renamed"
    viewer.layers.remove(first)
    assert combo.currentText() == "b"


def test_voxel_size_is_shown_and_edited(open_panel, qtbot):
    viewer, panel = open_panel()
    field = panel.segment_tab.form.voxel_size
    layer = viewer.add_image(ramp(3, 32, 48), scale=(50, 4, 4), units="nm")
    assert [number.text() for number in field.numbers.values()] == ["50", "4", "4"]
    assert field.unit.currentText() == "nm"
    press(qtbot, panel)
    field.numbers["X"].setValue(8)
    choose(field.unit, "µm")
    assert list(layer.scale) == [50, 4, 8]
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3
    assert list(viewer.layers["probability"].scale) == [50, 4, 8]
    assert viewer.layers["probability"].units == layer.units
    layer.scale = (1, 2, 3)
    assert field.voxel_size == (1.0, 2.0, 3.0)


def test_cancel_stops_at_once_and_what_was_done_stays(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image = ramp(32, 48)
    viewer.add_image(image)
    engine.steps, engine.pause = 32, 0.4
    tab = panel.segment_tab
    press(qtbot, panel, wait=False)
    qtbot.waitUntil(lambda: "left" in tab.progress_text.text())
    assert not tab.segment_button.isEnabled()
    probability = viewer.layers["probability"].data
    before = int((probability.max(axis=1) > 0).sum())
    qtbot.mouseClick(tab.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert engine.cancelled
    done = int((probability.max(axis=1) > 0).sum())
    assert 0 < before <= done <= before + 2  # the tile at work, and one that came while the button was pressed
    np.testing.assert_allclose(probability[1:done], image[1:done] / 255, atol=1e-6)
    assert re.fullmatch(r"Stopped: \d+ of \d+ tiles are done; the rest is empty\.", tab.message.text())
    assert tab.segment_button.isEnabled()
    assert not tab.cancel_button.isVisible()
    assert not tab.save_button.isEnabled()
    assert "stopped" in tab.save_button.toolTip()
    engine.pause = 0.0
    press(qtbot, panel)
    assert tab.save_button.isEnabled()
    np.testing.assert_allclose(viewer.layers["probability"].data, image / 255, atol=1e-6)


def test_cancel_before_anything_is_there_changes_nothing(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(ramp(32, 48))
    engine.pause = 2.0  # before the first tile, so that the click comes sooner on a busy machine too
    press(qtbot, panel, wait=False)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    qtbot.mouseClick(panel.segment_tab.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    assert len(viewer.layers) == 1
    assert panel.segment_tab.message.text() == "Cancelled. Nothing was changed."


def test_cancel_brings_an_earlier_whole_result_back(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image, tab = ramp(32, 48), panel.segment_tab
    layer = viewer.add_image(image)
    press(qtbot, panel)
    viewer.layers["probability"].opacity = 0.3
    layer.data = 255 - image
    engine.steps, engine.pause = 16, 0.1
    press(qtbot, panel, wait=False)
    qtbot.waitUntil(lambda: "of 16" in tab.progress_text.text())
    assert viewer.layers["probability"].data[1].max() > 0.9
    qtbot.mouseClick(tab.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running)
    np.testing.assert_allclose(viewer.layers["probability"].data, image / 255, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(viewer.layers["binary"].data), image / 255 > 0.5)
    assert viewer.layers["probability"].opacity == 0.3
    assert re.fullmatch(r"Stopped: \d+ of \d+ tiles (is|are) done; the earlier result is back\.", tab.message.text())
    assert tab.save_button.isEnabled()


def test_an_engine_that_fails_says_so_and_can_run_again(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    dead = EngineError("The engine process ended unexpectedly (killed). Press Segment to start a new one.")
    for fault, expected in (
        (RuntimeError("what\nis this"), "(RuntimeError: what)"),
        (ValueError("what\nis this"), "(ValueError: what)"),
        (dead, str(dead)),
    ):
        viewer.add_image(ramp(32, 48))
        engine.fault = fault
        seen = len(notification_manager.records)
        press(qtbot, panel)
        text = panel.segment_tab.message.text()
        assert expected in text
        assert text.endswith(" 2 of 4 tiles are done; the rest is empty.")
        assert expected in notification_manager.records[seen].message
        assert viewer.layers["probability"].data[15].min() > 0
        assert viewer.layers["probability"].data[16:].max() == 0
        engine.fault = None
        press(qtbot, panel)
        assert len(viewer.layers) == 3
        viewer.layers.clear()


def test_results_are_saved_with_their_voxel_size(open_panel, qtbot, engine, tmp_path, monkeypatch):
    engine.levels = (1, 2)
    viewer, panel = open_panel()
    tab = panel.segment_tab
    viewer.add_image(ramp(3, 32, 48), name="my/em", scale=(50, 4, 4), units="nm")
    assert not tab.save_button.isEnabled()
    press(qtbot, panel)
    save_as(qtbot, tab, monkeypatch, tmp_path)
    assert tab.message.text() == f"Saved 5 files in {tmp_path}."
    kinds = ("attention_1.tif", "attention_2.tif", "binary.tif", "probability.tif", "recipe.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"my_em_{kind}" for kind in kinds]
    stack = read_stack(tmp_path / "my_em_probability.tif")
    assert (stack.space.voxel_size, stack.space.unit, stack.space.axes) == ((50.0, 4.0, 4.0), "nm", "ZYX")
    np.testing.assert_array_equal(np.asarray(stack.data), ramp(3, 32, 48))


def test_results_are_saved_as_what_is_chosen(open_panel, qtbot, tmp_path, monkeypatch):
    viewer, panel = open_panel()
    viewer.add_image(ramp(3, 32, 48), name="em", scale=(50, 4, 4), units="nm")
    press(qtbot, panel)
    save_as(qtbot, panel.segment_tab, monkeypatch, tmp_path, {"probability", "binary"}, "ome-zarr", "float32")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["em_binary.ome.zarr", "em_probability.ome.zarr", "em_recipe.json"]
    stack = read_stack(tmp_path / "em_probability.ome.zarr")
    assert (stack.space.voxel_size, stack.space.unit, str(stack.data.dtype)) == ((50.0, 4.0, 4.0), "nm", "float32")
    np.testing.assert_allclose(np.asarray(stack.data[...]), ramp(3, 32, 48) / 255, atol=1e-6)


def test_nothing_is_saved_without_a_folder_or_a_result(qapp):
    from napari_skipseg.widgets.segment.outcome import SaveDialog

    dialog = SaveDialog(None, "'em'", ["probability", "binary"], "")
    save = dialog.buttons.button(dialog.buttons.StandardButton.Save)
    assert not save.isEnabled()
    dialog.folder.text.setText("/somewhere")
    assert save.isEnabled()
    for tick in dialog.ticks.values():
        tick.setChecked(False)
    assert not save.isEnabled()


def test_the_form_names_the_device_shows_the_card_and_cuts_no_text(open_panel, qtbot):
    viewer, panel = open_panel()
    tab, form = panel.segment_tab, panel.segment_tab.form
    note = form.device_note.text()
    assert note.startswith("auto: CPU, 2 cores, with OpenVINO (no GPU: this torch was built without CUDA)")
    assert "trains in f32 (this processor has no bf16 of its own)" in note
    assert [form.device.itemText(number) for number in range(form.device.count())] == ["auto", "cpu"]
    viewer.add_image(ramp(3, 32, 48))
    qtbot.mouseClick(form.card, Qt.MouseButton.LeftButton)
    dialog = form.card_dialog
    assert dialog.isVisible()
    assert "made-up &lt;numbers&gt;" in dialog.text.text()
    assert len(dialog.curves) == 2
    dialog.close()
    form.options.expand(animate=False)
    qtbot.waitUntil(lambda: tab.minimumSizeHint().width() <= tab.width() <= tab.parent().width())


def test_closing_the_panel_ends_the_engine_in_mid_run(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(ramp(32, 48))
    engine.steps, engine.pause = 20, 0.05
    press(qtbot, panel, wait=False)
    viewer.window.remove_dock_widget(panel)
    panel.deleteLater()
    qtbot.waitUntil(lambda: engine.closed)
    viewer.add_image(ramp(8, 8))


def test_the_real_engine_segments_is_killed_and_segments_again(open_panel, qtbot):
    from napari_skipseg.jobs.client import Engine

    with Engine() as real:
        viewer, panel = open_panel(real)
        tab = panel.segment_tab
        viewer.add_image(np.random.default_rng(0).integers(0, 255, (40, 256, 256), np.uint8), name="em")
        tab.form.options.tile.setValue(64)
        press(qtbot, panel, wait=False)
        qtbot.waitUntil(lambda: tab.progress.value() > 0)
        os.kill(real.pid, signal.SIGKILL)
        qtbot.waitUntil(lambda: not tab.is_running)
        assert "engine" in tab.message.text().lower()
        assert tab.message.text().endswith("done; the rest is empty.")
        assert np.count_nonzero(viewer.layers["probability"].data) > 0
        choose(tab.form.extent, "current")
        tab.form.options.tile.setValue(0)
        press(qtbot, panel)
        alone = f"z {viewer.dims.current_step[0]}"
        probability = np.asarray(viewer.layers[f"{alone} probability"].data)
        assert probability.shape == (1, 256, 256)
        assert 0 < probability.min() < probability.max() < 1
        attention = viewer.layers[f"{alone} attention 1"].data
        assert attention.shape == (1, 256, 256)
