"""onnxruntime beside OpenVINO and torch on the CPU: one tile of two built-in models, each in a warm backend.

    python benchmarks/onnx_runtime.py [--rounds 9]

The rounds go in turn through all rows, so that other work on the machine meets all of them; each row is its least time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import napari_skipseg as skipseg
from napari_skipseg.devices import Device, cpu_title
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.models.exchange.network_files import onnx_bytes

TILES = {"em-boundary-3d": (64, 64, 64), "em-membrane": (512, 512)}


def main() -> None:
    """Print the seconds of each row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    import onnxruntime

    cpu = Device("cpu", cpu_title(), "")
    for name, shape in TILES.items():
        model = skipseg.load_model(name)
        pixels = np.random.default_rng(0).normal(size=(1, 1, *shape)).astype(np.float32)
        session = onnxruntime.InferenceSession(onnx_bytes(model), providers=["CPUExecutionProvider"])
        best, whole, plain = (
            OpenVINOBackend(model, shape),
            OpenVINOBackend(model, shape, "f32"),
            TorchBackend(model, cpu),
        )
        for backend in (best, whole, plain):
            backend.attention = False
        runs = {
            f"OpenVINO {best.precision}": lambda best=best, pixels=pixels: best.run(pixels),
            "OpenVINO f32": lambda whole=whole, pixels=pixels: whole.run(pixels),
            f"torch {plain.precision}": lambda plain=plain, pixels=pixels: plain.run(pixels),
            "onnxruntime f32": lambda session=session, pixels=pixels: session.run(None, {"input": pixels}),
        }
        least = dict.fromkeys(runs, np.inf)
        for number in range(rounds + 1):
            for title, run in runs.items():
                began = time.perf_counter()
                run()
                if number:  # the first round warms up
                    least[title] = min(least[title], time.perf_counter() - began)
        for title, seconds in least.items():
            print(f"| {name} | {title} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    main()
