"""Scores of a model on the slices that were held out of its training."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_skipseg.devices import Device, cpu_title
from napari_skipseg.images.tiles import TilePlan, plan_tiles, reflected
from napari_skipseg.inference.backends.choose import own_tile_of_cpu
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.halving import BackendOption
from napari_skipseg.inference.backends.interface import Backend, Pixels
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.memory import choose_tile
from napari_skipseg.models.model import Model
from napari_skipseg.objects.classes import BOUNDARY_CLASSES
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.isbi import SliceScores, combine_slices, iter_score_slices
from napari_skipseg.scores.overlap import OverlapScores, pool_overlap, score_overlap
from napari_skipseg.training.patches import LabelledImage


class TileResult(NamedTuple):
    """The result of a tile. keep: where it lies in the image. probability: (classes, *keep). done, total: tiles."""

    keep: tuple[slice, ...]
    probability: Pixels
    done: int
    total: int


class WholeImages:
    """A model that runs over images of any size with the memory of a tile, in torch and one precision.

    Tiles are as large as the free memory of the device allows. If memory is still too small, they are halved; if the
    device fails, the CPU takes over.
    """

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        self._model = model
        on = Device(device.type, str(device), "")
        dimensions = model.description.spec.dimensions
        self._largest = (choose_tile(model, on, precision, 0, "xy").side,) * dimensions
        is_gpu = on.name != "cpu"
        make = partial(_make, on, precision)
        choices = [BackendOption(f"torch on {on.title}", "for scores", make, 1, is_gpu=is_gpu)]
        if is_gpu:
            cpu = Device("cpu", cpu_title(), "")
            make_on_cpu = partial(_make, cpu, "f32")
            choices.append(BackendOption(f"torch on {cpu.title}", "for scores", make_on_cpu, 1, own_tile_of_cpu(on)))
        self._backend = FallbackBackend(tuple(choices), model, self._largest)

    def count_tiles(self, shape: Sequence[int]) -> int:
        """Return the number of tiles that an image of `shape` (*space) takes."""
        return len(self._plan(shape))

    def _plan(self, shape: Sequence[int]) -> TilePlan:
        return plan_tiles(tuple(shape), self._largest, self._model.description.margin, self._model.network.stride)

    def iter_tiles(self, image: NDArray[np.floating]) -> Generator[TileResult, None, None]:
        """Yield the probabilities of `image` (C, *space), in standard units; each voxel belongs to one tile."""
        shape = image.shape[1:]
        plan = self._plan(shape)
        for number, tile in enumerate(plan):
            sides = zip(shape, tile.start, tile.size, strict=True)
            index = [reflected(length, start, size) for length, start, size in sides]
            pixels = image[np.ix_(np.arange(len(image)), *index)]
            output = self._backend.run(np.ascontiguousarray(pixels[None], np.float32))
            kept = output.probability[0][(slice(None), *tile.keep_in_read)]
            yield TileResult(tile.keep, kept, number + 1, len(plan))


def _make(device: Device, precision: str, model: Model, shape: tuple[int, ...]) -> Backend:
    return TorchBackend(model, device, precision)


LARGEST_SCORED = 4096
"""Longest side of what V_rand and V_info are measured on, in the middle of a slice. They flood it as a whole, which
takes about 40 bytes per pixel: 0.7 GB at this size."""
CELLS_ARE_CUT = f"V_rand and V_info on the middle {LARGEST_SCORED} × {LARGEST_SCORED} pixels of each slice"


def iter_score_held_out(
    network: WholeImages, runs: tuple[LabelledImage, ...], class_names: tuple[str, ...], dimensions: int
) -> Generator[Progress, None, dict[str, float]]:
    """Yield after each tile and each slice; return Dice at 0.5 of every class, and V_rand and V_info.

    V_rand and V_info only if the first class separates cells. The network runs over whole slices (2D) or whole runs of
    slices (3D), tile by tile, in a single pass, without averaging and post-processing. Dice is pooled over all pixels
    that count; V_rand and V_info are means over all slices. Runs may differ in size.
    """
    overlaps: dict[str, list[OverlapScores]] = {name: [] for name in class_names}
    slices: list[SliceScores | None] = []
    has_cells = class_names[0] in BOUNDARY_CLASSES
    pieces = list(runs)  # what the network sees at once: a run of slices, in 2D each slice
    if dimensions == 2:
        pieces = [
            replace(run, image=run.image[:, z : z + 1], target=run.target[z : z + 1])
            for run in runs
            for z in range(len(run.target))
        ]
    total = sum(network.count_tiles(piece.target.shape[-dimensions:]) for piece in pieces)
    total += sum(len(piece.target) for piece in pieces if has_cells and (not piece.judged or piece.judged[0]))
    done = 0
    for number, piece in enumerate(pieces):
        at = f"scoring what is held out, {number + 1} of {len(pieces)}"
        shows_cells = has_cells and (not piece.judged or piece.judged[0])
        cell = np.empty(piece.target.shape, np.float32) if shows_cells else None
        image = piece.image if dimensions == 3 else piece.image[:, 0]
        for result in network.iter_tiles(image):
            target = piece.target[_in_piece(result.keep)]
            if (target >= 0).any():
                for label, found in enumerate(overlaps.values(), start=1):
                    if piece.judged and not piece.judged[label - 1]:
                        continue
                    found.append(score_overlap(result.probability[label - 1] > 0.5, target == label, target >= 0))
            if cell is not None:
                cell[_in_piece(result.keep)] = 1 - result.probability[0]
            done += 1
            yield Progress(done, total, f"{at}: tile {result.done} of {result.total}")
        if cell is not None:
            for z, target in enumerate(piece.target):
                middle = tuple(
                    slice(start := max(0, (length - LARGEST_SCORED) // 2), start + min(length, LARGEST_SCORED))
                    for length in target.shape
                )
                slices += run_to_end(iter_score_slices(cell[z][middle], (target[middle] != 1).astype(np.uint8)))
                done += 1
                yield Progress(done, total, f"{at}: V_rand of slice {z + 1} of {len(piece.target)}")
    scores = {f"Dice {name}": round(pool_overlap(found).dice, 5) for name, found in overlaps.items() if found}
    if any(slices):
        isbi = combine_slices(slices)
        scores |= {"V_rand": round(isbi.v_rand, 5), "V_info": round(isbi.v_info, 5)}
    return scores


def cuts_cells(runs: tuple[LabelledImage, ...], class_names: tuple[str, ...]) -> bool:
    """Return whether V_rand is measured, but of some slice only on a part."""
    return class_names[0] in BOUNDARY_CLASSES and any(max(run.target.shape[1:]) > LARGEST_SCORED for run in runs)


def _in_piece(keep: tuple[slice, ...]) -> tuple[slice | int, ...]:
    """Return where a tile lies in an array (Z, Y, X); a tile of a slice has no Z."""
    return keep if len(keep) == 3 else (0, *keep)
