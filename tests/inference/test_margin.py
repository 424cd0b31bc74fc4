"""The margin is measured: a backend whose borders are felt so far gives just that margin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from identity import make_model

from napari_skipseg.devices import Device
from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.margin import iter_measure_margin
from napari_skipseg.progress import run_to_end


class FeelsBorders:
    """Returns 1 where the image is above 0, and the opposite within `reach` voxels of its near borders."""

    name, precision = "feels-borders", "f32"

    def __init__(self, reach: int) -> None:
        self.reach = reach

    def run(self, images: Pixels) -> TileOutput:
        inner = np.zeros(images.shape[2:], bool)
        inner[tuple(slice(self.reach, None) for _ in images.shape[2:])] = True
        return TileOutput(np.where(inner, images > 0, images <= 0).astype(np.float32), ())


def measure(backend: Any, image: Pixels, stride: int) -> int:
    return run_to_end(iter_measure_margin(backend, image, stride))


def checkered(*shape: int) -> Pixels:
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("reach", "stride", "margin"), [(0, 8, 8), (3, 8, 8), (8, 8, 8), (9, 8, 16), (21, 8, 24), (60, 8, 64), (5, 4, 8)]
)
def test_margin_covers_the_reach_of_a_2d_network(reach: int, stride: int, margin: int) -> None:
    assert measure(FeelsBorders(reach), checkered(512, 512), stride) == margin


@pytest.mark.parametrize(("reach", "margin"), [(0, 4), (5, 8), (12, 12)])
def test_margin_covers_the_reach_of_a_3d_network(reach: int, margin: int) -> None:
    assert measure(FeelsBorders(reach), checkered(96, 96, 96), 4) == margin


def test_a_reach_beyond_all_margins_gives_the_largest_tried() -> None:
    assert measure(FeelsBorders(120), checkered(512, 512), 4) == 64


def test_a_small_image_gives_the_largest_margin_that_fits() -> None:
    assert measure(FeelsBorders(30), checkered(64, 64), 8) == 24


def test_a_volume_of_few_slices_is_measured_along_its_long_axes() -> None:
    for depth in (2, 6, 20, 40):
        assert measure(FeelsBorders(0), checkered(depth, 96, 96), 4) == 4
    assert measure(FeelsBorders(9), checkered(24, 96, 96), 4) == 12
    assert measure(FeelsBorders(30), checkered(96, 96, 96), 8) == 32


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (256, 200)), (3, (2, 64, 64)), (3, (20, 64, 64))])
def test_the_margin_of_a_real_network_covers_its_reach(dimensions: int, shape: tuple[int, ...]) -> None:
    model = make_model(dimensions, (3, 4))
    backend = TorchBackend(model, Device("cpu", "CPU", "for the test"), "f32")
    assert 2 <= measure(backend, checkered(*shape), model.network.stride) <= 12
