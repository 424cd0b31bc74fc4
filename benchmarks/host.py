"""All that is not network: whole runs from file to file with a network that costs nothing.

    python benchmarks/host.py cost [--kinds 2d 3d] [--forms ome-zarr tiff] [--gib 0.25] [--rounds 2] --work DIR
    python benchmarks/host.py sizes [--kinds 2d] [--gib 0.1 1 4] --work DIR

The network's answer is a real one, of the built-in model on one small tile, mirrored to the size of a tile. cost: in
nanoseconds of all processors a voxel, by part, and the part that only one thread at a time can do. sizes: each in a
process of its own, with its highest memory. Both print a hash of all results, so that two versions of the package can
be compared. `--profile FILE` writes the calls of the threads that read and write (cProfile).
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import pstats
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from measuring import mebibytes, print_place, print_table, run_process

import napari_skipseg as skipseg
from napari_skipseg.devices import Device
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample
from napari_skipseg.images.zarr.chunk_writer import ChunkWriter
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import create_ome_zarr
from napari_skipseg.inference import predict
from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.inference.pipeline import Pipeline
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

MODELS = {"2d": "em-membrane", "3d": "em-boundary-3d"}
PLANE = {"2d": 4096, "3d": 512}
CHUNK = {"2d": (1, 512, 512), "3d": (64, 64, 64)}
VOXEL = {"2d": (50.0, 4.0, 4.0), "3d": (8.0, 8.0, 8.0)}
SAMPLE = {"2d": (2, 512, 512), "3d": (128, 128, 128)}
SMALL = {"2d": (512, 512), "3d": (96, 96, 96)}


class Free:
    """A backend whose answer is always the same and costs nothing."""

    name, precision, attention = "torch", "f32", False

    def __init__(self, model: Model, shape: tuple[int, ...]) -> None:
        self._answer = _answer(model.description.name, shape)

    def run(self, images: Pixels) -> TileOutput:
        """Return the answer for as many images as there are."""
        return TileOutput(np.broadcast_to(self._answer, (len(images), *self._answer.shape)), ())


def free(model: Model, device: Device, shape: tuple[int, ...]) -> Free:
    """Make the backend that costs nothing."""
    return Free(model, shape)


@lru_cache
def _answer(name: str, shape: tuple[int, ...]) -> Pixels:
    """Return the probability (classes, *space) of a real model on a small tile, mirrored to `shape`."""
    model = skipseg.load_model(name)
    kind = f"{model.description.spec.dimensions}d"
    grey = _grey(kind)[tuple(slice(0, side) for side in ((1, *SMALL[kind]) if kind == "2d" else SMALL[kind]))]
    stack = skipseg.Stack(grey, Space("ZYX", VOXEL[kind], "nm"))
    found = run_to_end(
        predict.iter_predict(RunSpec(stack, model, skipseg.SegmentOptions(attention=False, device="cpu")))
    )
    small = np.asarray(found.probability)
    small = small[0] if kind == "2d" else small
    small = small if small.ndim > len(shape) else small[None]
    pads = [(0, 0), *((0, max(0, side - length)) for side, length in zip(shape, small.shape[1:], strict=True))]
    grown = np.pad(small, pads, "symmetric")[(slice(None), *map(slice, shape))]
    return np.ascontiguousarray(grown)


def _grey(kind: str) -> np.ndarray[Any, Any]:
    make = make_sample if kind == "2d" else make_isotropic_sample
    return np.asarray(make(SAMPLE[kind], seed=7).stack.data)


def make_input(work: Path, kind: str, form: str, gib: float) -> Path:
    """Return a synthetic volume of so many GiB of 8 bits; an existing one is used again."""
    plane = PLANE[kind]
    planes = max(1 if kind == "2d" else 64, round(gib * 2**30 / plane**2))
    if kind == "3d" and planes > 2 * plane:
        plane = 1024
        planes = round(gib * 2**30 / plane**2)
    path = work / f"{kind}-{gib:g}.{'ome.zarr' if form == 'ome-zarr' else 'tif'}"
    if path.exists():
        return path
    grey = _grey(kind)
    slab = np.tile(grey, (1, *[-(-plane // side) for side in grey.shape[1:]]))[:, :plane, :plane]
    space, shape = Space("ZYX", VOXEL[kind], "nm"), (planes, plane, plane)
    if form == "tiff":
        write_ome_tiff(path, np.concatenate([slab] * -(-planes // len(slab)))[:planes], space)
        return path
    draft = create_ome_zarr(path, Layout(shape, space, "uint8", CHUNK[kind]))
    for start in range(0, planes, len(slab)):
        stop = min(planes, start + len(slab))
        draft.write(
            (slice(start, stop), slice(0, plane), slice(0, plane)), np.roll(slab, 64 * start, 2)[: stop - start]
        )
    return path


@dataclass
class Spent:
    """Processor seconds of the threads that read and write, by part; and what they called, if that is asked for."""

    seconds: dict[str, float] = field(default_factory=dict)
    profiles: list[cProfile.Profile] = field(default_factory=list)
    is_profiled: bool = False

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work`, whose processor time in its own thread is counted."""
        lock, local = threading.Lock(), threading.local()

        def counted(*arguments: Any) -> Any:
            if name == "chunks" and not threading.current_thread().name.startswith("writing chunks"):
                return work(*arguments)  # counted with the unit
            if self.is_profiled and not hasattr(local, "profile"):
                local.profile = cProfile.Profile(time.thread_time)
                self.profiles.append(local.profile)
            begun = time.thread_time()
            try:
                return local.profile.runcall(work, *arguments) if self.is_profiled else work(*arguments)
            finally:
                with lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - begun

        return counted


def measure(path: Path, kind: str, form: str, out: Path, profile: str = "") -> dict[str, float | str]:
    """Return seconds by part of one run, its voxels, memory and a hash of its results."""
    shutil.rmtree(out, ignore_errors=True)
    stack, model, spent = read_stack(path), skipseg.load_model(MODELS[kind]), Spent(is_profiled=bool(profile))

    def timed_pipeline(unit: Any, region: Any, read: Any, passes: Any, write: Any, *more: Any) -> Pipeline:
        return Pipeline(unit, region, spent.timed("reading", read), passes, spent.timed("writing", write), *more)

    options = skipseg.SegmentOptions(attention=False, device="cpu")
    for shape in {
        tuple(run_to_end(predict.iter_prepare(RunSpec(stack, model, options, backend_maker=free))).grid.tiles.size)
    }:
        _answer(MODELS[kind], shape)
    begun, processor = time.perf_counter(), time.process_time()
    target = FolderTarget(out, "r", "uint8", form)
    with (
        mock.patch.object(predict, "Pipeline", timed_pipeline),
        mock.patch.object(ChunkWriter, "_write", spent.timed("chunks", ChunkWriter._write)),
    ):
        run_to_end(iter_segment(RunSpec(stack, model, options, backend_maker=free), target))
    wall, processor = time.perf_counter() - begun, time.process_time() - processor
    if profile:
        stats = pstats.Stats(*spent.profiles)
        stats.dump_stats(profile)
        stats.sort_stats("tottime").print_stats(30)
    times = json.loads((out / "r_times.json").read_text())["seconds"]
    return {
        "voxels": float(np.prod(stack.shape)),
        "wall": wall,
        "processor": processor,
        **spent.seconds,
        **{f"in {name}": seconds for name, seconds in times.items()},
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "hash": hash_of(out),
    }


def hash_of(folder: Path) -> str:
    """Return a hash of the names and bytes of all files of results; dates and hosts are in none but the times."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.endswith(".json"):
            found.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return found.hexdigest()[:16]


def cost(flags: argparse.Namespace) -> None:
    """Print the cost of each part, the least of the rounds."""
    print_place(f"{flags.gib[0]:g} GiB of voxels, a network that costs nothing, least of {flags.rounds}")
    rows = []
    for kind in flags.kinds:
        for form in flags.forms:
            path = make_input(flags.work, kind, form, flags.gib[0])
            runs = [measure(path, kind, form, flags.work / "out", flags.profile) for _ in range(flags.rounds)]
            best = min(runs, key=lambda run: run["processor"])
            each = 1e9 / float(best["voxels"])
            names = ("processor", "reading", "writing", "chunks", "in preparing", "in tiles", "in writing", "wall")
            costs = (f"{float(best.get(name, 0)) * each:.1f}" for name in names)
            rows.append((f"{kind} {form}", *costs, str(best["hash"])))
    heads = "run", "processor", "readers", "writers", "their threads", "preparing", "tiles", "after", "wall", "hash"
    print_table(heads, rows)
    print("\nNanoseconds a voxel: of all processors, of the threads that read and write, then elapsed ones.")


def sizes(flags: argparse.Namespace) -> None:
    """Print cost and memory over the size of a volume, each in a process of its own."""
    print_place("a network that costs nothing, OME-Zarr to OME-Zarr")
    rows, first = [], 0.0
    for kind in flags.kinds:
        for number, gib in enumerate(flags.gib):
            path = make_input(flags.work, kind, "ome-zarr", gib)
            command = [sys.executable, __file__, "one", "--kinds", kind, "--gib", f"{gib:g}", "--work", flags.work]
            finished = run_process(command, watch=True)
            run = json.loads(finished.output.splitlines()[-1])
            each = 1e9 / run["voxels"]
            if not number:
                first = run["processor"] * each
            parts = (run["processor"] * each, run["wall"] * each)
            memory = (mebibytes(int(run["memory"])), mebibytes(finished.peak.own))
            rows.append(
                (kind, f"{gib:g}", *(f"{part:.1f}" for part in parts), f"{parts[0] / first:.2f}", *memory, run["hash"])
            )
            if not flags.keep:
                shutil.rmtree(path)
                shutil.rmtree(flags.work / "out", ignore_errors=True)
    print_table(("kind", "GiB", "processor ns", "wall ns", "of the first", "high-water, MiB", "own, MiB", "hash"), rows)


def one(flags: argparse.Namespace) -> None:
    """Print one run as JSON."""
    path = make_input(flags.work, flags.kinds[0], "ome-zarr", flags.gib[0])
    print(json.dumps(measure(path, flags.kinds[0], "ome-zarr", flags.work / "out")))


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("cost", "sizes", "one"))
    parser.add_argument("--kinds", nargs="+", default=["2d", "3d"], choices=("2d", "3d"))
    parser.add_argument("--forms", nargs="+", default=["ome-zarr"], choices=("ome-zarr", "tiff"))
    parser.add_argument("--gib", type=float, nargs="+", default=[0.25])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--profile", default="")
    parser.add_argument("--keep", action="store_true", help="leave the volumes where they are")
    parser.add_argument("--work", type=Path, required=True)
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    {"cost": cost, "sizes": sizes, "one": one}[flags.part](flags)


if __name__ == "__main__":
    main()
