"""Scores of a model on the slices that were held out of its training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.inference.backends import Backend
from napari_skipseg.models.description import BOUNDARY_CLASSES
from napari_skipseg.scores.isbi import score_isbi
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.training.samples import Labelled


def score_held_out(
    backend: Backend, runs: tuple[Labelled, ...], class_names: tuple[str, ...], dimensions: int
) -> dict[str, float]:
    """Return Dice at 0.5 of every class, and V_rand and V_info where the first class parts cells.

    Whole slices (2D) or whole runs of slices (3D) in a single pass, no averaging, no post-processing.
    """
    probability = np.concatenate([_predict(backend, run, dimensions) for run in runs], axis=1)
    truth = np.concatenate([run.target for run in runs])
    counted = truth >= 0
    scores = {}
    for label, name in enumerate(class_names, start=1):
        overlap = score_overlap(probability[label - 1] > 0.5, truth == label, counted)
        scores[f"Dice {name}"] = round(overlap.dice, 5)
    if class_names[0] in BOUNDARY_CLASSES:
        isbi = score_isbi(1 - probability[0], (truth != 1).astype(np.uint8))
        scores |= {"V_rand": round(isbi.v_rand, 5), "V_info": round(isbi.v_info, 5)}
    return scores


def _predict(backend: Backend, run: Labelled, dimensions: int) -> NDArray[np.float32]:
    """Return probabilities (classes, Z, Y, X) of a run of slices."""
    if dimensions == 3:
        return backend.run(run.image).probability
    slices = [backend.run(np.ascontiguousarray(run.image[:, z])).probability for z in range(run.image.shape[1])]
    return np.stack(slices, axis=1)
