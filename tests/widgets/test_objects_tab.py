"""The Objects tab in a real window: live objects on screen, those of the whole stack, their table, files and scores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hand import Hand, segment
from napari.components import ViewerModel
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QSlider
from searching import with_search

from napari_skipseg.errors import EngineError, InputError
from napari_skipseg.images.files import holds_labels, read_recipe, read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs.operations import FoundObjects
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.contact_file import FEATURES, ContactClassifier, write_classifier
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.measure import measure_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import run_to_end
from napari_skipseg.widgets.batch.form import describe_object_options
from napari_skipseg.widgets.correct.uncertain_regions import corners_of
from napari_skipseg.widgets.forms.fields import FAULT_COLOR
from napari_skipseg.widgets.forms.job_tab import FITS
from napari_skipseg.widgets.objects import export, preview
from napari_skipseg.widgets.objects.export import in_short, iter_score, without_channels
from napari_skipseg.widgets.objects.form import THICK
from napari_skipseg.widgets.objects.layers import ShownObjects, frame_of, iter_load, position_of_object, show_objects
from napari_skipseg.widgets.objects.sources import (
    describe_source,
    find_measured,
    find_sources,
    find_truths,
    is_certain,
    suggest_method,
)
from napari_skipseg.widgets.objects.table import ObjectsModel, ObjectsTable
from napari_skipseg.widgets.panel import wait_for

pytestmark = pytest.mark.gui
LEFT = Qt.MouseButton.LeftButton
SHAPE, SIZE = (3, 40, 60), (50.0, 4.0, 4.0)


def blobs() -> np.ndarray:
    """Grey 255 in boxes of 5 x 6 pixels: three that go through all slices, one in the last slice; 0 elsewhere."""
    image = np.zeros(SHAPE, np.uint8)
    for y, x in ((5, 5), (5, 30), (25, 20)):
        image[:, y : y + 5, x : x + 6] = 255
    image[2, 30:33, 50:54] = 255
    return image


@pytest.fixture
def engine(engine, tmp_path: Path):
    """The engine without a process, which also finds objects."""
    return with_search(engine, tmp_path)


@pytest.fixture
def open_tab(open_panel: Callable, qtbot):
    """Open the panel with an image, segmented unless told otherwise, at its Objects tab; give (viewer, panel, tab)."""

    def open_it(image: np.ndarray | None = None, is_segmented: bool = True, with_engine=None, **looks):
        viewer, panel = open_panel(with_engine)
        panel.objects_tab._viewer = PublicOnlyProxy(viewer)  # as napari gives it to plugins
        looks = {"scale": SIZE, "units": "nm", "translate": (0, 8, 0), **looks}
        viewer.add_image(blobs() if image is None else image, name="em", **looks)
        if is_segmented:
            segment(qtbot, panel)
        bar = panel.tabs.tabBar()
        place = [bar.tabText(n) for n in range(bar.count())].index("Objects")
        qtbot.mouseClick(bar, LEFT, pos=bar.tabRect(place).center())
        wait_for(lambda: False, 0.3)
        return viewer, panel, panel.objects_tab

    return open_it


def choose(combo, value: object) -> None:
    index = combo.findData(value)
    assert index >= 0
    combo.setCurrentIndex(index)
    combo.activated.emit(index)


def settle(qtbot, tab) -> None:
    """Wait until the last look is on show."""
    wait_for(lambda: False, 0.2)
    qtbot.waitUntil(lambda: not tab.look.is_at_work, timeout=60_000)


def press_find(qtbot, tab, wait: bool = True) -> None:
    assert tab.find_button.isEnabled(), tab.message.text()
    qtbot.mouseClick(tab.find_button, LEFT)
    assert tab.is_running
    if wait:
        qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)


def test_the_slab_on_screen_is_found_anew_while_sliders_move_and_lies_exactly_over_the_image(
    open_tab, qtbot, monkeypatch
):
    viewer, panel, tab = open_tab()
    form = tab.form
    assert (form.layer.currentText(), form.method.currentText()) == ("probability", "Cells between membranes")
    choose(form.method, "components")
    assert "cells are suggested" in form._notes["method"].text()
    viewer.reset_view()  # all of it is on screen, however wide the panel is
    tab.preview.click()
    settle(qtbot, tab)
    look = viewer.layers["em objects (preview)"]
    options = ObjectOptions(threshold=0.5)
    np.testing.assert_array_equal(look.data, find_objects_in_array(blobs(), Space("ZYX"), options=options))
    assert (list(look.scale), list(look.translate)) == ([50, 4, 4], [0, 8, 0])
    assert [str(unit) for unit in look.units] == ["nanometer"] * 3
    assert tab.preview_note.text() == "4 objects in 3 slices on screen"
    form.smallest.number.setValue(13)
    settle(qtbot, tab)
    assert "13 voxels = 10,400 nm³" in form.smallest.note.text()
    assert (tab.preview_note.text(), look.data.max()) == ("3 objects in 3 slices on screen", 3)
    choose(form.planes, "slices")
    assert "13 voxels = 208 nm²" in form.smallest.note.text()
    settle(qtbot, tab)
    assert tab.preview_note.text() == "3 objects in the slice on screen"
    assert look.data.shape == (1, 40, 60)
    form.smallest.number.setValue(0)
    viewer.dims.set_current_step(0, 2)
    settle(qtbot, tab)
    assert (tab.preview_note.text(), list(look.translate)) == ("4 objects in the slice on screen", [100, 8, 0])
    monkeypatch.setattr(preview, "MOST", 1200)
    assert preview.find_slab(viewer, tab._source, form.read())[2] != slice(0, 60)
    tab.preview.click()
    assert "em objects (preview)" not in viewer.layers
    assert panel.tabs.tabBar().sizeHint().width() <= panel.tabs.width()


def test_cells_in_thick_slices_are_those_of_each_slice_until_one_chooses(open_tab):
    viewer, _, tab = open_tab()
    form = tab.form
    assert (form.planes.currentText(), form.read().planes) == ("each slice", "slices")
    note = form._notes["planes"]
    assert "12.5 times thicker" in note.text()
    assert note.isVisible()
    assert form.read_for(["membrane"]).planes == "slices"
    choose(form.method, "components")
    assert (form.read().planes, note.isVisible()) == ("volume", False)
    choose(form.method, "cells")
    assert form.read().planes == "slices"
    for depth, suggested in ((4 * THICK, "slices"), (4 * THICK - 1, "volume")):
        viewer.layers["probability"].scale = (depth, 4, 4)
        tab._offer()
        assert form.read().planes == suggested
    choose(form.planes, "volume")
    viewer.layers["probability"].scale = SIZE
    tab._offer()
    choose(form.method, "cells")
    assert (form.read().planes, form.read_for(["membrane"]).planes) == ("volume", "volume")
    assert note.isVisible()


def test_a_batch_finds_objects_of_the_class_on_show(open_tab):
    _, _, tab = open_tab()  # a probability of membranes
    both = ("mitochondrion", "membrane")
    assert tab.form.read_for(both).class_name == "membrane"
    assert tab.form.read_for(("nucleus", "cell")).class_name == ""
    assert tab.form.read_for(("membrane",)).class_name == ""
    options = ObjectOptions(method="components")
    assert "Connected components of" not in describe_object_options(options, ("membrane",))
    assert "onnected components of mitochondrion through" in describe_object_options(options, both)
    assert "ells between membranes of membrane " in describe_object_options(ObjectOptions(method="cells"), both)


def test_keys_move_the_sliders_and_the_sliders_of_sizes_are_equally_long(open_tab, qtbot):
    _, panel, tab = open_tab()
    form = tab.form
    tab.form.planes.setFocus()
    for slider, step in ((form.threshold, 0.01), (form.field("merge"), 0.01), (form.field("seed_distance"), 0.5)):
        inner = slider.findChild(QSlider)
        before = slider.value()
        qtbot.mouseClick(inner, LEFT, pos=inner.rect().center())
        start = slider.value()
        focused = panel.window().focusWidget()
        assert focused is slider
        for key, moved in ((Qt.Key.Key_Right, step), (Qt.Key.Key_Down, 0), (Qt.Key.Key_PageUp, 10 * step)):
            qtbot.keyClick(focused, key)
            assert slider.value() == pytest.approx(start + moved)
        qtbot.keyClick(focused, Qt.Key.Key_End)
        assert slider.value() == slider.maximum()
        slider.setValue(before)
    assert form.smallest.slider.width() == form.largest.slider.width() > 0


def test_the_table_takes_the_height_that_the_tab_has_left(open_tab, qtbot):
    viewer, _, tab = open_tab()
    press_find(qtbot, tab)
    heights = []
    for height in (950, 1250):
        viewer.window.resize(1280, height)
        wait_for(lambda: False, 0.3)
        assert tab.height() - tab.save_button.geometry().bottom() < 20
        heights.append(tab.table.height())
    assert heights[1] >= heights[0] + 200


def test_a_popup_names_labels_and_measurements():
    files = [Path("/x/em_objects.tif"), Path("/x/em_objects.csv")]
    assert in_short(files) == "Saved em_objects.tif and .csv"
    long = [file.with_stem("a_long_name_from_the_microscope_objects") for file in files]
    assert in_short(long) == "Saved labels and measurements (.csv)"
    assert len(in_short(long)) <= FITS


def test_objects_may_be_too_large_too_and_the_two_sizes_never_cross(open_tab, qtbot):
    viewer, _, tab = open_tab()
    form = tab.form
    choose(form.method, "components")
    tab.preview.click()
    settle(qtbot, tab)
    sizes = np.bincount(find_objects_in_array(blobs(), Space("ZYX"), options=ObjectOptions()).ravel())[1:]
    assert (form.read().largest, form.largest.note.text()) == (0, "No upper limit.")
    form.largest.number.setValue(int(sizes.max()) - 1)
    settle(qtbot, tab)
    assert form.read().largest == sizes.max() - 1
    limit = sizes.max() - 1
    assert f"{limit:,} voxels = {limit * 800:,} nm³" in form.largest.note.text()
    assert viewer.layers["em objects (preview)"].data.max() == len(sizes) - (sizes == sizes.max()).sum()
    form.smallest.number.setValue(5000)
    assert (form.read().smallest, form.read().largest) == (5000, 5000)
    form.largest.number.setValue(20)
    assert (form.read().smallest, form.read().largest) == (20, 20)
    form.largest.number.setValue(0)
    assert (form.read().smallest, form.read().largest) == (20, 0)
    settle(qtbot, tab)


def test_of_many_wishes_the_last_one_is_shown_and_stages_are_kept(open_tab, qtbot, monkeypatch):
    _, _, tab = open_tab()
    from napari_skipseg.objects.find import ObjectSearch

    asked, made = [], []
    find, read = ObjectSearch.find, preview.prepare_search
    chosen = threading.Event()  # the first search goes on until all wishes are there
    monkeypatch.setattr(
        ObjectSearch,
        "find",
        lambda self, options: (asked.append(options), chosen.wait(60), find(self, options))[2],
    )
    monkeypatch.setattr(preview, "prepare_search", lambda wish: (made.append(wish), read(wish))[1])
    wait_for(lambda: False, 1.0)
    asked.clear()
    tab.preview.click()
    qtbot.waitUntil(lambda: len(asked) == 1)
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.6):
        tab.form.threshold.setValue(threshold)
    qtbot.wait(100)
    assert len(asked) == 1
    chosen.set()
    settle(qtbot, tab)
    assert [options.threshold for options in asked] == [0.5, 0.6]
    assert len(made) == 1
    tab.preview.click()


def test_objects_of_the_whole_stack_are_a_layer_with_measurements_and_a_table_that_leads_to_each(
    open_tab, qtbot, engine
):
    viewer, panel, tab = open_tab()
    choose(tab.form.method, "components")
    press_find(qtbot, tab)
    probability, names, options, image, labels = engine.calls[-1]
    assert (probability.name, names, image.name, labels) == ("probability", ("membrane",), "em", False)
    layer = viewer.layers["em objects"]
    np.testing.assert_array_equal(layer.data, find_objects_in_array(blobs(), Space("ZYX"), options=options))
    assert (list(layer.scale), list(layer.translate), layer.editable) == ([50, 4, 4], [0, 8, 0], False)
    told = layer.metadata["skipseg"]
    assert (told["recipe"]["objects"]["method"], told["recipe"]["segmentation"]["operation"]) == (
        "components",
        "segment",
    )
    assert list(layer.features["volume (nm³)"][1:]) == [90 * 800, 90 * 800, 90 * 800, 12 * 800]
    assert list(layer.features["intensity mean"][1:]) == [255] * 4
    panel.show_tab("Segment")
    panel.show_tab("Objects")
    assert tab.message.text().startswith("4 objects found")
    table, model = tab.table, tab.table.rows
    assert (model.rowCount(), model.headerData(2, Qt.Orientation.Horizontal)) == (4, "volume (nm³)")
    table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    assert [model.index(n, 0).data() for n in range(4)] == ["4", "1", "2", "3"]
    qtbot.mouseClick(table.viewport(), LEFT, pos=table.visualRect(model.index(0, 1)).center())
    assert (layer.selected_label, viewer.dims.current_step[0]) == (4, 2)
    camera = getattr(viewer, "scene", viewer).camera
    np.testing.assert_allclose(camera.center[-2:], (8 + 4 * 31, 4 * 51))
    wait_for(lambda: False, 0.3)
    hand = Hand(viewer, panel)
    frame = viewer.layers["em objects place"]
    assert viewer.layers.selection.active == layer
    np.testing.assert_array_equal(frame.data[0].min(axis=0), (2, 28.5, 48.5))
    np.testing.assert_array_equal(frame.data[0].max(axis=0), (2, 33.5, 54.5))
    np.testing.assert_array_equal(frame.scale, layer.scale)
    hand.click((27, 22))
    assert (layer.selected_label, table.currentIndex().row()) == (3, 3)
    np.testing.assert_array_equal(frame.data[0].min(axis=0), (2, 23.5, 18.5))
    for step in (1, 0):
        viewer.dims.set_current_step(0, step)
        np.testing.assert_array_equal(frame.data[0].min(axis=0), (step, 23.5, 18.5))
        assert frame.shape_type == ["rectangle"]
    table.setCurrentIndex(model.index(0, 0))
    tab.table.chosen.emit(model.row_at(0))
    assert viewer.dims.current_step[0] == 2
    viewer.dims.set_current_step(0, 1)
    np.testing.assert_array_equal(frame.data[0].max(axis=0), (2, 33.5, 54.5))
    tab.form.layer.opening.emit()
    offered = [tab.form.layer.itemText(n) for n in range(tab.form.layer.count())]
    assert offered == ["probability", "binary", "em (image, read as probability)"]
    viewer.layers.remove(layer)
    wait_for(lambda: False, 0.3)
    assert "em objects place" not in viewer.layers


def test_objects_go_into_files_and_are_scored(open_tab, qtbot, tmp_path, monkeypatch):
    viewer, _, tab = open_tab()
    choose(tab.form.method, "components")
    press_find(qtbot, tab)
    layer = viewer.layers["em objects"]
    for name, kind in (("out.tif", "OME-TIFF"), ("out", "OME-Zarr (*.ome.zarr)")):
        monkeypatch.setattr(
            QFileDialog, "getSaveFileName", lambda *_, name=name, kind=kind: (str(tmp_path / name), kind)
        )
        monkeypatch.setattr("napari_skipseg.widgets.objects.export.QMessageBox.question", lambda *_: None)
        (tmp_path / "out.csv").unlink(missing_ok=True)
        qtbot.mouseClick(tab.save_button, LEFT)
        qtbot.waitUntil(lambda: not tab.is_running, timeout=20_000)
        file = tmp_path / (name if "." in name else "out.ome.zarr")
        stack = read_stack(file)
        np.testing.assert_array_equal(stack.read((...,)), layer.data)
        assert (stack.space.voxel_size, stack.space.unit, stack.space.origin, holds_labels(file)) == (
            SIZE,
            "nm",
            (0.0, 8.0, 0.0),
            True,
        )
        assert read_recipe(file)["objects"]["method"] == "components"
        assert (tmp_path / "out.csv").read_text(encoding="utf-8-sig").startswith("label,voxels,volume (nm³)")
        assert tab.message.text() == f"Saved {file.name} and out.csv in {tmp_path}."
    assert not tab.score_box.isVisible()
    truth = np.where(layer.data == 4, 0, layer.data)
    truth[truth == 2] = 1
    viewer.add_labels(truth, name="truth", scale=SIZE, units="nm")
    wait_for(lambda: tab.score_box.isVisible(), 2)
    qtbot.mouseClick(tab.score_box.button, LEFT)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=20_000)
    said = tab.score_box.scores.text()
    assert said.startswith("Adapted Rand error 0.252\nVI 0.667 bits (split 0.667, merge 0.000)\nAP 0.230; at overlap")
    assert said.endswith("(2 found, 2 too many, 0 missed)")
    viewer.layers["em"].scale = (50, 2, 2)
    wait_for(lambda: False, 0.2)
    assert list(layer.scale) == [50, 2, 2]
    assert "find the objects again" in tab.message.text()


def test_what_saving_replaces_is_asked_once_with_what_it_belongs_to(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(export.QMessageBox, "question", lambda _, __, text: asked.append(text))
    for chosen, kind in (("x", "OME-Zarr (*.ome.zarr)"), ("x.tif", "OME-TIFF (*.tif)")):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, told=(str(tmp_path / chosen), kind): told)
        (tmp_path / "x.tif").touch()
        assert export.ask_objects_file(None, "em") == tmp_path / ("x.ome.zarr" if chosen == "x" else "x.tif")
        assert asked == []
    (tmp_path / "x.csv").touch()
    (tmp_path / "x.ome.zarr").mkdir()
    assert export.ask_objects_file(None, "em") is None
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "x"), "OME-Zarr (*.ome.zarr)"))
    assert export.ask_objects_file(None, "em") is None
    assert asked == [
        "x.csv in this folder will be replaced. x.ome.zarr stays, but its measurements go. Replace?",
        "x.ome.zarr, x.csv in this folder will be replaced. x.tif stays, but its measurements go. Replace?",
    ]


def test_nothing_to_find_in_a_fault_and_cancel_are_one_sentence(open_tab, qtbot, engine):
    viewer, _, tab = open_tab(is_segmented=False)
    assert "Segment an image first" in tab.message.text()
    assert FAULT_COLOR not in tab.message.styleSheet()
    assert not tab.find_button.isEnabled()
    assert tab.form.layer.currentText() == "choose a layer…"
    viewer.add_image(np.full((8, 8), 0.5, np.float32), name="other", contrast_limits=(0, 1))
    assert tab.form.layer.currentText() == "other"
    assert tab.form.method.currentText() == "Connected components"
    engine.steps, engine.pause = 200, 0.02
    press_find(qtbot, tab, wait=False)
    qtbot.waitUntil(lambda: "block" in tab.progress_text.text(), timeout=20_000)
    qtbot.mouseClick(tab.cancel_button, LEFT)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=20_000)
    assert "Nothing was changed" in tab.message.text()
    engine.steps, engine.pause, engine.fault = 2, 0.0, EngineError("It went wrong: try again.")
    press_find(qtbot, tab)
    assert tab.message.text() == str(engine.fault)
    assert FAULT_COLOR in tab.message.styleSheet()
    engine.fault = None
    viewer.layers["other"].data = np.full((8, 8), 7, np.float32)
    tab.preview.click()
    settle(qtbot, tab)
    assert "probabilities lie between 0 and 1" in tab.preview_note.text()
    assert [layer.name for layer in viewer.layers] == ["em", "other"]


@pytest.mark.slow
def test_the_real_engine_finds_what_a_search_in_memory_finds(open_tab, qtbot):
    from napari_skipseg.jobs.client import Engine

    with Engine() as real:
        viewer, _, tab = open_tab(is_segmented=False, with_engine=real)
        viewer.add_image(blobs()[None] / np.float32(255), name="p", axis_labels=("t", "z", "y", "x"))
        wait_for(lambda: False, 0.3)
        press_find(qtbot, tab)
        expected = find_objects_in_array(blobs()[None], Space("TZYX"))
        np.testing.assert_array_equal(viewer.layers["p objects"].data, expected)
        assert tab.message.text().startswith("4 objects found")


def test_layers_are_offered_by_what_they_hold():
    viewer = ViewerModel()
    em = viewer.add_image(np.zeros((3, 8, 8), np.uint8), name="em")
    maps = viewer.add_image(np.zeros((2, 3, 8, 8), np.float32), name="maps", contrast_limits=(0, 1), axis_labels="czyx")
    kind = {"role": "probability membrane", "source": str(em.unique_id), "recipe": {"classes": ["membrane", "vesicle"]}}
    viewer.add_image(np.zeros((3, 8, 8), np.float32), name="result", metadata={"skipseg": kind}, contrast_limits=(0, 1))
    viewer.add_image(np.zeros((3, 8, 8)), name="attention", metadata={"skipseg": {"role": "attention 1", "source": ""}})
    viewer.add_labels(np.zeros((3, 8, 8), np.uint8), name="binary", metadata={"skipseg": {**kind, "role": "binary"}})
    truth = viewer.add_labels(np.zeros((3, 8, 8), np.uint8), name="truth")
    viewer.add_labels(np.zeros((3, 8, 9), np.uint8), name="smaller")
    viewer.add_labels(np.zeros((3, 8, 8), np.uint8), name="em accepted", metadata={"skipseg": {"corrections": "key"}})
    sources = find_sources(viewer)
    assert [layer.name for layer in sources] == ["result", "maps", "smaller", "truth", "binary", "em"]
    assert [is_certain(layer) for layer in sources] == [True] * 5 + [False]
    named = {layer.name: describe_source(viewer, layer) for layer in sources}
    assert named["result"].class_names == ("membrane",)
    assert named["result"].name == "em"
    assert named["result"].suggested("") == "cells"
    assert (named["maps"].suggested("channel 0"), suggest_method(["axon", "wall"])) == ("components", "cells")
    assert named["maps"].class_names == ("channel 0", "channel 1")
    assert (named["binary"].class_names, named["binary"].labels) == (("membrane", "vesicle"), True)
    assert find_measured(viewer, named["result"]) == [em, maps]
    assert find_truths(viewer, named["result"]) == [truth]


def test_objects_too_large_for_memory_stay_in_their_folder_and_repeat_over_channels(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_skipseg.widgets.layers.files.LAYER_IN_MEMORY", 0)
    viewer = ViewerModel()
    values = np.stack([blobs() / np.float32(255)] * 2, axis=1)
    viewer.add_image(values, name="p", axis_labels=("z", "c", "y", "x"), scale=(50, 1, 4, 4))
    source = describe_source(viewer, viewer.layers[0])
    image = ClassImage(Stack(blobs() / np.float32(255), Space("ZYX", SIZE)))
    target = ObjectsTarget(tmp_path, "found", "ome-zarr")

    def find():
        found = yield from iter_find_objects(image, ObjectOptions(), target)
        return FoundObjects(found.file, found.count, measure_objects(read_stack(found.file, "ZYX")), {})

    loaded = run_to_end(iter_load(find(), SHAPE))
    assert loaded.folder == tmp_path
    shown = show_objects(viewer, source, loaded)
    expected = find_objects_in_array(blobs(), Space("ZYX"))
    for channel in range(2):
        np.testing.assert_array_equal(np.asarray(shown.layer.data[:, channel]), expected)
    assert list(shown.layer.scale) == [50, 1, 4, 4]
    assert without_channels(shown).space.axes == "ZYX"
    np.testing.assert_array_equal(without_channels(shown).read((...,)), expected)
    assert position_of_object(shown, 3) == {"Z": (2, (2, 3)), "Y": (31, (8, 55)), "X": (51, (28, 76))}
    assert position_of_object(shown, 0)["Z"] == (0, (0, 3))
    assert frame_of(viewer, shown, 3).box == ((2, 3), (0, 2), (29, 34), (49, 55))


def test_the_frame_of_an_object_is_there_at_its_time_in_all_its_slices_and_nowhere_else():
    viewer = ViewerModel()
    image = np.stack([blobs(), blobs()[::-1]])
    layer = viewer.add_image(image / np.float32(255), name="p", axis_labels="tzyx")
    found = find_objects_in_array(image / np.float32(255), Space("TZYX"))
    labels = viewer.add_labels(found.astype(np.uint32), axis_labels="tzyx")
    source = describe_source(viewer, layer)
    shown = ShownObjects(source, labels, measure_objects(Stack(found, Space("TZYX"))), {}, (1.0, 1.0, 1.0))
    places = [frame_of(viewer, shown, row) for row in range(8)]
    small = next(place for place in places if place.box[2:] == ((29, 34), (49, 55)) and place.box[0] == (1, 2))
    assert small.box[1] == (0, 1)
    tall = next(place for place in places if place.box[:2] == ((1, 2), (0, 3)))
    corners = [corners_of(tall, (time, z, 0, 0))[0, :2].tolist() for time, z in ((0, 0), (1, 1), (1, 2), (0, 5))]
    assert corners == [[1, 0], [1, 1], [1, 2], [1, 2]]


def test_a_table_of_a_hundred_thousand_rows_is_sorted_at_once(qtbot):
    count = 100_000
    values = np.random.default_rng(0).random(count)
    values[7] = np.nan
    table = ObjectsTable()
    qtbot.addWidget(table)
    table.show_table(
        ObjectTable(("label", "volume (nm³)", "bounding box z start"), (np.arange(1, count + 1), values, values))
    )
    assert table.rows.columnCount() == 2
    begun = time.process_time()
    table.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    assert time.process_time() - begun < 1.0
    assert table.rows.row_at(0) == np.nanargmax(values)
    assert table.rows.row_at(count - 1) == 7
    assert table.rows.index(count - 1, 1).data() == ""
    table.select_label(8)
    assert table.currentIndex().row() == count - 1
    table.select_label(count + 5)
    assert not table.selectionModel().hasSelection()


@pytest.mark.parametrize("kind", [int, float])
def test_equal_measurements_stay_in_the_order_of_labels(kind):
    values = np.random.default_rng(1).integers(0, 40, 1000).astype(kind)
    if kind is float:
        values[::50] = np.nan
    rows = ObjectsModel()
    rows.show_table(ObjectTable(("label", "volume"), (np.arange(1, 1001), values)))
    for order, wanted in ((Qt.SortOrder.AscendingOrder, values), (Qt.SortOrder.DescendingOrder, -values)):
        rows.sort(1, order)
        assert [rows.row_at(place) for place in range(1000)] == np.argsort(wanted, kind="stable").tolist()


def test_a_mask_of_one_label_is_no_truth_of_objects():
    found = Stack(np.arange(16).reshape(1, 4, 4), Space("ZYX"))
    with pytest.raises(InputError, match="a mask of one label: give instances"):
        run_to_end(iter_score(found, Stack(255 * (found.data > 7), Space("ZYX"))))


def test_the_table_and_save_follow_the_selected_layer_of_objects(open_tab, qtbot, tmp_path, monkeypatch):
    viewer, _, tab = open_tab()
    choose(tab.form.method, "components")
    press_find(qtbot, tab)
    first = viewer.layers["em objects"]
    truth = np.zeros(SHAPE, np.uint8)
    truth[:, 5:9, 5:9] = 1
    viewer.add_labels(truth, name="other", scale=SIZE, units="nm", translate=(0, 8, 0))
    tab.form.layer.opening.emit()
    choose(tab.form.layer, viewer.layers["other"])
    press_find(qtbot, tab)
    second = viewer.layers["other objects"]
    assert tab.table.rows.rowCount() == 1
    asked = []
    monkeypatch.setattr("napari_skipseg.widgets.objects.tab.ask_objects_file", lambda parent, name: asked.append(name))
    for layer, count, name in ((first, 4, "em"), (second, 1, "other"), (first, 4, "em")):
        viewer.layers.selection.active = layer
        assert tab.table.rows.rowCount() == count
        qtbot.mouseClick(tab.save_button, LEFT)
        assert asked[-1] == name
    viewer.layers.remove(first)
    assert tab.table.rows.rowCount() == 1


def test_a_classifier_of_contacts_decides_cells_and_a_wrong_file_is_a_sentence(open_tab, qtbot, tmp_path, engine):
    boundary = np.zeros((3, 40, 120), np.float32)
    for number, strength in enumerate((0.9, 0.42, 0.7), start=1):
        boundary[..., 30 * number] = strength
    _, _, tab = open_tab(boundary, is_segmented=False, contrast_limits=(0, 1), scale=(4, 4, 4))
    form, contacts = tab.form, tab.form.contacts
    assert not contacts.isVisible()
    choose(form.method, "cells")
    form.threshold.setValue(0.3)
    press_find(qtbot, tab)
    assert len(tab.result().table) == 3, "the boundary of 0.42 is below 0.5"
    assert contacts.isVisible()
    assert form.merge.isVisible()
    qtbot.keyClicks(contacts.text, str(tmp_path / "none.json"))
    qtbot.keyClick(contacts.text, Qt.Key.Key_Return)
    assert not tab.find_button.isEnabled()
    assert "There is no classifier of contacts at" in tab.message.text()
    weights = {**dict.fromkeys(FEATURES, 0.0), "mean strength": 3.0, "always 1": -12 * 0.8}
    file = write_classifier(tmp_path / "contacts.json", ContactClassifier(tuple(weights.values())))
    contacts.text.clear()
    qtbot.keyClicks(contacts.text, str(file))
    qtbot.keyClick(contacts.text, Qt.Key.Key_Return)
    assert not form.merge.isVisible()
    press_find(qtbot, tab)
    assert len(tab.result().table) == 2, "it joins over boundaries below 0.8"
    assert engine.calls[-1][2].contacts.startswith(f"{file}@sha256:")
    choose(form.method, "components")
    assert (contacts.isVisible(), form.read().contacts) == (False, "")
    form.show_options(engine.calls[-1][2])
    assert (contacts.text.text(), form.read().contacts) == (str(file), engine.calls[-1][2].contacts)


def test_areas_that_a_segmentation_left_out_are_no_cells_on_screen_and_in_the_whole_stack(open_tab, qtbot):
    viewer, _, tab = open_tab()
    recipe = viewer.layers["probability"].metadata["skipseg"]["recipe"]
    recipe["normalization"] = {**recipe.get("normalization", {}), "padding": [0]}
    tissue = np.asarray(viewer.layers["probability"].data) > 0
    assert not tissue.all()
    assert tab.form.read().method == "cells"
    viewer.reset_view()
    tab.preview.click()
    settle(qtbot, tab)
    np.testing.assert_array_equal(viewer.layers["em objects (preview)"].data > 0, tissue[:1])
    press_find(qtbot, tab)
    np.testing.assert_array_equal(np.asarray(viewer.layers["em objects"].data) > 0, tissue)
    assert "no cells" in tab.message.text()
