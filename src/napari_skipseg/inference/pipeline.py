"""Reading, network and writing at the same time: a thread reads ahead, some write behind, the caller's computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from napari_skipseg.devices import cores
from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.inference.ensemble import Passes
from napari_skipseg.inference.memory import AHEAD, BEHIND
from napari_skipseg.inference.prediction import Focus, TileWritten
from napari_skipseg.inference.tiling import Order, TileUnit
from napari_skipseg.progress import Progress

Reader = Callable[[TileUnit], Pixels]
Writer = Callable[[TileUnit, TileOutput, int], None]
WRITING_THREADS = 8
"""Threads that write units, at most. Each takes 9 to 13 ns a voxel, 1 to 2 of them under Python's lock."""

WrittenRegion = tuple[tuple[int, int], ...]


@dataclass
class PipelinePace:
    """Seconds in which the network computed, and that passed, both since its first batch was done."""

    network: float = 0.0
    passed: float = 0.0
    _begun: float = 0.0

    def computed(self, seconds: float) -> None:
        """Count seconds in which the network computed."""
        self.network += seconds if self._begun else 0.0

    def tick(self) -> None:
        """Count what passed since the last tick."""
        now = time.perf_counter()
        self.passed += now - self._begun if self._begun else 0.0
        self._begun = now


@dataclass
class _Count:
    """How many units of a run are through the network and how many are written, and what was said of it last."""

    total: int
    steps: int
    computed: int
    written: int
    done: int = 0

    def passed(self, passes: int, units: int) -> Progress:
        """Return what to say after so many passes over so many units. It never goes back: writing is behind."""
        self.done = max(self.done, self.computed * self.steps + passes * units)
        message = f"tile {self.computed + 1} of {self.total}, pass {passes} of {self.steps}"
        return Progress(self.done, self.total * self.steps, message)

    def wrote(self, region: WrittenRegion, fault: str) -> TileWritten:
        """Return what to say of one unit more that is written."""
        self.written += 1
        self.done = max(self.done, self.written * self.steps)
        return TileWritten(self.done, self.total * self.steps, f"tile {self.written} of {self.total}{fault}", region)


@dataclass(frozen=True)
class Pipeline:
    """Units in, pieces out. `batch` images go through the network at a time: the last ones with empty ones beside
    them, so that what an image becomes never depends on how many there are."""

    unit: Callable[[int], TileUnit]
    region: Callable[[TileUnit], WrittenRegion]
    read: Reader
    passes: Passes
    write: Writer
    batch: int
    pace: PipelinePace

    def iter_run(self, order: Order, total: int, fault: Callable[[], str]) -> Generator[Progress, Focus | None, None]:
        """Yield after each pass, and `TileWritten` after each unit; a focus sent back puts what is left in another
        order.

        fault: returns what to say of faults that were got over.
        """
        reading: deque[tuple[list[TileUnit], Future[Pixels]]] = deque()
        writing: deque[tuple[list[TileUnit], list[Future[None]]]] = deque()
        begun = total - len(order)
        count = _Count(total, self.passes.per_tile, begun, begun)
        reader, writer = (
            ThreadPoolExecutor(1, "reading"),
            ThreadPoolExecutor(min(WRITING_THREADS, len(cores())), "writing"),
        )
        try:
            while len(order) or reading or writing:
                while len(order) and len(reading) < AHEAD:
                    units = [self.unit(order.take()) for _ in range(min(self.batch, len(order)))]
                    reading.append((units, reader.submit(self._read, units)))
                if reading:
                    units, read = reading.popleft()
                    output = yield from self._compute(units, read.result(), order, count)
                    each = [writer.submit(self.write, unit, output, number) for number, unit in enumerate(units)]
                    writing.append((units, each))
                    del output  # it is in memory until it is written
                    self.pace.tick()
                is_first = count.written == begun  # it is to be seen at once, not when the second one is computed
                while writing and (is_first or len(writing) > BEHIND or not reading or _are_done(writing[0][1])):
                    units, done = writing.popleft()
                    for unit, one in zip(units, done, strict=True):
                        one.result()
                        _look(order, (yield count.wrote(self.region(unit), fault())))
        finally:
            reader.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True, cancel_futures=True)

    def _compute(
        self, units: Sequence[TileUnit], images: Pixels, order: Order, count: _Count
    ) -> Generator[Progress, Focus | None, TileOutput]:
        """Yield between passes, so that cancelling need not wait for the last; return their output."""
        empty = [(0, 0)] * (len(images) - len(units))
        work = self.passes.run(images, [*(unit.place for unit in units), *empty])
        passed = 0
        while True:
            start = time.perf_counter()
            try:
                next(work)
            except StopIteration as stop:
                output: TileOutput = stop.value
                self.pace.computed(time.perf_counter() - start)
                count.computed += len(units)
                return output
            self.pace.computed(time.perf_counter() - start)
            passed += 1
            _look(order, (yield count.passed(passed, len(units))))

    def _read(self, units: Sequence[TileUnit]) -> Pixels:
        images = [self.read(unit) for unit in units]
        if len(images) == 1 and self.batch == 1:
            return images[0][None]
        batch = np.empty((self.batch, *images[0].shape), np.float32)
        for number, image in enumerate(images):
            batch[number] = image
        batch[len(images) :] = 0
        return batch


def _are_done(writing: Sequence[Future[None]]) -> bool:
    return all(one.done() for one in writing)


def _look(order: Order, focus: Focus | None) -> None:
    if focus is not None:
        order.reorder(focus)
