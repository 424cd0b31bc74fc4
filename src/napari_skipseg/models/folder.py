"""A model on disk: a folder with `model.json` and `weights.safetensors`, checked by SHA-256. No pickle is ever read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import ModelDescription, description_from_json

DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".bin")


def read_description(folder: Path) -> ModelDescription:
    """Return the description of the model in `folder`; its weights are not touched.

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
    return description_from_json(text, str(folder))


def read_weights(folder: Path, description: ModelDescription) -> bytes:
    """Return the content of the weights file, after its SHA-256 was found to be the description's.

    Raises:
        ModelError: the file is missing or is not the one that the description names.
    """
    file = folder / WEIGHTS_FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"Model '{description.name}' has no readable {WEIGHTS_FILE} in '{folder}': copy the whole folder again."
        ) from error
    if hashlib.sha256(content).hexdigest() != description.weights_sha256:
        raise ModelError(
            f"The weights of model '{description.name}' are not the ones its {DESCRIPTION_FILE} names (SHA-256 "
            "differs): the file was changed or damaged; copy the whole folder again."
        )
    return content
