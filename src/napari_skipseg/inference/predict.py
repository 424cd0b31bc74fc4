"""A network over any stack, tile by tile; each output voxel is written once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.devices import WHOLE_MEMORY, Device, MemoryShare, best_precision, choose_device, versions
from napari_skipseg.errors import InputError
from napari_skipseg.gpus import driving_versions
from napari_skipseg.images.box import box_from_text, box_within, describe_cut
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization, normalization_from
from napari_skipseg.images.mask import MaskSurvey, open_mask
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import plan_tiles
from napari_skipseg.inference.backends.choose import fastest_precision, prefer_backend
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.certainty import PatchProber, Verdict, describe_verdict
from napari_skipseg.inference.ensemble import Passes, choose_passes, dropout_rate
from napari_skipseg.inference.guards import SLICES_SEED, iter_measure_for
from napari_skipseg.inference.memory import TileChoice, choose_tile
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest
from napari_skipseg.inference.pipeline import Pipeline, PipelinePace
from napari_skipseg.inference.prediction import AttentionMap, Focus, Prediction, ResultsOpened
from napari_skipseg.inference.recipes.recipe import Recipe, RecipeInput, describe_input, recipe_to_dict
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.scale import lengths_seen_by_network
from napari_skipseg.inference.stores import (
    PROBABILITY,
    UNCERTAINTY,
    ArrayStore,
    ResultArray,
    Store,
    result_arrays_of,
    result_pieces,
    within_crop,
)
from napari_skipseg.inference.tiling import (
    Order,
    TileGrid,
    TileUnit,
    iter_limit_to_mask,
    keep_padding,
    limit_grid,
    make_tile_grid,
    outside_mask,
    read_pixels,
)
from napari_skipseg.models.model import Model
from napari_skipseg.progress import ImageFindings, Progress

_CHUNK = {2: 512, 3: 64}
"""What a tile keeps is whole chunks of this length, where the tile is long enough."""


@dataclass(frozen=True)
class Run:
    """All that is settled before the first tile: what is read, what computes, and what is written.

    findings: as in `Recipe`. seems_inverted: as in `progress.ImageFindings`. tile_bytes: memory that a batch takes in
    the network. focus: what to look at first, sent while this was settled. mask: what the run is limited to.
    """

    stack: Stack
    model: Model
    options: SegmentOptions
    grid: TileGrid
    normalization: Normalization
    findings: tuple[str, ...]
    seems_inverted: bool
    passes: Passes
    batch: int
    tile_bytes: int
    results: tuple[ResultArray, ...]
    recipe: dict[str, Any]
    focus: Focus | None = None
    pace: PipelinePace = field(default_factory=PipelinePace)
    mask: MaskSurvey | None = None


def iter_predict(spec: RunSpec, folder: Path | None = None) -> Generator[Progress, Focus | None, Prediction]:
    """Yield `ResultsOpened` when its arrays are there, `TileWritten` after each tile, and progress; return the
    prediction.

    Cancel by closing the generator; send a `Focus` to have the visible region first. Results are memory-mapped files in
    `folder`, or arrays in memory if it is None.

    Raises:
        SkipsegError: the stack does not fit the model or the mask, its values cannot be used, no such device, a full
            disk.
    """
    run = yield from iter_prepare(replace(spec, backend_maker=prefer_backend(spec.backend_maker, spec.pinned)))
    name_input(run, spec.stack)
    store = ArrayStore(run.results, folder)
    prediction = _predicted(run, store)
    focus = yield ResultsOpened(0, 1, "the first tile", prediction)
    yield from iter_fill(run, store, focus=focus)
    return prediction


def iter_prepare(spec: RunSpec) -> Generator[Progress, Focus | None, Run]:
    """Yield while things are measured and prepared, `ImageFindings` where something was found about the image; return
    what is settled before the first tile.

    The recipe of what is returned lacks its input: see `name_input`.

    Raises:
        SkipsegError: as `iter_predict`.
    """
    model, pinned, maker = spec.model, spec.pinned, spec.backend_maker
    options = spec.options.with_thresholds(model.description.class_thresholds)
    stack = select_channel(spec.stack, model, options)
    seen = check_fits(stack, model, options)
    options, labels = _open_mask(spec.mask, stack, options)
    if options.samples:
        dropout_rate(model, options)  # it says what is wrong before anything is read
    lengths = lengths_seen_by_network(stack, model.description, seen, options.rescale)
    is_known = spec.greys is not None or (pinned is not None and "normalization" in pinned)
    greys, focus = yield from _iter_greys(stack, options, spec)
    device = choose_device(options.device if pinned is None else pinned["device"])
    focus = (yield Progress(0, 1, f"preparing the network on {device.title}")) or focus
    choice, precision = _choose(model, device, options, pinned)
    whole = _grid(stack, model, seen, lengths, choice, spec.is_preview)
    grid, survey = yield from _iter_grid(whole, stack, options, labels)
    fit, batch = grid.tiles.size, choice.batch
    passes = choose_passes(model, device, fit, options, maker, batch=batch, precision=precision)
    prober = None
    if greys.asks_network and (spec.probes is not None or not (is_known or spec.is_preview)):
        prober = PatchProber(stack, model, device, maker, dict(zip(seen, lengths, strict=True)))
    ready = None if options.samples else (grid, passes.backend)
    found = yield from _iter_found(prober, greys, ready, spec.probes, options.invert, describe_cut(options.box, stack))
    settled = Run(
        stack,
        model,
        options,
        grid,
        greys.normalization,
        *found[:2],
        passes,
        1 if options.planes == "xyz" else batch,  # a block in three planes goes alone, its slices together
        choice.bytes,
        result_arrays_of(grid, model, options, spec.with_binary),
        {},
        found.focus or focus,
        mask=survey,
    )
    settled.recipe.update(_recipe(settled, device, choice))
    return settled


def _open_mask(mask: Stack | None, stack: Stack, options: SegmentOptions) -> tuple[SegmentOptions, Stack | None]:
    """Return options that name the mask, if there is one, and its labels. mask: as in `RunSpec`."""
    if mask is None and not options.mask:
        return options, None
    labels = open_mask(options.mask if mask is None else mask, stack)
    return replace(options, mask=options.mask or labels.file or labels.name), labels


class _Found(NamedTuple):
    """What was found about an image, as in `progress.ImageFindings`, and what to look at first."""

    findings: tuple[str, ...]
    seems_inverted: bool
    focus: Focus | None


def _iter_found(
    prober: PatchProber | None,
    greys: GreyStatistics,
    ready: tuple[TileGrid, Backend] | None,
    probes: Pixels | None,
    inverted: bool,
    cut: str,
) -> Generator[Progress, Focus | None, _Found]:
    """Yield `ImageFindings` if something was found, after the network was run if there is a `prober`; return
    that. cut: what is to be said about the box.
    """
    verdict: Verdict = ""
    said, focus = "", None
    if prober is not None:
        focus = yield Progress(0, 1, "looking at some patches")
        verdict = prober.judge(greys.normalization, ready, probes)
        said = describe_verdict(verdict, prober.model.description, inverted)
    is_inverted = verdict in ("inverted", "perhaps inverted")
    doubts = [said if is_inverted or not greys.unlike else greys.unlike]
    known = [finding for finding in greys.findings if finding != cut]  # a run that continues has it there
    findings = tuple(filter(None, (*known, *doubts, cut)))
    if findings:
        focus = (yield ImageFindings(0, 1, "looking at the image", findings, is_inverted)) or focus
    return _Found(findings, is_inverted, focus)


def _iter_greys(
    stack: Stack, options: SegmentOptions, spec: RunSpec
) -> Generator[Progress, Focus | None, tuple[GreyStatistics, Focus | None]]:
    """Yield while grey values are measured, unless they are known; return them, and what to look at first."""
    greys, pinned = spec.greys, spec.pinned
    if greys is None and pinned is not None and "normalization" in pinned:
        findings = tuple(pinned.get("findings", ()))
        return GreyStatistics(normalization_from(pinned["normalization"]), findings), None
    focus = None
    work = iter_measure_for(stack, spec.model.description, options)
    while greys is None:
        try:
            focus = (yield next(work)) or focus
        except StopIteration as stop:
            greys = stop.value
    return replace(greys, findings=tuple(dict.fromkeys((*stack.notes, *greys.findings)))), focus


def iter_fill(
    run: Run,
    store: Store,
    done: Iterable[int] = (),
    on_written: Callable[[TileUnit], None] | None = None,
    focus: Focus | None = None,
) -> Generator[Progress, Focus | None, None]:
    """Yield `TileWritten` after each tile that is not among those `done`, until all of the results are written.

    on_written: called from another thread when all pieces of a unit are in the store.
    """

    thresholds = run.options.thresholds_of(run.model.description.class_names)
    # by unit, from when it is read until it is written
    padded: dict[int, NDArray[np.bool_]] = {}
    outside: dict[int, NDArray[np.bool_]] = {}

    def read(unit: TileUnit) -> Pixels:
        tile = read_pixels(run.stack, run.grid, unit, run.normalization)
        if run.normalization.has_padding:
            padded[unit.number] = keep_padding(run.grid, unit, tile.padding)
        if run.mask is not None:
            outside[unit.number] = outside_mask(run.grid, unit, run.mask)
        return tile.pixels

    def write(unit: TileUnit, output: TileOutput, number: int) -> None:
        left_out = padded.pop(unit.number, None), outside.pop(unit.number, None)
        for piece in result_pieces(run.results, run.grid, unit, output, number, thresholds, *left_out):
            store.write(piece)
        if on_written is not None:
            on_written(unit)

    def region(unit: TileUnit) -> tuple[tuple[int, int], ...]:
        found = run.grid.region(unit)
        found = within_crop(found, run.grid.crop()) if run.grid.box else found
        return tuple((part.start, part.stop) for part in found)

    pipeline = Pipeline(run.grid.unit, region, read, run.passes, write, run.batch, run.pace)
    order = Order(run.grid, done)
    first = focus or run.focus
    if first is not None:
        order.reorder(first)
    yield from pipeline.iter_run(order, len(run.grid), partial(_note_faults, run))


def _note_faults(run: Run) -> str:
    """Return what to say if one backend failed and the next took its place; the recipe says it too."""
    notes = run.passes.notes
    if not notes:
        return ""
    backend = run.passes.backend
    run.recipe.update(backend=backend.name, precision=backend.precision, notes=tuple(notes))
    return f". {notes[-1]}"


def name_input(run: Run, stack: Stack) -> None:
    """Write into the recipe of a run which image it reads, all of it as it was given, and which mask.

    Raises:
        SkipsegError: the image cannot be read.
    """
    inputs = [describe_input(stack)]
    if run.mask is not None:
        labels = run.mask.labels
        dtype = np.dtype(labels.data.dtype).name
        inputs.append(
            RecipeInput(labels.name, labels.file, run.mask.sha256, labels.shape, dtype, labels.space, labels.title)
        )
    run.recipe["inputs"] = tuple(map(asdict, inputs))


def select_channel(stack: Stack, model: Model, options: SegmentOptions) -> Stack:
    """Return the channel that the options name where the network takes one, else all that the network takes.

    Raises:
        InputError: the image has several channels and none was chosen, or a different number than the network takes.
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


def check_fits(stack: Stack, model: Model, options: SegmentOptions | None = None) -> str:
    """Return the axes that a tile spans: those of the network, or all three.

    Raises:
        InputError: a 3D model meets an image without Z, three planes are requested but not possible, or a box lies
            outside of the image.
    """
    if options is not None and options.box:
        box_within(box_from_text(options.box), stack)
    dimensions, name = model.description.spec.dimensions, model.description.name
    if dimensions == 3 and stack.length("Z") < 2:
        raise InputError(
            f"{name} is a 3D model and '{stack.name}' has no Z axis: choose a 2D model, or name the axes (such as ZYX)."
        )
    if options is None or options.planes == "xy":
        return "ZYX"[-dimensions:]
    if dimensions == 3:
        raise InputError(f"{name} is a 3D model and sees all three axes at once: segment with planes xy.")
    if stack.length("Z") < 2:
        raise InputError(f"'{stack.name}' has no Z axis to segment along: segment with planes xy.")
    return "ZYX"


def _choose(
    model: Model, device: Device, options: SegmentOptions, pinned: Mapping[str, Any] | None
) -> tuple[TileChoice, str | None]:
    """Return the tile, and the precision if the run was begun with one that this device computes in."""
    if pinned is None:
        return best_choice(model, device, options), None
    precision = pinned.get("precision")
    is_here = precision in ("f32", best_precision(device.name).name)
    return TileChoice(pinned["side"], pinned["batch"], 0, "as this run was begun"), precision if is_here else None


def best_choice(model: Model, device: Device, options: SegmentOptions, share: MemoryShare = WHOLE_MEMORY) -> TileChoice:
    """Return the tile for what would compute on `device`, in this process's share of its memory."""
    precision = fastest_precision(device, openvino=not options.samples).name
    return choose_tile(model, device, precision, options.tile, options.planes, share)


def _grid(
    stack: Stack, model: Model, seen: str, lengths: tuple[int, ...], choice: TileChoice, preview: bool
) -> TileGrid:
    shape = tuple(stack.length(axis) for axis in seen)
    margin, stride = model.description.margin, model.description.stride
    tiles = plan_tiles(shape, (choice.side,) * len(seen), margin, stride, _CHUNK[len(seen)], lengths, not preview)
    return make_tile_grid(stack, seen, tiles)


def _iter_grid(
    whole: TileGrid, stack: Stack, options: SegmentOptions, labels: Stack | None
) -> Generator[Progress, object, tuple[TileGrid, MaskSurvey | None]]:
    """Yield while a mask is read; return the units of a grid in the box and the mask of the options, and the mask."""
    box = box_within(box_from_text(options.box), stack) if options.box else {}
    if labels is not None:
        return (yield from iter_limit_to_mask(whole, labels, box))
    return limit_grid(whole, box) if box else whole, None


def _predicted(run: Run, store: ArrayStore) -> Prediction:
    probability = next(result for result in run.results if result.name == PROBABILITY)
    attentions = []
    for result in run.results:
        if result.level:
            begin = tuple(one - other for one, other in zip(result.begin, probability.begin, strict=True))
            attentions.append(AttentionMap(result.level, result.stride, store.arrays[result.name], begin))
    return Prediction(
        store.arrays[PROBABILITY],
        probability.space_in(run.stack),
        run.model.description.class_names,
        tuple(attentions),
        run.recipe,
        store.arrays.get(UNCERTAINTY),
        run.options.thresholds_of(run.model.description.class_names),
    )


def _recipe(run: Run, device: Device, choice: TileChoice) -> dict[str, Any]:
    description, backend = run.model.description, run.passes.backend
    request = SegmentRequest(description.name, description.weights_sha256, run.options)
    recipe = Recipe(
        request,
        (),
        description.class_names,
        run.normalization,
        SLICES_SEED,
        run.grid.tiles.size,
        choice.side,
        choice.batch,
        backend.name,
        backend.precision,
        device.name,
        (),
        versions() | driving_versions(device.name),
        run.findings,
    )
    return recipe_to_dict(recipe)
