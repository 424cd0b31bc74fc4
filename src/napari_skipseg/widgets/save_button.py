"""Save results: on where the image in the form has a whole result; asks what and where, and writes in a thread."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPushButton

from napari_skipseg.batch.wording import counted
from napari_skipseg.inference.outputs import file_name
from napari_skipseg.widgets.files import opened_from
from napari_skipseg.widgets.layers import Shown
from napari_skipseg.widgets.popups import pop_up
from napari_skipseg.widgets.saving import SaveChoices, ask_what_to_save, iter_save, results_of

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_skipseg.widgets.segment import SegmentTab

SAVE_HINT = "Write the result of this image as OME-TIFF or OME-Zarr: the one whose layer is selected, else the newest"
STOPPED_HINT = "This result was stopped before it was whole: segment again to save it"


class SaveButton(QPushButton):  # type: ignore[misc]
    """Saves what the Segment tab shows of its image."""

    def __init__(self, tab: SegmentTab) -> None:
        super().__init__("Save results…")
        self._tab = tab
        self._folder = ""
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
        name, title = name_of(choices.layer, shown), title_of(choices.layer, shown)
        opened = opened_from(choices.layer)
        folder = self._folder or (str(Path(opened).absolute().parent) if opened else "")
        chosen = ask_what_to_save(self._tab, title, name, results_of(shown.prediction), folder)
        if chosen is not None:
            self._folder = str(chosen.folder)
            self.save(chosen, name, choices.threshold, shown)

    def save(self, chosen: SaveChoices, name: str, threshold: float, shown: Shown) -> None:
        """Write the result of an image, beside the window."""

        def tell(files: list[Path]) -> None:
            told = f"Saved {counted(len(files), 'file')}"
            self._tab.tell(f"{told} in {chosen.folder}.")
            pop_up(f"SkipSeg saved {', '.join(file.name for file in files)} in {chosen.folder}.", told)

        self._tab.start(partial(iter_save, shown.prediction, chosen, name, threshold), "Saving results", tell)


def name_of(layer: Image, shown: Shown) -> str:
    """Return how the files of a result are called: those of a slice bear its number, beside those of the whole."""
    places = [f"{shown.axes[axis].lower()}{place}" for axis, place in shown.positions.items()]
    return "_".join([file_name(layer.name), *places])


def title_of(layer: Image, shown: Shown) -> str:
    """Return in words of what a result is."""
    return f"'{layer.name}', {shown.prefix.strip()} alone" if shown.prefix else f"'{layer.name}'"
