"""Save results: on where the image in the form has a whole result; asks where to, and writes beside the window."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPushButton

from napari_skipseg.batch.wording import counted
from napari_skipseg.inference.outputs import file_name
from napari_skipseg.widgets.checks import Choices
from napari_skipseg.widgets.layers import Shown
from napari_skipseg.widgets.popups import pop_up
from napari_skipseg.widgets.saving import ask_folder, iter_save

if TYPE_CHECKING:
    from napari_skipseg.widgets.segment import SegmentTab

SAVE_HINT = "Write probability, binary and attention of this image as OME-TIFF into a folder"
STOPPED_HINT = "This result was stopped before it was whole: segment again to save it"


class SaveButton(QPushButton):  # type: ignore[misc]
    """Saves what the Segment tab shows of its image."""

    def __init__(self, tab: SegmentTab) -> None:
        super().__init__("Save results…")
        self._tab = tab
        self.clicked.connect(self._ask)

    def follow(self) -> None:
        """Be on where there is something to save, and say why not."""
        result, running = self._tab.result(), self._tab.is_running
        is_partial = result is not None and not result.is_whole
        self.setEnabled(result is not None and not is_partial and not running)
        self.setToolTip(STOPPED_HINT if is_partial and not running else SAVE_HINT)

    def _ask(self) -> None:
        choices, shown = self._tab.form.read(), self._tab.result()
        if shown is None or choices.layer is None:
            return
        name = file_name(choices.layer.name)
        if (folder := ask_folder(self._tab, name)) is not None:
            self.save(folder, name, choices, shown)

    def save(self, folder: Path, name: str, choices: Choices, shown: Shown) -> None:
        """Write the result of an image into `folder`, beside the window."""

        def tell(files: list[Path]) -> None:
            self._tab.tell(f"Saved {counted(len(files), 'file')} in {folder}.")
            named = ", ".join(file.name for file in files)
            pop_up(f"SkipSeg saved {named} in {folder}.", f"Saved {counted(len(files), 'file')}")

        write = partial(iter_save, shown.prediction, folder, name, choices.threshold)
        self._tab.start(write, "Saving results", tell)
