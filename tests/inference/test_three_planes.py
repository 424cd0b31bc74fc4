"""A 2D network along all three axes of a volume: from the stack to its results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from identity import Identity, identity, make_model
from numpy.typing import NDArray

from napari_skipseg.devices import Device
from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends.choose import BackendMaker
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(23)


def grey(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def in_planes(stack: Stack, model: Model, maker: BackendMaker = identity, **options: Any) -> Prediction:
    return run_to_end(
        iter_predict(RunSpec(stack, model, SegmentOptions("cpu", planes="xyz", **options), backend_maker=maker))
    )


@pytest.mark.parametrize("tile", [0, 16, 24])
@pytest.mark.parametrize(
    ("axes", "shape"), [("ZYX", (30, 27, 41)), ("TZYX", (2, 9, 20, 17)), ("ZYX", (2, 33, 3)), ("CZYX", (2, 9, 20, 17))]
)
def test_an_identity_network_gives_the_volume_back(axes: str, shape: tuple[int, ...], tile: int) -> None:
    stack = Stack(grey(*shape), Space(axes, (8.0, 8.0, 8.0), "nm", (1.0, 2.0, 3.0)))
    channel = 1 if "C" in axes else None
    prediction = in_planes(stack, make_model(2, (2, 3, 4), margin=4), tile=tile, channel=channel)
    own = stack.channel(1)
    np.testing.assert_allclose(prediction.probability, measure(own).apply(np.asarray(own.data)), atol=1e-6)
    assert prediction.uncertainty is not None
    assert prediction.uncertainty.shape == prediction.probability.shape
    assert np.abs(prediction.uncertainty).max() <= 1e-6
    assert prediction.attentions == ()
    assert (prediction.space.axes, prediction.space.voxel_size, prediction.space.origin) == (
        own.space.axes,
        (8.0, 8.0, 8.0),
        (1.0, 2.0, 3.0),
    )
    assert len(prediction.recipe["tile"]) == 3


class Position(Identity):
    """Returns each pixel's place along the first axis of its plane."""

    def run(self, images: Pixels) -> TileOutput:
        rows = np.broadcast_to(np.arange(images.shape[2], dtype=np.float32)[:, None], images.shape[2:])
        return TileOutput(np.broadcast_to(rows, (len(images), self.classes, *rows.shape)).copy(), ())


def test_mean_and_uncertainty_are_those_of_the_three_directions() -> None:
    """Across Z the first axis of a plane is Y, across Y and X it is Z."""
    stack = Stack(grey(8, 10, 12), Space("ZYX"))
    model = make_model(2, (2, 3), margin=0)
    prediction = in_planes(stack, model, lambda model, device, shape: Position(model, shape))
    z, y, _ = np.meshgrid(*(np.arange(float(n)) for n in (8, 10, 12)), indexing="ij")
    seen = np.stack([y, z, z])
    np.testing.assert_allclose(prediction.probability, seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(prediction.uncertainty, seen.std(axis=0), atol=1e-5)


def test_tiled_equals_whole_in_three_planes() -> None:
    model = make_model(2, (3, 4), margin=8)

    def maker(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        return TorchBackend(model, device, "f32")

    values = grey(16, 20, 24)
    plain = in_planes(Stack(values, Space("ZYX")), model, maker)
    tiled = in_planes(Stack(values, Space("ZYX")), model, maker, tile=20)
    assert tiled.recipe["tile"] != plain.recipe["tile"]
    assert plain.probability.std() > 0.05
    np.testing.assert_allclose(tiled.probability, plain.probability, atol=1e-4)
    np.testing.assert_allclose(tiled.uncertainty, plain.uncertainty, atol=1e-4)


def test_anisotropic_voxels_are_rescaled_to_cubes() -> None:
    model = make_model(2, (2, 3, 4), margin=4)
    model = replace(model, description=replace(model.description, voxel_size=(50.0, 4.0, 4.0), unit="nm"))
    stack = Stack(grey(10, 30, 28), Space("ZYX", (8.0, 4.0, 4.0), "nm"))
    prediction = in_planes(stack, model, rescale=True)
    assert prediction.recipe["tile"] == (20, 32, 28)
    assert prediction.probability.shape == (10, 30, 28)


def test_progress_counts_batches_of_slices() -> None:
    work = iter_predict(
        RunSpec(
            Stack(grey(9, 16, 16), Space("ZYX")),
            make_model(2, (2, 3), margin=0),
            SegmentOptions("cpu", planes="xyz"),
            backend_maker=identity,
        )
    )
    counts = [(progress.done, progress.total) for progress in work if progress.total > 1]
    assert counts == [(done, 6) for done in range(1, 7)]


def test_what_cannot_be_seen_in_three_planes_is_refused() -> None:
    with pytest.raises(InputError, match=r"3D model and sees all three axes at once.*planes xy"):
        in_planes(Stack(grey(9, 16, 16), Space("ZYX")), make_model(3))
    for stack in (
        Stack(grey(16, 16), Space("YX")),
        Stack(grey(1, 16, 16), Space("ZYX")),
        Stack(grey(3, 16, 16), Space("TYX")),
    ):
        with pytest.raises(InputError, match=r"no Z axis to segment along.*planes xy"):
            in_planes(stack, make_model(2))
    for options in ({"samples": 3}, {"average": 4}):
        with pytest.raises(InputError, match="cannot be averaged together"):
            in_planes(Stack(grey(9, 16, 16), Space("ZYX")), make_model(2), **options)
