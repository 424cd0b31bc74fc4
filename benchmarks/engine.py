"""The engine against its targets: time from file to file beside peers, share of the machine's peak, overhead, volumes.

    python benchmarks/engine.py files [--slices 4] [--size 2048] [--rounds 3] [--only TEXT ...] [--peers-python PYTHON]
    python benchmarks/engine.py peak [--size 2048] [--precision bf16]
    python benchmarks/engine.py volume [--gib 0.1 1 8] [--network em-membrane | tiny] [--plane 2048]

All take --model, --device (files, volume) and --work, a folder for samples and results (several times as large as the
image). Each prints a dated Markdown table with the machine and the versions. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from file_to_file import all_rows, make_sample, measure_rows, print_results, verdicts
from measuring import print_place, print_table
from overhead import Measured, measure_overhead
from peak import LayerKind, best_convolutions, copy_bytes_per_second, flops_per_pixel, layer_kinds
from volume import Setting, measure_volumes

import napari_skipseg as skipseg
from napari_skipseg.devices import best_precision
from napari_skipseg.inference.backends.openvino_backend import compiled_precision


def files(flags: argparse.Namespace, work: Path) -> None:
    """Print the table of whole processes."""
    model = skipseg.load_model(flags.model)
    precision = best_precision("cpu").name
    rows = all_rows(model.description.margin, flags.size, flags.peers_python, precision)
    if flags.only:
        rows = [row for row in rows if row.title == "ours → TIFF" or any(text in row.title for text in flags.only)]
    sample = make_sample(work, model, flags.slices, flags.size)
    print_place(
        f"{flags.model}, margin {model.description.margin}, {flags.size}²×{flags.slices} uint8, least of {flags.rounds}"
    )
    results = measure_rows(rows, sample, work, flags.model, flags.rounds)
    print_results(results, sample)
    print()
    print("\n".join(verdicts(rows, results, sample, precision)))


def peak(flags: argparse.Namespace, work: Path) -> None:
    """Print the best convolution, the share of it that network and whole run reach, and the layers that fall short."""
    model = skipseg.load_model(flags.model)
    precision = flags.precision or compiled_precision().name
    print_place(f"{flags.model}, {precision}, {flags.size}²×{flags.slices} uint8")
    best = best_convolutions(precision)
    for convolution in best:
        print(f"- best 3×3 convolution: {convolution.flops_per_second / 1e9:.0f} GFLOP/s ({convolution.title})")
    needed = flops_per_pixel(model)
    print(f"- the network needs {needed:,.0f} operations per output pixel\n")
    sample = make_sample(work, model, flags.slices, flags.size)
    most = best[0].flops_per_second
    for kind in ("ome-zarr", "tiff"):
        measured = measure_overhead(sample.image, model, flags.model, work / "out", ["--format", kind], flags.rounds)
        print_overhead(measured, kind, needed, most)
    print_layers(layer_kinds(model, measured.tile[-1], precision), most)


def print_overhead(measured: Measured, kind: str, needed: float, most: float) -> None:
    """Print the whole run beside its network."""
    tile = "×".join(map(str, measured.tile))
    pixels = measured.batch
    for side in measured.tile:
        pixels *= side
    lines = [
        ("network alone, one batch", measured.network, pixels),
        (f"network alone, all {measured.batches} batches", measured.computing, measured.pixels),
        ("whole run in a warm process, without compiling", measured.whole - measured.prepare, measured.pixels),
        ("whole run in a warm process", measured.whole, measured.pixels),
    ]
    print(f"to {kind}, tile {tile}, batch {measured.batch}, {measured.precision}:\n")
    rows = [
        (title, f"{seconds:.3f}", f"{count / seconds / 1e6:.2f}", f"{needed * count / seconds / most:.1%}")
        for title, seconds, count in lines
    ]
    print_table(("what", "seconds", "Mvox/s", "share of peak"), rows)
    print(f"\nreading, tiling and writing add {measured.overhead:.1%} to the network (target 10 %).\n", flush=True)


def print_layers(kinds: dict[str, LayerKind], most: float) -> None:
    """Print where the network's time goes, how far its layers are from the peak, and what the roofline allows."""
    bandwidth = copy_bytes_per_second()
    total = sum(kind.seconds for kind in kinds.values())
    print(f"layers by OpenVINO's own clock, {total:.3f} s a tile; copying memory moves {bandwidth / 1e9:.1f} GB/s:\n")
    rows = [
        (
            title,
            f"{kind.seconds / total:.1%}",
            f"{kind.flops / kind.seconds / 1e9:.0f}" if kind.flops else "",
            f"{kind.flops / kind.seconds / most:.1%}" if kind.flops else "",
            f"{kind.moved / kind.seconds / 1e9:.1f}" if kind.moved else "",
        )
        for title, kind in sorted(kinds.items(), key=lambda each: -each[1].seconds)
        if kind.seconds
    ]
    print_table(("layers", "share of time", "GFLOP/s", "share of peak", "GB/s in and out"), rows)
    flops = sum(kind.flops for kind in kinds.values())
    bound = sum(max(kind.flops / most, kind.moved / bandwidth) for kind in kinds.values())
    print(
        f"\nThe network reaches {flops / total / most:.1%} of the peak; with every layer at the roofline (the peak, or"
    )
    print(f"the bandwidth of copying, whichever takes longer) it would reach {flops / bound / most:.1%}.")


def volume(flags: argparse.Namespace, work: Path) -> None:
    """Print memory and time over the size of a volume."""
    print_place(f"{flags.device}, OME-Zarr to OME-Zarr")
    network = flags.network or flags.model
    measure_volumes(Setting(tuple(flags.gib), flags.plane, network, flags.device, work, flags.keep))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("files", "peak", "volume"))
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="parts of titles: these rows, and ours")
    parser.add_argument("--peers-python", default=sys.executable, help="where torch_em and nnunetv2 are installed")
    parser.add_argument("--precision", choices=("bf16", "f32"), help="default: the best of this processor")
    parser.add_argument("--gib", type=float, nargs="+", default=[0.1, 1.0, 8.0])
    parser.add_argument("--plane", type=int, default=2048)
    parser.add_argument("--network", help="a model, or 'tiny': random weights that compute in almost no time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", action="store_true", help="leave the volumes where they are")
    parser.add_argument("--work", type=Path)
    flags = parser.parse_args()
    work = flags.work or Path(tempfile.mkdtemp(prefix="engine-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        {"files": files, "peak": peak, "volume": volume}[flags.part](flags, work)
    finally:
        if flags.work is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
