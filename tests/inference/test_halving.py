"""Where memory is short, fewer images and then smaller tiles go on, and what comes out is the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from identity import Identity, make_model

from napari_skipseg.devices import Device
from napari_skipseg.errors import OutOfMemoryError
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.halving import BackendOption, halved, is_out_of_memory
from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.models.model import Model

RNG = np.random.default_rng(8)
CPU = Device("cpu", "CPU", "for the test")
EVERYTHING = 10**9


class Device640K:
    """Makes identity networks that run out of memory beyond `room` voxels, and keeps what they were given."""

    def __init__(self, room: int, room_to_make: int = EVERYTHING) -> None:
        self.room, self.room_to_make = room, room_to_make
        self.made: list[tuple[int, ...]] = []
        self.ran: list[tuple[int, ...]] = []
        self.refused: list[tuple[int, ...]] = []

    def make(self, model: Model, shape: tuple[int, ...]) -> Any:
        if math.prod(shape) > self.room_to_make:
            raise MemoryError
        self.made.append(shape)
        device = self

        class Hungry(Identity):
            def run(self, images: Pixels) -> TileOutput:
                if images.size > device.room:
                    device.refused.append(images.shape)
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
                device.ran.append(images.shape)
                return super().run(images)

        return Hungry(model, shape)


def on(*devices: Device640K, model: Model, shape: tuple[int, ...]) -> FallbackBackend:
    choices = tuple(BackendOption(f"device {n}", "for the test", each.make) for n, each in enumerate(devices, start=1))
    return FallbackBackend(choices, model, shape)


def images(count: int, *shape: int) -> Pixels:
    return RNG.normal(size=(count, 1, *shape)).astype(np.float32)


def assert_is_identity(output: TileOutput, given: Pixels, model: Model) -> None:
    wanted = Identity(model, given.shape[2:]).run(given)
    np.testing.assert_array_equal(output.probability, wanted.probability)
    assert len(output.attentions) == len(wanted.attentions)
    for here, there in zip(output.attentions, wanted.attentions, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-6)


def test_first_the_batch_is_halved_and_that_is_remembered() -> None:
    device, model, given = Device640K(room=2 * 32 * 32), make_model(), images(7, 32, 32)
    backend = on(device, model=model, shape=(32, 32))
    assert_is_identity(backend.run(given), given, model)
    assert [shape[0] for shape in device.refused] == [7, 3]
    assert [shape[0] for shape in device.ran] == [1] * 7
    assert backend.notes == [
        "device 1 ran out of memory; it continues with 3 tiles at a time.",
        "device 1 ran out of memory; it continues with one tile.",
    ]
    assert_is_identity(backend.run(given), given, model)
    assert len(device.refused) == 2
    assert device.made == [(32, 32)]


def test_what_was_computed_before_memory_ran_out_is_not_computed_again() -> None:
    device, model, given = Device640K(room=4 * 32 * 32), make_model(), images(8, 32, 32)
    backend = on(device, model=model, shape=(32, 32))
    backend.run(given)
    assert [shape[0] for shape in device.ran] == [4, 4]
    device.ran.clear()
    device.room = 32 * 32
    assert_is_identity(backend.run(given[:6]), given[:6], model)
    assert [shape[0] for shape in device.ran] == [1] * 6

    class Later(Device640K):
        def make(self, model: Model, shape: tuple[int, ...]) -> Any:
            made = super().make(model, shape)
            run = made.run

            def narrowing(given: Pixels) -> TileOutput:
                output = run(given)
                self.room = 32 * 32
                return output

            made.run = narrowing
            return made

    later = Later(room=2 * 32 * 32)
    backend = FallbackBackend((BackendOption("later", "", later.make, at_once=2),), model, (32, 32))
    assert_is_identity(backend.run(given), given, model)
    assert [shape[0] for shape in later.ran] == [2] + [1] * 6


@pytest.mark.parametrize(
    ("dimensions", "shape", "room", "side"),
    [(2, (96, 96), 3600, 56), (2, (96, 32), 3000, 56), (2, (90, 75), 2500, 56), (3, (32, 40, 48), 40_000, 32)],
)
def test_at_one_image_the_tile_is_halved_and_stitched(
    dimensions: int, shape: tuple[int, ...], room: int, side: int
) -> None:
    device, model = Device640K(room), make_model(dimensions, (2, 3, 4))
    backend, given = on(device, model=model, shape=shape), images(2, *shape)
    assert_is_identity(backend.run(given), given, model)
    assert max(device.made[1]) == side
    assert "with one tile" in backend.notes[0]
    said = " × ".join(map(str, device.made[1]))
    assert backend.notes[1] == f"device 1 ran out of memory; it continues with tiles of {said}."
    assert {shape[2:] for shape in device.ran} == {device.made[-1]}, "a backend runs the size that it was made for"
    device.ran.clear()
    device.refused.clear()
    assert_is_identity(backend.run(given), given, model)
    assert not device.refused, "the size that fits is kept"


def test_it_is_halved_again_down_to_the_smallest_tile_and_then_the_next_device_takes_whole_ones() -> None:
    first, second, model, given = Device640K(room=0), Device640K(room=EVERYTHING), make_model(), images(2, 64, 64)
    backend = on(first, second, model=model, shape=(64, 64))
    assert_is_identity(backend.run(given), given, model)
    assert [shape[0] for shape in first.made] == [64, 40, 28, 22, 20, 18]
    assert second.made == [(64, 64)]
    assert [shape[0] for shape in second.ran] == [2]
    assert backend.notes[-1] == "device 1 ran out of memory; device 2 takes over."


def test_the_last_device_gives_up_only_at_the_smallest_tile() -> None:
    device, model, given = Device640K(room=18 * 18), make_model(), images(1, 64, 64)
    backend = on(device, model=model, shape=(64, 64))
    assert_is_identity(backend.run(given), given, model)
    device.room -= 1
    for _ in range(2):
        with pytest.raises(OutOfMemoryError, match=r"a tile of 18 × 18 voxels \(device 1\).*close other programs"):
            backend.run(given)


def test_a_network_that_cannot_be_made_for_a_tile_is_made_for_half_of_it() -> None:
    device, model, given = Device640K(EVERYTHING, room_to_make=40 * 40), make_model(), images(3, 64, 64)
    backend = on(device, model=model, shape=(64, 64))
    assert backend.notes == ["device 1 ran out of memory; it continues with tiles of 40 × 40."]
    assert_is_identity(backend.run(given), given, model)
    assert set(device.ran) == {(3, 1, 40, 40)}
    with pytest.raises(OutOfMemoryError, match="18 × 18"):
        on(Device640K(EVERYTHING, room_to_make=0), model=model, shape=(64, 64))


def test_higher_precision_is_not_tried_where_memory_was_short() -> None:
    small, large, model = Device640K(room=0), Device640K(room=EVERYTHING), make_model()
    titles = (("a GPU", small), ("a GPU", small), ("the CPU", large))
    backend = FallbackBackend(tuple(BackendOption(title, "", each.make) for title, each in titles), model, (18, 18))
    backend.run(images(1, 18, 18))
    assert backend.notes == ["a GPU ran out of memory; the CPU takes over."]


def test_several_classes_and_channels_are_stitched_too() -> None:
    model = make_model(classes=("membrane", "mitochondrion"), in_channels=2)
    given = RNG.normal(size=(1, 2, 64, 48)).astype(np.float32)
    backend = on(Device640K(room=2 * 40 * 40), model=model, shape=(64, 48))
    assert_is_identity(backend.run(given), given, model)


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (93, 121)), (3, (37, 24, 45))])
def test_a_real_network_in_halved_tiles_gives_what_it_gives_whole(dimensions: int, shape: tuple[int, ...]) -> None:
    model = make_model(dimensions, (3, 4), margin=12)
    plain, given = TorchBackend(model, CPU, "f32"), images(2, *shape)

    class Full:
        name, precision = plain.name, plain.precision

        def run(self, images: Pixels) -> TileOutput:
            if images.shape[2:] == shape:
                raise MemoryError
            return plain.run(images)

    backend = FallbackBackend((BackendOption("it", "", lambda model, shape: Full()),), model, shape)
    parts, whole = backend.run(given), plain.run(given)
    assert len(backend.notes) == 2
    assert whole.probability.std() > 0.1
    np.testing.assert_allclose(parts.probability, whole.probability, atol=1e-4)
    for here, there in zip(parts.attentions, whole.attentions, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-4)


@pytest.mark.parametrize(
    ("tile", "margin", "stride", "half"),
    [
        ((1024, 1024), 32, 16, (544, 544)),
        ((1056, 1056), 32, 16, (560, 560)),
        ((96, 96, 96), 16, 8, (64, 64, 64)),
        ((16, 512, 512), 16, 8, (16, 272, 272)),
        ((80, 80), 32, 16, (80, 80)),
        ((20, 20), 32, 16, (20, 20)),
        ((96, 80), 30, 16, (80, 80)),
        ((1, 1), 0, 1, (1, 1)),
        ((3, 3), 0, 1, (2, 2)),
    ],
)
def test_half_a_tile_keeps_half_as_much(tile: tuple[int, ...], margin: int, stride: int, half: tuple[int, ...]) -> None:
    assert halved(tile, margin, stride) == half


def test_parts_need_no_attention_map() -> None:
    model, given = make_model(skip="org"), images(1, 40, 40)
    device = Device640K(room=30 * 30)
    assert_is_identity(on(device, model=model, shape=(40, 40)).run(given), given, model)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("Exception from src/inference: std::bad_alloc"),
        RuntimeError("Check 'ptr' failed at src/cpu_memory.cpp:257:\nFailed to allocate 457703424 bytes of memory"),
        MemoryError(),
        OutOfMemoryError(),
    ],
)
def test_every_device_has_its_own_words_for_short_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("the device is lost"))
    assert not is_out_of_memory(ValueError("out of memory"))
