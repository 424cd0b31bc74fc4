"""Normalisation, and what is no raw image."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import Normalization, measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample

LABELS = (
    "gala_fibsem/train-gt.tif",
    "isbi2012/train-labels-00-24.tif",
    "stardist_nuclei/mask2d.tif",
    "stardist_nuclei/mask3d.tif",
    "vnc_larva3/stack1-membranes-00-09.tif",
    "vnc_larva3/stack1-mitochondria-00-09.tif",
)
RAW = (
    "cellseg3d_mesospim/c5image.tif",
    "cellseg3d_mesospim/test_very_small.tif",
    "gala_fibsem/train-image.tif",
    "isbi2012/test-volume.tif",
    "isbi2012/train-volume-00-24.tif",
    "stardist_nuclei/img2d.tif",
    "stardist_nuclei/img3d.tif",
    "vnc_larva3/stack1-raw-00-09.tif",
)


def stack_of(values, axes=""):
    return Stack(values, Space(axes or "TCZYX"[-values.ndim :]), name="it")


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(0).normal(120, 30, shape).clip(0, 255).astype(dtype)


def disks(shape=(128, 128), spacing=16, radius=6):
    """Instance labels: disks in rows, each of a different number."""
    y, x = np.indices(shape)
    inside = np.hypot(y % spacing - spacing / 2, x % spacing - spacing / 2) < radius
    return np.where(inside, 1 + y // spacing * 100 + x // spacing, 0)


@pytest.fixture(scope="module")
def em(data_folder):
    return tifffile.imread(data_folder / "isbi2012" / "train-volume-00-24.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_a_small_stack_gets_zero_mean_and_unit_deviation(dtype):
    values = noise((3, 40, 50), dtype)
    normalization = measure(stack_of(values))
    assert normalization.mean == pytest.approx(values.mean(dtype=float))
    assert normalization.deviation == pytest.approx(values.std(dtype=float), rel=1e-5)
    normalized = normalization.apply(values)
    assert normalized.dtype == np.float32
    assert normalized.mean() == pytest.approx(0, abs=1e-4)
    assert normalized.std() == pytest.approx(1, abs=1e-4)


def test_statistics_are_of_a_seeded_sample():
    values = noise((70, 16, 16))
    stack = stack_of(values)
    assert measure(stack, seed=3) == measure(stack, seed=3)
    assert measure(stack, seed=3) != measure(stack, seed=4)
    assert measure(stack).mean == pytest.approx(values.mean(), abs=1)


def test_of_a_large_slice_one_window_is_read():
    class Counting:
        shape, dtype = (5000, 3000), np.dtype(np.uint8)
        read = 0

        def __getitem__(self, key):
            rows, columns = (part.stop - part.start for part in key)
            self.read += rows * columns
            return noise((rows, columns))

    counting = Counting()
    measure(Stack(counting, Space("YX")))
    assert 1024**2 <= counting.read <= 1.2 * 1024**2  # and small windows all over it


def test_all_channels_share_one_pair_of_statistics():
    values = np.stack([noise((20, 20)), noise((20, 20)) // 2])
    assert measure(stack_of(values, "CYX")).mean == pytest.approx(values.mean())


def test_applying_does_not_touch_the_image():
    values = np.array([[2.0, 4.0]])
    assert Normalization(3, 0.5).apply(values).tolist() == [[-2, 2]]
    assert values.tolist() == [[2, 4]]


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_image_is_refused(value):
    with pytest.raises(InputError, match=f"constant \\(every value is {value}\\)"):
        measure(stack_of(np.full((2, 16, 16), value, np.uint8)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_a_cure(bad):
    values = noise((2, 16, 16), np.float32)
    values[1, 3, 4] = bad
    with pytest.raises(InputError, match=r"NaN or infinite.*nan_to_num"):
        measure(stack_of(values))


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (3, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_mask_of_two_values_is_refused(values, dtype):
    mask = np.array(values, dtype)[np.random.default_rng(0).integers(0, 2, (32, 32))]
    with pytest.raises(InputError, match=r"only two values.*Choose the raw image"):
        measure(stack_of(mask))
    with pytest.raises(InputError, match="only two values"):
        measure(stack_of(np.random.default_rng(0).random((32, 32)) > 0.5))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("depth", [1, 40])
def test_instance_labels_are_refused(dtype, depth):
    labels = np.repeat(disks()[None], depth, axis=0).astype(dtype)
    with pytest.raises(InputError, match="'it' looks like an image of labels"):
        measure(stack_of(labels))


def test_class_labels_are_refused():
    classes = np.zeros((96, 96), np.uint8)
    classes[10:50, 20:80], classes[60:90, 5:40] = 1, 2
    with pytest.raises(InputError, match="looks like an image of labels"):
        measure(stack_of(classes))


def test_a_label_in_one_slice_of_many_is_enough_to_refuse():
    labels = np.zeros((8, 64, 64), np.uint8)
    labels[5, 20:40, 20:40], labels[5, 45:60, 45:60] = 1, 2
    with pytest.raises(InputError, match="looks like an image of labels"):
        measure(stack_of(labels))


@pytest.mark.parametrize("axis", [0, 1])
def test_an_image_that_is_flat_along_one_axis_only_is_accepted(axis):
    ramp = np.expand_dims(np.arange(64, dtype=np.uint8), axis) + np.zeros((64, 64), np.uint8)
    assert measure(stack_of(ramp)).mean == pytest.approx(31.5)


def test_raw_images_in_a_black_frame_are_accepted():
    framed = np.zeros((2, 200, 200), np.uint8)
    framed[:, 60:120, 60:120] = noise((2, 60, 60))
    assert measure(stack_of(framed)).deviation > 0


@pytest.mark.parametrize("make", [make_sample, make_isotropic_sample])
def test_the_synthetic_samples_are_raw_and_their_truth_is_not(make):
    sample = make((4, 64, 64))
    assert measure(sample.stack).deviation > 10
    with pytest.raises(InputError, match="two values"):
        measure(stack_of(sample.membrane))


@pytest.mark.data
@pytest.mark.parametrize("name", LABELS)
def test_real_labels_are_refused(data_folder, name):
    labels = tifffile.imread(data_folder / name)
    with pytest.raises(InputError, match="labels"):
        measure(stack_of(labels))
    with pytest.raises(InputError, match="labels"):
        measure(stack_of(labels if labels.ndim == 2 else labels[len(labels) // 2]))


@pytest.mark.data
@pytest.mark.parametrize("name", RAW)
def test_real_images_are_accepted(data_folder, name):
    values = tifffile.imread(data_folder / name)
    assert measure(stack_of(values)).deviation > 0
    assert measure(stack_of(values if values.ndim == 2 else values[0])).deviation > 0
    if values.dtype.kind == "f":
        assert measure(stack_of(np.round(values).astype(np.int32))).deviation > 0


@pytest.mark.data
def test_real_colour_images_are_accepted_and_their_masks_refused(data_folder):
    images = sorted((data_folder / "ham10000_skin" / "images").glob("*.jpg"))
    masks = sorted((data_folder / "ham10000_skin" / "masks").glob("*.png"))
    assert len(images) == len(masks) == 5
    for file in images:
        assert measure(stack_of(np.asarray(Image.open(file)), "YXC")).deviation > 0
    for file in masks:
        with pytest.raises(InputError, match="labels"):
            measure(stack_of(np.asarray(Image.open(file))))


@pytest.mark.data
@pytest.mark.parametrize(
    "spoil",
    [
        lambda em: em // 64,
        lambda em: np.digitize(em, (90, 170)),
        lambda em: ((em.astype(float) - 128) * 10 + 128).clip(0, 255).astype(np.uint8),
        lambda em: em.repeat(4, 1).repeat(4, 2)[:, :1024, :1024],
        lambda em: ndimage.uniform_filter(em, (0, 9, 9)),
        lambda em: ndimage.median_filter(em, (1, 7, 7)),
        lambda em: np.pad(em, ((0, 0), (200, 300), (0, 400))),
    ],
    ids=["4 grey levels", "3 grey levels", "saturated", "enlarged fourfold", "smooth", "median", "framed"],
)
def test_real_em_of_poor_quality_is_accepted(em, spoil):
    assert measure(stack_of(spoil(em[:2]))).deviation > 0
