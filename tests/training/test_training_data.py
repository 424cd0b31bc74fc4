"""Training data: labelled slices read from files, split, and refused where they do not fit."""

import numpy as np
import pytest
import tifffile

from napari_skipseg.errors import FileError, InputError, SpecError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.training.patches import draw_batch, read_data
from napari_skipseg.training.settings import TrainSettings

MEMBRANE = ClassLabel("membrane", 0)
SMALL = {"spec": UNetSpec(widths=(2, 4)), "patch": (16, 16)}


def raw(shape=(4, 20, 24), seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def truth(shape=(4, 20, 24)):
    """Labels 0, 5 and 9 in columns."""
    labels = np.full(shape, 5, np.uint8)
    labels[..., :6], labels[..., -3:] = 0, 9
    return labels


@pytest.fixture
def settings_for(tmp_path):
    def make(images, labels, classes=(MEMBRANE,), **options):
        names = {"images": [], "labels": []}
        for kind, arrays in (("images", images), ("labels", labels)):
            for number, array in enumerate(arrays):
                names[kind].append(str(tmp_path / f"{kind}{number}.tif"))
                axes = options.get("axes", "TCZYX"[-array.ndim :]) if kind == "images" else "TCZYX"[-array.ndim :]
                tifffile.imwrite(names[kind][-1], array, metadata={"axes": axes}, ome=True)
        options.pop("axes", None)
        return TrainSettings("t", tuple(names["images"]), tuple(names["labels"]), tuple(classes), **SMALL | options)

    return make


def test_labels_become_background_classes_and_ignored(settings_for):
    settings = settings_for(
        [raw()], [truth()], (ClassLabel("cell", 5), MEMBRANE), ignore=9, spec=UNetSpec(widths=(2, 4), out_channels=3)
    )
    with pytest.raises(InputError, match="training needs background too"):
        read_data(settings)
    data = read_data(settings_for([raw()], [truth()], ignore=9))
    target = data.training[0].target
    assert target.dtype == np.int16
    assert [target[..., place].flat[0] for place in (0, 10, -1)] == [1, 0, -1]
    assert np.array_equal(target == 1, truth() == 0)
    assert np.array_equal(target == -1, truth() == 9)


def test_images_are_read_in_standard_units_channel_first(settings_for):
    image = read_data(settings_for([raw()], [truth()])).training[0].image
    assert (image.shape, image.dtype) == ((1, 4, 20, 24), np.float32)
    assert image.mean() == pytest.approx(0, abs=1e-5)
    assert image.std() == pytest.approx(1, abs=1e-5)


def test_a_single_slice_is_a_stack_of_one(settings_for):
    data = read_data(settings_for([raw((20, 24))], [truth((20, 24))]))
    assert data.training[0].image.shape == (1, 1, 20, 24)
    assert data.training[0].target.shape == (1, 20, 24)


def test_colour_images_have_their_channels_first(settings_for):
    spec = UNetSpec(in_channels=3, widths=(2, 4))
    data = read_data(settings_for([raw((3, 20, 24))], [truth((20, 24))], spec=spec, axes="CYX"))
    assert data.training[0].image.shape == (3, 1, 20, 24)


def test_slices_are_held_out_by_their_number_over_all_images(settings_for):
    images = [raw((3, 20, 24)), raw((4, 20, 24), 1)]
    data = read_data(settings_for(images, [truth((3, 20, 24)), truth()], validate="1,4-5"))
    assert [run.target.shape[0] for run in data.training] == [1, 1, 1, 1]
    assert [run.target.shape[0] for run in data.validation] == [1, 2]
    second = (images[1] - images[1].mean()) / images[1].std()
    assert np.allclose(data.validation[1].image[0], second[1:3], atol=1e-4)
    assert np.allclose(data.training[2].image[0], second[:1], atol=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_thin_classes_are_widened_over_the_background(settings_for, dimensions):
    labels = np.full((5, 20, 24), 255, np.uint8)
    labels[2, 10, 12] = 0
    spec = UNetSpec(widths=(2, 4), dimensions=dimensions)
    patch = (16, 16) if dimensions == 2 else (8, 16, 16)
    data = read_data(settings_for([raw((5, 20, 24))], [labels], widen=1, spec=spec, patch=patch))
    grown = np.argwhere(data.training[0].target == 1).tolist()
    cross = [[2, 9, 12], [2, 10, 11], [2, 10, 12], [2, 10, 13], [2, 11, 12]]
    assert grown == (cross if dimensions == 2 else sorted([*cross, [1, 10, 12], [3, 10, 12]]))


def test_a_batch_is_the_same_at_the_same_step(settings_for):
    settings = settings_for([raw()], [truth()], batch=3)
    runs = read_data(settings).training
    images, targets, _ = draw_batch(runs, settings, step=4)
    assert (images.shape, targets.shape) == ((3, 1, 16, 16), (3, 16, 16))
    assert draw_batch(runs, settings, step=4)[0].equal(images)
    assert not draw_batch(runs, settings, step=5)[0].equal(images)
    assert not images[0].equal(images[1])


BAD = {
    "a class that is not there": ({"classes": [ClassLabel("membrane", 77)]}, "No pixel is labelled membrane \\(77\\)"),
    "a class in held-out slices only": ({"validate": "3"}, "No pixel is labelled membrane"),
    "no slice left": ({"validate": "0-3"}, "No slice is left to train on"),
    "a slice that is not there": ({"validate": "2-4"}, "Slice 4 cannot be held out.*slices 0 to 3"),
    "colour": ({"spec": UNetSpec(in_channels=3, widths=(2, 4))}, "has 1 channels, the network takes 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_do_not_fit_the_data_are_refused(settings_for, case):
    options, fault = BAD[case]
    labels = truth()
    if "held-out" in case:
        labels[:3] = 5
    with pytest.raises((InputError, SpecError), match=fault):
        read_data(settings_for([raw()], [labels], **options))


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (truth((4, 20, 23)), "do not fit"),
        (truth((3, 20, 24)), "do not fit"),
        (truth((20, 24)), "do not fit"),
        (truth((2, 4, 20, 24)), "do not fit"),
        (truth().astype(np.float32) + 0.5, "contains fractions"),
        (np.full((4, 20, 24), np.nan, np.float32), "contains fractions"),
        (np.zeros((4, 20, 24), np.uint8), "training needs background too"),
        (np.full((4, 20, 24), 5, np.uint8), "No pixel is labelled membrane"),
    ],
)
def test_labels_that_do_not_fit_are_refused(settings_for, labels, fault):
    with pytest.raises(InputError, match=fault):
        read_data(settings_for([raw()], [labels]))


def test_labels_stored_as_whole_floats_are_labels(settings_for):
    assert read_data(settings_for([raw()], [truth().astype(np.float32)])).training[0].target.any()


@pytest.mark.parametrize("axes", ["TYX", "CYX"])
def test_labels_of_the_image_s_shape_with_other_axes_take_those_of_the_image(settings_for, axes):
    settings = settings_for([raw()], [truth()])
    usual = read_data(settings).training[0].target
    tifffile.imwrite(settings.labels[0], truth(), metadata={"axes": axes}, photometric="minisblack")
    assert np.array_equal(read_data(settings).training[0].target, usual)


def test_labels_given_as_the_image_are_refused(settings_for):
    with pytest.raises(InputError, match="looks like an image of labels"):
        read_data(settings_for([truth()], [truth()]))


def test_a_time_series_is_refused(settings_for):
    with pytest.raises(InputError, match="is a time series"):
        read_data(settings_for([raw()], [truth()], axes="TYX"))


def test_a_missing_file_is_named(settings_for, tmp_path):
    settings = settings_for([raw()], [truth()])
    (tmp_path / "labels0.tif").unlink()
    with pytest.raises(FileError, match=r"labels0\.tif"):
        read_data(settings)


def test_images_of_several_voxel_sizes_are_told_and_the_largest_counts(tmp_path):
    paths = []
    for name, side, size in (("large", 64, 4), ("small", 32, 8)):
        values = np.random.default_rng(0).integers(0, 255, (2, side, side), np.uint8)
        write_ome_tiff(tmp_path / f"{name}.tif", values, Space("ZYX", (50, size, size), "nm"))
        tifffile.imwrite(tmp_path / f"{name}_labels.tif", (values > 100).astype(np.uint8), metadata={"axes": "ZYX"})
        paths.append((str(tmp_path / f"{name}.tif"), str(tmp_path / f"{name}_labels.tif")))
    images, labels = zip(*paths, strict=True)
    data = read_data(TrainSettings("t", images, labels, (ClassLabel("membrane", 1),)))
    assert data.stack.space.voxel_size == (50, 4, 4)
    (told,) = (finding for finding in data.findings if "voxels of 4 × 4 nm" in finding)
    assert "small" in told
    alone = read_data(TrainSettings("t", images[:1], labels[:1], (ClassLabel("membrane", 1),)))
    assert not any("voxels of" in finding for finding in alone.findings)
