"""Images of one kind have signatures that are near, whatever their brightness and contrast; of others they are far."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from napari_skipseg.images.intensity.signature import (
    GROUPS,
    SIGNATURE_FEATURES,
    ImageSignature,
    sign_image,
    signature_distance,
)
from napari_skipseg.images.synthetic.sample import make_sample


@cache
def tissue(seed=0):
    return make_sample((4, 384, 384), seed).stack.data.astype(np.float32)


def patches(values, count=12, side=256):
    generator = np.random.default_rng(0)
    for _ in range(count):
        z, y, x = (generator.integers(n - k + 1) for n, k in zip(values.shape, (1, side, side), strict=True))
        yield values[z, y : y + side, x : x + side][None]


def away(values, known=None):
    return signature_distance(sign_image(patches(values)), [known or sign_image(patches(tissue()))])[0]


def test_other_slices_and_another_stack_of_the_same_kind_are_near():
    assert away(tissue()[2:]) < 0.6
    assert away(tissue(5)) < 0.6


@pytest.mark.parametrize("change", [lambda v: v * 0.3 + 90, lambda v: v * 250.0 - 4000, lambda v: v / 255])
def test_brightness_and_contrast_do_not_count(change):
    assert away(change(tissue())) < 0.1


def test_a_little_noise_or_blur_is_no_other_kind():
    noise = np.random.default_rng(1).normal(0, 0.2 * tissue().std(), tissue().shape)
    assert away(tissue() + noise) < 1
    assert away(ndimage.gaussian_filter(tissue(), (0, 0.7, 0.7))) < 1


def nuclei():
    generator = np.random.default_rng(2)
    points = np.zeros((4, 384, 384))
    points[tuple(generator.integers(n, size=120) for n in points.shape)] = 1
    return ndimage.gaussian_filter(points, (0, 9, 9)) * 3000 + generator.normal(3, 0.3, points.shape)


def photograph():
    """Large flat areas with sharp borders, brighter at the top, as a picture of things has them."""
    generator = np.random.default_rng(3)
    flat = np.zeros((4, 384, 384))
    for _ in range(14):
        plane, top, left = generator.integers(4), *generator.integers(0, 300, 2)
        flat[plane, top : top + 120, left : left + 90] = generator.uniform(0, 255)
    return flat + np.linspace(60, 0, 384)[:, None] + generator.normal(0, 1.5, flat.shape)


OTHERS = {
    "nuclei": nuclei,
    "a photograph": photograph,
    "noise": lambda: np.random.default_rng(4).normal(100, 30, (4, 384, 384)),
    "pixels a fifth as large": lambda: ndimage.zoom(tissue()[:, :100, :100], (1, 5, 5), order=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_images_of_another_kind_are_far(name):
    assert away(OTHERS[name]()) > 1


def test_the_nearest_of_several_kinds_counts():
    kinds = [sign_image(patches(nuclei())), sign_image(patches(tissue()))]
    assert signature_distance(sign_image(patches(tissue(5))), kinds)[0] < 0.6


def test_nothing_is_said_without_a_known_kind_or_of_other_channels():
    signature = sign_image(patches(tissue()))
    assert signature_distance(signature, []) == (0.0, "")
    both = sign_image(np.concatenate([patch, patch]) for patch in patches(tissue()))
    assert signature_distance(signature, [both]) == (0.0, "")
    assert len(both.middle) == 2


def test_empty_and_tiny_patches_are_left_out():
    assert sign_image([np.zeros((1, 256, 256))]) is None
    assert sign_image([np.ones((1, 20, 20))]) is None
    full = list(patches(tissue()))
    assert sign_image([*full, *[np.zeros((1, 256, 256))] * 30]) == sign_image(full)


def test_small_images_are_mirrored():
    assert (
        signature_distance(sign_image(patches(tissue(5), side=128)), [sign_image(patches(tissue(), side=128))])[0] < 1
    )


def test_a_signature_has_all_its_numbers():
    assert sum(len(group.tolerances) for group in GROUPS.values()) == SIGNATURE_FEATURES
    with pytest.raises(ValueError, match="numbers"):
        ImageSignature(((0.0,),), ((0.0,),))
