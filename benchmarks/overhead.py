"""A whole run beside its network alone, in one warm process: the time of reading, tiling and writing."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import napari_skipseg as skipseg
from napari_skipseg.cli import app
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization
from napari_skipseg.inference.predict import iter_prepare
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.models.model import Model


class Measured(NamedTuple):
    """Seconds of the whole run, of making its backend ready, and of the network over one batch of tiles.

    batches: how often the network ran. tile: its sides. batch: how many at a time. pixels: of the image.
    """

    whole: float
    prepare: float
    network: float
    batches: int
    tile: tuple[int, ...]
    batch: int
    pixels: int
    precision: str

    @property
    def computing(self) -> float:
        """Seconds that the network alone takes for all tiles."""
        return self.batches * self.network

    @property
    def overhead(self) -> float:
        """The time of the run beyond its network, as a share of the network's; preparation is not counted."""
        return (self.whole - self.prepare - self.computing) / self.computing


def measure_overhead(image: Path, model: Model, name: str, out: Path, arguments: list[str], rounds: int) -> Measured:
    """Return the least times of some rounds, whole run and network in turns, after one of each to warm up.

    arguments: more of the command line, which runs inside this process. name: of the model, for the command line.
    """
    stack = skipseg.read_stack(image)
    options = skipseg.SegmentOptions(device="cpu", attention=False)
    run = skipseg.run_to_end(iter_prepare(RunSpec(stack, model, options)))
    backend = run.passes.backend
    sides = tuple(run.grid.tiles.size)
    channels = model.description.spec.in_channels
    images = np.random.default_rng(0).normal(size=(run.batch, channels, *sides)).astype(np.float32)
    command = ["segment", str(image), str(out), "--model", name, "--device", "cpu", *arguments]
    times: dict[str, list[float]] = {"whole": [], "prepare": [], "network": []}
    for _ in range(rounds + 1):
        shutil.rmtree(out, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            times["whole"].append(seconds_of(lambda: app(command, standalone_mode=False)))
        times["prepare"].append(seconds_of(lambda: make_ready(stack, model, options)))
        times["network"] += [seconds_of(lambda: backend.run(images)) for _ in range(4)]
    batches = -(-len(run.grid) // run.batch)
    least = {key: min(values) for key, values in times.items()}
    pixels = int(np.prod(stack.shape))
    return Measured(**least, batches=batches, tile=sides, batch=run.batch, pixels=pixels, precision=backend.precision)


def make_ready(stack: skipseg.Stack, model: Model, options: skipseg.SegmentOptions) -> None:
    """Do the work of a run before its first tile, except measuring grey values, which counts as reading."""
    known = GreyStatistics(Normalization(0.0, 1.0), ())
    skipseg.run_to_end(iter_prepare(RunSpec(stack, model, options, greys=known)))


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
