"""Objects against their targets: `python benchmarks/objects.py {gala,volume,live}`; every part prints a dated table.

- `gala --data DIR [--model em-boundary-3d]`: adapted Rand error of cells on the train volume of gala's FIB-SEM data,
  from the probability of a model that was trained on that volume; target 0.15 at most. DIR contains train-image.tif and
  train-gt.tif. The built-in em-boundary-3d is such a model (its settings lie in benchmarks/models); a small one of a
  few minutes is made by

      napari-skipseg train --images DIR/train-image.tif --labels DIR/train-gt.tif --class boundary=0 --widen 1
          --preset unet --dimensions 3 --widths 16,32,64 --patch 32,64,64 --batch 2 --steps 1000 --seed 0
          --name gala-boundary --out MODELS

  and measured with `--model MODELS/gala-boundary`. Volume and training are the same, as the target says ("from its own
  trained probability"): the figure measures the loss between a good probability and its objects, not the quality of a
  model on new data.
- `volume [--gib 8] [--method components watershed cells] --work DIR`: memory and time of the command over a synthetic
  probability, OME-Zarr to OME-Zarr; target 2 GiB at most. DIR needs 3 times the volume.
- `live`: seconds of a search in memory, first and after a slider was moved; targets 0.2 s for a slice of 512², 2 s for
  16 of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from measuring import OURS, FailedError, mebibytes, print_place, print_row, print_table, run_process
from numpy.typing import NDArray
from scipy import ndimage

import napari_skipseg as skipseg
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import create_ome_zarr
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.find import ObjectSearch
from napari_skipseg.objects.options import Method

BLOCK = (128, 256, 256)
"""The part of a synthetic volume that is computed; the rest are copies of it, rolled."""

MERGES = (0.3, 0.4, 0.5, 0.6, 0.7)


def measure_gala(model: str, data: Path) -> None:
    """Print adapted Rand, variation of information and average precision over the strength below which cells merge."""
    truth = np.asarray(skipseg.read_stack(data / "train-gt.tif").data[...])
    prediction = skipseg.segment(data / "train-image.tif", model)
    print(f"model {model}, classes {', '.join(prediction.class_names)}, volume {truth.shape}\n")
    print_table(("seeds", "merge", "cells", "adapted Rand error", "VI split", "VI merge", "AP"), [])
    for seeds in ("distance", "probability"):
        for merge in MERGES:
            cells = skipseg.find_objects(prediction, method="cells", seeds=seeds, merge=merge)
            scores = skipseg.score_instances(cells, truth)
            precision = skipseg.score_matching(cells, truth).mean
            figures = (scores.adapted_rand_error, scores.variation_split, scores.variation_merge, precision)
            print_row((seeds, f"{merge}", str(cells.max()), *(f"{figure:.4f}" for figure in figures)))


def measure_volume(gibibytes: float, methods: list[str], work: Path) -> None:
    """Print memory (MiB) and time of the command over a volume of uint8 probabilities."""
    volume, out = work / "synthetic_probability.ome.zarr", work / "objects-out"
    work.mkdir(parents=True, exist_ok=True)
    shape = make_volume(volume, gibibytes)
    print_table(("method", "shape", "objects", "seconds", "Mvox/s", "own", "resident", "high-water mark"), [])
    for method in methods:
        shutil.rmtree(out, ignore_errors=True)
        flags = ("--method", method, "--format", "ome-zarr")
        try:
            ended = run_process([*OURS, "objects", volume, out, *flags], watch=True)
        except FailedError as failure:
            print(f"{method}: {failure}", file=sys.stderr)
            continue
        count = ended.output.split()[-1]
        speed = np.prod(shape, dtype=float) / ended.seconds / 1e6
        sides = "×".join(map(str, shape))
        print_row((method, sides, count, f"{ended.seconds:.0f}", f"{speed:.1f}", *map(mebibytes, ended.peak)))
    shutil.rmtree(out, ignore_errors=True)


def make_volume(path: Path, gibibytes: float) -> tuple[int, int, int]:
    """Write a probability of blobs in OME-Zarr; return its shape."""
    shutil.rmtree(path, ignore_errors=True)
    side = max(256, round((gibibytes * 2**30) ** (1 / 3) / 256) * 256)
    shape = (max(BLOCK[0], round(gibibytes * 2**30 / side**2 / BLOCK[0]) * BLOCK[0]), side, side)
    block = blobs(BLOCK, 0)
    chunks = (64, 256, 256)
    writer = create_ome_zarr(path, Layout(shape, Space("ZYX", (8.0, 8.0, 8.0), "nm"), "uint8", chunks=chunks))
    for number, z in enumerate(range(0, shape[0], BLOCK[0])):
        for y in range(0, side, BLOCK[1]):
            for x in range(0, side, BLOCK[2]):
                place = tuple(slice(a, a + n) for a, n in zip((z, y, x), BLOCK, strict=True))
                writer.write(place, np.roll(block, (0, 64 * number, 64 * number), (0, 1, 2)))
    return shape


def blobs(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """A smooth probability that meets itself at its ends, with the sharp edges of a trained network."""
    noise = np.random.default_rng(seed).random(shape, dtype=np.float32)
    smooth: NDArray[Any] = ndimage.gaussian_filter(noise, 6, mode="wrap")
    smooth = (smooth - smooth.mean()) / smooth.std()
    sharp: NDArray[np.uint8] = np.round(255 / (1 + np.exp(-4 * (smooth - 0.7)))).astype(np.uint8)
    return sharp


def measure_live() -> None:
    """Print the seconds of a search in memory, and after each of four sliders was moved."""
    print_table(("shape", "method", "first", "threshold", "seed distance", "merge", "smallest"), [])
    for depth in (1, 16):
        values = blobs((depth, 512, 512), 1)
        for method in get_args(Method):
            options = skipseg.ObjectOptions(method)
            search = ObjectSearch(ClassImage(skipseg.Stack(values, Space("ZYX"))))
            search.find(options)
            search = ObjectSearch(ClassImage(skipseg.Stack(values, Space("ZYX"))))
            seconds = []
            for moved in ({}, {"threshold": 0.45}, {"seed_distance": 5.0}, {"merge": 0.4}, {"smallest": 50}):
                options = replace(options, **moved)
                start = time.perf_counter()
                search.find(options)
                seconds.append(f"{time.perf_counter() - start:.3f}")
            print_row((f"{depth}×512²", method, *seconds))


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    gala = parts.add_parser("gala")
    gala.add_argument("--model", default="em-boundary-3d")
    gala.add_argument("--data", type=Path, required=True)
    volume = parts.add_parser("volume")
    volume.add_argument("--gib", type=float, default=8.0)
    volume.add_argument("--method", nargs="+", default=list(get_args(Method)), choices=get_args(Method))
    volume.add_argument("--work", type=Path, required=True)
    parts.add_parser("live")
    given = parser.parse_args()
    print_place()
    if given.part == "gala":
        measure_gala(given.model, given.data)
    elif given.part == "volume":
        measure_volume(given.gib, given.method, given.work)
    else:
        measure_live()


if __name__ == "__main__":
    main()
