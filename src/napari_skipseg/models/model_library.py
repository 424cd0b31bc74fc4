"""The library: all models with their families, damaged ones too, and what can be done with them. Loads without torch.

Export, import and duplicate, which copy files, are in `transfer`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from napari_skipseg.durable import make_folders, sync_folder, write_durably, write_whole
from napari_skipseg.durable import replace as rename
from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.locks import is_held
from napari_skipseg.models import catalog
from napari_skipseg.models.description import ModelDescription, description_from_json, description_to_json, license_mark
from napari_skipseg.models.folder import (
    DESCRIPTION_FILE,
    STARTED_FROM_FILE,
    TRAINING,
    WEIGHTS_FILE,
    check_files,
    read_description,
)
from napari_skipseg.models.transfer import check_new_name

DELETED_MODELS = "deleted"
"""The folder, among the user's models, of those that were deleted where the system has no bin."""
_FIXED_DRIVE = 3
"""What Windows calls a disk in the computer: only these have a bin."""


class NoBinError(ModelError):
    """The system has no bin for this folder; the model is still there."""


@dataclass(frozen=True)
class LibraryModel:
    """A model of the library.

    description: None if it cannot be read. fault: what is wrong with the model, in one sentence; "" if nothing is.
    size: bytes of all its files. changed: when its weights were written, in seconds of `time.time`.
    parent: the name of the model it was trained from, as it is called here; "" if that is not here. depth: how many
    models of its family stand above it.
    """

    name: str
    folder: Path
    description: ModelDescription | None
    fault: str
    size: int
    changed: float
    parent: str = ""
    depth: int = 0

    @property
    def is_built_in(self) -> bool:
        """Whether it belongs to the package, and cannot be renamed or deleted."""
        return self.folder.parent == catalog.BUILT_IN

    @property
    def trained_from(self) -> str:
        """The name of the model it was trained from, even if that is not here; "" if from random weights."""
        named = None if self.description is None else self.description.training.parent
        return self.parent or (f"{named}, a model that is not on this computer" if named else "")

    @property
    def mark(self) -> str:
        """What its licence does not allow: "non-commercial", "terms unclear", or ""."""
        card = None if self.description is None else self.description.card
        return "" if card is None else license_mark(card.license, card.terms)


def list_library() -> list[LibraryModel]:
    """Return all models, each below the one that it was trained from; damaged ones say what is wrong.

    A parent is known by the hash of its weights, so a new name does not cut a family. The hashes of all files are
    compared with those in the descriptions.
    """
    found = [_look_into(folder) for folder in _find_folders()]
    found.sort(key=lambda each: each.name != catalog.DEFAULT_MODEL)
    parents = {number: _parent_of(number, found) for number in range(len(found))}
    return list(_in_families(found, parents))


def _find_folders() -> Iterator[Path]:
    """Yield the folder of each model, built-in ones first, and those that were one."""
    for place in (catalog.BUILT_IN, catalog.user_folder()):
        with contextlib.suppress(OSError):
            for folder in sorted(place.iterdir()):
                is_model = any((folder / name).is_file() for name in (DESCRIPTION_FILE, WEIGHTS_FILE))
                if is_model and not folder.name.startswith(".") and not folder.name.endswith(TRAINING):
                    yield folder


def _look_into(folder: Path) -> LibraryModel:
    description, fault = None, ""
    try:
        description = read_description(folder)
        if folder.parent != catalog.BUILT_IN and (catalog.BUILT_IN / folder.name).exists():
            raise ModelError(
                f"A built-in model is called '{folder.name}' too and is used in its place: rename this one."
            )
        check_files(folder, description)
    except SkipsegError as error:
        fault = str(error)
    size, changed = 0, 0.0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            found = file.stat()
            size += found.st_size
            if file.name == WEIGHTS_FILE or not changed:
                changed = found.st_mtime
    return LibraryModel(folder.name, folder, description, fault, size, changed)


def _parent_of(number: int, found: list[LibraryModel]) -> int | None:
    """Return the number of the model that another one was trained from: by its weights, else by its name."""
    own = found[number].description
    training = None if own is None else own.training
    if own is None or training is None or training.parent is None:
        return None
    others = [(at, each) for at, each in enumerate(found) if at != number and each.description is not None]
    if training.parent_sha256:
        same = [
            (each.name != training.parent, at)
            for at, each in others
            if each.description is not None and each.description.weights_sha256 == training.parent_sha256
        ]
        return min(same)[1] if same else None
    # models that were trained before the hash was recorded
    return next((at for at, each in others if each.name == training.parent), None)


def _in_families(found: list[LibraryModel], parents: Mapping[int, int | None]) -> Iterator[LibraryModel]:
    """Yield each model below its parent. A circle, which only a made-up description has, is cut."""
    shown: set[int] = set()

    def below(number: int, depth: int) -> Iterator[LibraryModel]:
        shown.add(number)
        parent = parents[number]
        name = found[parent].name if depth and parent is not None else ""
        yield replace(found[number], parent=name, depth=depth)
        for child, its_parent in parents.items():
            if its_parent == number and child not in shown:
                yield from below(child, depth + 1)

    for number, parent in parents.items():
        if parent is None:
            yield from below(number, 0)
    for number in parents:
        if number not in shown:
            yield from below(number, 0)


def twins_of(model: LibraryModel, library: list[LibraryModel]) -> list[str]:
    """Return the names of other models with the same weights, damaged ones left out."""
    if model.description is None or model.fault:
        return []
    sha256 = model.description.weights_sha256
    others = [each for each in library if each.folder != model.folder and not each.fault]
    return [each.name for each in others if each.description is not None and each.description.weights_sha256 == sha256]


def rename_model(folder: Path, name: str) -> Path:
    """Give the model in `folder` a new name; return its new folder. Its weights and its family stay.

    A damaged model can be renamed too. After a kill it has its old name or the new one, and is whole in both cases.

    Raises:
        ModelError: it is built in, a training uses it, the name is taken, or the folder cannot be written.
    """
    check_own(folder, "renamed")
    if catalog.name_key(name) != catalog.name_key(folder.name) or name == folder.name:
        check_new_name(name, folder.parent)
    file, target = folder / DESCRIPTION_FILE, folder.parent / name
    try:
        before = file.read_bytes()
    except OSError:
        before = b""
    renamed = _with_name(before, name)
    try:
        if renamed is not None:
            write_durably(file, renamed)
        rename(folder, target)
    except OSError as error:
        if renamed is not None:
            with contextlib.suppress(OSError):
                write_whole(file, before)
        raise ModelError(f"'{folder}' cannot be renamed: {error.strerror}.") from error
    with contextlib.suppress(OSError):  # it is renamed; a power cut now may undo that
        sync_folder(target.parent)
    return target


def _with_name(content: bytes, name: str) -> bytes | None:
    """Return the content of a description with a new name; None if it cannot be read."""
    try:
        return description_to_json(replace(description_from_json(content, ""), name=name)).encode()
    except ModelError:
        return None


def delete_model(folder: Path) -> None:
    """Move the model in `folder` to the system's bin.

    Raises:
        NoBinError: there is no bin for it; `put_into_deleted` moves it to a folder instead.
        ModelError: it is built in, or a training uses it.
    """
    check_own(folder, "deleted")
    try:
        if not _has_bin(folder):
            raise OSError("its drive has no bin")
        from send2trash import send2trash

        send2trash(str(folder.resolve()))
    except OSError as error:
        raise NoBinError(
            f"The model '{folder.name}' cannot be moved to the bin ({_reason(error)}). It is still there; it can be "
            f"moved to the folder '{folder.parent / DELETED_MODELS}' instead."
        ) from error
    if folder.exists():
        raise NoBinError(f"The system did not move the model '{folder.name}' to the bin: it is still in '{folder}'.")


def put_into_deleted(folder: Path) -> Path:
    """Move the model in `folder` to the folder of deleted ones beside it; return where it lies now.

    Raises:
        ModelError: it is built in, a training uses it, or the folder cannot be written.
    """
    check_own(folder, "deleted")
    place = folder.parent / DELETED_MODELS
    if (place / DESCRIPTION_FILE).exists():
        raise ModelError(
            f"A model is called '{DELETED_MODELS}', so nothing can be moved to that folder: rename it first."
        )
    try:
        make_folders(place)
        name = folder.name if not (place / folder.name).exists() else catalog.free_name(folder.name, place)
        rename(folder, place / name)
        sync_folder(place)
        sync_folder(folder.parent)
    except OSError as error:
        raise ModelError(f"'{folder}' cannot be moved to '{place}': {error.strerror}.") from error
    return place / name


def check_own(folder: Path, done: str) -> None:
    """Refuse a model that is to be moved if it is built in or a training uses it. done: such as "renamed".

    Raises:
        ModelError: it is.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder at '{folder}'. `napari-skipseg models` lists the known ones.")
    if folder.parent == catalog.BUILT_IN:
        raise ModelError(
            f"'{folder.name}' is a built-in model, which cannot be {done}: duplicate it, and use the copy."
        )
    training = find_training_of(folder)
    if training is not None:
        raise ModelError(
            f"The model '{folder.name}' cannot be {done} while the training of '{training}' uses it: wait for its end."
        )


def find_training_of(folder: Path) -> str | None:
    """Return the name of the model whose running training writes to `folder` or started from it; None if none does.

    Trainings are looked for beside the model and among the user's models.
    """
    for place in {folder.parent, catalog.user_folder()}:
        with contextlib.suppress(OSError):
            for scratch in place.glob(f"*{TRAINING}"):
                name = scratch.name.removesuffix(TRAINING)
                if (place / name == folder or _started_from(scratch, folder)) and is_held(scratch):
                    return name
    return None


def _started_from(scratch: Path, folder: Path) -> bool:
    try:
        named = (scratch / STARTED_FROM_FILE).read_bytes()
    except OSError:
        return False
    return os.fsdecode(named) == str(folder.resolve())


def _has_bin(folder: Path) -> bool:
    """Return whether the drive of a folder has a bin. From others, Windows deletes for good."""
    if sys.platform != "win32":
        return True
    import ctypes

    drive = Path(folder.resolve().anchor)
    return bool(ctypes.windll.kernel32.GetDriveTypeW(str(drive)) == _FIXED_DRIVE)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
