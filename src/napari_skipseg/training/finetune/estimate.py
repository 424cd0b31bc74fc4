"""How long a fine-tuning takes on this machine: an estimate from one or two measured steps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from napari_skipseg.durable import write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.inference.guards import PROBE, PROBES
from napari_skipseg.models.catalog import describe_model, locate_model
from napari_skipseg.models.description import check_trainable
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.networks.head import add_pixel_heads, grow_classes
from napari_skipseg.networks.network import Deep, Network
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute, choose_compute
from napari_skipseg.training.distributed import ONE_PROCESS, Processes
from napari_skipseg.training.finetune.blocks import (
    BlockTable,
    LabelledBlock,
    iter_find_labelled_blocks,
    summarize_training,
    thin_blocks,
)
from napari_skipseg.training.finetune.crops import MOST_SCORED
from napari_skipseg.training.finetune.head_task import classes_with_heads
from napari_skipseg.training.finetune.labelled_pixels import (
    FEATURE_BORDER,
    FEATURE_TILE,
    MOST_TILES,
    join_tiles,
    sides_with_border,
)
from napari_skipseg.training.finetune.labels import ClassPlan, Corrected, check_images, plan_classes
from napari_skipseg.training.finetune.patches import REHEARSED_EVERY
from napari_skipseg.training.finetune.pixel_classifier import has_pixel_heads
from napari_skipseg.training.finetune.priors import PRIOR_PATCHES
from napari_skipseg.training.finetune.rehearsal import rehearsal_samples_of
from napari_skipseg.training.finetune.task import (
    KEPT_FEATURES,
    STEPS_FACTOR,
    UNPAINTED_WEIGHTS,
    VALIDATED_BLOCKS,
    batch_of,
    patch_of,
    set_modes,
    trained_parts,
)
from napari_skipseg.training.progress import TrainingSummary
from napari_skipseg.training.settings import STEPS, FinetuneSettings
from napari_skipseg.training.taught_scale import taught_scale

FEWEST_STEPS = 10
OVERHEAD = 0.15
"""Time of patches and validations, as a share of the time of the steps."""
SECONDS_PER_PATCH = 0.01
FIT_SECONDS = 1.0
"""Time to fit a pixel head on a processor that does nothing else."""
START = 1.5
"""Seconds to read the images, to write the model and to show it, on such a processor."""
MEASURED_VOXELS = {
    dimensions: margin + PROBES * math.prod(PROBE[dimensions])
    for dimensions, margin in ((2, 512**2 * 5 // 4), (3, 96**3 * 9 // 8))
}
"""Voxels that are predicted to measure a new model: its margin on a part of the image and on a tile with half of its
sides, and how sure it is on some patches."""


def time_of(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes when it is done for the second time."""
    work()  # the first time loads kernels and takes longer
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def steps_of(settings: FinetuneSettings, seconds_per_step: float) -> int:
    """Return the steps that are named, that fit into the minutes, or that the reach has."""
    if settings.steps:
        return settings.steps
    if settings.time_limit:
        return max(FEWEST_STEPS, int(STEPS_FACTOR * settings.time_limit * 60 / max(1e-3, seconds_per_step)))
    return STEPS[settings.reach]


def agree_on_steps(
    settings: FinetuneSettings,
    plan: ClassPlan,
    network: Network,
    compute: Compute,
    note: Path,
    processes: Processes,
) -> int:
    """Return the steps of a fine-tuning that is about to begin: the same in all processes, and if it is resumed.

    note: a file that keeps the number if it was measured to fit into minutes.

    Raises:
        FileError: the note cannot be written.
    """
    if settings.steps or not settings.time_limit:
        return steps_of(settings, 1.0)
    text = note.read_text(encoding="utf-8") if note.exists() else ""
    if known := int(processes.highest(int(text) if text.isdecimal() else 0)):
        return known
    batch = processes.part_of(batch_of(settings, network.spec.dimensions))
    times = _time_batch(network, settings, batch, compute)
    steps = int(processes.highest(steps_of(settings, _seconds_of_step(settings, plan, times, batch))))
    if processes.is_first:
        try:
            write_durably(note, str(steps).encode())
        except OSError as error:
            raise FileError(f"'{note}' cannot be written ({error.strerror}): free some space and resume.") from error
    return steps


def estimate_seconds(
    settings: FinetuneSettings, plan: ClassPlan, table: BlockTable, device_name: str
) -> tuple[float, bool]:
    """Return about how many seconds a fine-tuning takes, measured on its device and in its precision.

    And whether it fits pixel heads, whose strokes are held out in turn.
    """
    parent = read_model(locate_model(settings.model))
    check_trainable(parent.description)
    if has_pixel_heads(settings, plan, parent.network):
        compute = choose_compute(parent.network, settings.precision, device_name, None, ONE_PROCESS)
        return _seconds_of_pixel_heads(parent.network, plan, table, compute), True
    heads = classes_with_heads(settings, plan, parent.network, _labelled_share(table))
    network: Network = parent.network
    if heads:
        taught = [number for number in heads if plan.judged[number]]
        network = add_pixel_heads(network, plan.kept, taught, classes=len(plan.classes))
    else:
        network = grow_classes(network, plan.kept, channels=plan.channels)
    compute = choose_compute(network, settings.precision, device_name, None, ONE_PROCESS)
    batch = batch_of(settings, network.spec.dimensions)
    times = _time_batch(network, settings, batch, compute)
    voxels = batch * math.prod(patch_of(settings, network))
    extra = START + times.forward * _voxels_after(table, parent, locate_model(settings.model), bool(heads)) / voxels
    steps = steps_of(settings, 1.0)
    if settings.time_limit and not settings.steps:
        fit = settings.time_limit * 60
        if len(plan.classes) > len(plan.kept) and not heads and settings.reach != "quick":
            extra += (STEPS["quick"] + KEPT_FEATURES / batch) * times.forward
    elif settings.reach == "quick":
        patches = min(steps * batch, KEPT_FEATURES)
        passes = 1 + _distilled_share(settings, plan)
        fit = steps * times.step + patches * (SECONDS_PER_PATCH + passes * times.deep / batch)
        shown = thin_blocks(table.held_out, VALIDATED_BLOCKS[settings.reach], settings.seed)
        extra += passes * times.deep * _voxels_of(shown, parent.description.margin) / voxels
    else:
        fit = steps * _seconds_of_step(settings, plan, times, batch)
        if len(plan.classes) > len(plan.kept) and not heads:
            extra += (STEPS["quick"] + KEPT_FEATURES / batch) * times.forward
    if heads:
        extra += _seconds_of_pixel_heads(parent.network, plan, table, compute) - START
    if len(plan.classes) > len(plan.kept):
        extra += PRIOR_PATCHES * times.forward / batch
    return extra + (min(fit, settings.time_limit * 60) if settings.time_limit else fit), False


def _voxels_after(table: BlockTable, parent: Model, folder: Path, has_heads: bool) -> int:
    """Return the voxels that are predicted after the fit: to measure the new model, and for the scores of both.

    has_heads: the training is compared with its start besides, on what is held out; what is measured of the new model
    is among the seconds of pixel heads.
    """
    description = parent.description
    held_out = _voxels_of(table.held_out[:MOST_SCORED], description.margin)
    sample = rehearsal_samples_of(folder, description)
    own = 0
    if sample is not None and len(sample):
        scored = int(sample.held_out.sum()) or len(sample)
        own = scored * math.prod(sample.images.shape[2:])
    measured = 0 if has_heads else MEASURED_VOXELS[description.spec.dimensions]
    return measured + (4 if has_heads else 2) * held_out + 2 * own


def _seconds_of_pixel_heads(network: Network, plan: ClassPlan, table: BlockTable, compute: Compute) -> float:
    """Return about how many seconds pixel heads take: features, a fit for each class, and measures of the new model.

    The latter are computed on the CPU in f32. What no network computes takes longer too if other programs are busy.
    """
    dimensions = network.spec.dimensions
    side = FEATURE_TILE[dimensions] + 2 * FEATURE_BORDER[dimensions]
    network = add_pixel_heads(network, plan.kept, [number - 1 for number in plan.learnt], classes=len(plan.classes))
    tile = torch.zeros(1, network.spec.in_channels, *(-(-side // network.stride) * network.stride,) * dimensions)
    voxels = tile[0, 0].numel()
    known = _time_forward(network.eval(), tile, compute)
    on_cpu = Compute(torch.device("cpu"))
    is_same = (compute.device.type, compute.precision) == (on_cpu.device.type, on_cpu.precision)
    measuring = known if is_same else _time_forward(network, tile, on_cpu)
    slower = max(1.0, measuring.seconds * torch.get_num_threads() / max(1e-3, measuring.processor))
    predicted = known.seconds * _voxels_of_features(table, dimensions) + measuring.seconds * MEASURED_VOXELS[dimensions]
    return slower * (START + FIT_SECONDS * len(plan.learnt)) + predicted / voxels


class _Forward(NamedTuple):
    """Seconds of a pass by the clock, and of the processor."""

    seconds: float
    processor: float


def _time_forward(network: TaughtNetwork, tile: Tensor, compute: Compute) -> _Forward:
    """Measure a pass over a tile; other programs take from the processor what the clock has more."""
    compute.place(network)
    used = [0.0]

    def forward() -> None:
        began = time.process_time()
        with torch.inference_mode():
            compute.logits(network, tile)
        used[0] = time.process_time() - began

    return _Forward(time_of(forward), used[0])


def _voxels_of_features(table: BlockTable, dimensions: int) -> int:
    """Return the voxels that are computed around the labels; images end at their last block for all that is known."""
    planes: dict[object, list[LabelledBlock]] = {}
    for block in table.blocks:
        planes.setdefault((block.image, block.time, block.box[:-dimensions]), []).append(block)
    tiles, shapes = [], []
    for number, blocks in enumerate(planes.values()):
        boxes = [block.box[-dimensions:] for block in blocks]
        shapes.append(tuple(max(stop for _, stop in sides) for sides in zip(*boxes, strict=True)))
        tiles += [(number, tuple(slice(*side) for side in box)) for box in boxes]
    border = FEATURE_BORDER[dimensions]
    windows = join_tiles(tiles[:MOST_TILES], shapes, border)
    return sum(math.prod(sides_with_border(window, shapes[number], border)) for number, window, _ in windows)


def _labelled_share(table: BlockTable) -> float:
    """Return the share of the voxels of all blocks that has a label."""
    columns = [number for number, counted in enumerate(table.columns) if not counted.is_painted]
    labelled = sum(block.counts[column] for block in table.blocks for column in columns)
    return labelled / max(1, sum(math.prod(stop - start for start, stop in block.box) for block in table.blocks))


def _voxels_of(blocks: Sequence[LabelledBlock], margin: int) -> int:
    """Return the voxels of all `blocks` with their margins."""
    sides = ([stop - start for start, stop in block.box] for block in blocks)
    return sum(math.prod(side + 2 * margin if side > 1 else 1 for side in box) for box in sides)


def _seconds_of_step(settings: FinetuneSettings, plan: ClassPlan, times: _Times, batch: int) -> float:
    """Return the seconds of a step with its patches, the old network's answers and its part of the validations."""
    old = times.deep * _distilled_share(settings, plan)
    return (times.step + old + batch * SECONDS_PER_PATCH) * (1 + OVERHEAD)


def _distilled_share(settings: FinetuneSettings, plan: ClassPlan) -> float:
    """Return the share of the patches that the old network predicts."""
    if not settings.remember:
        return 0.0
    if UNPAINTED_WEIGHTS[settings.reach] > 0:  # the pixels that nobody painted, which most patches have
        return 1.0
    return 1 / REHEARSED_EVERY if all(plan.judged[: len(plan.kept)]) else 1.0


class _Times(NamedTuple):
    """Seconds for a batch: a training step, all below the last level, and the whole network, the latter two forward."""

    step: float
    deep: float
    forward: float


def _time_batch(network: Network, settings: FinetuneSettings, batch: int, compute: Compute) -> _Times:
    """Measure the times of a batch on a copy of `network`."""
    network = compute.place(copy.deepcopy(network))
    set_modes(network, settings)
    trained = {parameter for part in trained_parts(network, settings.reach) for parameter in part.parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in trained)
    images = torch.zeros(batch, network.spec.in_channels, *patch_of(settings, network))

    body = network.body if isinstance(network, TaughtNetwork) else network

    def compute_features() -> Deep:
        with torch.no_grad(), compute.autocast():
            return body.deep(compute.upload(images))

    def forward() -> Tensor:
        with torch.no_grad():
            return compute.logits(network, images)

    deep = compute_features()
    optimizer = torch.optim.AdamW([parameter for parameter in network.parameters() if parameter.requires_grad])

    def learn() -> None:
        if settings.reach == "quick":
            with compute.autocast():
                logits = network.finish(deep).logits.float()
        else:
            logits = compute.logits(network, images)
        logits.square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _Times(time_of(learn), time_of(compute_features), time_of(forward))


def iter_plan_finetuning(
    settings: FinetuneSettings, corrected: Sequence[Corrected], device_name: str = "auto"
) -> Generator[Progress, None, TrainingSummary]:
    """Yield while labels are read; return what a fine-tuning with `settings` would learn from, and how long it takes.

    Raises:
        SkipsegError: as `iter_finetune` would say before it begins to train.
    """
    parent = describe_model(settings.model)
    check_images(corrected, parent)
    plan = plan_classes(settings, parent)
    table = yield from iter_find_labelled_blocks(settings, corrected, plan, parent.spec.dimensions)
    yield Progress(len(corrected), len(corrected), "measuring how long a step takes")
    scale = taught_scale([each.stack for each in corrected], table, parent)
    notes = (scale.note,) if scale.note else ()
    seconds, in_turn = estimate_seconds(settings, plan, table, device_name)
    return summarize_training(table, plan, seconds, notes, in_turn)
