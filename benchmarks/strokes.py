"""Corrections as a user would paint them, drawn from the truth by a fixed rule: the same seed gives the same strokes.

The rule. A stroke has one label. It starts at a pixel drawn at random from those of the label that lie at least `CLEAR`
pixels from any other (if the label is nowhere so wide: from all its pixels), and continues as a walk of `LENGTH` steps
of one pixel, whose direction starts at random and turns by a normal deviate of `TURN` radians at each; it paints a disc
of `WIDTH` pixels at each step, and never a pixel of a different label: a careful hand stops at the edge. Labels take
turns, background first. A slice is done when the requested share of its pixels, or number of strokes, is painted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.uint8]

CLEAR = 3
LENGTH = 60
TURN = 0.25
WIDTH = 7
BACKGROUND = 1


def paint_share(truth: Labels, share: float, seed: int) -> Labels:
    """Return strokes over `truth` (Z, Y, X; 1 = background, 2… = classes) that cover `share` of each slice's pixels."""
    painted = np.zeros_like(truth)
    for z, of_slice in enumerate(truth):
        generator = np.random.default_rng((seed, z))
        labels = [int(value) for value in np.unique(of_slice)]
        turn = 0
        while np.count_nonzero(painted[z]) < share * of_slice.size:
            paint_stroke(painted[z], of_slice == labels[turn % len(labels)], labels[turn % len(labels)], generator)
            turn += 1
    return painted


def paint_strokes(truth: Labels, count: int, seed: int) -> Labels:
    """Return `count` strokes over one slice of truth (Y, X)."""
    painted = np.zeros_like(truth)
    generator = np.random.default_rng(seed)
    labels = [int(value) for value in np.unique(truth)]
    for number in range(count):
        value = labels[number % len(labels)]
        paint_stroke(painted, truth == value, value, generator)
    return painted


def paint_stroke(painted: Labels, inside: NDArray[np.bool_], value: int, generator: np.random.Generator) -> None:
    """Paint one stroke of `value` into `painted`, where it is `inside`."""
    clear = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] > CLEAR
    places = np.argwhere(clear if clear.any() else inside)
    if not len(places):
        return
    place = places[generator.integers(len(places))].astype(float)
    angle = generator.uniform(0, 2 * np.pi)
    line = np.zeros_like(inside)
    for _ in range(LENGTH):
        y, x = (round(float(at)) for at in place)
        if not (0 <= y < inside.shape[0] and 0 <= x < inside.shape[1] and inside[y, x]):
            break
        line[y, x] = True
        place += np.sin(angle), np.cos(angle)
        angle += generator.normal(0, TURN)
    brush = np.hypot(*np.mgrid[-(WIDTH // 2) : WIDTH // 2 + 1, -(WIDTH // 2) : WIDTH // 2 + 1]) <= WIDTH / 2
    painted[ndimage.binary_dilation(line, brush) & inside] = value


def correct_place(painted: Labels, predicted: Labels, truth: Labels, generator: np.random.Generator) -> None:
    """Paint the strokes of a user who corrects one place (Y, X): one in missing parts, one in wrong parts of the
    result.

    Each lies in the largest connected piece of its kind; if there is none, in the class, or the background.
    """
    for value, wrong in ((2, (predicted < 2) & (truth == 2)), (BACKGROUND, (predicted == 2) & (truth == BACKGROUND))):
        pieces, count = ndimage.label(wrong)
        inside = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])) if count else truth == value
        paint_stroke(painted, inside, value, generator)
