"""Small pictures of results: the middle of the middle slice in grey, and over it, in colour, what was found."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_skipseg.images.files import read_stack
from napari_skipseg.images.stack import Stack

SIDE = 128
"""Of a thumbnail, in pixels, at the most."""
SEEN = 512
"""Pixels of the slice that it shows along each axis, at the most: a whole large slice would take its time to read."""
COLOURS = np.array(((255, 140, 0), (0, 170, 255), (0, 200, 90), (230, 60, 200), (240, 220, 0)), np.float32)
"""Of the classes, in their order, then again from the first."""
STRENGTH = 0.75
QUALITY = 80
"""Of JPEG: 5 kB a picture, where PNG takes 30, so that the report of a thousand files opens quickly."""


def draw_thumbnail(stack: Stack, probability: Path, channel: int) -> bytes:
    """Return a JPEG of `stack` with the probability of our file `probability` over it.

    Raises:
        SkipsegError: one of them cannot be read.
    """
    grey = _stretched(_middle(stack.channel(min(channel, stack.length("C") - 1)))[0])
    found = read_stack(probability)
    shares = _middle(found) / (255 if np.dtype(found.data.dtype).kind in "ui" else 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    for number, share in enumerate(shares):
        weight = STRENGTH * np.clip(share, 0, 1)[..., None]
        picture = (1 - weight) * picture + weight * COLOURS[number % len(COLOURS)]
    file = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _middle(stack: Stack) -> NDArray[np.float32]:
    """Return (C, Y, X): the middle of the middle slice, made smaller by the mean of whole blocks."""
    index: list[int | slice] = []
    for axis, length in zip(stack.axes, stack.shape, strict=True):
        if axis in "YX":
            start = max(0, (length - SEEN) // 2)
            index.append(slice(start, start + min(SEEN, length)))
        else:
            index.append(slice(None) if axis == "C" else length // 2)
    values = stack.read(tuple(index))
    axes = "".join(axis for axis in stack.axes if axis in "CYX")
    if "C" not in axes:
        values, axes = values[None], f"C{axes}"
    values = values.transpose([axes.index(axis) for axis in "CYX"])
    step = max(1, -(-max(values.shape[1:]) // SIDE))
    height, width = (max(1, length // step) for length in values.shape[1:])
    blocks = values[:, : height * step, : width * step].astype(np.float32)
    if blocks.shape[1:] != (height * step, width * step):  # thinner than a block
        return blocks[:, ::step, ::step]
    means: NDArray[np.float32] = blocks.reshape(len(blocks), height, step, width, step).mean(axis=(2, 4))
    return means


def _stretched(values: NDArray[Any]) -> NDArray[np.float32]:
    low, high = np.percentile(values, (1, 99))
    stretched: NDArray[np.float32] = (255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)).astype(np.float32)
    return stretched
