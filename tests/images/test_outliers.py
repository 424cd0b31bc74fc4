"""Hot pixels, beads and flashes do not decide the grey values of all the rest; bright nuclei do, as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.images.intensity.normalize import Normalization, measure, measure_greys
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

Values = NDArray[Any]
SHAPE = (3, 200, 220)


def tissue(shape: tuple[int, ...] = SHAPE) -> Values:
    """Dim grey values of 16 bits."""
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.normal(size=shape), (0,) * (len(shape) - 2) + (4, 4))
    return (360 + 15 * smooth / smooth.std() + random.normal(0, 5, shape)).clip(300, 430).astype(np.uint16)


def stack_of(values: Values) -> Stack:
    return Stack(values, Space("TCZYX"[-values.ndim :]), name="it")


def scattered(share: float) -> Values:
    return np.random.default_rng(1).random(SHAPE) < share


def blocks(*places: tuple[Any, ...]) -> Values:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


def spots(count: int, side: int) -> Values:
    mask = np.zeros(SHAPE, bool)
    for number in range(count):
        y, x = 15 + 40 * (number // 5), 10 + 40 * (number % 5)
        mask[number % SHAPE[0], y : y + side, x : x + side] = True
    return mask


ALL = slice(None)
SPOTS = {
    "0.01 % of hot pixels": (scattered(0.0001), 65535),
    "0.1 % of hot pixels": (scattered(0.001), 65535),
    "bead of 12²": (blocks((0, slice(50, 62), slice(30, 42))), 65535),
    "bead of 40²": (blocks((1, slice(50, 90), slice(30, 70))), 65535),
    "15 beads of 6²": (spots(15, 6), 20000),
    "dark crystal": (blocks((2, slice(50, 90), slice(30, 70))), 0),
    "dead columns": (blocks((ALL, ALL, slice(77, 78)), (ALL, ALL, slice(150, 152))), 0),
    "bright stripe": (blocks((0, slice(40, 50))), 30000),
}


@pytest.mark.parametrize(("mask", "value"), SPOTS.values(), ids=SPOTS)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_spots_do_not_change_the_grey_values_of_the_rest(mask: Values, value: int, dtype: str) -> None:
    plain = tissue().astype(dtype)
    spoilt = plain.copy()
    spoilt[mask] = value
    wanted = measure(stack_of(plain))
    greys = measure_greys(stack_of(spoilt))
    found = greys.normalization
    assert abs(found.mean - wanted.mean) < 0.05 * wanted.deviation
    assert abs(found.deviation / wanted.deviation - 1) < 0.05
    assert greys.findings
    seen, _ = found.prepare(spoilt[None])
    assert np.abs(seen).max() < 7
    np.testing.assert_allclose(seen[0][~mask], wanted.apply(plain)[~mask], atol=0.3)


def flash(height: float, width: float) -> Values:
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    return height * np.exp(-((rows - 80) ** 2 + (columns - 120) ** 2) / (2 * width**2))


@pytest.mark.parametrize("height", [20000.0, 3000.0, -100000.0])
def test_a_charge_flash_of_one_slice_is_clipped(height: float) -> None:
    plain = tissue()
    spoilt = plain.astype(float)
    spoilt[1] += flash(height, 12.0)
    wanted, found = measure(stack_of(plain)), measure(stack_of(spoilt.clip(0, 65535).astype(np.uint16)))
    assert abs(found.deviation / wanted.deviation - 1) < 0.35
    assert (found.high if height > 0 else found.low) is not None


def test_hot_pixels_of_any_value_are_found() -> None:
    plain, random = tissue(), np.random.default_rng(2)
    mask = scattered(0.001)
    spoilt = plain.copy()
    spoilt[mask] = random.integers(1000, 65536, int(mask.sum()))
    wanted, found = measure(stack_of(plain)), measure(stack_of(spoilt))
    assert abs(found.deviation / wanted.deviation - 1) < 0.05


def nuclei(shape: tuple[int, ...], count: int, height: float, sharp: bool = False) -> Values:
    """Nuclei of different brightness over a dim background."""
    random = np.random.default_rng(3)
    image = np.zeros(shape)
    places = np.indices(shape)
    for centre in random.uniform(0.1, 0.9, (count, len(shape))) * shape:
        distance = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(places, centre, strict=True)))
        edge = (distance < 6).astype(float) if sharp else 1 / (1 + np.exp(distance - 6))
        image = np.maximum(image, random.uniform(0.4, 1.0) * edge)
    return (100 + height * image + random.normal(0, 5, shape)).clip(0, 65535).astype(np.uint16)


@pytest.mark.parametrize(
    "values",
    [
        nuclei((20, 80, 80), 12, 3000),
        nuclei((20, 80, 80), 40, 60000),
        nuclei((256, 256), 25, 3000),
        nuclei((256, 256), 8, 1000),
        tissue(),
    ],
    ids=["few in a volume", "many in a volume", "many in a picture", "few in a picture", "tissue"],
)
def test_bright_nuclei_are_no_outliers(values: Values) -> None:
    greys = measure_greys(stack_of(values))
    assert greys.normalization == Normalization(values.mean(), pytest.approx(values.std(), rel=1e-12))
    assert greys.findings == ()


def test_hot_pixels_among_nuclei_are_clipped_at_the_brightest_nucleus() -> None:
    plain = nuclei((20, 80, 80), 20, 3000)
    spoilt = plain.copy()
    spoilt[np.random.default_rng(4).random(plain.shape) < 0.002] = 65535
    wanted, found = measure(stack_of(plain)), measure(stack_of(spoilt))
    assert found.high is not None
    assert 0.8 * plain.max() <= found.high <= 1.05 * plain.max()
    assert abs(found.deviation / wanted.deviation - 1) < 0.1


def test_a_bead_in_a_framed_stack_is_left_out_too() -> None:
    plain = tissue()
    spoilt = plain.copy()
    spoilt[0, 20:32, 20:32] = 65535
    framed = np.pad(spoilt, ((0, 0), (64, 64), (64, 64)))
    wanted, found = measure(stack_of(plain)), measure(stack_of(framed))
    assert 0 in found.padding
    assert abs(found.deviation / wanted.deviation - 1) < 0.05
