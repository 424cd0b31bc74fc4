"""The ISBI 2012 evaluation as plainly as its definition reads: pixel by pixel, slow, for tests only."""

import math
from collections import Counter, deque
from fractions import Fraction

DAM = "dam"
UNSEEN = "unseen"
QUEUED = "queued"


def java_thresholds():
    thresholds, t = [], 0.0
    while t <= 1.0:
        thresholds.append(t)
        t += 0.1
    return thresholds


def scan(mask):
    """All pixels, x outer, y inner."""
    height, width = len(mask), len(mask[0])
    return [(y, x) for x in range(width) for y in range(height)]


def neighbours(pixel, mask):
    """West, north, east, south."""
    y, x = pixel
    for v, u in ((y, x - 1), (y - 1, x), (y, x + 1), (y + 1, x)):
        if 0 <= v < len(mask) and 0 <= u < len(mask[0]):
            yield v, u


def components(mask, wanted):
    """A number from 1 on for every pixel of `wanted`, the same within a 4-connected component."""
    number, labels = 0, {}
    for start in scan(mask):
        if start in wanted and start not in labels:
            number += 1
            labels[start] = number
            waiting = deque([start])
            while waiting:
                for q in neighbours(waiting.popleft(), mask):
                    if q in wanted and q not in labels:
                        labels[q] = number
                        waiting.append(q)
    return labels


def flood(cells):
    """The segment (1, 2, …) or DAM of every pixel of a slice; `cells` is a list of rows of truth values."""
    seeds = components(cells, {p for p in scan(cells) if cells[p[0]][p[1]]})
    state = {p: seeds.get(p, UNSEEN) for p in scan(cells)}

    def is_segment(value):
        return isinstance(value, int)

    fifo = deque()
    for p in scan(cells):
        if state[p] == UNSEEN and any(is_segment(state[q]) or state[q] == DAM for q in neighbours(p, cells)):
            state[p] = QUEUED
            fifo.append(p)
    touched = False
    while fifo:
        p = fifo.popleft()
        for q in neighbours(p, cells):
            if is_segment(state[q]):
                if state[p] == QUEUED or (state[p] == DAM and touched):
                    state[p] = state[q]
                elif is_segment(state[p]) and state[p] != state[q]:
                    state[p] = DAM
                    touched = False
            elif state[q] == DAM:
                if state[p] == QUEUED:
                    state[p] = DAM
                    touched = True
            elif state[q] == UNSEEN:
                state[q] = QUEUED
                fifo.append(q)
    last = max(seeds.values(), default=0)
    leftovers = components(cells, {p for p in scan(cells) if state[p] == UNSEEN})
    state.update({p: last + number for p, number in leftovers.items()})
    return state


def score_segments(truth, proposal):
    """(V_rand, split, merge), (V_info, split, merge) of two labellings; only pixels in `truth` count."""
    n = len(truth)
    dams = sum(proposal[x] == DAM for x in truth)
    joint = Counter((i, proposal[x]) for x, i in truth.items() if proposal[x] != DAM)
    of_truth = Counter(truth.values())
    of_proposal = Counter(proposal[x] for x in truth if proposal[x] != DAM)

    q_st = sum(Fraction(c, n) ** 2 for c in joint.values()) + Fraction(dams, n**2)
    q_s = sum(Fraction(c, n) ** 2 for c in of_proposal.values()) + Fraction(dams, n**2)
    q_t = sum(Fraction(c, n) ** 2 for c in of_truth.values())
    rand = (float(2 * q_st / (q_s + q_t)), float(q_st / q_t), float(q_st / q_s))

    def entropy(counts, singletons):
        return math.fsum(-c / n * math.log(c / n) for c in counts.values()) + singletons / n * math.log(n)

    h_t, h_s, h_st = entropy(of_truth, 0), entropy(of_proposal, dams), entropy(joint, dams)
    if h_t == 0 or h_s == 0:
        same = 1.0 if h_t == h_s else 0.0
        return rand, (same, same, same)
    information = h_t + h_s - h_st
    return rand, (2 * information / (h_t + h_s), information / h_s, information / h_t)


def score_stack(probability, truth):
    """Per threshold the means over the slices of (V_rand, split, merge) and of (V_info, split, merge)."""
    means = []
    for t in java_thresholds():
        slices = []
        for p, cells in zip(probability, truth, strict=True):
            wanted = {pixel for pixel in scan(cells) if cells[pixel[0]][pixel[1]] > 0}
            if wanted:
                labels = components(cells, wanted)
                slices.append(score_segments(labels, flood([[value > t for value in row] for row in p])))
        means.append(
            tuple(
                tuple(math.fsum(values) / len(slices) for values in zip(*scores, strict=True))
                for scores in zip(*slices, strict=True)
            )
        )
    return means
