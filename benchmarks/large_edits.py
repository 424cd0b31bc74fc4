"""Clicks in a large volume: `python benchmarks/large_edits.py --work DIR [--side 2048]`; prints a table.

The volume is made of one block of 256³ voxels, which is found once in smooth noise that goes on at its other side, and
stands at every place: with the labels of a search in blocks, whose chunks are links to one file each, and with a graph
whose contacts also go from block to block. So a volume of 2048³ takes a few MB of disk, and is read like any other.

A click is what the tool *Grow* does: find the region at a voxel, climb the hierarchy of merges, and outline what is
chosen in the part of the slice that is on screen, 1024 × 1024 voxels around the click. The wheel is one step of it. To
come to another slice is given apart: it reads the slice, as the viewer does before anybody can click in it. So is the
first click, which builds the hierarchy. Memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import time
from itertools import product
from pathlib import Path

import numpy as np
from measuring import print_place, print_table
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.block_cache import LABELS, BlockCache
from napari_skipseg.objects.blocks import BLOCK_SIDE, BlockGrid, RelabelledArray
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import RegionGraph
from napari_skipseg.objects.watershed import Edges, Nodes
from napari_skipseg.progress import run_to_end
from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.edits import Merge, Voxel
from napari_skipseg.proofread.regions import Regions, iter_regions_of_probability
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.widgets.proofread.tools import PendingEdit

CLICKS, SCREEN, SMALL = 100, 1024, 128
OPTIONS = ObjectOptions("cells", threshold=0.3, merge=0.5)


def small_block() -> Regions:
    """Return the regions of periodic noise, 128³ voxels."""
    noise = gaussian_filter(np.random.default_rng(0).random((SMALL, SMALL, SMALL)), 5, mode="wrap")
    values = np.clip(0.5 + (noise - noise.mean()) / (4 * noise.std()), 0, 1).astype(np.float32)
    return run_to_end(iter_regions_of_probability(ClassImage(Stack(values, Space("ZYX"))), OPTIONS))


def block_labels(small: Regions) -> tuple[NDArray[np.uint32], int]:
    """Return the labels of a block of 256³ voxels, 1, 2, …, and how many there are."""
    labels, count = np.asarray(small.labels[0]), len(small.objects) - 1
    block = np.empty((BLOCK_SIDE,) * 3, np.uint32)
    for number, corner in enumerate(product((0, SMALL), repeat=3)):
        place = tuple(slice(start, start + SMALL) for start in corner)
        block[place] = np.where(labels > 0, labels + np.uint32(number * count), 0)
    return block, 8 * count


def link_volume(folder: Path, grid: BlockGrid, block: NDArray[np.uint32]) -> BlockCache:
    """Return the store of a search whose blocks all have the same labels."""
    cache = BlockCache(folder, grid, {"made of": "one block"})
    import zarr

    array = zarr.open_array(folder / LABELS, mode="r+")
    array[0, :BLOCK_SIDE, :BLOCK_SIDE, :BLOCK_SIDE] = block
    chunks = [BLOCK_SIDE // side for side in grid.chunk]
    places = [range(length // BLOCK_SIDE) for length in grid.shape[1:]]
    for corner in product(*places):
        if corner == (0, 0, 0):
            continue
        for inside in product(*map(range, chunks)):
            first = folder / LABELS / "c" / "0" / "/".join(map(str, inside))
            there = [place * count + part for place, count, part in zip(corner, chunks, inside, strict=True)]
            path = folder / LABELS / "c" / "0" / "/".join(map(str, there))
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, path)
    return cache


def graph_of(small: Regions, side: int) -> tuple[RegionGraph, NDArray[np.int32]]:
    """Return the graph of the volume, and the boxes of its regions; regions are numbered block by block."""
    nodes, edges = small.known_graph
    count, tiles = len(nodes.size), side // SMALL
    where = np.stack([*np.unravel_index(np.arange(tiles**3), (tiles,) * 3)], axis=1)
    number = np.ravel_multi_index((where // 2).T, (tiles // 2,) * 3) * 8 + np.ravel_multi_index((where % 2).T, (2,) * 3)
    chance = np.random.default_rng(1)
    one = (number[:, None] * count + edges.one).ravel()
    other = (number[:, None] * count + edges.other).ravel()
    labels = np.asarray(small.labels[0]).astype(np.int64) - 1
    pairs = [np.stack([one, other], axis=1)]
    grid = number.reshape((tiles,) * 3)
    for axis in range(3):
        near, far = (labels.take(place, axis).ravel() for place in (-1, 0))
        touching = np.unique(np.stack([near, far], axis=1)[(near >= 0) & (far >= 0)], axis=0)
        mine, next_one = (np.delete(grid, place, axis).ravel() for place in (-1, 0))
        pairs.append(
            np.stack(
                [
                    (mine[:, None] * count + touching[:, 0]).ravel(),
                    (next_one[:, None] * count + touching[:, 1]).ravel(),
                ],
                axis=1,
            )
        )
    ends = np.sort(np.concatenate(pairs), axis=1).astype(np.uint32)
    total = len(ends)
    contacts = np.full(total, 20, np.uint32)
    strength = (chance.random(total) * 20 * 65535).astype(np.int64)
    whole = Edges(ends[:, 0], ends[:, 1], np.zeros(total, np.float32), np.zeros(total, np.int64), strength, contacts)
    order = np.argsort(number)
    all_nodes = Nodes(*(np.tile(column, tiles**3) for column in nodes))
    boxes = np.zeros((count * tiles**3 + 1, 7), np.int32)
    for axis in range(3):
        corner = where[order, axis].repeat(count) * SMALL
        boxes[1:, 1 + 2 * axis] = np.tile(small.boxes[1:, 1 + 2 * axis], tiles**3) + corner
        boxes[1:, 2 + 2 * axis] = np.tile(small.boxes[1:, 2 + 2 * axis], tiles**3) + corner
    return RegionGraph(all_nodes, whole), boxes


def large_regions(folder: Path, side: int) -> Regions:
    """Return the regions of a volume of side³ voxels."""
    small = small_block()
    block, count = block_labels(small)
    grid = BlockGrid((1, side, side, side), (BLOCK_SIDE,) * 3)
    cache = link_volume(folder, grid, block)
    blocks = (side // BLOCK_SIDE) ** 3
    total = blocks * count
    numbers = np.arange(1, total + 1, dtype=np.uint32)
    labels = RelabelledArray(cache.labels, grid, numbers, list(range(0, total + 1, count)))
    graph, boxes = graph_of(small, side)
    objects = np.arange(total + 1, dtype=np.uint32)
    return Regions(labels, objects, boxes, Space("ZYX"), graph, OPTIONS)


def on_screen(voxel: Voxel, side: int) -> tuple[int | slice, ...]:
    """Return the part of the slice of a voxel that is on screen."""
    spans = []
    for place in voxel[2:]:
        start = min(max(0, place - SCREEN // 2), max(0, side - SCREEN))
        spans.append(slice(start, min(side, start + SCREEN)))
    return voxel[1], *spans


def main() -> None:
    """Make the volume, click in it, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", type=int, default=2048)
    asked = parser.parse_args()
    shutil.rmtree(asked.work / "volume", ignore_errors=True)
    asked.work.mkdir(parents=True, exist_ok=True)
    objects = ObjectsUnderEdit(large_regions(asked.work / "volume", asked.side))
    pending = PendingEdit(objects)
    pending.tool = "grow"
    chance = np.random.default_rng(2)
    spent: dict[str, list[float]] = {"another slice": [], "click": [], "wheel": [], "merge": []}

    def timed(what: str, voxel: Voxel, act: object) -> None:
        begun = time.perf_counter()
        act()  # type: ignore[operator]
        if what in ("click", "wheel"):
            pending.sides_at(on_screen(voxel, asked.side))
        else:
            np.asarray(objects.labels()[on_screen(voxel, asked.side)])
        spent[what].append(time.perf_counter() - begun)

    for _ in range(CLICKS):
        z, y, x = (int(place) for place in chance.integers(0, asked.side, 3))
        voxel: Voxel = (0, z, y, x)
        timed("another slice", voxel, lambda: None)
        if not objects.region_at(voxel):
            continue
        timed("click", voxel, lambda at=voxel: pending.click(at, False))
        timed("wheel", voxel, lambda: pending.climb(1))
        beside: Voxel = (0, z, y, (x + 40) % asked.side)
        if objects.object_at(voxel) != objects.object_at(beside) != 0:
            timed("merge", voxel, lambda at=voxel, by=beside: apply_edit(objects, Merge((at, by))))
        pending.clear()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print_place(f"{asked.side}³ voxels, {objects.region_count:,} regions, {len(objects.edge_ends):,} contacts")
    rows = []
    for what, seconds in spent.items():
        known = np.array(seconds[1:]) * 1000
        rows.append((what, f"{1000 * seconds[0]:.0f}", f"{np.median(known):.0f}", f"{np.percentile(known, 95):.0f}"))
    print_table(("what", "the first, ms", "median", "95th percentile"), rows)
    print(f"\nPeak of memory: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
