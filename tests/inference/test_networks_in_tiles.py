"""Real networks with random weights: tiles and backends change nothing that can be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from identity import always, make_model
from numpy.typing import NDArray

from napari_skipseg.devices import Device, has_openvino
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import choose
from napari_skipseg.inference.backends.choose import make_backend
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

CPU = Device("cpu", "CPU", "for the test")
RNG = np.random.default_rng(5)


def in_float32(values: NDArray[Any], model: Model, **options: Any) -> Prediction:
    backend = TorchBackend(model, CPU, "f32")
    stack = Stack(values, Space("ZYX"[-values.ndim :]))
    return run_to_end(
        iter_predict(RunSpec(stack, model, SegmentOptions("cpu", **options), backend_maker=always(backend)))
    )


@pytest.mark.parametrize(
    ("shape", "dimensions", "widths", "margin"),
    [
        ((93, 121), 2, (3, 4), 12),
        ((130, 101), 2, (2, 3, 4), 24),
        ((2, 75, 60), 2, (3, 4), 12),
        ((37, 40, 45), 3, (3, 4), 12),
    ],
)
def test_tiled_equals_whole(shape: tuple[int, ...], dimensions: int, widths: tuple[int, ...], margin: int) -> None:
    values, model = RNG.integers(0, 256, shape).astype(np.uint8), make_model(dimensions, widths, margin=margin)
    whole, tiled = in_float32(values, model), in_float32(values, model, tile=2 * margin + 8)
    assert tiled.recipe["tile"] != whole.recipe["tile"]
    assert whole.probability.std() > 0.1
    assert np.abs(tiled.probability - whole.probability).max() < 1e-4
    for here, there in zip(tiled.attentions, whole.attentions, strict=True):
        assert np.abs(here.data - there.data).max() < 1e-4


def test_too_small_a_margin_shows() -> None:
    values, model = RNG.integers(0, 256, (93, 121)).astype(np.uint8), make_model(widths=(3, 4), margin=0)
    difference = in_float32(values, model, tile=32).probability - in_float32(values, model).probability
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("dimensions", [2, 3])
def test_mean_over_copies_follows_a_flip_of_the_image(dimensions: int) -> None:
    values, model = RNG.integers(0, 256, (16,) * dimensions).astype(np.uint8), make_model(dimensions, (2, 3, 4))
    once = in_float32(values, model, average=8)
    for axis in range(dimensions):
        again = in_float32(np.flip(values, axis).copy(), model, average=8)
        np.testing.assert_allclose(np.flip(again.probability, axis), once.probability, atol=1e-5)
        for here, there in zip(again.attentions, once.attentions, strict=True):
            np.testing.assert_allclose(np.flip(here.data, axis), there.data, atol=1e-5)
    assert np.abs(once.probability - in_float32(values, model).probability).max() > 1e-3


@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
@pytest.mark.parametrize(("dimensions", "shape"), [(2, (64, 48)), (2, (37, 51)), (3, (16, 24, 20))])
def test_openvino_agrees_with_torch(dimensions: int, shape: tuple[int, ...]) -> None:
    model = make_model(dimensions, (4, 6, 8), classes=("membrane", "mitochondrion"), in_channels=2)
    images = RNG.normal(size=(3, 2, *shape)).astype(np.float32)
    fast, plain = OpenVINOBackend(model, shape, "f32").run(images), TorchBackend(model, CPU, "f32").run(images)
    assert fast.probability.shape == plain.probability.shape == (3, 2, *shape)
    assert [a.shape for a in fast.attentions] == [a.shape for a in plain.attentions]
    for here, there in zip((fast.probability, *fast.attentions), (plain.probability, *plain.attentions), strict=True):
        assert here.dtype == np.float32
        np.testing.assert_allclose(here, there, atol=1e-3)


@pytest.mark.parametrize("maker", [OpenVINOBackend, lambda m, shape, p: TorchBackend(m, CPU, p)])
def test_half_precision_stays_near(maker: Any) -> None:
    if maker is OpenVINOBackend and not has_openvino():
        pytest.skip("OpenVINO is not installed")
    model, images = make_model(widths=(4, 8)), RNG.normal(size=(1, 1, 64, 64)).astype(np.float32)
    half = maker(model, (64, 64), "bf16")
    assert half.precision == "bf16"
    assert np.abs(half.run(images).probability - TorchBackend(model, CPU, "f32").run(images).probability).max() < 0.1


def test_a_result_is_not_overwritten_by_the_next_tile() -> None:
    model = make_model()
    backend = make_backend(model, CPU, (32, 32))
    first = backend.run(RNG.normal(size=(1, 1, 32, 32)).astype(np.float32))
    kept = first.probability.copy()
    backend.run(RNG.normal(size=(1, 1, 32, 32)).astype(np.float32))
    np.testing.assert_array_equal(first.probability, kept)


def test_without_openvino_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "has_openvino", lambda: False)
    assert make_backend(make_model(), CPU, (32, 32)).name == "torch"
