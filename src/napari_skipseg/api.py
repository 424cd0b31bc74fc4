"""The Python API: load a model, segment an image, save the result."""

from __future__ import annotations

from collections.abc import Generator
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
from napari_skipseg.models.catalog import DEFAULT_MODEL, locate_model
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.progress import Progress, run_to_end


def load_model(name: str | PathLike[str] = DEFAULT_MODEL) -> Model:
    """Return the model called `name`, built-in or your own, or the one in the folder `name`.

    Raises:
        ModelError: there is no such model, or it is damaged or unsafe.
    """
    return read_model(locate_model(str(name)))


def segment(
    image: Stack | ArrayLike | str | PathLike[str], model: Model | str | PathLike[str], axes: str = "", **options: Any
) -> Prediction:
    """Return probability, attention maps and, through `.binary(threshold)`, labels of `image`.

    image: a stack, an array (numpy, dask, zarr), or the path of a file. axes: letters of "TCZYX", where the
    image has channels or is otherwise than YX, ZYX or TZYX. options: fields of `SegmentOptions`.

    Raises:
        SkipsegError: the image does not fit the model, or an option is impossible.
    """
    return run_to_end(iter_predict(_stack_of(image, axes), _model_of(model), SegmentOptions(**options)))


def segment_to_folder(
    image: Stack | ArrayLike | str | PathLike[str],
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


def _stack_of(image: Stack | ArrayLike | str | PathLike[str], axes: str) -> Stack:
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
