"""Scores of a model on the slices that were held out of its training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.inference.backends import Backend
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.boundaries import BOUNDARY_CLASSES
from napari_skipseg.scores.isbi import SliceScores, combine_slices, iter_score_slices
from napari_skipseg.scores.overlap import OverlapScores, pool_overlap, score_overlap
from napari_skipseg.training.samples import Labelled


def score_held_out(
    backend: Backend, runs: tuple[Labelled, ...], class_names: tuple[str, ...], dimensions: int
) -> dict[str, float]:
    """Return Dice at 0.5 of every class, and V_rand and V_info where the first class parts cells.

    Whole slices (2D) or whole runs of slices (3D) in a single pass, no averaging, no post-processing. Dice is pooled
    over all pixels that count, V_rand and V_info are means over all slices; runs may differ in size.
    """
    overlaps: dict[str, list[OverlapScores]] = {name: [] for name in class_names}
    slices: list[SliceScores | None] = []
    for run in runs:
        probability, counted = _predict(backend, run, dimensions), run.target >= 0
        for label, name in enumerate(class_names, start=1):
            if counted.any():
                overlaps[name].append(score_overlap(probability[label - 1] > 0.5, run.target == label, counted))
        if class_names[0] in BOUNDARY_CLASSES:
            slices += run_to_end(iter_score_slices(1 - probability[0], (run.target != 1).astype(np.uint8)))
    scores = {f"Dice {name}": round(pool_overlap(found).dice, 5) for name, found in overlaps.items() if found}
    if any(slices):
        isbi = combine_slices(slices)
        scores |= {"V_rand": round(isbi.v_rand, 5), "V_info": round(isbi.v_info, 5)}
    return scores


def _predict(backend: Backend, run: Labelled, dimensions: int) -> NDArray[np.float32]:
    """Return probabilities (classes, Z, Y, X) of a run of slices."""
    if dimensions == 3:
        probability = backend.run(run.image[None]).probability
    else:
        slices = (np.ascontiguousarray(run.image[None, :, z]) for z in range(run.image.shape[1]))
        probability = np.stack([backend.run(each).probability for each in slices], axis=2)
    predicted: NDArray[np.float32] = probability[0]
    return predicted
