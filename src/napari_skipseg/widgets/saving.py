"""Results into files: where to, and the writing beside the window."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_skipseg.foreign_text import unmarked
from napari_skipseg.inference.outputs import Prediction
from napari_skipseg.progress import Progress


def ask_folder(parent: QWidget, name: str) -> Path | None:
    """Return the folder that the user chooses for results of such a name; None where nothing is to be written."""
    chosen = QFileDialog.getExistingDirectory(parent, "Folder for the results")
    if not chosen:
        return None
    there = sorted(path.name for path in Path(chosen).glob(f"{name}_*.tif"))
    question = f"{', '.join(there)} in this folder will be replaced. Go on?"
    if there and QMessageBox.question(parent, "Replace results?", unmarked(question)) != QMessageBox.StandardButton.Yes:
        return None
    return Path(chosen)


def iter_save(
    prediction: Prediction, folder: Path, name: str, threshold: float
) -> Generator[Progress, None, list[Path]]:
    """Return the files that a prediction was written into.

    Raises:
        FileError: nothing can be written.
    """
    from napari_skipseg.inference.saving import save_prediction

    yield Progress(0, 1, "writing the results")
    return save_prediction(prediction, folder, name, threshold)
