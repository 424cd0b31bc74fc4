"""The work of the engine process for each request: it opens the files, and runs the generator that does the work.

Each is a generator that yields `Progress` and returns the result. The module loads without torch; most requests need
it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import shutil
from collections.abc import Generator
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.batch.run import iter_batch
from napari_skipseg.devices import SystemReport
from napari_skipseg.errors import InputError
from napari_skipseg.images.faults import make_folder
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.images.views import RecodedArray
from napari_skipseg.images.zarr.array import ZarrArray
from napari_skipseg.inference.backends.warm import WarmModels
from napari_skipseg.inference.prediction import QuantizedArray
from napari_skipseg.jobs import messages
from napari_skipseg.jobs.messages import ArrayReference, CorrectedStack
from napari_skipseg.models.folder import read_description
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.files import FoundObjects
from napari_skipseg.progress import Progress
from napari_skipseg.studies.inspection import iter_inspect
from napari_skipseg.training.progress import LiveResult, Trained

if TYPE_CHECKING:
    from napari_skipseg.corrections.saved import Snapshot
    from napari_skipseg.training.finetune.labels import Corrected

Operation = Generator[Progress, Any, Any]

OBJECTS_NAME = "found"
"""Name of the labels in the folder of a `FindObjects` request."""


@singledispatch
def iter_perform(request: Any, folder: Path, models: WarmModels) -> Operation:
    """Perform a request; yield the progress, and return the result, with its files in `folder`.

    Raises:
        SkipsegError: the work failed.
    """
    raise TypeError(f"{type(request).__name__} is no request")


@iter_perform.register
def _(request: messages.Segment, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.inference.predict import iter_predict
    from napari_skipseg.inference.run_spec import RunSpec

    warm = yield from models.iter_find(request.model, request.model_sha256)
    stack = replace(request.stack, data=open_voxels(request.stack.data))
    spec = RunSpec(
        stack,
        warm.model,
        request.options,
        backend_maker=warm.backend,
        pinned=request.pinned,
        mask=_opened(request.mask),
        greys=request.greys,
        is_preview=request.preview,
    )
    return (yield from iter_predict(spec, folder))


def _opened(stack: Stack | None) -> Stack | None:
    return None if stack is None else replace(stack, data=open_voxels(stack.data))


@iter_perform.register
def _(request: messages.EstimateRun, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.inference.run_spec import RunSpec
    from napari_skipseg.inference.trial import iter_plan

    warm = yield from models.iter_find(request.model, request.model_sha256)
    voxels = open_voxels(request.stack.data)
    if isinstance(voxels, ArrayReference):  # zeros are as fast to read as a layer in memory
        voxels = np.broadcast_to(np.zeros((), voxels.dtype), voxels.shape)
    spec = RunSpec(
        replace(request.stack, data=voxels),
        warm.model,
        request.options,
        backend_maker=warm.backend,
        mask=_opened(request.mask),
        greys=request.greys,
        probes=request.probes,
    )
    return (yield from iter_plan(spec, folder, depth=None))


@iter_perform.register
def _(request: messages.Inspect, folder: Path, models: WarmModels) -> Operation:
    if request.normalization is None:
        raise ValueError("the grey values were not measured")
    warm = yield from models.iter_find(request.model, request.model_sha256)
    return (
        yield from iter_inspect(
            replace(request.stack, data=open_voxels(request.stack.data)),
            warm.model,
            gate=request.gate,
            normalization=request.normalization,
            start={axis: span.start for axis, span in request.part.items()},
            folder=folder,
        )
    )


@iter_perform.register
def _(request: messages.PlanFinetuning, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.training.finetune.estimate import iter_plan_finetuning

    return (yield from iter_plan_finetuning(request.settings, open_corrected(request.images), request.device))


@iter_perform.register
def _(request: messages.Finetune, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.training.finetune.run import iter_finetune

    warm = yield from models.iter_find(request.model, request.model_sha256)
    make_folder(request.target)
    images = open_corrected(request.images)
    done = yield from iter_finetune(
        request.settings, images, request.target, request.device, parent=warm.model, afresh=True
    )
    yield from models.iter_find(str(done.folder), read_description(done.folder).weights_sha256)
    return done


@iter_perform.register
def _(request: messages.LiveView, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.training.finetune.live import LiveFeatures

    if not request.parts:
        models.live = None
        return LiveResult()
    if request.normalization is None:
        raise ValueError("the grey values were not measured")
    warm = yield from models.iter_find(request.model, request.model_sha256)
    key = (warm.key, request.image, request.normalization, request.device)
    if models.live is None or models.live.key != key:
        yield Progress(0, 1, "preparing the live view")
        models.live = None
        models.live = LiveFeatures(warm.model, key, request.normalization, request.device)
    return (yield from models.live.iter_update(request.names, request.parts))


@iter_perform.register
def _(request: messages.Suggest, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.inference.suggest import iter_suggest

    return (yield from iter_suggest(request.view, request.device))


@iter_perform.register
def _(request: messages.Train, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.training.train import iter_train

    make_folder(request.target)
    if request.restart:
        shutil.rmtree(request.target / f"{request.settings.name}.training", ignore_errors=True)
    return Trained((yield from iter_train(request.settings, request.target, request.device)))


@iter_perform.register
def _(request: messages.FindObjects, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.inference.objects_to_folder import ObjectsRequest, describe_found_objects
    from napari_skipseg.objects.classes import probability_of_class, records_padding, thresholds_in
    from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
    from napari_skipseg.objects.measure import iter_measure

    options = request.options
    probability = replace(request.probability, data=open_voxels(request.probability.data))
    image = None if request.image is None else replace(request.image, data=open_voxels(request.image.data))
    yield Progress(0, 1, "reading the image")
    source = ClassImage(
        probability,
        request.class_names,
        request.is_labels,
        records_padding(request.recipe),
        thresholds=thresholds_in(request.recipe),
    )
    recipe = describe_found_objects(ObjectsRequest(source, options, image, "ome-zarr"))
    target = ObjectsTarget(folder, OBJECTS_NAME, "ome-zarr", {**recipe, **request.recipe})
    found = yield from iter_find_objects(source, options, target)
    axes = "".join(axis for axis in "TZYX" if axis in probability.space.axes)
    known = None if source.labels else probability_of_class(source, options)
    table = yield from iter_measure(read_stack(found.file, axes), image, known, options.planes)
    return FoundObjects(found.file, found.count, table, read_recipe(found.file) or {})


@iter_perform.register
def _(request: messages.ExportObjects, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.exports.labels import labels_at_time
    from napari_skipseg.exports.to_folder import ExportRequest, iter_export_objects

    stack = replace(request.labels, data=open_voxels(request.labels.data))
    labels = labels_at_time(stack, request.time, request.planes)
    asked = ExportRequest(labels, request.options, request.name, request.objects)
    return (yield from iter_export_objects(asked, request.target))


@iter_perform.register
def _(request: messages.RunBatch, folder: Path, models: WarmModels) -> Operation:
    work = iter_batch(request.settings, request.retry, only=request.only)
    # the batch records crashes of this process in its folder, which needs the fault handler; not standard error
    was_on = faulthandler.is_enabled()
    faulthandler.disable()
    try:
        with contextlib.closing(work):
            return (yield from work)
    finally:
        if was_on:
            faulthandler.enable()


@iter_perform.register
def _(request: messages.CopyModel, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.models import transfer
    from napari_skipseg.models.exchange.import_any import iter_import_any

    if request.how == "export":
        place = yield from transfer.iter_export(request.source, request.target, overwrite=True)
    elif request.how == "import":
        place = yield from iter_import_any(str(request.source), request.name)
    else:
        place = yield from transfer.iter_duplicate(request.source, request.name)
    return transfer.CopiedModel(place)


@iter_perform.register
def _(request: messages.ListDevices, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.inference.system_report import list_devices

    yield from ()
    return list_devices()


@iter_perform.register
def _(request: messages.ReportSystem, folder: Path, models: WarmModels) -> Operation:
    from napari_skipseg.inference.system_report import system_report

    yield from ()
    return SystemReport(system_report())


def open_voxels(values: ArrayLike) -> ArrayLike:
    """Return the array of a reference; return the reference itself if it has no file.

    Raises:
        FileError: the file is gone.
        InputError: it contains a different image than the one that the viewer shows.
    """
    if not isinstance(values, ArrayReference) or not values.array_file:
        return values
    opened: ArrayLike
    if values.axes:
        opened = _read_as_shown(values.array_file, values.axes)
        if tuple(opened.shape) != values.shape:
            raise InputError(f"'{values.array_file}' has changed since the viewer opened it: open it again.")
    else:
        mapped: NDArray[Any] = np.load(values.array_file, mmap_mode="r")
        opened = mapped if values.part is None else mapped[values.part]
    return opened if values.depth is None else QuantizedArray(opened, values.depth)


def _read_as_shown(file: str, axes: str) -> ArrayLike:
    """Return the voxels of a file in the order of axes in which the viewer shows them.

    axes: of the layer; they name the axes of the file only if the file itself has no names.
    """
    try:
        return read_stack(file).data
    except InputError:
        return read_stack(file, axes=axes).data


def open_corrected(images: tuple[CorrectedStack, ...]) -> tuple[Corrected, ...]:
    """Return images with their corrections.

    Raises:
        SkipsegError: as `open_voxels`; an image has no such channel.
    """
    from napari_skipseg.training.finetune.labels import Corrected

    opened = []
    for image in images:
        stack = replace(image.stack, data=open_voxels(image.stack.data))
        stack = stack if image.channel is None else stack.channel(image.channel)
        opened.append(Corrected(stack, open_labels(image), stack.name, open_strokes(image)))
    return tuple(opened)


def open_labels(image: CorrectedStack) -> ArrayLike:
    """Return the corrections of an image, with the values of the settings' classes.

    Raises:
        FileError: they are gone.
    """
    labels = read_stack(_written(image).labels, axes=image.stack.space.axes.replace("C", "")).data
    moved = {value: meant for value, meant in image.values.items() if value != meant}
    return RecodedArray(labels, moved) if moved and isinstance(labels, ZarrArray) else labels


def open_strokes(image: CorrectedStack) -> ArrayLike | None:
    """Return the painted corrections, which are not 0; None if all corrections were painted.

    Raises:
        FileError: they are gone.
    """
    strokes = _written(image).strokes
    return None if strokes is None else read_stack(strokes, axes=image.stack.space.axes.replace("C", "")).data


def _written(image: CorrectedStack) -> Snapshot:
    if callable(image.labels):
        raise ValueError("the corrections were not written")
    return image.labels
