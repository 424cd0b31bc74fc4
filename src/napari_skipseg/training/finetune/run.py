"""From a model and corrected images to a new model beside the old one: read, fit, write, and then score both."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from scipy.special import expit

from napari_skipseg.devices import Device, cpu_title, versions
from napari_skipseg.errors import SpecError
from napari_skipseg.images.intensity.padding import PaddingRule
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.margin import iter_measure_margin
from napari_skipseg.models.catalog import check_free, locate_model
from napari_skipseg.models.description import Card, ModelDescription, ModelScores, TrainingRecord, check_trainable
from napari_skipseg.models.folder import write_scores
from napari_skipseg.models.model import Model, as_stored, read_model, write_model
from napari_skipseg.networks.head import add_pixel_heads, grow_classes, sources_of
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import ImageFindings, Progress, Result
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.training.checkpoint import CHECKPOINT, Curves, belongs_to
from napari_skipseg.training.compute import Compute, choose_compute
from napari_skipseg.training.distributed import ONE_PROCESS, Processes, joined
from napari_skipseg.training.evaluate import WholeImages
from napari_skipseg.training.finetune.blocks import iter_find_labelled_blocks, summarize_training, thin_blocks
from napari_skipseg.training.finetune.crops import CorrectionCrops, iter_read_crops
from napari_skipseg.training.finetune.estimate import agree_on_steps
from napari_skipseg.training.finetune.head_task import (
    HeadTask,
    classes_with_heads,
    iter_fit_first_heads,
)
from napari_skipseg.training.finetune.keep_better import QUICK_IS_BETTER, has_body_of, iter_is_first_better
from napari_skipseg.training.finetune.labelled_pixels import LabelledPixels, iter_read_pixels
from napari_skipseg.training.finetune.labels import ClassPlan, Corrected, check_images, plan_classes
from napari_skipseg.training.finetune.patches import (
    PatchSampler,
    iter_batches,
    iter_held_out_patches,
    iter_rehearsal_batches,
)
from napari_skipseg.training.finetune.pixel_classifier import FittedClass, fit_pixel_heads, has_pixel_heads, head_logits
from napari_skipseg.training.finetune.priors import iter_keep_shares, labelled_fraction
from napari_skipseg.training.finetune.rehearsal import (
    RehearsalSamples,
    join_samples,
    rehearsal_samples_of,
    sample_of_corrections,
    sample_to_bytes,
)
from napari_skipseg.training.finetune.report import (
    CORRECTIONS,
    STROKES,
    collect_scoring_data,
    compare,
    compare_on_strokes,
)
from napari_skipseg.training.finetune.stroke_scores import StrokeScores, score_strokes
from napari_skipseg.training.finetune.stroke_verdict import describe_strokes
from napari_skipseg.training.finetune.task import (
    VALIDATED_BLOCKS,
    FinetuneData,
    FinetuneTask,
    QuickTask,
    batch_of,
    is_record_of,
    iter_warm_up_head,
    patch_of,
)
from napari_skipseg.training.fit import iter_learn
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.progress import ComparisonReport, Finetuned, KeepBest, TrainingSummary, ValidationPicture
from napari_skipseg.training.seen import with_signature
from napari_skipseg.training.settings import FinetuneSettings, equals_written, settings_to_dict
from napari_skipseg.training.taught_scale import TaughtScale, taught_scale
from napari_skipseg.training.train import checkpoint_folder, keep_model_on_error, thin_curve, waits_for_scores

STEPS_FILE = "steps.txt"
PICTURED = 128
"""Least side of the picture of the finished model, in voxels, where the image is so large."""
REHEARSED_HELD_OUT = 4
"""Held-out rehearsal samples of a validation."""


@dataclass(frozen=True)
class _Setup:
    """All that is settled before the first step. sha256: of all that is learnt from."""

    settings: FinetuneSettings
    parent: Model
    plan: ClassPlan
    summary: TrainingSummary
    scale: TaughtScale
    corrections: CorrectionCrops
    sha256: str
    rehearsal: RehearsalSamples | None
    processes: Processes

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.parent.description.spec.dimensions

    @property
    def teaches_pixel_heads(self) -> bool:
        """Whether the network stays as it is and the classes get pixel heads."""
        return has_pixel_heads(self.settings, self.plan, self.parent.network)

    @property
    def can_be_quick(self) -> bool:
        """Whether *quick* could teach the same classes by pixel heads alone."""
        return has_pixel_heads(replace(self.settings, reach="quick"), self.plan, self.parent.network)


def iter_finetune(
    settings: FinetuneSettings,
    corrected: Sequence[Corrected],
    folder: Path,
    device_name: str = "auto",
    processes: Processes = ONE_PROCESS,
    parent: Model | None = None,
    afresh: bool = False,
) -> Generator[Progress, KeepBest | None, Finetuned]:
    """Yield while fine-tuning runs; return the new model's folder, `folder` / name, and how it compares with the old.

    The progress is a `TrainingProgress` when curves get new points, and a `ValidationPicture` after each validation.
    Send a `KeepBest` back to end the training with the best weights so far. A checkpoint lies in `folder` /
    name.training until both models are scored: the same call resumes from it. The model is written as soon as the
    training ends; if it is not scored then, the same call only scores it. Each of several `processes` calls this; the
    first one writes and scores.

    parent: the model that `settings.model` names, if it was read before; it is not changed. afresh: delete a checkpoint
    of different settings or corrections instead of refusing it.

    Raises:
        SkipsegError: labels that do not fit or do not teach anything, a model of that name is already there, no such
            device, a full disk.
    """
    target, scratch = folder / settings.name, folder / f"{settings.name}.training"
    heads: _FittedHeads | None = None
    is_trained = waits_for_scores(target, lambda record: equals_written(settings, record.settings))
    if not is_trained:
        check_free(settings.name, folder)
    parent = parent or read_model(locate_model(settings.model))
    check_trainable(parent.description)
    setup = yield from _iter_refusing_keep(_iter_prepare(settings, corrected, parent, processes))
    with checkpoint_folder(scratch, processes, locate_model(settings.model)):
        if is_trained:
            if not waits_for_scores(target, lambda record: record.learnt_from_sha256 == setup.sha256):
                check_free(settings.name, folder)
            compute = choose_compute(parent.network, settings.precision, device_name, None, processes)
        else:
            checkpoint = scratch / CHECKPOINT
            if afresh and not belongs_to(checkpoint, lambda record: is_record_of(record, settings, setup.sha256)):
                for left in (checkpoint, scratch / STEPS_FILE):
                    left.unlink(missing_ok=True)
            compute = choose_compute(parent.network, settings.precision, device_name, checkpoint, processes)
            with joined(processes, compute.device):
                heads = yield from _iter_fit_and_write(setup, compute, target, scratch)
        if not processes.is_first:
            return Finetuned(target, ComparisonReport((), False, "Another process writes the model."))
        with keep_model_on_error(target):
            is_quick = heads is not None or setup.teaches_pixel_heads
            if is_quick or (setup.can_be_quick and has_body_of(read_model(target).network, parent.network)):
                report = yield from _iter_score_heads(setup, compute, target, heads)
            else:
                report = yield from _iter_score(setup, compute, target)
    return Finetuned(target, report)


def _iter_refusing_keep(work: Generator[Progress, None, Result]) -> Generator[Progress, KeepBest | None, Result]:
    """Yield and return what `work` does, which comes before the first step.

    Raises:
        SpecError: a `KeepBest` was sent back.
    """
    while True:
        try:
            progress = next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if isinstance((yield progress), KeepBest):
            raise SpecError("The training has not begun, so there is nothing to keep yet: cancel it, or wait a step.")


def _iter_prepare(
    settings: FinetuneSettings, corrected: Sequence[Corrected], parent: Model, processes: Processes
) -> Generator[Progress, None, _Setup]:
    """Yield while labels, images and rehearsal samples are read; return all that is settled."""
    yield Progress(0, 1, "reading the labels")
    folder = locate_model(settings.model)
    description = parent.description
    processes.part_of(batch_of(settings, description.spec.dimensions))  # refused now, not after the images were read
    check_images(corrected, description)
    plan = plan_classes(settings, description)
    table = yield from iter_find_labelled_blocks(settings, corrected, plan, description.spec.dimensions)
    scale = taught_scale([each.stack for each in corrected], table, description)
    if scale.note:
        yield ImageFindings(0, 1, "reading the labels", (scale.note,))
    patch = patch_of(settings, parent.network)
    padding: PaddingRule = "none" if "none" in (settings.padding, description.padding) else "auto"
    corrections = yield from iter_read_crops(corrected, table, plan, patch, settings.seed, padding)
    yield Progress(1, 1, "reading the model's own sample")
    return _Setup(
        settings=settings,
        parent=parent,
        plan=plan,
        summary=summarize_training(table, plan, is_in_turn=has_pixel_heads(settings, plan, parent.network)),
        scale=scale,
        corrections=corrections,
        sha256=corrections.sha256(),
        rehearsal=rehearsal_samples_of(folder, description),
        processes=processes,
    )


def _iter_fit_and_write(
    setup: _Setup, compute: Compute, target: Path, scratch: Path
) -> Generator[Progress, KeepBest | None, _FittedHeads | None]:
    """Yield as the network is fitted and its margin measured; the first process writes the model, without scores.

    Return its pixel heads, if some were fitted.
    """
    settings, corrections = setup.settings, setup.corrections
    network: Network
    heads: _FittedHeads | None = None
    curves: Curves = {}
    if setup.teaches_pixel_heads:
        heads = yield from _iter_refusing_keep(_iter_fit_heads(setup, compute))
        network = heads.network
    else:
        data, network, task, fits = yield from _iter_refusing_keep(_iter_begin(setup, compute, scratch))
        first = copy.deepcopy(network) if fits else None
        state = yield from iter_learn(task, network, scratch / CHECKPOINT, compute, setup.processes)
        curves = state.curves
    if not setup.processes.is_first:
        return heads
    thresholds = {} if heads is None else heads.thresholds
    if heads is None and isinstance(network, TaughtNetwork):
        yield from iter_keep_shares(network, fits, data, compute)
        thresholds = dict.fromkeys(fits, DEFAULT_THRESHOLD)
        if isinstance(first, TaughtNetwork) and setup.can_be_quick:
            margin = setup.parent.description.margin
            if (yield from iter_is_first_better(first, network, fits, corrections, margin, compute)):
                heads = yield from _iter_fit_heads(setup, compute)
                network, thresholds = heads.network, heads.thresholds
    network = as_stored(network).to("cpu")
    description = _describe(setup, network, curves, compute, thresholds)
    backend = TorchBackend(Model(description, network), Device("cpu", cpu_title(), ""), "f32")
    # In the last level, quick changes no layer that decides about the margin.
    if setup.teaches_pixel_heads or settings.reach != "quick":
        image = max((crop.image for crop in corrections.crops), key=lambda image: image.size)
        margin = yield from iter_measure_margin(backend, image.astype(np.float32), network.stride)
        if isinstance(network, TaughtNetwork):  # the old classes keep their margin, and the filters need their reach
            margin = max(margin, setup.parent.description.margin, *(2 * scale for scale in network.pixel_head.scales))
        description = replace(description, margin=margin)
    yield Progress(1, 1, "writing the model")
    images = [crop.image for crop in corrections.crops]
    description = with_signature(description, images, backend, setup.parent.description, settings.seed)
    new = sample_of_corrections(corrections, setup.plan, setup.dimensions, settings.seed)
    sample = join_samples(setup.rehearsal if settings.remember else None, new, settings.seed)
    write_model(target, description, network, sample_to_bytes(sample), locate_model(settings.model))
    return heads


@dataclass(frozen=True)
class _FittedHeads:
    """A network with new pixel heads, the pixels that they were fitted to, and the fit of each class (from 0)."""

    network: TaughtNetwork
    pixels: LabelledPixels
    fits: Mapping[int, FittedClass]

    @property
    def thresholds(self) -> dict[int, float]:
        """The threshold of each class with a new pixel head."""
        return {number: fitted.threshold for number, fitted in self.fits.items()}


def _iter_fit_heads(setup: _Setup, compute: Compute) -> Generator[Progress, None, _FittedHeads]:
    """Yield while features are computed; return the network with pixel heads for the classes that are learnt."""
    learnt, classes = [number - 1 for number in setup.plan.learnt], len(setup.plan.classes)
    network = add_pixel_heads(setup.parent.network, setup.plan.kept, learnt, classes=classes)
    pixels = yield from iter_read_pixels(network, setup.corrections.crops, setup.settings.seed, compute)
    yield Progress(1, 1, "fitting the classes")
    return _FittedHeads(network, pixels, fit_pixel_heads(network, learnt, pixels))


def _iter_begin(
    setup: _Setup, compute: Compute, scratch: Path
) -> Generator[Progress, None, tuple[FinetuneData, Network, FinetuneTask, Mapping[int, FittedClass]]]:
    """Yield while the first patches are drawn.

    Return what is learnt from, the network, how it is fitted, and the first fit of each pixel head (class from 0).
    """
    settings, plan, processes = setup.settings, setup.plan, setup.processes
    torch.manual_seed(settings.seed)
    parent, network = setup.parent.network, setup.parent.network
    fits: Mapping[int, FittedClass] = {}
    heads = classes_with_heads(settings, plan, parent, labelled_fraction(setup.corrections))
    if heads:
        taught = [number for number in heads if plan.judged[number]]
        network = grown = add_pixel_heads(parent, plan.kept, taught, classes=len(plan.classes))
        if taught:
            fits = yield from iter_fit_first_heads(grown, taught, setup.corrections, settings.seed, compute)
        processes.average([value.data for value in grown.heads.state_dict().values()])  # the same in all of them
    else:
        network = grow_classes(parent, plan.kept, channels=plan.channels)
    yield Progress(0, 1, f"reading what is held out; training on {compute.reason}")
    data = _collect_data(setup)
    resumed = processes.highest(float((scratch / CHECKPOINT).exists())) > 0
    is_new = len(plan.classes) > len(plan.kept) or None in sources_of(parent)
    if is_new and not heads and settings.reach != "quick" and not resumed:
        yield from iter_warm_up_head(settings, data, network, compute, processes)
    batch = processes.part_of(batch_of(settings, setup.dimensions))
    steps = agree_on_steps(settings, plan, network, compute, scratch / STEPS_FILE, processes)
    if isinstance(network, TaughtNetwork):
        return data, network, HeadTask(settings, data, steps, batch, compute, network), fits
    if settings.reach != "quick":
        return data, network, FinetuneTask(settings, data, steps, batch, compute), fits
    quick = QuickTask(settings, data, steps, batch, compute)
    yield from quick.iter_prepare(network)
    return data, network, quick, fits


def _collect_data(setup: _Setup) -> FinetuneData:
    """Return where patches are drawn from, and what is held out while the fit runs."""
    settings, plan, corrections = setup.settings, setup.plan, setup.corrections
    rehearsal = setup.rehearsal if settings.remember else None
    patches = PatchSampler(
        corrections=corrections,
        plan=plan,
        rehearsal=rehearsal,
        patch=patch_of(settings, setup.parent.network),
        augmentation=settings.augmentation,
        seed=settings.seed,
        remembers=settings.remember,
    )
    table = corrections.table
    blocks = thin_blocks(table.held_out, VALIDATED_BLOCKS[settings.reach], settings.seed)
    margin, stride = setup.parent.description.margin, setup.parent.network.stride
    scored = [
        *iter_held_out_patches(corrections, blocks, margin, stride),
        *iter_held_out_patches(corrections, table.with_strokes(blocks), margin, stride, only_painted=True),
    ]
    held_out = list(iter_batches(scored, plan, settings.remember))
    if rehearsal is not None:
        held_out += iter_rehearsal_batches(rehearsal, plan, REHEARSED_HELD_OUT)
    # A copy, because the network of the parent is handed on to be scored, and warm engines keep it.
    teacher = copy.deepcopy(setup.parent.network).eval() if settings.remember and plan.kept else None
    return FinetuneData(patches, tuple(held_out), teacher, setup.sha256)


def _iter_score_heads(
    setup: _Setup, compute: Compute, target: Path, heads: _FittedHeads | None
) -> Generator[Progress, KeepBest | None, ComparisonReport]:
    """Yield as pixel heads are scored on strokes that a fit left out; write the scores, and return the report.

    The old classes do not change beside them, so nothing can be forgotten. heads: None = fit them again.
    """
    parent, known = setup.parent.network, setup.parent.description.class_thresholds
    if heads is None:
        heads = yield from _iter_refusing_keep(_iter_fit_heads(setup, compute))
    yield Progress(0, 1, f"scoring {setup.settings.name}")
    pixels = heads.pixels
    found: dict[str, StrokeScores | None] = {}
    old: dict[str, StrokeScores] = {}
    for number, fitted in heads.fits.items():
        name, positive = setup.plan.names[number], pixels.labels == number + 1
        judged = pixels.judged(positive)
        sides, strokes = positive[judged], pixels.strokes[judged]
        called = fitted.called
        found[name] = None if called is None else score_strokes(called[judged], sides, strokes, fitted.marked)
        if isinstance(parent, TaughtNetwork) and name in known:
            head = parent.head_of(list(known).index(name))
            marked = float(np.mean(expit(head_logits(head, pixels.around)) > known[name]))
            called = expit(head_logits(head, pixels.columns[judged])) > known[name]
            old[name] = score_strokes(called, sides, strokes, marked)
    yield from _iter_picture(setup, read_model(target), compute)
    report = compare_on_strokes(found, old, setup.settings.reach)
    if not setup.teaches_pixel_heads:
        report = replace(report, reason=f"{QUICK_IS_BETTER} {report.reason}")
    left_out = f"strokes that a fit for these scores left out{describe_strokes(found)}"
    _write_report(target, report, f"{left_out}; the model itself learnt from them too")
    return report


def _iter_picture(setup: _Setup, model: Model, compute: Compute) -> Generator[Progress, None, None]:
    """Yield a picture of the finished model beside the labels of a block that shows the class that was learnt last."""
    corrections, learnt = setup.corrections, setup.plan.learnt[-1]
    table = corrections.table
    column = next(number for number, each in enumerate(table.columns) if each.number == learnt)
    block = max((*table.held_out, *table.training), key=lambda each: (each.counts[column] > 0, each.is_held_out))
    crop, place = corrections.locate(block)
    around = tuple(
        slice(max(0, part.start - PICTURED // 4), min(length, max(part.stop, part.start + PICTURED)))
        for part, length in zip(place, crop.target.shape, strict=True)
    )
    image = crop.image[(slice(None), *around)].astype(np.float32)
    target = np.where(crop.target == IGNORED, crop.held_out, crop.target)[around]
    probability = np.empty(target.shape, np.float32)
    for tile in WholeImages(model, compute.device, compute.precision).iter_tiles(image):
        probability[tile.keep] = tile.probability[learnt - 1]
    shown = () if target.ndim == 2 else (int((target == learnt).sum(axis=(1, 2)).argmax()),)
    labels = target[shown].astype(np.int16)
    said = f"scoring {model.description.name}"
    yield ValidationPicture(1, 1, said, image[(0, *shown)], probability[shown], labels, is_final=True)


def _write_report(target: Path, report: ComparisonReport, scores_on: str) -> None:
    """Write the scores of a model beside it: those on strokes where these were scored apart."""
    scores = {
        f"{row.score} {row.class_name}": row.new
        for on in (CORRECTIONS, STROKES)
        for row in report.rows
        if row.on == on and row.score in ("Dice", "precision", "V_rand")
    }
    values = TypeAdapter(ComparisonReport).dump_python(report, mode="json")
    write_scores(target, ModelScores(scores, scores_on, values))


def _iter_score(
    setup: _Setup, compute: Compute, target: Path
) -> Generator[Progress, KeepBest | None, ComparisonReport]:
    """Yield as the old and the new model are scored; write the scores beside the new one, and return the report."""
    parent, settings = setup.parent, setup.settings
    margin, stride = parent.description.margin, parent.network.stride
    scoring = collect_scoring_data(setup.corrections, setup.plan, setup.rehearsal, margin, stride)
    old = yield from scoring.iter_score(parent, compute, f"scoring {parent.description.name}")
    model = read_model(target)
    new = yield from scoring.iter_score(model, compute, f"scoring {settings.name}")
    yield from _iter_picture(setup, model, compute)
    stored = parent.description.training.report
    report = compare(old, new, setup.plan, scoring.held_out, settings.reach, stored)
    strokes = {name: new.on_strokes(name) for name in new.called}
    _write_report(
        target, report, f"corrections held out of training but used to choose the weights{describe_strokes(strokes)}"
    )
    return report


def _describe(
    setup: _Setup, network: Network, curves: Curves, compute: Compute, thresholds: Mapping[int, float]
) -> ModelDescription:
    """Return the description of the new model: the old one's, with its own classes, card and record, without scores.

    thresholds: of classes (from 0) that have new ones; others keep that of the old model.
    """
    settings, parent, summary = setup.settings, setup.parent.description, setup.summary
    counts = ", ".join(f"{name} {count:,}" for name, count in summary.pixels.items())
    images = ", ".join(dict.fromkeys(Path(image).name for image in settings.images))
    taught = ", ".join(name for name in summary.pixels if name != "background")
    known = setup.parent.description.class_thresholds
    each = [thresholds.get(number, known.get(name, DEFAULT_THRESHOLD)) for number, name in enumerate(setup.plan.names)]
    learnt_from = f"Corrections of {images}, {summary.slices} slices: {counts} voxels."
    card = Card(
        summary=f"{parent.name}, fine-tuned ({settings.reach}) to {taught}.",
        data=" ".join(filter(None, (learnt_from, setup.scale.note, f"Before that: {parent.card.data}"))),
        terms=parent.card.terms,
        license=parent.card.license,
    )
    return replace(
        parent,
        name=settings.name,
        spec=network.spec,
        classes=setup.plan.classes,
        padding=setup.corrections.padding,
        weights_sha256="",
        pixel_head=network.pixel_head if isinstance(network, TaughtNetwork) else None,
        thresholds=tuple(each),
        voxel_size=setup.scale.voxel_size,
        unit=setup.scale.unit,
        card=card,
        training=TrainingRecord(
            settings=settings_to_dict(settings),
            curves={name: thin_curve(curve) for name, curve in curves.items()},
            versions=versions(),
            device=compute.device.type,
            precision=compute.precision,
            parent=parent.name,
            parent_sha256=parent.weights_sha256,
            learnt_from_sha256=setup.sha256,
        ),
    )
