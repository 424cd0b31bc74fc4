"""How many pixels of which value were corrected, counted chunk by chunk where something changed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.sparse_array import Place, SparseArray
from napari_skipseg.durable import write_durably

FILE = "counts.json"


@dataclass(frozen=True)
class Summary:
    """What was corrected. pixels: how many train, by value. slices: on how many slices. reviewed_pixels: how many of
    all pixels were marked as reviewed, painted or not.
    """

    pixels: dict[int, int]
    slices: int
    reviewed_pixels: int


class Tallies:
    """The counts of two arrays of the same shape."""

    def __init__(self, strokes: SparseArray, reviewed: SparseArray) -> None:
        self._strokes, self._reviewed = strokes, reviewed
        self._counts: dict[Place, dict[int, int]] = {}
        self._stale = strokes.places() | reviewed.places()

    def change(self, place: Place) -> None:
        """Be told that a chunk of either changed."""
        self._stale.add(place)

    def summary(self) -> Summary:
        """Return the counts of what is there now."""
        with self._strokes.lock:
            while self._stale:
                place = self._stale.pop()
                self._counts[place] = _count(self._strokes.piece(place), self._reviewed.piece(place))
                if not self._counts[place]:
                    del self._counts[place]
            there = dict(self._counts)
        pixels: dict[int, int] = {}
        for counts in there.values():
            for value, number in counts.items():
                pixels[value] = pixels.get(value, 0) + number
        reviewed = pixels.pop(0, 0)
        return Summary(dict(sorted(pixels.items())), len({place[:-2] for place in there}), reviewed)

    def save(self, folder: Path) -> None:
        """Write the counts down for the next time, where they are whole; they need not be."""
        if not self._stale:
            told = {",".join(map(str, place)): counts for place, counts in self._counts.items()}
            with contextlib.suppress(OSError):
                write_durably(folder / FILE, json.dumps(told).encode())

    def restore(self, folder: Path) -> None:
        """Take the counts of the last time, and remove their file: they hold until something changes.

        Raises:
            OSError: the file cannot be removed.
        """
        try:
            told = json.loads((folder / FILE).read_bytes())
            counts = {
                tuple(map(int, place.split(","))): {int(value): int(number) for value, number in found.items()}
                for place, found in told.items()
            }
        except (OSError, ValueError, AttributeError):
            counts = {}
        (folder / FILE).unlink(missing_ok=True)
        if counts.keys() == self._stale:
            self._counts, self._stale = counts, set()


def target_of(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what trains: the strokes, and where there are none what was found right."""
    return np.where(strokes > 0, strokes, reviewed)


def _count(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> dict[int, int]:
    """Return the pixels of the target by value, and under 0 how many are reviewed."""
    numbers = np.bincount(target_of(strokes, reviewed).ravel(), minlength=1)
    numbers[0] = np.count_nonzero(reviewed)
    return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
