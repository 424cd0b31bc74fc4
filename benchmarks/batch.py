"""A batch against its targets: many stacks, tiny files, kills.

    python benchmarks/batch.py stacks [--files 100] [--model em-membrane] --work DIR
    python benchmarks/batch.py tiny [--files 1000] --work DIR
    python benchmarks/batch.py kills [--kills 500] --work DIR

stacks: stacks of 25 x 512², files to files in one process, over the network's time in runs of single stacks, which are
timed before and after. tiny: images of 64² and a network of very few weights: the time of a file beyond its network.
kills: a batch with objects, in a process of its own, gets SIGKILL at random moments and is continued; whenever it ends,
its results are compared, byte for byte, with those of an undisturbed batch. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import tifffile
import torch
from measuring import print_place, print_table

import napari_skipseg as skipseg
from napari_skipseg.batch.run import BatchResult, iter_batch
from napari_skipseg.batch.settings import BatchSettings, make_settings
from napari_skipseg.devices import Device
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.inference.backends.choose import make_backend
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model, read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end

SLICES, SIDE, TINY = 25, 512, 64
SINGLES = 3
"""Stacks that are run alone, before and after the batch."""
OPTIONS = skipseg.SegmentOptions(device="cpu", attention=False)
WITH_TIMES = ("batch.json", "summary.csv", "report.html")
PROCESSES = multiprocessing.get_context("forkserver" if os.name != "nt" else "spawn")


class Timed:
    """A backend that counts the seconds in which it computes; made once, as in a warm process."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._made: dict[tuple[int, ...], Backend] = {}

    def __call__(self, model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        if shape not in self._made:
            self._made[shape] = make_backend(model, device, shape)
        self._backend = self._made[shape]
        self.name, self.precision = self._backend.name, self._backend.precision
        return self

    def run(self, images: Pixels) -> TileOutput:
        start = time.perf_counter()
        output = self._backend.run(images)
        self.seconds += time.perf_counter() - start
        return output


def make_stacks(folder: Path, count: int) -> list[Path]:
    """Return different stacks of synthetic EM; existing ones are used again."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"stack-{number:03}.tif" for number in range(count)]
    missing = [file for file in files if not file.exists()]
    if missing:
        sample = skipseg.make_sample((SLICES, SIDE, SIDE), seed=7).stack
        values = np.asarray(sample.read((slice(None),) * 3))
        for file in missing:
            moved = np.roll(values, 37 * int(file.stem[-3:]), axis=(1, 2))
            write_ome_tiff(file, moved, sample.space)
    return files


def run_singly(files: list[Path], model: Model, out: Path) -> list[float]:
    """Return the network's seconds of each run, which has the machine for itself."""
    timed, found = Timed(), []
    for file in files:
        timed.seconds = 0.0
        shutil.rmtree(out, ignore_errors=True)
        run_to_end(
            iter_segment(RunSpec(read_stack(file), model, OPTIONS, backend_maker=timed), FolderTarget(out, file.stem))
        )
        found.append(timed.seconds)
    return found


def run_batch(inputs: Path, out: Path, model: str) -> BatchResult:
    """Return a batch's result, after removing that of an earlier one."""
    shutil.rmtree(out, ignore_errors=True)
    return run_to_end(iter_batch(BatchSettings(str(inputs), str(out), make_settings(model, OPTIONS))))


def network_seconds(result: BatchResult) -> float:
    """Return the seconds in which the network computed in a batch, as its records say."""
    from napari_skipseg.batch.records import read_file_record

    records = [read_file_record(file) for file in (result.folder / "records").rglob("*.json")]
    return sum(record.seconds.get("network", 0.0) for record in records if record is not None)


def stacks(flags: argparse.Namespace, work: Path) -> None:
    """Print the time of a batch of stacks over that of the network in single runs."""
    print_place(f"{flags.files} stacks of {SLICES} x {SIDE}²", flags.model)
    files = make_stacks(work / f"stacks-{flags.files}", flags.files)
    model = read_model(locate_model(flags.model))
    run_singly(files[:1], model, work / "single")
    singles = run_singly(files[:SINGLES], model, work / "single")
    result = run_batch(files[0].parent, work / "batch", flags.model)
    singles += run_singly(files[-SINGLES:], model, work / "single")
    network = statistics.median(singles) * len(files)
    spread = f"{min(singles):.2f}-{max(singles):.2f}"
    heads = (
        "files",
        "batch, s",
        "network of single runs, s each",
        "their sum, s",
        "batch / sum",
        "network in the batch, s",
    )
    row = (f"{len(files)}", f"{result.seconds:.1f}", f"{statistics.median(singles):.2f} ({spread})", f"{network:.1f}",
           f"{result.seconds / network:.3f}", f"{network_seconds(result):.1f}")  # fmt: skip
    print_table(heads, [row])
    print(f"\n{result.describe()} Target: at most 1.15.")


def tiny_model(folder: Path) -> Path:
    """Return a model of random weights that computes in almost no time."""
    if not (folder / "model.json").exists():
        torch.manual_seed(0)
        spec = UNetSpec(widths=(2, 4))
        description = ModelDescription("tiny", spec, (ClassLabel("membrane", 1),), margin=8, weights_sha256="")
        write_model(folder, description, build(spec))
    return folder


def make_noise(folder: Path, count: int, slices: int) -> Path:
    """Return a folder with images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shape = (slices, TINY, TINY) if slices > 1 else (TINY, TINY)
        values = np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)
        tifffile.imwrite(folder / f"{number:04}.tif", values, photometric="minisblack")
    return folder


def tiny(flags: argparse.Namespace, work: Path) -> None:
    """Print the time of a tiny file beyond its network, in a first and in a second start."""
    print_place(f"{flags.files} images of {TINY}²")
    inputs, model = make_noise(work / "tiny", flags.files, 1), tiny_model(work / "model")
    run_batch(make_noise(work / "warm", 2, 1), work / "warm-out", str(model))
    result = run_batch(inputs, work / "tiny-out", str(model))
    network = network_seconds(result)
    again = run_to_end(
        iter_batch(BatchSettings(str(inputs), str(work / "tiny-out"), make_settings(str(model), OPTIONS)))
    )
    each, skipped = (result.seconds - network) / flags.files, again.seconds / flags.files
    heads = ("files", "batch, s", "network, s", "overhead a file, ms", "second start, ms a file")
    row = (f"{flags.files}", f"{result.seconds:.1f}", f"{network:.1f}", f"{1000 * each:.1f}", f"{1000 * skipped:.1f}")
    print_table(heads, [row])
    print(f"\n{result.describe()} Again: {again.describe()} Target: at most 50 ms a file.")


def compared(folder: Path) -> dict[str, bytes]:
    """Return all files of a run except those with times."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes()
        for name, file in files.items()
        if name not in WITH_TIMES and not name.endswith("_times.json") and not name.startswith("records/")
    }


def run_until(settings: BatchSettings, seconds: float) -> None:
    """Run the batch in this process, which is killed after so many seconds, or ends well before."""
    torch.set_num_threads(1)
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    with mock.patch("napari_skipseg.objects.blocks.BLOCK_SIDE", 16):  # so that objects are found in 16 blocks an image
        run_to_end(iter_batch(settings))
    os._exit(0)


def run_in_process(settings: BatchSettings, seconds: float) -> int:
    """Return how that process ended."""
    process = PROCESSES.Process(target=run_until, args=(settings, seconds))
    process.start()
    process.join()
    return int(process.exitcode or 0)


LATER = 1.02
"""How much later a batch may be killed than the time before: a busy machine starts more slowly than it did at first."""


def kills(flags: argparse.Namespace, work: Path) -> None:
    """Print how often a batch was killed, how often it ended, and how often its bytes differed."""
    print_place(f"{flags.kills} kills")
    PROCESSES.set_forkserver_preload(["napari_skipseg.api", "napari_skipseg.batch.run", "tifffile", "zarr"])
    inputs, model = make_noise(work / "noise", 6, 8), tiny_model(work / "model")
    options = skipseg.SegmentOptions(device="cpu", attention=False, tile=64)
    request = make_settings(str(model), options, objects=ObjectOptions("watershed"))
    shutil.rmtree(work / "out", ignore_errors=True)
    whole = BatchSettings(str(inputs), str(work / "whole"), request)
    for _ in range(2):  # the second without the start of the server that forks the processes
        shutil.rmtree(work / "whole", ignore_errors=True)
        start = time.monotonic()
        if run_in_process(whole, 600) != 0:
            raise SystemExit("the undisturbed batch failed")
        longest = time.monotonic() - start
    undisturbed = compared(next((work / "whole").iterdir()))
    settings, chance = BatchSettings(str(inputs), str(work / "out"), request), random.Random(flags.seed)
    killed = ended = differing = 0
    latest = longest
    while killed < flags.kills or ended == 0:
        code = run_in_process(settings, chance.uniform(0.02, latest) if killed < flags.kills else 600)
        killed += code == -signal.SIGKILL
        latest = longest if code == 0 else latest * LATER
        if code == 0:
            ended += 1
            differing += compared(next((work / "out").iterdir())) != undisturbed
            shutil.rmtree(work / "out")
        elif code != -signal.SIGKILL:
            raise SystemExit(f"a process ended by itself ({code})")
    print_table(
        ("kills", "batches that ended", "with different bytes", "seconds undisturbed"),
        [(f"{killed}", f"{ended}", f"{differing}", f"{longest:.1f}")],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("stacks", "tiny", "kills"))
    parser.add_argument("--files", type=int, help="100 stacks, or 1000 tiny files")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--work", type=Path)
    flags = parser.parse_args()
    flags.files = flags.files or {"stacks": 100, "tiny": 1000, "kills": 0}[flags.part]
    work = flags.work or Path(tempfile.mkdtemp(prefix="batch-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        {"stacks": stacks, "tiny": tiny, "kills": kills}[flags.part](flags, work)
    finally:
        if flags.work is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
