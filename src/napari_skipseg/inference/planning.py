"""A plan from one tile on trial: how long a run will take, and how much memory and disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator
from pathlib import Path

import numpy as np
import psutil

from napari_skipseg.devices import choose_device, free_memory
from napari_skipseg.images.formats import Format
from napari_skipseg.images.normalize import GreyStatistics
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import FallbackBackend, Pixels, make_backend
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Depth, Focus
from napari_skipseg.inference.passes import BackendMaker
from napari_skipseg.inference.pipeline import AHEAD, BEHIND
from napari_skipseg.inference.predict import Run, iter_prepare
from napari_skipseg.inference.run_plan import RunPlan
from napari_skipseg.inference.stores import stored_dtype
from napari_skipseg.inference.trial import iter_trial
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress

PYRAMID = 4 / 3
"""How much larger a result is with its coarser levels, at the most."""
FLOAT = 4


def iter_plan(
    stack: Stack,
    model: Model,
    options: SegmentOptions,
    folder: Path,
    depth: Depth | None = "uint8",
    form: Format = "tiff",
    backend_maker: BackendMaker = make_backend,
    greys: GreyStatistics | None = None,
    probes: Pixels | None = None,
) -> Generator[Progress, Focus | None, RunPlan]:
    """Yield while one tile is read, one goes through the network and one is written; return what the stack would take.

    Nothing stays in `folder`. depth: None stands for the viewer's results, float32 files in `folder`. greys: as in
    `iter_predict`. probes: as in `iter_prepare`.

    Raises:
        SkipsegError: the stack does not fit the model, or no such device.
    """
    run = yield from iter_prepare(stack, model, options, backend_maker, greys, None, depth is not None, probes=probes)
    trial = yield from iter_trial(run, folder, depth, form)
    seconds = trial.seconds(len(run.grid), run.batch)
    device = choose_device(options.device)
    on_gpu = run.tile_bytes if device.name != "cpu" else 0
    return RunPlan(
        _title(run),
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
        shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free,
        run.findings,
        run.seems_inverted,
        trial.slowest(len(run.grid), run.batch),
    )


def _title(run: Run) -> str:
    backend = run.passes.backend
    return backend.reason if isinstance(backend, FallbackBackend) else f"{backend.name} in {backend.precision}"


def _memory(run: Run, on_gpu: int) -> int:
    """Return what the process takes: what it holds now, a tile in the network, and tiles that wait on either side."""
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
            total += size * (PYRAMID if form == "ome-zarr" else 2)  # a TIFF is written beside the store it is made of
    return math.ceil(total)
