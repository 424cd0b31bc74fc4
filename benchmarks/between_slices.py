"""Shapes carried between slices, against truth: `python benchmarks/between_slices.py --data DIR`; prints a dated table.

Every n-th slice of an object counts as painted, exactly as the truth is; the slices between are carried and compared
with the truth. The error is the number of voxels that differ on these slices, summed over objects, relative to the
voxels of the objects there. An object counts for a pair of slices if it has 150 pixels on both.

- `distances`: the average of the signed distances of all parts together.
- `shipped`: `corrections.between_slices`, which does this for parts that belong together, and moves those that do not
  overlap over one another first.
- `flow`: the distances are moved along the optical flow of the image (`optical_flow_ilk`, at half resolution) from
  slice to slice, from both ends, and then averaged.
- `flow, watershed`: the edge of the latter is moved to the boundary of the image within a few pixels, by a watershed.
  Its elevation is the darkness of the image (membranes are dark), or its gradient for organelles.
- `flow, refined`: a logistic regression on grey values, gradients and the profile across the edge, learnt on the two
  painted slices (each as it is carried from the other), decides within 20 pixels of the edge.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cc3d
import numpy as np
import tifffile
from measuring import print_place, print_row, print_table
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import optical_flow_ilk
from skimage.segmentation import watershed

from napari_skipseg.corrections.between_slices import between, signed_distance

LEAST, AROUND, MOST = 150, 32, 20
"""Pixels of an object on a slice; pixels around it that the features see; pairs of slices of each row."""

REACH = 20
"""Pixels from the carried edge within which the regression decides."""

Mask = NDArray[np.bool_]
Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """An object between two painted slices: its truth and the image, (slices, Y, X), both ends included."""

    truth: Mask
    grey: Grey
    is_cell: bool


def read_set(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Return the image and the labels of a set."""
    if name == "vnc mitochondria":
        mask = tifffile.imread(folder / "vnc_larva3/stack1-mitochondria-00-09.tif") >= 128
        return tifffile.imread(folder / "vnc_larva3/stack1-raw-00-09.tif"), cc3d.connected_components(mask)
    if name == "cdeep3m mitochondria":
        mask = tifffile.imread(folder / "cdeep3m_mito/mito-20-39.tif") > 0
        return tifffile.imread(folder / "cdeep3m_mito/raw-20-39.tif"), cc3d.connected_components(mask, connectivity=6)
    if name == "plant chloroplasts":
        labels = tifffile.imread(folder / "plant_chloroplast/chloroplast-ids.tif")
        return tifffile.imread(folder / "plant_chloroplast/raw.tif"), labels
    return tifffile.imread(folder / "fib25_medulla/raw.tif"), tifffile.imread(folder / "fib25_medulla/neurons.tif")


def pairs_of(folder: Path, name: str, step: int) -> Iterator[Pair]:
    """Yield objects between two slices that are `step` apart, at most `MOST` of them, drawn at random."""
    image, labels = read_set(folder, name)
    found = []
    for first in range(0, len(labels) - step, step):
        ends = [np.bincount(labels[z].ravel(), minlength=int(labels.max()) + 1) for z in (first, first + step)]
        found += [(first, number) for number in np.flatnonzero(np.minimum(*ends) >= LEAST) if number]
    np.random.default_rng(0).shuffle(found)
    for first, number in found[:MOST]:
        truth = labels[first : first + step + 1] == number
        places = np.nonzero(truth.any(axis=0))
        box = tuple(slice(max(0, int(at.min()) - AROUND), int(at.max()) + AROUND + 1) for at in places)
        grey = image[(slice(first, first + step + 1), *box)].astype(np.float32)
        yield Pair(truth[(slice(None), *box)], grey, "neurons" in name)


def by_distances(pair: Pair) -> Mask:
    """Return the shapes between by plain signed distances."""
    return (
        blend(
            pair,
            [signed_distance(pair.truth[0])] * len(pair.truth),
            [signed_distance(pair.truth[-1])] * len(pair.truth),
        )
        > 0
    )


def shipped(pair: Pair) -> Mask:
    """Return the shapes between as the package carries them."""
    return between(pair.truth[0], pair.truth[-1], len(pair.truth) - 2)[0]


def blend(pair: Pair, first: list[Grey], last: list[Grey]) -> Grey:
    """Return the weighted averages of distances from both ends, on the slices between."""
    steps = len(pair.truth) - 1
    return np.stack([(1 - z / steps) * first[z] + z / steps * last[z] for z in range(1, steps)])


def moved_along(grey: Grey) -> list[Grey]:
    """Return where each pixel of each slice comes from on the first one: (2, Y, X) for each slice."""
    small = [ndimage.zoom(ndimage.gaussian_filter(each, 1), 0.5, order=1) for each in grey]
    small = [(each - each.mean()) / (each.std() + 1e-6) for each in small]
    grid = np.indices(small[0].shape).astype(np.float32)
    moves = [np.zeros_like(grid)]
    for before, after in pairwise(small):
        flow = optical_flow_ilk(after, before, radius=10, num_warp=5)
        moves.append(
            flow + np.stack([ndimage.map_coordinates(each, grid + flow, order=1, mode="nearest") for each in moves[-1]])
        )
    scale = [full / part for full, part in zip(grey[0].shape, small[0].shape, strict=True)]
    return [2 * np.stack([ndimage.zoom(each, scale, order=1) for each in move]) for move in moves]


def flow_distances(pair: Pair) -> Grey:
    """Return the averages of distances that were moved along the optical flow."""
    grid = np.indices(pair.truth[0].shape).astype(np.float32)
    ends = []
    for truth, grey in ((pair.truth[0], pair.grey), (pair.truth[-1], pair.grey[::-1])):
        distance = signed_distance(truth)
        ends.append(
            [ndimage.map_coordinates(distance, grid + move, order=1, mode="nearest") for move in moved_along(grey)]
        )
    return blend(pair, ends[0], ends[1][::-1])


def by_flow(pair: Pair) -> Mask:
    """Return the shapes between by optical flow."""
    return flow_distances(pair) > 0


def by_watershed(pair: Pair) -> Mask:
    """Return the shapes of the flow with their edges moved to a boundary of the image."""
    found = []
    for distance, grey in zip(flow_distances(pair), pair.grey[1:-1], strict=True):
        elevation = (
            -ndimage.gaussian_filter(grey, 1) if pair.is_cell else ndimage.gaussian_gradient_magnitude(grey, 1.5)
        )
        markers = np.where(distance > min(2, 0.6 * distance.max()), 1, np.where(distance < -2, 2, 0))
        found.append(watershed(elevation, markers) == 1)
    return np.stack(found)


def features(grey: Grey, distance: Grey) -> NDArray[np.float64]:
    """Return columns for a regression: the distance, grey values, gradients, and the profile across the edge."""
    columns = []
    for sigma in (1, 2, 4):
        columns.append(ndimage.gaussian_filter(grey / 255, sigma))
        columns.append(sigma * ndimage.gaussian_gradient_magnitude(grey / 255, sigma))
    normal = np.stack(np.gradient(ndimage.gaussian_filter(distance, 1)))
    normal /= np.linalg.norm(normal, axis=0) + 1e-3
    grid = np.indices(grey.shape)
    columns += [
        ndimage.map_coordinates(columns[0], grid + step * normal, order=1, mode="nearest") for step in (-8, -4, 4, 8)
    ]
    near = np.clip(distance / 8, -3, 3)
    whole = [np.ones_like(near), near, near**3, *columns, *(each * near for each in columns)]
    return np.stack([each.ravel() for each in whole], axis=1).astype(np.float64)


def by_regression(pair: Pair) -> Mask:
    """Return the shapes of the flow, refined by what the painted slices teach."""
    rows, answers = [], []
    turned = Pair(pair.truth[::-1], pair.grey[::-1], pair.is_cell)
    grid = np.indices(pair.truth[0].shape).astype(np.float32)
    for each in (pair, turned):
        far = ndimage.map_coordinates(
            signed_distance(each.truth[0]), grid + moved_along(each.grey)[-1], order=1, mode="nearest"
        )
        for share in (0.5, 1.0):
            distance = share * far + (1 - share) * signed_distance(each.truth[-1])
            near = (np.abs(distance) < REACH).ravel()
            rows.append(features(each.grey[-1], distance)[near])
            answers.append(each.truth[-1].ravel()[near])
    table, answer = np.concatenate(rows), np.concatenate(answers).astype(float)
    mean, deviation = table.mean(axis=0), table.std(axis=0) + 1e-6
    mean[0], deviation[0] = 0, 1
    table = (table - mean) / deviation
    weights = np.zeros(table.shape[1])
    for _ in range(10):  # Newton's steps of a ridge-penalised logistic regression
        chance = 1 / (1 + np.exp(-np.clip(table @ weights, -30, 30)))
        curvature = (table * np.maximum(chance * (1 - chance), 1e-4)[:, None]).T @ table + 100 * np.eye(len(weights))
        weights += np.linalg.solve(curvature, table.T @ (answer - chance) - 100 * weights)
    found = []
    for distance, grey in zip(flow_distances(pair), pair.grey[1:-1], strict=True):
        score = (((features(grey, distance) - mean) / deviation) @ weights).reshape(grey.shape)
        found.append(np.where(np.abs(distance) < REACH, ndimage.gaussian_filter(score, 1) > 0, distance > 0))
    return np.stack(found)


METHODS: dict[str, Callable[[Pair], Mask]] = {
    "distances": by_distances,
    "shipped": shipped,
    "flow": by_flow,
    "flow, watershed": by_watershed,
    "flow, refined": by_regression,
}
ROWS = (
    ("vnc mitochondria", 3),
    ("cdeep3m mitochondria", 5),
    ("plant chloroplasts", 9),
    ("fib25 neurons", 5),
    ("fib25 neurons", 10),
    ("fib25 neurons", 20),
)


def main() -> None:
    """Print the errors of all methods, and the time of the one that ships."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    print_place("shapes carried between slices")
    print_table(["set", "every n-th slice", "pairs", *METHODS], [])
    for name, step in ROWS:
        pairs = list(pairs_of(folder, name, step))
        size = sum(int(pair.truth[1:-1].sum()) for pair in pairs)
        errors = []
        for method in METHODS.values():
            wrong = sum(int((method(pair) ^ pair.truth[1:-1]).sum()) for pair in pairs)
            errors.append(f"{wrong / size:.3f}")
        print_row([name, str(step), str(len(pairs)), *errors])
    print()
    print_table(["a slice of 1024²", "every 2nd slice painted", "every 3rd", "every 10th"], [])
    rows, columns = np.ogrid[:1024, :1024]
    discs = [(rows - y) ** 2 + (columns - x) ** 2 <= r**2 for y, x, r in ((512, 512, 480), (520, 500, 440))]
    for title, ends in (("one shape, nearly as large", discs), ("mitochondria of VNC", _mitochondria(folder))):
        seconds = []
        for count in (1, 2, 9):
            begun = time.process_time()  # of the processor, which other work does not make longer
            between(*ends, count)
            seconds.append(f"{(time.process_time() - begun) / count:.3f} s")
        print_row([title, *seconds])


def _mitochondria(folder: Path) -> list[Mask]:
    labels = read_set(folder, "vnc mitochondria")[1]
    return [labels[0] > 0, labels[-1] > 0]


if __name__ == "__main__":
    main()
