"""The passes over a tile: what copies, directions and samples give together, and that each image goes its own way."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from identity import make_model
from numpy.typing import NDArray

from napari_skipseg.devices import Device
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.fallback import notes_of as notes
from napari_skipseg.inference.backends.folding import Probabilities
from napari_skipseg.inference.backends.halving import BackendOption
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.ensemble import Passes, choose_passes, symmetries
from napari_skipseg.inference.memory import SLICES
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(6)
CPU = Device("cpu", "CPU", "for the test")


class ByHand:
    """Returns what `answer` makes of the images (N, C, *space) as probability, and every second voxel as attention."""

    name, precision = "by hand", "f32"

    def __init__(self, shape: tuple[int, ...], answer: Callable[[Pixels], Pixels]) -> None:
        self.shape, self.answer, self.runs = shape, answer, 0

    def run(self, images: Pixels) -> TileOutput:
        assert images.shape[2:] == self.shape, "each size has a backend of its own"
        assert images.flags.c_contiguous
        self.runs += 1
        probability = self.answer(images).astype(np.float32)
        return TileOutput(probability, (probability[(slice(None), 0, *(slice(None, None, 2),) * len(self.shape))],))


class Plain:
    """torch without any haste."""

    name, precision = "plain", "f32"

    def __init__(self, model: Model) -> None:
        self.network = Probabilities(model.network)

    def run(self, images: Pixels) -> TileOutput:
        with torch.inference_mode():
            probability, *attentions = (values.numpy() for values in self.network(torch.from_numpy(images)))
        return TileOutput(
            probability, tuple(values[:, 0] if values.ndim == images.ndim else values for values in attentions)
        )


tiny = cache(make_model)


def pixels(*shape: int) -> Pixels:
    return RNG.normal(size=shape).astype(np.float32)


def passes_by(
    answer: Callable[[Pixels], Pixels], shape: tuple[int, ...], dimensions: int = 2, **options: Any
) -> Passes:
    def maker(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        return ByHand(shape, answer)

    return choose_passes(tiny(dimensions), CPU, shape, SegmentOptions("cpu", **options), maker)


def passes_of(model: Model, shape: tuple[int, ...], **options: Any) -> Passes:
    return choose_passes(model, CPU, shape, SegmentOptions("cpu", **options), lambda model, device, shape: Plain(model))


def through(passes: Passes, images: Pixels) -> TileOutput:
    return run_to_end(passes.run(images, [(number, 3) for number in range(len(images))]))


def shapes_of(passes: Passes) -> list[tuple[int, ...]]:
    return [backend.shape for backend in passes.backends]


def runs_of(passes: Passes) -> int:
    return sum(backend.runs for backend in passes.backends)


def same(images: Pixels) -> Pixels:
    return images


def rows(images: Pixels) -> Pixels:
    """Of each voxel of a 2D image, the number of its row."""
    return np.broadcast_to(np.arange(images.shape[2])[:, None], (len(images), 1, *images.shape[2:]))


WAYS = [
    (2, (6, 10), {"average": 1}, 1),
    (2, (6, 10), {"average": 4}, 4),
    (2, (6, 10), {"average": 8}, 8),
    (2, (8, 8), {"average": 8}, 8),
    (3, (4, 6, 10), {"average": 4}, 4),
    (3, (4, 6, 10), {"average": 8}, 8),
    (2, (4, SLICES, 2 * SLICES + 2), {"planes": "xyz"}, 1 + 1 + 3),
    (2, (8, 8, 8), {"planes": "xyz"}, 3),
]


@pytest.mark.parametrize(("dimensions", "shape", "options", "count"), WAYS)
def test_an_identity_comes_back_whatever_the_passes(
    dimensions: int, shape: tuple[int, ...], options: dict[str, Any], count: int
) -> None:
    images = pixels(3, 1, *shape)
    passes = passes_by(same, shape, dimensions, **options)
    found = through(passes, images)
    np.testing.assert_array_equal(found.probability, images)
    assert runs_of(passes) == passes.per_tile == count
    if count > 1:
        np.testing.assert_array_equal(found.uncertainty, np.zeros_like(images))
    else:
        assert found.uncertainty is None


@pytest.mark.parametrize(("dimensions", "shape", "options", "count"), WAYS)
def test_between_passes_there_is_a_yield_and_closing_there_stops(
    dimensions: int, shape: tuple[int, ...], options: dict[str, Any], count: int
) -> None:
    images = pixels(2, 1, *shape)
    yields = list(passes_by(same, shape, dimensions, **options).run(images, [(0, 0), (1, 0)]))
    assert yields == [None] * (count - 1)
    for stop in range(1, count):
        passes = passes_by(same, shape, dimensions, **options)
        work = passes.run(images, [(0, 0), (1, 0)])
        for _ in range(stop):
            next(work)
        work.close()
        assert runs_of(passes) == stop


@pytest.mark.parametrize(("dimensions", "average"), [(2, 4), (2, 8), (3, 4), (3, 8)])
def test_symmetries_are_all_different_and_undone_exactly(dimensions: int, average: int) -> None:
    image = pixels(2, 1, *(2, 4, 6)[-dimensions:])
    ways = symmetries(average, dimensions)
    np.testing.assert_array_equal(ways[0].apply(image), image)
    assert len({way.apply(image).tobytes() + bytes(way.shape(image.shape)) for way in ways}) == average
    for way in ways:
        copy = way.apply(image)
        assert copy.shape == way.shape(image.shape)
        np.testing.assert_array_equal(way.undo(copy), image)


def test_8_of_the_square_are_its_flips_and_quarter_turns() -> None:
    image = pixels(1, 1, 4, 4)
    turned = [np.rot90(flipped, turns, (-2, -1)) for flipped in (image, image[..., ::-1]) for turns in range(4)]
    found = {way.apply(image).tobytes() for way in symmetries(8, 2)}
    assert found == {np.ascontiguousarray(copy).tobytes() for copy in turned}


def test_a_turned_copy_has_a_backend_of_its_own_only_where_its_shape_differs() -> None:
    assert shapes_of(passes_by(same, (6, 10), average=8)) == [(6, 10), (10, 6)]
    assert shapes_of(passes_by(same, (8, 8), average=8)) == [(8, 8)]
    assert shapes_of(passes_by(same, (6, 10), average=4)) == [(6, 10)]
    assert shapes_of(passes_by(same, (4, 6, 10), 3, average=8)) == [(4, 6, 10)]
    assert shapes_of(passes_by(same, (4, 6, 10), planes="xyz")) == [(6, 10), (4, 10), (4, 6)]
    assert shapes_of(passes_by(same, (4, 6, 6), planes="xyz")) == [(6, 6), (4, 6)]
    assert shapes_of(passes_by(same, (6, 6, 6), planes="xyz")) == [(6, 6)]
    passes = passes_by(same, (6, 10), average=8)
    assert passes.backend is passes.backends[0]


@pytest.mark.parametrize("average", [4, 8])
def test_of_a_network_that_sees_rows_only_mean_and_deviation_are_known(average: int) -> None:
    shape = (4, 6)
    y, x = np.indices(shape)
    seen = [y, y, 3 - y, 3 - y] + ([x, x, 5 - x, 5 - x] if average == 8 else [])
    found = through(passes_by(rows, shape, average=average), pixels(2, 1, *shape))
    for probability, deviation in zip(found.probability, found.uncertainty, strict=True):
        np.testing.assert_allclose(probability[0], np.mean(seen, axis=0), atol=1e-6)
        np.testing.assert_allclose(deviation[0], np.std(seen, axis=0), atol=1e-6)


def test_attention_maps_are_turned_back_too() -> None:
    shape = (4, 6)
    y, x = np.indices((2, 3)) * 2
    found = through(passes_by(rows, shape, average=8), pixels(2, 1, *shape))
    (attention,) = found.attentions
    seen = [y, 2 - y, x, 4 - x]
    np.testing.assert_allclose(attention, np.stack([np.mean(seen, axis=0)] * 2), atol=1e-6)


def test_each_direction_sees_the_volume_in_its_own_slices() -> None:
    shape = (4, 18, 10)
    z, y, _ = np.indices(shape)
    seen = [y, z, z]  # the rows of XY, XZ and YZ
    found = through(passes_by(rows, shape, planes="xyz"), pixels(2, 1, *shape))
    for probability, deviation in zip(found.probability, found.uncertainty, strict=True):
        np.testing.assert_allclose(probability[0], np.mean(seen, axis=0), atol=1e-5)
        np.testing.assert_allclose(deviation[0], np.std(seen, axis=0), atol=1e-5)
    assert found.attentions == ()


def test_each_direction_counts_a_third() -> None:
    shape, values = (4, 6, 10), {(6, 10): 0.1, (4, 10): 0.4, (4, 6): 0.7}
    passes = passes_by(
        lambda images: np.full((len(images), 2, *images.shape[2:]), values[images.shape[2:]]), shape, planes="xyz"
    )
    found = through(passes, pixels(1, 3, *shape))
    assert found.probability.shape == found.uncertainty.shape == (1, 2, *shape)
    np.testing.assert_allclose(found.probability, 0.4, atol=1e-6)
    np.testing.assert_allclose(found.uncertainty, np.std([0.1, 0.4, 0.7]), atol=1e-6)


def test_three_planes_are_each_slice_alone() -> None:
    model, (image,) = tiny(classes=("membrane", "mitochondrion")), pixels(1, 1, 8, 12, 16)
    one = lambda plane: Plain(model).run(np.ascontiguousarray(plane[None])).probability[0]  # noqa: E731
    seen = [np.stack([one(np.take(image, at, axis)) for at in range(image.shape[axis])], axis) for axis in (1, 2, 3)]
    found = through(passes_of(model, (8, 12, 16), planes="xyz"), image[None])
    np.testing.assert_allclose(found.probability[0], np.mean(seen, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.uncertainty[0], np.std(seen, axis=0), atol=1e-5)


MOVES = [lambda v: np.flip(v, -1), lambda v: np.flip(v, -2), lambda v: np.swapaxes(v, -1, -2)]


@pytest.mark.parametrize("shape", [(16, 16), (16, 24)])
@pytest.mark.parametrize("move", MOVES, ids=["x", "y", "transpose"])
def test_8_copies_follow_flips_and_transposes_of_the_image(
    shape: tuple[int, int], move: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    model, images = tiny(widths=(2, 3, 4)), pixels(1, 1, *shape)
    moved = np.ascontiguousarray(move(images))
    once = through(passes_of(model, shape, average=8), images)
    again = through(passes_of(model, moved.shape[2:], average=8), moved)
    np.testing.assert_allclose(again.probability, move(once.probability), atol=1e-6)
    np.testing.assert_allclose(again.uncertainty, move(once.uncertainty), atol=1e-6)
    for here, there in zip(again.attentions, once.attentions, strict=True):
        np.testing.assert_allclose(here, move(there), atol=1e-6)
    alone = through(passes_of(model, shape), images)
    assert np.abs(once.probability - alone.probability).max() > 1e-3


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_8_copies_of_a_volume_follow_its_flips_and_4_do_not_along_z(axis: int) -> None:
    model, images = tiny(3, (2, 3)), pixels(1, 1, 8, 8, 12)
    moved = np.ascontiguousarray(np.flip(images, axis))
    for average, follows in ((8, True), (4, axis != -3)):
        once, again = (through(passes_of(model, (8, 8, 12), average=average), given) for given in (images, moved))
        difference = np.abs(again.probability - np.flip(once.probability, axis)).max()
        assert difference < 1e-6 if follows else difference > 1e-3


@pytest.mark.parametrize(("dimensions", "shape", "options", "count"), WAYS)
def test_a_batch_gives_what_its_images_give_alone(
    dimensions: int, shape: tuple[int, ...], options: dict[str, Any], count: int
) -> None:
    model, images = tiny(dimensions), pixels(3, 1, *shape)
    passes = passes_of(model, shape, **options)
    together = through(passes, images)
    for number, image in enumerate(images):
        alone = through(passes, image[None])
        np.testing.assert_allclose(together.probability[number], alone.probability[0], atol=1e-6)
        for here, there in zip(together.attentions, alone.attentions, strict=True):
            np.testing.assert_allclose(here[number], there[0], atol=1e-6)
        if together.uncertainty is not None:
            np.testing.assert_allclose(together.uncertainty[number], alone.uncertainty[0], atol=1e-5)


def test_a_fault_of_any_backend_is_found() -> None:
    class Fragile(ByHand):
        def run(self, images: Pixels) -> TileOutput:
            raise RuntimeError("the driver is gone")

    def maker(model: Model, device: Device, shape: tuple[int, ...]) -> FallbackBackend:
        first = Fragile if shape == (10, 6) else ByHand
        choices = [
            BackendOption(title, "", lambda m, s, k=kind: k(s, same)) for title, kind in (("A", first), ("B", ByHand))
        ]
        return FallbackBackend(tuple(choices), model, shape)

    passes = choose_passes(tiny(), CPU, (6, 10), SegmentOptions("cpu", average=8), maker)
    images = pixels(1, 1, 6, 10)
    np.testing.assert_array_equal(through(passes, images).probability, images)
    noted = [notes(backend) for backend in passes.backends]
    assert noted == [(), ("A failed (RuntimeError: the driver is gone); B takes over.",)]
    assert notes(passes.backend) == ()


def test_three_planes_of_a_volume_take_little_more_memory_than_their_results() -> None:
    shape = (96, 96, 96)
    passes, images = passes_by(same, shape, planes="xyz"), pixels(1, 1, *shape)
    tracemalloc.start()
    through(passes, images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.1 * images.nbytes  # mean, variance and deviation


def test_three_planes_need_a_volume_and_a_2d_network() -> None:
    with pytest.raises(ValueError, match="take a 2D network and a 3D tile"):
        passes_by(same, (6, 10), planes="xyz")
    with pytest.raises(ValueError, match="take a 2D network and a 3D tile"):
        passes_by(same, (4, 6, 10), 3, planes="xyz")
