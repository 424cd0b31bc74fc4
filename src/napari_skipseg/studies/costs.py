"""Parameters, peak memory and time of networks with each kind of skip, measured (SAT, table 3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from napari_skipseg.csv_files import read_csv
from napari_skipseg.devices import Device, choose_device
from napari_skipseg.errors import SkipsegError, SpecError
from napari_skipseg.inference.activations import StorageMeter
from napari_skipseg.inference.saving import scratch_folder
from napari_skipseg.networks.build import build, count_parameters
from napari_skipseg.networks.gates import fold_gates
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.presets import PRESETS
from napari_skipseg.networks.specs import SKIPS, NetworkSpec
from napari_skipseg.progress import Progress
from napari_skipseg.studies.pictures import BarGroups, draw_bars, write_figure
from napari_skipseg.studies.results import StudyResult, StudyRow, move_into, write_table

DEFAULT_NETWORKS = ("unet", "vnet", "fc-densenet56", "di2in")
DEFAULT_SIZES = {2: (256, 256), 3: (32, 64, 64)}
MEASURED = "measured"
MEBIBYTE = 2**20


@dataclass(frozen=True)
class CostSettings:
    """The measurements: each preset of `networks` in all `dimensions` with all `skips`, on images of `sizes`.

    training: measure a training step too.
    """

    networks: tuple[str, ...] = DEFAULT_NETWORKS
    skips: tuple[str, ...] = ("org", "st", "at", "sat")
    dimensions: tuple[int, ...] = (2, 3)
    sizes: dict[int, tuple[int, ...]] = field(default_factory=lambda: dict(DEFAULT_SIZES))
    device: str = "cpu"
    training: bool = False

    def __post_init__(self) -> None:
        known = [preset.name for preset in PRESETS]
        for name in self.networks:
            if name not in known:
                raise SpecError(f"'{name}' is no network: choose among {', '.join(known)}.")
        for skip in self.skips:
            if skip not in SKIPS:
                raise SpecError(f"'{skip}' is no skip: choose among {', '.join(SKIPS)}.")
        for dimensions in self.dimensions:
            size = self.sizes.get(dimensions, ())
            if dimensions not in (2, 3):
                raise SpecError(f"A network has 2 or 3 dimensions, not {dimensions}.")
            if len(size) != dimensions or min(size) < 1:
                raise SpecError(f"A size in {dimensions}D is {dimensions} lengths of at least 1 voxel, not {size}.")


@dataclass(frozen=True)
class CostRow:
    """The costs of one network; None if not measured.

    saving_percent: of trainable parameters, compared with the same network with `org`. forward_mib, forward_seconds: of
    a segmentation. kept_mib: activations that a training step keeps for its backward pass. training_mib: peak of a
    training step. state: "measured", or the failure.
    """

    network: str
    dimensions: int
    skip: str
    trainable_parameters: int | None = None
    saving_percent: float | None = None
    forward_mib: float | None = None
    forward_seconds: float | None = None
    kept_mib: float | None = None
    training_mib: float | None = None
    training_seconds: float | None = None
    size: str = ""
    device: str = ""
    state: str = MEASURED


def iter_costs(settings: CostSettings, folder: Path) -> Generator[Progress, None, StudyResult]:
    """Measure all networks, yield the progress, and return the rows and the files: costs.csv and costs.png in `folder`.

    The table is written after each row, so that no measurement is lost; rows of an earlier run with the same settings
    and device are reused. If a network fails, for example for lack of memory, its row has the reason, and the others
    continue.

    Raises:
        SkipsegError: there is no such device, or the folder cannot be written.
    """
    device = choose_device(settings.device)
    table = folder / "costs.csv"
    with scratch_folder(folder) as scratch:
        known = {(row.network, row.dimensions, row.skip): row for row in _earlier(table, settings, device)}
        plan = [(n, d, s) for n in settings.networks for d in settings.dimensions for s in settings.skips]
        rows: list[CostRow] = []
        for done, (name, dimensions, skip) in enumerate(plan):
            yield Progress(done, len(plan), f"{name}, {dimensions}D, {skip}")
            row = known.get((name, dimensions, skip)) or _measure(name, dimensions, skip, settings, device)
            rows.append(row)
            left = [known[key] for key in plan[done + 1 :] if key in known]
            move_into([write_table(scratch / table.name, [asdict(row) for row in (*rows, *left)])], folder)
        picture = write_figure(draw_bars(cost_panels(rows), len(settings.dimensions)), scratch / "costs.png")
        return StudyResult([asdict(row) for row in rows], [table, *move_into([picture], folder)])


def _measure(name: str, dimensions: int, skip: str, settings: CostSettings, device: Device) -> CostRow:
    row = CostRow(name, dimensions, skip, size=_size_name(settings, dimensions), device=device.title)
    try:
        spec = _spec(name, dimensions, skip)
        parameters = count_parameters(spec)
        whole = count_parameters(_spec(name, dimensions, "org"))
        saving = round(100 * (whole - parameters) / whole, 2) + 0.0  # no -0.0
        row = replace(row, trainable_parameters=parameters, saving_percent=saving)
        return replace(row, **_run(spec, settings, torch.device(device.name)))
    except (SkipsegError, MemoryError, RuntimeError, ValueError) as error:  # torch's out of memory is a RuntimeError
        if device.name == "cuda":
            torch.cuda.empty_cache()
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return replace(row, state=f"failed: {reason[:200]}")


def _spec(name: str, dimensions: int, skip: str) -> NetworkSpec:
    preset = next(preset for preset in PRESETS if preset.name == name)
    wanted: dict[str, Any] = {"dimensions": dimensions, "skip": skip}
    return replace(preset.spec, **wanted)


def _run(spec: NetworkSpec, settings: CostSettings, device: torch.device) -> dict[str, Any]:
    shape = (1, spec.in_channels, *settings.sizes[spec.dimensions])
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    network = build(spec).to(device)
    measured: dict[str, Any] = {}
    if settings.training:
        training = measure_training(network, image)
        network.zero_grad(set_to_none=True)
        measured["kept_mib"] = round(training.kept / MEBIBYTE, 2)
        measured["training_mib"] = round(training.peak / MEBIBYTE, 2)
        measured["training_seconds"] = round(training.seconds, 4)
    forward = measure_inference(network, image)
    return measured | {
        "forward_mib": round(forward.peak / MEBIBYTE, 2),
        "forward_seconds": round(forward.seconds, 4),
    }


def _size_name(settings: CostSettings, dimensions: int) -> str:
    return "×".join(str(length) for length in settings.sizes[dimensions])


def _earlier(table: Path, settings: CostSettings, device: Device) -> Iterable[CostRow]:
    """Return the rows of an earlier run that have the same size, device and parameters."""
    for text in read_csv(table):
        row = _parse(text)
        if row is None or row.state != MEASURED or row.device != device.title or row.dimensions not in settings.sizes:
            continue
        if row.size != _size_name(settings, row.dimensions) or (settings.training and row.kept_mib is None):
            continue
        try:
            parameters = count_parameters(_spec(row.network, row.dimensions, row.skip))
        except (SpecError, StopIteration):  # a network or skip that no longer exists
            continue
        if row.trainable_parameters == parameters:
            yield row if settings.training else replace(row, kept_mib=None, training_mib=None, training_seconds=None)


def _parse(text: dict[str, str]) -> CostRow | None:
    kinds: dict[str, type] = {"dimensions": int, "trainable_parameters": int}
    kinds |= {f.name: float for f in fields(CostRow) if f.type == "float | None"}
    try:
        values: dict[str, Any] = {key: kinds.get(key, str)(value) if value else None for key, value in text.items()}
        return CostRow(**values)
    except (TypeError, ValueError):
        return None


def cost_summary(rows: list[StudyRow]) -> list[StudyRow]:
    """Return the rows for a terminal of 80 columns: only measured columns, rounded."""
    measured = {key: heading for key, heading in HEADINGS.items() if any(row[key] is not None for row in rows)}
    failed = any(row["state"] != MEASURED for row in rows)
    return [
        {
            "network": f"{row['network']} {row['dimensions']}D",
            "skip": row["skip"],
            "parameters": row["trainable_parameters"],
            "saving": "" if row["saving_percent"] is None else f"{row['saving_percent']:.2f}",
            **{
                heading: "" if row[key] is None else f"{row[key]:.2f}" if key.endswith("seconds") else f"{row[key]:.1f}"
                for key, heading in measured.items()
            },
            **({"state": row["state"]} if failed else {}),
        }
        for row in rows
    ]


HEADINGS = {
    "forward_mib": "MiB",
    "forward_seconds": "s",
    "kept_mib": "kept",
    "training_mib": "step",
    "training_seconds": "step s",
}
"""Headings in a terminal: MiB and seconds of a forward pass, MiB kept, MiB and seconds of a training step."""

MEASURES = {
    "trainable_parameters": ("trainable parameters", "{:,.0f}"),
    "forward_mib": ("peak memory of a forward pass", "{:,.1f} MiB"),
    "forward_seconds": ("time of a forward pass", "{:.2f} s"),
    "kept_mib": ("memory kept for the backward pass", "{:,.1f} MiB"),
    "training_mib": ("peak memory of a training step", "{:,.1f} MiB"),
    "training_seconds": ("time of a training step", "{:.2f} s"),
}


def cost_panels(rows: list[CostRow]) -> list[BarGroups]:
    """Return one panel of bars per measure and dimension, in % of `org` if that was measured."""
    panels = []
    for key, (title, form) in MEASURES.items():
        if all(getattr(row, key) is None for row in rows):
            continue
        for dimensions in dict.fromkeys(row.dimensions for row in rows):
            panels.append(_panel([row for row in rows if row.dimensions == dimensions], key, title, form))
    return panels


def _panel(rows: list[CostRow], key: str, title: str, form: str) -> BarGroups:
    values: dict[tuple[str, str], float | None] = {(row.network, row.skip): getattr(row, key) for row in rows}
    groups = tuple(dict.fromkeys(row.network for row in rows))
    skips: tuple[str, ...] = tuple(dict.fromkeys(row.skip for row in rows))
    relative = "org" in skips
    series, notes = {}, {}
    for skip in skips:
        found = [values.get((group, skip)) for group in groups]
        whole = [values.get((group, "org")) for group in groups]
        notes[skip] = tuple("failed" if value is None else form.format(value) for value in found)
        shares = (100 * f / w if f is not None and w else None for f, w in zip(found, whole, strict=True))
        series[skip] = tuple(shares if relative else found)
    unit = ", % of org" if relative else ""
    return BarGroups(f"{rows[0].dimensions}D ({rows[0].size}): {title}{unit}", groups, series, notes)


_TIMES = 3
"""Timed passes; the median is reported."""


class Meter(Protocol):
    """Bytes that were allocated since its start."""

    @property
    def live(self) -> int:
        """Bytes now."""

    @property
    def peak(self) -> int:
        """Bytes at the peak."""


class CudaMeter:
    """CUDA's own counts, which include the work space of kernels."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    @property
    def live(self) -> int:
        """Bytes now."""
        return torch.cuda.memory_allocated() - self._before

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return torch.cuda.max_memory_allocated() - self._before


@contextmanager
def metered(device: torch.device) -> Iterator[Meter]:
    """Yield a meter of the memory that is allocated on `device` inside the block."""
    if device.type == "cuda":
        yield CudaMeter()
        return
    with StorageMeter() as meter:
        yield meter


@dataclass(frozen=True)
class InferenceCost:
    """One pass without gradients: peak of the activations in bytes, and seconds."""

    peak: int
    seconds: float


@dataclass(frozen=True)
class TrainingCost:
    """One pass forward and backward: bytes kept for the backward pass, bytes at the peak, and seconds.

    The peak includes the gradients of the parameters. Neither includes weights and the state of the optimiser.
    """

    kept: int
    peak: int
    seconds: float


def measure_inference(network: Network, image: Tensor) -> InferenceCost:
    """Return the cost of segmenting `image` (N, C, *space), which lies on the network's device.

    The gates of the network are folded, as in inference, so it cannot be trained afterwards.
    """
    fold_gates(network.eval())

    def run() -> None:
        with torch.no_grad():
            network(image)

    run()  # kernels are chosen on the first pass
    with metered(image.device) as meter:
        run()
        peak = meter.peak
    return InferenceCost(peak, _seconds(run, image.device))


def measure_training(network: Network, image: Tensor) -> TrainingCost:
    """Return the cost of a training step on `image` (N, C, *space) without the optimiser; the loss is the mean."""
    network.train()

    def run(after_forward: Callable[[], None] = lambda: None) -> None:
        network.zero_grad(set_to_none=True)
        output = network(image)
        after_forward()
        output.logits.mean().backward()

    run()
    network.zero_grad(set_to_none=True)
    kept: list[int] = []
    with metered(image.device) as meter:
        run(lambda: kept.append(meter.live))
        peak = meter.peak
    return TrainingCost(kept[0], peak, _seconds(run, image.device))


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    def once() -> float:
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        return time.perf_counter() - start

    return median(once() for _ in range(_TIMES))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
