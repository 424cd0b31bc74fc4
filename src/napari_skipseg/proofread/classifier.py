"""A classifier of contacts learns: it begins as the rule by which objects were found, and judged contacts move it away.

It is a logistic regression with a Gaussian prior around that rule.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.contact_file import FEATURES, ContactClassifier, read_named_classifier
from napari_skipseg.objects.options import ObjectOptions

_PRIOR = 1.0
"""How much the rule of the objects counts: weights are drawn to it with a Gaussian of the width 1 / sqrt(1)."""

_STEEP = 12.0
"""Change of the logit over a strength of 1, before anything was learnt: at 0.1 beyond the threshold it is 77 % sure."""

_ROUNDS = 30
_ENOUGH = 1e-8
_DIGITS = 6


def rule_of(options: ObjectOptions) -> NDArray[np.float64]:
    """Return the weights that say what the options of the objects say.

    Raises:
        FileError: they name a classifier that cannot be read.
    """
    if options.contacts:
        return np.array(read_named_classifier(options.contacts).weights)
    weights = np.zeros(len(FEATURES))
    if options.method == "cells":
        weights[0], weights[-1] = _STEEP / 4, -_STEEP * options.merge
    else:
        weights[9], weights[-1] = _STEEP / 3, -_STEEP * 0.5
    return weights


def fit_classifier(
    features: NDArray[np.float64], different: NDArray[np.bool_], options: ObjectOptions, cost: NDArray[np.float64]
) -> ContactClassifier:
    """Return the classifier of judged contacts (Newton's method). features: (n, features). cost: weight of each."""
    from scipy.special import expit

    rule = rule_of(options)
    weights = rule.copy()
    wanted = different.astype(np.float64)
    for _ in range(_ROUNDS):
        p = expit(features @ weights)
        slope = features.T @ (cost * (p - wanted)) + _PRIOR * (weights - rule)
        bend = (features * (cost * p * (1 - p))[:, None]).T @ features + _PRIOR * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        # a step is never longer than 2: Newton's method can overshoot where all contacts are judged with certainty
        step *= min(1.0, 2.0 / max(float(np.linalg.norm(step)), 1e-12))
        weights -= step
        if float(np.abs(step).max()) < _ENOUGH:
            break
    counts = {"same": int((~different).sum()), "different": int(different.sum())}
    return ContactClassifier(tuple(round(float(weight), _DIGITS) for weight in weights), counts)
