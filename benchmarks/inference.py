"""Inference on the CPU: ours beside MONAI's sliding window, same weights, same image, one run.

    python benchmarks/inference.py [--model em-membrane] [--size 2048] [--rounds 3]

Rows: MONAI's `sliding_window_inference` with its defaults in float32 (window 256, overlap 0.25); the same tuned by hand
(channels-last, in bfloat16 where the processor has it), with other overlaps and windows; ours. Times are the
least of the rounds and include reading the margins. Agreement is the share of pixels whose binary value is that of the
whole image in float32.
Two ratios count: over the default, and over the fastest tuned row that agrees as well as ours does.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.inferers import sliding_window_inference

import napari_skipseg as skipseg
from napari_skipseg.devices import best_precision, cpu_title, versions
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.inference.backends.choose import make_backend
from napari_skipseg.inference.backends.folding import Probabilities
from napari_skipseg.inference.backends.torch_backend import DTYPES, TorchBackend
from napari_skipseg.models.model import Model

Run = Callable[[], np.ndarray]


def monai_run(model: Model, image: np.ndarray, window: int, overlap: float, tuned: torch.dtype | None) -> Run:
    """Return a call that runs MONAI's sliding window and returns the probability (Y, X).

    tuned: the type of weights in channels-last, None = as loaded.
    """
    network = Probabilities(model.network).eval()
    tensor = torch.from_numpy(image)[None]
    if tuned is not None:
        network = copy.deepcopy(network).to(tuned, memory_format=torch.channels_last)

    def predictor(patch: torch.Tensor) -> torch.Tensor:
        if tuned is not None:
            patch = patch.to(tuned, memory_format=torch.channels_last)
        return network(patch)[0].float()

    def run() -> np.ndarray:
        with torch.inference_mode():
            return sliding_window_inference(tensor, (window, window), 1, predictor, overlap)[0, 0].numpy()

    return run


def our_run(model: Model, stack: skipseg.Stack) -> Run:
    """Return a call that runs the package's own engine, with a warm backend as in the viewer."""
    backends: dict[tuple[int, ...], object] = {}

    def warm(model, device, shape):  # the engine process keeps its backends in the same way
        if shape not in backends:
            backends[shape] = make_backend(model, device, shape)
        return backends[shape]

    options = skipseg.SegmentOptions(device="cpu", attention=False)
    return lambda: (
        skipseg.run_to_end(skipseg.iter_predict(skipseg.RunSpec(stack, model, options, backend_maker=warm))).probability
    )


def least_seconds(run: Run, rounds: int) -> tuple[float, np.ndarray]:
    """Return the least time of `rounds` calls after one to warm up, and the result."""
    result = run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    model = skipseg.load_model(arguments.model)
    sample = skipseg.make_sample((1, arguments.size, arguments.size), seed=7).stack
    stack = skipseg.Stack(np.asarray(sample.read((0,))), Space("YX"))
    image = measure(stack).apply(stack.data)[None]
    reference = TorchBackend(model, skipseg_device(), "f32").run(image[None]).probability[0, 0] > 0.5

    runs: dict[str, Run] = {
        "MONAI default: f32, window 256, overlap 0.25": monai_run(model, image, 256, 0.25, None),
    }
    precision = best_precision("cpu").name
    for window, overlap in ((256, 0.125), (256, 0.25), (256, 0.5), (512, 0.25)):
        title = f"MONAI tuned: {precision}, window {window}, overlap {overlap:g}"
        runs[title] = monai_run(model, image, window, overlap, DTYPES[precision])
    runs["ours"] = our_run(model, stack)
    print(f"{datetime.date.today()}, {cpu_title()}, {platform.machine()}, {versions()}")
    print(f"model {arguments.model}, margin {model.description.margin}, image {arguments.size}²\n")
    print("| run | seconds | Mpx/s | agreement with whole-image f32 | ours is faster by |\n|---|---|---|---|---|")
    measured = {name: least_seconds(run, arguments.rounds) for name, run in runs.items()}
    ours = measured["ours"][0]
    for name, (seconds, probability) in measured.items():
        agreement = float(((probability > 0.5) == reference).mean())
        speed = arguments.size**2 / seconds / 1e6
        print(f"| {name} | {seconds:.2f} | {speed:.2f} | {agreement:.4%} | {seconds / ours:.2f}× |")


def skipseg_device():
    from napari_skipseg.devices import choose_device

    return choose_device("cpu")


if __name__ == "__main__":
    main()
