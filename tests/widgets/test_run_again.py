"""Run again: the form says what the recipe of the selected layer says, and the same is segmented once more."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import skimage.io
from hand import choose, ramp, segment
from qtpy.QtCore import Qt

from napari_skipseg.errors import EngineError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.saving import save_prediction
from napari_skipseg.jobs.messages import FindObjects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.layers.files import open_image

pytestmark = pytest.mark.gui


@pytest.fixture
def opened(open_panel, qtbot, engine):
    """An image called em that was segmented with options of its own; nothing of the form is left as it was."""
    viewer, panel = open_panel()
    tab = panel.segment_tab
    layer = viewer.add_image(ramp(32, 48), name="em", scale=(4, 4), units="nm")
    tab.form.threshold.setValue(0.25)
    tab.form.options.tile.setValue(128)
    choose(tab.form.options.average, 4)
    segment(qtbot, panel)
    tab.form.threshold.setValue(0.75)
    tab.form.options.tile.setValue(0)
    choose(tab.form.options.average, 1)
    return viewer, panel, layer


def press(qtbot, panel) -> None:
    tab = panel.segment_tab
    assert tab.again_button.isEnabled()
    qtbot.mouseClick(tab.again_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running)


def test_the_button_is_there_while_a_result_is_selected(opened):
    viewer, panel, layer = opened
    button = panel.segment_tab.again_button
    viewer.layers.selection = {layer}
    assert not button.isVisible()
    viewer.layers.selection = {viewer.layers["binary"]}
    assert button.isVisible()
    viewer.layers.selection = set()
    assert not button.isVisible()


def test_the_same_is_segmented_once_more_and_the_form_says_it(opened, qtbot, engine):
    viewer, panel, _ = opened
    form = panel.segment_tab.form
    viewer.layers.selection = {viewer.layers["probability"]}
    press(qtbot, panel)
    assert engine.calls[1][1:] == engine.calls[0][1:]
    chosen = {"side": 64, "batch": 1, "backend": "torch", "precision": "f32", "device": "cpu"}
    assert engine.pinned == [None, chosen]
    assert (form.threshold.value(), form.options.tile.value(), form.options.average.currentData()) == (0.25, 128, 4)
    np.testing.assert_array_equal(np.asarray(viewer.layers["binary"].data), ramp(32, 48) / 255 > 0.25)
    assert panel.segment_tab.message.text() == "Run again as before."


def test_an_option_that_the_form_does_not_have_is_kept(opened, qtbot, engine):
    viewer, panel, _ = opened
    recipe = viewer.layers["probability"].metadata["skipseg"]["recipe"]
    told = {**recipe["options"], "seed": 7, "attention": False}
    viewer.layers["probability"].metadata["skipseg"]["recipe"] = {**recipe, "options": told}
    viewer.layers.selection = {viewer.layers["probability"]}
    press(qtbot, panel)
    assert engine.calls[1][2] == replace(engine.calls[0][2], seed=7, attention=False)


def test_what_is_different_is_said_in_one_sentence(opened, qtbot, engine):
    viewer, panel, layer = opened
    layer.data = 255 - ramp(32, 48)
    recipe = viewer.layers["probability"].metadata["skipseg"]["recipe"]
    viewer.layers["probability"].metadata["skipseg"]["recipe"] = {**recipe, "tile": (32, 32), "versions": {}}
    viewer.layers.selection = {viewer.layers["probability"]}
    press(qtbot, panel)
    assert panel.segment_tab.message.text() == (
        "Run again; different from before: another image, tile 64 × 64 (was 32 × 32), torch 2 (was missing)."
    )


def test_another_image_that_was_chosen_meanwhile_is_left_alone(opened, qtbot, engine):
    viewer, panel, layer = opened
    viewer.add_image(np.zeros((20, 20)), name="other")
    choose(panel.segment_tab.form.image, viewer.layers["other"])
    viewer.layers.selection = {viewer.layers["probability"]}
    press(qtbot, panel)
    assert engine.calls[1][0].name == "em"
    assert panel.segment_tab.form.image.currentData() is layer


def test_a_result_from_a_file_brings_its_image_along(open_panel, qtbot, engine, tmp_path):
    viewer, panel = open_panel()
    write_ome_tiff(tmp_path / "em.ome.tif", ramp(32, 48), Space("YX", (50.0, 4.0, 4.0), "nm"))
    viewer.open(str(tmp_path / "em.ome.tif"), plugin="napari-skipseg")
    segment(qtbot, panel)
    prediction = panel.segment_tab.result().prediction
    told = prediction.recipe["inputs"][0] | {"file": str(tmp_path / "em.ome.tif")}
    files = save_prediction(replace(prediction, recipe=prediction.recipe | {"inputs": (told,)}), tmp_path, "em")
    viewer.layers.clear()
    viewer.open(str(files[0]), plugin="napari-skipseg")
    viewer.layers.selection = {viewer.layers[0]}
    press(qtbot, panel)
    np.testing.assert_array_equal(np.asarray(engine.calls[1][0].data), ramp(32, 48))
    assert panel.segment_tab.message.text() == "Run again as before."


def test_a_picture_is_opened_too(open_panel, qtbot, engine, tmp_path):
    viewer, panel = open_panel()
    skimage.io.imsave(tmp_path / "pic.png", ramp(32, 48))
    open_image(viewer, str(tmp_path / "pic.png"))
    segment(qtbot, panel)
    prediction = panel.segment_tab.result().prediction
    told = prediction.recipe["inputs"][0] | {"file": str(tmp_path / "pic.png")}
    files = save_prediction(replace(prediction, recipe=prediction.recipe | {"inputs": (told,)}), tmp_path, "pic")
    viewer.layers.clear()
    viewer.open(str(files[0]), plugin="napari-skipseg")
    assert panel.segment_tab.form.image.count() == 0
    viewer.layers.selection = {viewer.layers[0]}
    press(qtbot, panel)
    assert panel.segment_tab.message.text() == "Run again as before."
    np.testing.assert_array_equal(np.asarray(engine.calls[1][0].data), ramp(32, 48))
    assert panel.segment_tab.form.image.count() == 1
    viewer.layers.selection = {viewer.layers["pic_probability"]}
    press(qtbot, panel)
    assert len(engine.calls) == 3
    assert panel.segment_tab.form.image.count() == 1


@pytest.fixture
def asked(engine) -> list[tuple]:
    """What searches for objects are requested; each goes on until `engine.is_held` is no more, and fails."""
    told, engine.is_held = [], False

    def find(request: FindObjects):
        probability = request.probability
        told.append(
            (probability.name, request.class_names, request.options, request.image.name, str(probability.data.dtype))
        )
        yield Progress(0, 1, "")
        while engine.is_held:
            time.sleep(0.01)
            yield Progress(0, 1, "")
        raise EngineError("That is enough: try again.")

    engine.answers[FindObjects] = find
    return told


def ask_for_objects(viewer, options: ObjectOptions, **more) -> None:
    """Have the recipe of the result on show ask for objects, and select it."""
    layer = viewer.layers["probability"]
    told = layer.metadata["skipseg"]
    told["recipe"] = {**told["recipe"], "objects": asdict(options), **more}
    viewer.layers.selection = {layer}


def test_objects_that_a_recipe_asks_for_are_found_again_too(opened, qtbot, asked):
    viewer, panel, _ = opened
    tab = panel.objects_tab
    for number, (options, depth) in enumerate(
        (
            (
                ObjectOptions(
                    "cells",
                    "membrane",
                    threshold=0.333,
                    seeds="probability",
                    seed_distance=7.5,
                    merge=0.2,
                    smallest=5,
                    largest=900,
                    fill_holes=True,
                    border="remove",
                ),
                "uint8",
            ),
            (ObjectOptions("components", threshold=0.7, largest=3), "float32"),
        )
    ):
        ask_for_objects(viewer, options, depth=depth)
        press(qtbot, panel)
        qtbot.waitUntil(lambda: len(asked) > number and not tab.is_running)  # noqa: B023
        assert asked[number] == ("probability", ("membrane",), options, "em", depth)
        viewer.layers.remove(viewer.add_labels(np.zeros((32, 48), np.uint8)))  # as when they are found
        assert panel.segment_tab.message.text() == "Run again as before. The Objects tab finds its objects too."
        assert tab.form.read() == replace(options, class_name="", threshold=round(options.threshold, 2))


def test_objects_to_be_found_again_wait_until_the_tab_is_free(opened, qtbot, asked, engine):
    viewer, panel, _ = opened
    tab, options = panel.objects_tab, ObjectOptions("components", threshold=0.7)
    panel.show_tab("Objects")
    engine.is_held = True
    tab.find()
    qtbot.waitUntil(lambda: bool(asked))
    ask_for_objects(viewer, options)
    panel.show_tab("Segment")
    qtbot.mouseClick(panel.segment_tab.again_button, Qt.MouseButton.LeftButton)
    assert len(asked) == 1
    engine.is_held = False
    qtbot.waitUntil(lambda: len(asked) == 2 and not tab.is_running)
    assert asked[1] == ("probability", ("membrane",), options, "em", "uint8")
    assert tab.form.read() == options


def ask_behind_a_search(qtbot, viewer, panel, asked, engine) -> None:
    """Have the recipe of the result wait behind a search for objects that is held."""
    engine.is_held = True
    panel.show_tab("Objects")
    panel.objects_tab.find()
    qtbot.waitUntil(lambda: bool(asked))
    ask_for_objects(viewer, ObjectOptions("components", threshold=0.7))
    panel.show_tab("Segment")
    qtbot.mouseClick(panel.segment_tab.again_button, Qt.MouseButton.LeftButton)
    assert panel.segment_tab.progress_text.text() == "waits for the search for objects"


def end_all(qtbot, panel, engine) -> None:
    engine.is_held = False
    qtbot.waitUntil(lambda: not (panel.segment_tab.is_running or panel.objects_tab.is_running))


def test_a_result_that_is_removed_before_the_turn_of_its_repetition_comes_anew(opened, qtbot, asked, engine):
    viewer, panel, _ = opened
    ask_behind_a_search(qtbot, viewer, panel, asked, engine)
    viewer.layers.remove(viewer.layers["probability"])
    end_all(qtbot, panel, engine)
    assert panel.segment_tab.message.text() == "Run again as before. The Objects tab finds its objects too."
    assert len(asked) == 2
    assert viewer.layers["probability"].visible


def test_an_image_that_is_removed_before_its_turn_came_is_said_and_its_result_comes(opened, qtbot, asked, engine):
    viewer, panel, layer = opened
    ask_behind_a_search(qtbot, viewer, panel, asked, engine)
    viewer.layers.remove(layer)
    end_all(qtbot, panel, engine)
    assert panel.segment_tab.message.text() == "'em' was removed meanwhile; its result stays."
    np.testing.assert_array_equal(np.asarray(viewer.layers["binary"].data), ramp(32, 48) / 255 > 0.25)


def test_what_is_in_the_way_is_said_and_nothing_starts(opened, qtbot, engine):
    viewer, panel, layer = opened
    binary = viewer.layers["binary"]
    recipe = binary.metadata["skipseg"]["recipe"]
    viewer.layers.selection = {binary}
    for change, said in (
        ({"model": "gone", "model_sha256": "ab" * 32}, "The model 'gone' (SHA-256 abababababab…) is not here"),
        ({"format_version": 3}, "(format version 3)"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ):
        binary.metadata["skipseg"]["recipe"] = {**recipe, **change}
        press(qtbot, panel)
        assert said in panel.segment_tab.message.text()
    binary.metadata["skipseg"]["recipe"] = recipe
    viewer.layers.remove(layer)
    viewer.layers.selection = {binary}
    press(qtbot, panel)
    assert "is not open, and lies in no file" in panel.segment_tab.message.text()
    assert len(engine.calls) == 1


def test_a_preview_is_not_run_again(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    viewer.add_image(ramp(32, 48), name="em")
    qtbot.mouseClick(panel.segment_tab.preview_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
    viewer.layers.selection = {viewer.layers["preview probability"]}
    assert not panel.segment_tab.again_button.isVisible()
    assert engine.calls[0][2] != SegmentOptions()
