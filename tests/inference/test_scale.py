"""Another voxel size than the model's: tiles are resampled on the way in, results lie on the stack's own grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from identity import always, identity, make_model
from numpy.typing import NDArray

from napari_skipseg.devices import Device
from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import measure, measure_greys
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference import tiling
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.scale import lengths_seen_by_network, network_scale, trained_voxel_size
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

CPU = Device("cpu", "CPU", "for the test")
RNG = np.random.default_rng(17)


def at(model: Model, *voxel_size: float, unit: str = "nm") -> Model:
    """The model, trained at this voxel size (z, y, x)."""
    z, y, x = voxel_size
    return replace(model, description=replace(model.description, voxel_size=(z, y, x), unit=unit))


def in_float32(stack: Stack, model: Model, rescale: bool = True, **options: Any) -> Prediction:
    backend = TorchBackend(model, CPU, "f32")
    work = iter_predict(
        RunSpec(stack, model, SegmentOptions("cpu", rescale=rescale, **options), backend_maker=always(backend))
    )
    return run_to_end(work)


def through_identity(stack: Stack, model: Model, **options: Any) -> Prediction:
    return run_to_end(
        iter_predict(RunSpec(stack, model, SegmentOptions("cpu", rescale=True, **options), backend_maker=identity))
    )


def interpolated(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    """The last axes of `values` (Z, Y, X) brought to `size` by torch: averaged where it is smaller."""
    images = torch.from_numpy(np.asarray(values, np.float32))
    if len(size) == 3:
        return torch.nn.functional.interpolate(images[None, None], size=size, mode="trilinear")[0, 0].numpy()
    return torch.nn.functional.interpolate(images[:, None], size=size, mode="bilinear", antialias=True)[:, 0].numpy()


def cells(*shape: int) -> NDArray[np.uint8]:
    """Grey values that vary from place to place, with noise."""
    coarse = RNG.random([-(-length // 5) for length in shape])
    for axis in range(len(shape)):
        coarse = coarse.repeat(5, axis)
    values = coarse[tuple(slice(length) for length in shape)] * 150 + RNG.random(shape) * 80
    return values.astype(np.uint8)


@pytest.mark.parametrize(("voxel", "network"), [(8.0, (120, 140)), (2.0, (30, 35)), (5.48, (82, 96))])
def test_a_rescaled_run_is_that_of_the_image_resampled_beforehand(voxel: float, network: tuple[int, int]) -> None:
    model = at(make_model(widths=(3, 4)), 1.0, 4.0, 4.0)
    stack = Stack(cells(3, 60, 70), Space("ZYX", (40.0, voxel, voxel), "nm"))
    before = Stack(interpolated(stack.data, network), Space("ZYX", (40.0, 4.0, 4.0), "nm"))
    found, there = in_float32(stack, model), in_float32(before, model, rescale=False)
    assert there.probability.std() > 0.1
    expected = interpolated(there.probability, (60, 70))
    np.testing.assert_allclose(found.probability, expected, atol=2e-4)
    assert np.mean((found.probability > 0.5) == (expected > 0.5)) > 0.999
    for name in ("mean", "deviation"):
        assert found.recipe["normalization"][name] == pytest.approx(there.recipe["normalization"][name], rel=1e-5)


def test_an_anisotropic_volume_is_rescaled_along_the_axes_that_differ() -> None:
    model = at(make_model(3, (3, 4)), 8.0, 8.0, 4.0)
    stack = Stack(cells(10, 24, 20), Space("ZYX", (24.0, 8.2, 8.0), "nm"))
    before = Stack(interpolated(stack.data, (30, 24, 40)), Space("ZYX", (8.0, 8.0, 4.0), "nm"))
    found, there = in_float32(stack, model), in_float32(before, model, rescale=False)
    assert np.abs(interpolate_back(there.probability, (10, 24, 20)) - found.probability).max() < 2e-4


def interpolate_back(values: NDArray[np.float32], size: tuple[int, int, int]) -> NDArray[np.float32]:
    """A volume brought to fewer voxels along Z and X: by torch in the planes of each."""
    across = interpolated(values.transpose(1, 0, 2), (size[0], size[2]))
    return across.transpose(1, 0, 2)


@pytest.mark.parametrize(("dimensions", "voxel"), [(2, 2.0), (2, 5.48), (2, 14.0), (3, 2.56), (3, 14.0)])
def test_tiled_equals_whole(dimensions: int, voxel: float) -> None:
    model = at(make_model(dimensions, (3, 4), margin=16), 4.0, 4.0, 4.0)
    shape = [round(length * 4 / voxel) for length in {2: (130, 110), 3: (60, 36, 30)}[dimensions]]
    stack = Stack(cells(*shape), Space("ZYX"[-dimensions:], (voxel,) * 3, "nm"))
    whole, tiled = in_float32(stack, model, tile=4096), in_float32(stack, model, tile=48 if dimensions == 2 else 52)
    assert tiled.recipe["tile"] != whole.recipe["tile"]
    assert np.mean((whole.probability > 0.5) == (tiled.probability > 0.5)) >= 0.999
    assert np.abs(whole.probability - tiled.probability).max() < 1e-4
    for here, there in zip(tiled.attentions, whole.attentions, strict=True):
        assert np.abs(here.data - there.data).max() < 1e-4


@pytest.mark.parametrize(("factor", "tile"), [(0.5, 40), (0.64, 0), (1.37, 40), (2.0, 0), (3.5, 40)])
def test_a_ramp_comes_back_where_it_was_and_attention_maps_lie_over_it(factor: float, tile: int) -> None:
    """At integer strides of the stack's own voxels, whatever the network's are."""
    model = at(make_model(widths=(2, 3, 4, 5), margin=4), 1.0, 4.0, 4.0)
    ramp = np.add.outer(np.arange(120.0), 2 * np.arange(150.0)).astype(np.float32)
    stack = Stack(ramp, Space("YX", (1.0, 4.0 * factor, 4.0 * factor), "nm"))
    prediction = through_identity(stack, model, tile=tile)
    grey = prediction.recipe["normalization"]
    inside = (slice(16, -16),) * 2
    back = prediction.probability * grey["deviation"] + grey["mean"]
    np.testing.assert_allclose(back[inside], ramp[inside], atol=0.3)
    assert [attention.stride for attention in prediction.attentions] == [(1, 1), (2, 2), (4, 4)]
    for attention in prediction.attentions:
        (stride, _), (offset, _) = attention.stride, attention.offset
        assert attention.data.shape == (-(-120 // stride), -(-150 // stride))
        rows, columns = (offset + stride * np.arange(length) for length in attention.data.shape)
        inside = (slice(32 // stride, -32 // stride),) * 2
        mapped = attention.data * grey["deviation"] + grey["mean"]
        np.testing.assert_allclose(mapped[inside], np.add.outer(rows, 2 * columns)[inside], atol=0.3 * stride)


@pytest.mark.parametrize(("axes", "shape"), [("YX", (50, 41)), ("TZYX", (2, 3, 30, 41)), ("ZYXC", (3, 30, 41, 2))])
def test_results_have_the_shape_voxels_and_origin_of_the_stack(axes: str, shape: tuple[int, ...]) -> None:
    model = at(make_model(widths=(2, 3, 4), margin=4), 1.0, 0.004, 0.006, unit="µm")
    stack = Stack(cells(*shape), Space(axes, (50.0, 8.0, 9.0), "nm", (1.0, 2.0, 3.0)))
    prediction = through_identity(stack, model, channel=1 if "C" in axes else None)
    assert prediction.space.axes == axes.replace("C", "")
    assert prediction.probability.shape == tuple(n for axis, n in zip(axes, shape, strict=True) if axis != "C")
    assert (prediction.space.voxel_size, prediction.space.unit, prediction.space.origin) == (
        (50.0, 8.0, 9.0),
        "nm",
        (1.0, 2.0, 3.0),
    )
    lengths = dict(zip(axes, shape, strict=True))
    assert prediction.recipe["tile"] == (-(-lengths["Y"] * 2 // 4) * 4, -(-round(lengths["X"] * 1.5) // 4) * 4)


def test_grey_values_are_measured_as_the_network_sees_them() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 300, 300)).astype(np.uint8)
    model = at(make_model(), 1.0, 16.0, 16.0)
    stack = Stack(noise, Space("ZYX", (40.0, 4.0, 4.0), "nm"))
    deviation = through_identity(stack, model).recipe["normalization"]["deviation"]
    seen = interpolated(noise, (75, 75))
    assert deviation == pytest.approx(seen.std(), rel=1e-5)
    assert deviation < 0.3 * measure(stack).deviation
    assert measure(stack, lengths={"Y": 300, "X": 300}) == measure(stack)


@pytest.mark.parametrize("size", [(1.0, 4.1, 3.9), (90.0, 4.2, 4.2), (1.0, 4.0, 4.0)])
def test_within_5_percent_nothing_is_resampled(size: tuple[float, float, float]) -> None:
    model = at(make_model(margin=4), 50.0, 4.0, 4.0)
    stack = Stack(cells(2, 60, 70), Space("ZYX", size, "nm"))
    here, there = in_float32(stack, model, tile=40), in_float32(stack, model, rescale=False, tile=40)
    np.testing.assert_array_equal(here.probability, there.probability)
    for one, other in zip(here.attentions, there.attentions, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
    assert {key for key in here.recipe if here.recipe[key] != there.recipe[key]} == {"options"}
    assert network_scale(stack, model.description, "YX") == {"Y": 1.0, "X": 1.0}


def test_a_tile_of_many_voxels_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched:
        shape, dtype, largest = (16, 160, 160), np.dtype("uint8"), 0

        def __getitem__(self, key: Any) -> Any:
            part = values[key]
            self.largest = max(self.largest, part.size)
            return part

    values, watched = cells(16, 160, 160), Watched()
    model = at(make_model(3, (3, 4), margin=4), 8.0, 40.0, 40.0)
    stack = Stack(watched, Space("ZYX", (8.0, 4.0, 4.0), "nm"))
    grey = measure_greys(stack)

    def work():
        return iter_predict(
            RunSpec(stack, model, SegmentOptions("cpu", rescale=True), backend_maker=identity, greys=grey)
        )

    whole = run_to_end(work()).probability
    assert watched.largest == 16 * 160 * 160
    watched.largest = 0
    monkeypatch.setattr(tiling, "MOST_READ", 5000)
    monkeypatch.setattr("napari_skipseg.images.identity.WHOLE", 0)
    monkeypatch.setattr("napari_skipseg.images.identity.HASHED_SIDE", 64)
    np.testing.assert_array_equal(run_to_end(work()).probability, whole)
    assert watched.largest <= 5000


def test_a_stack_of_one_voxel_along_an_axis_can_be_rescaled() -> None:
    model = at(make_model(margin=4), 1.0, 4.0, 4.0)
    for shape in ((1, 40), (40, 1), (2, 3), (1, 3)):
        stack = Stack(
            np.arange(np.prod(shape), dtype=np.float32).reshape(shape) ** 2, Space("YX", (1.0, 9.0, 9.0), "nm")
        )
        assert through_identity(replace(stack, data=np.asarray(stack.data) + 3), model).probability.shape == shape


@pytest.mark.parametrize(
    ("stack_unit", "model_unit", "whose"),
    [("pixel", "nm", "'slice'"), ("nm", "pixel", "tiny"), ("pixel", "pixel", "'slice'")],
)
def test_an_unknown_voxel_size_cannot_be_rescaled(stack_unit: str, model_unit: str, whose: str) -> None:
    model = at(make_model(), 1.0, 4.0, 4.0, unit=model_unit)
    stack = Stack(cells(20, 20), Space("YX", (1.0, 8.0, 8.0), stack_unit), name="slice")
    with pytest.raises(InputError, match=f"voxel size of {whose} is not known.*--voxel-size.*without rescaling"):
        through_identity(stack, model)
    assert network_scale(stack, model.description, "YX") == {}
    assert trained_voxel_size(model.description, stack_unit, "YX") is None
    assert lengths_seen_by_network(stack, model.description, "YX", False) == (20, 20)


@pytest.mark.parametrize(("voxel", "times"), [(65.0, "16.2"), (0.24, "0.06"), (4e6, r"1e\+06")])
def test_voxel_sizes_too_far_apart_are_refused(voxel: float, times: str) -> None:
    stack = Stack(cells(20, 20), Space("YX", (1.0, 4.0, voxel), "nm"), name="slice")
    with pytest.raises(InputError, match=f"Along X 'slice' has voxels {times} times as long.*check the voxel size"):
        through_identity(stack, at(make_model(), 1.0, 4.0, 4.0))


def test_three_planes_of_voxels_that_are_no_cubes_need_rescaling() -> None:
    description = make_model().description
    flat = Stack(np.zeros((10, 20, 20), np.uint8), Space("ZYX", (50.0, 4.0, 4.0), "nm"), name="sections")
    with pytest.raises(InputError, match=r"'sections' are 50 × 4 × 4 nm: rescale too"):
        lengths_seen_by_network(flat, description, "ZYX", rescale=False)
    for known in (Space("ZYX", (5.0, 4.0, 4.0), "nm"), replace(flat.space, unit="pixel")):
        assert lengths_seen_by_network(replace(flat, space=known), description, "ZYX", rescale=False) == (10, 20, 20)
