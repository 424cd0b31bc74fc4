"""Score models on slices that none of the settings files trains on.

    python benchmarks/models/judge.py PREPARED MODEL [MODEL ...]

PREPARED is the folder that prepare.py wrote. A model with a class of boundaries is scored by V_rand and V_info after
thinning (at the best of 11 thresholds, as in the ISBI challenge), every class by Dice at 0.5, a 3D model by the adapted
Rand error of the cells that it separates: in a single pass, without post-processing, with and without rescaling where
the voxel sizes differ.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

import napari_skipseg as skipseg
from napari_skipseg.images.files import read_stack
from napari_skipseg.models.model import Model
from napari_skipseg.scores.instances import score_instances
from napari_skipseg.scores.isbi import score_isbi
from napari_skipseg.scores.overlap import score_overlap

MEMBRANE, MITOCHONDRION, UNKNOWN = 1, 2, 255
HELD: dict[int, dict[str, slice]] = {
    MEMBRANE: {
        "isbi": slice(20, 25),
        "vnc": slice(8, 10),
        "gala": slice(44, 50),
        "fib25_xy": slice(15, 19),
        "fib25_xz": slice(27, 28),
    },
    MITOCHONDRION: {
        "cdeep3m_smooth_held": slice(0, 2),
        "cdeep3m_scanned_held": slice(0, 2),
        "kasthuri_held": slice(0, 2),
        "vnc_mito_held": slice(0, 2),
        "vnc_mito_5nm_held": slice(0, 2),
        "kasthuri_24nm_held": slice(0, 2),
    },
}
"""What is held out, by the label of its truth: files of prepare.py and their slices."""


def main(prepared: Path, models: list[str]) -> None:
    for name in models:
        model = skipseg.load_model(name)
        if model.description.spec.dimensions == 3:
            judge_boundaries(prepared, model)
            continue
        for channel, label in enumerate(model.description.classes):
            kind = MITOCHONDRION if label.name.startswith("mito") else MEMBRANE
            for file, chosen in HELD[kind].items():
                stack = read_stack(prepared / f"{file}.tif")
                stack = replace(stack, data=np.asarray(stack.data[chosen]))
                truth = tifffile.imread(prepared / f"{file}_labels.tif")[chosen]
                factor = stack.space.voxel_size[-1] / model.description.voxel_size[-1]
                for rescale in (False, True) if not 0.8 < factor < 1.25 else (False,):
                    probability = skipseg.segment(stack, model, rescale=rescale).probability
                    found = probability if len(model.description.classes) == 1 else probability[channel]
                    title = f"{name}, {label.name} in {file}{', rescaled' * rescale}"
                    print(f"{title}: {scores(found, truth, kind)}", flush=True)


def judge_boundaries(prepared: Path, model: Model) -> None:
    """Print the error of the cells that a 3D model separates in the held-out part of FIB-25, by the merging height."""
    name = model.description.name
    result = skipseg.segment(read_stack(prepared / "fib25_3d_held.tif"), model)
    edge = tifffile.imread(prepared / "fib25_3d_held_labels.tif")
    overlap = score_overlap(result.probability > 0.5, edge == 1)
    ids = tifffile.imread(prepared / "fib25_3d_held_ids.tif")
    print(f"{name}, boundary in fib25_3d_held: Dice {overlap.dice:.3f}", flush=True)
    for merge in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        for seeds in (5.0, 10.0):
            cells = skipseg.find_objects(result, method="cells", merge=merge, seed_distance=seeds)
            found = score_instances(cells, ids)
            print(
                f"{name}, cells merged below {merge}, seeds {seeds} apart: adapted Rand error "
                f"{found.adapted_rand_error:.3f}, {len(np.unique(cells))} cells, {len(np.unique(ids))} true",
                flush=True,
            )


def scores(found: NDArray[np.float32], truth: NDArray[np.integer], kind: int) -> str:
    """Return the scores of a class's probability, and how much area is called it in place of its true area."""
    known = truth != UNKNOWN
    overlap = score_overlap(found > 0.5, truth == kind, known)
    area = (found > 0.5)[known].mean() / (truth == kind)[known].mean()
    text = f"Dice {overlap.dice:.3f}, IoU {overlap.iou:.3f}, area × {area:.2f}"
    if kind == MEMBRANE:
        cells = score_isbi(1 - found, (truth != MEMBRANE).astype(np.uint8))
        text += f", V_rand {cells.v_rand:.3f} (at {cells.v_rand_threshold:.1f}), V_info {cells.v_info:.3f}"
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
