"""Corrections into files and out of them: asking where, and the work beside the window."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Literal

from qtpy.QtWidgets import QFileDialog, QWidget

from napari_skipseg.corrections.exchange import export_corrections, import_labels
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.progress import Progress

What = Literal["target", "strokes"]

KINDS = {"OME-TIFF (*.ome.tif)": ".ome.tif", "OME-Zarr (*.ome.zarr)": ".ome.zarr"}


def ask_export(parent: QWidget, name: str) -> Path | None:
    """Return the file that the user chooses for corrections; None where nothing is to be written."""
    chosen, kind = QFileDialog.getSaveFileName(parent, "Export corrections", f"{name}_labels.ome.tif", ";;".join(KINDS))
    if not chosen:
        return None
    has_ending = chosen.lower().endswith((".tif", ".tiff", ".zarr"))
    return Path(chosen if has_ending else chosen + KINDS.get(kind, ".ome.tif"))


def ask_import(parent: QWidget, folder: bool) -> Path | None:
    """Return the labels that the user chooses: a file, or the folder of an OME-Zarr."""
    if folder:
        chosen = QFileDialog.getExistingDirectory(parent, "Labels to import (OME-Zarr)")
    else:
        kinds = "Labels (*.tif *.tiff *.mrc);;All files (*)"
        chosen = QFileDialog.getOpenFileName(parent, "Labels to import", "", kinds)[0]
    return Path(chosen) if chosen else None


def iter_export(corrections: Corrections, path: Path, what: What) -> Generator[Progress, None, Path]:
    """Return the file that the corrections were written into.

    Raises:
        SkipsegError: it cannot be written.
    """
    yield Progress(0, 1, "writing the corrections")
    export_corrections(corrections, path, what=what)
    return path


def iter_import(corrections: Corrections, path: Path) -> Generator[Progress, None, Path]:
    """Return the file whose labels the corrections hold now.

    Raises:
        SkipsegError: it cannot be read, or its labels do not fit; then nothing was changed.
    """
    yield Progress(0, 1, "reading the labels")
    import_labels(corrections, path)
    return path
