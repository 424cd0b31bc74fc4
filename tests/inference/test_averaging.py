"""A running mean and deviation: what numpy says of all arrays at once."""

from __future__ import annotations

import numpy as np

from napari_skipseg.inference.backends.interface import TileOutput
from napari_skipseg.inference.ensemble import RunningAverage, iter_average
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(8)


def test_running_mean_and_deviation_are_those_of_all_arrays() -> None:
    arrays = RNG.random((23, 2, 5, 7)).astype(np.float32)
    average = RunningAverage((2, 5, 7))
    for count, values in enumerate(arrays, start=1):
        average.add(values, count)
    np.testing.assert_allclose(average.mean, arrays.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(average.deviation(len(arrays)), arrays.std(axis=0), atol=1e-6)
    assert average.mean.dtype == average.deviation(23).dtype == np.float32


def test_parts_are_averaged_each_by_itself() -> None:
    arrays = RNG.random((3, 4, 6)).astype(np.float32)
    average = RunningAverage((4, 6))
    for count, values in enumerate(arrays, start=1):
        for part in (
            ((slice(0, 3),), (slice(3, 9),)) if count != 2 else ((slice(None), slice(0, 5)), (..., slice(5, 6)))
        ):
            average.add(values[part], count, part)
    np.testing.assert_allclose(average.mean, arrays.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(average.deviation(len(arrays)), arrays.std(axis=0), atol=1e-6)


def test_equal_arrays_come_out_as_they_went_in_with_deviation_0() -> None:
    values = RNG.normal(size=(1, 1, 9, 9)).astype(np.float32)
    kept = values.copy()
    found = run_to_end(iter_average([lambda: TileOutput(values, (values[0],))] * 11))
    np.testing.assert_array_equal(found.probability, kept)
    np.testing.assert_array_equal(found.attentions[0], kept[0])
    np.testing.assert_array_equal(found.uncertainty, np.zeros_like(kept))
    np.testing.assert_array_equal(values, kept)


def test_of_binary_passes_the_deviation_is_that_of_a_coin() -> None:
    passes = [lambda value=value: TileOutput(np.full((1, 1, 2), value, np.float32), ()) for value in (0, 1, 1, 1)]
    found = run_to_end(iter_average(passes))
    np.testing.assert_allclose(found.probability, 0.75)
    np.testing.assert_allclose(found.uncertainty, np.sqrt(0.75 * 0.25), atol=1e-7)
