"""From a model and corrected images to a new model, beside the old one: read, fit, write, and then score both."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from napari_skipseg.devices import Device, cpu_title, versions
from napari_skipseg.errors import SpecError
from napari_skipseg.images.intensity.padding import PaddingRule
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.margin import iter_measure_margin
from napari_skipseg.models.catalog import check_free, locate_model
from napari_skipseg.models.description import Card, ModelDescription, ModelScores, TrainingRecord
from napari_skipseg.models.folder import write_scores
from napari_skipseg.models.model import Model, as_stored, read_model, write_model
from napari_skipseg.networks.head import grow_classes
from napari_skipseg.networks.network import Network
from napari_skipseg.progress import ImageFindings, Progress, Result
from napari_skipseg.training.checkpoint import CHECKPOINT, FitState, belongs_to
from napari_skipseg.training.compute import Compute, choose_compute
from napari_skipseg.training.distributed import ONE_PROCESS, Processes, joined
from napari_skipseg.training.finetune.blocks import thinned
from napari_skipseg.training.finetune.estimate import agree_on_steps
from napari_skipseg.training.finetune.labels import (
    ClassPlan,
    Corrected,
    check_images,
    iter_find_places,
    plan_classes,
    summarize_training,
)
from napari_skipseg.training.finetune.patches import PatchSampler, as_batches, recalled_batches, windows_of
from napari_skipseg.training.finetune.priors import iter_correct_prior_shift
from napari_skipseg.training.finetune.regions import Material, iter_read_material
from napari_skipseg.training.finetune.rehearsal import (
    RehearsalSamples,
    join_samples,
    rehearsal_samples_of,
    sample_of_corrections,
    sample_to_bytes,
)
from napari_skipseg.training.finetune.report import CORRECTIONS, compare, examine
from napari_skipseg.training.finetune.task import (
    VALIDATED,
    FinetuneData,
    FinetuneTask,
    QuickTask,
    batch_of,
    is_record_of,
    iter_warm_up_head,
    patch_of,
)
from napari_skipseg.training.fit import iter_learn
from napari_skipseg.training.progress import ComparisonReport, Finetuned, KeepBest, TrainingSummary
from napari_skipseg.training.seen import with_signature
from napari_skipseg.training.settings import FinetuneSettings, finetune_from_json, finetune_to_dict
from napari_skipseg.training.taught_scale import TaughtScale, taught_scale
from napari_skipseg.training.train import keep_model_on_error, make_scratch, thin_curve, waits_for_scores

STEPS_NOTE = "steps.txt"
RECALLED = 4
"""Held-out patches of the old model's own sample that are."""


@dataclass(frozen=True)
class _Course:
    """All that is settled before the first step. sha256: of all that is learnt from."""

    settings: FinetuneSettings
    parent: Model
    plan: ClassPlan
    lesson: TrainingSummary
    scale: TaughtScale
    material: Material
    sha256: str
    remembered: RehearsalSamples | None
    processes: Processes

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.parent.description.spec.dimensions


def iter_finetune(
    settings: FinetuneSettings,
    corrected: Sequence[Corrected],
    folder: Path,
    device_name: str = "auto",
    processes: Processes = ONE_PROCESS,
    parent: Model | None = None,
    afresh: bool = False,
) -> Generator[Progress, KeepBest | None, Finetuned]:
    """Yield as fine-tuning goes on; return the new model's folder, `folder` / name, and how it compares with the old.

    The progress is a `TrainingProgress` where curves go on, a `ValidationPicture` after each look at what is held
    out; a `KeepBest` sent back ends the training with the best weights so far. A checkpoint lies in `folder` /
    name.training until both models are scored: the same call resumes from it. The model is written as soon as the
    training ends; if it is not scored then, the same call only scores it. Of several `processes` each calls this; the
    first one writes and scores.

    parent: the model that `settings.model` names, where it was read before; it stays as it is. afresh: a checkpoint of
    other settings or other corrections is thrown away, not refused.

    Raises:
        SkipsegError: labels that do not fit or do not teach anything, a model of that name is already there, no such
            device, a full disk.
    """
    target, scratch = folder / settings.name, folder / f"{settings.name}.training"
    is_trained = waits_for_scores(target, lambda record: _is_same(record.settings, settings))
    if not is_trained:
        check_free(settings.name, folder)
    parent = parent or read_model(locate_model(settings.model))
    course = yield from _refusing_keep(_iter_prepare(settings, corrected, parent, processes))
    if is_trained:
        if not waits_for_scores(target, lambda record: record.learnt_from_sha256 == course.sha256):
            check_free(settings.name, folder)
        compute = choose_compute(parent.network, settings.precision, device_name, None, processes)
    else:
        checkpoint = scratch / CHECKPOINT
        if afresh and not belongs_to(checkpoint, lambda record: is_record_of(record, settings, course.sha256)):
            shutil.rmtree(scratch, ignore_errors=True)
        compute = choose_compute(parent.network, settings.precision, device_name, checkpoint, processes)
        make_scratch(scratch)
        with joined(processes, compute.device):
            yield from _iter_fit_and_write(course, compute, target, scratch)
    if not processes.is_first:
        return Finetuned(target, ComparisonReport((), False, "Another process writes the model."))
    with keep_model_on_error(target):
        report = yield from _iter_score(course, compute, target)
    shutil.rmtree(scratch, ignore_errors=True)
    return Finetuned(target, report)


def _refusing_keep(work: Generator[Progress, None, Result]) -> Generator[Progress, KeepBest | None, Result]:
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
) -> Generator[Progress, None, _Course]:
    """Yield while labels, images and the old model's sample are read; return all that is settled."""
    yield Progress(0, 1, "reading the labels")
    place = locate_model(settings.model)
    description = parent.description
    processes.part_of(batch_of(settings, description.spec.dimensions))  # refused now, not after the images were read
    check_images(corrected, description)
    plan = plan_classes(settings, description)
    split = yield from iter_find_places(settings, corrected, plan, description.spec.dimensions)
    lesson = summarize_training(split, plan)
    scale = taught_scale([each.stack for each in corrected], split, description)
    if scale.note:
        yield ImageFindings(0, 1, "reading the labels", (scale.note,))
    patch = patch_of(settings, parent.network)
    padding: PaddingRule = "none" if "none" in (settings.padding, description.padding) else "auto"
    material = yield from iter_read_material(corrected, split, plan, patch, settings.seed, padding)
    yield Progress(1, 1, "reading the model's own sample")
    remembered = rehearsal_samples_of(place, description)
    return _Course(settings, parent, plan, lesson, scale, material, material.sha256(), remembered, processes)


def _iter_fit_and_write(
    course: _Course, compute: Compute, target: Path, scratch: Path
) -> Generator[Progress, KeepBest | None, None]:
    """Yield as the network is fitted and its margin measured; the first process writes the model, without scores."""
    lessons, network, task = yield from _refusing_keep(_iter_begin(course, compute, scratch))
    state = yield from iter_learn(task, network, scratch / CHECKPOINT, compute, course.processes)
    if not course.processes.is_first:
        return
    yield from iter_correct_prior_shift(network, lessons, course.material, course.settings, compute)
    network = as_stored(network).to("cpu")
    description = _describe(course, network, state, compute)
    backend = TorchBackend(Model(description, network), Device("cpu", cpu_title(), ""), "f32")
    if course.settings.reach != "quick":  # there all that decides about the margin is the parent's
        image = max((region.image for region in course.material.regions), key=lambda image: image.size)
        margin = yield from iter_measure_margin(backend, image.astype(np.float32), network.stride)
        description = replace(description, margin=margin)
    yield Progress(1, 1, "writing the model")
    images = [region.image for region in course.material.regions]
    description = with_signature(description, images, backend, course.parent.description, course.settings.seed)
    sample = sample_of_corrections(course.material, course.plan, course.dimensions, course.settings.seed)
    joint = join_samples(course.remembered if course.settings.remember else None, sample, course.settings.seed)
    write_model(target, description, network, sample_to_bytes(joint))


def _iter_begin(
    course: _Course, compute: Compute, scratch: Path
) -> Generator[Progress, None, tuple[FinetuneData, Network, FinetuneTask]]:
    """Yield while the first patches are drawn; return what is learnt from, the network, and how it is fitted."""
    plan, model = course.plan, course.parent
    torch.manual_seed(course.settings.seed)
    network = grow_classes(model.network, plan.kept, channels=plan.channels)
    yield Progress(0, 1, f"reading what is held out; training on {compute.reason}")
    lessons = _lessons(course, copy.deepcopy(model.network).eval())
    resumed = course.processes.highest(float((scratch / CHECKPOINT).exists())) > 0
    is_new = len(plan.classes) > len(plan.kept)
    if is_new and course.settings.reach != "quick" and not resumed:
        yield from iter_warm_up_head(course.settings, lessons, network, compute, course.processes)
    task = _task(course, compute, lessons, network, scratch)
    if isinstance(task, QuickTask):
        yield from task.iter_prepare(network)
    return lessons, network, task


def _iter_score(
    course: _Course, compute: Compute, target: Path
) -> Generator[Progress, KeepBest | None, ComparisonReport]:
    """Yield as the old and the new model are scored; write the scores beside the new one, and return the report."""
    parent = course.parent
    margin, stride = parent.description.margin, parent.network.stride
    examination = examine(course.material, course.plan, course.remembered, margin, stride)
    old = yield from examination.iter_score(parent, compute, f"scoring {parent.description.name}")
    new = yield from examination.iter_score(read_model(target), compute, f"scoring {course.settings.name}")
    stored = parent.description.training.report
    report = compare(old.scores, new, course.plan, examination.held_out, course.settings.reach, stored)
    scores = {
        f"{row.score} {row.class_name}": row.new
        for row in report.rows
        if row.on == CORRECTIONS and row.score in ("Dice", "V_rand")
    }
    told = TypeAdapter(ComparisonReport).dump_python(report, mode="json")
    write_scores(target, ModelScores(scores, "corrections held out of training but used to choose the weights", told))
    return report


def _is_same(written: dict[str, Any], settings: FinetuneSettings) -> bool:
    try:
        return finetune_from_json(json.dumps(written)) == settings
    except SpecError:
        return False


def _lessons(course: _Course, old: Network) -> FinetuneData:
    """Return what patches are drawn from and what is held out while the fit goes on."""
    settings, plan, material = course.settings, course.plan, course.material
    patch = patch_of(settings, course.parent.network)
    recalled = course.remembered if settings.remember else None
    patches = PatchSampler(material, plan, recalled, patch, settings.augmentation, settings.seed, settings.remember)
    spots = thinned(material.held_out, VALIDATED[settings.reach], settings.seed)
    around = (course.parent.description.margin, course.parent.network.stride)
    windows = list(windows_of(material, spots, *around))
    windows += windows_of(material, material.painted(spots), *around, only_painted=True)
    held_out = list(as_batches(windows, plan, settings.remember))
    if recalled is not None:
        held_out += recalled_batches(recalled, plan, RECALLED)
    return FinetuneData(patches, tuple(held_out), old if settings.remember and plan.kept else None, course.sha256)


def _task(course: _Course, compute: Compute, lessons: FinetuneData, network: Network, scratch: Path) -> FinetuneTask:
    """Return what the fit learns."""
    settings = course.settings
    batch = course.processes.part_of(batch_of(settings, course.dimensions))
    steps = agree_on_steps(settings, course.plan, network, compute, scratch / STEPS_NOTE, course.processes)
    kind = QuickTask if settings.reach == "quick" else FinetuneTask
    return kind(settings, lessons, steps, batch, compute)


def _describe(course: _Course, network: Network, state: FitState, compute: Compute) -> ModelDescription:
    """Return the description of the new model: the old one's, with its own classes, card and record, without scores."""
    settings, parent = course.settings, course.parent.description
    return replace(
        parent,
        name=settings.name,
        spec=network.spec,
        classes=course.plan.classes,
        padding=course.material.padding,
        weights_sha256="",
        voxel_size=course.scale.voxel_size,
        unit=course.scale.unit,
        card=_card(course),
        training=TrainingRecord(
            settings=finetune_to_dict(settings),
            curves={name: thin_curve(curve) for name, curve in state.curves.items()},
            versions=versions(),
            device=compute.device.type,
            precision=compute.precision,
            parent=parent.name,
            parent_sha256=parent.weights_sha256,
            learnt_from_sha256=course.sha256,
        ),
    )


def _card(course: _Course) -> Card:
    parent, lesson = course.parent.description, course.lesson
    counts = ", ".join(f"{name} {count:,}" for name, count in lesson.pixels.items())
    images = ", ".join(dict.fromkeys(Path(image).name for image in course.settings.images))
    taught = ", ".join(name for name in lesson.pixels if name != "background")
    learnt_from = f"Corrections of {images}, {lesson.slices} slices: {counts} voxels."
    return Card(
        summary=f"{parent.name}, fine-tuned ({course.settings.reach}) to {taught}.",
        data=" ".join(filter(None, (learnt_from, course.scale.note, f"Before that: {parent.card.data}"))),
        terms=parent.card.terms,
    )
