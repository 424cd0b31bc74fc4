"""The flooding behind border thinning: Vincent and Soille's on a two-level image, with dams, as in Fiji's code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.scores.table import compiled, label_components

DAM, UNSEEN, QUEUED, SEED, OUTSIDE = 0, -1, -2, -3, -4
"""States of a pixel while its slice is flooded; segments are 1, 2, …"""


def pad_transposed(mask: NDArray[np.bool_], inside: int, outside: int) -> NDArray[np.int32]:
    """Return (X + 2, Y + 2) states, so that Fiji's scan (x outer, y inner) runs straight through memory."""
    height, width = mask.shape
    state = np.full((width + 2, height + 2), OUTSIDE, np.int32)
    state[1:-1, 1:-1] = np.where(mask.T, np.int32(inside), np.int32(outside))
    return state


def flood_slice(state: NDArray[np.int32], column: int) -> int:
    """Turn SEED and UNSEEN pixels of a padded slice into segments and dams; return the number of segments."""
    seeds = label_components(state, column, SEED, 0)
    _flood(state, column)
    return label_components(state, column, UNSEEN, seeds)  # border that no cell touches


@compiled
def _flood(state: NDArray[np.int32], column: int) -> None:
    """Grow all segments together through UNSEEN pixels; where two meet a DAM stays (order: W, N, E, S)."""
    neighbours = (-column, -1, column, 1)
    queue = np.empty(state.size, np.int32)
    end = 0
    for pixel in range(state.size):
        if state[pixel] == UNSEEN:
            for step in neighbours:
                if state[pixel + step] > 0:
                    state[pixel] = QUEUED
                    queue[end] = pixel
                    end += 1
                    break
    touched = False
    place = 0
    while place < end:
        pixel = queue[place]
        place += 1
        for step in neighbours:
            label = state[pixel + step]
            here = state[pixel]
            if label > 0:
                if here == QUEUED or (here == DAM and touched):
                    state[pixel] = label
                elif here > 0 and here != label:
                    state[pixel] = DAM
                    touched = False
            elif label == DAM:
                if here == QUEUED:
                    state[pixel] = DAM
                    touched = True
            elif label == UNSEEN:
                state[pixel + step] = QUEUED
                queue[end] = pixel + step
                end += 1
