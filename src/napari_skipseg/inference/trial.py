"""A trial of one batch that is read, computed and written, to estimate how long the whole run takes."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import psutil

from napari_skipseg.devices import Device, choose_device, cores, free_memory
from napari_skipseg.durable import nearest_place
from napari_skipseg.errors import FileError
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.images.zarr.pyramid import LARGEST_PLANE_SIDE, region_below
from napari_skipseg.images.zarr.writer import OmeZarrWriter, create_ome_zarr
from napari_skipseg.inference.backends.choose import BackendMaker
from napari_skipseg.inference.backends.compiled import compiled_folder
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.kept_speed import find_network_speed
from napari_skipseg.inference.memory import AHEAD, BEHIND, FLOAT
from napari_skipseg.inference.pipeline import WRITING_THREADS
from napari_skipseg.inference.predict import Run, iter_prepare
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.saving import SavedArray, scratch_folder, write_tiff
from napari_skipseg.inference.stores import (
    ArrayStore,
    ResultArray,
    Store,
    ZarrStore,
    result_pieces,
    stored_dtype,
    stored_region,
)
from napari_skipseg.inference.tiling import TileRegion, read_pixels
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress

Result = TypeVar("Result")
TrialPart = Literal["reading", "network", "writing"]

MEASURED_PASSES = 3
"""Most passes over the trial tile that are timed."""
COARSER = 4 / 3
"""All coarser levels of a pyramid against the first of them, at the most: 1 + 1/4 + 1/16 + …"""
FROM_DISK = 0.25
"""Time to load a compiled network from disk, relative to compiling it."""
_MEASURING = "measuring one tile"


@dataclass(frozen=True)
class TrialCost:
    """Elapsed seconds, and processor seconds of all cores together."""

    passed: float = 0.0
    computed: float = 0.0

    def __add__(self, other: TrialCost) -> TrialCost:
        return TrialCost(self.passed + other.passed, self.computed + other.computed)

    def __mul__(self, factor: float) -> TrialCost:
        return TrialCost(self.passed * factor, self.computed * factor)


@dataclass(frozen=True)
class Trial:
    """The cost of the parts of a run. reading, writing, pyramid: a tile. network: per batch. finishing: a tile's share.

    A run reads, computes, writes and makes pyramids at the same time, so that the slowest of them limits its speed, or
    the cores, if they cannot do all at once. TIFF files follow, which is `finishing`. preparing: elapsed seconds before
    the first tile.
    """

    reading: TrialCost
    network: TrialCost
    writing: TrialCost
    finishing: TrialCost
    pyramid: TrialCost = TrialCost()
    preparing: float = 0.0

    def of_parts(self, tiles: float, batch: int) -> dict[TrialPart, TrialCost]:
        """Return the cost of each part for so many tiles, in batches."""
        batches = math.ceil(tiles / batch)
        writing = self.writing + self.pyramid
        return {"network": self.network * batches, "reading": self.reading * tiles, "writing": writing * tiles}

    def _elapsed(self, tiles: float, batch: int) -> dict[TrialPart, float]:
        """Return the seconds of each part if the others took none."""
        elapsed = {part: cost.passed for part, cost in self.of_parts(tiles, batch).items()}
        elapsed["writing"] /= min(WRITING_THREADS, len(cores()))  # threads share the units
        return elapsed

    def slowest(self, tiles: float, batch: int) -> TrialPart:
        """Return the part that limits the speed."""
        elapsed = self._elapsed(tiles, batch)
        return max(elapsed, key=lambda part: elapsed[part])

    def seconds(self, tiles: float, batch: int) -> float:
        """Return the duration of a run over so many tiles, in batches."""
        together = sum((cost.computed for cost in self.of_parts(tiles, batch).values()), 0.0) / len(cores())
        pace = max(together, *self._elapsed(tiles, batch).values())
        # nothing is computed while the first batch is read, nor while the last one is written
        ends = min(batch, tiles) * (self.reading.passed + self.writing.passed + self.pyramid.passed)
        if tiles <= batch:
            pace = self.network.passed
        return self.preparing + pace + ends + self.finishing.passed * tiles


def iter_trial(
    run: Run, folder: Path, depth: Depth | None, form: Format, preparing: float = 0.0, is_kept_used: bool = True
) -> Generator[Progress, Focus | None, Trial]:
    """Read a tile, compute a batch and write a tile, in a folder that is removed; return the costs.

    depth: None = the viewer's results, float32 files in `folder`. preparing: as in `Trial`. is_kept_used: a network
    whose speed `napari-skipseg benchmark` has measured here is not run again.

    Raises:
        InputError: the image contains values that cannot be used.
    """
    yield Progress(0, 1, _MEASURING)
    reading = _read(run)
    yield Progress(0, 1, _MEASURING)
    network = _kept_cost(run) if is_kept_used else None
    if network is None:
        network = yield from _compute(run)
    yield Progress(0, 1, _MEASURING)
    try:
        with scratch_folder(folder) as scratch:
            costs = _write(run, scratch, depth, form)
    except FileError:  # the plan warns if the disk is full; the run reports a folder without permission
        with tempfile.TemporaryDirectory() as scratch_name:
            costs = _write(run, Path(scratch_name), depth, form)
    writing, finishing, pyramid = costs
    return Trial(reading, network, writing, finishing, pyramid, preparing)


def _kept_cost(run: Run) -> TrialCost | None:
    """Return the cost of a batch by what `napari-skipseg benchmark` measured here, None if there is no such figure."""
    backend = run.passes.backend
    title = choose_device(run.options.device).title
    speed = find_network_speed(run.model.description.name, title, backend.name, backend.precision)
    if speed is None or run.options.samples or run.options.planes != "xy":
        return None
    voxels = run.batch * math.prod(run.grid.tiles.size) * run.passes.per_tile
    return TrialCost(speed.passed * voxels, speed.computed * voxels)


def _timed(work: Callable[[], Result]) -> tuple[TrialCost, Result]:
    passed, computed = time.perf_counter(), time.process_time()
    result = work()
    return TrialCost(time.perf_counter() - passed, time.process_time() - computed), result


def _read(run: Run) -> TrialCost:
    """Return the cost of reading a tile. Two are read, because the first also opens files."""
    cost = TrialCost()
    for number in (0, len(run.grid) // 2):
        unit = run.grid.unit(number)
        cost, _ = _timed(partial(read_pixels, run.stack, run.grid, unit, run.normalization))
    return cost


def _compute(run: Run) -> Generator[Progress, Focus | None, TrialCost]:
    """Run a batch of noise through the network, and return the cost of a batch. The first pass is a warm-up."""
    shape = (run.batch, run.model.description.spec.in_channels, *run.grid.tiles.size)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    places = [(0, number) for number in range(run.batch)]
    passes = run.passes.per_tile
    # a GPU that averages by itself is still at work after a pass was begun: only the end of all of them counts
    is_late = passes > 1 and bool(getattr(run.passes.backend, "averages", False))
    count = passes if is_late else min(MEASURED_PASSES, passes)
    _pass(run.passes.run(images, places), 1)
    yield Progress(0, 1, _MEASURING)
    cost, _ = _timed(lambda: _pass(run.passes.run(images, places), count))
    return cost * (passes / count)


def _pass(work: Generator[None, None, object], count: int) -> None:
    for _ in range(count):
        if next(work, StopIteration) is StopIteration:
            return


def _write(run: Run, folder: Path, depth: Depth | None, form: Format) -> tuple[TrialCost, TrialCost, TrialCost]:
    """Return the cost of writing a tile, its share of the work after the last tile, and of the pyramids."""
    unit = run.grid.unit(0)
    output = _noise(run)
    thresholds = run.options.thresholds_of(run.model.description.class_names)
    store: Store
    small = tuple(_part(result, run, form) for result in run.results)  # the first tile begins where the arrays do
    if depth is None:
        store = ArrayStore(small, folder)
    else:
        create = partial(create_ome_zarr, grows=False)  # the pyramid is measured apart
        store = ZarrStore(small, folder / "trial", run.stack, {}, depth, run.model.description.class_names, create)

    def write() -> None:
        for piece in result_pieces(run.results, run.grid, unit, output, 0, thresholds):
            store.write(piece)

    write()  # the first time loads codecs and starts their threads
    cost, _ = _timed(write)
    if not isinstance(store, ZarrStore):
        return cost, TrialCost(), TrialCost()
    after = _finish(run, small, store, folder, form)
    return (cost, TrialCost(), after) if form == "ome-zarr" else (cost, after, TrialCost())


def _noise(run: Run) -> TileOutput:
    """Return noise in the shape of the network's output; the cost of writing does not depend on the content."""
    rng = np.random.default_rng(0)
    size = run.grid.tiles.size
    classes = len(run.model.description.class_names)
    probability: Pixels = rng.random((1, classes, *size), np.float32)
    strides = {result.stride[-1]: result.level for result in run.results if result.level}
    attentions = tuple(rng.random((1, *(-(-n // stride) for n in size)), np.float32) for stride in sorted(strides))
    return TileOutput(probability, attentions, probability * np.float32(0.5))


def _part(result: ResultArray, run: Run, form: Format) -> ResultArray:
    """Return an array for the first tile's part of `result`, with coarser levels if the whole one has them."""
    region = run.grid.region(run.grid.unit(0), max(result.stride))
    stops = [part.stop for part in region]
    if form == "ome-zarr":
        axes, whole = result.axes[-len(stops) :], result.shape[-len(stops) :]
        for number, (axis, length) in enumerate(zip(axes, whole, strict=True)):
            if axis in "YX":
                stops[number] = min(length, max(stops[number], LARGEST_PLANE_SIDE + 1))
    shape = (result.shape[0], *stops) if "C" in result.axes else tuple(stops)
    return replace(result, shape=shape, crop=())


def _finish(run: Run, small: tuple[ResultArray, ...], store: ZarrStore, folder: Path, form: Format) -> TrialCost:
    """Return a tile's share of pyramids or TIFF files, without the fixed cost of a file."""
    total = TrialCost()
    for result in small:
        if form == "ome-zarr":
            total += _coarser(store.writers[result.name], stored_region(result, run.grid, run.grid.unit(0)))
            continue
        classes = run.model.description.class_names if "C" in result.axes else None
        data = store.plane_view(result.name)
        file = folder / f"{result.name}.tif"
        costs = []
        for values in (np.zeros(_one_voxel(result), data.dtype), np.zeros(_one_voxel(result), data.dtype), data):
            saved = SavedArray(result.name, values, result.space_in(run.stack), classes, {})
            costs.append(_timed(partial(write_tiff, file, saved))[0])
        _, empty, whole = costs
        total += TrialCost(max(0.0, whole.passed - empty.passed), max(0.0, whole.computed - empty.computed))
    return total


def _coarser(writer: OmeZarrWriter, region: TileRegion) -> TrialCost:
    """Return the cost of the coarser levels of `region`, the first part of the store."""
    if len(writer.layout.levels) < 2:
        return TrialCost()
    finest, level = writer.layout.levels[:2]
    lengths = zip(region, level.factor, writer.arrays[1].chunks, level.shape, strict=True)
    chunks = tuple(
        slice(0, min(length, -(-part.stop // (step * chunk)) * chunk)) for part, step, chunk, length in lengths
    )
    cost, _ = _timed(partial(writer.write_coarser, 1, chunks))
    read = region_below(chunks, level.factor, finest.shape)
    return cost * (COARSER * _voxels(region) / _voxels(read))  # chunks beyond the tile are still empty


def _voxels(region: TileRegion) -> int:
    return math.prod(part.stop - part.start for part in region)


def _one_voxel(result: ResultArray) -> tuple[int, ...]:
    return tuple(length if axis == "C" else 1 for axis, length in zip(result.axes, result.shape, strict=True))


PYRAMID = 4 / 3
"""Size of a result with its coarser levels, relative to that without, at most."""


def iter_plan(
    spec: RunSpec, folder: Path, depth: Depth | None = "uint8", form: Format = "tiff"
) -> Generator[Progress, Focus | None, RunPlan]:
    """Estimate a run by reading, computing and writing one tile; yield the progress, and return the plan.

    Nothing stays in `folder`. depth: None = the viewer's results, float32 files in `folder`.

    Raises:
        SkipsegError: the stack does not fit the model, or no such device.
    """
    watch = _Watch(spec.backend_maker)
    watched = replace(spec, backend_maker=watch.make, with_binary=depth is not None)
    run = yield from watch.iter_watched(iter_prepare(watched))
    trial = yield from iter_trial(run, folder, depth, form, watch.preparing)
    seconds = trial.seconds(len(run.grid), run.batch)
    device = choose_device(spec.options.device)
    on_gpu = run.tile_bytes if device.name != "cpu" else 0
    backend = run.passes.backend
    title = backend.reason if isinstance(backend, FallbackBackend) else f"{backend.name} in {backend.precision}"
    return RunPlan(
        title,
        run.grid.tiles.size,
        run.batch,
        len(run.grid),
        run.passes.per_tile,
        seconds / len(run.grid),
        seconds,
        _memory(run, on_gpu),
        free_memory("cpu"),
        on_gpu,
        free_memory(device.name) if on_gpu else 0,
        _disk(run, depth, form),
        shutil.disk_usage(nearest_place(folder.absolute())).free,
        run.findings,
        run.seems_inverted,
        trial.slowest(len(run.grid), run.batch),
    )


class _Watch:
    """Counts the seconds of preparing a run. A network that had to be compiled now is loaded by the run itself."""

    def __init__(self, maker: BackendMaker) -> None:
        self._maker, self._passed, self._making, self._known = maker, 0.0, 0.0, _count_compiled()

    def make(self, model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        """Make a backend as the maker does."""
        begun = time.perf_counter()
        made = self._maker(model, device, shape)
        self._making += time.perf_counter() - begun
        return made

    def iter_watched(
        self, work: Generator[Progress, Focus | None, Result]
    ) -> Generator[Progress, Focus | None, Result]:
        """Yield and return what `work` does; what others do meanwhile does not count."""
        focus: Focus | None = None
        while True:
            begun = time.perf_counter()
            try:
                progress = work.send(focus)
            except StopIteration as stop:
                self._passed += time.perf_counter() - begun
                result: Result = stop.value
                return result
            self._passed += time.perf_counter() - begun
            focus = yield progress

    @property
    def preparing(self) -> float:
        """The seconds that preparing the run will take."""
        is_new = _count_compiled() > self._known
        return self._passed - self._making * (1 - FROM_DISK if is_new else 0.0)


def _count_compiled() -> int:
    with contextlib.suppress(OSError, RuntimeError):
        return sum(1 for _ in compiled_folder().iterdir())
    return 0


def _memory(run: Run, on_gpu: int) -> int:
    """Return the memory of the process: its present size, a tile in the network, and tiles that wait before and after
    it."""
    classes = len(run.model.description.class_names)
    channels = run.model.description.spec.in_channels
    tile = run.batch * math.prod(run.grid.tiles.size) * FLOAT
    waiting = tile * ((AHEAD + 1) * channels + (BEHIND + 1) * classes * (2 if run.passes.per_tile > 1 else 1))
    held: int = psutil.Process().memory_info().rss
    return held + waiting + (0 if on_gpu else run.tile_bytes)


def _disk(run: Run, depth: Depth | None, form: Format) -> int:
    total = 0.0
    for result in run.results:
        voxels = math.prod(result.shape)
        if depth is None:
            total += voxels * FLOAT
        else:
            size = voxels * np.dtype(stored_dtype(result, depth)).itemsize
            total += size * (PYRAMID if form == "ome-zarr" else 2)  # a TIFF is written beside the store it is made from
    return math.ceil(total)
