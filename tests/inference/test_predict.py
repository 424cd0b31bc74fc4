"""What tiles do to an image: nothing. An identity network gives it back, whatever its axes and size."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import full_disk
from identity import Identity, always, identity, make_model, strided_mean
from numpy.typing import NDArray

from napari_skipseg.devices import Device
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.identity import identify
from napari_skipseg.images.intensity.normalize import Normalization, measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference import stores
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.halving import BackendOption
from napari_skipseg.inference.backends.interface import TileOutput
from napari_skipseg.inference.memory import BEHIND
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(3)


def grey(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    return RNG.integers(0, 256, shape).astype(dtype)


def through_identity(stack: Stack, model: Model, folder: Path | None = None, **options: Any) -> Prediction:
    return run_to_end(
        iter_predict(RunSpec(stack, model, SegmentOptions(device="cpu", **options), backend_maker=identity), folder)
    )


def normalized(stack: Stack) -> NDArray[np.float32]:
    return measure(stack).apply(np.asarray(stack.data))


@pytest.mark.parametrize(
    ("axes", "shape", "dimensions"),
    [
        ("YX", (96, 64), 2),
        ("YX", (97, 131), 2),
        ("YX", (1, 50), 2),
        ("YX", (3, 2), 2),
        ("YX", (33, 400), 2),
        ("ZYX", (3, 70, 45), 2),
        ("TYX", (4, 33, 65), 2),
        ("TZYX", (2, 3, 41, 30), 2),
        ("ZYX", (9, 43, 50), 3),
        ("ZYX", (2, 5, 61), 3),
        ("ZYX", (45, 40, 3), 3),
        ("TZYX", (2, 7, 20, 37), 3),
    ],
)
@pytest.mark.parametrize("tile", [0, 24])
def test_an_identity_network_gives_the_image_back(
    axes: str, shape: tuple[int, ...], dimensions: int, tile: int
) -> None:
    stack = Stack(grey(*shape), Space(axes, (5.0, 2.0, 3.0), "nm", (7.0, 8.0, 9.0)))
    prediction = through_identity(stack, make_model(dimensions, (2, 3, 4), margin=5), tile=tile)
    np.testing.assert_array_equal(prediction.probability, normalized(stack))
    assert prediction.space.axes == axes
    assert (prediction.space.voxel_size, prediction.space.unit, prediction.space.origin) == (
        stack.space.voxel_size,
        "nm",
        stack.space.origin,
    )


@pytest.mark.parametrize(
    ("axes", "shape", "channel"),
    [("CYX", (3, 40, 51), 2), ("YXC", (40, 51, 3), 1), ("TCYX", (2, 2, 30, 31), 0), ("ZYXC", (2, 20, 30, 4), 3)],
)
def test_one_channel_goes_through_where_the_network_takes_one(axes: str, shape: tuple[int, ...], channel: int) -> None:
    stack = Stack(grey(*shape), Space(axes))
    prediction = through_identity(stack, make_model(margin=4), channel=channel, tile=16)
    np.testing.assert_array_equal(prediction.probability, normalized(stack.channel(channel)))
    assert prediction.space.axes == axes.replace("C", "")


@pytest.mark.parametrize(("axes", "shape"), [("CYX", (3, 40, 51)), ("YXC", (40, 51, 3)), ("ZYXC", (2, 20, 30, 3))])
def test_all_channels_reach_a_network_that_takes_them(axes: str, shape: tuple[int, ...]) -> None:
    class LastChannel(Identity):
        def run(self, image: Any) -> Any:
            assert image.shape[1] == 3
            return super().run(np.ascontiguousarray(image[:, 2:]))

    stack, model = Stack(grey(*shape), Space(axes)), make_model(in_channels=3, margin=4)
    backend = LastChannel(model, (20, 20))
    maker = lambda m, d, size: setattr(backend, "shape", size) or backend  # noqa: E731
    prediction = run_to_end(iter_predict(RunSpec(stack, model, SegmentOptions("cpu", tile=20), backend_maker=maker)))
    expected = np.take(normalized(stack), 2, axis=axes.index("C"))
    np.testing.assert_array_equal(prediction.probability, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float16", "float32", "float64", ">u2"])
def test_any_type_of_grey_values_gives_the_same(dtype: str) -> None:
    values = grey(30, 40)
    expected = through_identity(Stack(values, Space("YX")), make_model()).probability
    found = through_identity(Stack(values.astype(dtype), Space("YX")), make_model()).probability
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("margin", [0, 1, 64, 1000])
def test_any_margin_gives_the_image_back(margin: int) -> None:
    stack = Stack(grey(90, 75), Space("YX"))
    prediction = through_identity(stack, make_model(widths=(2, 3, 4), margin=margin), tile=40)
    np.testing.assert_array_equal(prediction.probability, normalized(stack))


@pytest.mark.parametrize(("shape", "dimensions"), [((70, 101), 2), ((3, 41, 50), 2), ((13, 41, 30), 3)])
def test_attention_maps_are_the_strided_image_however_tiled(shape: tuple[int, ...], dimensions: int) -> None:
    stack = Stack(grey(*shape), Space("ZYX"[-len(shape) :]))
    model = make_model(dimensions, (2, 3, 4), margin=4)
    whole, tiled = through_identity(stack, model), through_identity(stack, model, tile=20)
    image = normalized(stack)
    parts = image[None] if dimensions == len(shape) else image
    for level, stride in enumerate(model.network.attention_strides):
        expected = np.stack([strided_mean(part, stride) for part in parts]).reshape(whole.attentions[level].data.shape)
        np.testing.assert_array_equal(whole.attentions[level].data, expected)
        np.testing.assert_array_equal(tiled.attentions[level].data, expected)
        assert tiled.attentions[level].stride[-dimensions:] == (stride,) * dimensions


def test_a_bright_block_is_found_where_the_attention_map_says_it_lies() -> None:
    values = grey(3, 64, 96) // 8
    values[1, 16:20, 40:44] = 255
    prediction = through_identity(Stack(values, Space("ZYX")), make_model(widths=(2, 3, 4, 5), margin=4), tile=24)
    coarse = prediction.attentions[2]
    assert coarse.stride == (1, 4, 4)
    brightest = np.unravel_index(coarse.data.argmax(), coarse.data.shape)
    place = [o + s * i for o, s, i in zip(coarse.offset, coarse.stride, brightest, strict=True)]
    assert place == [1.0, 17.5, 41.5]


def test_attention_is_left_out_on_request() -> None:
    assert through_identity(Stack(grey(20, 20), Space("YX")), make_model(), attention=False).attentions == ()


class Counted(np.ndarray):
    """An array that counts how often each of its voxels is written."""

    writes: NDArray[np.int64]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.writes[key] += 1
        super().__setitem__(key, value)


@pytest.mark.parametrize(("shape", "dimensions"), [((3, 67, 50), 2), ((30, 41, 29), 3)])
def test_each_voxel_is_written_once(shape: tuple[int, ...], dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(size: tuple[int, ...], folder: Path | None, name: str) -> Counted:
        array = np.zeros(size, np.float32).view(Counted)
        array.writes = np.zeros(size, np.int64)
        made.append(array)
        return array

    monkeypatch.setattr(stores, "_array", counted)
    through_identity(Stack(grey(*shape), Space("ZYX")), make_model(dimensions, (2, 3, 4), margin=3), tile=16)
    assert len(made) == 3
    for array in made:
        assert array.writes.min() == array.writes.max() == 1


@pytest.mark.parametrize(("dimensions", "average"), [(2, 4), (2, 8), (3, 4), (3, 8)])
def test_an_average_calls_for_all_copies_and_brings_them_back(dimensions: int, average: int) -> None:
    stack, model = Stack(grey(*(12,) * dimensions), Space("ZYX"[-dimensions:])), make_model(dimensions, (2, 3, 4))
    backend = Identity(model, (12,) * dimensions)
    options = SegmentOptions("cpu", average=average)
    prediction = run_to_end(iter_predict(RunSpec(stack, model, options, backend_maker=always(backend))))
    assert backend.runs == average
    np.testing.assert_allclose(prediction.probability, normalized(stack), atol=1e-6)
    assert prediction.uncertainty is not None
    assert np.abs(prediction.uncertainty).max() == 0
    for attention in prediction.attentions:
        expected = strided_mean(normalized(stack), attention.stride[-1])
        np.testing.assert_allclose(attention.data, expected, atol=1e-6)


def test_memory_mapped_results_equal_those_in_memory(tmp_path: Path) -> None:
    stack, model = Stack(grey(4, 50, 61), Space("ZYX")), make_model(margin=4)
    here, mapped = through_identity(stack, model, tile=24), through_identity(stack, model, tmp_path, tile=24)
    assert isinstance(mapped.probability, np.memmap)
    np.testing.assert_array_equal(mapped.probability, here.probability)
    np.testing.assert_array_equal(np.load(tmp_path / "probability.npy"), here.probability)
    np.testing.assert_array_equal(np.load(tmp_path / "attention_1.npy"), here.attentions[0].data)
    assert mapped.recipe == here.recipe


def test_a_full_disk_is_found_before_the_first_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full_disk, raising=False)
    with pytest.raises(FileError, match=r"No space left.*free some space"):
        through_identity(Stack(grey(20, 20), Space("YX")), make_model(), tmp_path)


def test_closing_the_generator_stops_within_a_tile() -> None:
    stack, model = Stack(grey(6, 40, 40), Space("ZYX")), make_model(margin=4)
    backend = Identity(model, (20, 20))
    maker = lambda m, d, size: setattr(backend, "shape", size) or backend  # noqa: E731
    work = iter_predict(RunSpec(stack, model, SegmentOptions("cpu", tile=20), backend_maker=maker))
    for progress in work:
        if progress.done == 3:
            work.close()
    assert 3 <= backend.runs <= 3 + BEHIND + 1


def test_progress_counts_every_tile() -> None:
    stack = Stack(grey(2, 40, 40), Space("ZYX"))
    work = iter_predict(RunSpec(stack, make_model(margin=0), SegmentOptions("cpu", tile=20), backend_maker=identity))
    seen = [(progress.done, progress.total) for progress in work]
    assert seen[-1] == (8, 8)
    assert [done for done, total in seen if total == 8] == list(range(1, 9))


def test_the_consumer_is_never_in_inference_mode() -> None:
    stack, model = Stack(grey(2, 40, 40), Space("ZYX")), make_model()
    states = [
        torch.is_inference_mode_enabled() for _ in iter_predict(RunSpec(stack, model, SegmentOptions("cpu", tile=20)))
    ]
    assert len(states) > 3
    assert not any(states)
    assert (torch.ones(1, requires_grad=True) * 2).requires_grad


def test_normalization_is_of_the_whole_stack_however_tiled() -> None:
    values = grey(5, 80, 60)
    values[:, :, 30:] //= 3
    stack, model = Stack(values, Space("ZYX")), make_model(margin=2)
    expected = {"mean": values.mean(), "deviation": values.std()}
    for tile in (0, 8, 33):
        measured = through_identity(stack, model, tile=tile).recipe["normalization"]
        assert {name: measured[name] for name in expected} == pytest.approx(expected)


def test_a_lazy_stack_is_read_by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_skipseg.images.identity.WHOLE", 0)
    monkeypatch.setattr("napari_skipseg.inference.guards.READ_ONCE", 0)

    class Watched:
        shape, dtype, largest = (60, 64, 64), np.dtype("uint8"), 0

        def __getitem__(self, key: Any) -> Any:
            part = values[key]
            self.largest = max(self.largest, part.size)
            return part

    values = grey(60, 64, 64)
    lazy = Watched()
    through_identity(Stack(lazy, Space("ZYX")), make_model(margin=4), tile=32)
    assert lazy.largest == 64 * 64


def test_nan_that_sampling_missed_is_found_in_its_tile() -> None:
    values = RNG.random((40, 32, 32)).astype(np.float32)

    def is_missed(z: int) -> bool:
        spoilt = values.copy()
        spoilt[z, 5, 5] = np.nan
        try:
            return isinstance(measure(Stack(spoilt, Space("ZYX"))), Normalization)
        except InputError:
            return False

    values[next(z for z in range(40) if is_missed(z)), 5, 5] = np.nan
    with pytest.raises(InputError, match="NaN"):
        through_identity(Stack(values, Space("ZYX"), name="s1"), make_model())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((20, 20), 7, np.uint8), "constant"),
        (np.full((20, 20), np.nan, np.float32), "NaN"),
        ((grey(20, 20) > 127).astype(np.uint8), "only two values.*mask"),
        ((grey(20, 20) > 127) * np.uint8(255), "only two values.*mask"),
        (grey(20, 20) > 127, "only two values.*mask"),
        (np.where(grey(20, 20) > 250, np.inf, 1.0), "infinite"),
    ],
)
def test_values_that_are_no_image_are_refused(values: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        through_identity(Stack(values, Space("YX")), make_model())


def test_a_3d_model_refuses_an_image_without_depth() -> None:
    for stack in (
        Stack(grey(20, 20), Space("YX")),
        Stack(grey(5, 20, 20), Space("TYX")),
        Stack(grey(1, 20, 20), Space("ZYX")),
    ):
        with pytest.raises(InputError, match=r"3D model.*no Z.*choose a 2D model"):
            through_identity(stack, make_model(3))


def test_several_channels_need_a_choice() -> None:
    stack = Stack(grey(3, 20, 20), Space("CYX"), name="rgb")
    with pytest.raises(InputError, match=r"3 channels.*choose which \(0 to 2\)"):
        through_identity(stack, make_model())
    with pytest.raises(InputError, match="channels 0 to 2"):
        through_identity(stack, make_model(), channel=3)
    with pytest.raises(InputError, match="3 channels, tiny takes 2"):
        through_identity(stack, make_model(in_channels=2))


def test_several_classes_make_a_class_axis_and_labels() -> None:
    model = make_model(classes=("membrane", "mitochondrion"))
    assert model.description.spec.out_channels == 3
    stack = Stack(grey(3, 40, 50), Space("ZYX"))
    prediction = run_to_end(iter_predict(RunSpec(stack, model, SegmentOptions("cpu", tile=24))))
    assert prediction.space.axes == "CZYX"
    assert prediction.probability.shape == (2, 3, 40, 50)
    assert prediction.class_names == ("membrane", "mitochondrion")
    total = prediction.probability.sum(axis=0)
    assert 0 < total.min() <= total.max() <= 1 + 1e-5
    best, highest = prediction.probability.argmax(axis=0), prediction.probability.max(axis=0)
    threshold = float(np.median(highest))
    labels = prediction.binary(threshold).compute()
    np.testing.assert_array_equal(labels, np.where(highest > threshold, best + 1, 0))
    assert labels.dtype == np.uint8
    assert {0} < set(np.unique(labels)) <= {0, 1, 2}


def test_the_recipe_says_what_was_run() -> None:
    stack = Stack(grey(30, 41), Space("YX", unit="nm"), name="slice 7", file="/data/a.tif")
    recipe = through_identity(stack, make_model(margin=4), tile=20, average=4).recipe
    assert recipe["operation"] == "segment"
    told = {"name": "slice 7", "file": "/data/a.tif", "shape": (30, 41), "dtype": "uint8", "sha256": identify(stack)}
    space = {"axes": "YX", "voxel_size": (1.0, 1.0, 1.0), "unit": "nm", "origin": (0.0, 0.0, 0.0)}
    assert recipe["inputs"] == ({**told, "space": space, "title": ""},)
    assert recipe["model"] == "tiny"
    assert recipe["options"]["average"] == 4
    assert (recipe["backend"], recipe["device"]) == ("identity", "cpu")
    assert math.prod(recipe["tile"]) <= 20 * 20
    assert "torch" in recipe["versions"]


def test_a_backend_that_fails_in_mid_run_is_replaced_and_the_run_goes_on() -> None:
    class Fragile(Identity):
        left = 2

        def run(self, image: NDArray[np.float32]) -> TileOutput:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("the driver is gone")
            return super().run(image)

    def fragile_first(model: Model, device: Device, shape: tuple[int, ...]) -> FallbackBackend:
        choices = (
            BackendOption("the GPU", "fastest", Fragile),
            BackendOption("the CPU", "always there", lambda model, shape: identity(model, device, shape)),
        )
        return FallbackBackend(choices, model, shape)

    stack = Stack(grey(5, 20, 30), Space("ZYX"))
    work = iter_predict(RunSpec(stack, make_model(), SegmentOptions(device="cpu"), backend_maker=fragile_first))
    messages = []
    try:
        while True:
            messages.append(next(work).message)
    except StopIteration as stop:
        prediction = stop.value
    assert np.allclose(prediction.probability, normalized(stack))
    note = "the GPU failed (RuntimeError: the driver is gone); the CPU takes over."
    assert all(note in message for message in messages[-3:])
    assert note not in messages[2]
    assert prediction.recipe["notes"] == (note,)
