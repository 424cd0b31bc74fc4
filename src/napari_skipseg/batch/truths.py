"""Scores of a batch's results against truth in a second folder, whose files have the same names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_skipseg.batch.inputs import BATCH_ENDINGS, BatchInput
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.file_names import find_inside, normalized_name
from napari_skipseg.images.choice import MARK, parse_location
from napari_skipseg.images.files import images_to_read
from napari_skipseg.images.slices import holds_slices
from napari_skipseg.images.zarr.metadata import is_zarr
from napari_skipseg.inference.saving import plain_name
from napari_skipseg.objects.classes import BOUNDARY_CLASSES
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.instances import MaskError
from napari_skipseg.scoring.pairs import Pair
from napari_skipseg.scoring.values import doubt_truth

if TYPE_CHECKING:
    from napari_skipseg.models.description import ModelDescription

_SHOWN = ("dice", "iou", "precision", "recall")
"""The scores of a class that the table shows."""
OF_OBJECTS = ("adapted_rand_error", "average_precision")


def check_truth_folder(settings: BatchSettings, files: int) -> None:
    """Check that the truth exists, and that it is not one image of labels for several images.

    Raises:
        FileError: there is no such folder or file.
        InputError: a file for several images.
    """
    place = Path(settings.truth).expanduser()
    if not settings.truth:
        return
    if not place.exists():
        raise FileError(f"The truth '{settings.truth}' does not exist: check the name.")
    one = place.is_file() or is_zarr(place)
    if files > 1 and one and len(images_to_read(place)) != files:
        raise InputError(f"The truth '{settings.truth}' is one image for {files}: give a folder with labels for each.")


def find_truth(settings: BatchSettings, entry: BatchInput) -> Path | None:
    """Return the labels of an image: the file in the same subfolder with the same name and any ending.

    Raises:
        InputError: several files have this name.
    """
    if not settings.truth:
        return None
    given = parse_location(Path(settings.truth).expanduser().absolute())
    place, relative = given.path, entry.relative
    if given.image is not None:
        return Path(str(given))
    if place.is_file() or is_zarr(place):
        return _same_image(place, entry)
    exact = find_inside(place, relative) or find_inside(place, relative.rpartition(MARK)[0] or relative)
    if exact is not None and exact.exists():
        return _same_image(exact, entry)
    if settings.as_stack and holds_slices(place) and Path(entry.file) == Path(settings.inputs).expanduser().absolute():
        return place
    folder, name = find_inside(place, entry.folder), normalized_name(plain_name(Path(relative).name))
    if folder is None or not folder.is_dir():
        return None
    if settings.as_stack or MARK in relative:
        name = normalized_name(entry.name)
    names = {file: normalized_name(plain_name(file.name)) for file in sorted(folder.iterdir()) if _is_image(file)}
    found = [file for file, each in names.items() if each == name]
    found = found or [file for file, each in names.items() if each.casefold() == name.casefold()]
    if len(found) > 1:
        raise InputError(f"{found[0].name} and {found[1].name} in '{folder}' could both be its truth: leave one there.")
    return found[0] if found else None


def _same_image(truth: Path, entry: BatchInput) -> Path:
    """Return the image at the same place in the file of the truth."""
    which = entry.relative.rpartition(MARK)[2] if MARK in entry.relative else ""
    images = images_to_read(truth) if which else ()
    if len(images) < 2:
        return truth
    same = [
        each for each in images if each.replace("\\", "/").replace("/", "_").endswith((f"{MARK}{which}", f"_{which}"))
    ]
    return Path(same[0]) if same else truth


def _is_image(file: Path) -> bool:
    return is_zarr(file) if file.is_dir() else file.suffix.lower() in BATCH_ENDINGS


def score_result(
    results: dict[str, Path], truth: Path, description: ModelDescription, label: int | None = None
) -> tuple[dict[str, float], str]:
    """Return the scores of a file's results against its truth, and a note why some are missing ("" = none is missing).

    The scores of objects come first, but none against a mask; then the overlap of each class, such as "membrane dice".
    results: by name, such as "binary". The values of the classes in the truth are those of the model's description. For
    a model with one class, the value is `label`; if that is None, the class is all above 0, or for a membrane whatever
    `foreground_of` takes for membranes.

    Raises:
        SkipsegError: the truth cannot be read, or does not fit.
    """
    from napari_skipseg.scoring.files import ScoreOptions, iter_score_pairs

    classes = {each.name: each.label for each in description.classes}
    several = len(classes) > 1
    if several or label:
        options = ScoreOptions(classes=classes if several or label is None else dict.fromkeys(classes, label))
    else:
        is_membrane = label == 0 or (label is None and 0 in classes.values())
        options = ScoreOptions(membrane=is_membrane, foreground="auto" if label is None else "cells")
    of_classes: dict[str, float] = {}
    notes: list[str] = []
    for summary in run_to_end(iter_score_pairs([Pair(truth.name, results["binary"], truth)], options)):
        class_name = summary.class_name or description.class_names[0]
        of_classes |= {f"{class_name} {name}": value for name, value in _numbers(summary.pooled, _SHOWN).items()}
        notes += [note for note in summary.notes if note not in notes]
        doubt = doubt_truth(truth.name, class_name, class_name in BOUNDARY_CLASSES, dict(summary.pooled))
        notes += [doubt] if doubt else []
    if "objects" not in results:
        return of_classes, " ".join(notes)
    try:
        pairs = [Pair(truth.name, results["objects"], truth)]
        (summary,) = run_to_end(iter_score_pairs(pairs, ScoreOptions("instances")))
    except MaskError as error:
        return of_classes, " ".join([*notes, str(error)])
    return _numbers(summary.pooled, OF_OBJECTS) | of_classes, " ".join(notes)


def _numbers(scores: Any, names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(scores[name]) for name in names if isinstance(scores.get(name), int | float)}
