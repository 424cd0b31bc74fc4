"""The objects of a file of a batch: found in its probability, measured, and written beside it."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

from napari_skipseg.batch.inputs import UNFINISHED
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.formats import Format
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.objects.files import iter_write_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.whole import ObjectsTarget, iter_find_blocks
from napari_skipseg.objects.workplace import BLOCKS, workplace
from napari_skipseg.progress import Progress


def iter_objects(
    image: Stack, probability: Path, class_names: Sequence[str], options: ObjectOptions, name: str, form: Format
) -> Generator[Progress, None, dict[str, Path]]:
    """Yield while objects are found in our file `probability`, and measured in it and in `image`; return the files.

    These are `<name>_objects.tif` (or .ome.zarr) with the recipe, and `<name>_objects.csv`, beside the probability;
    both appear when both are whole. Stopped or killed, it goes on after the last block that was found.

    Raises:
        SkipsegError: there is no such class, or nothing can be written.
    """
    target = _target(probability, name, form)
    with workplace(target.folder):
        found = yield from iter_write_objects(read_stack(probability), class_names, options, target, image)
        files = {"objects": found.labels, "objects table": found.table}
        return {result: _moved(file, probability.parent) for result, file in files.items()}


def iter_blocks_of_objects(
    probability: Path, class_names: Sequence[str], options: ObjectOptions, name: str, form: Format, numbers: range
) -> Generator[Progress, None, None]:
    """Yield while blocks of these numbers are found, for `iter_objects` to go on with: it was begun and stopped.

    Raises:
        SkipsegError: as `iter_objects`.
    """
    target = _target(probability, name, form)
    yield from iter_find_blocks(read_stack(probability), class_names, options, target, numbers)


def _target(probability: Path, name: str, form: Format) -> ObjectsTarget:
    recipe = {**(read_recipe(probability) or {}), "layer": "labels"}
    place = probability.parent / f"{name}.objects{UNFINISHED}"
    return ObjectsTarget(place, name, form, recipe, place / BLOCKS)


def _moved(file: Path, folder: Path) -> Path:
    target = folder / file.name
    with telling_faults(target):
        if file.is_dir() and target.exists():
            shutil.rmtree(target)
        return file.replace(target)
