"""What a tile takes in memory is counted: as much as a real pass of that size, whatever the network."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from identity import make_model
from run_python import run_python

from napari_skipseg.devices import has_openvino
from napari_skipseg.inference.activations import StorageMeter
from napari_skipseg.inference.backends.folding import ready_for_inference
from napari_skipseg.inference.backends.torch_backend import DTYPES
from napari_skipseg.inference.memory import FACTORS, FLOAT, tile_bytes
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import NetworkSpec, ResidualFCNSpec, TiramisuSpec, UNetSpec, VNetSpec


def make(spec: NetworkSpec) -> Model:
    return Model(ModelDescription("tiny", spec, (ClassLabel("membrane", 1),), 8, ""), build(spec).eval())


def count_pass(model: Model, shape: tuple[int, ...], batch: int, precision: str, device: str) -> tuple[int, int]:
    """Bytes at the peak of a pass over a tile of this very size, and all that is there before and after it."""
    network = ready_for_inference(model).to(DTYPES[precision])
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    network.to(device)
    image = torch.zeros(batch, model.description.spec.in_channels, *shape, device=device)
    with torch.inference_mode(), StorageMeter() as meter:
        outputs = network(image.to(DTYPES[precision], copy=True))
        return meter.peak, weights + FLOAT * sum(tensor.numel() for tensor in (image, *outputs))


@pytest.mark.parametrize(
    ("maker", "shape", "batch", "precision"),
    [
        (make_model, (64, 64), 1, "f32"),
        (make_model, (64, 96), 3, "f16"),
        (partial(make_model, 3, (4, 6, 8)), (24, 32, 24), 1, "bf16"),
        (partial(make_model, in_channels=3, classes=("a", "b", "c")), (48, 48), 2, "f32"),
        (partial(make_model, skip="additive"), (48, 48), 1, "bf16"),
        (partial(make, ResidualFCNSpec()), (96, 96), 1, "bf16"),
    ],
    ids=["2D", "batch", "3D", "classes", "additive", "residual"],
)
def test_a_tile_takes_to_the_byte_what_a_real_pass_takes(
    maker: Callable[[], Model], shape: tuple[int, ...], batch: int, precision: str
) -> None:
    model = maker()
    peak, besides = count_pass(model, shape, batch, precision, "cpu")
    assert tile_bytes(model, shape, batch, precision) == peak + besides
    assert peak > FLOAT * batch * math.prod(shape)


@pytest.mark.parametrize("spec", [TiramisuSpec(), VNetSpec(), UNetSpec(skip="st")], ids=lambda spec: spec.network)
def test_a_large_tile_takes_what_a_pass_without_values_takes(spec: NetworkSpec) -> None:
    model = make(spec)
    shape = (1024,) * 2 if spec.dimensions == 2 else (128,) * 3
    peak, besides = count_pass(model, shape, 1, "bf16", "meta")
    assert tile_bytes(model, shape, 1, "bf16") == pytest.approx(peak + besides, rel=0.001)


def test_memory_grows_with_area_and_batch_and_halves_with_the_precision() -> None:
    model = make_model(widths=(16, 32))
    weights = tile_bytes(model, (64, 64), 0, "f32")
    one = tile_bytes(model, (64, 64), 1, "f32") - weights
    assert tile_bytes(model, (128, 256), 1, "f32") - weights == 8 * one
    assert tile_bytes(model, (64, 64), 5, "f32") - weights == 5 * one
    assert tile_bytes(model, (63, 64), 1, "f32") - weights == one, "tiles are padded to the stride"
    assert 0.5 < (tile_bytes(model, (64, 64), 1, "bf16") - tile_bytes(model, (64, 64), 0, "bf16")) / one < 0.6


def test_wider_networks_take_more() -> None:
    narrow, wide = (tile_bytes(make_model(widths=widths), (256, 256), 1, "f32") for widths in ((8, 16), (16, 32)))
    assert 1.7 < wide / narrow < 2


GROWTH = """
import sys, threading
import numpy as np, psutil
from napari_skipseg.devices import Device
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.memory import tile_bytes
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.model import read_model

model, side = read_model(locate_model(sys.argv[1])), int(sys.argv[2])
def make(side):
    shape = (side,) * model.description.spec.dimensions
    backend = OpenVINOBackend(model, shape) if sys.argv[3] == "openvino" else TorchBackend(model, Device("cpu", "", ""))
    return backend, np.ones((1, 1, *shape), np.float32)
backend, images = make(32)
backend.run(images)
process, done = psutil.Process(), threading.Event()
before = peak = process.memory_info().rss
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, process.memory_info().rss)
watcher = threading.Thread(target=watch)
watcher.start()
backend, images = make(side)
backend.run(images)
backend.run(images)
done.set()
watcher.join()
print((peak - before) / tile_bytes(model, images.shape[2:], 1, backend.precision))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted otherwise elsewhere")
@pytest.mark.parametrize("backend", ["openvino", "torch"])
@pytest.mark.parametrize(("name", "side"), [("em-membrane", 1088), ("em-boundary-3d", 128)])
def test_a_process_grows_by_what_was_said_and_no_more_than_the_factor(name: str, side: int, backend: str) -> None:
    if backend == "openvino" and not has_openvino():
        pytest.skip("OpenVINO is not installed")
    growth = float(run_python(GROWTH, name, side, backend).stdout)
    assert 0.5 < growth < FACTORS["cpu"]
