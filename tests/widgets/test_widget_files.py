"""The reader, the writers and the sample, as napari calls them; and the demonstration."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable

import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Image
from npe2 import PluginManifest

from napari_skipseg.batch.inputs import MICROSCOPE_ENDINGS
from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.mrc import MRC_ENDINGS
from napari_skipseg.images.slices import TIFF_ENDINGS
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs import preparation
from napari_skipseg.jobs.encoding import iter_write_npy
from napari_skipseg.jobs.messages import Segment
from napari_skipseg.progress import run_to_end
from napari_skipseg.widgets.layers import files
from napari_skipseg.widgets.layers.files import get_reader, read_layers, write_image, write_labels
from napari_skipseg.widgets.layers.results import stack_of_layer


def add(viewer: ViewerModel, layer_data) -> None:
    data, attributes, kind = layer_data
    getattr(viewer, f"add_{kind}")(data, **attributes)


def test_the_manifest_is_valid_and_its_commands_exist():
    manifest = PluginManifest.from_distribution("napari-skipseg")
    manifest.validate_imports()
    assert [sample.key for sample in manifest.contributions.sample_data] == [
        "em_stack",
        "em_truths",
        "isotropic_stack",
        "isotropic_stack_truths",
    ]
    package, icon = manifest.icon.split(":")
    assert (importlib.resources.files(package) / icon).read_text().startswith("<svg")
    assert manifest.contributions.menus["napari/layers/segment"][0].command == "napari-skipseg.panel"


def test_an_image_survives_the_file_with_its_place(tmp_path):
    viewer = ViewerModel()
    image = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    layer = viewer.add_image(
        image, scale=(50, 4, 4), translate=(100, 8, 4), units="nm", axis_labels=("z", "y", "x"), name="em"
    )
    path = str(tmp_path / "em.ome.tif")
    data, attributes, _ = layer.as_layer_data_tuple()
    assert write_image(path, data, attributes) == [path]
    add(viewer, get_reader(path)(path)[0])
    back = viewer.layers[-1]
    np.testing.assert_array_equal(back.data, image)
    assert (list(back.scale), list(back.translate)) == ([50, 4, 4], [100, 8, 4])
    assert (back.units, back.axis_labels) == (layer.units, ("z", "y", "x"))


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_that_is_turned_or_runs_backwards_lies_where_its_file_says(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(files, "LAYER_IN_MEMORY", 2**28 if in_memory else 0)
    values = np.arange(2 * 5 * 4 * 3, dtype="u1").reshape(2, 5, 4, 3)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=values[:1], chunks=(1, 2, 2, 2))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "nanometer"} for n in "xyz")]
    steps = [{"type": "scale", "scale": [1, 4, -4, 50]}, {"type": "translation", "translation": [0, 8, 12, 100]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    viewer = ViewerModel()
    add(viewer, read_layers(str(tmp_path / "a.zarr"))[0])
    layer = viewer.layers[0]
    assert (list(layer.scale), list(layer.translate)) == ([50, 4, 4], [100, 0, 8])
    assert (layer.axis_labels, [str(unit) for unit in layer.units]) == (("z", "y", "x"), ["nanometer"] * 3)
    assert np.array_equal(np.asarray(layer.data), values[0].T[:, ::-1])
    place = layer.data_to_world((1, 0, 2))  # what the file has at x = 2, y = 3 (its last), z = 1
    assert list(place) == [100 + 1 * 50, 12 - 3 * 4, 8 + 2 * 4]
    assert np.asarray(layer.data)[1, 0, 2] == values[0, 2, 3, 1]
    stack = stack_of_layer(layer, "ZYX")
    assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == ((50, 4, 4), "nm", (100, 0, 8))
    assert any("turned" in note for note in stack.notes)


def test_labels_come_back_as_labels(tmp_path):
    viewer = ViewerModel()
    labels = np.array([[0, 1], [300, 2]])
    layer = viewer.add_labels(labels, scale=(4, 4), units="nm")
    path = str(tmp_path / "labels.tif")
    data, attributes, _ = layer.as_layer_data_tuple()
    write_labels(path, data, attributes)
    back = read_layers(path)[0]
    assert back[2] == "labels"
    assert back[0].dtype == np.uint16
    np.testing.assert_array_equal(back[0], labels)


def test_rgb_is_one_layer_and_channels_are_several(tmp_path):
    viewer = ViewerModel()
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "channels.ome.tif",
        np.zeros((2, 3, 8, 9), np.uint8),
        metadata={"axes": "CZYX"},
        photometric="minisblack",
    )
    add(viewer, read_layers(str(tmp_path / "rgb.tif"))[0])
    assert viewer.layers[0].rgb
    add(viewer, read_layers(str(tmp_path / "channels.ome.tif"))[0])
    assert [layer.data.shape for layer in viewer.layers[1:]] == [(3, 8, 9)] * 2


def test_a_large_file_is_read_where_it_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LAYER_IN_MEMORY", 0)
    image = np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8)
    tifffile.imwrite(tmp_path / "big.tif", image)
    data = read_layers(str(tmp_path / "big.tif"))[0][0]
    assert data.chunks == ((1, 1, 1), (40,), (50,))
    np.testing.assert_array_equal(np.asarray(data[1]), image[1])


def test_an_ome_zarr_opens_with_its_place_and_a_large_one_with_its_levels(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (2, 3, 600, 700), np.uint8)
    told = Layout(image.shape, Space("CZYX", (50, 4, 4), "nm", (100, 8, 4)), "uint8", description={"model": "a"})
    write_ome_zarr(tmp_path / "em.ome.zarr", image, told)
    path = str(tmp_path / "em.ome.zarr")
    for small in (True, False):
        monkeypatch.setattr(files, "LAYER_IN_MEMORY", 2**30 if small else 0)
        viewer = ViewerModel()
        (layer_data,) = get_reader(path)(path)
        add(viewer, layer_data)
        assert [layer.multiscale for layer in viewer.layers] == [not small] * 2
        finest = viewer.layers[1].data if small else viewer.layers[1].data[0]
        np.testing.assert_array_equal(np.asarray(finest), image[1])
        assert (list(viewer.layers[0].scale), list(viewer.layers[0].translate)) == ([50, 4, 4], [100, 8, 4])
        assert [str(unit) for unit in viewer.layers[0].units] == ["nanometer"] * 3
        assert viewer.layers[0].metadata["skipseg"]["recipe"] == {"model": "a"}


@pytest.fixture
def large_file(tmp_path, monkeypatch) -> Callable:
    """Write an image that counts as large, open it as layers, and give the first."""

    def open_it(name: str, image: np.ndarray, axes: str = "ZYX"):
        monkeypatch.setattr(files, "LAYER_IN_MEMORY", 0)
        path = tmp_path / name
        if name.endswith(".zarr"):
            write_ome_zarr(path, image, Layout(image.shape, Space(axes, (50, 4, 4), "nm"), str(image.dtype)))
        else:
            tifffile.imwrite(
                path, image, metadata={"axes": axes}, photometric="rgb" if axes[-1] == "C" else "minisblack"
            )
        viewer = ViewerModel()
        add(viewer, read_layers(str(path))[0])
        return viewer.layers[0]

    return open_it


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


@pytest.mark.parametrize("name", ["em.tif", "em.ome.tif", "em.ome.zarr"])
def test_a_stack_names_its_file_while_the_layer_shows_all_of_it(large_file, tmp_path, name):
    layer = large_file(name, noise(3, 600, 700))
    assert stack_of_layer(layer, "ZYX").file == str(tmp_path / name)
    assert stack_of_layer(layer, "TYX").file == str(tmp_path / name)
    assert stack_of_layer(layer, "ZYX", {0: 1}).file == ""
    data = layer.data[0] if layer.multiscale else layer.data
    layer.data = [data[1:], data[1:, ::2, ::2]] if layer.multiscale else data[1:]
    assert stack_of_layer(layer, "ZYX").file == ""


def test_channels_colours_and_small_images_are_copied(large_file, tmp_path):
    assert stack_of_layer(large_file("channels.ome.tif", noise(2, 3, 40, 50), "CZYX"), "ZYX").file == ""
    assert stack_of_layer(large_file("rgb.tif", noise(40, 50, 3), "YXC"), "YX").file == ""
    assert stack_of_layer(Image(noise(3, 40, 50)), "ZYX").file == ""


def test_a_file_that_is_gone_or_another_one_now_is_told(large_file, tmp_path):
    layer = large_file("em.tif", noise(3, 40, 50))
    tifffile.imwrite(tmp_path / "new.tif", noise(3, 41, 50), photometric="minisblack")
    (tmp_path / "new.tif").replace(tmp_path / "em.tif")
    with pytest.raises(FileError, match=r"em\.tif' has changed since it was opened: open it again\."):
        stack_of_layer(layer, "ZYX")
    (tmp_path / "em.tif").unlink()
    with pytest.raises(FileError, match=r"em\.tif' is no longer there"):
        stack_of_layer(layer, "ZYX")


def test_the_engine_reads_a_large_file_where_it_is_and_copies_what_was_changed(large_file, monkeypatch, real_engine):
    image, copied = noise(3, 64, 80), []
    monkeypatch.setattr(
        preparation, "iter_write_npy", lambda stack, file: copied.append(file) or iter_write_npy(stack, file)
    )
    layer, options = large_file("em.tif", image), SegmentOptions(device="cpu")
    read = run_to_end(real_engine.run(Segment(stack_of_layer(layer, "ZYX"), "tiny-2d", options)))
    assert copied == []
    layer.data = layer.data + 0
    again = run_to_end(real_engine.run(Segment(stack_of_layer(layer, "ZYX"), "tiny-2d", options)))
    assert [file.name for file in copied] == ["stack.npy"]
    np.testing.assert_array_equal(read.probability, again.probability)
    assert np.ptp(read.probability) > 0


def test_labels_in_an_ome_zarr_are_labels_and_an_mrc_has_its_voxel_size(tmp_path):
    labels = np.arange(30, dtype=np.uint16).reshape(5, 6)
    write_ome_zarr(
        tmp_path / "cells.zarr", labels, Layout((5, 6), Space("YX", (1, 4, 4), "nm"), "uint16", kind="labels")
    )
    with mrcfile.new(tmp_path / "tomo.rec", labels.astype(np.int16)[None]) as file:
        file.voxel_size = 13.3
    viewer = ViewerModel()
    for name in ("cells.zarr", "tomo.rec"):
        add(viewer, get_reader(str(tmp_path / name))(str(tmp_path / name))[0])
    assert [type(layer).__name__ for layer in viewer.layers] == ["Labels", "Image"]
    assert [str(unit) for unit in viewer.layers[1].units] == ["angstrom"] * 2
    assert list(viewer.layers[1].scale) == [13.3, 13.3]


def test_napari_asks_this_reader_for_zarr_folders_and_mrc(tmp_path):
    reader = PluginManifest.from_distribution("napari-skipseg").contributions.readers[0]
    assert reader.accepts_directories
    assert {"*.tif", "*.zarr", "*.mrc", "*.rec"} <= set(reader.filename_patterns)
    assert get_reader(str(tmp_path)) is None


def test_a_broken_file_is_told_in_one_sentence(tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"no image")
    assert get_reader("picture.png") is None
    with pytest.raises(FileError, match=r"broken\.tif"):
        read_layers(str(tmp_path / "broken.tif"))


@pytest.mark.gui
def test_the_demonstration_opens_the_sample_and_leaves_a_picture_and_the_results(tmp_path, qapp, monkeypatch):
    from napari_skipseg.images.synthetic.sample import make_sample
    from napari_skipseg.widgets.panel import open_demo

    monkeypatch.setattr(files, "_sample", lambda is_isotropic: make_sample((2, 128, 128)))
    written = open_demo(tmp_path / "demo")
    result = read_stack(written[1])
    assert (result.shape, result.space.voxel_size, result.space.unit) == ((2, 128, 128), (50.0, 4.0, 4.0), "nm")
    assert [path.name for path in written][:3] == [
        "napari-skipseg-demo.png",
        "em-sample_probability.tif",
        "em-sample_binary.tif",
    ]
    assert all(path.stat().st_size > 1000 for path in written)


def test_layers_are_written_as_ome_zarr_that_we_and_plain_zarr_read_back(tmp_path):
    viewer, values = ViewerModel(), np.random.default_rng(0).integers(0, 4000, (5, 40, 30))
    placing = {"scale": (40, 4, 5), "translate": (80, 0, 10), "units": ("nm",) * 3, "axis_labels": tuple("zyx")}
    image = viewer.add_image(values.astype(np.uint16), **placing)
    labels = viewer.add_labels(values, **placing)
    for layer, name in ((image, "a.ome.zarr"), (labels, "b.zarr")):
        write = write_image if layer is image else write_labels
        data, attributes, _ = layer.as_layer_data_tuple()
        for _ in range(2):  # one of ours is replaced
            assert write(str(tmp_path / name), data, attributes) == [str(tmp_path / name)]
        stack = read_stack(tmp_path / name)
        assert stack.space == Space("ZYX", (40, 4, 5), "nm", (80, 0, 10))
        np.testing.assert_array_equal(stack.data[...], values)
        group = zarr.open_group(tmp_path / name, mode="r")
        (multiscale,) = group.attrs["ome"]["multiscales"]
        assert [(axis["name"], axis["unit"]) for axis in multiscale["axes"]] == [(a, "nanometer") for a in "zyx"]
        steps = multiscale["datasets"][0]["coordinateTransformations"]
        assert [steps[0]["scale"], steps[1]["translation"]] == [[40, 4, 5], [80, 0, 10]]
        np.testing.assert_array_equal(group["0"][...], values)
    (again,) = read_layers(str(tmp_path / "b.zarr"))
    assert (again[2], again[0].dtype, tuple(again[1]["scale"])) == ("labels", np.uint16, (40, 4, 5))
    assert "image-label" in zarr.open_group(tmp_path / "b.zarr", mode="r").attrs["ome"]


def test_colours_go_into_an_ome_zarr_as_channels_and_foreign_folders_stay(tmp_path):
    viewer, values = ViewerModel(), np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    layer = viewer.add_image(values, rgb=True, scale=(2, 2), units=("um", "um"))
    data, attributes, _ = layer.as_layer_data_tuple()
    write_image(str(tmp_path / "rgb.zarr"), data, attributes)
    stack = read_stack(tmp_path / "rgb.zarr")
    assert (stack.space.axes, stack.space.voxel_size[1:], stack.space.unit) == ("CYX", (2, 2), "µm")
    np.testing.assert_array_equal(np.moveaxis(stack.data[...], 0, -1), values)
    zarr.create_array(tmp_path / "theirs.zarr", shape=(3,), dtype="u1")
    before = sorted(file.name for file in (tmp_path / "theirs.zarr").iterdir())
    with pytest.raises(FileError, match="is there already and not ours"):
        write_image(str(tmp_path / "theirs.zarr"), data, attributes)
    assert sorted(file.name for file in (tmp_path / "theirs.zarr").iterdir()) == before


def test_the_truths_of_a_sample_lie_over_it_as_labels(monkeypatch):
    made = files._sample(True)
    monkeypatch.setattr(files, "_sample", lambda is_isotropic: made)
    for stack, truths in (
        (files.make_em_stack, files.make_em_truths),
        (files.make_isotropic_stack, files.make_isotropic_truths),
    ):
        viewer = ViewerModel()
        for each in (*stack(), *truths()):
            add(viewer, each)
        em, membranes, mitochondria = viewer.layers
        assert (em.scale.tolist(), [str(unit) for unit in em.units]) == ([8, 8, 8], ["nanometer"] * 3)
        for labels in (membranes, mitochondria):
            assert labels.scale.tolist() == em.scale.tolist()
            assert (labels.data.shape, labels.data.max()) == (em.data.shape, 1)
        assert membranes.data.sum() != mitochondria.data.sum()
        assert not np.allclose(membranes.get_color(1), mitochondria.get_color(1), atol=0.2)


def test_napari_gives_us_all_files_that_a_batch_takes_but_single_pictures():
    (reader,) = PluginManifest.from_distribution("napari-skipseg").contributions.readers
    endings = (*TIFF_ENDINGS, *MICROSCOPE_ENDINGS, *MRC_ENDINGS)
    assert {f"*{ending}" for ending in (*endings, ".ome", ".zarr")} <= set(reader.filename_patterns)
    assert [ending for ending in endings if get_reader(f"em{ending}") is None] == []
    assert get_reader("em.png") is None
