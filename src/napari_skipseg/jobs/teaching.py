"""Fine-tuning and training in the engine process: from jobs to the training room, and what they tell on the way.

Loads without torch; what the jobs call needs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_skipseg.errors import FileError
from napari_skipseg.jobs.events import LessonPlanned, Taught, Trained
from napari_skipseg.jobs.inputs import open_corrected, open_labels, open_strokes
from napari_skipseg.jobs.requests import FinetuneJob, LessonJob, TrainJob
from napari_skipseg.progress import Progress
from napari_skipseg.training.learning import Keep, Pictured

if TYPE_CHECKING:
    from napari_skipseg.models.model import Model
    from napari_skipseg.training.corrected import Corrected

_PICTURES = count(1)


def iter_lesson_for(job: LessonJob) -> Generator[Progress, Keep | None, LessonPlanned]:
    """Yield while the corrections are looked through; return what would be learnt from them.

    Raises:
        SkipsegError: nothing can be learnt from them, with the cure.
    """
    from napari_skipseg.training.corrected import iter_plan_lesson

    return LessonPlanned(job.number, (yield from iter_plan_lesson(job.settings, _corrected(job), job.device)))


def iter_finetune_for(job: FinetuneJob, parent: Model) -> Generator[Progress, Keep | None, Taught]:
    """Yield as fine-tuning goes on; return what came of it.

    Raises:
        SkipsegError: as `training.finetune.iter_finetune`.
    """
    from napari_skipseg.training.finetune import iter_finetune

    _make(Path(job.target))
    where = (Path(job.target), job.device)
    done = yield from iter_finetune(job.settings, _corrected(job), *where, parent=parent, afresh=True)
    return Taught(job.number, str(done.folder), done.report)


def iter_train_for(job: TrainJob) -> Generator[Progress, Keep | None, Trained]:
    """Yield as training goes on; return the new model's folder.

    Raises:
        SkipsegError: as `training.train.iter_train`.
    """
    from napari_skipseg.training.train import iter_train

    _make(Path(job.target))
    if job.restart:
        shutil.rmtree(Path(job.target) / f"{job.settings.name}.training", ignore_errors=True)
    return Trained(job.number, str((yield from iter_train(job.settings, Path(job.target), job.device))))


def _corrected(job: FinetuneJob | LessonJob) -> tuple[Corrected, ...]:
    from napari_skipseg.training.corrected import Corrected

    return tuple(
        Corrected(open_corrected(image), open_labels(image), image.name, open_strokes(image)) for image in job.images
    )


def _make(target: Path) -> None:
    """Make the folder of the models."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"The folder '{target}' cannot be made: {error.strerror}. Choose another one.") from error


def write_picture(picture: Pictured, folder: Path) -> tuple[str, str, str]:
    """Return the names of the files in `folder` that hold image, probability and target; "" for what there is not.

    Raises:
        FileError: the folder cannot be written.
    """
    number, names = next(_PICTURES), ["", "", ""]
    arrays = (picture.image, picture.probability, picture.target)
    try:
        for place, (what, values) in enumerate(zip(("image", "probability", "target"), arrays, strict=True)):
            if values is not None:
                names[place] = f"tile_{what}_{number}.npy"
                np.save(folder / names[place], values)
    except OSError as error:
        raise FileError(f"No picture can be written to {folder} ({error.strerror}): free some space there.") from error
    return names[0], names[1], names[2]
