"""A simulated hand draws strokes where the present result is wrong: how many, and how many minutes, until it is good?

    python benchmarks/hand.py DATA [--set VNC] [--methods quick normal forest monai] [--counts 2 5 10 20 40]
        [--seeds 0 1 2] [--model em-membrane] [--steps 60] [--minutes 4] [--side 512] [--goal 0.85] [--work DIR]

The sets and slices are those of `forest.py`. The first two strokes lie anywhere in the class and outside. Then each
method has a hand of its own: in turn, it puts a stroke (`strokes.py`, begun anywhere) into the largest connected piece
that the method's present result misses or wrongly marks on the slices for strokes, as many of them as the next count
asks for, and the method learns anew from all. Other slices are scored. A stroke takes 10.9 s: the median
time of a squiggle over one class in Bearman et al., What's the point, ECCV 2016. Minutes are those of the hand alone
and with the processor's that the method computed, which other programs do not change. *quick* and *normal* start from
MODEL, *normal* with so many steps; *live* is not a method of its own, as it fits what *quick* fits (`live.py` has its
seconds). *forest* is the random forest of `forest.py`; *monai* is a `BasicUNet` from scratch on the labelled pixels,
for so many minutes of the processor. *none* is MODEL without a stroke, if it knows the class under the name of
`--class-name`, rescaled where the voxel size of VNC or Kasthuri is known. Each moment is kept in DIR, and the same
command goes on from there. Prints a dated Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import strokes
import torch
from forest import SETS, Labelled, Mask, cut_middle
from measuring import print_place, print_table
from monai.networks.nets import BasicUNet
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier

import napari_skipseg as skipseg
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.scores.overlap import score_overlap

STROKE_SECONDS = 10.9
VOXELS = {"VNC, mitochondria": (50.0, 4.6, 4.6), "Kasthuri, mitochondria": (30.0, 24.0, 24.0)}
PATCH, BATCH = 128, 4

Learn = Callable[[NDArray[np.uint8]], Mask]
"""From labels of the slices for strokes to the class in these, then in the scored ones."""


class Moment(NamedTuple):
    """After so many strokes: Dice of the scored slices, and seconds that were computed so far."""

    strokes: int
    dice: float
    computed: float


def learn_ours(read: Labelled, model: str, reach: str, seed: int, steps: int, labels: NDArray[np.uint8]) -> Mask:
    """Return what a fine-tuned model finds."""
    limit = {"steps": steps} if reach != "quick" else {}
    with tempfile.TemporaryDirectory() as folder:
        train, test = (np.ascontiguousarray(read.image[list(part)]) for part in (read.train, read.test))
        made = skipseg.finetune(train, labels, model, "taught", {"class": 2}, folder, reach=reach, seed=seed, **limit)
        found = []
        for part in (train, test):
            prediction = skipseg.segment(part, made.folder, attention=False)
            column = prediction.class_names.index("class")
            several = len(prediction.class_names) > 1
            probability = prediction.probability[column] if several else prediction.probability
            found.append(np.asarray(probability) > prediction.thresholds_at()[column])
    return np.concatenate(found)


class Forest:
    """A random forest on the filters of scikit-image, which are computed once."""

    def __init__(self, read: Labelled, seed: int) -> None:
        self._seed, self._count = seed, len(read.train)
        self._features = [
            multiscale_basic_features(read.image[z], sigma_min=1, sigma_max=16) for z in (*read.train, *read.test)
        ]

    def __call__(self, labels: NDArray[np.uint8]) -> Mask:
        taught = [each[of_slice > 0] for each, of_slice in zip(self._features, labels, strict=False)]
        forest = RandomForestClassifier(100, n_jobs=-1, random_state=self._seed)
        forest.fit(np.concatenate(taught), labels[labels > 0])
        columns = (each.reshape(-1, each.shape[-1]) for each in self._features)
        shape = self._features[0].shape[:2]
        return np.stack([forest.predict(each).reshape(shape) == 2 for each in columns])


def learn_monai(read: Labelled, seed: int, minutes: float, labels: NDArray[np.uint8]) -> Mask:
    """Return what a network of MONAI finds that learnt from the labelled pixels alone: each class weighs the same."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    images = read.image[[*read.train, *read.test]].astype(np.float32)
    images = (images - images.mean()) / images.std()
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=(32, 32, 64, 128, 256, 32))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    places = [np.argwhere(labels == value) for value in (1, 2)]
    ends = time.process_time() + 60 * minutes
    network.train()
    while time.process_time() < ends:
        pixels, targets = [], []
        for number in range(BATCH):
            z, *middle = places[number % 2][generator.integers(len(places[number % 2]))]
            sides = zip(middle, labels.shape[1:], strict=True)
            first = [int(np.clip(at - generator.integers(PATCH), 0, length - PATCH)) for at, length in sides]
            part = tuple(slice(start, start + PATCH) for start in first)
            turn, flip = int(generator.integers(4)), bool(generator.integers(2))
            for values, into in ((images[z][part], pixels), (labels[z][part], targets)):
                turned = np.rot90(values, turn)
                into.append(np.ascontiguousarray(turned[::-1] if flip else turned))
        target = torch.from_numpy(np.stack(targets))
        logits = network(torch.from_numpy(np.stack(pixels))[:, None])[:, 0]
        parts = [
            torch.nn.functional.softplus(sign * logits[target == value]).mean()
            for value, sign in ((1, 1), (2, -1))
            if (target == value).any()
        ]
        optimizer.zero_grad()
        torch.stack(parts).mean().backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        return np.stack([(network(torch.from_numpy(each)[None, None])[0, 0] > 0).numpy() for each in images])


def draw_where_wrong(
    painted: NDArray[np.uint8], found: Mask, read: Labelled, count: int, generator: np.random.Generator
) -> None:
    """Paint `count` strokes, each into the largest piece of what is missed and of what is wrongly marked, in turn."""
    truth, known = read.truth[list(read.train)], read.known[list(read.train)]
    pieces: dict[int, list[tuple[int, int, Mask]]] = {1: [], 2: []}
    for value, wrong in ((2, truth & ~found & known), (1, found & ~truth & known)):
        for z, of_slice in enumerate(wrong):
            numbers, _ = ndimage.label(of_slice)
            sizes = np.bincount(numbers.ravel())[1:]
            best = np.argsort(sizes)[::-1][:count]
            pieces[value] += [(int(sizes[number]), z, numbers == number + 1) for number in best]
        pieces[value].sort(key=lambda piece: piece[0], reverse=True)
    for number in range(count):
        value = 2 - number % 2
        if not pieces[value]:
            value = 3 - value
        if pieces[value]:
            _, z, inside = pieces[value].pop(0)
            strokes.paint_stroke(painted[z], inside, value, generator)


class Kept(NamedTuple):
    """A run as far as it came: labels of the slices for strokes, what was found last, and its moments."""

    painted: NDArray[np.uint8]
    found: Mask
    moments: list[Moment]

    @classmethod
    def read(cls, file: Path, read: Labelled) -> Kept:
        """Return the run in a file, or one that begins."""
        if not file.exists():
            return cls(np.zeros((len(read.train), *read.truth.shape[1:]), np.uint8), np.zeros(0, bool), [])
        with np.load(file) as kept:
            moments = [Moment(int(n), float(dice), float(seconds)) for n, dice, seconds in kept["moments"]]
            return cls(kept["painted"], kept["found"], moments)

    def write(self, file: Path) -> None:
        """Write the run so that a kill leaves this file or the one before."""
        new = file.with_suffix(".new.npz")
        np.savez_compressed(new, painted=self.painted, found=self.found, moments=np.array(self.moments, np.float64))
        new.replace(file)


def run_hand(read: Labelled, learn: Callable[[], Learn], counts: list[int], seed: int, file: Path) -> list[Moment]:
    """Return how good a method is after each number of strokes, with a hand of its own.

    learn: makes the method. file: keeps each moment; those that it has are not computed again.
    """
    painted, found, moments = Kept.read(file, read)
    method: Learn | None = None
    for count in counts[len(moments) :]:
        generator = np.random.default_rng((seed, count))
        done = moments[-1].strokes if moments else 2
        if not moments:
            for value in (2, 1):
                inside = (read.truth[read.train[0]] == (value == 2)) & read.known[read.train[0]]
                strokes.paint_stroke(painted[0], inside, value, generator)
        if count > done:
            draw_where_wrong(painted, found[: len(read.train)], read, count - done, generator)
        began = time.process_time()
        method = method or learn()
        found = method(painted)
        computed = time.process_time() - began + (moments[-1].computed if moments else 0.0)
        truth, known = read.truth[list(read.test)], read.known[list(read.test)]
        moments.append(Moment(count, score_overlap(found[len(read.train) :], truth, known).dice, computed))
        Kept(painted, found, moments).write(file)
        print(moments[-1], flush=True)
    return moments[: len(counts)]


def dice_without_strokes(read: Labelled, name: str, model: str, class_name: str) -> float | None:
    """Return Dice of a model that knows the class, rescaled if the voxel size is known; None if it does not."""
    described = skipseg.load_model(model).description
    if class_name not in described.class_names:
        return None
    space = Space("ZYX", VOXELS[name], "nm") if name in VOXELS else Space("ZYX")
    stack = Stack(read.image[list(read.test)], space, name="scored")
    prediction = skipseg.segment(stack, model, attention=False, rescale=name in VOXELS)
    found = np.asarray(prediction.binary()) == 1 + described.class_names.index(class_name)
    return score_overlap(found, read.truth[list(read.test)], read.known[list(read.test)]).dice


def rows_of(method: str, runs: list[list[Moment]], goal: float) -> list[list[str]]:
    """Return a row for each number of strokes: Dice with its spread, minutes of the hand, and with the computing."""
    rows = []
    for moments in zip(*runs, strict=True):
        dice = [moment.dice for moment in moments]
        spread = f" ± {statistics.stdev(dice):.3f}" if len(dice) > 1 else ""
        hand = moments[0].strokes * STROKE_SECONDS / 60
        computed = statistics.mean(moment.computed for moment in moments) / 60
        reached = sum(each >= goal for each in dice)
        rows.append(
            [
                method,
                str(moments[0].strokes),
                f"{statistics.mean(dice):.3f}{spread}",
                f"{hand:.1f}",
                f"{hand + computed:.1f}",
                f"{reached} of {len(dice)}",
            ]
        )
    return rows


def main() -> None:
    """Read the command line, and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="VNC", help="beginning of a name")
    parser.add_argument("--methods", nargs="+", default=["none", "quick", "normal", "forest", "monai"])
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 5, 10, 20, 40])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--class-name", default="mitochondrion")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--goal", type=float, default=0.85)
    args = parser.parse_args()
    strokes.CLEAR = 0
    work = args.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    name = next(each for each in SETS if each.startswith(args.set))
    read = cut_middle(SETS[name][1](args.data / SETS[name][0]), args.side)
    rows: list[list[str]] = []
    for method in args.methods:
        if method == "none":
            dice = dice_without_strokes(read, name, args.model, args.class_name)
            if dice is not None:
                rows.append([args.model, "0", f"{dice:.3f}", "0", "", "yes" if dice >= args.goal else "no"])
            continue
        runs = []
        for seed in args.seeds:
            learn: dict[str, Callable[[], Learn]] = {
                "quick": lambda seed=seed: partial(learn_ours, read, args.model, "quick", seed, 0),
                "normal": lambda seed=seed: partial(learn_ours, read, args.model, "normal", seed, args.steps),
                "forest": lambda seed=seed: Forest(read, seed),
                "monai": lambda seed=seed: partial(learn_monai, read, seed, args.minutes),
            }
            print(method, "seed", seed, flush=True)
            start = args.model if method in ("quick", "normal") else "scratch"
            length = {"normal": f" {args.steps} steps", "monai": f" {args.minutes:g} minutes"}.get(method, "")
            file = work / f"{name.split(',')[0]} {args.side} {method}{length} {start} {seed}.npz"
            runs.append(run_hand(read, learn[method], args.counts, seed, file))
        rows += rows_of(method, runs, args.goal)
    print_place(f"{name}, from {args.model}")
    print_table(
        ["method", "strokes", "Dice", "minutes of the hand", "with computing", f"runs at Dice {args.goal}"], rows
    )


if __name__ == "__main__":
    main()
