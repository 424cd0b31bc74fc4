"""The tile fits into the memory that is free, keeps whole chunks, and on a GPU goes with others."""

from __future__ import annotations

import pytest
from identity import make_model

from napari_skipseg import devices
from napari_skipseg.devices import Device, MemoryShare
from napari_skipseg.inference.memory import (
    AHEAD,
    BEHIND,
    FACTORS,
    FLOAT,
    SHARE,
    SLICES,
    VOXELS_AT_ONCE,
    TileChoice,
    choose_tile,
    tile_bytes,
)
from napari_skipseg.inference.recipes.recipe import MOST_AT_ONCE
from napari_skipseg.models.model import Model

CPU, CUDA = Device("cpu", "CPU", ""), Device("cuda", "GPU", "")
PLENTY = 10**12
FLAT = make_model(2, (4, 8), margin=8)
DEEP = make_model(3, (4, 8), margin=6)


def free(monkeypatch: pytest.MonkeyPatch, cpu: int = PLENTY, cuda: int = PLENTY) -> None:
    monkeypatch.setattr(devices, "free_memory", {"cpu": cpu, "cuda": cuda}.__getitem__)


def choose(model: Model, device: Device = CPU, wanted: int = 0, planes: str = "xy") -> TileChoice:
    return choose_tile(model, device, "f32", wanted, planes)


@pytest.mark.parametrize(
    ("model", "device", "planes", "keep"),
    [
        (FLAT, CPU, "xy", 1024),
        (FLAT, CUDA, "xy", 2048),
        (DEEP, CPU, "xy", 128),
        (DEEP, CUDA, "xy", 256),
        (FLAT, CPU, "xyz", 256),
        (FLAT, CUDA, "xyz", 256),
    ],
)
def test_with_plenty_free_a_tile_keeps_the_most_and_reads_a_margin_on_both_ends(
    model: Model, device: Device, planes: str, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch)
    assert choose(model, device, planes=planes).side == keep + 2 * model.description.margin


def test_margins_and_sides_are_multiples_of_the_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    model = make_model(2, (2, 2, 2, 2), margin=9)
    assert model.network.stride == 8
    assert choose(model).side == 1024 + 2 * 16


@pytest.mark.parametrize("keep", [1024, 512, 256, 128, 64, 32])
def test_the_tile_is_the_largest_that_takes_its_share_of_what_is_free(
    keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = keep + 16
    needed = round(tile_bytes(FLAT, (side, side), 1, "f32") * FACTORS["cpu"])
    free(monkeypatch, cpu=round(needed / SHARE))
    choice = choose(FLAT)
    assert (choice.side, choice.bytes) == (side, needed)
    free(monkeypatch, cpu=round(needed / SHARE) - 2)
    assert choose(FLAT).side < side


def test_a_volume_takes_smaller_tiles_where_less_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    for left in (PLENTY, 2**28, 2**25, 2**23, 0):
        free(monkeypatch, cpu=left)
        sides.append(choose(DEEP).side)
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == 5
    assert sides[-1] == 2 * DEEP.description.margin + DEEP.network.stride


def test_with_nothing_free_the_smallest_tile_is_taken_and_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, cpu=0)
    choice = choose(FLAT)
    assert (choice.side, choice.batch) == (18, 1)
    assert choice.reason.startswith("tiles of 18 × 18: 0 MB of 0 MB free (the smallest there are")


def test_half_precision_fits_where_single_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, cpu=round(tile_bytes(FLAT, (1040, 1040), 1, "f32") * FACTORS["cpu"] / SHARE * 0.8))
    assert choose_tile(FLAT, CPU, "bf16", 0, "xy").side == 1040
    assert choose_tile(FLAT, CPU, "f32", 0, "xy").side == 528


@pytest.mark.parametrize("memory", [0, PLENTY])
def test_a_side_that_the_user_names_is_taken_as_it_is(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, cpu=memory, cuda=memory)
    choice = choose(FLAT, wanted=333)
    assert (choice.side, choice.batch) == (333, 1)
    assert choice.bytes == round(tile_bytes(FLAT, (334, 334), 1, "f32") * FACTORS["cpu"])
    assert "333 × 333, as you asked: " in choice.reason
    assert choose(FLAT, wanted=1).bytes == choose(FLAT, wanted=18).bytes, "tiles are at least a stride and margins"


def test_a_cpu_takes_one_tile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    assert [choose(FLAT, wanted=side).batch for side in (0, 64, 256)] == [1, 1, 1]


def test_a_gpu_takes_as_many_as_keep_it_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    batches = {side: choose(FLAT, CUDA, wanted=side).batch for side in (256, 1024, 2064, 8192)}
    assert batches == {256: MOST_AT_ONCE, 1024: 16, 2064: VOXELS_AT_ONCE // 2064**2, 8192: 1}
    assert choose(DEEP, CUDA, wanted=128).batch == 8


def test_a_gpu_takes_only_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 2, 5):
        needed = tile_bytes(FLAT, (1024, 1024), count, "f32") * FACTORS["cuda"]
        free(monkeypatch, cuda=round(needed / SHARE) + 2)
        choice = choose(FLAT, CUDA, wanted=1024)
        assert (choice.batch, choice.bytes) == (count, round(needed))
        assert (f", {count} at a time" in choice.reason) == (count > 1)


def test_a_block_seen_in_three_planes_counts_its_arrays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    choice = choose(FLAT, planes="xyz")
    side = 256 + 16
    slices = round(tile_bytes(FLAT, (side, side), 1, "f32") * FACTORS["cpu"])
    assert (choice.side, choice.bytes) == (side, slices + 4 * FLOAT * side**3)
    assert choice.reason.startswith("blocks of 272 × 272 × 272: ")
    many = make_model(classes=("a", "b", "c"), in_channels=2)
    assert choose(many, planes="xyz").bytes > (2 + 3 * 3) * FLOAT * side**3
    free(monkeypatch, cpu=round(choice.bytes / SHARE) - 2)
    assert choose(FLAT, planes="xyz").side == 128 + 16


def test_a_block_for_a_gpu_fits_into_both_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, cpu=2**30)
    assert choose(FLAT, CUDA, planes="xyz").side == 144
    free(monkeypatch, cuda=2**28)
    assert choose(FLAT, CUDA, planes="xyz").side == 144


def test_a_gpu_sees_as_many_slices_of_a_block_together_as_keep_it_busy_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    plenty = choose(FLAT, CUDA, planes="xyz")
    assert plenty.side == 272
    assert plenty.batch * SLICES * 272**2 <= VOXELS_AT_ONCE < (plenty.batch + 1) * SLICES * 272**2
    assert f", {plenty.batch * SLICES} slices at a time" in plenty.reason
    blocks = 4 * FLOAT * 272**3
    needed = tile_bytes(FLAT, (272, 272), 3 * SLICES, "f32") * FACTORS["cuda"] + blocks
    free(monkeypatch, cuda=round(needed / SHARE) + 2)
    less = choose(FLAT, CUDA, planes="xyz")
    assert (less.side, less.batch, less.bytes) == (272, 3, round(needed))
    assert choose(FLAT, CPU, planes="xyz").batch == 1


def test_a_run_on_a_gpu_counts_the_batches_that_wait_on_the_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    many = make_model(3, classes=tuple("abcdefghij"), margin=8)
    free(monkeypatch)
    wide = choose(many, CUDA)
    waiting = FLOAT * wide.batch * wide.side**3 * (AHEAD + 3 + (BEHIND + 3) * 21)
    free(monkeypatch, cpu=round(waiting / SHARE) + 2)
    enough = choose(many, CUDA)
    assert (enough.side, enough.batch) == (wide.side, wide.batch)
    free(monkeypatch, cpu=round(waiting / SHARE / 2))
    less = choose(many, CUDA)
    assert less.batch * less.side**3 < wide.batch * wide.side**3


def test_the_reason_is_a_sentence_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, cpu=20 * 10**9)
    choice = choose(make_model(widths=(16, 32), margin=32))
    assert choice.reason == f"tiles of 1088 × 1088: {choice.bytes / 10**9:.1f} GB of 20 GB free"


def test_processes_that_share_a_machine_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = round(tile_bytes(FLAT, (1040, 1040), 1, "f32") * FACTORS["cpu"] / SHARE) + 4
    free(monkeypatch, cpu=needed)
    sides = [choose_tile(FLAT, CPU, "f32", 0, "xy", MemoryShare(count)).side for count in (1, 2, 4, 16)]
    assert sides == [1040, 528, 272, 144]
    free(monkeypatch, cpu=PLENTY)
    assert choose_tile(FLAT, CPU, "f32", 0, "xy", MemoryShare(most=needed)).side == 1040
    assert choose_tile(FLAT, CPU, "f32", 0, "xy", MemoryShare(most=needed // 2)).side == 528


def test_a_limit_of_the_computers_memory_is_none_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, cpu=1000, cuda=1000)
    share = MemoryShare(2, 300)
    assert (share.of("cpu"), share.of("cuda")) == (300, 500)
