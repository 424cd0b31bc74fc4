"""A line below the form of the Batch tab: how many images there are, what is left out; looked up beside the window."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QEvent, Signal

from napari_skipseg.batch.inputs import Inputs, find_inputs
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.truths import check_truth
from napari_skipseg.batch.wording import counted
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.plan_line import SettledLine

SETTLED = 300
"""Milliseconds for which the choices stand before they are looked up."""
MACHINE = (Path("/proc"), Path("/sys"))
"""Folders in which the system shows itself, and makes none that one asks for."""
AMONG = (
    "The results would lie among the images: choose a folder elsewhere, or tick Details › allow results in the image "
    "folder."
)


class InputsLine(SettledLine):
    """What a batch would be of. fault: why it cannot be. `told` is emitted when either is another one."""

    told = Signal()

    def __init__(self) -> None:
        self.fault = ""
        super().__init__(None, "looking for images…")
        self._timer.setInterval(SETTLED)
        self.looks = 0

    @property
    def is_right(self) -> bool:
        """Whether it is known that the batch that was looked up last can be."""
        return self._key in self._answers

    def look(self, settings: BatchSettings) -> None:
        """Say what these settings name, unless it was said."""

        def find() -> Generator[Progress, Any, Inputs]:
            yield Progress(0, 1, "looking for images")
            return check_batch(settings)

        asked = (
            settings.inputs,
            settings.output,
            settings.recursive,
            settings.inside,
            settings.truth,
            settings.as_stack,
        )
        self.follow((*asked, self.looks), find)

    def show_answer(self, answer: Inputs) -> None:
        """Say how many images there are."""
        count = len(answer.entries)
        left = [counted(answer.others, "other file")] if answer.others else []
        left += [counted(answer.ours, "result of SkipSeg", "results of SkipSeg")] if answer.ours else []
        names = "\n".join(entry.relative for entry in answer.entries[:20]) + ("\n…" if count > 20 else "")
        told = counted(count, "image")
        self.say(f"{told}; left out: {', '.join(left)}" if left else told, names)

    def event(self, event: QEvent) -> bool:
        """Look again at what is wrong when the user comes back to the window: it may have been mended elsewhere."""
        if event.type() == QEvent.Type.WindowActivate and self.fault:
            self._timer.start()
        return bool(super().event(event))

    def show_fault(self, fault: str) -> None:
        """Keep why there are none, for the tab to say."""
        self.say("", warning=fault)

    def say(self, text: str, hint: str = "", warning: str = "") -> None:
        """Show this in the line and in its tooltip; a warning is a fault, which the tab says."""
        self.fault = warning
        super().say(text, hint)
        self.told.emit()


def check_batch(settings: BatchSettings) -> Inputs:
    """Return the images of a batch that can be, as far as a look at the folders tells; nothing is made.

    Raises:
        FileError: there is no image or no truth, or the folder of the results cannot be made.
        InputError: the results would lie among the images, unasked, or in one of them; one truth for several images.
    """
    check_place(settings.output)
    try:
        found = find_inputs(settings)
    except InputError as error:
        if settings.inside:
            raise
        find_inputs(replace(settings, inside=True))  # what else may be wrong with it
        raise InputError(AMONG) from error
    check_truth(settings, len(found.entries))
    return found


def check_place(output: str) -> None:
    """Raise where a folder is not there and cannot be made, or nothing can be written into it.

    Raises:
        FileError: it is so.
    """
    place = Path(output).expanduser().absolute()
    nearest = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise FileError(
            f"The folder '{output}' cannot be created, because '{nearest}' is not a folder: choose another one."
        )
    is_of_machine = any(nearest.resolve().is_relative_to(each) for each in MACHINE)
    if is_of_machine or not os.access(nearest, os.W_OK | os.X_OK):
        told = "be written into" if nearest == place else "be created there"
        raise FileError(f"The folder '{output}' cannot {told}: choose one where you may write.")
