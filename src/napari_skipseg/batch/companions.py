"""Labels that belong to the images of a batch, as truth or as masks: in a second folder, with the same names."""

from __future__ import annotations

from pathlib import Path

from napari_skipseg.batch.inputs import BATCH_ENDINGS, BatchInput
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.file_names import find_inside, normalized_name
from napari_skipseg.images.choice import MARK, parse_location
from napari_skipseg.images.files import images_to_read
from napari_skipseg.images.slices import holds_slices
from napari_skipseg.images.zarr.metadata import is_zarr
from napari_skipseg.inference.saving import plain_name


def check_companions(settings: BatchSettings, files: int) -> None:
    """Check that truth and masks exist, and that the truth is not one image of labels for several images.

    Raises:
        FileError: there is no such folder or file.
        InputError: one truth for several images.
    """
    for kind, named in (("truth", settings.truth), ("mask", settings.mask)):
        if named and not parse_location(Path(named).expanduser()).path.exists():
            raise FileError(f"The {kind} '{named}' does not exist: check the name.")
    place = Path(settings.truth).expanduser()
    is_one = bool(settings.truth) and (place.is_file() or is_zarr(place))
    if files > 1 and is_one and len(images_to_read(place)) != files:
        raise InputError(f"The truth '{settings.truth}' is one image for {files}: give a folder with labels for each.")


def find_truth_of(settings: BatchSettings, entry: BatchInput) -> Path | None:
    """Return the truth of an image, None if there is none of its name.

    Raises:
        InputError: several files have its name.
    """
    return _find(settings.truth, settings, entry)


def find_mask_of(settings: BatchSettings, entry: BatchInput) -> Path | None:
    """Return the mask of an image, None in a batch without masks. One file is the mask of all images.

    Raises:
        InputError: no file has the name of the image, or several have.
    """
    found = _find(settings.mask, settings, entry)
    if settings.mask and found is None:
        raise InputError(f"'{settings.mask}' has no mask of this name: add one, or run the image without masks.")
    return found


def _find(named: str, settings: BatchSettings, entry: BatchInput) -> Path | None:
    """Return the labels of an image: the file in the same subfolder of `named` with the same name and any ending."""
    if not named:
        return None
    given = parse_location(Path(named).expanduser().absolute())
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
        raise InputError(f"{found[0].name} and {found[1].name} in '{folder}' could both belong to it: leave one there.")
    return found[0] if found else None


def _same_image(labels: Path, entry: BatchInput) -> Path:
    """Return the image at the same place in a file of several."""
    which = entry.relative.rpartition(MARK)[2] if MARK in entry.relative else ""
    images = images_to_read(labels) if which else ()
    if len(images) < 2:
        return labels
    same = [
        each for each in images if each.replace("\\", "/").replace("/", "_").endswith((f"{MARK}{which}", f"_{which}"))
    ]
    return Path(same[0]) if same else labels


def _is_image(file: Path) -> bool:
    return is_zarr(file) if file.is_dir() else file.suffix.lower() in BATCH_ENDINGS
