"""What the tabs ask of an engine, which takes one call at a time; `jobs.client.Engine` is one."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from napari_skipseg.images.normalize import GreyStatistics
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Focus, Prediction
from napari_skipseg.inference.run_plan import RunPlan
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.jobs.events import DeviceReport
    from napari_skipseg.jobs.teaching_calls import CorrectedStack
    from napari_skipseg.training.finetune_settings import FinetuneSettings
    from napari_skipseg.training.learning import Finetuned, Keep, Lesson
    from napari_skipseg.training.settings import TrainSettings


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
