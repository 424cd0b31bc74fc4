"""The objects of a file of a batch: found in its probability, measured, and written beside it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from napari_skipseg.batch.inputs import UNFINISHED
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.formats import Format
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.objects.files import iter_write_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.whole import ObjectsTarget
from napari_skipseg.progress import Progress


def iter_objects(
    image: Stack, probability: Path, class_names: Sequence[str], options: ObjectOptions, name: str, form: Format
) -> Generator[Progress, None, dict[str, Path]]:
    """Yield while objects are found in our file `probability`, and measured in it and in `image`; return the files.

    These are `<name>_objects.tif` (or .ome.zarr) with the recipe, and `<name>_objects.csv`, beside the probability;
    both appear when both are whole.

    Raises:
        SkipsegError: there is no such class, or nothing can be written.
    """
    recipe = {**(read_recipe(probability) or {}), "layer": "labels"}
    with _workplace(probability.parent, name) as place:
        target = ObjectsTarget(place, name, form, recipe)
        found = yield from iter_write_objects(read_stack(probability), class_names, options, target, image)
        files = {"objects": found.labels, "objects table": found.table}
        return {result: _moved(file, probability.parent) for result, file in files.items()}


@contextlib.contextmanager
def _workplace(folder: Path, name: str) -> Iterator[Path]:
    """Yield a folder that is empty, whatever a kill left there, and gone at the end."""
    place = folder / f"{name}.objects{UNFINISHED}"
    with telling_faults(place):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _moved(file: Path, folder: Path) -> Path:
    target = folder / file.name
    with telling_faults(target):
        if file.is_dir() and target.exists():
            shutil.rmtree(target)
        return file.replace(target)
