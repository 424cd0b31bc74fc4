"""The preparation of requests before they are sent: write voxels, corrections and layers to files, measure grey values.

This runs in the viewer's process, in a thread beside the window. Loads without torch.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.intensity.normalize import GreyStatistics, iter_measure_greys
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.views import NarrowedArray
from napari_skipseg.inference.guards import iter_measure_for, probe_grid, read_probes
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import QuantizedArray
from napari_skipseg.inference.scale import network_lengths_of
from napari_skipseg.jobs import messages
from napari_skipseg.jobs.encoding import find_npy_file, iter_write_npy
from napari_skipseg.jobs.messages import ArrayReference, CorrectedStack
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress
from napari_skipseg.studies.inspection import cut_part

Preparing = Generator[Progress, None, Any]


@singledispatch
def iter_prepare_request(request: Any, folder: Path) -> Preparing:
    """Write files into `folder`, yield the progress, and return the request to send, of the same class.

    Raises:
        SkipsegError: there is no such model, an image cannot be read, the disk is full.
    """
    yield from ()
    return request


@iter_prepare_request.register
def _(request: messages.Segment, folder: Path) -> Preparing:
    model, description = locate_model_of_request(request.model)
    stack, whole, greys = request.stack, request.whole, request.greys
    if request.options.channel is not None and description.spec.in_channels == 1 and not stack.file:
        stack = stack.channel(request.options.channel)
        whole = None if whole is None else whole.channel(request.options.channel)
    if whole is not None and greys is None:
        greys = yield from iter_measure_for(whole, description, request.options)
    placed = yield from iter_place(stack, folder / "stack.npy")
    mask = None if request.mask is None else (yield from iter_place(request.mask, folder / "mask.npy"))
    settled = replace(request, stack=placed, model=model, model_sha256=description.weights_sha256, whole=None)
    return replace(settled, greys=greys, mask=mask)


@iter_prepare_request.register
def _(request: messages.EstimateRun, folder: Path) -> Preparing:
    model, description = locate_model_of_request(request.model)
    measured, options = request.whole or request.stack, request.options
    if options.channel is not None and description.spec.in_channels == 1:
        measured = measured.channel(options.channel)
    greys = yield from iter_measure_for(measured, description, options)
    mask = None if request.mask is None else (yield from iter_place(request.mask, folder / "mask.npy"))
    yield Progress(0, 1, "looking at some patches")
    return replace(
        request,
        mask=mask,
        stack=without_voxels(request.stack),
        model=model,
        model_sha256=description.weights_sha256,
        whole=None,
        greys=greys,
        probes=find_probes(measured, description, options, greys),
    )


@iter_prepare_request.register
def _(request: messages.Inspect, folder: Path) -> Preparing:
    model, description = locate_model_of_request(request.model)
    stack = request.stack
    if request.channel is not None and description.spec.in_channels == 1:
        stack = stack.channel(request.channel)
    greys = yield from iter_measure_greys(stack, padding=description.padding)
    yield Progress(0, 1, "reading the image")
    cut = replace(cut_part(stack, request.part, "ZYX"[-description.spec.dimensions :]), file="")
    placed = yield from iter_place(cut, folder / "part.npy")
    return replace(
        request,
        stack=placed,
        model=model,
        model_sha256=description.weights_sha256,
        normalization=greys.normalization,
    )


@iter_prepare_request.register
def _(request: messages.PlanFinetuning, folder: Path) -> Preparing:
    images = []
    for number, image in enumerate(request.images):
        yield Progress(0, 1, "reading the corrections")
        chosen, labels = choose_channel(image), write_layer_labels(image, folder / f"labels_{number}")
        images.append(replace(chosen, stack=without_voxels(chosen.stack), labels=labels))
    return replace(request, images=tuple(images))


@iter_prepare_request.register
def _(request: messages.Finetune, folder: Path) -> Preparing:
    model, description = locate_model_of_request(request.settings.model)
    images = []
    for number, image in enumerate(request.images):
        yield Progress(0, 1, "saving the corrections")
        chosen, labels = choose_channel(image), write_layer_labels(image, folder / f"labels_{number}")
        placed = yield from iter_place(chosen.stack, folder / f"image_{number}.npy")
        images.append(replace(chosen, stack=placed, labels=labels))
    return replace(request, images=tuple(images), model=model, model_sha256=description.weights_sha256)


@iter_prepare_request.register
def _(request: messages.LiveView, folder: Path) -> Preparing:
    yield from ()
    if not request.parts:
        return request
    model, description = locate_model_of_request(request.model)
    return replace(request, model=model, model_sha256=description.weights_sha256)


@iter_prepare_request.register
def _(request: messages.Train, folder: Path) -> Preparing:
    files = {}
    for number, (name, stack) in enumerate(request.layers.items()):
        yield Progress(0, 1, f"writing {stack.name}")
        files[name] = write_layer(stack, folder / f"{number}.ome.tif")
    settings = replace(
        request.settings,
        images=tuple(files.get(name, name) for name in request.settings.images),
        labels=tuple(files.get(name, name) for name in request.settings.labels),
    )
    return replace(request, settings=settings, layers={})


@iter_prepare_request.register
def _(request: messages.FindObjects, folder: Path) -> Preparing:
    probability = yield from iter_place(request.probability, folder / "probability.npy")
    image = None if request.image is None else (yield from iter_place(request.image, folder / "image.npy"))
    return replace(request, probability=probability, image=image)


@iter_prepare_request.register
def _(request: messages.ExportObjects, folder: Path) -> Preparing:
    labels = yield from iter_place(request.labels, folder / "labels.npy")
    return replace(request, labels=labels)


def locate_model_of_request(name: str) -> tuple[str, ModelDescription]:
    """Return the folder of a model and its description.

    Raises:
        ModelError: there is no such model.
    """
    folder = locate_model(name).resolve()
    return str(folder), read_description(folder)


def iter_place(stack: Stack, copy: Path) -> Generator[Progress, None, Stack]:
    """Return the stack with a reference to its voxels, which are copied to the file `copy` if they are in no file.

    Raises:
        SkipsegError: as for `iter_write_npy`.
    """
    values, depth = (
        (stack.data.values, stack.data.depth) if isinstance(stack.data, QuantizedArray) else (stack.data, None)
    )
    dtype = np.dtype(stack.data.dtype)
    if stack.file:
        return replace(stack, data=ArrayReference(stack.file, stack.shape, dtype, axes=stack.space.axes, depth=depth))
    file, part = find_npy_file(values)
    if file:
        return replace(stack, data=ArrayReference(file, stack.shape, dtype, part=part, depth=depth))
    yield from iter_write_npy(stack, copy)
    return replace(stack, data=ArrayReference(str(copy), stack.shape, dtype))


def without_voxels(stack: Stack) -> Stack:
    """Return the stack with a reference to its file; a stack in memory keeps only its shape and type."""
    dtype = np.dtype(stack.data.dtype)
    return replace(
        stack, data=ArrayReference(stack.file, stack.shape, dtype, axes=stack.space.axes if stack.file else "")
    )


def choose_channel(image: CorrectedStack) -> CorrectedStack:
    """Return an image in memory with only the channel to learn from; for an image in a file, the engine chooses it."""
    if image.stack.file or image.channel is None:
        return image
    return replace(image, stack=image.stack.channel(image.channel), channel=None)


def write_layer_labels(image: CorrectedStack, folder: Path) -> Snapshot:
    """Return the files of the corrections of an image; write them into `folder` if they are in no files yet."""
    return image.labels if isinstance(image.labels, Snapshot) else image.labels(folder)


def find_probes(
    stack: Stack, description: ModelDescription, options: SegmentOptions, greys: GreyStatistics
) -> NDArray[Any] | None:
    """Return patches of an image on which the network is tested, None if no test is needed."""
    grid = (
        probe_grid(stack, description, network_lengths_of(stack, description, options)) if greys.asks_network else None
    )
    return None if grid is None else read_probes(stack, grid, greys.normalization)


def write_layer(stack: Stack, file: Path) -> str:
    """Write the stack to `file` as OME-TIFF, and return the path.

    Raises:
        FileError: it cannot be written.
        InputError: OME-TIFF does not support such values.
    """
    wide = np.dtype(stack.data.dtype).name in ("int64", "uint64")
    data = NarrowedArray(stack) if wide else stack.data
    write_ome_tiff(file, data, stack.space)
    return str(file)
