"""A package as a folder: a folder as it is, a zip unpacked after its entries were checked, an address fetched first."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from napari_skipseg.errors import ModelError
from napari_skipseg.foreign_text import printable

RDF_NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
LARGEST_PACKAGE = 4 * 2**30
"""Most bytes of a package, packed or not."""
MOST_PACKED_FILES = 1000
_BLOCK = 2**20
_TIMEOUT = 60
"""Seconds without an answer after which a server is given up."""
_HASH_LENGTH = 64


def is_address(place: str) -> bool:
    """Return whether `place` is an address on the web."""
    return place.lower().startswith(("http://", "https://"))


def is_package(place: Path) -> bool:
    """Return whether a folder or a zip has the description of a bioimage.io package at its top."""
    if place.is_dir():
        return any((place / name).is_file() for name in RDF_NAMES)
    try:
        with zipfile.ZipFile(place) as archive:
            return not {_tidy(name) for name in archive.namelist()}.isdisjoint(RDF_NAMES)
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


@contextlib.contextmanager
def opened_package(place: str, sha256: str = "") -> Iterator[Path]:
    """Yield the folder of a package; what was unpacked or fetched is removed at the end.

    place: a folder, a zip, or the address of a zip. sha256: of the zip, if it is known.

    Raises:
        ModelError: it cannot be fetched or read, is too large, is not what `sha256` names, or its entries are unsafe.
    """
    with tempfile.TemporaryDirectory(prefix="skipseg-package-") as made:
        file = Path(place).expanduser()
        if is_address(place):
            file = Path(made) / "fetched.zip"
            _fetch(place, file, sha256)
        if file.is_dir():
            if sha256:
                raise ModelError(f"'{place}' is a folder, and a hash names a file: leave the hash out.")
            yield file
            return
        if not file.is_file():
            raise ModelError(f"There is no file or folder '{place}'.")
        if sha256:
            _check_hash(file, sha256, place)
        folder = Path(made) / "package"
        folder.mkdir()
        _unpack(file, folder, place)
        yield folder


def _fetch(address: str, file: Path, sha256: str) -> None:
    if urlsplit(address).scheme.lower() == "http" and not sha256:
        raise ModelError(f"'{address}' is not encrypted: give an https address, or the SHA-256 of the file.")
    request = urllib.request.Request(address, headers={"User-Agent": "napari-skipseg"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer, file.open("wb") as handle:
            total = 0
            while block := answer.read(_BLOCK):
                total += len(block)
                if total > LARGEST_PACKAGE:
                    raise _too_large(address)
                handle.write(block)
    except urllib.error.HTTPError as error:
        raise ModelError(f"'{address}' cannot be fetched: the server answers {error.code} {error.reason}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ModelError(f"'{address}' cannot be fetched: {reason}.") from error


def _check_hash(file: Path, sha256: str, place: str) -> None:
    if len(sha256) != _HASH_LENGTH or set(sha256.lower()) - set("0123456789abcdef"):
        raise ModelError(f"'{sha256}' is no SHA-256: that is 64 digits and letters from a to f.")
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != sha256.lower():
        raise ModelError(f"'{place}' is not the file that the hash names: its SHA-256 is {found}.")


def _too_large(place: str) -> ModelError:
    return ModelError(f"'{place}' has more than {LARGEST_PACKAGE / 2**30:.0f} GiB: it is not imported.")


def _unpack(file: Path, folder: Path, place: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [each for each in archive.infolist() if not each.is_dir()]
            _check_entries(entries, folder, place)
            for each in entries:
                target = folder / _tidy(each.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                _unpack_one(archive, each, target, place)
    except OSError as error:
        raise ModelError(f"'{place}' cannot be unpacked: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise ModelError(f"'{place}' is no whole zip file ({printable(str(error))}): download it again.") from error


def _check_entries(entries: list[zipfile.ZipInfo], folder: Path, place: str) -> None:
    """Refuse names that lead out of the folder, links, names that come twice, and more bytes than there is room for."""
    for each in entries:
        name = each.orig_filename
        leads_out = name.startswith("/") or ".." in PurePosixPath(name).parts or any(mark in name for mark in "\\:\0")
        if leads_out or stat.S_ISLNK(each.external_attr >> 16):
            what = "leads out of its folder" if leads_out else "is a link"
            raise ModelError(f"'{place}' is not imported: '{printable(name)}' in it {what}, which no model needs.")
    names = {_tidy(each.filename).casefold() for each in entries}
    if len(entries) > MOST_PACKED_FILES or len(names) != len(entries):
        what = "a file twice" if len(names) != len(entries) else f"more than {MOST_PACKED_FILES} files"
        raise ModelError(f"'{place}' holds {what}: it is not imported.")
    total = sum(each.file_size for each in entries)
    if total > LARGEST_PACKAGE:
        raise _too_large(place)
    if total > (free := shutil.disk_usage(folder).free):
        raise ModelError(
            f"'{place}' unpacked has {total / 2**20:,.0f} MiB, and the disk of '{folder.parent}' has "
            f"{free / 2**20:,.0f} MiB left: make room first."
        )


def _unpack_one(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, place: str) -> None:
    """Write one entry, never more than the bytes that the zip says it has."""
    left = entry.file_size
    with archive.open(entry) as reading, target.open("xb") as writing:
        while block := reading.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise ModelError(f"'{place}' is not imported: a file in it is larger than it says.")
            writing.write(block)


def _tidy(name: str) -> str:
    return str(PurePosixPath(name))
