"""The reader in napari: a list or a folder of slices is one layer, several images are a layer each, none left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from npe2 import PluginManager
from PIL import Image as Picture

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.identity import identify
from napari_skipseg.widgets.batch.form import BatchChoices
from napari_skipseg.widgets.correct.sessions import corrected_stack
from napari_skipseg.widgets.layers import files
from napari_skipseg.widgets.layers.files import get_reader, open_image, opened_from, read_layers
from napari_skipseg.widgets.layers.results import stack_of

STACK = np.random.default_rng(0).integers(0, 256, (5, 30, 40), np.uint8)


@pytest.fixture
def sections(tmp_path: Path) -> Path:
    (tmp_path / "sections").mkdir()
    for number, plane in zip((1, 2, 9, 10, 11), STACK, strict=True):
        tifffile.imwrite(tmp_path / "sections" / f"s_{number}.tif", plane, photometric="minisblack")
    return tmp_path / "sections"


@pytest.fixture
def positions(tmp_path: Path) -> Path:
    with tifffile.TiffWriter(tmp_path / "positions.ome.tif", ome=True) as writer:
        for number in range(3):
            told = {"axes": "ZYX", "Name": f"Pos{number}"}
            writer.write(STACK + np.uint8(number), photometric="minisblack", metadata=told)
    return tmp_path / "positions.ome.tif"


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
    monkeypatch.setattr(files, "IN_MEMORY", 0)
    viewer = ViewerModel()
    for path, number, name in ((positions, 1, f"{positions}#1"), (sections, 0, str(sections))):
        data, looks, _ = read_layers(str(path))[number]
        layer = viewer.add_image(data, **looks)
        assert not isinstance(layer.data, np.ndarray)
        assert stack_of(layer, "ZYX").file == name
        assert np.array_equal(np.asarray(layer.data[2]), STACK[2] + np.uint8(number))
    tifffile.imwrite(sections / "s_9.tif", STACK[0], photometric="minisblack")
    with pytest.raises(FileError, match="has changed since it was opened"):
        stack_of(viewer.layers[-1], "ZYX")


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


def test_the_batch_of_the_panel_may_take_folders_as_stacks() -> None:
    assert BatchChoices().as_stack is False
    assert BatchChoices(as_stack=True).as_stack


@pytest.mark.gui
def test_the_form_of_the_batch_offers_it(qapp) -> None:
    from napari_skipseg.widgets.batch.form import BatchForm

    form = BatchForm()
    form.as_stack.setChecked(True)
    assert form.read().as_stack
    form.show_choices(BatchChoices())
    assert not form.read().as_stack
