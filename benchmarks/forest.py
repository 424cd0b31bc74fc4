"""The same strokes for quick fine-tuning and for a random forest on classical filters: which learns more, in how long?

    python benchmarks/forest.py DATA [--sets vnc cdeep ...] [--strokes 10 40] [--seeds 0 1 2] [--model em-membrane]
        [--reach quick] [--steps N] [--side 512] [--clear 3] [--choosing]
    python benchmarks/forest.py --image IMAGE.tif --truth TRUTH.tif --train 0 2 4 --test 6 8 9 [--at 1] [...]

DATA contains the folders that `SETS` names. Strokes are drawn from the truth by the rule in `strokes.py`, half of them
in the class and half in the background, in turn on each training slice; other slices are scored. With `--clear 0` they
begin anywhere and touch edges. The peer is ilastik's recipe: `multiscale_basic_features` of scikit-image (sigma 1-16)
and a random forest of 100 trees, which needs scikit-learn. Its seconds are those of its features, its fit and its
prediction; ours are those of the fine-tuning with all that it does (its scores too), and of segmenting the scored
slices. *Found* is the area that is called the class over its true area. Prints a dated Markdown table. Nothing else
should run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import strokes
import tifffile
from measuring import print_place, print_table
from numpy.typing import NDArray
from skimage.feature import multiscale_basic_features
from skimage.io import imread
from sklearn.ensemble import RandomForestClassifier

import napari_skipseg as skipseg
from napari_skipseg.scores.overlap import score_overlap

Mask = NDArray[np.bool_]


class Labelled(NamedTuple):
    """Slices (Z, Y, X) with their truth, where that is known, and which slices are for strokes and for scores."""

    image: NDArray[Any]
    truth: Mask
    known: Mask
    train: tuple[int, ...]
    test: tuple[int, ...]


def read_set(
    folder: Path, image: str, truth: str, at: float, train: tuple[int, ...], test: tuple[int, ...]
) -> Labelled:
    """Return a stack with a truth, the class being where that is at least `at`.

    In slices of 0 and 1 it is where that is 1: two slices of VNC are stored so, the others as 0 to 255.
    """
    pixels, values = tifffile.imread(folder / image), tifffile.imread(folder / truth)
    mask = np.stack([each >= (at if each.max() > 1 else 1) for each in values])
    return Labelled(pixels, mask, np.ones_like(mask), train, test)


def read_kasthuri(folder: Path) -> Labelled:
    """Return a stack of which the truth is known in a part alone."""
    read = read_set(folder, "raw.tif", "mito-ids.tif", 1, (0, 10, 20), (30, 38, 45))
    return read._replace(known=tifffile.imread(folder / "known.tif") > 0)


def read_skin(folder: Path) -> Labelled:
    """Return dermoscopic images in grey."""
    files = sorted((folder / "images").glob("*.jpg"))
    image = np.stack([imread(file).mean(axis=-1) for file in files]).astype(np.uint8)
    truth = np.stack([imread(folder / "masks" / f"{file.stem}.png") > 0 for file in files])
    return Labelled(image, truth, np.ones_like(truth), (0, 1, 2), (3, 4))


def read_nuclei(folder: Path) -> Labelled:
    """Return the two halves of an image."""
    image, truth = tifffile.imread(folder / "img2d.tif"), tifffile.imread(folder / "mask2d.tif") > 0
    halves = [np.stack(np.split(each, 2)) for each in (image, truth)]
    return Labelled(halves[0], halves[1], np.ones_like(halves[1]), (0,), (1,))


SETS: dict[str, tuple[str, Callable[[Path], Labelled]]] = {
    "VNC, mitochondria": (
        "vnc_larva3",
        lambda folder: read_set(
            folder, "stack1-raw-00-09.tif", "stack1-mitochondria-00-09.tif", 128, (0, 2, 4), (6, 8, 9)
        ),
    ),
    "cdeep3m, mitochondria": (
        "cdeep3m_mito",
        lambda folder: read_set(folder, "raw-20-39.tif", "mito-20-39.tif", 1, (0, 4, 8), (12, 15, 18)),
    ),
    "Kasthuri, mitochondria": ("kasthuri_24nm", read_kasthuri),
    "leaf, chloroplasts": (
        "plant_chloroplast",
        lambda folder: read_set(folder, "raw.tif", "chloroplast-ids.tif", 1, (0, 2, 4), (6, 8, 9)),
    ),
    "skin, lesions": ("ham10000_skin", read_skin),
    "nuclei": ("stardist_nuclei", read_nuclei),
}

CHOOSING: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "VNC, mitochondria": ((0, 2, 4), (5, 7)),
    "cdeep3m, mitochondria": ((0, 4, 8), (10, 14, 17)),
    "Kasthuri, mitochondria": ((0, 10, 20), (25, 33, 41)),
    "leaf, chloroplasts": ((0, 2, 4), (5, 7)),
    "skin, lesions": ((2, 3, 4), (0, 1)),
    "nuclei": ((1,), (0,)),
}
"""Slices for strokes and for scores by which a method is chosen: none of them is scored by the tables that report."""


def cut_middle(read: Labelled, side: int) -> Labelled:
    """Return the middle of the slices, at most `side` long."""
    parts = tuple(
        slice(first := max(0, length - side) // 2, first + min(side, length)) for length in read.image.shape[1:]
    )
    cut = (slice(None), *parts)
    return read._replace(image=read.image[cut], truth=read.truth[cut], known=read.known[cut])


def draw_strokes(read: Labelled, count: int, seed: int) -> NDArray[np.uint8]:
    """Return labels (Z, Y, X) of the training slices: 0 = nothing, 1 = background, 2 = the class."""
    generator = np.random.default_rng(seed)
    painted = np.zeros((len(read.train), *read.truth.shape[1:]), np.uint8)
    for number in range(count):
        at, value = (number // 2) % len(read.train), 2 - number % 2
        z = read.train[at]
        strokes.paint_stroke(painted[at], (read.truth[z] == (value == 2)) & read.known[z], value, generator)
    return painted


class Outcome(NamedTuple):
    """Dice and area found over true area of the scored slices, and seconds."""

    dice: float
    found: float
    seconds: float


def judge(found: Mask, read: Labelled, seconds: float) -> Outcome:
    """Return how well the scored slices were segmented."""
    truth, known = read.truth[list(read.test)], read.known[list(read.test)]
    area = (found & known).sum() / max(1, (truth & known).sum())
    return Outcome(score_overlap(found, truth, known).dice, float(area), seconds)


def run_forest(read: Labelled, labels: NDArray[np.uint8], seed: int) -> Outcome:
    """Return the outcome of the peer with the strokes."""
    began = time.perf_counter()
    taught = []
    for number, z in enumerate(read.train):
        features = multiscale_basic_features(read.image[z], sigma_min=1, sigma_max=16)
        taught.append(features[labels[number] > 0])
    forest = RandomForestClassifier(100, n_jobs=-1, random_state=seed)
    forest.fit(np.concatenate(taught), labels[labels > 0])
    found = []
    for z in read.test:
        features = multiscale_basic_features(read.image[z], sigma_min=1, sigma_max=16)
        found.append(forest.predict(features.reshape(-1, features.shape[-1])).reshape(features.shape[:2]) == 2)
    return judge(np.stack(found), read, time.perf_counter() - began)


def run_ours(
    read: Labelled, labels: NDArray[np.uint8], seed: int, model: str, reach: str, steps: int
) -> tuple[Outcome, str]:
    """Return the outcome of fine-tuning with the strokes, and what is said of it. steps: 0 = as many as the reach."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        made = skipseg.finetune(
            read.image[list(read.train)],
            labels,
            model,
            "taught",
            {"class": 2},
            folder,
            reach=reach,
            seed=seed,
            steps=steps,
        )
        prediction = skipseg.segment(read.image[list(read.test)], made.folder, attention=False)
        column = prediction.class_names.index("class")
        probability = prediction.probability[column] if len(prediction.class_names) > 1 else prediction.probability
        found = np.asarray(probability) > prediction.thresholds_at()[column]
        return judge(found, read, time.perf_counter() - began), made.report.reason


def columns_of(outcomes: list[Outcome]) -> list[str]:
    """Return the columns of some outcomes: the mean, and the spread of Dice."""
    dice = [each.dice for each in outcomes]
    spread = f" ± {statistics.stdev(dice):.3f}" if len(dice) > 1 else ""
    found, seconds = (statistics.mean(getattr(each, name) for each in outcomes) for name in ("found", "seconds"))
    return [f"{statistics.mean(dice):.3f}{spread}", f"{found:.2f}", f"{seconds:.1f}"]


def main() -> None:
    """Read the command line, and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="beginnings of names")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--at", type=float, default=1)
    parser.add_argument("--train", type=int, nargs="+", default=[0])
    parser.add_argument("--test", type=int, nargs="+", default=[1])
    parser.add_argument("--strokes", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--reach", default="quick")
    parser.add_argument("--steps", type=int, default=0, help="of normal and full, so that the load does not matter")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--clear", type=int, default=strokes.CLEAR, help="pixels from the edge at which strokes begin")
    parser.add_argument("--choosing", action="store_true", help="score the slices for choosing, not those for reports")
    args = parser.parse_args()
    strokes.CLEAR = args.clear
    if args.image:
        given = read_set(Path(), str(args.image), str(args.truth), args.at, tuple(args.train), tuple(args.test))
        sets = {args.image.stem: given}
    else:
        chosen = [name for name in SETS if any(name.startswith(begin) for begin in args.sets)]
        sets = {name: SETS[name][1](args.data / SETS[name][0]) for name in chosen}
        if args.choosing:
            sets = {name: read._replace(train=CHOOSING[name][0], test=CHOOSING[name][1]) for name, read in sets.items()}
    rows = []
    for name, whole in sets.items():
        read = cut_middle(whole, args.side)
        for count in args.strokes:
            forest, ours = [], []
            for seed in args.seeds:
                labels = draw_strokes(read, count, seed)
                forest.append(run_forest(read, labels, seed))
                outcome, said = run_ours(read, labels, seed, args.model, args.reach, args.steps)
                ours.append(outcome)
                print(f"{name}, {count} strokes, seed {seed}: forest {forest[-1]}, ours {outcome}: {said}", flush=True)
            rows.append([name, str(count), *columns_of(forest), *columns_of(ours)])
    print_place()
    heads = ["Dice", "found", "s"]
    print_table(["set", "strokes", *(f"forest: {h}" for h in heads), *(f"{args.reach}: {h}" for h in heads)], rows)


if __name__ == "__main__":
    main()
