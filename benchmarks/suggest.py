"""Does *Suggest* put the best model first? Dice of every shipped model, beside what it ranks first.

    python benchmarks/suggest.py DATA [--sets ISBI VNC ...] [--side 384] [--seeds 0 1] [--strokes 5]

DATA contains the folders that `SETS` names. Each model segments the scored slices as they are and, where voxel sizes
are known, rescaled; it scores the Dice of its class at its threshold, whatever that class is. *Suggest* sees one other
slice, without strokes and with a few of `strokes.py` (begun anywhere). *Lost* is the best model's Dice less that of the
model ranked first, with the rescaling that is suggested. A model that was trained on the scored slices has an asterisk.
Prints a dated Markdown table.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import strokes
import tifffile
from measuring import print_place, print_table
from numpy.typing import NDArray

import napari_skipseg as skipseg
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.suggest import Suggestions
from napari_skipseg.models.catalog import find_models
from napari_skipseg.scores.overlap import score_overlap


class Scored(NamedTuple):
    """A set: files, class, voxel size in nm (z, y, x; None = not known), the slice for strokes, those for scores.

    at: the truth is the class from this value on, or below it if it is negative. seen_by: models trained on the scored
    slices.
    """

    folder: str
    image: str
    truth: str
    at: int
    name: str
    size: tuple[float, float, float] | None
    stroked: int
    scored: tuple[int, ...]
    seen_by: tuple[str, ...] = ()
    known: str = ""


SETS = {
    "ISBI, membranes": Scored(
        "isbi2012",
        "train-volume-00-24.tif",
        "train-labels-00-24.tif",
        -1,
        "membrane",
        (50, 4, 4),
        17,
        (20, 23),
        ("em-membrane", "em-membrane-residual"),
    ),
    "VNC, membranes": Scored(
        "vnc_larva3",
        "stack1-raw-00-09.tif",
        "stack1-membranes-00-09.tif",
        128,
        "membrane",
        (50, 4.6, 4.6),
        4,
        (8, 9),
    ),
    "neuropil, membranes": Scored("neuropil_membrane", "raw.tif", "membrane.tif", 128, "membrane", None, 0, (0,)),
    "VNC, mitochondria": Scored(
        "vnc_larva3",
        "stack1-raw-00-09.tif",
        "stack1-mitochondria-00-09.tif",
        128,
        "mitochondrion",
        (50, 4.6, 4.6),
        4,
        (8, 9),
    ),
    "cdeep3m smooth, mitochondria": Scored(
        "cdeep3m_mito", "raw-smooth-10-19.tif", "mito-10-19.tif", 1, "mitochondrion", None, 4, (8, 9)
    ),
    "cdeep3m as scanned, mitochondria": Scored(
        "cdeep3m_mito", "raw-20-39.tif", "mito-20-39.tif", 1, "mitochondrion", None, 8, (18, 19)
    ),
    "Kasthuri, mitochondria": Scored(
        "kasthuri_24nm",
        "raw.tif",
        "mito-ids.tif",
        1,
        "mitochondrion",
        (30, 24, 24),
        20,
        (41, 45),
        known="known.tif",
    ),
}


class Part(NamedTuple):
    """A set in memory: the middle of its slices (Z, Y, X), the truth, and where that is known."""

    image: NDArray[Any]
    truth: NDArray[np.bool_]
    known: NDArray[np.bool_]


def read_part(folder: Path, each: Scored, side: int) -> Part:
    """Return the middle of a set, at most `side` long in Y and X."""
    image, values = tifffile.imread(folder / each.image), tifffile.imread(folder / each.truth)
    image, values = (array if array.ndim == 3 else array[None] for array in (image, values))
    truth = values < -each.at if each.at < 0 else values >= each.at  # slices of VNC stored as 0 and 1 are not used
    known = tifffile.imread(folder / each.known) > 0 if each.known else np.ones_like(truth)
    middle = tuple(slice(a := max(0, n - side) // 2, a + min(n, side)) for n in image.shape[1:])
    cut = (slice(None), *middle)
    return Part(image[cut], truth[cut], known[cut])


def stack_of(each: Scored, image: NDArray[Any]) -> Stack:
    """Return slices as a stack with the voxel size of the set."""
    space = Space("ZYX") if each.size is None else Space("ZYX", each.size, "nm")
    return Stack(image, space, name=each.folder)


def dice_of(model: str, rescale: bool, each: Scored, part: Part) -> float:
    """Return Dice of a model's best class on the scored slices, each segmented by itself; NaN if it cannot."""
    scores: list[float] = []
    found: list[NDArray[np.bool_]] = []
    for z in each.scored:
        stack = stack_of(each, part.image[z : z + 1])
        try:
            prediction = skipseg.segment(stack, model, attention=False, rescale=rescale)
        except SkipsegError:
            return float("nan")
        labels = np.asarray(prediction.binary())[0]
        found.append(labels)
    truth, known = part.truth[list(each.scored)], part.known[list(each.scored)]
    labels = np.stack(found)
    for value in range(1, int(labels.max(initial=1)) + 1):
        scores.append(score_overlap(labels == value, truth, known).dice)
    return max(scores)


def suggest(each: Scored, part: Part, count: int, seed: int) -> Suggestions:
    """Return what is suggested for the slice for strokes, with `count` strokes on it, or none."""
    z = each.stroked
    stack = stack_of(each, part.image[z : z + 1])
    if not count:
        return skipseg.suggest(stack)
    painted = np.zeros(part.truth.shape[1:], np.uint8)
    generator = np.random.default_rng(seed)
    for number in range(count):
        value = 2 - number % 2
        strokes.paint_stroke(painted, (part.truth[z] == (value == 2)) & part.known[z], value, generator)
    return skipseg.suggest(stack, Stack(painted[None], stack.space, name="strokes"), (each.name,))


def main() -> None:
    """Read the command line, and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="beginnings of names")
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--strokes", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    strokes.CLEAR = 0
    models = [name for name, folder in find_models().items() if folder.parent.name == "builtin"]
    rows = []
    for name in (name for name in SETS if any(name.startswith(begin) for begin in args.sets)):
        each = SETS[name]
        part = read_part(args.data / each.folder, each, args.side)
        rescalings = (False,) if each.size is None else (False, True)
        dice = {(model, rescale): dice_of(model, rescale, each, part) for model in models for rescale in rescalings}
        known = {key: value for key, value in dice.items() if not np.isnan(value)}
        best = max(known.values())
        cells = []
        for model in models:
            of_model = [f"{dice[model, rescale]:.3f}" for rescale in rescalings]
            cells.append(" / ".join(of_model) + "*" * (model in each.seen_by))
        for count, seeds in ((0, args.seeds[:1]), (args.strokes, args.seeds)):
            firsts = [suggest(each, part, count, seed).ranked[0] for seed in seeds]
            told = " or ".join(
                dict.fromkeys(f"{first.model}{', rescaled' if first.rescale else ''}" for first in firsts)
            )
            lost = np.mean([best - known.get((first.model, first.rescale), 0.0) for first in firsts])
            cells += [told, f"{lost:.3f}"]
        rows.append([name, *cells])
        print(rows[-1], flush=True)
    print_place()
    heads = ["set", *models, "first without strokes", "lost", f"first with {args.strokes} strokes", "lost"]
    print_table(heads, rows)


if __name__ == "__main__":
    main()
