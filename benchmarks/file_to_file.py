"""Whole processes from a TIFF to files: ours beside MONAI, torch_em and nnU-Net, same weights, in turns, scored."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import zarr
from measuring import OURS, FailedError, print_table, run_process
from numpy.typing import NDArray

import napari_skipseg as skipseg
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.inference.backends.folding import Probabilities
from napari_skipseg.models.model import Model

PEERS = Path(__file__).with_name("peers.py")
SMALL = 64
"""Side of the image whose run is the start-up."""
SMALL_WINDOW = 128
"""A peer's window there: it fills a window that is larger than the image."""

HEADS = (
    "run", "whole process, s", "start-up, s", "Mvox/s without it", "ours → TIFF is faster by", "without start-up",
    "agreement with whole-image f32", "V_rand",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table. tuned: by hand, beyond what its package does by itself."""

    title: str
    peer: str
    arguments: tuple[str, ...] = ()
    python: str = sys.executable
    tuned: bool = False
    cold: bool = False

    def command(self, image: Path, out: Path, model: str, small: bool) -> list[str | Path]:
        """Return its command line; `small` caps the window of a peer."""
        if self.peer == "ours":
            return [*OURS, "segment", image, out, "--model", model, "--device", "cpu", *self.arguments]
        arguments = list(self.arguments)
        if small:
            place = arguments.index("--window") + 1
            arguments[place] = str(min(int(arguments[place]), SMALL_WINDOW))
        return [self.python, PEERS, self.peer, image, out, "--model", model, *arguments]


@dataclass(frozen=True)
class Sample:
    """A synthetic image on disk, its cells, and the probability of the whole image in float32."""

    image: Path
    small: Path
    cells: NDArray[np.bool_]
    reference: NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """The figures of a row; agreement and v_rand are those of its last output."""

    seconds: float
    start: float
    agreement: float
    v_rand: float

    @property
    def running(self) -> float:
        """Seconds without the start-up."""
        return self.seconds - self.start


def all_rows(margin: int, size: int, peers_python: str, precision: str) -> list[Row]:
    """Return the rows: ours, MONAI's default and tuned, and the other peers at some windows, halo = `margin`.

    precision: the fastest one of this processor, "f32" or "bf16", in which the tuned peers compute.
    """
    rows = [
        Row("ours → TIFF", "ours", ("--format", "tiff")),
        Row("ours → OME-Zarr", "ours", ("--format", "ome-zarr")),
        Row("ours → TIFF, first run ever (nothing compiled yet)", "ours", ("--format", "tiff"), cold=True),
        _window("MONAI default: f32", "monai", 256, 0.25, "constant"),
    ]
    by_hand = f"{precision}, channels-last"
    tuned = [
        (256, 0.25, "constant"),
        (256, 0.125, "constant"),
        *((window, 2 * margin / window, "constant") for window in (512, 1024)),
    ]
    tuned += [(512, 2 * margin / 512, "gaussian"), (512, 0.25, "gaussian")]
    tuned += [(1024, 2 * margin / 1024, "gaussian"), (1024, 0.125, "gaussian"), (size, 0.0, "constant")]
    for window, overlap, mode in tuned:
        if window <= size:
            rows.append(_window(f"MONAI tuned: {by_hand}", "monai", window, overlap, mode, precision))
    for tuned_in in ("", precision):
        title = f"torch_em tuned: {by_hand}" if tuned_in else "torch_em: f32"
        for block in (256, 512, 1024, 2048):
            if block <= size and not (tuned_in and block < 1024):
                window = block + 2 * margin
                rows.append(_window(title, "torch_em", window, 0.0, "constant", tuned_in, peers_python))
    narrow = 2 * margin / 1024
    for window, overlap, tuned_in in [(512, 0.5, ""), (1024, 0.5, ""), (1024, narrow, ""), (1024, narrow, precision)]:
        title = f"nnU-Net tuned: {by_hand}" if tuned_in else "nnU-Net: f32, no mirroring"
        if window <= size:
            rows.append(_window(title, "nnunet", window, overlap, "gaussian", tuned_in, peers_python))
    return rows


def _window(
    title: str, peer: str, window: int, overlap: float, mode: str, tuned: str = "", python: str = sys.executable
) -> Row:
    how = f"window {window}" + (f", overlap {overlap:g}, {mode}" if peer != "torch_em" else ", halo = margin")
    arguments = (
        "--window",
        str(window),
        "--overlap",
        str(overlap),
        "--mode",
        mode,
        *(("--tuned", tuned) if tuned else ()),
    )
    return Row(f"{title}, {how}", peer, arguments, python, bool(tuned))


def make_sample(work: Path, model: Model, slices: int, size: int) -> Sample:
    """Return the sample, made once for a folder and model: 8-bit TIFF, membranes known."""
    folder = work / f"sample-{slices}x{size}"
    image, small, cells = folder / "image.tif", folder / "small.tif", folder / "cells.npy"
    if not cells.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sample = skipseg.make_sample((slices, size, size), seed=7)
        values = np.asarray(sample.stack.read((slice(None),) * 3))
        tifffile.imwrite(image, values, metadata={"axes": "ZYX"})
        tifffile.imwrite(small, values[:1, :SMALL, :SMALL], metadata={"axes": "ZYX"})
        np.save(cells, sample.membrane == 0)
    reference = folder / f"whole-{model.description.weights_sha256[:16]}.npy"
    if not reference.exists():
        np.save(reference, whole_image_probability(model, image))
    return Sample(image, small, np.load(cells), np.load(reference))


def whole_image_probability(model: Model, image: Path) -> NDArray[np.float32]:
    """Return the probability (Z, Y, X) of whole slices in float32 by torch, one after the other."""
    stored = tifffile.imread(image)
    stored = stored.reshape(-1, *stored.shape[-2:])
    normalization = measure(skipseg.Stack(stored, Space("ZYX")))
    network = Probabilities(model.network).eval()
    slices = []
    for values in stored:
        tensor = torch.from_numpy(normalization.apply(values))[None, None]
        with torch.inference_mode():
            slices.append(network(tensor)[0][0, 0].numpy())
    return np.stack(slices)


def read_result(out: Path, name: str) -> NDArray[Any]:
    """Return a result (Z, Y, X) from the TIFF or OME-Zarr in `out` whose name contains `name`."""
    found = next(place for place in sorted(out.rglob(f"*{name}*")) if place.suffix in (".tif", ".zarr"))
    values = tifffile.imread(found) if found.suffix == ".tif" else np.asarray(zarr.open_array(found / "0", mode="r")[:])
    return values.reshape(-1, *values.shape[-2:])


def measure_rows(rows: list[Row], sample: Sample, work: Path, model: str, rounds: int) -> dict[str, Result]:
    """Return the seconds of each row: the least of so many rounds, rows in turns, after one run to warm up.

    The last, scored output of each row stays in `work` until the table is printed. A row that fails is reported and
    left out.
    """
    times: dict[str, tuple[list[float], list[float]]] = {row.title: ([], []) for row in rows}
    left = list(rows)
    for number in range(rounds + 1):
        for row in list(left):
            out = work / "out" / str(rows.index(row))
            try:
                seconds = [_run(row, image, out, work, model) for image in (sample.small, sample.image)]
            except FailedError as failure:
                print(f"left out: {row.title}: {failure}\n", flush=True)
                left.remove(row)
                continue
            if number or row.cold:
                times[row.title][0].append(seconds[0])
                times[row.title][1].append(seconds[1])
            print(f"  round {number}: {row.title}: {seconds[1]:.2f} s", file=sys.stderr, flush=True)
    return {
        row.title: Result(min(times[row.title][1]), min(times[row.title][0]), *_score(work, rows, row, sample))
        for row in left
    }


def _run(row: Row, image: Path, out: Path, work: Path, model: str) -> float:
    shutil.rmtree(out, ignore_errors=True)
    environment = {}
    if row.cold:
        empty = work / "empty-cache"
        shutil.rmtree(empty, ignore_errors=True)
        environment["NAPARI_SKIPSEG_CACHE"] = str(empty)
    small = image.name.startswith("small")
    return run_process(row.command(image, out, model, small), **environment).seconds


def _score(work: Path, rows: list[Row], row: Row, sample: Sample) -> tuple[float, float]:
    out = work / "out" / str(rows.index(row))
    agreement = float(((read_result(out, "binary") > 0) == (sample.reference > 0.5)).mean())
    return agreement, v_rand(read_result(out, "probability") / np.float32(255), sample)


def v_rand(membrane: NDArray[np.float32], sample: Sample) -> float:
    """Return V_rand of the probability of membrane against the synthetic truth, at its best threshold."""
    return skipseg.score_isbi(1 - membrane, sample.cells).v_rand


def print_results(results: dict[str, Result], sample: Sample) -> None:
    """Print the table, with the reference itself in its first line."""
    ours = results["ours → TIFF"]
    voxels = sample.reference.size
    lines = [["whole image, f32 (the reference)", *[""] * 5, "100 %", f"{v_rand(sample.reference, sample):.4f}"]]
    for title, result in results.items():
        lines.append(
            [
                title,
                f"{result.seconds:.2f}",
                f"{result.start:.2f}",
                f"{voxels / result.running / 1e6:.2f}",
                f"{result.seconds / ours.seconds:.2f}×",
                f"{result.running / ours.running:.2f}×",
                f"{result.agreement:.3%}",
                f"{result.v_rand:.4f}",
            ]
        )
    print_table(HEADS, lines)


def verdicts(rows: list[Row], results: dict[str, Result], sample: Sample, precision: str) -> Iterator[str]:
    """Yield a line per target: the ratio to the fastest row of each kind, whole process and without start-up.

    precision: that of `all_rows`, which the targets depend on.
    """
    ours = results["ours → TIFF"]
    default, tuned = (5, 1.5) if precision == "bf16" else (4, 2.5)

    def best(peer: str, tuned: bool, accurate: float = 0.0) -> tuple[str, Result] | None:
        found = [
            (row.title, results[row.title])
            for row in rows
            if row.peer == peer and row.tuned == tuned and row.title in results
            if results[row.title].agreement >= accurate
        ]
        return min(found, key=lambda each: each[1].seconds, default=None)

    kinds = {
        f"MONAI default (target {default}×)": best("monai", False),
        f"MONAI tuned, the fastest of at least our agreement (target {tuned}×)": best("monai", True, ours.agreement),
        "MONAI tuned, the fastest of at least 99.9 %": best("monai", True, 0.999),
        "MONAI tuned, the fastest of all": best("monai", True),
        "torch_em (target 3×)": best("torch_em", False),
        "torch_em tuned": best("torch_em", True),
        "nnU-Net (target 3×)": best("nnunet", False),
        "nnU-Net tuned": best("nnunet", True),
    }
    for kind, found in kinds.items():
        if found is None:
            yield f"- {kind}: no such row."
            continue
        title, result = found
        whole, running = result.seconds / ours.seconds, result.running / ours.running
        yield f"- {kind}: {whole:.2f}× whole process, {running:.2f}× without start-up ({title})."
    difference = ours.v_rand - v_rand(sample.reference, sample)
    yield f"- Accuracy: agreement {ours.agreement:.3%} (target 99.9 %), V_rand {difference:+.4f} (target ±0.001)."
