"""The models that a form offers; one that does not allow every use is marked."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from napari_skipseg.errors import SkipsegError
from napari_skipseg.models.catalog import find_models
from napari_skipseg.models.folder import DESCRIPTION_FILE, read_description
from napari_skipseg.models.licenses import license_mark


def model_choices() -> list[tuple[str, object]]:
    """Return (text, name) of each model: the text is the name with the mark of its licence, if it has one."""
    choices: list[tuple[str, object]] = []
    for name, folder in find_models().items():
        mark = _mark_of(folder, (folder / DESCRIPTION_FILE).stat().st_mtime_ns)
        choices.append((f"{name} ({mark})" if mark else name, name))
    return choices


@lru_cache(maxsize=256)
def _mark_of(folder: Path, changed_at: int) -> str:
    """Return the mark of a model; "" if it is damaged, as the form says what is wrong once it is chosen."""
    try:
        card = read_description(folder).card
    except SkipsegError:
        return ""
    return license_mark(card.license, card.terms)
