"""Shares of new classes: as in the image, whatever the strokes showed."""

import numpy as np
import pytest

from napari_skipseg.training.finetune import priors


def probability_of(evidence, share):
    """Return (voxels, 2) posteriors of a class of this share, given the log odds of what was seen."""
    odds = np.exp(evidence) * share / (1 - share)
    return np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_the_share_of_a_class_is_found_although_it_was_learnt_as_a_half(share):
    generator = np.random.default_rng(0)
    is_there = generator.random(40_000) < share
    seen = generator.normal(np.where(is_there, 1.5, -1.5), 1)
    evidence = 3 * seen  # log ratio of two normal densities at ±1.5 of deviation 1
    found = priors.estimate_priors(probability_of(evidence, 0.5), np.array([0.5, 0.5]))
    assert found[1] == pytest.approx(share, abs=0.01)
    assert found.sum() == pytest.approx(1)


def test_shares_that_were_right_stay():
    evidence = np.random.default_rng(0).normal(0, 6, 20_000)
    probability = probability_of(evidence, 0.5)
    learnt = np.array([0.5, 0.5])
    np.testing.assert_allclose(priors.estimate_priors(probability, learnt), learnt, atol=0.01)


def test_a_class_that_is_nowhere_keeps_a_small_share():
    found = priors.estimate_priors(np.tile([1.0, 0.0], (100, 1)), np.array([0.5, 0.5]))
    assert found[1] == pytest.approx(priors.SMALLEST, rel=0.01)
