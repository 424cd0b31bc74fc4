"""The Python API: load a model, segment an image, save the result, fine-tune the model on what was corrected."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from napari_skipseg.images.files import read_stack
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Depth, Focus, Prediction
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.saving import Format
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.catalog import DEFAULT_MODEL, locate_model, user_folder
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.training.corrected import pair_labels
from napari_skipseg.training.finetune_settings import FinetuneSettings
from napari_skipseg.training.learning import Finetuned

Image = Stack | ArrayLike | str | PathLike[str]
"""An image: a stack, an array (numpy, dask, zarr), or the path of a file."""


def load_model(name: str | PathLike[str] = DEFAULT_MODEL) -> Model:
    """Return the model called `name`, built-in or your own, or the one in the folder `name`.

    Raises:
        ModelError: there is no such model, or it is damaged or unsafe.
    """
    return read_model(locate_model(str(name)))


def segment(image: Image, model: Model | str | PathLike[str], axes: str = "", **options: Any) -> Prediction:
    """Return probability, attention maps and, through `.binary(threshold)`, labels of `image`.

    image: a stack, an array (numpy, dask, zarr), or the path of a file. axes: letters of "TCZYX", where the
    image has channels or is otherwise than YX, ZYX or TZYX. options: fields of `SegmentOptions`.

    Raises:
        SkipsegError: the image does not fit the model, or an option is impossible.
    """
    return run_to_end(iter_predict(_stack_of(image, axes), _model_of(model), SegmentOptions(**options)))


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
    """Return the files written to `folder`: what `segment` gives, of an image of any size, in the memory of a tile.

    name: what the files' names begin with; the image's where none is given. form: "tiff" (OME-TIFF) or "ome-zarr" (0.5,
    with a pyramid). Killed, the same call goes on where it was; `restart` throws away what is unfinished.

    Raises:
        SkipsegError: as `segment`, or another run lies there, or the folder cannot be written.
    """
    stack = _stack_of(image, axes)
    target = (Path(folder), name or stack.name, dtype, form, restart)
    return run_to_end(iter_segment_to_folder(stack, _model_of(model), SegmentOptions(**options), *target))


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
    where the model goes, by default your model folder. options: fields of `FinetuneSettings`, such as reach="quick".

    Raises:
        SkipsegError: labels that do not fit or teach nothing, an impossible option, a model of that name is there.
    """
    from napari_skipseg.training.finetune import iter_finetune

    pairs = [
        (_stack_of(image, ""), _stack_of(label, "")) for image, label in zip(_list(images), _list(labels), strict=True)
    ]
    named = tuple(ClassLabel(each, value) for each, value in (classes or {}).items())
    settings = FinetuneSettings(
        str(model),
        name,
        tuple(image.file or image.name for image, _ in pairs),
        tuple(label.file or label.name for _, label in pairs),
        named,
        **options,
    )
    corrected = [pair_labels(image, label) for image, label in pairs]
    return run_to_end(iter_finetune(settings, corrected, Path(folder or user_folder()), device))


def _list(images: Image | Sequence[Image]) -> list[Image]:
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]


def _stack_of(image: Image, axes: str) -> Stack:
    if isinstance(image, str | PathLike):
        return read_stack(Path(image), axes=axes or None)
    return image if isinstance(image, Stack) else Stack(image, axes or "TZYX"[-len(image.shape) :])


def _model_of(model: Model | str | PathLike[str]) -> Model:
    return model if isinstance(model, Model) else load_model(model)


def iter_segment_to_folder(
    stack: Stack,
    model: Model,
    options: SegmentOptions,
    folder: Path,
    name: str,
    dtype: Depth = "uint8",
    form: Format = "tiff",
    restart: bool = False,
) -> Generator[Progress, Focus | None, list[Path]]:
    """Yield as segmentation goes on; return the files written to `folder`, whose names begin with `name`.

    What was stopped or failed lies in `<name>.unfinished` there, and the same call goes on with it; `restart` throws it
    away.

    Raises:
        SkipsegError: the stack does not fit the model, another run lies there, or the folder cannot be written.
    """
    return (yield from iter_segment(stack, model, options, FolderTarget(folder, name, dtype, form, restart)))
