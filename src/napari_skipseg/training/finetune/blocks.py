"""The table of labelled blocks: where labels lie in the images, how many of which class, and what is held out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.subject import BACKGROUND, HIGHEST, NOT_LOOKED_AT
from napari_skipseg.errors import InputError, SpecError
from napari_skipseg.progress import Progress
from napari_skipseg.training.finetune.labels import ClassPlan, Corrected
from napari_skipseg.training.progress import TrainingSummary
from napari_skipseg.training.settings import AUTO, FinetuneSettings, slices_to_hold_out

BIN = 16
"""Side of the bins in Y and X that labels are first counted in, in voxels."""
SIDES = {2: (128, 64, 32), 3: (32, 16)}
"""Sides of a block by dimensions: the first that separates the labels of every class is taken."""
FEWEST_BLOCKS = 5
_HELD_OUT = 0.2
_KEYS = 6
"""Columns of a row of bins before its counts: image, T, Z in voxels, Y and X in bins, number of the run of slices."""
_ACCEPTED = 256
"""What is added to an accepted label, so that it is counted apart from a painted one."""
_MASK = " In a mask of 0 and 1 turn 1 into 2, the class, and 0 into 1, the background."

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""(start, stop) along Z, Y and X."""


class CountedLabel(NamedTuple):
    """What a column of the table counts: voxels of the background (0) or of a class (1…), all or only painted ones."""

    number: int
    is_painted: bool = False


@dataclass(frozen=True)
class LabelledBlock:
    """A block of image number `image`, at `time`. counts: labelled voxels, one number for each column of the table."""

    image: int
    time: int
    box: Box
    counts: tuple[int, ...]
    is_held_out: bool = False


@dataclass(frozen=True)
class BlockTable:
    """All labelled blocks of the images.

    columns: what the `counts` of each block count: the background and the classes that the labels judge; if some labels
    were accepted, then also the painted ones of those labels that were painted at all.
    """

    blocks: tuple[LabelledBlock, ...]
    columns: tuple[CountedLabel, ...]

    @cached_property
    def training(self) -> tuple[LabelledBlock, ...]:
        """The blocks to train on."""
        return tuple(block for block in self.blocks if not block.is_held_out)

    @cached_property
    def held_out(self) -> tuple[LabelledBlock, ...]:
        """The blocks that are held out of training."""
        return tuple(block for block in self.blocks if block.is_held_out)

    def with_strokes(self, blocks: Sequence[LabelledBlock]) -> tuple[LabelledBlock, ...]:
        """Return those of `blocks` in which something was painted, if labels elsewhere were accepted; else none."""
        painted = [column for column, counted in enumerate(self.columns) if counted.is_painted]
        return tuple(block for block in blocks if any(block.counts[column] for column in painted))


def total_counts(blocks: Sequence[LabelledBlock], columns: int) -> tuple[int, ...]:
    """Return the labelled voxels of all `blocks` together, for the first `columns` of the table."""
    return tuple(sum(block.counts[column] for block in blocks) for column in range(columns))


def thin_blocks(blocks: tuple[LabelledBlock, ...], most: int, seed: int) -> tuple[LabelledBlock, ...]:
    """Return at most `most` of the blocks: equally many with each label as far as there are so many, then others."""
    if len(blocks) <= most:
        return blocks
    order = np.random.default_rng(seed).permutation(len(blocks)).tolist()
    has_label = np.array([block.counts for block in blocks]) > 0
    chosen: dict[int, None] = {}
    for column in range(has_label.shape[1]):
        chosen |= dict.fromkeys([number for number in order if has_label[number, column]][: most // has_label.shape[1]])
    chosen |= dict.fromkeys(order)
    return tuple(blocks[number] for number in sorted(list(chosen)[:most]))


def iter_find_labelled_blocks(
    settings: FinetuneSettings, corrected: Sequence[Corrected], plan: ClassPlan, dimensions: int
) -> Generator[Progress, None, BlockTable]:
    """Yield while labels are read; return the table of labelled blocks, with what is held out of training.

    Slices that the settings name are held out. Else about a fifth of the blocks is, drawn with the seed: at least one
    with every label that lies in two blocks or more, and never the last one of a label.

    Raises:
        InputError: nothing labelled, a value without a class, a class (or the background) without a voxel to train on
            or to score on.
        SpecError: a slice to hold out that is not there.
    """
    chosen = frozenset() if settings.validate == AUTO else slices_to_hold_out(settings.validate)
    lengths = [each.stack.length("T") * each.stack.length("Z") for each in corrected]
    if chosen and max(chosen) >= sum(lengths):
        raise SpecError(f"Slice {max(chosen)} cannot be held out: the images have slices 0 to {sum(lengths) - 1}.")
    # Each run of neighbouring slices has a number, odd for those held out: no block contains slices of two runs.
    is_held = np.isin(np.arange(sum(lengths)), list(chosen)).astype(np.int64)
    runs = np.concatenate([[0], np.cumsum(np.diff(is_held) != 0)]) * 2 + is_held
    values = (BACKGROUND, *plan.values)
    rows = [np.zeros((0, _KEYS + 2 * len(values)), np.int64)]
    for number, each in enumerate(corrected):
        first = sum(lengths[:number])
        for found in _iter_count(number, each, values, runs[first : first + lengths[number]]):
            rows.append(found)
            yield Progress(number, len(corrected), f"looking at the labels of {each.name}")
    bins = np.concatenate(rows)
    if not len(bins):
        raise InputError("No voxel is labelled: paint some strokes of each class, and some of the background.")
    counted, painted = np.split(bins[:, _KEYS:].sum(axis=0), 2)
    _check_counts(counted.tolist(), plan.judged_names, values)
    # Where all was painted, or nothing of a label, its painted voxels are no column of their own: classes would be
    # drawn twice as often as others.
    again = np.flatnonzero(painted) if np.any(painted < counted) else np.array([], np.intp)
    kept = np.concatenate([np.arange(_KEYS + len(values)), _KEYS + len(values) + again])
    sizes = [(each.stack.length("Z"), each.stack.length("Y"), each.stack.length("X")) for each in corrected]
    blocks = _split(bins[:, kept], dimensions, sizes, bool(chosen), settings.seed)
    numbers = (0, *plan.values.values())
    columns = (*map(CountedLabel, numbers), *(CountedLabel(numbers[column], True) for column in again.tolist()))
    table = BlockTable(blocks, columns)
    _check_split(table, plan.judged_names, settings.validate)
    return table


def _iter_count(
    number: int, corrected: Corrected, values: tuple[int, ...], runs: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of bins of each slice of each part of the labels: keys, then counts of all and of painted ones."""
    both = (*values, *(_ACCEPTED + value for value in values))
    for part in corrected.iter_parts():
        labels, accepted = corrected.read(part)
        start = dict(zip(corrected.axes, (side.start for side in part), strict=True))
        _check_values(labels, corrected, values)
        labels = labels + _ACCEPTED * accepted.astype(np.uint16)
        for time, z in product(range(labels.shape[0]), range(labels.shape[1])):
            plane = labels[time, z]
            if not plane.any():
                continue
            bins = _count_bins(plane, (start["Y"], start["X"]), both)
            of_painted, of_accepted = np.split(bins[:, 2:], 2, axis=1)
            at, depth = time + start.get("T", 0), z + start.get("Z", 0)
            keys = np.full((len(bins), 3), [number, at, depth], np.int64)
            run = np.full((len(bins), 1), runs[at * corrected.stack.length("Z") + depth], np.int64)
            yield np.concatenate([keys, bins[:, :2], run, of_painted + of_accepted, of_painted], axis=1)


def _count_bins(plane: NDArray[Any], corner: tuple[int, int], values: Sequence[int]) -> NDArray[np.int64]:
    """Return a row (bin along Y, bin along X, voxels of each of `values`) for every bin with one of them.

    plane: labels (Y, X) of a part that begins at `corner` of its slice.
    """
    edges = [
        np.concatenate([[0], np.arange(BIN - start % BIN, length, BIN)]).astype(np.intp)
        for start, length in zip(corner, plane.shape, strict=True)
    ]
    sums = [
        np.add.reduceat(np.add.reduceat(plane == value, edges[0], axis=0, dtype=np.int64), edges[1], axis=1)
        for value in values
    ]
    counts = np.stack(sums, axis=-1)
    rows = np.argwhere(counts.any(axis=-1))
    bins = rows + np.array([start // BIN for start in corner])
    return np.concatenate([bins, counts[rows[:, 0], rows[:, 1]]], axis=1)


def _split(
    bins: NDArray[np.int64], dimensions: int, sizes: Sequence[tuple[int, int, int]], chosen: bool, seed: int
) -> tuple[LabelledBlock, ...]:
    """Return the blocks of all bins. chosen: slices were named to be held out, those of runs with odd numbers."""
    if chosen:
        odd = bins[:, 5] % 2 > 0
        side = SIDES[dimensions][0]
        held = _gather(bins[odd], dimensions, side, sizes)
        return (*_gather(bins[~odd], dimensions, side, sizes), *(replace(block, is_held_out=True) for block in held))
    blocks: tuple[LabelledBlock, ...] = ()
    for side in SIDES[dimensions]:
        blocks = _gather(bins, dimensions, side, sizes)
        spread = np.count_nonzero([block.counts for block in blocks], axis=0)
        if len(blocks) >= FEWEST_BLOCKS and np.all(spread >= 2):
            break
    held_out = _draw_held_out(blocks, seed)
    return tuple(replace(block, is_held_out=number in held_out) for number, block in enumerate(blocks))


def _gather(
    bins: NDArray[np.int64], dimensions: int, side: int, sizes: Sequence[tuple[int, int, int]]
) -> tuple[LabelledBlock, ...]:
    """Return the blocks of `side` that the bins lie in, in their order; in Z a block ends with its labels."""
    keys = bins[:, :_KEYS].copy()
    keys[:, 3:5] //= side // BIN
    if dimensions == 3:
        keys[:, 2] //= side
    found, inverse = np.unique(keys, axis=0, return_inverse=True)
    number = inverse.ravel()
    counts = np.zeros((len(found), bins.shape[1] - _KEYS), np.int64)
    np.add.at(counts, number, bins[:, _KEYS:])
    first = np.full(len(found), np.iinfo(np.int64).max)
    last = np.full(len(found), -1)
    np.minimum.at(first, number, bins[:, 2])
    np.maximum.at(last, number, bins[:, 2])
    blocks = []
    for key, row, start, end in zip(found.tolist(), counts.tolist(), first.tolist(), last.tolist(), strict=True):
        image, time, _, y, x, _ = key
        _, height, width = sizes[image]
        box = ((start, end + 1), (y * side, min(height, y * side + side)), (x * side, min(width, x * side + side)))
        blocks.append(LabelledBlock(image, time, box, tuple(row)))
    return tuple(blocks)


def _draw_held_out(blocks: tuple[LabelledBlock, ...], seed: int) -> set[int]:
    """Return the numbers of the blocks to hold out."""
    order = np.random.default_rng(seed).permutation(len(blocks)).tolist()
    has_label = np.array([block.counts for block in blocks]) > 0
    left = has_label.sum(axis=0)
    held: set[int] = set()
    held_by_label = np.zeros_like(left)

    def hold_out(number: int) -> None:
        nonlocal left, held_by_label
        if number not in held and not np.any(has_label[number] & (left < 2)):
            held.add(number)
            left, held_by_label = left - has_label[number], held_by_label + has_label[number]

    for column in np.argsort(left).tolist():  # the rarest first
        wanted = max(1, round(_HELD_OUT * int(has_label[:, column].sum())))
        for number in order:
            if held_by_label[column] >= wanted:
                break
            if has_label[number, column]:
                hold_out(number)
    for number in order:
        if len(held) >= round(_HELD_OUT * len(blocks)):
            break
        hold_out(number)
    return held


def _check_values(labels: NDArray[Any], corrected: Corrected, values: tuple[int, ...]) -> None:
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise InputError(
            f"The labels of '{corrected.name}' hold negative values: 0 means not looked at, 1 background, 2… classes."
        )
    for value in np.unique(labels).tolist():
        if value > HIGHEST:
            raise InputError(
                f"The labels of '{corrected.name}' hold the value {value}: labels go up to {HIGHEST}; are these "
                "instances, or grey values?"
            )
        if value not in (NOT_LOOKED_AT, *values):
            raise InputError(
                f"The labels of '{corrected.name}' hold the value {value}, for which no class is named: name one (in a "
                f"shell with --class NAME={value}), or erase it."
            )


def _check_counts(counts: Sequence[int], names: tuple[str, ...], values: tuple[int, ...]) -> None:
    for count, name, value in zip(counts, names, values, strict=True):
        if count == 0 and value == BACKGROUND:
            raise InputError(
                "Every labelled voxel belongs to a class: paint some background too (value 1; 0 means not looked at)."
            )
        if count == 0:
            raise InputError(
                f"No voxel is labelled {name} ({value}): paint some, or leave out that class, which these labels then "
                f"do not judge.{_MASK if sum(counts) == counts[values.index(BACKGROUND)] else ''}"
            )


def _check_split(table: BlockTable, names: tuple[str, ...], validate: str) -> None:
    training, held_out = (total_counts(blocks, len(names)) for blocks in (table.training, table.held_out))
    for name, to_train_on, to_score_on in zip(names, training, held_out, strict=True):
        if validate == AUTO and not (to_train_on and to_score_on):
            raise InputError(
                f"All voxels labelled {name} lie in one place, so none can be held out to see whether the model "
                "becomes better: paint some in a second place."
            )
        if not to_train_on:
            raise InputError(f"No voxel labelled {name} is left to train on: hold out fewer slices than {validate}.")
        if not to_score_on:
            raise InputError(
                f"No voxel is labelled {name} in the slices held out ({validate}): hold out others, or label it."
            )


def summarize_training(
    table: BlockTable,
    plan: ClassPlan,
    seconds: float | None = None,
    notes: tuple[str, ...] = (),
    is_in_turn: bool = False,
) -> TrainingSummary:
    """Return in numbers what is learnt from the blocks of the table. is_in_turn: no block is held out for good."""
    names = plan.judged_names
    pixels, held_out = (
        dict(zip(names, total_counts(blocks, len(names)), strict=True))
        for blocks in ((table.blocks, ()) if is_in_turn else (table.training, table.held_out))
    )
    slices = {(block.image, block.time, z) for block in table.blocks for z in range(*block.box[0])}
    counts = (len(table.blocks), 0) if is_in_turn else (len(table.training), len(table.held_out))
    return TrainingSummary(pixels, held_out, counts, len(slices), seconds, notes=notes, is_in_turn=is_in_turn)
