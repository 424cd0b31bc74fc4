"""Reading, network and writing at once: nothing waits, nothing piles up, and the order of tiles changes no result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import pytest
from identity import Identity, always, identity, make_model
from numpy.typing import NDArray

from napari_skipseg.devices import Device, has_openvino
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import plan_tiles
from napari_skipseg.inference import pipeline
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.ensemble import Passes
from napari_skipseg.inference.memory import AHEAD, BEHIND
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.pipeline import Pipeline, PipelinePace
from napari_skipseg.inference.predict import iter_fill, iter_predict, iter_prepare
from napari_skipseg.inference.prediction import Focus, ResultsOpened, TileWritten
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.stores import ArrayStore
from napari_skipseg.inference.tiling import Order, TileUnit, make_tile_grid
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress, run_to_end

CPU = Device("cpu", "CPU", "for the test")
RNG = np.random.default_rng(11)


class Watch:
    """Three stages that take a while; it notes what each does, and what lies between them."""

    def __init__(self, seconds: float = 0.0, batch: int = 1, per_tile: int = 1, units: int = 30) -> None:
        self.seconds, self.per_tile = seconds, per_tile
        self.slow: dict[str, float] = {}
        self.fault: tuple[str, int, Exception] | None = None
        self.read: list[int] = []
        self.computed: list[NDArray[np.float32]] = []
        self.written: list[int] = []
        self.begun_writing = self.most_held = self.most_ahead = 0
        self.spent = 0.0
        self.lock = threading.Lock()
        self.grid = make_tile_grid(
            Stack(np.zeros((units, 4, 4), np.uint8), Space("ZYX")), "YX", plan_tiles((4, 4), (4, 4), 0, 1)
        )
        self.order, self.pace = Order(self.grid), PipelinePace()
        passes = Passes((), per_tile, self._run)
        self.pipeline = Pipeline(self.grid.unit, self._region, self._read, passes, self._write, batch, self.pace)

    def work(self) -> Generator[Progress, Focus | None, None]:
        return self.pipeline.iter_run(self.order, len(self.grid), lambda: "")

    def _region(self, unit: TileUnit) -> tuple[tuple[int, int], ...]:
        return tuple((part.start, part.stop) for part in self.grid.region(unit))

    def _take(self, stage: str, count: int) -> None:
        start = time.perf_counter()
        time.sleep(self.slow.get(stage, self.seconds))
        with self.lock:
            self.spent += time.perf_counter() - start
        if self.fault is not None and self.fault[:2] == (stage, count):
            raise self.fault[2]

    def _read(self, unit: TileUnit) -> Pixels:
        with self.lock:
            self.read.append(unit.number)
            self.most_held = max(self.most_held, len(self.read) - len(self.written))
            self.most_ahead = max(self.most_ahead, len(self.read) - len(self.computed))
        self._take("reading", len(self.read))
        return np.full((1, 4, 4), unit.number + 1, np.float32)

    def _run(self, images: Pixels, places: Sequence[Any]) -> Generator[None, None, TileOutput]:
        assert len(images) == len(places)
        for number in range(self.per_tile):
            if number:
                yield
            self._take("network", len(self.computed) + 1)
        with self.lock:
            self.computed.append(images[:, 0, 0, 0])
        return TileOutput(images, ())

    def _write(self, unit: TileUnit, output: TileOutput, number: int) -> None:
        self.begun_writing += 1
        self._take("writing", self.begun_writing)
        assert np.all(output.probability[number] == unit.number + 1)
        with self.lock:
            self.written.append(unit.number)


def threads() -> set[str]:
    # the threads that compress chunks stay for the next writer
    names = {thread.name for thread in threading.enumerate() if not thread.name.startswith("writing chunks")}
    return {name for name in names if name.startswith(("reading", "writing"))}


def test_three_stages_take_the_time_of_one() -> None:
    watch = Watch(0.02, units=40)
    start = time.perf_counter()
    run_to_end(watch.work())
    passed = time.perf_counter() - start
    assert passed < 0.8 * watch.spent  # one after the other, they take all that the stages took together
    assert watch.pace.network / watch.pace.passed >= 0.5


@pytest.mark.parametrize(
    ("slow", "least", "most"), [("reading", 0.0, 0.5), ("writing", 0.0, 0.5), ("network", 0.6, 1.0)]
)
def test_the_share_in_which_the_network_computes_is_measured(
    slow: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WRITING_THREADS", 1)  # several share the units, and a slow one counts less
    watch = Watch(0.002, units=20)
    watch.slow[slow] = 0.04
    run_to_end(watch.work())
    assert least <= watch.pace.network / watch.pace.passed <= most


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("slow", ["reading", "network", "writing"])
def test_no_more_batches_are_held_than_wait_on_either_side(slow: str, batch: int) -> None:
    watch = Watch(0.0, batch)
    watch.slow[slow] = 0.01 / batch
    run_to_end(watch.work())
    assert watch.most_held <= (AHEAD + BEHIND + 1) * batch
    assert sorted(watch.written) == list(range(30))


@pytest.mark.parametrize("stage", ["reading", "network", "writing"])
@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_a_fault_is_raised_once_as_it_is_and_no_thread_is_left(stage: str, count: int) -> None:
    class OwnFaultError(Exception):
        pass

    watch, fault = Watch(0.001), OwnFaultError("the disk is gone")
    watch.fault = (stage, count, fault)
    work = watch.work()
    with pytest.raises(OwnFaultError) as raised:
        run_to_end(work)
    assert raised.value is fault
    assert not threads()
    assert next(work, None) is None
    assert len(watch.written) < 30
    if stage == "network":
        assert len(watch.computed) == count - 1


@pytest.mark.parametrize("per_tile", [1, 3])
@pytest.mark.parametrize("yields", [1, 2, 5, 20])
def test_closing_at_any_yield_stops_all_and_leaves_whole_tiles(per_tile: int, yields: int) -> None:
    watch = Watch(0.002, per_tile=per_tile)
    work = watch.work()
    for _ in range(yields):
        next(work)
    work.close()
    assert not threads()
    before = (len(watch.read), len(watch.computed), list(watch.written), watch.begun_writing)
    time.sleep(0.02)
    assert (len(watch.read), len(watch.computed), list(watch.written), watch.begun_writing) == before
    assert watch.begun_writing == len(watch.written)
    assert len(watch.read) <= len(watch.written) + AHEAD + BEHIND + 1


def test_a_run_of_which_all_is_done_says_nothing_and_starts_no_thread() -> None:
    watch = Watch()
    watch.order = Order(watch.grid, range(30))
    assert list(watch.work()) == []
    assert not threads()


@pytest.mark.parametrize(("batch", "per_tile"), [(1, 1), (1, 4), (4, 1), (4, 3)])
@pytest.mark.parametrize("slow", ["reading", "network", "writing"])
def test_progress_never_goes_back_and_tells_of_every_tile_once(slow: str, batch: int, per_tile: int) -> None:
    watch = Watch(0.0, batch, per_tile, units=10)
    watch.slow[slow] = 0.003
    seen = list(watch.work())
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert {progress.total for progress in seen} == {10 * per_tile}
    assert done[-1] == 10 * per_tile
    told = [progress.region[0][0] for progress in seen if isinstance(progress, TileWritten)]
    assert sorted(told) == list(range(10))


def test_the_first_tile_is_told_of_before_the_second_is_computed() -> None:
    watch = Watch()
    watch.slow = {"writing": 0.03}
    work = watch.work()
    assert isinstance(next(work), TileWritten)
    assert (len(watch.computed), watch.written) == (1, [0])
    work.close()


def test_the_last_batch_is_filled_up_with_nothing() -> None:
    watch = Watch(batch=4, units=6)
    run_to_end(watch.work())
    assert [batch.tolist() for batch in watch.computed] == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert sorted(watch.written) == list(range(6))


def test_a_focus_orders_what_is_not_yet_read() -> None:
    watch = Watch(0.001, units=20)
    work = watch.work()
    next(work)
    work.send(Focus({"Z": (15.0, 15.0)}))
    run_to_end(work)
    assert watch.read[:AHEAD] == [0, 1]
    assert watch.read[AHEAD:][:5] == [15, 14, 16, 13, 17]


Maker = Callable[[Model, Device, tuple[int, ...]], Backend]


def filled(
    stack: Stack, model: Model, maker: Maker, batch: int, side: int, foci: Sequence[Focus | None]
) -> tuple[dict[str, NDArray[Any]], list[tuple[tuple[int, int], ...]]]:
    """The arrays of a run whose view moves before and after each event, and the regions in their order."""
    pinned = {"side": side, "batch": batch, "device": "cpu", "normalization": {"mean": 100.0, "deviation": 50.0}}
    run = run_to_end(iter_prepare(RunSpec(stack, model, SegmentOptions("cpu"), backend_maker=maker, pinned=pinned)))
    store = ArrayStore(run.results)
    left, regions = list(foci), []
    work = iter_fill(run, store, focus=left.pop(0) if left else None)
    event = next(work, None)
    while event is not None:
        if isinstance(event, TileWritten):
            regions.append(event.region)
        try:
            event = work.send(left.pop(0) if left else None)
        except StopIteration:
            break
    return store.arrays, regions


def anywhere(count: int) -> list[Focus | None]:
    """A view of the last corner, then of places drawn at random, and none now and then."""
    places = RNG.integers(0, 40, (count, 3)).astype(float)
    last = Focus({"Z": (39.0, 39.0), "Y": (39.0, 40.0), "X": (39.0, 40.0)})
    return [last] + [Focus({"Z": (z, z), "Y": (y, y + 9), "X": (x, x + 20)}) if z % 3 else None for z, y, x in places]


def torch_cpu(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
    return TorchBackend(model, CPU, "f32")


def openvino(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
    return OpenVINOBackend(model, shape, None)


@pytest.mark.parametrize(("dimensions", "batch"), [(2, 1), (2, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize("maker", [torch_cpu, openvino])
def test_results_are_the_same_bytes_in_whatever_order_tiles_come(maker: Maker, dimensions: int, batch: int) -> None:
    if maker is openvino and not has_openvino():
        pytest.skip("OpenVINO is not installed")
    stack = Stack(RNG.integers(0, 256, (5, 40, 50) if dimensions == 2 else (40, 30, 40)).astype(np.uint8), Space("ZYX"))
    model = make_model(dimensions, (3, 4), margin=4)
    plain, regions = filled(stack, model, maker, batch, 24, [])
    assert len(regions) > 10
    again, others = filled(stack, model, maker, batch, 24, anywhere(len(regions)))
    assert others != regions
    assert sorted(others) == sorted(regions)
    for name, values in plain.items():
        np.testing.assert_array_equal(again[name], values)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_image_becomes_the_same_in_whatever_company(batch: int) -> None:
    stack = Stack(RNG.integers(0, 256, (7, 24, 24)).astype(np.uint8), Space("ZYX"))
    model = make_model(widths=(3, 4), margin=4)
    together, _ = filled(stack, model, torch_cpu, batch, 24, [])
    for z in range(7):
        alone = Stack(stack.data[z : z + 1], Space("ZYX"))
        arrays, _ = filled(alone, model, torch_cpu, batch, 24, [])
        np.testing.assert_array_equal(arrays["probability"][0], together["probability"][z])


def events_of(work: Generator[Progress, Focus | None, Any], foci: dict[type, Focus]) -> list[Progress]:
    """All events of a run to which a focus is sent at the first event of each of these kinds."""
    seen: list[Progress] = []
    focus = None
    while True:
        try:
            seen.append(work.send(focus))
        except StopIteration:
            return seen
        focus = foci.pop(type(seen[-1]), None)


def shown(events: list[Progress]) -> list[int]:
    return [event.region[0][0] for event in events if isinstance(event, TileWritten)]


@pytest.mark.parametrize("kind", [ResultsOpened, Progress])
def test_a_focus_sent_before_the_first_tile_comes_first(kind: type) -> None:
    stack = Stack(RNG.integers(0, 256, (9, 20, 20)).astype(np.uint8), Space("ZYX"))
    work = iter_predict(RunSpec(stack, make_model(), SegmentOptions("cpu"), backend_maker=identity))
    assert shown(events_of(work, {kind: Focus({"Z": (6.0, 6.0)})})) == [6, 5, 7, 4, 8, 3, 2, 1, 0]


def test_a_focus_sent_at_a_tile_comes_after_those_that_are_read() -> None:
    stack = Stack(RNG.integers(0, 256, (12, 20, 20)).astype(np.uint8), Space("ZYX"))
    work = iter_predict(RunSpec(stack, make_model(), SegmentOptions("cpu"), backend_maker=identity))
    came = shown(events_of(work, {ResultsOpened: Focus({"Z": (1.0, 1.0)}), TileWritten: Focus({"Z": (9.0, 9.0)})}))
    assert came[:AHEAD] == [1, 0]
    assert came[AHEAD:][:5] == [9, 8, 10, 7, 11]


def test_a_fault_in_mid_run_leaves_whole_tiles_and_no_thread() -> None:
    class Fragile(Identity):
        def run(self, images: Pixels) -> TileOutput:
            if self.runs == 5:
                raise MemoryError("no more")
            return super().run(images)

    stack = Stack(RNG.integers(1, 256, (9, 20, 20)).astype(np.uint8), Space("ZYX"))
    model = make_model(margin=0)
    backend = Fragile(model, (20, 20))
    work = iter_predict(RunSpec(stack, model, SegmentOptions("cpu"), backend_maker=always(backend)))
    prediction = next(event.prediction for event in work if isinstance(event, ResultsOpened))
    assert prediction is not None
    with pytest.raises(MemoryError, match="no more"):
        run_to_end(work)
    assert not threads()
    whole = [bool(np.all(part)) for part in prediction.probability]
    assert all(filled or not np.any(part) for filled, part in zip(whole, prediction.probability, strict=True))
    assert 5 - BEHIND <= sum(whole) <= 5
