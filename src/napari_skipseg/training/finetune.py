"""From a model and corrected images to a new model, beside the old one: read, score, fit, score again, write."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter

from napari_skipseg.devices import choose_device, versions
from napari_skipseg.errors import SpecError
from napari_skipseg.inference.backends import TorchBackend
from napari_skipseg.inference.margin import measure_margin
from napari_skipseg.models.catalog import check_free, locate_model
from napari_skipseg.models.description import Card, ModelDescription, TrainingRecord
from napari_skipseg.models.model import Model, as_stored, read_model, write_model
from napari_skipseg.networks.head import grow_classes
from napari_skipseg.networks.network import Network
from napari_skipseg.progress import Progress, Result
from napari_skipseg.training.checkpoint import CHECKPOINT, FitState, belongs_to
from napari_skipseg.training.class_plan import ClassPlan, plan_classes
from napari_skipseg.training.compute import Compute, choose_compute
from napari_skipseg.training.corrected import Corrected, check_images, describe_lesson, iter_find_places
from napari_skipseg.training.distributed import ALONE, Processes, joined
from napari_skipseg.training.finetune_settings import FinetuneSettings, finetune_to_dict
from napari_skipseg.training.finetune_task import (
    FinetuneTask,
    Lessons,
    QuickTask,
    batch_of,
    is_record_of,
    patch_of,
)
from napari_skipseg.training.fit import iter_learn
from napari_skipseg.training.learning import Finetuned, Keep, Lesson, Report
from napari_skipseg.training.lesson_patches import LessonPatches
from napari_skipseg.training.material import Material, iter_read_material
from napari_skipseg.training.places import thinned
from napari_skipseg.training.priming import iter_prime
from napari_skipseg.training.remembered import (
    Remembered,
    join_samples,
    remembered_of,
    sample_of_corrections,
    sample_to_bytes,
)
from napari_skipseg.training.report import CORRECTIONS, Examination, Scores, compare, examine, predictor
from napari_skipseg.training.shares import match_shares
from napari_skipseg.training.stopwatch import agree_on_steps
from napari_skipseg.training.train import make_scratch, thin_curve
from napari_skipseg.training.windows import as_batches, recalled_batches, windows_of

STEPS_NOTE = "steps.txt"
VALIDATED = {"quick": 8, "normal": 48, "full": 48}
"""Held-out places that are looked at while training goes on, by reach; the scores at the end take all."""
RECALLED = 4
"""Held-out patches of the old model's own sample that are."""


@dataclass(frozen=True)
class _Course:
    """All that is settled before the first step."""

    settings: FinetuneSettings
    parent: Model
    plan: ClassPlan
    lesson: Lesson
    material: Material
    remembered: Remembered | None
    compute: Compute
    processes: Processes

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.parent.description.spec.dimensions


class _Start(NamedTuple):
    """What the fit begins with, and the old model's scores."""

    examination: Examination
    before: Scores
    network: Network
    task: FinetuneTask


def iter_finetune(
    settings: FinetuneSettings,
    corrected: Sequence[Corrected],
    folder: Path,
    device_name: str = "auto",
    processes: Processes = ALONE,
    parent: Model | None = None,
    afresh: bool = False,
) -> Generator[Progress, Keep | None, Finetuned]:
    """Yield as fine-tuning goes on; return the new model's folder, `folder` / name, and how it compares with the old.

    The progress is a `Learned` where curves go on, a `Pictured` after each look at what is held out; a `Keep` sent back
    ends the training with the best weights so far. A checkpoint lies in `folder` / name.training until the model is
    written: the same call resumes from it. Of several `processes` each calls this; the first one writes the model.

    parent: the model that `settings.model` names, where it was read before; it stays as it is. afresh: a checkpoint of
    other settings or other corrections is thrown away, not refused.

    Raises:
        SkipsegError: labels that do not fit or do not teach anything, a model of that name is already there, no such
            device, a full disk.
    """
    target, scratch = folder / settings.name, folder / f"{settings.name}.training"
    check_free(settings.name, folder)
    model = parent or read_model(locate_model(settings.model))
    compute = choose_compute(model.network, settings.precision, device_name, scratch / CHECKPOINT, processes)
    course = yield from _refusing_keep(_iter_prepare(settings, corrected, model, compute, processes))
    make_scratch(scratch)
    with joined(processes, compute.device):
        report, network, state = yield from _iter_train(course, scratch, afresh)
    if report is None:
        return Finetuned(target, Report((), False, "Another process writes the model."))
    yield Progress(1, 1, "writing the model")
    sample = sample_of_corrections(course.material, course.plan, course.dimensions, settings.seed)
    joint = join_samples(course.remembered if settings.remember else None, sample, settings.seed)
    write_model(target, _describe(course, network, state, report), network, sample_to_bytes(joint))
    shutil.rmtree(scratch, ignore_errors=True)
    return Finetuned(target, report)


def _refusing_keep(work: Generator[Progress, None, Result]) -> Generator[Progress, Keep | None, Result]:
    """Yield and return what `work` does, which comes before the first step.

    Raises:
        SpecError: a `Keep` was sent back.
    """
    while True:
        try:
            progress = next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if isinstance((yield progress), Keep):
            raise SpecError("The training has not begun, so there is nothing to keep yet: cancel it, or wait a step.")


def _iter_prepare(
    settings: FinetuneSettings,
    corrected: Sequence[Corrected],
    parent: Model,
    compute: Compute,
    processes: Processes,
) -> Generator[Progress, None, _Course]:
    """Yield while model, labels, images and the old model's sample are read; return all that is settled."""
    yield Progress(0, 1, f"reading the labels; training on {compute.reason}")
    place = locate_model(settings.model)
    description = parent.description
    processes.part_of(batch_of(settings, description.spec.dimensions))  # refused now, not after the images were read
    check_images(corrected, description)
    plan = plan_classes(settings, description)
    split = yield from iter_find_places(settings, corrected, plan, description.spec.dimensions)
    lesson = describe_lesson(split, plan)
    patch = patch_of(settings, parent.network)
    material = yield from iter_read_material(corrected, split, plan, patch, settings.seed)
    yield Progress(1, 1, "reading what the model knew")
    remembered = remembered_of(place, description)
    return _Course(settings, parent, plan, lesson, material, remembered, compute, processes)


def _iter_train(
    course: _Course, scratch: Path, afresh: bool
) -> Generator[Progress, Keep | None, tuple[Report | None, Network, FitState]]:
    """Yield while the old model is scored and the new one fitted; return their report, the network and its curves.

    No report in other processes than the first.
    """
    plan = course.plan
    start = yield from _refusing_keep(_iter_begin(course, scratch, afresh))
    network = start.network
    state = yield from iter_learn(start.task, network, scratch / CHECKPOINT, course.compute, course.processes)
    if not course.processes.is_first:
        return None, network, state
    yield Progress(1, 1, "scoring the new model")
    match_shares(network, start.task.lessons, course.material, course.settings, course.compute)
    network = as_stored(network)
    after = _score(course, start.examination, network, {name: number for number, name in enumerate(plan.names)})
    return compare(start.before, after, plan), network.to("cpu"), state


def _iter_begin(course: _Course, scratch: Path, afresh: bool) -> Generator[Progress, None, _Start]:
    """Yield while the old model is scored and the first patches are drawn; return what the fit begins with."""
    plan, model = course.plan, course.parent
    old = copy.deepcopy(model.network).eval()
    examination = examine(course.material, plan, course.remembered, model.description.margin, model.network.stride)
    before: Scores = {}
    if course.processes.is_first:
        yield Progress(0, 1, "scoring the model as it is")
        before = _score(course, examination, old, {plan.names[new]: number for new, number in enumerate(plan.kept)})
    torch.manual_seed(course.settings.seed)
    network = grow_classes(model.network, plan.kept, channels=plan.channels)
    yield Progress(0, 1, "reading what is held out")
    lessons = _lessons(course, old)
    if afresh and not belongs_to(scratch / CHECKPOINT, lambda written: is_record_of(written, course.settings, lessons)):
        shutil.rmtree(scratch)
        make_scratch(scratch)
    resumed = course.processes.highest(float((scratch / CHECKPOINT).exists())) > 0
    is_new = len(plan.classes) > len(plan.kept)
    if is_new and course.settings.reach != "quick" and not resumed:
        yield from iter_prime(course.settings, lessons, network, course.compute, course.processes)
    task = _task(course, lessons, network, scratch)
    if isinstance(task, QuickTask):
        yield from task.iter_prepare(network)
    return _Start(examination, before, network, task)


def _score(course: _Course, examination: Examination, network: Network, columns: dict[str, int]) -> Scores:
    network.to(course.compute.device)
    return examination.score(predictor(network, course.compute), columns)


def _lessons(course: _Course, old: Network) -> Lessons:
    """Return what patches are drawn from and what is held out while the fit goes on."""
    settings, plan, material = course.settings, course.plan, course.material
    patch = patch_of(settings, course.parent.network)
    recalled = course.remembered if settings.remember else None
    patches = LessonPatches(material, plan, recalled, patch, settings.augmentation, settings.seed, settings.remember)
    spots = thinned(material.held_out, VALIDATED[settings.reach], settings.seed)
    around = (course.parent.description.margin, course.parent.network.stride)
    windows = list(windows_of(material, spots, *around))
    windows += windows_of(material, material.painted(spots), *around, only_painted=True)
    held_out = list(as_batches(windows, plan, settings.remember))
    if recalled is not None:
        held_out += recalled_batches(recalled, plan, RECALLED)
    return Lessons(patches, tuple(held_out), old if settings.remember and plan.kept else None, material.sha256())


def _task(course: _Course, lessons: Lessons, network: Network, scratch: Path) -> FinetuneTask:
    """Return what the fit learns."""
    settings = course.settings
    batch = course.processes.part_of(batch_of(settings, course.dimensions))
    steps = agree_on_steps(settings, course.plan, network, course.compute, scratch / STEPS_NOTE, course.processes)
    if settings.reach == "quick":
        return QuickTask(settings, lessons, steps, batch, course.compute)
    return FinetuneTask(settings, lessons, steps, batch, course.compute)


def _describe(course: _Course, network: Network, state: FitState, report: Report) -> ModelDescription:
    """Return the description of the new model: the old one's, with its own classes, margin, card and record."""
    settings, parent = course.settings, course.parent.description
    draft = replace(
        parent,
        name=settings.name,
        spec=network.spec,
        classes=course.plan.classes,
        weights_sha256="",
        card=_card(course, report),
        training=TrainingRecord(
            settings=finetune_to_dict(settings),
            curves={name: thin_curve(curve) for name, curve in state.curves.items()},
            versions=versions(),
            device=course.compute.device.type,
            precision=course.compute.precision,
            parent=parent.name,
            parent_sha256=parent.weights_sha256,
            report=TypeAdapter(Report).dump_python(report, mode="json"),
        ),
    )
    if settings.reach == "quick":  # what lies below the last level, and so nearly all of the margin, is the parent's
        return draft
    image = max((region.image for region in course.material.regions), key=lambda image: image.size)
    backend = TorchBackend(Model(draft, copy.deepcopy(network)), choose_device("cpu"), "f32")
    return replace(draft, margin=measure_margin(backend, image.astype(np.float32), network.stride))


def _card(course: _Course, report: Report) -> Card:
    parent, lesson = course.parent.description, course.lesson
    counts = ", ".join(f"{name} {count:,}" for name, count in lesson.pixels.items())
    images = ", ".join(dict.fromkeys(Path(image).name for image in course.settings.images))
    scores = {
        f"{row.score} {row.class_name}": row.new
        for row in report.rows
        if row.on == CORRECTIONS and row.score in ("Dice", "V_rand")
    }
    return Card(
        summary=f"{parent.name}, fine-tuned ({course.settings.reach}) to {', '.join(lesson.pixels)}.".replace(
            "background, ", ""
        ),
        data=f"Corrections of {images}, {lesson.slices} slices: {counts} voxels. Before that: {parent.card.data}",
        terms=parent.card.terms,
        scores=scores,
        scores_on="corrections held out of training but used to choose the weights",
    )
