"""The catalog that finds models by name: the built-in ones and the user's own. Loads without torch."""

from __future__ import annotations

import os
import re
from itertools import count
from pathlib import Path

from napari_skipseg.errors import ModelError
from napari_skipseg.file_names import normalized_name
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import DESCRIPTION_FILE, read_description
from napari_skipseg.user_folders import data_folder

BUILT_IN = Path(__file__).parent / "builtin"
DEFAULT_MODEL = "em-membrane"
MODELS_VARIABLE = "NAPARI_SKIPSEG_MODELS"


def user_folder() -> Path:
    """Return the folder of the user's own models: `NAPARI_SKIPSEG_MODELS`, else one in the user's data folder."""
    return data_folder("models", MODELS_VARIABLE)


def find_models() -> dict[str, Path]:
    """Return the folder of every model by name: first the default, then built-in ones, then the user's own."""
    found: dict[str, Path] = {}
    for place in (BUILT_IN, user_folder()):
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                # The name of a model that is being written begins with a dot.
                if not folder.name.startswith(".") and (folder / DESCRIPTION_FILE).is_file():
                    found.setdefault(folder.name, folder)
    return dict(sorted(found.items(), key=lambda item: item[0] != DEFAULT_MODEL))


def check_free(name: str, folder: Path) -> None:
    """Refuse the name of a new model in `folder` if a model there or a built-in one has it.

    Raises:
        ModelError: it is taken.
    """
    taken = next((place for place in (folder, BUILT_IN) if name_key(name) in _keys_in(place)), None)
    if taken is not None:
        what = f"'{taken / name}' already exists" if taken == folder else f"'{name}' is a built-in model"
        raise ModelError(
            f"{what}; a model is never overwritten: choose a different name, such as {free_name(name, folder)}."
        )


def free_name(name: str, folder: Path) -> str:
    """Return `name` with the first number, from 2 on, that no model in `folder` and no built-in one has."""
    stem, taken = re.sub(r"-\d+$", "", name), _keys_in(folder) | _keys_in(BUILT_IN)
    return next(found for number in count(2) if name_key(found := f"{stem}-{number}") not in taken)


def name_key(name: str) -> str:
    """Return what two names have in common that are one on some system: é is one or two characters, A may be a."""
    return normalized_name(name).casefold()


def _keys_in(folder: Path) -> set[str]:
    try:
        return {name_key(each.name) for each in folder.iterdir()}
    except OSError:  # there is none yet
        return set()


def locate_model(name: str) -> Path:
    """Return the folder of the model called `name`, which may also be a path.

    Raises:
        ModelError: there is no such model.
    """
    found = find_models()
    alike = {normalized_name(each): folder for each, folder in found.items()} | found
    for known_name in (name, normalized_name(name)):
        if known_name in alike:
            return alike[known_name]
    path = Path(name).expanduser()
    if path.exists() or path.suffix or os.sep in name or "/" in name:
        return path
    known = ", ".join(found) or "none"
    raise ModelError(f"There is no model called '{name}'. Known models: {known}; or give the path of a model folder.")


def describe_model(name: str) -> ModelDescription:
    """Return the description of the model called `name`, which may also be a path."""
    return read_description(locate_model(name))
