"""From training settings to a model folder: read, fit, measure the margin, write, and then score what was written."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_skipseg.devices import Device, cpu_title, first_line, versions
from napari_skipseg.durable import write_whole
from napari_skipseg.errors import FileError, ModelError, SpecError
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.margin import iter_measure_margin
from napari_skipseg.locks import FolderLock
from napari_skipseg.models.catalog import check_free, describe_model, locate_model
from napari_skipseg.models.description import (
    Card,
    ClassLabel,
    ModelDescription,
    ModelScores,
    TrainingRecord,
    check_trainable,
)
from napari_skipseg.models.folder import STARTED_FROM_FILE, TRAINING, is_scored, read_description, write_scores
from napari_skipseg.models.model import Model, as_stored, read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.head import grow_classes
from napari_skipseg.networks.network import Network, class_probability
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import ImageFindings, Progress
from napari_skipseg.training.checkpoint import CHECKPOINT, PRECISION, FitState
from napari_skipseg.training.compute import Compute, choose_compute
from napari_skipseg.training.distributed import ONE_PROCESS, Processes, joined
from napari_skipseg.training.evaluate import CELLS_ARE_CUT, WholeImages, cuts_cells, iter_score_held_out
from napari_skipseg.training.finetune.rehearsal import sample_of_training, sample_to_bytes
from napari_skipseg.training.fit import initialise, iter_learn
from napari_skipseg.training.losses import loss, merge_unknown
from napari_skipseg.training.patches import LabelledImage, TrainingData, draw_batch, judged_classes, read_data
from napari_skipseg.training.progress import KeepBest, ValidationPicture
from napari_skipseg.training.seen import with_signature
from napari_skipseg.training.settings import (
    TrainSettings,
    equals_written,
    settings_from_json,
    settings_to_dict,
    slices_to_hold_out,
)
from napari_skipseg.training.task import TrainingPace, Validation

CURVE_POINTS = 100


def iter_train(
    settings: TrainSettings, folder: Path, device_name: str = "auto", processes: Processes = ONE_PROCESS
) -> Generator[Progress, KeepBest | None, Path]:
    """Yield while training runs; return the new model's folder, `folder` / name.

    The progress is a `TrainingProgress` when curves get new points, and a `ValidationPicture` after each validation.
    Send a `KeepBest` back to end the training with the best weights so far. A checkpoint lies in `folder` /
    name.training until the model is scored: the same call resumes from it. The model is written as soon as the training
    ends; if it is not scored then, the same call only scores it. Each of several `processes` calls this; the first one
    writes and scores.

    Raises:
        SkipsegError: bad settings, unreadable or unfit images, a model of that name is already there, a full disk; or a
            `KeepBest` came before the first step.
    """
    target, scratch = folder / settings.name, folder / f"{settings.name}.training"
    has_held_out = bool(slices_to_hold_out(settings.validate))
    is_trained = has_held_out and waits_for_scores(target, lambda record: equals_written(settings, record.settings))
    if not is_trained:
        check_free(settings.name, folder)
    processes.share(settings)  # refused now, not after the images were read
    network = first_weights(settings)
    started_from = None if settings.start_from is None else locate_model(settings.start_from)
    with checkpoint_folder(scratch, processes, started_from):
        compute = choose_compute(network, settings.precision, device_name, scratch / CHECKPOINT, processes)
        command = yield Progress(0, settings.steps, f"reading the images; training on {compute.reason}")
        if isinstance(command, KeepBest):
            raise SpecError(
                "The training has not begun, so there is nothing to keep yet: cancel it, or wait for a step."
            )
        data = read_data(settings)
        if data.findings:
            yield ImageFindings(0, settings.steps, "reading the images", data.findings)
        if not is_trained:
            yield from _iter_fit_and_write(settings, data, network, target, scratch, compute, processes)
        if processes.is_first and data.validation:
            names = tuple(label.name for label in settings.classes)
            scores_on = f"slices {settings.validate}, held out of training but used to choose the weights"
            if cuts_cells(data.validation, names):
                scores_on += f"; {CELLS_ARE_CUT}"
            with keep_model_on_error(target):
                model = WholeImages(read_model(target), compute.device, "f32")
                scores = yield from iter_score_held_out(model, data.validation, names, settings.spec.dimensions)
                write_scores(target, ModelScores(scores, scores_on))
    return target


def _iter_fit_and_write(
    settings: TrainSettings,
    data: TrainingData,
    network: Network,
    target: Path,
    scratch: Path,
    compute: Compute,
    processes: Processes,
) -> Generator[Progress, KeepBest | None, None]:
    """Yield as the network is fitted and its margin measured; the first process writes the model, without scores."""
    with joined(processes, compute.device):
        state = yield from iter_fit(settings, data, network, scratch / CHECKPOINT, compute, processes)
    if not processes.is_first:
        return
    network = as_stored(network.to("cpu"))
    draft = describe_training(settings, data, state, compute)
    first = data.training[0].image
    image = np.ascontiguousarray(first if settings.spec.dimensions == 3 else first[:, 0])
    backend = TorchBackend(Model(draft, network), Device("cpu", cpu_title(), ""), "f32")
    margin = yield from iter_measure_margin(backend, image, network.stride)
    yield Progress(settings.steps, settings.steps, "writing the model")
    parent = None if settings.start_from is None else describe_model(settings.start_from)
    images = [run.image for run in data.training]
    described = with_signature(replace(draft, margin=margin), images, backend, parent, settings.seed)
    sample = sample_of_training(data, len(settings.classes), settings.spec.dimensions, settings.seed)
    started_from = None if settings.start_from is None else locate_model(settings.start_from)
    write_model(target, described, network, sample_to_bytes(sample), started_from)


def waits_for_scores(target: Path, is_same_run: Callable[[TrainingRecord], bool]) -> bool:
    """Return whether `target` is a model of this run that is written and not scored yet."""
    if not target.is_dir() or is_scored(target):
        return False
    try:
        return is_same_run(read_description(target).training)
    except ModelError:
        return False


@contextlib.contextmanager
def keep_model_on_error(target: Path) -> Iterator[None]:
    """Turn an error of the scoring within into one that says that the model is there, and how to score it.

    Raises:
        ModelError: with the reason.
    """
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"The model is written to '{target}', but it could not be scored ({first_line(error)}): the same command "
            "only scores it."
        ) from error


@contextlib.contextmanager
def checkpoint_folder(folder: Path, processes: Processes, started_from: Path | None) -> Iterator[None]:
    """Make the folder of the checkpoint for one training at a time; remove it when the training has ended well.

    started_from: the folder of the model that is trained further; it is noted, so that nobody moves it meanwhile.

    Raises:
        FileError: it cannot be made, or another process trains the same model there.
    """
    if not processes.is_first:
        yield
        return
    name = folder.name.removesuffix(TRAINING)
    lock = FolderLock(
        folder,
        f"The model '{name}' is being trained in '{folder.parent}' already, by process {{holder}}: wait for its end, "
        "or give this one another name.",
    )
    is_parent_new = not folder.parent.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.take()
        if started_from is not None:
            write_whole(folder / STARTED_FROM_FILE, str(started_from.resolve()).encode("utf-8", "surrogateescape"))
    except OSError as error:
        lock.release()
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise FileError(f"The folder '{folder}' cannot be made: {error.strerror}. Choose another one.") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            (folder / STARTED_FROM_FILE).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # a checkpoint stays: the same command resumes from it
            folder.rmdir()
            if is_parent_new:
                folder.parent.rmdir()
        raise
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def first_weights(settings: TrainSettings) -> Network:
    """Return the network of `settings`, newly initialised or with the weights of the model it starts from.

    A model with other classes gives all layers but the last. Of the last layer it gives the first classes of `settings`
    that it has too, up to the first that it has not.

    Raises:
        ModelError: there is no such model.
        SpecError: it has a different network.
    """
    torch.manual_seed(settings.seed)
    if settings.start_from is None:
        network = build(settings.spec)
        initialise(network, settings.training_protocol)
        return network
    parent = read_model(locate_model(settings.start_from))
    check_trainable(parent.description)
    network = parent.network.body if isinstance(parent.network, TaughtNetwork) else parent.network
    if replace(network.spec, out_channels=settings.spec.out_channels) != settings.spec:
        raise SpecError(
            f"Model '{settings.start_from}' has a different network than the settings; start from a model with the "
            "same one, or leave start_from out."
        )
    wanted = [entry.name for entry in settings.classes]
    had = [entry.name for entry in parent.description.classes]
    if wanted == had:
        return network
    kept = [had.index(name) for name in takewhile(had.__contains__, wanted)]
    return grow_classes(network, kept, channels=settings.spec.out_channels)


def describe_training(
    settings: TrainSettings, data: TrainingData, state: FitState, compute: Compute
) -> ModelDescription:
    """Return the description of a fitted network, without its margin and its scores.

    If no slice was held out, it states the scores of its parent, named as the parent's.
    """
    parent = None if settings.start_from is None else describe_model(settings.start_from)
    return ModelDescription(
        settings.name,
        settings.spec,
        settings.classes,
        margin=0,
        weights_sha256="",
        voxel_size=data.stack.space.voxel_size,
        unit=data.stack.space.unit,
        padding=settings.padding,
        card=_card_of(settings.card, settings.classes, parent, bool(data.validation)),
        training=TrainingRecord(
            settings=settings_to_dict(settings),
            curves={name: thin_curve(curve) for name, curve in state.curves.items()},
            versions=versions(),
            device=compute.device.type,
            precision=compute.precision,
            parent=None if parent is None else parent.name,
            parent_sha256=None if parent is None else parent.weights_sha256,
            updates={name: tuple(float(f"{value:.5g}") for value in row) for name, row in state.updates.items()},
            select_start=state.select_start,
        ),
    )


def _card_of(card: Card, classes: tuple[ClassLabel, ...], parent: ModelDescription | None, is_scored: bool) -> Card:
    """Return the card of a model that started from `parent`, with the parent's terms if the card states none.

    is_scored: whether the model gets scores of its own; without them it states its parent's, if the classes are alike.
    """
    if parent is None:
        return card
    if not (card.terms or card.license):
        card = replace(card, terms=parent.card.terms, license=parent.card.license)
    return card if is_scored or parent.classes != classes else inherit_scores(card, parent)


def inherit_scores(card: Card, parent: ModelDescription) -> Card:
    """Return `card` with the scores of the model that the training started from, named as that model's."""
    if card.scores or not parent.card.scores:
        return card
    scores_on = f"{parent.card.scores_on}, by {parent.name}, from which this one went on with all slices"
    return replace(card, scores=parent.card.scores, scores_on=scores_on)


def thin_curve(curve: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return at most `CURVE_POINTS` points of a curve, each the mean of its neighbours in a bin."""
    size = -(-len(curve) // CURVE_POINTS)
    bins = [curve[start : start + size] for start in range(0, len(curve), size)]
    return tuple((points[-1][0], round(float(np.mean([value for _, value in points])), 5)) for points in bins)


VALIDATION_SIDE = 512
VALIDATION_VOXELS = 2**21
"""Most voxels of a block in 3D: a U-Net of 32 channels takes some 0.7 GB for so many in f32."""


class TrainTask:
    """The training of `TrainSettings` on `data`: random patches, the whole network, validation on held-out slices."""

    def __init__(
        self, settings: TrainSettings, data: TrainingData, compute: Compute, processes: Processes = ONE_PROCESS
    ) -> None:
        self.settings, self.data, self.compute = settings, data, compute
        self.share = processes.share(settings)
        self.pace = TrainingPace(
            steps=settings.steps,
            training_protocol=settings.training_protocol,
            validate_every=settings.validate_every,
            accumulate=settings.accumulate,
            patience=settings.patience,
            epoch=settings.epoch,
            seed=settings.seed,
        )

    def record(self) -> dict[str, Any]:
        """Return the settings for checkpoints, with the precision that the fit computes in."""
        return settings_to_dict(self.settings) | {PRECISION: self.compute.precision}

    def is_same_run(self, written: dict[str, Any]) -> bool:
        """Return whether the `written` settings train the same as these; missing ones have their defaults."""
        known = {name: value for name, value in written.items() if name != PRECISION}
        try:
            found = settings_from_json(TrainSettings, json.dumps(known))
        except SpecError:
            return False
        return _as_trained(found) == _as_trained(self.settings)

    def parameters(self, network: Network) -> Sequence[nn.Parameter]:
        """Return all parameters."""
        return tuple(network.parameters())

    def set_modes(self, network: Network) -> None:
        """Put the whole network into training mode."""
        network.train()

    def loss(self, network: Network, number: int) -> Tensor:
        """Return the loss of part `number` of all batches."""
        images, targets, judged = draw_batch(self.data.training, self.share, number)
        logits = self.compute.logits(network, images)
        return self._loss(logits, targets, judged)

    def _loss(self, logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
        merged = merge_unknown(logits, judged.to(logits.device))
        return loss(self.settings.loss, merged, targets.to(logits.device), self.settings.class_weight)

    def iter_validate(self, network: Network) -> Generator[tuple[int, int], None, Validation | None]:
        """Yield after each held-out patch; return their mean loss, Dice of all classes together, and a picture.

        Of a class that a patch does not show, nothing counts.
        The picture shows the patch with the most voxels of a class.
        """
        patches = _validation_patches(self.data.validation, self.settings.spec.dimensions)
        if not patches:
            return None
        losses, overlap, sizes, most = [], 0.0, 0.0, -1
        picture: ValidationPicture | None = None
        for number, patch in enumerate(patches):
            with torch.inference_mode():  # not around the yield: the caller would be in this mode too
                image, target = (torch.from_numpy(np.ascontiguousarray(each)) for each in (patch.image, patch.target))
                logits = self.compute.logits(network, image[None])
                truth = target[None].to(logits.device)
                judged = judged_classes(patch, len(self.settings.classes))
                losses.append(float(self._loss(logits, truth, judged[None])))
                probability = class_probability(logits)
                predicted = (probability[:, judged] > 0.5).any(dim=1) & (truth >= 0)
                overlap += float((predicted & (truth > 0)).sum())
                sizes += float(predicted.sum() + (truth > 0).sum())
                found = int((target > 0).sum())
                if found > most:
                    most, picture = found, picture_of(image, probability[0], target, target > 0)
            if number + 1 < len(patches):
                yield number + 1, len(patches)
        dice = 2 * overlap / max(1.0, sizes)
        return Validation(sum(losses) / len(losses), {"held-out Dice": dice}, picture)


def picture_of(image: Tensor, probability: Tensor, target: Tensor, shown: Tensor) -> ValidationPicture:
    """Return the picture of one sample; of a volume, the slice with most of `shown`, or else the middle one.

    image: (C, *space), of which the first channel is shown. probability: (classes, *space), of which the sum is shown:
    that of any class. target: (*space). shown: (*space) bool.
    """
    section: tuple[int, ...] = ()
    if target.ndim == 3:
        counts = shown.sum(dim=(1, 2))
        section = (int(counts.argmax()) if bool(counts.any()) else len(counts) // 2,)
    return ValidationPicture(
        0,
        0,
        image=image[(0, *section)].float().cpu().numpy().copy(),
        probability=probability.sum(dim=0)[section].float().cpu().numpy().copy(),
        target=target[section].to(torch.int16).cpu().numpy().copy(),
    )


def _as_trained(settings: TrainSettings) -> TrainSettings:
    used = settings.training_protocol
    return replace(settings, learning_rate=used.learning_rate, weight_decay=used.weight_decay, warm_up=used.warm_up)


def _validation_patches(runs: tuple[LabelledImage, ...], dimensions: int) -> list[LabelledImage]:
    """Return the middle (at most 512 a side) of each slice held out; in 3D of each run of slices, in blocks.

    A patch is (C, *space) and (*space). Blocks have no margin, as training patches have none, and at most
    `VALIDATION_VOXELS`, so that a run of any number of slices takes the memory of a block.
    """
    patches = []
    for run in runs:
        middle = tuple(
            slice(start := max(0, (length - VALIDATION_SIDE) // 2), start + min(length, VALIDATION_SIDE))
            for length in run.target.shape[1:]
        )
        image, target = run.image[(slice(None), slice(None), *middle)], run.target[(slice(None), *middle)]
        if dimensions == 2:
            patches += [replace(run, image=image[:, z], target=target[z]) for z in range(len(target))]
        else:
            patches += [
                replace(run, image=image[(slice(None), *block)], target=target[block])
                for block in _blocks(target.shape)
            ]
    return patches


def _blocks(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return blocks of nearly equal sides, each of at most `VALIDATION_VOXELS`, that cover `shape`."""
    counts = [1] * len(shape)
    sides = list(shape)
    while math.prod(sides) > VALIDATION_VOXELS:
        longest = sides.index(max(sides))
        counts[longest] += 1
        sides[longest] = -(-shape[longest] // counts[longest])
    edges = [[length * part // count for part in range(count + 1)] for length, count in zip(shape, counts, strict=True)]
    return list(product(*([slice(*pair) for pair in pairwise(edge)] for edge in edges)))


def iter_fit(
    settings: TrainSettings,
    data: TrainingData,
    network: Network,
    checkpoint: Path,
    compute: Compute,
    processes: Processes = ONE_PROCESS,
) -> Generator[Progress, KeepBest | None, FitState]:
    """Fit the whole network to `data` with `settings`: run `iter_learn` with that task."""
    task = TrainTask(settings, data, compute, processes)
    return (yield from iter_learn(task, network, checkpoint, compute, processes))
