"""A network over any stack, tile by tile; each output voxel is written once."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np

from napari_skipseg.devices import Device, choose_device, versions
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.normalize import Normalization, measure
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import Tile, plan_tiles, reflected
from napari_skipseg.inference.backends import Backend, Pixels, TileOutput, make_backend, notes_of
from napari_skipseg.inference.dropout import dropout_rate
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import AttentionMap, Prediction
from napari_skipseg.inference.passes import BackendMaker, choose_passes
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress

LARGEST_TILE = {2: 1024, 3: 96}
"""Longest side of a tile in voxels, where the user names none."""


def iter_predict(
    stack: Stack,
    model: Model,
    options: SegmentOptions,
    folder: Path | None = None,
    backend_maker: BackendMaker = make_backend,
    normalization: Normalization | None = None,
) -> Generator[Progress, None, Prediction]:
    """Yield after each pass over a tile; return the prediction. Cancel by closing the generator.

    Results are memory-mapped files in `folder`, or arrays in memory where it is None. `normalization` is measured on
    the stack, unless it was measured before, say on the whole of which `stack` is one slice. `backend_maker` is not
    asked for samples: those take torch.

    Raises:
        SkipsegError: the stack does not fit the model, its values cannot be used, no such device, a full disk.
    """
    stack = select_channel(stack, model, options)
    check_fits(stack, model)
    if options.samples:
        dropout_rate(model, options)  # it says what is wrong before anything is read
    yield Progress(0, 1, "measuring the grey values")
    normalization = normalization or measure(stack)
    seen = "ZYX"[-model.description.spec.dimensions :]
    tiles = _plan(stack, model, options, seen)
    device = choose_device(options.device)
    yield Progress(0, 1, f"preparing the network on {device.title}")
    passes = choose_passes(model, device, tiles[0].size, options, backend_maker)
    prediction = _allocate(stack, model, options, seen, folder)
    prediction.recipe.update(_recipe(stack, model, options, normalization, passes.backend, device, tiles))
    parts = list(stack.slices(seen if "C" not in stack.axes else seen + "C"))
    count = len(parts) * len(tiles)
    for done, ((in_stack, part), (in_part, tile)) in enumerate(product(enumerate(parts), enumerate(tiles))):
        work = passes.run(_read(stack, part, tile, normalization), (in_stack, in_part))
        output = yield from _report(work, done, count, passes.per_tile)
        _write(prediction, part, tile, output, stack.axes)
        fault = _note_fault(prediction, passes.backend)
        yield Progress((done + 1) * passes.per_tile, count * passes.per_tile, f"tile {done + 1} of {count}{fault}")
    return prediction


def _note_fault(prediction: Prediction, backend: Backend) -> str:
    """Return what to say where one backend failed and the next took its place; the recipe says it too."""
    notes = notes_of(backend)
    if not notes:
        return ""
    prediction.recipe.update(backend=backend.name, precision=backend.precision, notes=notes)
    return f". {notes[-1]}"


def _report(
    work: Generator[None, None, TileOutput], done: int, count: int, per_tile: int
) -> Generator[Progress, None, TileOutput]:
    """Yield between the passes over a tile, so that cancelling need not wait for the last; return its output."""
    passes = 0
    while True:
        try:
            next(work)
        except StopIteration as stop:
            output: TileOutput = stop.value
            return output
        passes += 1
        message = f"tile {done + 1} of {count}, pass {passes} of {per_tile}"
        yield Progress(done * per_tile + passes, count * per_tile, message)


def select_channel(stack: Stack, model: Model, options: SegmentOptions) -> Stack:
    """Return the channel that the options name where the network takes one, else all that the network takes.

    Raises:
        InputError: the image has several channels and none was chosen, or another number than the network takes.
    """
    channels, wanted = stack.length("C"), model.description.spec.in_channels
    if wanted == 1:
        if channels > 1 and options.channel is None:
            raise InputError(
                f"'{stack.name}' has {channels} channels and {model.description.name} takes one: choose which "
                f"(0 to {channels - 1}), in a shell with --channel; where these are slices, name the axes (--axes ZYX)."
            )
        return stack.channel(options.channel or 0)
    if channels != wanted:
        raise InputError(f"'{stack.name}' has {channels} channels, {model.description.name} takes {wanted}.")
    return stack


def check_fits(stack: Stack, model: Model) -> None:
    """Raise InputError where a 3D model meets an image without Z."""
    if model.description.spec.dimensions == 3 and stack.length("Z") < 2:
        raise InputError(
            f"{model.description.name} is a 3D model and '{stack.name}' has no Z axis: choose a 2D model, or name the "
            "axes (such as ZYX)."
        )


def _plan(stack: Stack, model: Model, options: SegmentOptions, seen: str) -> tuple[Tile, ...]:
    side = options.tile or LARGEST_TILE[len(seen)]
    shape = tuple(stack.length(axis) for axis in seen)
    return plan_tiles(shape, (side,) * len(seen), model.description.margin, model.network.stride)


def _allocate(stack: Stack, model: Model, options: SegmentOptions, seen: str, folder: Path | None) -> Prediction:
    axes = stack.axes.replace("C", "")
    shape = tuple(stack.length(axis) for axis in axes)
    names = model.description.class_names
    classes = (len(names),) if len(names) > 1 else ()
    probability = _array((*classes, *shape), folder, "probability")
    uncertainty = _array((*classes, *shape), folder, "uncertainty") if options.samples else None
    maps = []
    strides = model.network.attention_strides if options.attention else ()
    for level, stride in enumerate(strides, start=1):
        per_axis = tuple(stride if axis in seen else 1 for axis in axes)
        size = tuple(-(-length // step) for length, step in zip(shape, per_axis, strict=True))
        maps.append(AttentionMap(level, per_axis, _array(size, folder, f"attention_{level}")))
    named = ("C" if classes else "") + axes
    placed = (stack.voxel_size, stack.unit, stack.origin)
    return Prediction(probability, named, *placed, names, tuple(maps), uncertainty=uncertainty)


def _array(shape: tuple[int, ...], folder: Path | None, name: str) -> Pixels:
    if folder is None:
        return np.zeros(shape, np.float32)
    file = folder / f"{name}.npy"
    try:
        mapped: Pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        _reserve(file)
    except OSError as error:
        raise FileError(
            f"There is no room for the results in {folder} ({error.strerror}): free some space, or segment less."
        ) from error
    return mapped


def _reserve(file: Path) -> None:
    """Take the file's space on the disk now: a memory map that finds the disk full later would kill the process."""
    import os

    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _read(stack: Stack, part: tuple[int | slice, ...], tile: Tile, normalization: Normalization) -> Pixels:
    """Return the tile's pixels (C, *space) in standard units, mirrored where the tile reaches beyond the image."""
    seen = "ZYX"[-len(tile.start) :]
    index = list(part)
    mirror = []
    for axis, start, size in zip(seen, tile.start, tile.size, strict=True):
        length = stack.length(axis)
        places = reflected(length, start, size)
        first = int(places.min())
        index[stack.axes.index(axis)] = slice(first, int(places.max()) + 1)
        mirror.append(places - first)
    values = stack.read(tuple(index))
    left = [axis for axis, at in zip(stack.axes, part, strict=True) if isinstance(at, slice)]
    order = [left.index(axis) for axis in ("C", *seen) if axis in left]
    values = values.transpose(order)
    if "C" not in left:
        values = values[None]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"'{stack.name}' holds NaN or infinite values: replace them (numpy.nan_to_num) and try again.")
    if any(len(places) != length for places, length in zip(mirror, values.shape[1:], strict=True)):
        values = values[np.ix_(np.arange(values.shape[0]), *mirror)]
    return normalization.apply(values)


def _write(prediction: Prediction, part: tuple[int | slice, ...], tile: Tile, output: TileOutput, axes: str) -> None:
    place: list[int | slice] = [at for at, axis in zip(part, axes, strict=True) if axis != "C"]
    fixed = len(place) - len(tile.keep)
    classes = (slice(None),) if len(prediction.class_names) > 1 else ()
    pairs = ((prediction.probability, output.probability), (prediction.uncertainty, output.uncertainty))
    for whole, part_of_it in pairs:
        if whole is not None and part_of_it is not None:
            kept = part_of_it[(slice(None), *tile.keep_in_read)]
            whole[(*classes, *place[:fixed], *tile.keep)] = kept if classes else kept[0]
    for attention, values in zip(prediction.attentions, output.attentions, strict=False):
        stride = attention.stride[-1]
        kept = values[tile.keep_in_read_of_level(stride)]
        attention.data[(*place[:fixed], *tile.keep_of_level(stride))] = kept


def _recipe(
    stack: Stack,
    model: Model,
    options: SegmentOptions,
    normalization: Normalization,
    backend: Backend,
    device: Device,
    tiles: tuple[Tile, ...],
) -> dict[str, object]:
    return {
        "operation": "segment",
        "input": {
            "name": stack.name,
            "shape": stack.shape,
            "axes": stack.axes,
            "dtype": str(stack.data.dtype),
        },
        "model": model.description.name,
        "classes": model.description.class_names,
        "model_sha256": model.description.weights_sha256,
        "options": asdict(options),
        "normalization": asdict(normalization),
        "tile": tiles[0].size,
        "backend": backend.name,
        "precision": backend.precision,
        "device": device.name,
        "versions": versions(),
    }
