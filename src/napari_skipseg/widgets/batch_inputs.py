"""A line below the form of the Batch tab: how many images there are, what is left out; looked up beside the window."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from napari_skipseg.batch.inputs import Inputs, find_inputs
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.truths import check_truth
from napari_skipseg.batch.wording import counted
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.plan_line import SettledLine


class _NoEngine:
    """Files are looked for without the engine, so that it never is in the way."""

    is_busy = False


class InputsLine(SettledLine):
    """What a batch would be of, or why it cannot be."""

    def __init__(self) -> None:
        super().__init__(_NoEngine(), "looking for images…")
        self.looks = 0

    def look(self, settings: BatchSettings) -> None:
        """Say what these settings name, unless it was said."""

        def find() -> Generator[Progress, Any, Inputs]:
            yield Progress(0, 1, "looking for images")
            found = find_inputs(settings)
            check_truth(settings, len(found.entries))
            return found

        asked = (settings.inputs, settings.output, settings.recursive, settings.inside, settings.truth)
        self.follow((*asked, self.looks), find)

    def show_answer(self, answer: Inputs) -> None:
        """Say how many images there are."""
        count = len(answer.entries)
        left = [counted(answer.others, "other file")] if answer.others else []
        left += [counted(answer.ours, "result of ours", "results of ours")] if answer.ours else []
        names = "\n".join(entry.relative for entry in answer.entries[:20]) + ("\n…" if count > 20 else "")
        told = counted(count, "image")
        self.say(f"{told}; left out: {', '.join(left)}" if left else told, names)

    def show_fault(self, fault: str) -> None:
        """Say why there are none."""
        self.say("", warning=fault)
