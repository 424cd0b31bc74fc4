"""From training settings to a model folder: read, fit, score, measure the margin, write."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from napari_skipseg.devices import choose_device, versions
from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.inference.backends import TorchBackend
from napari_skipseg.inference.margin import measure_margin
from napari_skipseg.models.catalog import check_free, describe_model, locate_model
from napari_skipseg.models.description import Card, ModelDescription, TrainingRecord
from napari_skipseg.models.model import Model, as_stored, read_model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.network import Network
from napari_skipseg.progress import Found, Progress
from napari_skipseg.training.checkpoint import CHECKPOINT, FitState
from napari_skipseg.training.compute import Compute, choose_compute
from napari_skipseg.training.distributed import ALONE, Processes, joined
from napari_skipseg.training.evaluate import score_held_out
from napari_skipseg.training.fit import iter_fit
from napari_skipseg.training.learning import Keep
from napari_skipseg.training.optimizers import initialise
from napari_skipseg.training.remembered import sample_of_training, sample_to_bytes
from napari_skipseg.training.samples import TrainingData, read_data
from napari_skipseg.training.settings import TrainSettings, settings_to_dict

CURVE_POINTS = 100


def iter_train(
    settings: TrainSettings, folder: Path, device_name: str = "auto", processes: Processes = ALONE
) -> Generator[Progress, Keep | None, Path]:
    """Yield as training goes on; return the new model's folder, `folder` / name.

    Where curves go on the progress is a `Learned`; after each validation a `Pictured` follows. A `Keep` sent back ends
    the training there, and the best weights become the model. A checkpoint lies in `folder` / name.training until the
    model is written: the same call resumes from it. Of several `processes` each calls this; the first one writes the
    model.

    Raises:
        SkipsegError: bad settings, unreadable or unfit images, a model of that name is already there, a full disk; or a
            `Keep` came before the first step.
    """
    target, scratch = folder / settings.name, folder / f"{settings.name}.training"
    check_free(settings.name, folder)
    processes.share(settings)  # refused now, not after the images were read
    network = start(settings)
    checkpoint = scratch / CHECKPOINT
    compute = choose_compute(network, settings.precision, device_name, checkpoint, processes)
    command = yield Progress(0, settings.steps, f"reading the images; training on {compute.reason}")
    if isinstance(command, Keep):
        raise SpecError("The training has not begun, so there is nothing to keep yet: cancel it, or wait for a step.")
    data = read_data(settings)
    if data.findings:
        yield Found(0, settings.steps, "reading the images", data.findings)
    parent = None if settings.start_from is None else describe_model(settings.start_from)
    make_scratch(scratch)
    with joined(processes, compute.device):
        state = yield from iter_fit(settings, data, network, checkpoint, compute, processes)
    if not processes.is_first:
        return target
    yield Progress(settings.steps, settings.steps, "scoring and measuring the margin")
    network = as_stored(network.to("cpu"))
    sample = sample_of_training(data, len(settings.classes), settings.spec.dimensions, settings.seed)
    write_model(target, describe(settings, data, network, state, parent, compute), network, sample_to_bytes(sample))
    shutil.rmtree(scratch, ignore_errors=True)
    return target


def make_scratch(scratch: Path) -> None:
    """Make the folder of the checkpoint.

    Raises:
        FileError: it cannot be made.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"The folder '{scratch}' cannot be made: {error.strerror}. Choose another one.") from error


def start(settings: TrainSettings) -> Network:
    """Return the network of `settings`, seeded afresh or with the weights of the model it starts from.

    Raises:
        ModelError: there is no such model.
        SpecError: it has another network.
    """
    torch.manual_seed(settings.seed)
    if settings.start_from is None:
        network = build(settings.spec)
        initialise(network, settings.training_protocol)
        return network
    parent = read_model(locate_model(settings.start_from))
    if parent.description.spec != settings.spec:
        raise SpecError(
            f"Model '{settings.start_from}' has another network than the settings name; start from a model with the "
            "same one, or leave start_from out."
        )
    return parent.network


def describe(
    settings: TrainSettings,
    data: TrainingData,
    network: Network,
    state: FitState,
    parent: ModelDescription | None,
    compute: Compute,
) -> ModelDescription:
    """Return the description of a fitted network: its margin, its curves, its scores on held-out slices.

    Where no slice was held out, it names the scores of its parent, the model it started from, as such.
    """
    draft = ModelDescription(
        settings.name,
        settings.spec,
        settings.classes,
        margin=0,
        weights_sha256="",
        voxel_size=data.stack.voxel_size,
        unit=data.stack.unit,
        card=settings.card,
        training=TrainingRecord(
            settings=settings_to_dict(settings),
            curves={name: thin_curve(curve) for name, curve in state.curves.items()},
            versions=versions(),
            device=compute.device.type,
            precision=compute.precision,
            parent=None if parent is None else parent.name,
            updates={name: tuple(float(f"{value:.5g}") for value in row) for name, row in state.updates.items()},
            select_start=state.select_start,
        ),
    )
    backend = TorchBackend(Model(draft, network), choose_device("cpu"), "f32")
    dimensions = settings.spec.dimensions
    first = data.training[0].image
    image = first if dimensions == 3 else first[:, 0]
    margin = measure_margin(backend, np.ascontiguousarray(image), network.stride)
    return replace(draft, margin=margin, card=_with_scores(settings, data, backend, parent))


def _with_scores(
    settings: TrainSettings, data: TrainingData, backend: TorchBackend, parent: ModelDescription | None
) -> Card:
    if not data.validation and parent is not None:
        return inherit_scores(settings.card, parent)
    if not data.validation:
        return settings.card
    names = tuple(label.name for label in settings.classes)
    scores = score_held_out(backend, data.validation, names, settings.spec.dimensions)
    scores_on = f"slices {settings.validate}, held out of training but used to choose the weights"
    return replace(settings.card, scores=scores, scores_on=scores_on)


def inherit_scores(card: Card, parent: ModelDescription) -> Card:
    """Return `card` with the scores of the model that the training started from, named as its."""
    if card.scores or not parent.card.scores:
        return card
    scores_on = f"{parent.card.scores_on}, by {parent.name}, from which this one went on with all slices"
    return replace(card, scores=parent.card.scores, scores_on=scores_on)


def thin_curve(curve: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return at most `CURVE_POINTS` points of a curve, each the mean of its neighbours in a bin."""
    size = -(-len(curve) // CURVE_POINTS)
    bins = [curve[start : start + size] for start in range(0, len(curve), size)]
    return tuple((points[-1][0], round(float(np.mean([value for _, value in points])), 5)) for points in bins)
