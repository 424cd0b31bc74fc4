"""The reader in napari: a list or a folder of slices is one layer, several images are a layer each, none left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hand import segment
from made_images import write_positions, write_slices
from napari.components import ViewerModel
from npe2 import PluginManager
from PIL import Image as Picture

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.identity import identify
from napari_skipseg.widgets.correct.sessions import corrected_stack
from napari_skipseg.widgets.forms.fields import choose_value
from napari_skipseg.widgets.layers import files
from napari_skipseg.widgets.layers.files import get_reader, open_image, opened_from, read_layers
from napari_skipseg.widgets.layers.results import stack_of_layer

STACK = np.random.default_rng(0).integers(0, 256, (5, 30, 40), np.uint8)


@pytest.fixture
def sections(tmp_path: Path) -> Path:
    return write_slices(tmp_path / "sections", STACK, (1, 2, 9, 10, 11))


@pytest.fixture
def positions(tmp_path: Path) -> Path:
    return write_positions(tmp_path / "positions.ome.tif", *(STACK + np.uint8(number) for number in range(3)))


@pytest.fixture
def viewer() -> ViewerModel:
    PluginManager.instance().discover()
    return ViewerModel()


def test_open_files_as_stack_gives_one_layer_in_natural_order(viewer, sections) -> None:
    names = sorted(str(file) for file in sections.iterdir())  # s_10 before s_2, as a file dialog gives them
    (layer,) = viewer.open(names, stack=True, plugin="napari-skipseg")
    assert np.array_equal(layer.data, STACK)
    assert (layer.name, opened_from(layer)) == ("sections", str(sections))
    assert any("missing" in note for note in layer.metadata["skipseg"]["notes"])
    layers = viewer.open(names, stack=False, plugin="napari-skipseg")
    assert [each.data.shape for each in layers] == [(30, 40)] * 5


def test_open_folder_gives_one_layer(viewer, sections) -> None:
    (layer,) = viewer.open(str(sections), plugin="napari-skipseg")
    assert np.array_equal(layer.data, STACK)
    assert layer.axis_labels == ("z", "y", "x")


def test_some_files_of_a_folder_and_pictures_are_a_stack(tmp_path, sections) -> None:
    some = [str(sections / "s_11.tif"), str(sections / "s_2.tif")]
    data, looks, _ = get_reader(some)(some)[0]
    assert np.array_equal(data, STACK[[1, 4]])
    assert np.array_equal(read_stack(looks["metadata"]["skipseg"]["opened"]).data, STACK[[1, 4]])
    for number, plane in enumerate(STACK):
        Picture.fromarray(plane).save(tmp_path / f"{number}.png")
    pictures = [str(tmp_path / f"{number}.png") for number in (3, 1, 2)]
    assert np.array_equal(get_reader(pictures)(pictures)[0][0], STACK[1:4])
    assert get_reader(pictures[0]) is None
    assert get_reader([*some, str(tmp_path / "notes.txt")]) is None


def test_slices_that_do_not_fit_are_told(sections, tmp_path) -> None:
    tifffile.imwrite(sections / "s_9.tif", STACK[0, :20], photometric="minisblack")
    names = sorted(map(str, sections.iterdir()))
    for path in (names, str(sections)):
        with pytest.raises(InputError, match=r"s_9\.tif"):
            get_reader(path)(path)


def test_every_image_of_a_file_is_a_layer_with_its_name_and_place(viewer, positions) -> None:
    layers = viewer.open(str(positions), plugin="napari-skipseg")
    assert [layer.name for layer in layers] == [f"positions_{number} Pos{number}" for number in range(3)]
    assert [layer.visible for layer in layers] == [True, False, False]
    for number, layer in enumerate(layers):
        assert np.array_equal(layer.data, STACK + np.uint8(number))
        assert opened_from(layer) == f"{positions}#{number}"
        stack = corrected_stack(layer, "ZYX")
        assert stack.file == f"{positions}#{number}"
        assert identify(read_stack(stack.file)) == identify(stack)
    (alone,) = open_image(viewer, f"{positions}#1")
    assert np.array_equal(alone.data, STACK + np.uint8(1))


def test_a_large_image_of_several_and_a_large_folder_are_read_where_they_lie(sections, positions, monkeypatch) -> None:
    monkeypatch.setattr(files, "LAYER_IN_MEMORY", 0)
    viewer = ViewerModel()
    for path, number, name in ((positions, 1, f"{positions}#1"), (sections, 0, str(sections))):
        data, looks, _ = read_layers(str(path))[number]
        layer = viewer.add_image(data, **looks)
        assert not isinstance(layer.data, np.ndarray)
        assert stack_of_layer(layer, "ZYX").file == name
        assert np.array_equal(np.asarray(layer.data[2]), STACK[2] + np.uint8(number))
    tifffile.imwrite(sections / "s_9.tif", STACK[0], photometric="minisblack")
    with pytest.raises(FileError, match="has changed since it was opened"):
        stack_of_layer(viewer.layers[-1], "ZYX")


def test_what_lies_beside_an_image_is_noted_on_its_layer(tmp_path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in (STACK[0, ::3, ::2].copy(), *STACK):
            writer.write(page, photometric="minisblack", contiguous=False, metadata=None)
    ((data, looks, _),) = read_layers(str(tmp_path / "a.tif"))
    assert np.array_equal(data, STACK)
    assert "which is left out" in looks["metadata"]["skipseg"]["notes"][0]


def test_an_ome_companion_is_read(tmp_path) -> None:
    (tmp_path / "a.companion.ome").write_text("<OME/>")
    assert get_reader(str(tmp_path / "a.companion.ome")) is not None


def test_pictures_that_naparis_own_reader_stacked_are_told_of_what_is_missing(tmp_path, viewer) -> None:
    for number, plane in zip((1, 2, 4, 5, 6), STACK, strict=True):
        Picture.fromarray(plane).save(tmp_path / f"s{number}.png")
    names = sorted(str(file) for file in tmp_path.glob("*.png"))
    (layer,) = viewer.open(names, stack=True, plugin="napari")
    assert any("Section 3 is missing" in note for note in stack_of_layer(layer, "ZYX").notes)
    (some,) = viewer.open(names[:3], stack=True, plugin="napari")
    assert stack_of_layer(some, "ZYX").notes == ()


def test_the_files_of_slices_and_the_names_of_images_go_with_the_layers(viewer, sections, positions) -> None:
    (layer,) = viewer.open(str(sections), plugin="napari-skipseg")
    assert stack_of_layer(layer, "ZYX").slice_names == ("s_1.tif", "s_2.tif", "s_9.tif", "s_10.tif", "s_11.tif")
    assert stack_of_layer(layer, "ZYX", {0: 2}).slice_names == ()
    layers = viewer.open(str(positions), plugin="napari-skipseg")
    assert [stack_of_layer(each, "ZYX").title for each in layers] == ["Pos0", "Pos1", "Pos2"]
    saved = positions.parent / "saved.ome.tif"
    data, attributes, _ = layers[1].as_layer_data_tuple()
    files.write_image(str(saved), data, attributes)
    assert read_stack(saved).title == "Pos1"


def shown_in(viewer: ViewerModel) -> list[str]:
    return [layer.name for layer in viewer.layers if layer.visible]


@pytest.mark.gui
def test_choosing_one_image_of_a_file_shows_it_and_its_results_and_hides_the_others(
    open_panel, qtbot, positions
) -> None:
    opened, panel = open_panel()
    beside = opened.add_image(STACK, name="beside")
    first, second, _ = (layer for layer in opened.open(str(positions), plugin="napari-skipseg"))
    form = panel.segment_tab.form
    choose_value(panel.segment_tab.form.image, first)
    segment(qtbot, panel)
    assert shown_in(opened) == ["beside", first.name, "Pos0: probability", "Pos0: binary"]
    opened.layers["Pos0: binary"].visible = False
    choose_value(panel.segment_tab.form.image, second)
    assert shown_in(opened) == ["beside", second.name]
    segment(qtbot, panel)
    assert shown_in(opened) == ["beside", second.name, "Pos1: probability", "Pos1: binary"]
    opened.layers.selection.active = first  # in the layer list
    qtbot.waitUntil(lambda: form.read().layer is first)
    assert shown_in(opened) == ["beside", first.name, "Pos0: probability"]
    opened.layers.selection.active = beside
    qtbot.waitUntil(lambda: form.read().layer is beside)
    assert shown_in(opened) == ["beside", first.name, "Pos0: probability"]


@pytest.mark.gui
def test_a_layer_that_napari_selects_is_not_chosen(open_panel, qtbot, engine) -> None:
    opened, panel = open_panel()
    form = panel.segment_tab.form
    first, second = (opened.add_image(STACK, name=name) for name in ("first", "second"))
    third = opened.add_image(STACK, name="third")
    qtbot.wait(20)
    assert form.read().layer is first
    opened.layers.remove(third)  # napari selects the layer beside it
    qtbot.wait(20)
    assert form.read().layer is first
    opened.layers.selection.active = None
    engine.pause = 0.2
    panel.segment_tab.segment_button.click()
    opened.layers.selection.active = second
    qtbot.wait(20)
    assert form.read().layer is first  # a run was begun
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running)
