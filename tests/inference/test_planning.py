"""A plan counts reading, network and writing, and what comes after the last tile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from identity import Identity, always, identity, make_model

from napari_skipseg.devices import choose_device
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.images.zarr.writer import OmeZarrWriter
from napari_skipseg.inference import trial
from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.kept_speed import NetworkSpeed
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.saving import SavedArray
from napari_skipseg.inference.stores import ArrayStore, ZarrStore
from napari_skipseg.inference.trial import Trial, TrialCost, iter_plan
from napari_skipseg.progress import run_to_end

TILES = 4 * 9
OPTIONS = SegmentOptions("cpu", tile=40)


class Clock:
    """Time that passes only while something pretends to work."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trial, "time", clock)
    monkeypatch.setattr(trial, "cores", lambda: [0, 1])
    monkeypatch.setattr(trial, "_Watch", Unwatched)
    return clock


Watched = trial._Watch


class Unwatched(Watched):
    """Lets preparing take no time: grey values are read from slow voxels too."""

    preparing = 0.0


class SlowVoxels(LazyArray):
    """Random voxels that take a while to be read."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._voxels = np.random.default_rng(0).integers(0, 256, (4, 72, 72)).astype(np.uint8)
        self.shape, self.dtype = self._voxels.shape, self._voxels.dtype
        self._clock, self._seconds = clock, seconds

    def _read(self, index: Any) -> Any:
        self._clock.work(self._seconds)
        return self._voxels[index]


def plan_of(folder: Path, clock: Clock, reading: float = 0.0, network: float = 0.0, **how: Any) -> RunPlan:
    model = make_model(margin=8)

    class SlowNetwork(Identity):
        def run(self, images: Pixels) -> TileOutput:
            clock.work(network)
            return super().run(images)

    maker = always(SlowNetwork(model, (40, 40)))
    return run_to_end(
        iter_plan(RunSpec(Stack(SlowVoxels(clock, reading), Space("ZYX")), model, OPTIONS, maker), folder, **how)
    )


def slow_store(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float) -> None:
    """Let every piece that is written take so long."""
    for store in (ZarrStore, ArrayStore):
        write = store.write
        monkeypatch.setattr(
            store, "write", lambda self, piece, write=write: (clock.work(seconds), write(self, piece))[1]
        )


HOW = [{"form": "tiff"}, {"form": "ome-zarr"}, {"depth": None}]


@pytest.mark.parametrize("how", HOW)
def test_the_slowest_part_sets_the_pace(
    how: dict[str, Any], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = 3 if "form" in how else 2  # probability, attention map, and binary where files are written
    slow_store(monkeypatch, clock, 0.5 / pieces)
    slow_network = plan_of(tmp_path, clock, reading=1.0, network=3.0, **how)
    assert (slow_network.tiles, slow_network.slowest) == (TILES, "network")
    assert slow_network.seconds == pytest.approx(TILES * 3.0 + 1.0 + 0.5)
    slow_disk = plan_of(tmp_path, clock, reading=7.0, network=3.0, **how)
    assert slow_disk.slowest == "reading"
    assert slow_disk.seconds == pytest.approx(TILES * 7.0 + 7.0 + 0.5)
    assert "reading is the slowest part" in slow_disk.describe()["tiles"]
    slow_store(monkeypatch, clock, 15.5 / pieces)
    slow_writer = plan_of(tmp_path, clock, reading=1.0, network=3.0, **how)
    assert slow_writer.slowest == "writing"
    assert slow_writer.seconds == pytest.approx(TILES * 16.0 / 2 + 1.0 + 16.0), "two threads write"


def test_tiff_files_come_after_the_tiles_and_what_a_file_costs_at_any_size_counts_once(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = trial.write_tiff

    def slow(file: Path, saved: SavedArray) -> None:
        clock.work(100.0 + (2.0 if np.prod(saved.data.shape) > 1 else 0.0))
        write(file, saved)

    monkeypatch.setattr(trial, "write_tiff", slow)
    assert plan_of(tmp_path, clock, form="tiff").seconds == pytest.approx(3 * 2.0 * TILES)


def test_pyramids_are_written_with_the_tiles(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = np.random.default_rng(0).integers(0, 256, (2, 600, 600)).astype(np.uint8)
    write_coarser = OmeZarrWriter.write_coarser

    def slow(self: OmeZarrWriter, number: int, region: Any) -> None:
        clock.work(3.0)
        write_coarser(self, number, region)

    monkeypatch.setattr(OmeZarrWriter, "write_coarser", slow)
    model = make_model(margin=8, skip="org")
    options = SegmentOptions("cpu", tile=528)
    stack = Stack(voxels, Space("ZYX"))
    plan = run_to_end(iter_plan(RunSpec(stack, model, options, backend_maker=identity), tmp_path, form="ome-zarr"))
    of_a_tile = 2 * 3.0 * trial.COARSER
    expected = (plan.tiles / 2 + 1) * of_a_tile  # by two threads, and the last tile's at the end
    assert 0.8 * expected < plan.seconds <= expected, "beyond the tile whole chunks hold nothing yet"
    assert plan.slowest == "writing"


@pytest.mark.parametrize("how", HOW)
def test_nothing_stays_of_a_plan(how: dict[str, Any], tmp_path: Path, clock: Clock) -> None:
    plan_of(tmp_path / "not" / "there", clock, **how)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_closed_is_no_fault_of_a_plan(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("no folder")
    assert plan_of(tmp_path / "file" / "results", clock).tiles == TILES


def test_three_dimensions_several_classes_and_averages_are_tried_as_they_are(tmp_path: Path) -> None:
    model = make_model(3, classes=("a", "b"), margin=8)
    voxels = np.random.default_rng(0).integers(0, 256, (24, 40, 40)).astype(np.uint8)
    for form in ("tiff", "ome-zarr"):
        backend = Identity(model, (24, 40, 40))
        options = SegmentOptions("cpu", average=4)
        work = iter_plan(
            RunSpec(Stack(voxels, Space("ZYX")), model, options, backend_maker=lambda *_, b=backend: b),
            tmp_path,
            form=form,
        )
        plan = run_to_end(work)
        assert (plan.tiles, plan.passes) == (1, 4)
        assert plan.seconds > 0


def test_what_comes_before_the_first_tile_counts(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_Watch", Watched)
    model, counts = make_model(margin=8), iter([5, 5, 5, 6])
    monkeypatch.setattr(trial, "_count_compiled", lambda: next(counts))

    def make(*_: Any) -> Identity:
        clock.work(40.0)
        return Identity(model, (40, 40))

    def planned() -> float:
        stack = Stack(SlowVoxels(clock, 0.0), Space("ZYX"))
        work = iter_plan(RunSpec(stack, model, OPTIONS, backend_maker=make), tmp_path)
        try:
            while True:
                clock.work(7.0) if next(work).message.startswith("preparing") else None
        except StopIteration as stop:
            return float(stop.value.seconds)

    assert planned() == pytest.approx(40.0), "what others do between two steps does not count"
    assert planned() == pytest.approx(10.0), "what was compiled now is loaded by the run"


def test_a_network_that_benchmark_has_measured_here_is_not_run_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def find(*what: str) -> NetworkSpeed:
        asked.append(what)
        return NetworkSpeed(2e-3, 3e-3)

    monkeypatch.setattr(trial, "find_network_speed", find)
    plan = plan_of(tmp_path, clock, network=1000.0, depth=None)
    assert plan.seconds == pytest.approx(TILES * 40**2 * 2e-3)
    assert asked == [("tiny", choose_device("cpu").title, "identity", "f32")]


def test_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "cores", lambda: [0])
    parts = {
        "reading": TrialCost(1.0),
        "network": TrialCost(3.0),
        "writing": TrialCost(2.0),
        "finishing": TrialCost(0.5),
    }
    one = Trial(**parts)
    assert one.seconds(1, 1) == 1 + 3 + 2 + 0.5, "of one tile nothing goes on at the same time"
    assert one.seconds(10, 1) == 10 * 3 + 1 + 2 + 10 * 0.5
    assert one.slowest(10, 1) == "network"
    together = Trial(**parts | {"network": TrialCost(3.0)})
    assert together.seconds(10, 5) == 10 * 2 + 5 * (1 + 2) + 10 * 0.5, "two batches of five take 6 seconds only"
    assert together.slowest(10, 5) == "writing"
    assert replace(one, pyramid=TrialCost(4.0), preparing=100.0).seconds(10, 1) == 100 + 10 * 6 + 1 + 6 + 10 * 0.5
    monkeypatch.setattr(trial, "cores", lambda: list(range(16)))
    assert replace(one, pyramid=TrialCost(38.0)).seconds(100, 1) == 100 * 40 / 8 + 1 + 40 + 100 * 0.5


def test_cores_that_cannot_do_it_all_at_once_set_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "cores", lambda: [0, 1])
    busy = Trial(TrialCost(1.0, 1.0), TrialCost(3.0, 6.0), TrialCost(2.0, 2.0), TrialCost())
    assert busy.seconds(100, 1) == (1 + 6 + 2) / 2 * 100 + 1 + 2
    monkeypatch.setattr(trial, "cores", lambda: list(range(16)))
    assert busy.seconds(100, 1) == 3 * 100 + 1 + 2
