"""Random windows of a stack's slices, in which its grey values are measured and constant areas are searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.resample import resample_axis, source_range
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress

SAMPLED_SLICES = 32
SAMPLED_SIDE = 1024
PROBE, PROBES, PROBED_SLICES = 64, 6, 8
"""In larger slices: side of the windows that are searched for constant areas, how many of them along Y and X, and in
how many slices."""
MOST_OF_SLICE = 2
"""Most windows of such a slice that are read whole."""
SPOT, MOST_SPOTS, MOST_EMPTY = 32, 1024, 16
"""How empty slices are found among those that are not sampled: the side of the window that is looked at, in how many
slices at most, and how many of them are read whole to be sure."""
CELL, RUN = 8, 32
"""Side of the constant squares, and length of the constant runs along the image's border, that are searched."""

_MEASURING = Progress(0, 1, "measuring the grey values")

Prepare = Callable[[NDArray[Any]], NDArray[Any]]


class SampleWindow(NamedTuple):
    """Grey values (Y, X) of a part of a slice.

    edges: whether it begins or ends where the slice does, at the top, bottom, left and right. ranges: where it lies, by
    axis: first and last place + 1.
    """

    values: NDArray[Any]
    edges: tuple[bool, bool, bool, bool]
    ranges: Mapping[str, tuple[int, int]]

    @property
    def is_constant(self) -> bool:
        """Whether all of its pixels have one value, or all are NaN."""
        first = self.values[0, 0]
        return bool((self.values == first).all() or (first != first and np.isnan(self.values).all()))

    def has_constant_area(self) -> bool:
        """Return whether a square of `CELL` pixels, or a run of `RUN` at the border of the slice, has one value."""
        return next(iter(self.constant_values()), None) is not None

    def constant_values(self) -> Iterator[float]:
        """Yield the value of each square, and of each run along the border of the slice, that is constant."""
        height, width = (length // CELL * CELL for length in self.values.shape)
        if not height or not width:
            return
        cells = self.values[:height, :width].reshape(height // CELL, CELL, width // CELL, CELL)
        corner = cells[:, 0, :, 0]
        # of each square four pixels are compared first: hardly any other one is left
        likely = (
            (corner == cells[:, -1, :, -1]) & (corner == cells[:, 0, :, -1]) & (corner == cells[:, CELL // 2, :, 3])
        )
        if likely.any():
            likely[likely] = (cells.transpose(0, 2, 1, 3)[likely] == corner[likely][:, None, None]).all((1, 2))
            yield from corner[likely].tolist()
        lines = (self.values[0], self.values[-1], self.values[:, 0], self.values[:, -1])
        for line, is_edge in zip(lines, self.edges, strict=True):
            runs = line[: len(line) // RUN * RUN].reshape(-1, RUN)
            if is_edge and len(runs):
                yield from runs[(runs == runs[:, :1]).all(1), 0].tolist()


def iter_draw_windows(
    stack: Stack, seed: int, lengths: Mapping[str, int], prepare: Prepare | None = None
) -> Generator[Progress, None, list[SampleWindow]]:
    """Yield after each; return 2D windows of slices drawn at random, on a grid of different `lengths` along some axes.

    prepare: called with what was read before it is resampled.
    """
    generator = np.random.default_rng(seed)
    shape = {axis: lengths.get(axis, stack.length(axis)) for axis in stack.space.axes}
    loops = {axis: length for axis, length in shape.items() if axis not in "YX"}
    count = math.prod(loops.values())
    numbers = np.arange(count)
    if count > SAMPLED_SLICES:
        numbers = np.sort(generator.choice(count, SAMPLED_SLICES, replace=False))
    windows = []
    for number in numbers:
        place = np.unravel_index(number, tuple(loops.values())) if loops else ()
        ranges = {axis: (int(at), int(at) + 1) for axis, at in zip(loops, place, strict=True)}
        for axis in "YX":
            start = int(generator.integers(0, max(1, shape[axis] - SAMPLED_SIDE + 1)))
            ranges[axis] = (start, min(start + SAMPLED_SIDE, shape[axis]))
        windows.append(SampleWindow(read_window(stack, shape, ranges, prepare), _edges(ranges, shape), ranges))
        yield _MEASURING
    return windows


def read_window(
    stack: Stack, shape: Mapping[str, int], ranges: Mapping[str, tuple[int, int]], prepare: Prepare | None = None
) -> NDArray[Any]:
    """Return the values (2D) in `ranges` of a grid of `shape`, which is the stack's own or a resampled one.

    prepare: as in `iter_draw_windows`.
    """
    places = {axis: np.arange(*ranges[axis]) for axis in stack.space.axes}
    step = {axis: stack.length(axis) / shape[axis] for axis in stack.space.axes}
    sources = {axis: source_range(step[axis], places[axis], stack.length(axis)) for axis in stack.space.axes}
    values = stack.read(tuple(slice(*sources[axis]) for axis in stack.space.axes))
    if prepare is not None:
        values = prepare(values)
    for number, axis in enumerate(stack.space.axes):
        if step[axis] != 1:
            values = resample_axis(
                values.astype(np.float32), number, sources[axis][0], stack.length(axis), step[axis], places[axis]
            )
    return values.reshape([len(places[axis]) for axis in stack.space.axes if axis in "YX"])


def iter_search_constant_areas(stack: Stack) -> Generator[Progress, None, list[SampleWindow]]:
    """Yield now and then; return more windows in which there are constant areas: in large slices, and empty slices.

    They show which values are padding, and are not measured.
    """
    loops = {axis: stack.length(axis) for axis in stack.space.axes if axis not in "YX"}
    places = [dict(zip(loops, place, strict=True)) for place in np.ndindex(*loops.values())]
    found: list[SampleWindow] = []
    if max(stack.length("Y"), stack.length("X")) > SAMPLED_SIDE:
        for place in places[:: -(-len(places) // PROBED_SLICES)]:
            found += _constant_parts(stack, place)
            yield _MEASURING
    if len(places) > SAMPLED_SLICES:
        found += yield from _iter_empty_slices(stack, places[:: -(-len(places) // MOST_SPOTS)])
    return found


def _constant_parts(stack: Stack, place: Mapping[str, int]) -> list[SampleWindow]:
    """Return some windows of a large slice that have constant areas, which probes all over it found."""
    found: list[SampleWindow] = []
    with suppress(SkipsegError):  # as for slices that may be empty
        for number in np.random.default_rng(0).permutation(PROBES**2).tolist():
            at = divmod(number, PROBES)
            if _read_window(stack, place, _around(stack, PROBE, at)).has_constant_area():
                found.append(_read_window(stack, place, _around(stack, SAMPLED_SIDE, at)))
                if len(found) == MOST_OF_SLICE:
                    break
    return found


def _around(stack: Stack, side: int, at: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Return the ranges of window number `at` (Y, X) of those that are spread over a slice."""
    ranges = {}
    for axis, number in zip("YX", at, strict=True):
        length = stack.length(axis)
        start = max(0, (length - side) * number // (PROBES - 1))
        ranges[axis] = (start, min(start + side, length))
    return ranges


def _iter_empty_slices(
    stack: Stack, places: Sequence[Mapping[str, int]]
) -> Generator[Progress, None, list[SampleWindow]]:
    """Yield after each slice; return parts of some constant slices. A spot of each slice shows which may be so."""
    found: list[SampleWindow] = []
    whole = {axis: (0, stack.length(axis)) for axis in "YX"}
    spot = {axis: ((length - SPOT) // 2, (length + SPOT) // 2) for axis, (_, length) in whole.items()}
    spot = {axis: (max(0, first), min(last, whole[axis][1])) for axis, (first, last) in spot.items()}
    looked = 0
    for place in places:
        with suppress(SkipsegError):  # the run reports a slice that cannot be read, when it has written the others
            if looked < MOST_EMPTY and _read_window(stack, place, spot).is_constant:
                looked += 1
                if (empty := _read_window(stack, place, whole)).is_constant:
                    found.append(empty._replace(values=empty.values[:SPOT, :SPOT]))
        yield _MEASURING
    return found


def is_empty_in_all_channels(stack: Stack, window: SampleWindow) -> bool:
    """Return whether a window that is constant in its channel is so in the others too."""
    for channel in range(stack.length("C")):
        ranges = {**window.ranges, "C": (channel, channel + 1)}
        values = stack.read(tuple(slice(*ranges[axis]) for axis in stack.space.axes))
        if (values != values.ravel()[0]).any():
            return False
    return True


def _read_window(stack: Stack, place: Mapping[str, int], part: Mapping[str, tuple[int, int]]) -> SampleWindow:
    """Return a part of a slice."""
    ranges = {**{axis: (at, at + 1) for axis, at in place.items()}, **part}
    values = stack.read(tuple(slice(*ranges[axis]) for axis in stack.space.axes))
    shape = {axis: stack.length(axis) for axis in stack.space.axes}
    sides = [ranges[axis][1] - ranges[axis][0] for axis in stack.space.axes if axis in "YX"]
    return SampleWindow(values.reshape(sides), _edges(ranges, shape), ranges)


def _edges(ranges: Mapping[str, tuple[int, int]], shape: Mapping[str, int]) -> tuple[bool, bool, bool, bool]:
    (top, bottom), (left, right) = ranges["Y"], ranges["X"]
    return top == 0, bottom == shape["Y"], left == 0, right == shape["X"]
