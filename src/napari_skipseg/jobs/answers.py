"""What the engine process tells of a job while it is at work: each progress becomes an event. Loads without torch."""

from __future__ import annotations

from pathlib import Path

from napari_skipseg.inference.outputs import Opened, Prediction, Written
from napari_skipseg.jobs import events
from napari_skipseg.jobs.batching import event_of_batch
from napari_skipseg.jobs.events import Event
from napari_skipseg.jobs.requests import FinetuneJob, Job, TrainJob
from napari_skipseg.jobs.teaching import write_picture
from napari_skipseg.progress import Found, Progress
from napari_skipseg.training.learning import Learned, Pictured


def event_of(progress: Progress, job: Job) -> Event:
    """Return what tells the viewer of `progress` in `job`; pictures are written into the job's folder."""
    number, how_far = job.number, (job.number, progress.done, progress.total, progress.message)
    if isinstance(progress, Opened) and progress.prediction is not None:
        return _describe(progress.prediction, number)
    if isinstance(progress, Found):
        return events.FoundAboutImage(*how_far, progress.findings, progress.seems_inverted)
    if isinstance(progress, Written):
        return events.TileWritten(*how_far, progress.region)
    if isinstance(progress, Learned):
        return events.CurvesMoved(*how_far, progress.step, progress.values)
    if isinstance(progress, Pictured) and isinstance(job, FinetuneJob | TrainJob):
        return events.TilePictured(*how_far, *write_picture(progress, Path(job.folder)))
    return event_of_batch(progress, number) or events.ProgressMade(*how_far)


def _describe(prediction: Prediction, number: int) -> events.ResultsOpened:
    attentions = tuple(
        events.AttentionFile(attention.level, attention.stride, f"attention_{attention.level}.npy")
        for attention in prediction.attentions
    )
    return events.ResultsOpened(
        number,
        prediction.axes,
        prediction.voxel_size,
        prediction.unit,
        prediction.origin,
        prediction.class_names,
        attentions,
        prediction.recipe,
        prediction.uncertainty is not None,
    )
