"""The Python API: load a model, segment an image, save the result."""

from __future__ import annotations

from collections.abc import Generator
from os import PathLike
from pathlib import Path
from typing import Any

from napari_skipseg.images.files import read_stack
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Prediction
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.saving import Depth, plain_name, save_prediction, scratch_folder
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
    if isinstance(image, str | PathLike):
        stack = read_stack(Path(image), axes=axes or None)
    elif isinstance(image, Stack):
        stack = image
    else:
        stack = Stack(image, axes or "TZYX"[-len(image.shape) :])
    loaded = model if isinstance(model, Model) else load_model(model)
    return run_to_end(iter_predict(stack, loaded, SegmentOptions(**options)))


def iter_segment_to_folder(
    stack: Stack, model: Model, options: SegmentOptions, folder: Path, name: str, dtype: Depth = "uint8"
) -> Generator[Progress, None, list[Path]]:
    """Yield as segmentation goes on; return the files written to `folder`, named after `name` without its ending.

    Tiles go to a scratch file beside the results; stopped or failed, nothing is left, nor a folder that was made here.

    Raises:
        SkipsegError: the stack does not fit the model, or the folder cannot be written.
    """
    with scratch_folder(folder) as scratch:
        prediction = yield from iter_predict(stack, model, options, scratch)
        written = save_prediction(prediction, folder, plain_name(name), options.threshold, dtype)
        del prediction  # Windows removes no file that is still mapped
        return written
