"""How fast this machine is: the shipped models on noise, by backend and precision, and all that is not network.

Loads without torch.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from napari_skipseg.devices import Device, best_precision, choose_device, cores, cpu_title, has_openvino, versions
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.inference.backends.choose import BackendChoice, fastest_precision, make_backend
from napari_skipseg.inference.backends.warm import open_model
from napari_skipseg.inference.kept_speed import keep_speed, load, processor_name
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_prepare
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.trial import iter_trial
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress

_SAMPLE = {2: (2, 2048, 2048), 3: (128, 256, 256)}
"""Shapes of the images of noise, by a network's dimensions: tiles are as large as in a run over a large image."""
_SIDE = {2: 512, 3: 96}
"""Sides of the tiles on which backends are compared; a tile of the usual size takes a slow one half a minute."""
_SLICE = 2048**2
_STACK = 2**30
"""Voxels of the images for which times are foretold: one slice, and a stack of 1 GiB in 8 bits."""


@dataclass(frozen=True)
class ModelSpeed:
    """The speed of a model in its fastest backend, from OME-Zarr to OME-Zarr. Costs are elapsed nanoseconds a voxel.

    tile: its sides. voxels_per_second: of the network, margins counted as waste. reading, network, writing, pyramid:
    at the same time; the slowest counts, or their sum over all cores. slice_seconds: of 2048² voxels, after the start
    (None in 3D). stack_seconds: of 1 GiB. batch: tiles that are computed together; batch_seconds, batch_processor: what
    they take of the clock and of all cores.
    """

    model: str
    backend: str
    precision: str
    tile: tuple[int, ...]
    voxels_per_second: float
    reading: float
    network: float
    writing: float
    pyramid: float
    slice_seconds: float | None
    stack_seconds: float
    batch: int
    batch_seconds: float
    batch_processor: float


@dataclass(frozen=True)
class BackendSpeed:
    """The speed of a model's network alone, in one backend and precision, on small tiles without margins."""

    model: str
    backend: str
    precision: str
    voxels_per_second: float


@dataclass(frozen=True)
class MachineSpeed:
    """What was measured on a machine. load: of other work, for each core, while it was. date: such as 2026-11-30."""

    processor: str
    cores: int
    memory: int
    bf16: bool
    threads: int
    device: str
    load: float
    date: str
    versions: dict[str, str]
    models: tuple[ModelSpeed, ...]
    backends: tuple[BackendSpeed, ...]


def iter_measure_machine(folders: Iterable[Path], device_name: str = "auto") -> Generator[Progress, Any, MachineSpeed]:
    """Measure the models in `folders`, the backends on the first of them; yield between the parts, and return all.

    Raises:
        SkipsegError: a folder is no model, there is no such device, or the disk is full.
    """
    before = load()
    device = choose_device(device_name)
    paths = list(folders)
    steps = len(paths) + 1
    found, alone = [], []
    for number, path in enumerate(paths):
        yield Progress(number, steps, f"measuring {path.name}")
        model = open_model(path)
        found.append((yield from _iter_measure_model(model, device)))
        if not number:
            alone = yield from _iter_compare(model, device)
    return MachineSpeed(
        processor_name(),
        len(cores()),
        psutil.virtual_memory().total,
        best_precision("cpu").name == "bf16",
        len(cores()),
        device.title,
        before,
        time.strftime("%Y-%m-%d"),
        versions(),
        tuple(found),
        tuple(alone),
    )


def _iter_measure_model(model: Model, device: Device) -> Generator[Progress, Any, ModelSpeed]:
    description = model.description
    dimensions = description.spec.dimensions
    with tempfile.TemporaryDirectory(prefix="napari-skipseg-benchmark-") as name:
        folder = Path(name)
        stack = read_stack(_write_noise(folder / "noise.ome.zarr", model))
        options = SegmentOptions(device=device.name, attention=False)
        run = yield from iter_prepare(RunSpec(stack, model, options, with_binary=True))
        trial = yield from iter_trial(run, folder, "uint8", "ome-zarr", is_kept_used=False)
    kept = math.prod(part.stop - part.start for part in run.grid.region(run.grid.unit(0)))

    def seconds(voxels: int) -> float:
        return trial.seconds(voxels / kept, run.batch)

    return ModelSpeed(
        model=description.name,
        backend=run.passes.backend.name,
        precision=run.passes.backend.precision,
        tile=run.grid.tiles.size,
        voxels_per_second=kept * run.batch / trial.network.passed,
        reading=1e9 * trial.reading.passed / kept,
        network=1e9 * trial.network.passed / (kept * run.batch),
        writing=1e9 * trial.writing.passed / kept,
        pyramid=1e9 * trial.pyramid.passed / kept,
        slice_seconds=seconds(_SLICE) if dimensions == 2 else None,
        stack_seconds=seconds(_STACK),
        batch=run.batch,
        batch_seconds=trial.network.passed,
        batch_processor=trial.network.computed,
    )


def _write_noise(path: Path, model: Model) -> Path:
    """Write an image of noise that is as large as the model's tiles, at the voxel size of its training."""
    description = model.description
    channels, space_shape = description.spec.in_channels, _SAMPLE[description.spec.dimensions]
    axes, shape = ("CZYX", (channels, *space_shape)) if channels > 1 else ("ZYX", space_shape)
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, shape, np.uint8)
    space = Space(axes, description.voxel_size, description.unit)
    write_ome_zarr(path, grey, Layout(shape, space, "uint8"))
    return path


def _iter_compare(model: Model, device: Device) -> Generator[Progress, Any, list[BackendSpeed]]:
    """Measure the network alone in each backend and precision that there is here."""
    description = model.description
    shape = (_SIDE[description.spec.dimensions],) * description.spec.dimensions
    images = np.random.default_rng(0).standard_normal((1, description.spec.in_channels, *shape), np.float32)
    cpu = Device("cpu", cpu_title(), "")
    choices = [(cpu, BackendChoice("torch", name)) for name in dict.fromkeys(("f32", best_precision("cpu").name))]
    if has_openvino():
        choices += [
            (cpu, BackendChoice("openvino", name)) for name in dict.fromkeys(("f32", fastest_precision(cpu).name))
        ]
    if device.name != "cpu":
        names = dict.fromkeys(("f32", best_precision(device.name).name))
        choices += [(device, BackendChoice("torch", name)) for name in names]
    found = []
    for place, choice in choices:
        yield Progress(0, 1, f"{choice.name} in {choice.precision} on {place.name}")
        backend = make_backend(model, place, shape, choice)
        backend.attention = False
        run = partial(backend.run, images)
        run()
        passed = min(_seconds(run) for _ in range(2))
        title = choice.name if place.name == "cpu" else f"{choice.name} on {place.name}"
        found.append(BackendSpeed(description.name, title, choice.precision, math.prod(shape) / passed))
    return found


def _seconds(work: partial[Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def keep_machine_speed(speed: MachineSpeed) -> None:
    """Keep what was measured, for this processor, in the user's cache folder; plans use it."""
    keep_speed(asdict(speed))
