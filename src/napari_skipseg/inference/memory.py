"""The memory that a run over tiles needs, and the tile that is chosen by it. Loads without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_skipseg.devices import WHOLE_MEMORY, Device, MemoryShare, versions
from napari_skipseg.images.tiles import round_up
from napari_skipseg.inference.backends import compiled
from napari_skipseg.inference.options import Planes
from napari_skipseg.inference.recipes.recipe import MOST_AT_ONCE
from napari_skipseg.models.model import Model, network_facts
from napari_skipseg.networks.specs import ImportedSpec

AHEAD = 2
"""Batches that are read, or being read, before the network takes them."""
BEHIND = 2
"""Batches that wait to be written; the network waits when there are more."""
SLICES = 8
"""Slices of a volume that go through the network together on a CPU, and the least on a GPU."""

FLOAT = 4
"""Bytes of a float32, in which tiles go in and come out."""
FACTORS = {"cpu": 1.7, "cuda": 2.0, "mps": 2.0}
"""Most memory of a process in units of `tile_bytes`, by device.

CPU: measured as growth of resident memory, on tiles of 100 MB and more (2 cores with AVX-512 bf16; OpenVINO 2026.4,
torch 2.13): OpenVINO 0.7 to 1.7, the most being its compilation of a wide network, and at most 1.2 from 250 MB on;
torch, which takes over where OpenVINO fails, 1.0 to 1.3. GPUs: room for cuDNN's work space and torch's cache of freed
blocks, a guess that was not measured yet.
"""


@dataclass(frozen=True)
class NetworkMemory:
    """The memory of a network: its weights, and `bytes` for tiles of `voxels`, in proportion to the voxels.

    stride: tiles are padded to multiples of it.
    """

    weights: int
    bytes: int
    voxels: int
    stride: int

    def run_bytes(self, shape: tuple[int, ...], batch: int) -> int:
        """Return the bytes of one run over `batch` tiles of `shape` (*space) at its peak."""
        voxels = batch * math.prod(-(-length // self.stride) * self.stride for length in shape)
        return self.weights + -(-self.bytes * voxels // self.voxels)


def tile_bytes(model: Model, shape: tuple[int, ...], batch: int, precision: str) -> int:
    """Return the bytes that one run over `batch` tiles of `shape` (*space) takes at its peak, on any device.

    These are the activations that exist together, the weights, and the input and output tiles in float32, without the
    memory of the backend itself (`FACTORS`).
    """
    return measure_memory(model, precision).run_bytes(shape, batch)


def measure_memory(model: Model, precision: str) -> NetworkMemory:
    """Return the memory of the model's network, folded and cast to `precision`, counted in a pass over a tiny tile.

    The counts of a model that lies in a folder are kept on disk, as the pass needs torch.
    """
    stride = model.description.stride
    if isinstance(model.description.spec, ImportedSpec):  # what its runtime takes was measured when it was imported
        imported = model.description.spec
        return NetworkMemory(2 * imported.file_bytes, imported.voxel_bytes, 1, stride)
    kept = bool(model.description.weights_sha256)
    facts = {"network": network_facts(model.description), "precision": precision}
    key = compiled.key_of(what="memory", **facts, code=compiled.code_hash(), torch=versions().get("torch"))
    counts = compiled.read_facts(key) if kept else None
    if counts is None or counts.keys() != {"weights", "bytes", "voxels"}:
        from napari_skipseg.inference.activations import count_bytes

        counts = count_bytes(model, precision)._asdict()
        if kept:
            compiled.write_facts(key, counts)
    return NetworkMemory(**counts, stride=stride)


SHARE = 0.5
"""The share of the free memory that a run may use; the rest is for reading, writing and other programs."""
KEEPS = {2: (1024, 512, 256, 128, 64, 32), 3: (128, 64, 32, 16)}
"""Voxels that a tile keeps along each axis, by the network's dimensions: whole chunks of the output.

Measured in 3D on a CPU (OpenVINO, bf16, margin 16), in µs per voxel kept: 1.40 at 64, 0.99 at 96, 0.61 at 128, and 0.44
at 192, which takes 2.7 times as much memory as 128.
"""
KEEPS_OF_GPU = {2: 2048, 3: 256}
"""One larger still, for a GPU."""
KEEPS_OF_PLANES = (256, 128, 64, 32)
"""Voxels that a block keeps along each axis if a 2D network computes it in three planes."""
VOXELS_AT_ONCE = 16 * 2**20
"""Voxels that keep a GPU busy. A CPU is busy with one tile: 256² takes as long alone as among 4 (measured in torch)."""
BLOCK_ARRAYS = 3
"""Arrays per class of a block that is seen in three planes: mean, squares and output; each channel is one besides."""


@dataclass(frozen=True)
class TileChoice:
    """The side of a tile in voxels, the tiles per run, the most bytes that this needs, and the reason.

    batch: for blocks in three planes, the number of slices per run divided by `SLICES`. bytes: on the device, with the
    arrays of such a block. reason: for messages.
    """

    side: int
    batch: int
    bytes: int
    reason: str


def choose_tile(
    model: Model, device: Device, precision: str, wanted: int, planes: Planes, share: MemoryShare = WHOLE_MEMORY
) -> TileChoice:
    """Return the largest tile with which a run needs at most `SHARE` of the free memory, and enough tiles per run.

    Sides include the margins on both ends. wanted: the side from the user, used unchanged; 0 = choose one. If no
    candidate fits, return the smallest tile: a stride and its margins.
    """
    stride = model.description.stride
    border = 2 * round_up(model.description.margin, stride)
    smallest = border + stride
    room = _Room(model, device.name, planes, measure_memory(model, precision), share)
    if wanted:
        side = wanted
    else:
        sides = (round_up(keep + border, stride) for keep in room.keeps)
        side = next((side for side in sides if room.fits(side, 1)), smallest)
    size = max(round_up(side, stride), smallest)
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
    requested = ", as you asked" if wanted else ""
    together = f", {batch} at a time" if batch > 1 and not room.in_planes else ""
    if batch > 1 and room.in_planes:
        together = f", {min(side, batch * SLICES)} slices at a time"
    short = " (the smallest there are, and still more than is good)" if not (wanted or room.fits(side, batch)) else ""
    return f"{tiles}{requested}{together}: {_in_words(needed)} of {_in_words(room.free[room.device])} free{short}"


def _in_words(size: int) -> str:
    """Return a number of bytes as one reads it."""
    if size < 10**8:
        return f"{size / 10**6:.0f} MB"
    return f"{size / 10**9:.{0 if size >= 10**10 else 1}f} GB"
