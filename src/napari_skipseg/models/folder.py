"""A model on disk: a folder with `model.json` and `weights.safetensors`, checked by SHA-256. No pickle is ever read.

These two are never changed. Scores lie beside them in `scores.json`: a model is written as soon as its training ends,
so that it is not lost if scoring fails, and is scored afterwards.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

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
        text = file.read_bytes()
    except OSError as error:
        raise ModelError(f"'{folder}' is not a model: {DESCRIPTION_FILE} cannot be read in it.") from error
    description = description_from_json(text, str(folder))
    scores = folder / SCORES_FILE
    try:
        found = scores.read_bytes()
    except FileNotFoundError:
        return description
    except OSError as error:
        raise ModelError(
            f"The file {scores} cannot be read ({error.strerror}): copy the whole folder again."
        ) from error
    return with_scores(description, scores_from_json(found, str(scores)))


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


def read_weights(folder: Path, description: ModelDescription) -> bytes:
    """Return the content of the weights file, after its SHA-256 was found to be the description's.

    Raises:
        ModelError: the file is missing or is not the one that the description names.
    """
    return _read_checked(folder / WEIGHTS_FILE, description, description.weights_sha256, "weights")


def read_sample(folder: Path, description: ModelDescription) -> bytes:
    """Return the content of the file with the model's own sample, checked likewise.

    Raises:
        ModelError: the model has none, the file is missing or is not the one that the description names.
    """
    return _read_checked(folder / SAMPLE_FILE, description, description.sample_sha256 or "", "sample")


def _read_checked(file: Path, description: ModelDescription, sha256: str, what: str) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"Model '{description.name}' has no readable {file.name} in '{file.parent}': copy the whole folder again."
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        verb = "are not the ones" if what == "weights" else "is not the one"
        raise ModelError(
            f"The {what} of model '{description.name}' {verb} its {DESCRIPTION_FILE} names (SHA-256 "
            "differs): the file was changed or damaged; copy the whole folder again."
        )
    return content
