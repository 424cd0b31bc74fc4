"""What a fine-tuning changed, as labels: computed where it is looked at, and only where both results lie."""

from __future__ import annotations

import numpy as np

from napari_skipseg.images.space import Space
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.widgets.finetune.comparison import GAINED, LOST, ChangedLabels, compare_results
from napari_skipseg.widgets.layers.results import ShownResult


def shown(probability: np.ndarray, names: tuple[str, ...], positions: dict[int, int]) -> ShownResult:
    prediction = Prediction(probability, Space("ZYX"), names)
    return ShownResult(prediction, "ZYX", positions, "image preview")


def test_a_taught_class_gains_and_loses_voxels_and_others_do_not_count():
    before = np.array([[0, 1, 1, 2, 2, 3]], np.uint8)
    after = np.array([[2, 1, 2, 0, 2, 0]], np.uint8)
    assert ChangedLabels(before, after, [(2, 2)])[...].tolist() == [[GAINED, 0, GAINED, LOST, 0, 0]]
    assert ChangedLabels(before, after, [(1, 1), (2, 2)])[...].tolist() == [[GAINED, 0, GAINED, LOST, 0, 0]]
    assert ChangedLabels(before, after, [(0, 2)])[...].tolist() == [[GAINED, 0, GAINED, 0, GAINED, 0]]


def test_only_what_both_results_show_is_compared_and_a_new_class_is_gained_everywhere():
    before = shown(np.full((3, 40, 50), 0.9, np.float32), ("membrane",), {})
    after = np.zeros((2, 1, 20, 30), np.float32)
    after[1, :, 5:8] = 0.7
    found = compare_results(before, 0.5, shown(after, ("membrane", "mito"), {0: 2, 1: 30, 2: 10}), 0.5, ["mito"])
    assert found is not None
    changed, starts = found
    assert (changed.shape, starts) == ((1, 10, 30), {0: 2, 1: 30, 2: 10})
    assert np.flatnonzero((changed[0] == GAINED).all(axis=1)).tolist() == [5, 6, 7]
    assert not (changed[...] == LOST).any()
    raised = {"membrane": 0.5, "mito": 0.8}
    again = compare_results(before, 0.5, shown(after, ("membrane", "mito"), {0: 2, 1: 30}), raised, ["mito"])
    assert again is not None
    assert not again[0][...].any()


def test_results_of_different_parts_are_not_compared():
    whole = np.zeros((1, 20, 20), np.float32)
    one, other = shown(whole, ("mito",), {0: 0}), shown(whole, ("mito",), {0: 1})
    assert compare_results(one, 0.5, other, 0.5, ["mito"]) is None
