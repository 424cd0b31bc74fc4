"""The synthetic samples look like EM, carry their truth, and are the same for the same seed."""

import numpy as np
import pytest
from scipy import ndimage

from napari_skipseg.errors import InputError
from napari_skipseg.images.synthetic.neurites import smooth_noise
from napari_skipseg.images.synthetic.sample import SyntheticSample, make_isotropic_sample, make_sample


@pytest.fixture(scope="module")
def sample() -> SyntheticSample:
    return make_sample((6, 256, 256), seed=1)


@pytest.fixture(scope="module")
def isotropic() -> SyntheticSample:
    return make_isotropic_sample((24, 128, 128), seed=1)


def test_the_sample_is_a_uint8_zyx_stack_with_its_voxel_size_in_nanometres(sample):
    assert sample.stack.data.dtype == np.uint8
    assert sample.stack.shape == (6, 256, 256)
    assert (sample.stack.space.axes, sample.stack.space.unit) == ("ZYX", "nm")
    assert sample.stack.space.voxel_size == (50.0, 4.0, 4.0)
    assert sample.stack.name == "EM sample (synthetic)"


def test_the_isotropic_sample_has_equal_sides(isotropic):
    assert isotropic.stack.data.dtype == np.uint8
    assert isotropic.stack.shape == (24, 128, 128)
    assert isotropic.stack.space.voxel_size == (8.0, 8.0, 8.0)
    assert isotropic.stack.space.unit == "nm"


@pytest.mark.parametrize("make", [make_sample, make_isotropic_sample])
def test_the_truth_holds_zeros_and_ones_in_the_shape_of_the_image(make):
    made = make((3, 96, 80), seed=4)
    for truth in (made.membrane, made.mitochondria):
        assert truth.dtype == np.uint8
        assert truth.shape == (3, 96, 80)
        assert set(np.unique(truth)) <= {0, 1}


@pytest.mark.parametrize("make", [make_sample, make_isotropic_sample])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(make):
    first, again, other = make((2, 80, 96), seed=7), make((2, 80, 96), seed=7), make((2, 80, 96), seed=8)
    for one, two in zip((first.stack.data, *first[1:]), (again.stack.data, *again[1:]), strict=True):
        assert one.tobytes() == two.tobytes()
    assert (first.stack.data != other.stack.data).mean() > 0.5


def test_making_a_sample_leaves_numpys_global_generator_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    make_sample((1, 64, 64))
    assert np.random.random() == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_about_a_fifth_of_the_sample_is_membrane(seed):
    assert 0.17 < make_sample((2, 256, 256), seed).membrane.mean() < 0.30


def test_membranes_are_much_darker_than_cytoplasm(sample):
    image, membrane = sample.stack.data, sample.membrane > 0
    for section, wall in zip(image, membrane, strict=True):
        assert section[~wall].mean() - section[wall].mean() > 30


def test_membranes_of_the_isotropic_sample_are_much_darker_than_cytoplasm(isotropic):
    image, membrane = isotropic.stack.data, isotropic.membrane > 0
    assert image[~membrane].mean() - image[membrane].mean() > 50


def test_grey_levels_fill_the_range_without_clipping(sample):
    low, middle, high = np.percentile(sample.stack.data, (1, 50, 99))
    assert low < 60
    assert 90 < middle < 170
    assert 180 < high < 255
    assert np.isin(sample.stack.data, (0, 255)).mean() < 0.02


def test_mitochondria_are_dark_and_apart_from_membranes(sample):
    inside, membrane = sample.mitochondria > 0, sample.membrane > 0
    cytoplasm = ~inside & ~membrane
    assert 0.01 < inside.mean() < 0.2
    assert sample.stack.data[cytoplasm].mean() - sample.stack.data[inside].mean() > 20
    assert (inside & membrane).sum() < 0.05 * inside.sum()


def test_neighbouring_sections_resemble_each_other_more_than_distant_ones(sample):
    cells = sample.membrane == 0

    def likeness(distance: int) -> float:
        pairs = zip(cells[:-distance], cells[distance:], strict=True)
        return float(np.mean([np.corrcoef(one.ravel(), two.ravel())[0, 1] for one, two in pairs]))

    assert likeness(1) > likeness(2) > likeness(5)
    assert likeness(1) > 0.3


def test_sections_differ_in_brightness(sample):
    assert sample.stack.data.mean(axis=(1, 2)).std() > 1


def test_every_section_has_many_separate_cells_of_varied_size(sample):
    counts, areas = [], []
    for section in sample.membrane:
        cells, count = ndimage.label(section == 0)
        counts.append(count)
        areas.extend(np.bincount(cells.ravel())[1:])
    assert 20 < np.median(counts) < 80  # a quarter of the field that contains about 130 in a real section
    assert max(areas) < 0.4 * 256 * 256
    assert np.percentile(areas, 90) > 6 * np.percentile(areas, 25)


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 65, 131), (3, 101, 67), (2, 64, 200)])
@pytest.mark.parametrize("make", [make_sample, make_isotropic_sample])
def test_small_and_odd_shapes_work(make, shape):
    made = make(shape, seed=2)
    assert made.stack.shape == shape
    assert 0.05 < made.membrane.mean() < 0.5
    assert made.stack.data.std() > 15


@pytest.mark.parametrize("shape", [(0, 64, 64), (1, 63, 64), (4, 64, 10), (64, 64)])
@pytest.mark.parametrize("make", [make_sample, make_isotropic_sample])
def test_a_shape_that_is_too_small_is_refused_with_the_smallest_one(make, shape):
    with pytest.raises(InputError, match="at least"):
        make(shape)


def test_smooth_noise_has_unit_variance_and_is_as_smooth_as_asked():
    noise = smooth_noise(np.random.default_rng(0), (200, 300), (0.0, 6.0))
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1] > 0.95
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.1
