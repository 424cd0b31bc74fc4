"""What a fine-tuning will learn from and hold out, and how long it will take, before it starts."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Signal

from napari_skipseg.batch.wording import counted
from napari_skipseg.progress import in_words
from napari_skipseg.training.learning import Lesson
from napari_skipseg.widgets.class_list import short
from napari_skipseg.widgets.plan_line import SettledLine
from napari_skipseg.widgets.turns import EngineLine

LOOKING = "Counting what was corrected, and measuring how long a step takes…"


class LessonLine(SettledLine):
    """The lesson in two sentences, more of it in the tooltip; and why there is none, with the cure.

    refused: nothing can be learnt from what there is, as far as is known. answered: that may have changed.
    """

    answered = Signal()

    def __init__(self, line: EngineLine) -> None:
        super().__init__(line, LOOKING, "waits until the corrections are counted")
        self.refused = False

    def show_answer(self, answer: Lesson) -> None:
        """Say what will be learnt from, held out, and how long it takes."""
        self.say(describe_lesson(answer), explain_lesson(answer))
        self._settle(False)

    def show_fault(self, fault: str) -> None:
        """Say why nothing can be learnt."""
        self.say("", warning=fault)
        self._settle(True)

    def _settle(self, refused: bool) -> None:
        if refused != self.refused:
            self.refused = refused
            self.answered.emit()


def describe_lesson(lesson: Lesson) -> str:
    """Return what will be learnt from, held out, and how long it takes, in a few words."""
    trained, held = lesson.places
    learns = f"Learns from {_counted(lesson.pixels)} pixels in {counted(trained, 'place')}"
    where = f" on {counted(lesson.slices, 'slice')}" if lesson.slices > 1 else ""
    kept = f"; {counted(held, 'place')} held out to compare old and new." if held else "."
    takes = "" if lesson.seconds is None else f" Takes about {in_words(lesson.seconds)}."
    return " ".join([learns + where + kept + takes, *lesson.notes])


def explain_lesson(lesson: Lesson) -> str:
    """Return the numbers in full, a line for each class."""
    lines = [
        f"{name}: {counted(count, 'pixel')} to learn from, {lesson.held_out.get(name, 0):,} held out"
        for name, count in lesson.pixels.items()
    ]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in lesson.facts.items())])


def _counted(pixels: Mapping[str, int]) -> str:
    """Return the classes first and the background last: "1.2k membrane and 3k background"."""
    named = sorted(pixels, key=lambda name: name == "background")
    parts = [f"{short(pixels[name])} {name}" for name in named]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
