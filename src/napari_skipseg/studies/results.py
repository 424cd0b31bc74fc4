"""What a study leaves behind: rows of a table and files, which appear together when the last one is whole."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from napari_skipseg.errors import FileError

Row = dict[str, Any]
"""One row of a table: values by column; None where there is none."""


class StudyResult(NamedTuple):
    """The rows of a study's table, and the files it wrote."""

    rows: list[Row]
    files: list[Path]


def write_table(path: Path, rows: Sequence[Row]) -> Path:
    """Return `path`, written as a CSV with the columns of the first row; None becomes an empty cell.

    The file takes its name when it is whole.

    Raises:
        FileError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
        return part.replace(path)
    except OSError as error:
        raise FileError(
            f"The table '{path}' cannot be written ({error.strerror or error}): choose another place."
        ) from error


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV as text; none where there is no such file or it is no table."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return [row for row in csv.DictReader(handle) if None not in row and None not in row.values()]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def move_into(drafts: Iterable[Path], folder: Path) -> list[Path]:
    """Return finished files under their names in `folder`, where they replace older ones.

    Raises:
        FileError: one cannot be moved.
    """
    try:
        return [draft.replace(folder / draft.name) for draft in drafts]
    except OSError as error:
        raise FileError(f"The results cannot be moved to '{folder}': {error.strerror or error}.") from error
