"""A table of measurements: for a layer's features, and for a CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.csv_files import write_csv

_SHOWN = 20
"""Names of columns in the `repr` of a table."""


@dataclass(frozen=True, repr=False)
class ObjectTable:
    """Columns of one length, each with its name; units stand in the names, as in "volume (nm³)"."""

    names: tuple[str, ...]
    columns: tuple[NDArray[Any], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.columns) or len({len(column) for column in self.columns}) > 1:
            raise ValueError("a table has one name for each column, and columns of one length")

    def __repr__(self) -> str:
        rest = len(self.names) - _SHOWN
        names = ", ".join(self.names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        return f"Table of {len(self)} row{'s' * (len(self) != 1)}: {names}"

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def column(self, name: str) -> NDArray[Any]:
        """Return the column of a name."""
        return self.columns[self.names.index(name)]

    def as_features(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, with a first row for label 0, as the features of a labels layer."""
        features = {}
        for name, column in zip(self.names, self.columns, strict=True):
            empty = np.zeros(1, column.dtype) if column.dtype.kind in "iu" else np.full(1, np.nan, column.dtype)
            features[name] = np.concatenate([empty, column])
        return {"index": features["label"], **features} if "label" in features else features

    def write_csv(self, path: str | PathLike[str]) -> None:
        """Write a CSV file, fractions with 7 digits and without exponents; it appears whole, or not at all.

        Raises:
            FileError: it cannot be written.
        """
        texts = (list(map(_text_of, column)) for column in map(np.ndarray.tolist, self.columns))
        write_csv(Path(path), self.names, zip(*texts, strict=True))


def _text_of(value: float | int | str) -> str:
    """Return a value as text. A number has no exponent: Excel shows a column with some of them in two formats."""
    if not isinstance(value, float):
        return str(value)
    text = "" if value != value else f"{value:.7g}"
    if "e" not in text:
        return text
    return f"{value:.0f}" if abs(value) > 1 else np.format_float_positional(float(text), trim="-")
