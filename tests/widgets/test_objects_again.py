"""Run again of objects: their recipe finds its probability, fills the form, and says what is different."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hand import segment
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from searching import with_search

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.inference.objects_to_folder import ObjectsRequest, iter_objects_to_folder
from napari_skipseg.inference.prediction import to_uint8
from napari_skipseg.jobs.messages import FindObjects
from napari_skipseg.objects.files import ObjectFiles, read_probability
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.widgets.layers.files import add_layers, read_layers
from napari_skipseg.widgets.objects.preview import PreviewRequest, prepare_search
from napari_skipseg.widgets.objects.run_again import find_search
from napari_skipseg.widgets.objects.sources import describe_source, find_sources, stack_to_search

SIZE = (50.0, 4.0, 4.0)
OPTIONS = ObjectOptions("watershed", threshold=0.3, seed_distance=3, smallest=2)


def noise(*shape: int) -> np.ndarray:
    """Random blocks of 4 x 4 pixels, as a probability."""
    return np.kron(np.random.default_rng(1).random(shape), np.ones((4, 4))).astype(np.float32)


def write_objects(folder: Path, probability: np.ndarray, axes: str, *names: str, options=OPTIONS) -> ObjectFiles:
    """Write em.tif and em_probability.tif, and find the objects of that, as the commands do."""
    folder.mkdir(parents=True, exist_ok=True)
    image = probability if axes == "ZYX" else probability[0]
    write_ome_tiff(folder / "em.tif", to_uint8(1 - image), Space("ZYX", SIZE, "nm"))
    told = {"operation": "segment", "classes": names}
    file = folder / "em_probability.tif"
    write_ome_tiff(file, to_uint8(probability), Space(axes, SIZE, "nm"), channel_names=names, description=told)
    asked = ObjectsRequest(read_probability(file), options, read_stack(folder / "em.tif"))
    return run_to_end(iter_objects_to_folder(asked, folder / "objects"))


def open_file(viewer: ViewerModel, file: Path):
    return add_layers(viewer, read_layers(str(file)), str(file))[0]


def press(qtbot, tab) -> None:
    assert tab.again_button.isVisible()
    assert tab.again_button.isEnabled()
    qtbot.mouseClick(tab.again_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)


@pytest.fixture
def engine(engine, tmp_path: Path):
    """The engine without a process, which also finds objects."""
    return with_search(engine, tmp_path)


@pytest.mark.gui
def test_objects_of_the_panel_are_found_again_from_either_tab(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    tab = panel.objects_tab
    em = viewer.add_image(to_uint8(noise(2, 5, 6)), name="em", scale=SIZE, units="nm")
    segment(qtbot, panel)
    panel.show_tab("Objects")
    assert not tab.again_button.isVisible()
    tab.form.show_options(OPTIONS)
    tab.find()
    qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)
    found = np.asarray(viewer.layers["em objects"].data)
    np.testing.assert_array_equal(
        found, find_objects_in_array(to_uint8(noise(2, 5, 6)), Space("ZYX", SIZE), (), OPTIONS)
    )
    tab.form.show_options(ObjectOptions())
    press(qtbot, tab)
    assert tab.message.text() == f"{found.max()} objects found. Run again as before."
    assert tab.form.read() == OPTIONS
    assert engine.calls[-1][0].data.dtype == np.uint8
    panel.show_tab("Segment")
    viewer.layers.selection = {viewer.layers["em objects"]}
    em.scale = (50.0, 4.0, 2.0)
    layer = viewer.layers["em objects"]
    layer.metadata["skipseg"]["recipe"] = {**layer.metadata["skipseg"]["recipe"], "versions": {}}
    viewer.layers["probability"].data = to_uint8(1 - noise(2, 5, 6)) / np.float32(255)
    assert panel.segment_tab.again_button.isVisible()
    qtbot.mouseClick(panel.segment_tab.again_button, Qt.MouseButton.LeftButton)
    assert panel.tabs.tabText(panel.tabs.currentIndex()) == "Objects"
    qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)
    assert ". Run again; different from before: another probability, " in tab.message.text()
    viewer.layers.selection = {em}
    assert not tab.again_button.isVisible()


@pytest.mark.gui
def test_what_was_removed_before_its_turn_came_is_said(open_panel, qtbot, engine):
    """The Segment tab can ask for objects again while the Objects tab searches: that waits in the Objects tab."""
    viewer, panel = open_panel()
    tab = panel.objects_tab
    viewer.add_image(to_uint8(noise(2, 5, 6)), name="em", scale=SIZE, units="nm")
    segment(qtbot, panel)
    panel.show_tab("Objects")
    tab.form.show_options(OPTIONS)
    tab.find()
    qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)
    is_held, find = True, engine.answers[FindObjects]

    def held(request: FindObjects):
        while is_held:
            time.sleep(0.01)
            yield Progress(0, 1, "held")
        return (yield from find(request))

    engine.answers[FindObjects] = held
    tab.find()
    panel.show_tab("Segment")
    viewer.layers.selection = {viewer.layers["em objects"]}
    qtbot.mouseClick(panel.segment_tab.again_button, Qt.MouseButton.LeftButton)
    viewer.layers.remove(viewer.layers["probability"])
    is_held = False
    qtbot.waitUntil(lambda: "removed meanwhile" in tab.message.text())
    assert tab.message.text().startswith("'probability' was removed meanwhile")
    assert not tab.is_running
    assert len(engine.calls) == 3  # the segmentation and two searches


@pytest.mark.gui
def test_objects_in_a_file_bring_probability_and_image_along(open_panel, qtbot, engine, tmp_path):
    files = write_objects(tmp_path / "before", noise(2, 5, 6), "ZYX", "membrane")
    (tmp_path / "before").rename(tmp_path / "moved")
    file = tmp_path / "moved" / "objects" / files.labels.name
    viewer, panel = open_panel()
    tab = panel.objects_tab
    viewer.open(str(file), plugin="napari-skipseg")
    panel.show_tab("Objects")
    viewer.layers.selection = {viewer.layers[0]}
    press(qtbot, tab)
    assert [layer.name for layer in viewer.layers] == ["em_objects", "em_probability", "em", "em_probability objects"]
    np.testing.assert_array_equal(viewer.layers["em_probability objects"].data, viewer.layers["em_objects"].data)
    assert tab.message.text() == f"{files.count} objects found. Run again as before."
    assert tab.form.read() == OPTIONS
    assert engine.calls[-1][3].name == "em"


@pytest.mark.gui
def test_a_probability_that_is_gone_is_asked_for_in_one_sentence(open_panel, qtbot, engine, tmp_path):
    files = write_objects(tmp_path, noise(2, 5, 6), "ZYX", "membrane")
    (tmp_path / "em_probability.tif").unlink()
    viewer, panel = open_panel()
    viewer.open(str(files.labels), plugin="napari-skipseg")
    panel.show_tab("Objects")
    viewer.layers.selection = {viewer.layers[0]}
    press(qtbot, panel.objects_tab)
    assert (
        "em_probability.tif', in which these objects were found, is no longer there" in panel.objects_tab.message.text()
    )
    assert engine.calls == []


def test_what_is_open_is_not_opened_twice_and_lies_where_a_recipe_says_or_is_alike(tmp_path):
    files = write_objects(tmp_path, noise(2, 5, 6), "ZYX", "membrane")
    viewer = ViewerModel()
    probability, em, found = (
        open_file(viewer, file) for file in (tmp_path / "em_probability.tif", tmp_path / "em.tif", files.labels)
    )
    search = find_search(viewer, found)
    assert (search.source.layer, search.measured, search.options) == (probability, em, OPTIONS)
    assert len(viewer.layers) == 3
    assert found not in find_sources(viewer)
    viewer.layers.remove(em)
    (tmp_path / "em.tif").unlink()
    assert find_search(viewer, found).measured is None
    told = found.metadata["skipseg"]["recipe"]
    told["inputs"] = [{**told["inputs"][0], "file": ""}, *told["inputs"][1:]]
    viewer.layers.remove(probability)
    alike = viewer.add_image(255 - probability.data, name="em_probability")
    assert find_search(viewer, found).source.layer == alike
    same = viewer.add_image(probability.data, name="probability")
    assert find_search(viewer, found).source.layer == same
    viewer.layers.remove(alike)
    viewer.layers.remove(same)
    with pytest.raises(InputError, match="'em_probability', in which these objects were found, is not open and lies"):
        find_search(viewer, found)


def test_of_several_classes_the_channel_of_the_one_that_was_asked_for_is_searched(tmp_path):
    values = np.stack([noise(2, 5, 6), 1 - noise(2, 5, 6)])
    options = replace(OPTIONS, class_name="vesicle")
    files = write_objects(tmp_path, values, "CZYX", "membrane", "vesicle", options=options)
    viewer = ViewerModel()
    search = find_search(viewer, open_file(viewer, files.labels))
    np.testing.assert_array_equal(search.source.layer.data, to_uint8(values)[1])
    assert search.options == OPTIONS


def test_labels_that_a_recipe_took_for_such_are_labels_again(tmp_path):
    write_ome_tiff(tmp_path / "mask.tif", (noise(2, 5, 6) > 0.5).astype(np.uint8), Space("ZYX", SIZE, "nm"))
    asked = ObjectsRequest(read_probability(tmp_path / "mask.tif"), ObjectOptions())
    files = run_to_end(iter_objects_to_folder(asked, tmp_path / "objects"))
    viewer = ViewerModel()
    assert find_search(viewer, open_file(viewer, files.labels)).source.labels


def test_a_result_is_looked_at_as_its_files_hold_it_and_nothing_else_is():
    viewer = ViewerModel()
    values = noise(2, 5, 6)
    told = {"role": "probability", "source": "", "recipe": {"classes": ["membrane"]}}
    result = viewer.add_image(values, name="result", metadata={"skipseg": told}, axis_labels="zyx")
    other = viewer.add_image(values, name="other", axis_labels="zyx")
    mine, theirs = (describe_source(viewer, layer) for layer in (result, other))
    np.testing.assert_array_equal(np.asarray(stack_to_search(mine).data), to_uint8(values))
    np.testing.assert_array_equal(stack_to_search(mine, "float32").data[...], values)
    np.testing.assert_array_equal(stack_to_search(theirs).data, values)
    part = {axis: slice(0, length) for axis, length in enumerate(values.shape)}
    np.testing.assert_array_equal(
        prepare_search(PreviewRequest(mine, values, part, OPTIONS)).image.stack.data, to_uint8(values)
    )
