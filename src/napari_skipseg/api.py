"""The Python API: load a model, segment an image, save the result, fine-tune the model on what was corrected."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import ImageWarning, InputError, SpecError
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.backends.warm import open_model
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.catalog import DEFAULT_MODEL, locate_model, user_folder
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import Model
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import ImageFindings, Progress, Result, run_to_end
from napari_skipseg.training.finetune.labels import pair_with_labels
from napari_skipseg.training.progress import Finetuned
from napari_skipseg.training.settings import FinetuneSettings

if TYPE_CHECKING:
    from napari_skipseg.batch.run import BatchResult
    from napari_skipseg.inference.suggest import Suggestions
    from napari_skipseg.proofread.edits import Edit

Options = TypeVar("Options", SegmentOptions, ObjectOptions, ExportOptions)

Image = Stack | ArrayLike | str | PathLike[str]
"""An image: a stack, an array (numpy, dask, zarr), or the path of a file."""


def load_model(name: str | PathLike[str] = DEFAULT_MODEL) -> Model:
    """Return the model called `name`, built-in or your own, or the one in the folder `name`.

    Raises:
        ModelError: there is no such model, or it is damaged or unsafe.
    """
    return open_model(locate_model(str(name)))


def segment(image: Image, model: Model | str | PathLike[str], axes: str = "", **options: Any) -> Prediction:
    """Return probability, attention maps and, through `.binary(threshold)`, labels of `image`.

    image: a stack, an array (numpy, dask, zarr), or the path of a file. axes: letters of "TCZYX", where the
    image has channels or is not YX, ZYX or TZYX. options: fields of `SegmentOptions`. What is found about
    the image, such as black frames or lost slices, is in `.recipe["findings"]`, and each is an `ImageWarning`. The
    option `mask` is the path of a label image, or a stack or an array of labels.

    Raises:
        SkipsegError: the image does not fit the model, or an option is impossible.
    """
    options, mask = _with_mask(options)
    work = iter_predict(RunSpec(_stack_of(image, axes), _model_of(model), _made(SegmentOptions, options), mask=mask))
    return _warning(work)


def suggest(
    image: Image,
    labels: Image | None = None,
    class_names: Sequence[str] = (),
    axes: str = "",
    device: str = "auto",
) -> Suggestions:
    """Return all installed models, those that suit `image` best first, with reasons; none is trained.

    labels: strokes over the image without its channels: 0 = nothing, 1 = background, 2 and more = `class_names`. If a
    model knows one of these classes, the strokes decide. Models are tried on the middle of the image, or on the part
    around the strokes.

    Raises:
        SkipsegError: the image or the labels cannot be used, or there is no such device.
    """
    from napari_skipseg.images.intensity.normalize import measure
    from napari_skipseg.inference.suggest import iter_suggest, view_of_stack

    stack = _stack_of(image, axes)
    strokes = None if labels is None else _stack_of(labels, stack.space.axes.replace("C", ""))
    view = view_of_stack(stack, measure(stack), strokes, tuple(class_names))
    return run_to_end(iter_suggest(view, device))


def segment_to_folder(
    image: Image,
    model: Model | str | PathLike[str],
    folder: str | PathLike[str],
    name: str = "",
    axes: str = "",
    dtype: Depth = "uint8",
    form: Format = "tiff",
    restart: bool = False,
    **options: Any,
) -> list[Path]:
    """Return the files written to `folder`: what `segment` gives, for an image of any size in the memory of a tile.

    name: prefix of the files' names; by default that of the image. form: "tiff" (OME-TIFF) or "ome-zarr" (0.5, with a
    pyramid). After a kill, the same call continues where that one ended; `restart` discards what is unfinished.
    options: as for `segment`; attention maps are written only with attention=True, as in the shell.

    Raises:
        SkipsegError: as `segment`, or another run lies there, or the folder cannot be written.
    """
    stack = _stack_of(image, axes)
    options, mask = _with_mask(options)
    chosen = _made(SegmentOptions, {"attention": False, **options})
    target = FolderTarget(Path(folder), name or stack.name, dtype, form, restart)
    return _warning(iter_segment(RunSpec(stack, _model_of(model), chosen, mask=mask), target))


def run_recipe(
    recipe: str | PathLike[str],
    folder: str | PathLike[str] = "",
    image: Image | None = None,
    model: str | PathLike[str] = "",
    restart: bool = False,
) -> list[Path]:
    """Return the files written to `folder` by the run that `recipe` describes: the same bytes, on the same machine.

    recipe: a `_recipe.json`, or a result that contains one; it gives the files their names. folder: by default "again"
    beside it. image: one to use in place of the recipe's. model: the folder in which the recipe's model lies now.
    Differences that may change the bytes are warnings.

    Raises:
        SkipsegError: the recipe is not valid; its model or image are gone or have changed; results of a different
            recipe lie there; otherwise as `segment`.
    """
    from napari_skipseg.inference.recipes.lookup import name_of_run, read_recipe_file
    from napari_skipseg.inference.recipes.repeat import AGAIN, iter_repeat, prepare_repeat

    parsed, near = read_recipe_file(recipe), Path(recipe).absolute().parent
    repeat = prepare_repeat(parsed, None if image is None else _stack_of(image, ""), near, str(model))
    for warning in repeat.warnings:
        warnings.warn(warning, stacklevel=2)
    name = name_of_run(recipe) if image is None else ""
    return _warning(iter_repeat(repeat, Path(folder) if folder else near / AGAIN, restart, name))


def find_objects(
    probability: Image | Prediction,
    axes: str = "",
    class_names: Sequence[str] = (),
    edits: str | PathLike[str] | Sequence[Edit] = (),
    **options: Any,
) -> NDArray[np.uint32]:
    """Return the objects in `probability` as labels, 0 = none: components, parted objects or cells.

    Shape: (*space) or (T, *space), without channels. probability: what `segment` gave, a stack, an array or the path of
    a file; it and the labels must fit into memory (`iter_find_objects` needs a block). axes: as for `segment`.
    class_names: of its channels, if it does not name them itself. edits: a file of `napari-skipseg edits export` or
    `edits classifier`, or edits as values; those that do not fit these objects are left out, with an `ImageWarning`
    each. options: fields of `ObjectOptions`, such as method="cells".

    Raises:
        SkipsegError: there is no such class, an option is impossible, the values are no probabilities, or the edits are
            of another image.
    """
    from napari_skipseg.objects.classes import ClassImage, records_padding
    from napari_skipseg.objects.files import read_probability
    from napari_skipseg.objects.find import ObjectSearch

    if isinstance(probability, Prediction):
        stack = Stack(probability.probability, probability.space)
        own = dict(zip(probability.class_names, probability.thresholds_at(), strict=True))
        image = ClassImage(
            stack, tuple(probability.class_names), False, records_padding(probability.recipe), thresholds=own
        )
    elif isinstance(probability, str | PathLike):
        image = read_probability(probability, axes or None)
    else:
        image = ClassImage(_stack_of(probability, axes))
    image = replace(image, class_names=tuple(class_names)) if class_names else image
    chosen = _made(ObjectOptions, options)
    if not isinstance(edits, str | PathLike) and not edits:
        return ObjectSearch(image).find(chosen)
    if chosen.box:
        raise InputError("Edits belong to all objects of an image: leave out the box, or the edits.")
    from napari_skipseg.proofread.exchange import iter_regions, read_edits_file
    from napari_skipseg.proofread.session import apply_edits
    from napari_skipseg.proofread.state import ObjectsUnderEdit
    from napari_skipseg.proofread.store import check_same_image, edits_record

    if isinstance(edits, str | PathLike):
        found = read_edits_file(edits)
        if found.record is not None:
            check_same_image(edits_record(image.stack, chosen.class_name), found.record)
        edits = found.edits
    objects = ObjectsUnderEdit(run_to_end(iter_regions(image, chosen)))
    for refused in apply_edits(objects, edits)[1]:
        warnings.warn(
            f"Edit {refused.number} ({refused.edit.kind}) was left out: {refused.reason}", ImageWarning, stacklevel=2
        )
    return np.asarray(objects.labels()[...])


def run_batch(
    inputs: str | PathLike[str],
    output: str | PathLike[str],
    model: str | PathLike[str] = DEFAULT_MODEL,
    objects: ObjectOptions | None = None,
    dtype: Depth = "uint8",
    form: Format = "tiff",
    retry: bool = False,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> BatchResult:
    """Return the outcome of every image in `inputs`, in `.rows`: a folder, an image, or a pattern with *, ? and **.

    Results, records, a summary and a report go to a folder in `output` that is named after model and recipe. Images
    that are done with the same recipe are skipped; after a kill, the same call continues where that one ended. A file
    that fails stops no other: its row says why. objects: options for finding objects as well. retry: only repeat what
    failed the last time. settings: further fields of `BatchSettings`, such as recursive, truth or workers. options:
    fields of `SegmentOptions`; attention maps are written only with attention=True, so that the shell's batch goes to
    the same folder.

    Raises:
        SkipsegError: there are no inputs or no such model, another run contains the folder, or it cannot be written.
    """
    from napari_skipseg.batch.run import iter_batch
    from napari_skipseg.batch.settings import BatchSettings, make_settings

    request = make_settings(str(model), _made(SegmentOptions, {"attention": False, **options}), dtype, form, objects)
    given = ("inputs", "output", "request")
    _check_names(settings or {}, [each.name for each in fields(BatchSettings) if each.name not in given])
    batch = BatchSettings(str(inputs), str(output), request, **(settings or {}))
    return run_to_end(iter_batch(batch, retry))


def finetune(
    images: Image | Sequence[Image],
    labels: Image | Sequence[Image],
    model: str | PathLike[str],
    name: str,
    classes: Mapping[str, int] | None = None,
    folder: str | PathLike[str] | None = None,
    device: str = "auto",
    **options: Any,
) -> Finetuned:
    """Return the folder of a new model called `name`, `model` fine-tuned, and how it compares with the old one.

    images, labels: stacks, arrays or files, one of labels for each image: 0 = not looked at, 1 = background, 2… =
    classes, over its axes without C. classes: the value of each by name; by default the model's own, from 2 on. folder:
    that the model is written to, by default your model folder. options: fields of `FinetuneSettings`, such as
    reach="quick".

    Raises:
        SkipsegError: labels that do not fit or teach nothing, an impossible option, a model of that name is there.
    """
    from napari_skipseg.training.finetune.run import iter_finetune

    given = ("model", "name", "images", "labels", "classes")
    _check_names(options, [each.name for each in fields(FinetuneSettings) if each.name not in given])
    some_images, some_labels = _list(images), _list(labels)
    if len(some_images) != len(some_labels):
        raise InputError(
            f"{len(some_images)} images and {len(some_labels)} labels were given: give one of labels for each image."
        )
    pairs = [
        (_stack_of(image, ""), _stack_of(label, "", are_labels=True))
        for image, label in zip(some_images, some_labels, strict=True)
    ]
    named = tuple(ClassLabel(each, value) for each, value in (classes or {}).items())
    settings = FinetuneSettings(
        model=str(model),
        name=name,
        images=tuple(image.file or image.name for image, _ in pairs),
        labels=tuple(label.file or label.name for _, label in pairs),
        classes=named,
        **options,
    )
    corrected = [pair_with_labels(image, label) for image, label in pairs]
    return _warning(iter_finetune(settings, corrected, Path(folder or user_folder()), device))


def export_objects(
    labels: Image,
    folder: str | PathLike[str],
    name: str = "",
    axes: str = "",
    objects: Sequence[int] = (),
    contacts_with: Image | None = None,
    time: int | None = None,
    overwrite: bool = False,
    **options: Any,
) -> list[Path]:
    """Return the files written to `folder`: meshes, skeletons, contacts, or labels for other programs.

    labels: objects, 0 = none. objects: the numbers of those to export, () = all. contacts_with: a second label image of
    the same voxels. time: of labels with several. options: fields of `ExportOptions`, such as meshes="ply".

    Raises:
        SkipsegError: nothing is chosen, a package is missing, an option is impossible, or a result is there already.
    """
    from napari_skipseg.exports.contacts import OtherLabels
    from napari_skipseg.exports.labels import labels_at_time
    from napari_skipseg.exports.to_folder import ExportRequest, iter_export_objects, with_space_of
    from napari_skipseg.inference.saving import plain_name
    from napari_skipseg.objects.files import planes_of_objects

    stack = _stack_of(labels, axes, are_labels=True)
    opened, other = labels_at_time(stack, time, planes_of_objects(stack)), None
    if contacts_with is not None:
        second = _stack_of(contacts_with, axes, are_labels=True)
        other = OtherLabels(with_space_of(opened, labels_at_time(second, time)), plain_name(second.name))
        options["contacts"] = True
    chosen = _made(ExportOptions, options)
    called = name or plain_name(Path(stack.file).name if stack.file else stack.name)
    request = ExportRequest(opened, chosen, called, tuple(objects), other, overwrite)
    return list(_warning(iter_export_objects(request, Path(folder))).files)


def _made(kind: type[Options], options: Mapping[str, Any]) -> Options:
    """Return options of a kind.

    Raises:
        SpecError: there is no such option.
    """
    _check_names(options, [each.name for each in fields(kind)])
    return kind(**options)


def _with_mask(options: Mapping[str, Any]) -> tuple[dict[str, Any], Stack | None]:
    """Return options with the file of a mask, if it is one, and the mask if it is in memory."""
    mask = options.get("mask")
    if mask is None or isinstance(mask, str | PathLike):
        return {**options, "mask": str(mask or "")}, None
    labels = mask if isinstance(mask, Stack) else Stack(mask, Space("TZYX"[-len(mask.shape) :]), "mask")
    return {**options, "mask": ""}, labels


def _check_names(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise SpecError if an option has an unknown name."""
    unknown = [name for name in options if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, 1)
        meant = f"did you mean '{near[0]}'? The options" if near else "the options"
        raise SpecError(f"There is no option '{unknown[0]}': {meant} are {', '.join(known)}.")


def _warning(work: Generator[Progress, None, Result]) -> Result:
    """Return the result of `work`; findings about an image are warnings at the line that called our caller."""

    def warn(progress: Progress) -> None:
        for finding in progress.findings if isinstance(progress, ImageFindings) else ():
            warnings.warn(finding, ImageWarning, stacklevel=5)

    return run_to_end(work, warn)


def _list(images: Image | Sequence[Image]) -> list[Image]:
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]


def _stack_of(image: Image, axes: str, are_labels: bool = False) -> Stack:
    if isinstance(image, str | PathLike):
        return read_stack(Path(image), axes=axes or None, are_labels=are_labels)
    return image if isinstance(image, Stack) else Stack(image, Space(axes or "TZYX"[-len(image.shape) :]))


def _model_of(model: Model | str | PathLike[str]) -> Model:
    return model if isinstance(model, Model) else load_model(model)
