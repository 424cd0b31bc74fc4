"""Whole volumes from OME-Zarr to OME-Zarr by the command line: peak memory and seconds per voxel, over their size."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import OURS, FailedError, Finished, mebibytes, print_row, print_table, run_process

import napari_skipseg as skipseg
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import create_ome_zarr
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import write_model

BLOCK = (16, 512, 512)
"""The synthesised part; the volume repeats it, turned and mirrored."""

TINY = "tiny"
HEADS = ("volume", "voxels", "seconds", "Mvox/s", "ns per voxel", "of the first", "own", "resident", "high-water mark")


@dataclass(frozen=True)
class Setting:
    """Which volumes, with which network, where."""

    sizes: tuple[float, ...]
    plane: int
    network: str
    device: str
    work: Path
    keep: bool


def measure_volumes(setting: Setting) -> None:
    """Print the table of memory (MiB) and time over the size of the volume (GiB of uint8)."""
    model = tiny_model(setting.work) if setting.network == TINY else setting.network
    shapes = [shape_of(size, setting.plane) for size in setting.sizes]
    check_room(setting.work, max(map(np.prod, shapes)))
    start = start_up(setting, model)
    print(f"network {setting.network}, start-up {start:.1f} s (not in ns per voxel), memory in MiB\n")
    print_table(HEADS, [])
    first = 0.0
    for shape in shapes:
        finished = segment_volume(shape, setting, model)
        if finished is None:
            continue
        voxels = int(np.prod(shape))
        each = (finished.seconds - start) / voxels
        first = first or each
        title = f"{voxels / 2**30:.2f} GiB ({'×'.join(map(str, shape))})"
        time = (f"{finished.seconds:.1f}", f"{voxels / finished.seconds / 1e6:.2f}", f"{each * 1e9:.1f}")
        print_row((title, f"{voxels:,}", *time, f"{each / first:.3f}", *map(mebibytes, finished.peak)))


def segment_volume(shape: tuple[int, int, int], setting: Setting, model: str) -> Finished | None:
    """Return the outcome of the command line for a new volume; None if it failed, which is printed."""
    volume, out = setting.work / "volume.ome.zarr", setting.work / "volume-out"
    make_volume(volume, shape)
    shutil.rmtree(out, ignore_errors=True)
    try:
        return run_process(command(volume, out, setting, model), watch=True)
    except FailedError as failure:
        print(f"{'×'.join(map(str, shape))}: {failure}", file=sys.stderr)
        return None
    finally:
        if not setting.keep:
            shutil.rmtree(volume, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)


def start_up(setting: Setting, model: str) -> float:
    """Return the seconds of a run over hardly anything, the second of two."""
    volume, out = setting.work / "small.ome.zarr", setting.work / "small-out"
    make_volume(volume, (1, 64, 64))
    seconds = 0.0
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        seconds = run_process(command(volume, out, setting, model)).seconds
    return seconds


def command(volume: Path, out: Path, setting: Setting, model: str) -> list[str | Path]:
    """Return the command that segments a volume."""
    return [*OURS, "segment", volume, out, "--model", model, "--device", setting.device, "--format", "ome-zarr"]


def shape_of(gibibytes: float, plane: int) -> tuple[int, int, int]:
    """Return the shape (Z, Y, X) of a volume of about so many voxels, in planes of one size."""
    return max(1, round(gibibytes * 2**30 / plane**2)), plane, plane


def check_room(work: Path, voxels: int) -> None:
    """Stop if the disk has no room for a volume and twice as much of results."""
    free = shutil.disk_usage(work).free
    if free < 3.5 * voxels:
        raise SystemExit(
            f"{work} has {free / 2**30:.0f} GiB free and {3.5 * voxels / 2**30:.0f} GiB are needed: --work."
        )


def make_volume(path: Path, shape: tuple[int, int, int]) -> None:
    """Write a volume: one synthetic block again and again, mirrored so that neighbours differ, slab by slab."""
    shutil.rmtree(path, ignore_errors=True)
    block = np.asarray(skipseg.make_sample(BLOCK, seed=7).stack.read((slice(None),) * 3))
    writer = create_ome_zarr(path, Layout(shape, Space("ZYX", (50.0, 4.0, 4.0), "nm"), "uint8"))
    repeats = tuple(-(-length // side) for length, side in zip(shape[1:], BLOCK[1:], strict=True))
    slab = np.block(
        [[np.flip(block, mirrored(row, column)) for column in range(repeats[1])] for row in range(repeats[0])]
    )
    slab = slab[:, : shape[1], : shape[2]]
    for start in range(0, shape[0], BLOCK[0]):
        stop = min(start + BLOCK[0], shape[0])
        turned = np.roll(slab, 64 * (start // BLOCK[0] % 8), axis=2)
        writer.write((slice(start, stop), slice(0, shape[1]), slice(0, shape[2])), turned[: stop - start])


def mirrored(row: int, column: int) -> tuple[int, ...]:
    """Return the axes along which the block at (row, column) is mirrored: its edges meet themselves."""
    return (*((1,) if row % 2 else ()), *((2,) if column % 2 else ()))


def tiny_model(work: Path) -> str:
    """Return the folder of a model with few, random weights: it computes in almost no time, so all else shows."""
    folder = work / "tiny-model"
    if not folder.exists():
        torch.manual_seed(0)
        spec = skipseg.UNetSpec(widths=(4, 8))
        description = ModelDescription("tiny", spec, (ClassLabel("membrane", 0),), margin=32, weights_sha256="")
        write_model(folder, description, skipseg.build(spec))
    return str(folder)
