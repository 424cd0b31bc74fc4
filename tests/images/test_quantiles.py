"""Percentiles are those of numpy and medians of 3 x 3 pixels those of scipy, for values of all types."""

import numpy as np
import pytest
from chosen_cases import pairs_first
from scipy import ndimage

from napari_skipseg.images.intensity.quantiles import percentiles, without_speckles

SHARES = (0, 0.5, 1, 25, 50, 75, 99.5, 100)


def values(kind, count):
    generator = np.random.default_rng(count)
    return {
        "normal": generator.normal(100, 20, count),
        "few values": generator.integers(0, 5, count) * 10.0,
        "long tail": generator.exponential(2, count) ** 3,
        "constant": np.full(count, 7.0),
    }[kind].clip(0, 255)


@pytest.mark.parametrize(
    ("dtype", "count", "kind"),
    pairs_first(
        ["u1", "u2", "i2", "i4", "f2", "f4", "f8", ">f4", ">u2"],
        [1, 2, 7, 300, 5000, 70_000],
        ["normal", "few values", "long tail", "constant"],
    ),
)
def test_percentiles_are_those_of_numpy(dtype, count, kind):
    of_type = values(kind, count).astype(dtype)
    wanted = np.percentile(of_type.astype(np.float64), SHARES)
    assert percentiles(of_type, SHARES) == pytest.approx(wanted, rel=1e-7, abs=1e-9)
    assert percentiles(of_type.reshape(1, -1)[:, ::-1], SHARES) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


def test_signed_numbers_of_the_whole_range_do_not_overflow():
    of_type = np.arange(-(2**15), 2**15).astype(np.int16)
    assert percentiles(of_type, SHARES) == pytest.approx(np.percentile(of_type.astype(float), SHARES))


@pytest.mark.parametrize("shape", [(5, 16, 16), (3, 40), (1, 1), (2, 3, 7, 2)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_speckles_go_as_in_a_median_of_nine_pixels(shape, dtype):
    values = np.random.default_rng(0).integers(0, 50, shape).astype(dtype)
    wanted = ndimage.median_filter(values, (1,) * (len(shape) - 2) + (3, 3), mode="nearest")
    assert np.array_equal(without_speckles(values), wanted)
