"""What a plan says against what the run takes: 2D and 3D, OME-TIFF and OME-Zarr, small and large images.

    python benchmarks/estimates.py --work DIR [--only TEXT ...] [--rounds 1]

Each image is planned and then segmented, in one process that has done both before, by the command line's own functions.
Target: within 25 %.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from measuring import print_place, print_row, print_table

import napari_skipseg as skipseg
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.inference.trial import iter_plan
from napari_skipseg.progress import run_to_end

RUNS = {
    "2D TIFF, small": ("em-membrane", "tiff", (1, 768, 768)),
    "2D TIFF, large": ("em-membrane", "tiff", (4, 2048, 2048)),
    "2D OME-Zarr, small": ("em-membrane", "ome-zarr", (2, 1024, 1024)),
    "2D OME-Zarr, large": ("em-membrane", "ome-zarr", (4, 2048, 2048)),
    "3D OME-Zarr, small": ("em-boundary-3d", "ome-zarr", (48, 96, 96)),
    "3D TIFF, large": ("em-boundary-3d", "tiff", (96, 192, 192)),
}


def make_image(work: Path, form: str, shape: tuple[int, int, int], isotropic: bool) -> Path:
    """Return a synthetic image; an existing one is used again."""
    path = work / f"{'x'.join(map(str, shape))}-{form}.{'ome.zarr' if form == 'ome-zarr' else 'tif'}"
    if path.exists():
        return path
    make = make_isotropic_sample if isotropic else make_sample
    sample = make(tuple(min(side, 512) for side in shape), seed=7).stack  # type: ignore[arg-type]
    grey = np.asarray(sample.data)
    repeats = [-(-wanted // side) for wanted, side in zip(shape, grey.shape, strict=True)]
    values = np.tile(grey, repeats)[tuple(map(slice, shape))]
    if form == "tiff":
        write_ome_tiff(path, values, sample.space)
    else:
        space = Space("ZYX", sample.space.voxel_size, sample.space.unit)
        write_ome_zarr(path, values, Layout(shape, space, "uint8"))
    return path


def measure(work: Path, title: str) -> tuple[float, float]:
    """Return the seconds of a plan and of the run."""
    name, form, shape = RUNS[title]
    model, options = skipseg.load_model(name), skipseg.SegmentOptions(device="cpu", attention=False)
    path, out = make_image(work, form, shape, name.endswith("3d")), work / "out"
    shutil.rmtree(out, ignore_errors=True)
    plan = run_to_end(iter_plan(RunSpec(read_stack(path), model, options), out, "uint8", form))  # type: ignore[arg-type]
    begun = time.perf_counter()
    run_to_end(iter_segment(RunSpec(read_stack(path), model, options), FolderTarget(out, "r", "uint8", form)))  # type: ignore[arg-type]
    return plan.seconds, time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of titles")
    parser.add_argument("--rounds", type=int, default=1)
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    print_place("planned, then run")
    print_table(("run", "planned, s", "took, s", "planned / took"), [])
    for title in RUNS:
        if any(text in title for text in flags.only):
            small = title.replace("large", "small")
            measure(flags.work, small if small in RUNS else title)  # loads and compiles what the process has not yet
            for _ in range(flags.rounds):
                planned, took = measure(flags.work, title)
                print_row((title, f"{planned:.2f}", f"{took:.2f}", f"{planned / took:.2f}"))


if __name__ == "__main__":
    main()
