"""From a stroke to the new view of *Live*: 20 strokes on a view of 512 x 512, through a warm engine.

    python benchmarks/live.py [--here] [--strokes 20] [--model em-membrane] [--image IMAGE.tif --truth TRUTH.tif --at 1]

Without an image, the strokes teach the mitochondria of the synthetic sample. They are drawn from the truth by the rule
in `strokes.py`, class and background in turn. Measured is what the window waits for: from the request with the labels
to the probability of the view. *First* is the view without strokes, for which the features are computed. `processor` is
what the engine's process used of the processor, which tells more than the clock if the machine is busy. One without
bf16 is imitated with ONEDNN_MAX_CPU_ISA=AVX2. With `--here` the work is done in this process: the engine's process lets
others go first, so on a busy machine its times say nothing. Prints a dated Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import strokes
import tifffile
from measuring import print_place, print_table

import napari_skipseg as skipseg
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import ListDevices, LiveView
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.training.finetune.live import LiveFeatures
from napari_skipseg.training.progress import LivePart, LiveResult

SIDE, BORDER = 512, 64


def main() -> None:
    """Read the command line, and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--at", type=float, default=1)
    args = parser.parse_args()
    if args.image is None:
        sample = skipseg.make_sample((1, SIDE + 2 * BORDER, SIDE + 2 * BORDER))
        plane, truth = np.asarray(sample.stack.data)[0], sample.mitochondria[0] > 0
    else:
        plane, truth = tifffile.imread(args.image)[0], tifffile.imread(args.truth)[0] >= args.at
    normalization = measure(Stack(plane, Space("YX"), name="image"))
    wide = SIDE + 2 * BORDER
    plane, inside = plane[:wide, :wide], truth[BORDER : BORDER + SIDE, BORDER : BORDER + SIDE]
    labels, generator = np.zeros((SIDE, SIDE), np.uint8), np.random.default_rng(0)
    box = (BORDER, BORDER + SIDE)
    rows = []

    def request() -> LiveView:
        part = LivePart(0, 0, (box, box), (0, 0), plane[None], labels)
        return LiveView("benchmark", args.model, ("mitochondrion",), (part,), normalization)

    def judge(work: Generator[Progress, Any, LiveResult], clock: Callable[[], float]) -> tuple[float, float, float]:
        """Return seconds by the wall, processor seconds, and Dice of the view."""
        began, before = time.perf_counter(), clock()
        result = run_to_end(work)
        seconds, used = time.perf_counter() - began, clock() - before
        dice = 0.0 if result.probability is None else score_overlap(result.probability[0] > 0.5, inside).dice
        print(f"{seconds:.2f} s, {used:.2f} s of processor, Dice {dice:.3f}", flush=True)
        return seconds, used, dice

    with contextlib.ExitStack() as leaving:
        if args.here:
            live = LiveFeatures(skipseg.load_model(args.model), "benchmark", normalization, "cpu")

            def show() -> tuple[float, float, float]:
                asked = request()
                return judge(live.iter_update(asked.names, asked.parts), time.process_time)
        else:
            engine = leaving.enter_context(Engine())
            run_to_end(engine.run(ListDevices()))
            process = psutil.Process(engine.pid)

            def show() -> tuple[float, float, float]:
                return judge(engine.run(request()), lambda: sum(process.cpu_times()[:2]))

        first = show()
        for number in range(args.strokes):
            strokes.paint_stroke(labels, inside == (number % 2 == 0), 2 - number % 2, generator)
            rows.append(show())
    print_place()
    clock, used = [row[0] for row in rows[1:]], [row[1] for row in rows[1:]]  # the first lacks a background
    heads = ["strokes", "first view, s", "processor", "stroke to view, s", "worst", "processor, s", "worst", "Dice"]
    figures = [*first[:2], statistics.median(clock), max(clock), statistics.median(used), max(used)]
    print_table(heads, [[str(args.strokes), *(f"{each:.2f}" for each in figures), f"{rows[-1][2]:.3f}"]])


if __name__ == "__main__":
    main()
