"""A model out into one file, in from a file or a folder, and from folder to folder: checked, and never overwritten.

The file is a zip with the model's folder in it, and `SHA256SUMS` beside the model's files: their hashes, as
`sha256sum -c` reads them. Unzipped by hand, it is a model folder. Whatever comes in is written to a draft beside its
place and gets its name when all of it is checked and on disk. Loads without torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

from napari_skipseg.durable import make_folders, new_folder, replacing_durably
from napari_skipseg.errors import ModelError
from napari_skipseg.foreign_text import printable
from napari_skipseg.models.catalog import check_free, free_name, user_folder
from napari_skipseg.models.description import (
    ModelDescription,
    can_name,
    description_from_json,
    description_to_json,
    scores_from_json,
)
from napari_skipseg.models.folder import (
    DESCRIPTION_FILE,
    LARGEST_DESCRIPTION,
    LARGEST_SAMPLE,
    LICENSE_FILE,
    PICKLES,
    SAMPLE_FILE,
    SCORES_FILE,
    TRAINING,
    WEIGHTS_FILE,
    changed_file,
    read_description,
    shapes_in,
    unfit_weights,
)
from napari_skipseg.models.model import largest_weights, shapes_of
from napari_skipseg.progress import Progress

MODEL_ENDING = ".skipseg.zip"
"""Ending of a model in one file."""
SUMS_FILE = "SHA256SUMS"
_LARGEST: dict[str, int] = {
    DESCRIPTION_FILE: LARGEST_DESCRIPTION,
    SCORES_FILE: LARGEST_DESCRIPTION,
    LICENSE_FILE: 2**20,
    SUMS_FILE: 2**20,
    SAMPLE_FILE: LARGEST_SAMPLE,
}
"""The most bytes of each file of a model but its weights, whose size follows from its network."""
_COPIED = (WEIGHTS_FILE, SAMPLE_FILE, SCORES_FILE, LICENSE_FILE)
"""The files of a model besides its description. Anything else in a folder or a zip is left out."""
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_BLOCK = 2**22
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class CopiedModel:
    """Where a model lies now: its new folder, or the file that it was exported into."""

    place: Path


@dataclass(frozen=True)
class _Source:
    """The files of a model, wherever they are. sizes: in bytes, by name. open: returns a file by its name."""

    place: Path
    sizes: Mapping[str, int]
    open: Callable[[str], IO[bytes]]

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            ModelError: it is larger than any that is written here.
        """
        if self.sizes[name] > _LARGEST[name]:
            raise ModelError(
                f"'{self.place}' is not a model: its {name} is larger than any that is written here. Nothing was "
                "imported."
            )
        with self.open(name) as handle:
            return handle.read(_LARGEST[name])


def check_new_name(name: str, folder: Path) -> None:
    """Refuse what cannot be the name of a new model in `folder`.

    Raises:
        ModelError: it can name no folder, or it is taken; the message has one that is free.
    """
    if not can_name(name) or name.endswith(TRAINING):
        raise ModelError(f"'{printable(name)}' cannot name a model: give it a plain name, such as membranes.")
    check_free(name, folder)


def add_ending(file: Path, ending: str) -> Path:
    """Return a file to write with what its name lacks of an ending, such as ".skipseg.zip"; any ".zip" is one."""
    first, dot, last = ending.rpartition(".")
    name = file.name.casefold()
    if name.endswith(dot + last):
        return file
    return file.with_name(f"{file.name}{dot + last if first and name.endswith(first) else ending}")


def iter_export(folder: Path, out: Path, overwrite: bool = False) -> Generator[Progress, None, Path]:
    """Yield while the model in `folder` is written into one file; return that file.

    out: the file, which gets the ending of such files if it has none, or a folder, in which it is named after the
    model. overwrite: replace a file that is there.

    Raises:
        ModelError: the model is damaged, the file is there already, or it cannot be written.
    """
    description = read_description(folder)
    name = folder.name if can_name(folder.name) else description.name
    file = out / f"{name}{MODEL_ENDING}" if out.is_dir() else add_ending(out, MODEL_ENDING)
    if file.exists() and not overwrite:
        raise ModelError(f"'{file}' already exists, and is not overwritten: give another name.")
    source = _folder_source(folder)
    names = [each for each in (DESCRIPTION_FILE, *_COPIED) if each in source.sizes]
    total, done, sums = sum(source.sizes[each] for each in names), 0, {}
    try:
        make_folders(file.parent)
        with replacing_durably(file) as handle, zipfile.ZipFile(handle, "w", strict_timestamps=False) as archive:
            for each in names:
                found = zipfile.ZipInfo.from_file(folder / each, f"{name}/{each}", strict_timestamps=False)
                # random weights do not shrink
                is_text = each not in (WEIGHTS_FILE, SAMPLE_FILE)
                found.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
                found.external_attr = (stat.S_IFREG | 0o644) << 16
                with archive.open(found, "w") as writing:
                    sums[each] = yield from _iter_copy(source, each, writing, done, total)
                done += source.sizes[each]
            _check_hashes(description, sums, {}, folder)
            lines = "".join(f"{sha256}  {each}\n" for each, sha256 in sums.items())
            archive.writestr(zipfile.ZipInfo(f"{name}/{SUMS_FILE}"), lines)
    except OSError as error:
        raise ModelError(f"The file '{file}' cannot be written: {error.strerror}.") from error
    return file


def iter_import(place: Path, name: str = "", folder: Path | None = None) -> Generator[Progress, None, Path]:
    """Yield while a model is imported from a file that `iter_export` wrote, or from a model folder; return its folder.

    name: of the new model; "" = the name that it has. folder: where it is put; None = that of the user's models. Its
    hashes are checked, and that its weights fit its network, for which torch is loaded.

    Raises:
        ModelError: no model, a damaged or unsafe one, a name that is taken, or a folder that cannot be written.
    """
    folder = user_folder() if folder is None else folder
    with _opened(place) as source:
        description, raw = _describe(source)
        name = name or description.name
        _check_name_of_import(name, folder)
        shapes = shapes_of(description)
        if source.sizes[WEIGHTS_FILE] > largest_weights(sum(map(math.prod, shapes.values()))):
            raise unfit_weights(description)
        with _written_as_sentence(folder / name):
            make_folders(folder)
            with new_folder(folder / name) as inside:
                yield from _iter_copy_files(source, description, raw, inside, name)
                if _shapes_of_file(inside / WEIGHTS_FILE, description) != shapes:
                    raise unfit_weights(description)
    return folder / name


def iter_duplicate(place: Path, name: str) -> Generator[Progress, None, Path]:
    """Yield while the model in the folder `place` is copied to a new one of the user's, called `name`; return that.

    Weights, card and the record of its training stay the same.

    Raises:
        ModelError: the model is damaged, the name is taken, or the folder cannot be written.
    """
    folder = user_folder()
    read_description(place)
    with _opened(place) as source:
        description, raw = _describe(source)
        check_new_name(name, folder)
        with _written_as_sentence(folder / name):
            make_folders(folder)
            with new_folder(folder / name) as inside:
                yield from _iter_copy_files(source, description, raw, inside, name)
    return folder / name


def _check_name_of_import(name: str, folder: Path) -> None:
    try:
        check_new_name(name, folder)
    except ModelError as error:
        if not can_name(name):
            raise
        free = free_name(name, folder)
        raise ModelError(
            f"There is a model called '{name}' already: import it with another name, such as {free}."
        ) from error


def _iter_copy_files(
    source: _Source, description: ModelDescription, raw: bytes, inside: Path, name: str
) -> Generator[Progress, None, None]:
    """Yield while the files of a model are copied to the folder `inside`, where it is called `name`; check them."""
    stated = _sums_in_file(source)
    names = [each for each in _COPIED if each in source.sizes]
    if SAMPLE_FILE in names and description.sample_sha256 is None:
        names.remove(SAMPLE_FILE)
    total, done = sum(source.sizes[each] for each in names), 0
    if total > (free := shutil.disk_usage(inside).free):
        raise ModelError(
            f"The model has {total / 2**20:,.0f} MiB, and the disk of '{inside.parent.parent}' has {free / 2**20:,.0f} "
            "MiB left: make room first."
        )
    sums = {DESCRIPTION_FILE: hashlib.sha256(raw).hexdigest()}
    for each in names:
        if each in _LARGEST and source.sizes[each] > _LARGEST[each]:
            raise ModelError(f"The {each} of '{source.place}' is larger than any that is written here.")
        with (inside / each).open("xb") as writing:
            sums[each] = yield from _iter_copy(source, each, writing, done, total)
        done += source.sizes[each]
    _check_hashes(description, sums, stated, source.place)
    if SCORES_FILE in names:
        scores_from_json((inside / SCORES_FILE).read_bytes(), f"{SCORES_FILE} of '{source.place}'")
    is_renamed = name != description.name
    content = description_to_json(replace(description, name=name)).encode() if is_renamed else raw
    (inside / DESCRIPTION_FILE).write_bytes(content)


def _iter_copy(source: _Source, name: str, into: IO[bytes], done: int, total: int) -> Generator[Progress, None, str]:
    """Yield while one file is copied; return its hash. done, total: bytes of all files."""
    sha256, left = hashlib.sha256(), source.sizes[name]
    with source.open(name) as reading:
        while block := reading.read(_BLOCK):
            left -= len(block)
            if left < 0:
                break
            sha256.update(block)
            into.write(block)
            yield Progress(done + source.sizes[name] - left, total, f"copying {name}")
    if left:
        raise ModelError(f"{name} in '{source.place}' changed while it was copied: try again.")
    return sha256.hexdigest()


def _check_hashes(
    description: ModelDescription, found: Mapping[str, str], stated: Mapping[str, str], place: Path
) -> None:
    """Check the hashes of copied files against those that the description and a list of hashes have."""
    for name, sha256 in stated.items():
        if name not in found:
            raise ModelError(f"'{place}' is not whole: {name} is missing. Copy or export it again.")
        if found[name] != sha256:
            raise ModelError(f"{name} in '{place}' is damaged (SHA-256 differs): copy or export it again.")
    wanted = {WEIGHTS_FILE: description.weights_sha256, SAMPLE_FILE: description.sample_sha256}
    for name, named in wanted.items():
        if named is not None and found.get(name) != named:
            raise changed_file(description, name)


def _sums_in_file(source: _Source) -> dict[str, str]:
    """Return the hashes that come with a model, of the files that are imported; none if there is no list."""
    if SUMS_FILE not in source.sizes:
        return {}
    lines = source.read(SUMS_FILE).decode("utf-8", "replace").splitlines()
    matches = [_SUM.fullmatch(line) for line in lines if line]
    if not all(matches):
        raise ModelError(f"{SUMS_FILE} in '{source.place}' is damaged: copy or export the model again.")
    stated = {each[2]: each[1].lower() for each in matches if each is not None}
    return {name: sha256 for name, sha256 in stated.items() if name in (DESCRIPTION_FILE, *_COPIED)}


def _describe(source: _Source) -> tuple[ModelDescription, bytes]:
    """Return the description of a model, without its scores, and the content of its file."""
    if WEIGHTS_FILE not in source.sizes:
        raise ModelError(f"The model at '{source.place}' has no {WEIGHTS_FILE}: copy or export it again.")
    raw = source.read(DESCRIPTION_FILE)
    return description_from_json(raw, f"'{source.place}'"), raw


def _shapes_of_file(file: Path, description: ModelDescription) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a weights file, of which only the header is read."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        handle.seek(0)
        size = file.stat().st_size
        return shapes_in(handle.read(min(size, 8 + length)), description, size)


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[_Source]:
    """Yield the files of a model in a folder or a file.

    Raises:
        ModelError: there is no model, or it cannot be read safely.
    """
    if place.is_dir():
        yield _folder_source(place)
        return
    if place.suffix.lower() in PICKLES:
        raise ModelError(f"'{place}' is not loaded: such files can run code. Import a model that SkipSeg exported.")
    try:
        if not place.is_file():
            raise ModelError(f"There is no file or folder '{place}'.")
        with zipfile.ZipFile(place) as archive:
            yield _archive_source(place, archive)
    except OSError as error:
        raise ModelError(f"'{place}' cannot be read: {error.strerror}.") from error
    # A bad CRC, a cut-off stream, a password, an unknown method; what has no such name comes from zipfile itself.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise ModelError(
            f"'{place}' cannot be read as a model ({printable(str(error))}): copy or export it again."
        ) from error


def _folder_source(folder: Path) -> _Source:
    names = (DESCRIPTION_FILE, *_COPIED, SUMS_FILE)
    sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    if DESCRIPTION_FILE not in sizes:
        raise ModelError(f"'{folder}' is not a model: there is no {DESCRIPTION_FILE} in it.")
    return _Source(folder, sizes, lambda name: (folder / name).open("rb"))


def _archive_source(place: Path, archive: zipfile.ZipFile) -> _Source:
    """Return the files of the one model in a zip. A zip with anything unsafe is refused as a whole."""
    entries = [each for each in archive.infolist() if not each.is_dir()]
    for each in entries:
        _check_entry(place, each)
    described = [
        PurePosixPath(each.filename) for each in entries if PurePosixPath(each.filename).name == DESCRIPTION_FILE
    ]
    if len(described) != 1:
        what = "several models: import them one by one" if described else f"no model: there is no {DESCRIPTION_FILE}"
        raise ModelError(f"'{place}' holds {what}.")
    (top,) = (each.parent for each in described)
    files = [each for each in entries if PurePosixPath(each.filename).parent == top]
    by_name = {PurePosixPath(each.filename).name: each for each in files}
    if len(by_name) != len(files):
        raise ModelError(f"'{place}' holds a file twice, so it is not imported: export the model again.")
    known = {name: by_name[name] for name in (DESCRIPTION_FILE, *_COPIED, SUMS_FILE) if name in by_name}
    for name, each in known.items():
        if each.flag_bits & _ENCRYPTED or each.compress_type not in _PLAIN:
            raise ModelError(f"{name} in '{place}' is encrypted or packed in an unknown way: export the model again.")
    return _Source(
        place, {name: each.file_size for name, each in known.items()}, lambda name: archive.open(known[name])
    )


def _check_entry(place: Path, entry: zipfile.ZipInfo) -> None:
    """Refuse an entry whose name leads out of the folder that it is unpacked to, and a link.

    Raises:
        ModelError: it is one.
    """
    name = entry.orig_filename
    parts = PurePosixPath(name).parts
    leads_out = name.startswith("/") or ".." in parts or any(mark in name for mark in "\\:\0")
    if leads_out or stat.S_ISLNK(entry.external_attr >> 16):
        what = "leads out of its folder" if leads_out else "is a link"
        raise ModelError(f"'{place}' is not imported: '{printable(name)}' in it {what}, which no model needs.")


@contextlib.contextmanager
def _written_as_sentence(target: Path) -> Iterator[None]:
    """Turn an error of the disk into a sentence.

    Raises:
        ModelError: with the reason.
    """
    try:
        yield
    except FileExistsError as error:
        raise ModelError(
            f"'{target}' already exists; a model is never overwritten: choose a different name."
        ) from error
    except OSError as error:
        raise ModelError(f"The model cannot be written to '{target}': {error.strerror}.") from error
