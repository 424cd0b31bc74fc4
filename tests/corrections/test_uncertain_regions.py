"""Where to look next: unsure places first, spread over the stack, and none twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_skipseg.corrections.sparse_array import SparseArray
from napari_skipseg.corrections.uncertain_regions import UncertainRegion, iter_rank_regions
from napari_skipseg.errors import InputError
from napari_skipseg.progress import Progress, run_to_end


def sure(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def rank(probability: Any, reviewed: Any = None, axes: str = "ZYX", **more: Any) -> tuple[UncertainRegion, ...]:
    names = more.pop("class_names", ("membrane",))
    reviewed = SparseArray(probability.shape[-len(axes) :]) if reviewed is None else reviewed
    return run_to_end(iter_rank_regions(probability, axes, names, reviewed, **more))


def test_the_least_sure_block_comes_first_with_its_reason() -> None:
    probability = sure(4, 256, 384)
    probability[2, 128:256, 256:384] = 0.5
    probability[0, :128, :128] = 0.11
    first, second = rank(probability)
    assert first == UncertainRegion((2, 192, 320), ((2, 3), (128, 256), (256, 384)), 1.0, first.reason)
    assert first.reason == "unsure (1.00)"
    assert second.box == ((0, 1), (0, 128), (0, 128))
    assert second.score == pytest.approx(0.4999, abs=1e-3)


def test_the_uncertainty_counts_where_it_is_given() -> None:
    probability, uncertainty = np.full((2, 128, 256), 0.5, np.float32), sure(2, 128, 256)
    uncertainty[1, :, 128:] = 0.21
    (place,) = rank(probability, uncertainty=uncertainty)
    assert (place.box, place.reason) == (((1, 2), (0, 128), (128, 256)), "copies disagree (±0.21)")


def test_whole_numbers_stand_for_0_to_1() -> None:
    probability = np.zeros((1, 128, 128), np.uint8)
    probability[:] = 128
    assert rank(probability)[0].score == pytest.approx(1, abs=0.01)


def test_of_several_classes_the_one_in_doubt_is_named() -> None:
    probability = sure(2, 3, 128, 128)
    probability[0], probability[1, 1] = 1, 0.5
    probability[0, 1] = 0.05
    (place,) = rank(probability, class_names=("membrane", "vesicle"))
    assert place.reason.startswith("unsure about vesicle (")
    deviation = np.full((2, 3, 128, 128), 0.1, np.float32)
    deviation[0] = 0.3
    found = rank(probability, class_names=("membrane", "vesicle"), uncertainty=deviation)
    assert {place.reason for place in found} == {"copies disagree about membrane (±0.20)"}


def test_places_are_spread_over_the_stack() -> None:
    noise = np.random.default_rng(1).uniform(0.3, 0.5, (50, 256, 256)).astype(np.float32)
    places = rank(noise, count=12)
    assert len(places) == 12
    slices = sorted(place.center[0] for place in places)
    assert min(np.diff(slices)) >= 1
    assert max(np.diff([0, *slices, 49])) <= 12
    assert len({place.box for place in places}) == 12


def test_no_two_places_overlap_and_all_are_given() -> None:
    places = rank(np.full((2, 300, 200), 0.5, np.float32))
    covered = np.zeros((2, 300, 200), int)
    for place in places:
        box = tuple(slice(*ends) for ends in place.box)
        covered[box] += 1
        assert all(low <= at < high for at, (low, high) in zip(place.center, place.box, strict=True))
        assert max(high - low for low, high in place.box) <= 128
    assert (covered == 1).all()
    assert len(places) == 2 * 3 * 2


def test_what_was_looked_at_drops_out() -> None:
    probability = np.full((1, 128, 384), 0.5, np.float32)
    reviewed, strokes = SparseArray((1, 128, 384)), SparseArray((1, 128, 384))
    reviewed[0, :64, :128] = 1
    reviewed[0, :63, 128:256] = 2
    strokes[0, :70, 256:] = 2
    assert [place.box[2] for place in rank(probability, reviewed, strokes=strokes)] == [(128, 256)]


def test_where_the_network_is_sure_there_is_nothing_to_see() -> None:
    assert rank(sure(3, 128, 128)) == ()
    assert rank(np.ones((3, 128, 128), np.float32)) == ()


def test_a_plane_and_a_series_have_places_too() -> None:
    assert rank(np.full((100, 90), 0.5, np.float32), axes="YX")[0].center == (50, 45)
    series = np.full((2, 3, 100, 90), 0.5, np.float32)
    found = rank(series, axes="TZYX", count=3)
    assert len({place.center[:2] for place in found}) == 3


def test_it_tells_how_far_it_is_and_reads_a_band_at_a_time() -> None:
    class Watched:
        shape, dtype = (3, 4000, 500), np.dtype(np.float32)
        largest = 0

        def __getitem__(self, index: Any) -> NDArray[np.float32]:
            lengths = [part.stop - part.start for part in index if isinstance(part, slice)]
            self.largest = max(self.largest, int(np.prod(lengths)))
            return np.full(lengths, 0.5, np.float32)

    probability = Watched()
    work = iter_rank_regions(probability, "ZYX", ("membrane",), SparseArray(probability.shape))
    assert [next(work) for _ in range(3)] == [Progress(done, 3, "looking for places") for done in (1, 2, 3)]
    assert probability.largest <= 128 * 500


def test_a_result_of_another_image_is_refused() -> None:
    with pytest.raises(InputError, match="segment it again"):
        rank(sure(3, 128, 128), SparseArray((3, 128, 127)))


def test_a_class_that_counts_more_comes_first_though_the_doubt_about_another_is_larger() -> None:
    probability = np.zeros((2, 1, 128, 256), np.float32)
    probability[0, 0, :, :128] = 0.5
    probability[1, 0, :, 128:] = 0.3
    asked = (probability, "ZYX", ("membrane", "mitochondrion"), np.zeros((1, 128, 256), np.uint8))
    plain, weighed = (
        [place.reason for place in run_to_end(iter_rank_regions(*asked, weights=weights))]
        for weights in (None, (0.2, 1.0))
    )
    assert plain == ["unsure about membrane (1.00)", "unsure about mitochondrion (0.88)"]
    assert weighed == list(reversed(plain))
