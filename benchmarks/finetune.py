"""Fine-tuning against its targets: seconds, accuracy, active places, remembering.

    python benchmarks/finetune.py quick [--device cpu]
    python benchmarks/finetune.py pace --work DIR
    python benchmarks/finetune.py mitochondria VNC_FOLDER --work DIR [--only dense sparse monai] [--minutes 10]
    python benchmarks/finetune.py active VNC_FOLDER --work DIR [--seeds 0 1 2] [--places 10]
    python benchmarks/finetune.py forgetting ISBI_FOLDER --work DIR
    python benchmarks/finetune.py told VNC_FOLDER --work DIR [--reaches quick normal full]

VNC_FOLDER contains stack1-raw, stack1-mitochondria and stack1-membranes (TIFF, 10 slices), ISBI_FOLDER train-volume and
train-labels. Corrections are drawn from the truth by the rule in `strokes.py`. `told` is the time that is told before
against the time that is taken, with 40 strokes on three slices (ONEDNN_MAX_CPU_ISA=AVX2 takes bf16 from a processor
that has it). Each prints a dated Markdown table with the machine and the versions. DIR keeps the models: a row that is
there is not trained again. Nothing else should run.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
import zarr
from baseline import train_basic_unet
from measuring import print_place, print_table
from numpy.typing import NDArray
from strokes import correct_place, paint_share, paint_strokes

import napari_skipseg as skipseg
from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.corrections.sparse_array import SparseArray
from napari_skipseg.corrections.uncertain_regions import iter_rank_regions
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import CorrectedStack, Finetune, PlanFinetuning, Segment
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.isbi import score_isbi
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.training.finetune.estimate import iter_plan_finetuning
from napari_skipseg.training.finetune.labels import Corrected
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.progress import TrainingProgress
from napari_skipseg.training.settings import FinetuneSettings, Reach

LEARNT, SCORED = slice(0, 5), slice(5, 10)
"""Slices of the volume that are corrected, and those that the model is scored on and never sees."""
BASE = "em-membrane"
MITOCHONDRION = (ClassLabel("mitochondrion", 2),)
VOXEL_SIZE = (50.0, 4.6, 4.6)
SPARSE = 0.01
SIDE = 128
LONG, FIRST = 120, 8
"""Steps of a fine-tuning, and how many of them are timed: a validation follows each tenth."""


class Volume(NamedTuple):
    """Real EM and one of its truths: grey values, and labels as corrections are coded (1 = background, 2 = class)."""

    image: NDArray[Any]
    truth: NDArray[np.uint8]

    def stack(self, part: slice) -> Stack:
        """Return some of the slices."""
        return Stack(self.image[part], Space("ZYX", VOXEL_SIZE, "nm"), name="vnc")


def read_volume(folder: Path, kind: str) -> Volume:
    """Return the volume with the truth of one kind: "mitochondria" or "membranes".

    Slices 1 and 7 of the mitochondria are stored as 0 and 1, the others as 0 to 255 with a soft rim.
    """
    image = tifffile.imread(next(folder.glob("*raw*.tif")))
    stored = tifffile.imread(next(folder.glob(f"*{kind}*.tif")))
    inside = np.stack([of_slice >= (128 if of_slice.max() > 1 else 1) for of_slice in stored])
    return Volume(image, (1 + inside).astype(np.uint8))


def dice_of(model: Model, volume: Volume, name: str) -> float:
    """Return Dice at 0.5 of the class called `name`, pooled over the slices that were never seen."""
    probability = skipseg.segment(volume.stack(SCORED), model).probability
    number = model.description.class_names.index(name)
    of_class = probability[number] if probability.ndim == 4 else probability
    return score_overlap(np.asarray(of_class) > 0.5, volume.truth[SCORED] == 2).dice


def finetuned(settings: FinetuneSettings, corrected: Corrected, folder: Path) -> tuple[Model, float]:
    """Return the model, trained unless it lies in `folder`, and the seconds that its training took."""
    place, taken = folder / settings.name, folder / f"{settings.name}.seconds"
    if not place.exists():
        shutil.rmtree(folder / f"{settings.name}.training", ignore_errors=True)
        start = time.perf_counter()
        run_to_end(iter_finetune(settings, [corrected], folder))
        taken.write_text(str(time.perf_counter() - start), encoding="utf-8")
    return read_model(place), float(taken.read_text(encoding="utf-8"))


def settings_for(name: str, reach: Reach, **more: Any) -> FinetuneSettings:
    """Return the settings of a fine-tuning of the built-in model."""
    return FinetuneSettings(name, ("vnc",), ("strokes",), reach=reach, **more, model=BASE)


def quick(flags: argparse.Namespace, work: Path) -> None:
    """Print how long it takes from ten strokes to the segmented view, the engine being warm."""
    sample = make_sample((1, 512, 512), seed=3)
    truth = (1 + sample.membrane).astype(np.uint8)
    strokes = paint_strokes(truth[0], 10, seed=0)[None]
    corrected = CorrectedStack(sample.stack, partial(write_snapshot, strokes))
    rows = []
    with Engine() as engine:
        options = SegmentOptions(device=flags.device)
        run_to_end(engine.run(Segment(sample.stack, str(BASE), options, preview=True)))
        run_to_end(engine.run(PlanFinetuning(settings_for("lesson", "quick"), (corrected,), flags.device)))
        for number in range(flags.rounds):
            settings = settings_for(f"quick-{number}", "quick")
            shutil.rmtree(work / settings.name, ignore_errors=True)
            start = time.perf_counter()
            run_to_end(engine.run(Finetune(settings, (corrected,), work, flags.device)))
            trained = time.perf_counter()
            run_to_end(engine.run(Segment(sample.stack, str(work / settings.name), options, preview=True)))
            rows.append((trained - start, time.perf_counter() - trained))
    print_place("10 strokes on a synthetic slice of 512², quick, warm engine")
    heads = ("round", "new model, s", "view segmented, s", "together, s", "target, s")
    print_table(heads, [(str(n), f"{a:.1f}", f"{b:.1f}", f"{a + b:.1f}", "15") for n, (a, b) in enumerate(rows)])


def pace(flags: argparse.Namespace, work: Path) -> None:
    """Print the seconds of a step, wall and processor: the median of the first ones, before anything is validated."""
    sample = make_sample((1, 512, 512), seed=3)
    strokes = paint_strokes((1 + sample.membrane).astype(np.uint8)[0], 10, seed=0)[None]
    rows = []
    for reach in ("normal", "full"):
        settings = settings_for(f"pace-{reach}", reach, steps=LONG, precision="f32")
        for left in work.glob(f"{settings.name}*"):
            shutil.rmtree(left, ignore_errors=True)
        marks: dict[int, tuple[float, float]] = {}
        for progress in iter_finetune(settings, [Corrected(sample.stack, strokes, "synthetic")], work, "cpu"):
            if isinstance(progress, TrainingProgress):
                marks.setdefault(progress.step, (time.perf_counter(), time.process_time()))
                if progress.step == FIRST:
                    break
        spent = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(mark for step, mark in sorted(marks.items()) if step)]
        wall, processor = (statistics.median(values) for values in zip(*spent, strict=True))
        rows.append((reach, f"{wall:.2f}", f"{processor:.2f}", f"{1 / wall:.2f}"))
    print_place(f"{BASE}, a synthetic slice of 512², f32")
    print_table(("reach", "seconds a step", "processor seconds", "steps a second"), rows)


def write_snapshot(strokes: NDArray[np.uint8], folder: Path) -> Snapshot:
    """Write strokes as the viewer does for the engine; return where."""
    place = folder / "strokes.zarr"
    array = zarr.create_array(place, shape=strokes.shape, chunks=(1, 256, 256), dtype="uint8", fill_value=0)
    array[:] = strokes
    return Snapshot(place)


def mitochondria(flags: argparse.Namespace, work: Path) -> None:
    """Print Dice of mitochondria on slices never seen, after corrections of five slices."""
    volume = read_volume(flags.folder, "mitochondria")
    dense, sparse = volume.truth[LEARNT], paint_share(volume.truth[LEARNT], SPARSE, seed=0)
    print_place(f"{BASE} to mitochondria, slices 0-4 → 5-9 of 1024², {flags.minutes:g} minutes each")
    rows = []
    for name, labels in (("dense", dense), ("sparse", sparse)):
        if name in flags.only:
            settings = settings_for(f"mito-{name}", "full", minutes=flags.minutes, classes=MITOCHONDRION)
            model, seconds = finetuned(settings, Corrected(volume.stack(LEARNT), labels, "vnc"), work)
            share = np.count_nonzero(labels) / labels.size
            rows.append((f"ours, {name} ({share:.1%} of the pixels)", seconds, dice_of(model, volume, "mitochondrion")))
    if "monai" in flags.only:
        start = time.perf_counter()
        predict = train_basic_unet(volume.image[LEARNT], volume.truth[LEARNT], flags.minutes * 60, work)
        taken = time.perf_counter() - start
        rows.append(("MONAI BasicUNet from scratch, dense", taken, dice_of_slices(predict, volume)))
    print_table(("run", "seconds", "Dice"), [(title, f"{taken:.0f}", f"{dice:.3f}") for title, taken, dice in rows])


def dice_of_slices(predict: Callable[[NDArray[Any]], NDArray[Any]], volume: Volume) -> float:
    """Return Dice at 0.5 of a function that gives the probability of a slice."""
    predicted = np.stack([predict(each) for each in volume.image[SCORED]]) > 0.5
    return score_overlap(predicted, volume.truth[SCORED] == 2).dice


def active(flags: argparse.Namespace, work: Path) -> None:
    """Print Dice of membranes after as many strokes at the places that were ranked as at random ones."""
    volume = read_volume(flags.folder, "membranes")
    base = skipseg.load_model(BASE)
    stack = volume.stack(LEARNT)
    probability = np.asarray(skipseg.segment(stack, base).probability)
    before = dice_of(base, volume, "membrane")
    rows: dict[str, list[float]] = {"ranked": [], "random": []}
    for seed in flags.seeds:
        for kind, found in rows.items():
            boxes = (ranked if kind == "ranked" else at_random)(probability, flags.places, seed)
            labels = correct(probability, volume.truth[LEARNT], boxes, seed)
            settings = settings_for(f"{kind}-{flags.places}-{seed}", "normal", seed=seed, steps=flags.steps)
            model, _ = finetuned(settings, Corrected(stack, labels, "vnc"), work)
            found.append(dice_of(model, volume, "membrane"))
    print_place(f"{BASE} on vnc membranes, {flags.places} places with two strokes each, {flags.steps} steps")
    cells = [("as shipped", f"{before:.3f}", "")]
    for kind, found in rows.items():
        spread = f"{statistics.stdev(found):.3f}" if len(found) > 1 else ""
        cells.append(
            (f"{kind} places", f"{statistics.fmean(found):.3f} ({', '.join(f'{d:.3f}' for d in found)})", spread)
        )
    print_table(("strokes at", "Dice, mean of the seeds", "sd"), cells)


def ranked(probability: NDArray[Any], count: int, seed: int) -> list[tuple[slice, ...]]:
    """Return the places that the plugin would show next, chosen by the seed among twice as many."""
    nothing = SparseArray(probability.shape)
    places = run_to_end(iter_rank_regions(probability, "ZYX", ("membrane",), nothing, count=2 * count, side=SIDE))
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    return [tuple(slice(low, high) for low, high in places[number].box) for number in chosen]


def at_random(probability: NDArray[Any], count: int, seed: int) -> list[tuple[slice, ...]]:
    """Return as many places of the same size, uniform over the stack."""
    generator = np.random.default_rng(1000 + seed)
    boxes = []
    for _ in range(count):
        z, y, x = (
            int(generator.integers(n)) for n in (probability.shape[0], *(probability.shape[a] - SIDE for a in (1, 2)))
        )
        boxes.append((slice(z, z + 1), slice(y, y + SIDE), slice(x, x + SIDE)))
    return boxes


def correct(
    probability: NDArray[Any], truth: NDArray[np.uint8], boxes: list[tuple[slice, ...]], seed: int
) -> NDArray[np.uint8]:
    """Return the strokes of a user who corrects each of the places."""
    painted = np.zeros_like(truth)
    for number, box in enumerate(boxes):
        generator = np.random.default_rng((seed, number))
        predicted = (1 + (probability[box][0] > 0.5)).astype(np.uint8)
        correct_place(painted[box][0], predicted, truth[box][0], generator)
    return painted


def forgetting(flags: argparse.Namespace, work: Path) -> None:
    """Print V_rand of the old task before and after the new one was learnt."""
    image = tifffile.imread(next(flags.folder.glob("train-volume*.tif")))[20:]
    cells = tifffile.imread(next(flags.folder.glob("train-labels*.tif")))[20:] > 0
    stack = Stack(image, Space("ZYX", (50.0, 4.0, 4.0), "nm"), name="isbi")
    rows = []
    for name in (BASE, "mito-dense", "mito-sparse"):
        place = Path(name) if name == BASE else work / name
        if name == BASE or place.exists():
            model = skipseg.load_model(str(place))
            probability = np.asarray(skipseg.segment(stack, model).probability)
            membrane = (
                probability[model.description.class_names.index("membrane")] if probability.ndim == 4 else probability
            )
            scores = score_isbi(1 - membrane, cells.astype(np.uint8))
            rows.append((name, scores.v_rand, scores.v_info))
    print_place("membranes of ISBI 2012, slices 20-24 (the shipped weights have seen them)")
    start = rows[0][1]
    print_table(
        ("model", "V_rand", "V_info", "V_rand lost (target ≤ 0.01)"),
        [(name, f"{rand:.4f}", f"{info:.4f}", f"{start - rand:.4f}") for name, rand, info in rows],
    )


def told(flags: argparse.Namespace, work: Path) -> None:
    """Print the seconds that are told before a fine-tuning from 40 strokes, and those that it takes, by reach."""
    image = tifffile.imread(flags.folder / "stack1-raw-00-09.tif")[:5:2, :512, :512]
    values = tifffile.imread(flags.folder / "stack1-mitochondria-00-09.tif")[:5:2, :512, :512]
    truth = (1 + (values >= 128)).astype(np.uint8)
    counts = (14, 14, 12)
    labels = np.stack(
        [paint_strokes(each, count, z) for z, (each, count) in enumerate(zip(truth, counts, strict=True))]
    )
    corrected = (Corrected(Stack(image, Space("ZYX", VOXEL_SIZE, "nm"), name="vnc"), labels, "vnc"),)
    rows = []
    for reach in flags.reaches:
        settings = FinetuneSettings(
            f"told-{reach}", ("vnc.tif",), ("labels.tif",), model=BASE, reach=reach, classes=MITOCHONDRION
        )
        seconds = run_to_end(iter_plan_finetuning(settings, corrected, flags.device)).seconds or 0.0
        shutil.rmtree(work / settings.name, ignore_errors=True)
        began = time.perf_counter()
        used = time.process_time()
        made = run_to_end(iter_finetune(settings, corrected, work, flags.device))
        taken, used = time.perf_counter() - began, time.process_time() - used
        steps = len(read_model(made.folder).description.training.curves.get("training loss", ()))
        print(reach, seconds, taken, used, steps, made.report.reason, flush=True)
        rows.append((reach, f"{seconds:.0f}", f"{taken:.0f}", f"{taken / seconds - 1:+.0%}", f"{used:.0f}"))
    print_place("from 40 strokes on three slices of 512²")
    print_table(("reach", "told, s", "taken, s", "off (target ± 25 %)", "of the processor, s"), rows)


PARTS = {
    "quick": quick,
    "pace": pace,
    "mitochondria": mitochondria,
    "active": active,
    "forgetting": forgetting,
    "told": told,
}


def main() -> None:
    """Run the chosen part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", default=["dense", "sparse", "monai"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--places", type=int, default=10)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--reaches", nargs="+", default=["quick", "normal", "full"])
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    PARTS[flags.part](flags, flags.work)


if __name__ == "__main__":
    main()
