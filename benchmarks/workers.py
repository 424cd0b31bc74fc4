"""Two workers, each on a core of its own, against one on one core; scheduler and this process have the same cores.

    python benchmarks/workers.py stacks [--files 40] [--model em-membrane] --work DIR
    python benchmarks/workers.py store [--mib 128] [--model em-membrane] --work DIR

stacks: files are tasks; one, two, two, one. store: one OME-Zarr with its cells, shared out in blocks whatever its size.
Linux only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from batch import OPTIONS, SIDE, SLICES, compared, make_stacks
from measuring import print_place, print_table

import napari_skipseg as skipseg
from napari_skipseg.batch import blocks
from napari_skipseg.batch.run import iter_batch
from napari_skipseg.batch.settings import BatchSettings, make_settings
from napari_skipseg.batch.table import BatchRow, FileChanged
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.objects.options import ObjectOptions


def watched(cores: list[int], settings: BatchSettings) -> tuple[list[tuple[float, BatchRow]], Path]:
    """Return all events of a batch with a worker on each core, with the seconds since its begin; and its folder."""
    shutil.rmtree(settings.output, ignore_errors=True)
    before, start, events = os.sched_getaffinity(0), time.monotonic(), []
    os.sched_setaffinity(0, cores)
    try:
        work = iter_batch(replace(settings, workers=len(cores)))
        while True:
            event = next(work)
            if isinstance(event, FileChanged):
                events.append((time.monotonic() - start, event.row))
    except StopIteration as stop:
        if stop.value.count("done") != len(stop.value.rows):
            raise SystemExit(stop.value.describe()) from stop
        return events, stop.value.folder
    finally:
        os.sched_setaffinity(0, before)


def run_on(cores: list[int], inputs: Path, out: Path, model: str) -> tuple[float, float, Path]:
    """Return the seconds of a batch, a worker on each core: of all of it, and from its first tile; and its folder."""
    events, folder = watched(cores, BatchSettings(str(inputs), str(out), make_settings(model, OPTIONS)))
    first, end = next(seconds for seconds, row in events if row.done), events[-1][0]
    return end, end - first, folder


def stacks(flags: argparse.Namespace, work: Path) -> None:
    """Print how much faster two workers are than one, a core each."""
    print_place(f"{flags.files} stacks of {SLICES} x {SIDE}²", flags.model)
    inputs = make_stacks(work / f"stacks-{flags.files}", flags.files)[0].parent
    cores = sorted(os.sched_getaffinity(0))[:2]
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    folders = {}
    for count in (1, 2, 2, 1):
        whole, computing, folders[count] = run_on(cores[:count], inputs, work / f"workers-{count}", flags.model)
        found[count].append((whole, computing))
    rows = []
    for count, runs in found.items():
        means = (statistics.mean(run[part] for run in runs) for part in (0, 1))
        rows.append((f"{count}", *(f"{seconds:.1f}" for seconds in means)))
    print_table(("workers", "seconds", "from the first tile on"), rows)
    ratios = [sum(run[part] for run in found[1]) / sum(run[part] for run in found[2]) for part in (0, 1)]
    same = compared(folders[1]) == compared(folders[2])
    print(f"\nTwo are {ratios[1]:.2f} times as fast as one ({ratios[0]:.2f} with the start of the workers); target: at "
          f"least 1.8. Their results are {'the same' if same else 'NOT the same'}, byte for byte.")  # fmt: skip


def make_store(path: Path, mebibytes: int) -> Path:
    """Return an OME-Zarr of synthetic EM, slices of 1024²; an existing one is used again."""
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        sample = skipseg.make_sample((SLICES, 1024, 1024), seed=7).stack
        values = np.asarray(sample.read((slice(None),) * 3))
        values = np.concatenate([np.roll(values, 37 * number, (1, 2)) for number in range(-(-mebibytes // SLICES))])
        layout = Layout(values[:mebibytes].shape, sample.space, "uint8")
        write_ome_zarr(path, values[:mebibytes], layout)
    return path


def parts_of(events: list[tuple[float, BatchRow]]) -> list[float]:
    """Return the seconds of one file's parts: tiles, pyramids and the like, blocks of objects, what one worker ends."""
    tiles = [seconds for seconds, row in events if row.message.startswith("tile ")]
    finding = [seconds for seconds, row in events if row.message.startswith("finding objects")]
    shared = [seconds for seconds, row in events if row.message.startswith("finding objects, part")]
    return [tiles[-1] - tiles[0], finding[0] - tiles[-1], shared[-1] - finding[0], events[-1][0] - shared[-1]]


def store(flags: argparse.Namespace, work: Path) -> None:
    """Print how much faster two workers do one large file with its objects than one, a core each."""
    print_place(f"an OME-Zarr of {flags.mib} x 1024²", flags.model)
    inputs, cores = make_store(work / "store" / f"{flags.mib}.ome.zarr", flags.mib), sorted(os.sched_getaffinity(0))[:2]
    request = make_settings(flags.model, OPTIONS, form="ome-zarr", objects=ObjectOptions("cells", planes="slices"))
    found, folders = {}, {}
    with mock.patch.object(blocks, "LARGE_FILE", 1):
        for count in (1, 2):
            settings = BatchSettings(str(inputs), str(work / f"store-out-{count}"), request)
            events, folders[count] = watched(cores[:count], settings)
            found[count] = [*parts_of(events), events[-1][0]]
    rows = [(f"{count}", *(f"{seconds:.1f}" for seconds in parts)) for count, parts in found.items()]
    rows.append(("one / two", *(f"{one / two:.2f}" for one, two in zip(found[1], found[2], strict=True))))
    print_table(("workers", "tiles, s", "pyramids, s", "objects, s", "the end, s", "all, s"), rows)
    same = compared(folders[1]) == compared(folders[2])
    print(f"\nTheir results are {'the same' if same else 'NOT the same'}, byte for byte.")


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("stacks", "store"))
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--mib", type=int, default=128, help="size of the store")
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--work", type=Path)
    flags = parser.parse_args()
    work = flags.work or Path(tempfile.mkdtemp(prefix="workers-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        {"stacks": stacks, "store": store}[flags.part](flags, work)
    finally:
        if flags.work is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
