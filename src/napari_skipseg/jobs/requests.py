"""What the viewer asks of the engine process: one JSON object per line. Arrays never cross, only where they lie.

To the engine's standard input go jobs (`SegmentJob`, `PlanJob`, `InspectJob`, `LessonJob`, `FinetuneJob`, `TrainJob`,
`ObjectsJob`, `BatchJob`, `DevicesJob`, `ReportJob`) and commands (`Look`, `KeepBest`, `RetryFailed`, `Cancel`,
`Quit`). What comes back is in `jobs.events`. Loads without torch.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization
from napari_skipseg.images.space import Space
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import Depth
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

INPUT_FILE, PROBES_FILE = "input.npy", "probes.npy"

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class SegmentJob:
    """Segment the array in `folder`/input.npy; the results go into the same folder. The rest is as in `Stack`.

    file: the image lies there, as `read_stack` opens it, and not in `folder`; "" where it was copied. greys, preview,
    pinned: as in `iter_predict`.
    """

    number: int
    folder: str
    file: str
    shape: tuple[int, ...]
    space: Space
    name: str
    model: str
    model_sha256: str
    options: SegmentOptions
    greys: GreyStatistics | None = None
    preview: bool = False
    pinned: dict[str, int | str] | None = None
    notes: tuple[str, ...] = ()
    title: str = ""
    slice_names: tuple[str, ...] = ()
    kind: Literal["segment"] = "segment"


@dataclass(frozen=True, config=_STRICT)
class PlanJob:
    """Say what a `SegmentJob` of such an image would take. folder: where its results would lie. greys: of the image,
    measured before, as its voxels are not sent. file: where they lie, "" if they are only in memory. probes: a file of
    patches of the image that the network is asked about, "" for none.
    """

    number: int
    folder: str
    shape: tuple[int, ...]
    dtype: str
    space: Space
    name: str
    model: str
    model_sha256: str
    options: SegmentOptions
    greys: GreyStatistics
    notes: tuple[str, ...] = ()
    file: str = ""
    probes: str = ""
    kind: Literal["plan"] = "plan"


@dataclass(frozen=True, config=_STRICT)
class InspectJob:
    """Show what the gates of a model make of the array in `folder`/input.npy; the results go into the same folder.

    axes: of the array, those that the model sees at once behind its channels where it has some. start: where in the
    image it begins, by axis letter. place: of the gate whose features are wanted.
    """

    number: int
    folder: str
    axes: str
    start: dict[str, int]
    name: str
    model: str
    model_sha256: str
    place: str
    normalization: Normalization
    kind: Literal["inspect"] = "inspect"


@dataclass(frozen=True, config=_STRICT)
class CorrectedImage:
    """An image with its corrections; the rest is as in `Stack`.

    file: the image lies there, as `read_stack` opens it; "" where it was copied. copy: the array file it was copied
    into; "" where it lies in a file, or where its voxels are not needed. channel: the one to learn from; None where the
    image has no others. labels: where the corrections lie, as `read_stack` opens them. strokes: those of them that were
    painted; "" where all were. values: what each of their
    values from 2 on stands for in the settings' classes; 1 for a class that is not learnt.
    """

    file: str
    copy: str
    shape: tuple[int, ...]
    dtype: str
    space: Space
    name: str
    channel: int | None
    labels: str
    strokes: str
    values: dict[int, int]


@dataclass(frozen=True, config=_STRICT)
class LessonJob:
    """Say what a `FinetuneJob` of these images would learn from."""

    number: int
    settings: FinetuneSettings
    images: tuple[CorrectedImage, ...]
    device: str
    kind: Literal["lesson"] = "lesson"


@dataclass(frozen=True, config=_STRICT)
class FinetuneJob:
    """Fine-tune a model. folder: where pictures of what it makes of a tile go. target: the folder of the models.

    It goes on from a checkpoint of the same settings and corrections, where one lies in `target`.
    """

    number: int
    folder: str
    settings: FinetuneSettings
    images: tuple[CorrectedImage, ...]
    target: str
    device: str
    model: str
    model_sha256: str
    kind: Literal["finetune"] = "finetune"


@dataclass(frozen=True, config=_STRICT)
class TrainJob:
    """Train a model from scratch; the rest is as in `FinetuneJob`. restart: its checkpoint is thrown away first."""

    number: int
    folder: str
    settings: TrainSettings
    target: str
    device: str
    restart: bool = False
    kind: Literal["train"] = "train"


@dataclass(frozen=True, config=_STRICT)
class PlacedImage:
    """An image, and where its voxels lie; the rest is as in `Stack`.

    file: the image lies there, as `read_stack` opens it; "" where it lies in `copy`, an array file. part: of the
    array's first axis, where the image is one of several there. depth: they are taken as files
    of this depth hold them (`inference.prediction.Stored`); None = as they lie.
    """

    file: str
    copy: str
    part: int | None
    shape: tuple[int, ...]
    space: Space
    name: str
    depth: Depth | None = None


@dataclass(frozen=True, config=_STRICT)
class ObjectsJob:
    """Find and measure the objects in a probability, or in labels of classes where `labels`.

    folder: where the results go. image: grey values to measure, None for none. recipe: what is kept with the results
    besides the options and the input.
    """

    number: int
    folder: str
    probability: PlacedImage
    class_names: tuple[str, ...]
    labels: bool
    options: ObjectOptions
    image: PlacedImage | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    kind: Literal["objects"] = "objects"


@dataclass(frozen=True, config=_STRICT)
class BatchJob:
    """Segment a folder of images. retry: only those that failed the last time.

    only: the files to do, by their names in the table, as a list in JSON; "" = all.
    """

    number: int
    settings: BatchSettings
    retry: bool = False
    only: str = ""
    kind: Literal["batch"] = "batch"


@dataclass(frozen=True, config=_STRICT)
class ReportJob:
    """Say what a bug report needs to know of this machine."""

    number: int
    kind: Literal["report"] = "report"


@dataclass(frozen=True, config=_STRICT)
class DevicesJob:
    """Say which devices there are to compute on."""

    number: int
    kind: Literal["devices"] = "devices"


@dataclass(frozen=True, config=_STRICT)
class Look:
    """Do first what is looked at in job `number`: along each axis of its results the voxels in view."""

    number: int
    view: dict[str, tuple[float, float]]
    kind: Literal["look"] = "look"


@dataclass(frozen=True, config=_STRICT)
class KeepBest:
    """End the training of job `number` now, and keep the best weights so far."""

    number: int
    kind: Literal["keep"] = "keep"


@dataclass(frozen=True, config=_STRICT)
class RetryFailed:
    """Do again the files that failed in batch `number`. relatives: a list in JSON of only these; "[]" = all."""

    number: int
    relatives: str = "[]"
    kind: Literal["retry"] = "retry"


@dataclass(frozen=True, config=_STRICT)
class Cancel:
    """Stop job `number` within a tile; nothing happens where it has ended already."""

    number: int
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, config=_STRICT)
class Quit:
    """End the engine process, in the middle of a job too."""

    kind: Literal["quit"] = "quit"


Teaching = LessonJob | FinetuneJob | TrainJob
Job = SegmentJob | PlanJob | InspectJob | Teaching | ObjectsJob | BatchJob | DevicesJob | ReportJob
Request = Job | Look | KeepBest | RetryFailed | Cancel | Quit

_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])


def request_to_line(request: Request) -> bytes:
    """Return `request` as one line of JSON, in ASCII: so the names of files cross that are no text."""
    return json.dumps(_REQUESTS.dump_python(request, mode="json"), separators=(",", ":")).encode("ascii") + b"\n"


def request_from_line(line: bytes) -> Request:
    """Return the request in `line`.

    Raises:
        ValueError: no JSON, an unknown kind or key, a missing value.
        SkipsegError: options or settings that are impossible.
    """
    return _REQUESTS.validate_python(json.loads(line))
