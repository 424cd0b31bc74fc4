"""A process that paints at random until it is killed, and says on stdout when each stroke was made.

`python painter.py SEED LARGE` paints into the corrections of `image()`; LARGE is the size of the journal from which on
all goes into the chunks. `python painter.py hold` opens them, says so, and waits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from napari_skipseg.corrections import store
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

SHAPE = (3, 400, 500)


def image() -> Stack:
    return Stack(np.full(SHAPE, 9, np.uint8), Space("ZYX", (40, 5, 5), "nm"), name="cells")


def strokes(seed: int) -> Iterator[tuple[int, Any, int]]:
    """Yield which array is written to (0 = strokes, 1 = reviewed), where, and with which value; always the same."""
    generator = np.random.default_rng(seed)
    while True:
        z, y, x, height, width = (int(n) for n in generator.integers(0, (*SHAPE, 120, 120)))
        box = (slice(z, z + 1), slice(y, min(y + height + 1, SHAPE[1])), slice(x, min(x + width + 1, SHAPE[2])))
        yield int(generator.random() < 0.2), box, int(generator.integers(0, 5))


def paint(seed: int) -> None:
    corrections = store.open_corrections(image())
    for number, (array, box, value) in enumerate(strokes(seed)):
        if array:
            corrections.review(box, np.full([part.stop - part.start for part in box], value, np.uint8))
        else:
            corrections.strokes[box] = value
        print(number, time.time(), flush=True)
        time.sleep(0.001)


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        corrections = store.open_corrections(image())
        print("open", flush=True)
        sys.stdin.read()
    else:
        store.LARGE_LABELS = int(sys.argv[2])
        paint(int(sys.argv[1]))
