"""The call of the engine that finds objects. Never imports torch."""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.prediction import Stored
from napari_skipseg.jobs.calls import Calls, expected, removed_on_failure
from napari_skipseg.jobs.events import ObjectsFound
from napari_skipseg.jobs.operations import FoundObjects, open_found
from napari_skipseg.jobs.requests import ObjectsJob, PlacedImage
from napari_skipseg.jobs.workspace import copy_stack, make_session_folder
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress


class FindingCalls(Calls):
    """The calls that find objects."""

    def find_objects(
        self,
        probability: Stack,
        class_names: Sequence[str],
        options: ObjectOptions,
        image: Stack | None = None,
        labels: bool = False,
        recipe: Mapping[str, Any] | None = None,
    ) -> Generator[Progress, None, FoundObjects]:
        """Return the objects of a whole stack, block by block in the engine, and their measurements.

        The labels lie in a folder of their own, which the caller removes when it no longer shows them; it goes in any
        case when a later session begins after this process's end. A stack that lies in a file, or is a result of the
        engine, is read there, `Stored` too; another one is copied first. labels, class_names: as for
        `objects.find.find_objects`. image: grey values to measure. recipe: what is kept with the labels, besides.

        Raises:
            SkipsegError: the error of the engine; EngineError where its process ended or another call is at work.
        """
        with self._busy():
            child = yield from self._start()
            run, place = self._session.new_run(), make_session_folder()
            with removed_on_failure(place), removed_on_failure(run):
                given = yield from _place(probability, run / "probability.npy")
                measured = None if image is None else (yield from _place(image, run / "image.npy"))
                asked = (tuple(class_names), labels, options, measured, dict(recipe or {}))
                job = ObjectsJob(next(self._numbers), str(place), given, *asked)
                result = expected((yield from self._ask(child, job, leftovers=(run, place))), ObjectsFound)
                found = open_found(place, result)
            shutil.rmtree(run, ignore_errors=True)
            return found


def _place(stack: Stack, copy: Path) -> Generator[Progress, None, PlacedImage]:
    """Return where the engine finds a stack, after copying it to `copy` where it finds it nowhere."""
    values, depth = (stack.data.values, stack.data.depth) if isinstance(stack.data, Stored) else (stack.data, None)
    file, part = ("", None) if stack.file else find_array_file(values)
    if not stack.file and not file:
        yield from copy_stack(stack, copy)
        file, depth = str(copy), None
    return PlacedImage(stack.file, file, part, stack.shape, stack.space, stack.name, depth)


def find_array_file(values: ArrayLike) -> tuple[str, int | None]:
    """Return the .npy file that an array is, or which part of its first axis; ("", None) where it is neither."""
    if not isinstance(values, np.memmap) or not values.flags.c_contiguous or not str(values.filename).endswith(".npy"):
        return "", None
    whole = values if isinstance(values.base, mmap.mmap) else values.base
    if not isinstance(whole, np.memmap) or not isinstance(whole.base, mmap.mmap) or whole.dtype != values.dtype:
        return "", None
    if whole.shape == values.shape:
        return str(values.filename), None
    if whole.shape[1:] != values.shape or not whole.flags.c_contiguous:
        return "", None
    start = values.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return str(values.filename), start // values.nbytes
