"""A model on disk: a folder with `model.json` and `weights.safetensors`, checked by SHA-256. No pickle is ever read.

These two are never changed. Scores lie beside them in `scores.json`: a model is written as soon as its training ends,
so that it is not lost if scoring fails, and is scored afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from functools import lru_cache
from pathlib import Path

from napari_skipseg.devices import free_memory
from napari_skipseg.durable import write_durably
from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import (
    ModelDescription,
    ModelScores,
    description_from_json,
    scores_from_json,
    scores_to_json,
    with_scores,
)

DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
SAMPLE_FILE = "sample.safetensors"
SCORES_FILE = "scores.json"
LICENSE_FILE = "LICENSE.txt"
TRAINING = ".training"
"""Ending of the folder of a training's checkpoint, which lies beside the new model and is locked while it trains."""
STARTED_FROM_FILE = "started-from.txt"
"""In that folder, while it trains: the folder of the model that the training starts from."""
LARGEST_DESCRIPTION = 16 * 2**20
"""Bytes of a description; ours have some thousands, and curves are thinned."""
LARGEST_SAMPLE = 2**30
"""Bytes of a sample; ours have at most 10 MB."""
LARGEST_HEADER = 2**24
"""Bytes of the header of a weights file, which says what tensors there are."""
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of an element, by what safetensors calls its type."""
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".bin")


def read_description(folder: Path) -> ModelDescription:
    """Return the description of the model in `folder`, with its scores; its weights are not touched.

    Raises:
        ModelError: no such folder, no model in it, a file that may run code when loaded, or an invalid description.
    """
    if folder.suffix.lower() in PICKLES:
        raise ModelError(
            f"'{folder}' is not loaded: such files can run code. A model is a folder with {DESCRIPTION_FILE} and "
            f"{WEIGHTS_FILE}, as `napari-skipseg train` writes it."
        )
    if not folder.is_dir():
        raise ModelError(f"There is no model folder at '{folder}'. `napari-skipseg models` lists the known ones.")
    file = folder / DESCRIPTION_FILE
    try:
        text = _read_up_to(file, LARGEST_DESCRIPTION)
    except OSError as error:
        raise ModelError(f"'{folder}' is not a model: {DESCRIPTION_FILE} cannot be read in it.") from error
    if text is None:
        raise ModelError(f"'{folder}' is not a model: its {DESCRIPTION_FILE} is larger than any that is written here.")
    description = description_from_json(text, str(folder))
    scores = folder / SCORES_FILE
    try:
        found = _read_up_to(scores, LARGEST_DESCRIPTION) if os.path.lexists(scores) else b""
    except OSError as error:
        raise ModelError(
            f"The file {scores} cannot be read ({error.strerror}): copy the whole folder again."
        ) from error
    if found is None:
        raise ModelError(f"The file {scores} is larger than any that is written here: copy the whole folder again.")
    return with_scores(description, scores_from_json(found, str(scores))) if found else description


def is_scored(folder: Path) -> bool:
    """Return whether the model in `folder` was scored after it was written."""
    return (folder / SCORES_FILE).exists()


def write_scores(folder: Path, scores: ModelScores) -> None:
    """Write the scores of the model in `folder`, whole or not at all.

    Raises:
        ModelError: the folder cannot be written.
    """
    file = folder / SCORES_FILE
    try:
        write_durably(file, scores_to_json(scores).encode())
    except OSError as error:
        raise ModelError(f"The scores cannot be written to '{file}': {error.strerror}.") from error


def read_weights(folder: Path, description: ModelDescription, most: int | None = None) -> bytes:
    """Return the content of the weights file, if its SHA-256 is that of the description.

    most: bytes that it may have; None for as many as there is memory.

    Raises:
        ModelError: the file is missing, larger, or not the one that the description names.
    """
    file = folder / WEIGHTS_FILE
    return _read_checked(file, description, description.weights_sha256, free_memory("cpu") if most is None else most)


def shapes_in(content: bytes, description: ModelDescription, size: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in the content of a weights file, from its header; no tensor is made.

    size: of the file, if `content` is only its beginning.

    Raises:
        ModelError: the header does not describe the content.
    """
    length, size = int.from_bytes(content[:8], "little"), len(content) if size is None else size
    try:
        if length > min(LARGEST_HEADER, len(content) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        shapes, spans = {}, []
        for name, tensor in header.items():
            shape, (begin, end) = tuple(map(int, tensor["shape"])), map(int, tensor["data_offsets"])
            if min(shape, default=0) < 0 or math.prod(shape) * SIZES[tensor["dtype"]] != end - begin:
                raise ValueError(f"{name} has different bytes than its shape")
            shapes[name] = shape
            spans.append((begin, end))
        ends = [0, *(end for _, end in sorted(spans))]
        if [begin for begin, _ in sorted(spans)] != ends[:-1] or 8 + length + ends[-1] != size:
            raise ValueError("the tensors do not fill the file")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise unfit_weights(description) from error
    return shapes


def read_sample(folder: Path, description: ModelDescription) -> bytes:
    """Return the content of the file with the rehearsal samples of a model, checked in the same way.

    Raises:
        ModelError: the model has none, or the file is missing or not the one that the description names.
    """
    return _read_checked(folder / SAMPLE_FILE, description, description.sample_sha256 or "", LARGEST_SAMPLE)


def _read_checked(file: Path, description: ModelDescription, sha256: str, most: int) -> bytes:
    try:
        content = _read_up_to(file, most)
    except OSError as error:
        raise ModelError(
            f"Model '{description.name}' has no readable {file.name} in '{file.parent}': copy the whole folder again."
        ) from error
    if content is None:
        raise ModelError(
            f"{file.name} of model '{description.name}' has more than {most / 2**30:.1f} GiB, which cannot be read "
            "here: copy the whole folder again, or close other programs."
        )
    if hashlib.sha256(content).hexdigest() != sha256:
        raise changed_file(description, file.name)
    return content


def check_files(folder: Path, description: ModelDescription) -> None:
    """Check the hashes of all files that a description names, without keeping their content in memory.

    Raises:
        ModelError: one is missing, or not the one that is named.
    """
    wanted = {WEIGHTS_FILE: description.weights_sha256, SAMPLE_FILE: description.sample_sha256}
    for name, sha256 in wanted.items():
        if sha256 is None:
            continue
        file = folder / name
        try:
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
            content = _sha256_of(file, found.st_size, found.st_mtime_ns)
        except OSError as error:
            raise ModelError(
                f"Model '{description.name}' has no readable {name} in '{folder}': copy the whole folder again."
            ) from error
        if content != sha256:
            raise changed_file(description, name)


@lru_cache(maxsize=1024)
def _sha256_of(file: Path, size: int, changed_at: int) -> str:
    """Return the hash of a file; the size and the time of its last change make it a different one."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def changed_file(description: ModelDescription, name: str) -> ModelError:
    """Return the error of a file that is not the one whose hash the description has."""
    what, verb = ("weights", "are not the ones") if name == WEIGHTS_FILE else ("sample", "is not the one")
    return ModelError(
        f"The {what} of model '{description.name}' {verb} its {DESCRIPTION_FILE} names (SHA-256 "
        "differs): the file was changed or damaged; copy the whole folder again."
    )


def unfit_weights(description: ModelDescription) -> ModelError:
    """Return the error of weights that do not fit the network."""
    return ModelError(
        f"The weights of model '{description.name}' are damaged, or do not fit the network its {DESCRIPTION_FILE} "
        "describes: copy the whole folder again."
    )


def _read_up_to(file: Path, most: int) -> bytes | None:
    """Return the content of a file; None, without reading it, if it has more than `most` bytes."""
    if not file.is_file():  # opening a pipe would wait for ever, and a device may have no end
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    with file.open("rb") as handle:
        if os.fstat(handle.fileno()).st_size > most:
            return None
        return handle.read()
