"""The results of a study: the rows of a table, and files that appear together when all are complete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from napari_skipseg.csv_files import write_csv_of
from napari_skipseg.durable import replace, sync, sync_folder
from napari_skipseg.errors import FileError

StudyRow = dict[str, Any]
"""One row of a table: values by column; None = an empty cell."""


class StudyResult(NamedTuple):
    """The rows of a study's table, and the files it wrote."""

    rows: list[StudyRow]
    files: list[Path]


def write_table(path: Path, rows: Sequence[StudyRow]) -> Path:
    """Write a CSV with the columns of the first row, and return `path`. The file appears when it is complete.

    Raises:
        FileError: it cannot be written.
    """
    write_csv_of(path, rows, list(rows[0]) if rows else [])
    return path


def move_into(drafts: Iterable[Path], folder: Path) -> list[Path]:
    """Move finished files to `folder`, where they replace older ones; return their new paths.

    Raises:
        FileError: one cannot be moved.
    """
    drafts = list(drafts)
    try:
        sync(drafts)
        moved = [replace(draft, folder / draft.name) for draft in drafts]
        sync_folder(folder)
        return moved
    except OSError as error:
        raise FileError(f"The results cannot be moved to '{folder}': {error.strerror or error}.") from error
