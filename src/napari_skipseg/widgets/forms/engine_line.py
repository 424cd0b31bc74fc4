"""The line of those who want the engine, which takes one call at a time: in the order of their clicks."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qtpy.QtCore import QObject, Signal

from napari_skipseg.images.intensity.normalize import GreyStatistics
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import Focus, Prediction
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.worker import Work

if TYPE_CHECKING:
    from napari_skipseg.jobs.events import DeviceReport
    from napari_skipseg.jobs.teaching_calls import CorrectedStack
    from napari_skipseg.training.progress import Finetuned, Keep, Lesson
    from napari_skipseg.training.settings import FinetuneSettings, TrainSettings


class BusyEngine(Protocol):
    """What every tab asks."""

    @property
    def is_busy(self) -> bool:
        """Whether a call is at work, so that another one would be refused."""
        ...


class SegmentingEngine(BusyEngine, Protocol):
    """What the Segment tab asks."""

    def segment(
        self,
        stack: Stack,
        model_folder: Path | str,
        options: SegmentOptions,
        whole: Stack | None = None,
        greys: GreyStatistics | None = None,
        preview: bool = False,
        pinned: dict[str, int | str] | None = None,
    ) -> Generator[Progress, Focus | None, Prediction]:
        """Return the prediction, after it was `Opened` empty and each part `Written`."""
        ...

    def plan(
        self, stack: Stack, model_folder: Path | str, options: SegmentOptions, whole: Stack | None = None
    ) -> Generator[Progress, None, RunPlan]:
        """Return what segmenting the stack would take, and what was found about the image."""
        ...

    def ask_devices(self) -> Generator[Progress, None, DeviceReport]:
        """Return what there is to compute on."""
        ...

    def ask_report(self) -> Generator[Progress, None, dict[str, str]]:
        """Return what a bug report needs to say of this machine, by names."""
        ...


class TeachingEngine(BusyEngine, Protocol):
    """What the Fine-tune tab asks."""

    def plan_lesson(
        self, settings: FinetuneSettings, images: Sequence[CorrectedStack], device: str = "auto"
    ) -> Generator[Progress, None, Lesson]:
        """Return what would be learnt from corrected images."""
        ...

    def finetune(
        self,
        settings: FinetuneSettings,
        images: Sequence[CorrectedStack],
        target: Path,
        device: str = "auto",
    ) -> Generator[Progress, Keep | None, Finetuned]:
        """Return the new model and how it compares with the old one; a `Keep` sent back ends it with the best."""
        ...

    def train(
        self,
        settings: TrainSettings,
        target: Path,
        device: str = "auto",
        written: Mapping[str, Stack] | None = None,
        restart: bool = False,
    ) -> Generator[Progress, Keep | None, Path]:
        """Return the folder of a model trained from scratch."""
        ...


LOOK = 0.05
"""Seconds between two looks at whether the engine has stopped its last run."""


class Turn:
    """A place in the line. waiting: what those behind it say while they wait, such as "waits for the fine-tuning"."""

    def __init__(self, line: EngineLine, waiting: str) -> None:
        self._line, self.waiting = line, waiting
        self.begin: Callable[[], None] | None = None

    def awaited(self) -> str:
        """Return what is waited for, in words; "" where this turn is the first."""
        first = self._line.first()
        return "" if first is None or first is self else first.waiting

    def call(self, begin: Callable[[], None]) -> None:
        """Call `begin` as soon as this turn is the first, at once where it is."""
        self.begin = begin
        self._line.advance()

    def leave(self) -> None:
        """Leave the line; a turn that has left already stays away."""
        self._line.drop(self)


class EngineLine(QObject):  # type: ignore[misc]
    """All turns, the one that has the engine first; all of it in the GUI thread.

    No thread waits for its turn: napari's workers share as many threads as there are cores, and two jobs that wait in
    them would keep everything else from being done.

    joined: a job has joined, so what only asks for an estimate should give way. moved: somebody has left.
    """

    joined = Signal()
    moved = Signal()

    def __init__(self, engine: BusyEngine) -> None:
        super().__init__()
        self._engine = engine
        self._turns: list[Turn] = []

    @property
    def is_empty(self) -> bool:
        """Whether nobody uses the engine or waits for it."""
        return not self._turns and not self._engine.is_busy

    def join(self, waiting: str, is_job: bool = True) -> Turn:
        """Return a new turn at the end of the line."""
        turn = Turn(self, waiting)
        self._turns.append(turn)
        if is_job:
            self.joined.emit()
        return turn

    def first(self) -> Turn | None:
        """Return the turn that has the engine, None where nobody has it."""
        return self._turns[0] if self._turns else None

    def drop(self, turn: Turn) -> None:
        """Take a turn out of the line; the next one begins."""
        if turn in self._turns:
            self._turns.remove(turn)
            self.moved.emit()
            self.advance()

    def advance(self) -> None:
        """Let the first turn begin, unless it has."""
        if self._turns and (begin := self._turns[0].begin) is not None:
            self._turns[0].begin = None
            begin()

    def when_free(self, work: Work) -> Work:
        """Return `work` such that it begins when the engine has stopped its last run, which may take it seconds."""

        def wait_and_work() -> Generator[Progress, Any, Any]:
            while self._engine.is_busy:
                yield Progress(0, 1, "stopping the last run")
                time.sleep(LOOK)
            return (yield from work())

        return wait_and_work
