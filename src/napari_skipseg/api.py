"""The Python API: load a model, segment an image, save the result."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from napari_skipseg.images.files import read_stack
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Prediction
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.models.library import DEFAULT_MODEL, locate_model
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.progress import run_to_end


def load_model(name: str | PathLike[str] = DEFAULT_MODEL) -> Model:
    """Return the model called `name`, built-in or your own, or the one in the folder `name`.

    Raises:
        ModelError: there is no such model, or it is damaged or unsafe.
    """
    return read_model(locate_model(str(name)))


def segment(image: Stack | ArrayLike | str | PathLike[str], model: Model, axes: str = "", **options: Any) -> Prediction:
    """Return probability, attention maps and, through `.binary(threshold)`, labels of `image`.

    image: a stack, an array (numpy, dask, zarr), or the path of a TIFF. axes: letters of "TCZYX", where the image has
    channels or is otherwise than YX, ZYX or TZYX. options: fields of `SegmentOptions`.

    Raises:
        SkipsegError: the image does not fit the model, or an option is impossible.
    """
    if isinstance(image, str | PathLike):
        stack = read_stack(Path(image), axes=axes or None)
    elif isinstance(image, Stack):
        stack = image
    else:
        stack = Stack(image, axes or "TZYX"[-len(image.shape) :])
    return run_to_end(iter_predict(stack, model, SegmentOptions(**options)))
