"""CSV files: written whole or not at all, opened by Excel with a double click, and without foreign formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from napari_skipseg.foreign_text import cell_of
from napari_skipseg.images.faults import replacing

ENCODING = "utf-8-sig"
"""UTF-8 with a byte order mark: without it Excel reads a file in the local code page, and µm³ becomes ÂµmÂ³. pandas, R
and LibreOffice read both."""


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; the file appears whole, or on any fault not at all. None becomes an empty cell.

    Raises:
        FileError: it cannot be written.
    """
    with replacing(path) as handle:
        # a file name that is no valid UTF-8 is written as its bytes
        text = io.TextIOWrapper(handle, encoding=ENCODING, newline="", errors="backslashreplace")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(cell_of, names))
        writer.writerows(map(cell_of, row) for row in rows)
        text.detach()  # flushes it, and leaves the file open


def write_csv_of(path: Path, rows: Sequence[Mapping[str, object]], names: Sequence[str] | None = None) -> None:
    """Write rows whose values are named, as `write_csv`. names: of the columns; None = all that any row has.

    Raises:
        FileError: it cannot be written.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row)) if names is None else names
    write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as text, by column; none if there is no such file or it is no table."""
    try:
        with path.open(newline="", encoding=ENCODING) as handle:
            return [row for row in csv.DictReader(handle) if None not in row and None not in row.values()]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
