"""Models that a machine got from another one: kept by their hashes in the user's cache folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from napari_skipseg.durable import draft_folder, make_folders, put_files, replace, sync_folder
from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.models.catalog import find_models, locate_model
from napari_skipseg.models.folder import DESCRIPTION_FILE, WEIGHTS_FILE, read_description, read_weights
from napari_skipseg.user_folders import cache_folder

FOLDER_VARIABLE = "NAPARI_SKIPSEG_SENT_MODELS"


def read_files(folder: Path) -> tuple[bytes, bytes]:
    """Return the description and the weights of the model in `folder`, as they lie on the disk.

    Raises:
        ModelError: there is none, or its weights are not those that its description names.
    """
    description = read_description(folder)
    return (folder / DESCRIPTION_FILE).read_bytes(), read_weights(folder, description)


def hash_of(folder: Path) -> str:
    """Return the SHA-256 of a model's description, which names that of its weights; "" where there is none."""
    try:
        return hashlib.sha256((folder / DESCRIPTION_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def find_sent(name: str, sha256: str) -> Path | None:
    """Return the folder of the model whose description has this hash: that called `name`, one that was sent, or any of
    this machine's; None where it has no such model."""
    try:
        named = [locate_model(name)]
    except SkipsegError:
        named = []
    for folder in (*named, _place(sha256), *find_models().values()):
        if hash_of(folder) == sha256:
            return folder
    return None


def keep_sent(description: bytes, weights: bytes) -> str:
    """Return the folder in which a model that was sent is kept; it appears whole or not at all.

    Raises:
        ModelError: the weights are not those that the description names.
        FileError: it cannot be written.
    """
    sha256 = hashlib.sha256(description).hexdigest()
    folder = _place(sha256)
    if hash_of(folder) == sha256:
        return str(folder)
    with telling_faults(folder):
        make_folders(folder.parent)
        with draft_folder(folder.parent) as draft:
            files = {DESCRIPTION_FILE: description, WEIGHTS_FILE: weights}
            put_files(draft / folder.name, files)
            read_weights(draft / folder.name, read_description(draft / folder.name))
            _put(draft / folder.name, folder, sha256)
    return str(folder)


def _put(draft: Path, folder: Path, sha256: str) -> None:
    """Rename `draft`; another worker of this machine may have been quicker."""
    try:
        replace(draft, folder)
        sync_folder(folder.parent)
    except OSError:
        if hash_of(folder) != sha256:
            raise


def _place(sha256: str) -> Path:
    if len(sha256) != hashlib.sha256().digest_size * 2 or not sha256.isalnum():
        raise ModelError(f"'{sha256[:80]}' is no hash of a model: start the batch anew.")
    return cache_folder("models", FOLDER_VARIABLE) / sha256
