"""A classifier of contacts: the probability that the two groups of regions at a contact are different objects.

It is a logistic regression on sums over voxels, so it can be asked about any two groups of regions. It begins as the
rule by which objects are found, and judged contacts move it away from there (a Gaussian prior around that rule).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from napari_skipseg.durable import write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.watershed import FULL
from napari_skipseg.proofread.contacts import BINS
from napari_skipseg.scores.table import compiled

FORMAT = "napari-skipseg contacts 1"

FEATURES = (
    "mean strength",
    "strength, 10 %",
    "strength, 50 %",
    "strength, 90 %",
    "log of the contact's area",
    "log of the smaller size",
    "log of the larger size",
    "area for the smaller size",
    "share of the smaller one's surface",
    "neck",
    "lower probability inside",
    "higher probability inside",
    "share across slices",
    "mean strength squared",
    "mean strength × share of surface",
    "always 1",
)
"""What is known of a contact of two groups, each divided by about its spread; `feature_row` computes them in this
order."""

_PRIOR = 1.0
"""How much the rule of the objects counts: weights are drawn to it with a Gaussian of the width 1 / sqrt(1)."""

_STEEP = 12.0
"""Change of the logit over a strength of 1, before anything was learnt: at 0.1 beyond the threshold it is 77 % sure."""

_ROUNDS = 30
_ENOUGH = 1e-8
_DIGITS = 6


class Groups(NamedTuple):
    """Sums over groups of regions. size: voxels. inside: sum of the probability, 65535 = 1. surface: pairs of voxels at
    all contacts with others. peak: the largest height."""

    size: NDArray[np.float64]
    inside: NDArray[np.float64]
    surface: NDArray[np.float64]
    peak: NDArray[np.float64]


class Links(NamedTuple):
    """Sums over contacts of two groups; ends: (n, 2). The rest as in `Edges` and `ContactStatistics`."""

    ends: NDArray[np.int64]
    contacts: NDArray[np.float64]
    strength: NDArray[np.float64]
    saddle: NDArray[np.float64]
    across: NDArray[np.float64]
    histogram: NDArray[np.float64]


@dataclass(frozen=True)
class ContactClassifier:
    """Weights of `FEATURES`; learned_from: how many contacts of each kind were judged ("same", "different")."""

    weights: tuple[float, ...]
    learned_from: Mapping[str, int] = field(default_factory=dict)


@compiled
def feature_row(groups: Groups, links: Links, link: int, row: NDArray[np.float64]) -> None:
    """Write the features of a contact into `row`."""
    one, other = links.ends[link, 0], links.ends[link, 1]
    if groups.size[one] > groups.size[other]:
        one, other = other, one
    count = max(links.contacts[link], 1.0)
    small, large = max(groups.size[one], 1.0), max(groups.size[other], 1.0)
    mean = links.strength[link] / count / FULL
    share = min(count / max(groups.surface[one], 1.0), 1.0)
    lower = min(groups.peak[one], groups.peak[other])
    low, high = groups.inside[one] / small / FULL, groups.inside[other] / large / FULL
    row[0] = 4.0 * mean
    place, below = 1, 0.0
    for part in (0.1, 0.5, 0.9):
        wanted = part * count
        below = 0.0
        for bar in range(BINS):
            there = links.histogram[link, bar]
            if below + there >= wanted and there > 0:
                row[place] = 3.0 * (bar + (wanted - below) / there) / BINS
                break
            below += there
        place += 1
    row[4] = 0.6 * (np.log(count) - 4.0)
    row[5] = 0.5 * (np.log(small) - 7.0)
    row[6] = 0.5 * (np.log(large) - 9.0)
    row[7] = min(2.0 * count / small ** (2.0 / 3.0), 4.0)
    row[8] = 4.0 * share
    row[9] = 3.0 * (1.0 - min(max(links.saddle[link] / lower, 0.0), 1.0)) if lower > 0 else 3.0
    row[10], row[11] = 8.0 * min(low, high), 8.0 * max(low, high)
    row[12] = 3.0 * links.across[link] / count
    row[13] = 4.0 * mean * mean
    row[14] = 8.0 * mean * share
    row[15] = 1.0


@compiled
def features_of(groups: Groups, links: Links) -> NDArray[np.float64]:
    """Return the features of all contacts, (n, features)."""
    found = np.zeros((len(links.ends), 16))
    for link in range(len(links.ends)):
        feature_row(groups, links, link, found[link])
    return found


def rule_of(options: ObjectOptions) -> NDArray[np.float64]:
    """Return the weights that say what the options of the objects say."""
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


def write_classifier(path: str | os.PathLike[str], classifier: ContactClassifier) -> Path:
    """Write a classifier as JSON with its hash.

    Raises:
        FileError: it cannot be written.
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "features": list(FEATURES),
        "weights": list(classifier.weights),
        "learned from": dict(classifier.learned_from),
    }
    with file_errors_as(path):
        write_durably(path, json.dumps({**content, "sha256": _hash(content)}, indent=1).encode() + b"\n")
    return path


def read_classifier(path: str | os.PathLike[str]) -> ContactClassifier:
    """Return the classifier in a file.

    Raises:
        FileError: it cannot be read, holds no classifier of contacts, or was changed.
    """
    path = Path(path)
    with file_errors_as(path):
        content = path.read_bytes()
    try:
        found: dict[str, Any] = json.loads(content)
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("features") != list(FEATURES):
            raise ValueError("another format")
        weights = tuple(float(weight) for weight in found["weights"])
        learned_from = {str(name): int(count) for name, count in found["learned from"].items()}
        if len(weights) != len(FEATURES) or not np.isfinite(weights).all():
            raise ValueError("impossible weights")
        stated = found.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(
            f"'{path}' holds no classifier of contacts: export one with `napari-skipseg edits classifier`."
        ) from error
    if stated != _hash(found):
        raise FileError(f"'{path}' was changed since it was written: export the classifier again.")
    return ContactClassifier(weights, learned_from)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
