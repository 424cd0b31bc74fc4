"""Which tile a run takes, and how many at once: as large as is fast, and as the memory that is free allows."""

from __future__ import annotations

from dataclasses import dataclass

from napari_skipseg.devices import Device
from napari_skipseg.inference.memory import FACTORS, FLOAT, NetworkMemory, measure_memory
from napari_skipseg.inference.memory_share import ALONE, MemoryShare
from napari_skipseg.inference.options import Planes
from napari_skipseg.inference.pipeline import AHEAD, BEHIND
from napari_skipseg.inference.planes import SLICES
from napari_skipseg.inference.recipe import MOST_AT_ONCE
from napari_skipseg.models.model import Model

SHARE = 0.5
"""What a run may take of the memory that is free; the rest is for reading, writing and everybody else."""
KEEPS = {2: (1024, 512, 256, 128, 64, 32), 3: (128, 64, 32, 16)}
"""What a tile keeps along each axis, in voxels, by the network's dimensions: whole chunks of the output.

Measured in 3D on a CPU (OpenVINO, bf16, margin 16), in µs per voxel kept: 1.40 at 64, 0.99 at 96, 0.61 at 128, and 0.44
at 192, which takes 2.7 times as much memory as 128.
"""
KEEPS_OF_GPU = {2: 2048, 3: 256}
"""One larger still, for a GPU."""
KEEPS_OF_PLANES = (256, 128, 64, 32)
"""What a block keeps that a 2D network sees in three planes."""
VOXELS_AT_ONCE = 16 * 2**20
"""Voxels that keep a GPU busy. A CPU is busy with one tile: 256² takes as long alone as among 4 (measured in torch)."""
BLOCK_ARRAYS = 3
"""Arrays per class of a block that is seen in three planes: mean, squares and output; each channel is one besides."""


@dataclass(frozen=True)
class TileChoice:
    """Side of a tile in voxels, how many go into one run, what that takes at the most in bytes, and why.

    batch: of blocks that are seen in three planes, how many times `SLICES` of their slices go into one run. bytes: on
    the device, with the arrays of such a block. reason: to be shown.
    """

    side: int
    batch: int
    bytes: int
    reason: str


def choose_tile(
    model: Model, device: Device, precision: str, wanted: int, planes: Planes, share: MemoryShare = ALONE
) -> TileChoice:
    """Return the largest tile of which a run takes at most `SHARE` of the free memory, and as many as keep it busy.

    Sides are what a tile keeps and a margin on both ends. wanted: the side that the user names, taken as it is; 0 = to
    be chosen. Where no candidate fits, the tile is the smallest there is: a stride and its margins.
    """
    stride = model.network.stride
    border = 2 * _up(model.description.margin, stride)
    smallest = border + stride
    room = _Room(model, device.name, planes, measure_memory(model, precision), share)
    if wanted:
        side = wanted
    else:
        sides = (_up(keep + border, stride) for keep in room.keeps)
        side = next((side for side in sides if room.fits(side, 1)), smallest)
    size = max(_up(side, stride), smallest)
    batch = next((count for count in room.batches(size) if room.fits(size, count)), 1)
    needed = room.needs(size, batch)[device.name]
    return TileChoice(side, batch, needed, _reason(side, batch, wanted, room, needed))


class _Room:
    """What there is room for on a device, and in the computer's own memory where that is another."""

    def __init__(self, model: Model, device: str, planes: Planes, memory: NetworkMemory, share: MemoryShare) -> None:
        self.device = device
        self.in_planes = planes == "xyz"
        self.spec = model.description.spec
        self.dimensions = 3 if self.in_planes else self.spec.dimensions
        self.free = {name: share.of(name) for name in {device, "cpu"}}
        self._classes = len(model.description.classes)
        self._memory = memory

    @property
    def keeps(self) -> tuple[int, ...]:
        """What a tile may keep along each axis, the fastest first."""
        if self.in_planes:
            return KEEPS_OF_PLANES
        keeps = KEEPS[self.dimensions]
        return keeps if self.device == "cpu" else (KEEPS_OF_GPU[self.dimensions], *keeps)

    def batches(self, side: int) -> tuple[int, ...]:
        """Return how many tiles, or `SLICES` of a block, may go into one run, the fastest first."""
        if self.device == "cpu":
            return (1,)
        voxels = SLICES * side**2 if self.in_planes else side**self.dimensions
        most = min(MOST_AT_ONCE, max(1, VOXELS_AT_ONCE // voxels))
        if self.in_planes:
            most = min(most, -(-side // SLICES))
        return tuple(range(most, 0, -1))

    def needs(self, side: int, batch: int) -> dict[str, int]:
        """Return the bytes that a run over so many tiles takes, by the device that they are taken from."""
        on_gpu = self.device != "cpu"
        at_once = batch * SLICES if self.in_planes and on_gpu else batch
        run = self._memory.run_bytes((side,) * self.spec.dimensions, at_once)
        found = {"cpu": 0, self.device: round(run * FACTORS[self.device])}
        if self.in_planes:
            arrays = self.spec.in_channels + BLOCK_ARRAYS * self._classes
            found["cpu"] += arrays * FLOAT * side**3
            if on_gpu:  # where the directions are averaged too
                found[self.device] += arrays * FLOAT * side**3
        if on_gpu:
            found["cpu"] += self._waiting(side, 1 if self.in_planes else batch)
        return found

    def _waiting(self, side: int, batch: int) -> int:
        """Return the bytes of batches on the computer that are read, pinned to cross to a GPU, or wait to be written.

        A pinned buffer may be twice as large as what is in it: torch rounds its size up to a power of two.
        """
        each: int = FLOAT * batch * side**self.dimensions
        given = each * self.spec.in_channels
        taken = each * (2 * self._classes + 1)  # with uncertainty; attention maps are less than one array
        return (AHEAD + 1 + 2) * given + (BEHIND + 1 + 2) * taken

    def fits(self, side: int, batch: int) -> bool:
        """Return whether a run over so many tiles takes at most its share."""
        return all(needed <= SHARE * self.free[name] for name, needed in self.needs(side, batch).items())


def _reason(side: int, batch: int, wanted: int, room: _Room, needed: int) -> str:
    tiles = f"{'blocks' if room.in_planes else 'tiles'} of {' × '.join([str(side)] * room.dimensions)}"
    asked = ", as you asked" if wanted else ""
    together = f", {batch} at a time" if batch > 1 and not room.in_planes else ""
    if batch > 1 and room.in_planes:
        together = f", {min(side, batch * SLICES)} slices at a time"
    short = " (the smallest there are, and still more than is good)" if not (wanted or room.fits(side, batch)) else ""
    return f"{tiles}{asked}{together}: {_in_words(needed)} of {_in_words(room.free[room.device])} free{short}"


def _in_words(size: int) -> str:
    """Return a number of bytes as one reads it."""
    if size < 10**8:
        return f"{size / 10**6:.0f} MB"
    return f"{size / 10**9:.{0 if size >= 10**10 else 1}f} GB"


def _up(length: int, stride: int) -> int:
    return -(-length // stride) * stride
