"""What the engine process answers: one JSON object per line. Arrays never cross, only where they lie.

A job of `jobs.requests` ends with exactly one of `Segmented`, `Planned`, `Inspected`, `LessonPlanned`, `Taught`,
`Trained`, `ObjectsFound`, `BatchEnded`, `DevicesFound`, `Reported`, `Failed`, `Cancelled`, which bears its number.
Loads without torch.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from napari_skipseg.devices import ChosenPrecision, Device
from napari_skipseg.images.space import Space
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.training.progress import Lesson, Report

PROBABILITY_FILE = "probability.npy"
UNCERTAINTY_FILE = "uncertainty.npy"
BEFORE_FILE = "before.npy"
AFTER_FILE = "after.npy"
TABLE_FILE = "table.npz"
NO_JOB = 0
"""The number of a failure that belongs to no job: a line that the engine could not read. Jobs count from 1."""

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Ready:
    """The engine has loaded its libraries and takes jobs."""

    pid: int
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, config=_STRICT)
class ProgressMade:
    """How far job `number` is."""

    number: int
    done: int
    total: int
    message: str
    kind: Literal["progress"] = "progress"


@dataclass(frozen=True, config=_STRICT)
class FoundAboutImage:
    """What was found about an image of job `number`, as in `progress.Found`."""

    number: int
    done: int
    total: int
    message: str
    findings: tuple[str, ...]
    seems_inverted: bool
    kind: Literal["found"] = "found"


@dataclass(frozen=True, config=_STRICT)
class AttentionFile:
    """One attention map; `file` lies in the job's folder."""

    level: int
    stride: tuple[int, ...]
    file: str


@dataclass(frozen=True, config=_STRICT)
class ResultsOpened:
    """The files of a `SegmentJob`'s results are there: a `Prediction` whose arrays fill from now on."""

    number: int
    space: Space
    class_names: tuple[str, ...]
    attentions: tuple[AttentionFile, ...]
    recipe: dict[str, Any]
    has_uncertainty: bool
    kind: Literal["opened"] = "opened"


@dataclass(frozen=True, config=_STRICT)
class TileWritten:
    """How far job `number` is, and which part of its results is there now: [start, stop) along each axis of space."""

    number: int
    done: int
    total: int
    message: str
    region: tuple[tuple[int, int], ...]
    kind: Literal["written"] = "written"


@dataclass(frozen=True, config=_STRICT)
class Segmented:
    """The end of a `SegmentJob`: its results are whole, and this is how they were made."""

    number: int
    recipe: dict[str, Any]
    kind: Literal["segmented"] = "segmented"


@dataclass(frozen=True, config=_STRICT)
class Planned:
    """The result of a `PlanJob`."""

    number: int
    plan: RunPlan
    kind: Literal["planned"] = "planned"


@dataclass(frozen=True, config=_STRICT)
class GateMapFile:
    """One attention map: of the gate at `place`, its `number`-th; `file` lies in the job's folder."""

    place: str
    number: int
    stride: int
    file: str


@dataclass(frozen=True, config=_STRICT)
class Inspected:
    """The result of an `InspectJob`: features before and after the gate's select step, and the maps of all gates.

    limits: the values of the features to show as black and white. clearest: the channel that varies most behind
    the gate.
    """

    number: int
    stride: int
    limits: tuple[float, float]
    clearest: int
    maps: tuple[GateMapFile, ...]
    recipe: dict[str, Any]
    kind: Literal["inspected"] = "inspected"


@dataclass(frozen=True, config=_STRICT)
class LessonPlanned:
    """The result of a `LessonJob`."""

    number: int
    lesson: Lesson
    kind: Literal["lesson"] = "lesson"


@dataclass(frozen=True, config=_STRICT)
class CurvesMoved:
    """How far a training is, and the newest values of its curves."""

    number: int
    done: int
    total: int
    message: str
    step: int
    values: dict[str, float]
    kind: Literal["learned"] = "learned"


@dataclass(frozen=True, config=_STRICT)
class TilePictured:
    """What the network makes of one tile now: array files in the job's folder, "" where nothing is held out."""

    number: int
    done: int
    total: int
    message: str
    image: str
    probability: str
    target: str
    kind: Literal["pictured"] = "pictured"


@dataclass(frozen=True, config=_STRICT)
class Taught:
    """The result of a `FinetuneJob`: the new model's folder, and how it compares with the old one."""

    number: int
    folder: str
    report: Report
    kind: Literal["taught"] = "taught"


@dataclass(frozen=True, config=_STRICT)
class Trained:
    """The result of a `TrainJob`: the new model's folder."""

    number: int
    folder: str
    kind: Literal["trained"] = "trained"


@dataclass(frozen=True, config=_STRICT)
class ObjectsFound:
    """The result of an `ObjectsJob`: how many there are, the labels and the table of measurements in its folder.

    columns: the names of the table's columns, in its file's order.
    """

    number: int
    count: int
    labels: str
    columns: tuple[str, ...]
    recipe: dict[str, Any]
    kind: Literal["objects"] = "objects"


@dataclass(frozen=True, config=_STRICT)
class BatchStarted:
    """The table of a `BatchJob`, as `batch.table.BatchOpened` has it. rows, asked: in JSON, see `jobs.operations`."""

    number: int
    done: int
    total: int
    message: str
    rows: str
    folder: str
    others: int
    ours: int
    asked: str = "[]"
    kind: Literal["batch started"] = "batch started"


@dataclass(frozen=True, config=_STRICT)
class RowChanged:
    """A row of that table is another now. row: a list of it in JSON."""

    number: int
    done: int
    total: int
    message: str
    row: str
    seconds_left: float | None
    kind: Literal["row"] = "row"


@dataclass(frozen=True, config=_STRICT)
class BatchEnded:
    """The result of a `BatchJob`: a `batch.run.BatchResult` in JSON."""

    number: int
    result: str
    kind: Literal["batch"] = "batch"


@dataclass(frozen=True, config=_STRICT)
class DeviceReport:
    """What there is to compute on: the device that "auto" chooses, those that can be chosen, and OpenVINO.

    segments_in, trains_in: the precisions that are fastest there.
    """

    chosen: Device
    available: tuple[str, ...]
    has_openvino: bool
    segments_in: ChosenPrecision
    trains_in: ChosenPrecision


@dataclass(frozen=True, config=_STRICT)
class DevicesFound:
    """The result of a `DevicesJob`."""

    number: int
    report: DeviceReport
    kind: Literal["devices"] = "devices"


@dataclass(frozen=True, config=_STRICT)
class Reported:
    """The result of a `ReportJob`: what a bug report needs, by names."""

    number: int
    facts: dict[str, str]
    kind: Literal["reported"] = "reported"


@dataclass(frozen=True, config=_STRICT)
class Failed:
    """Job `number` failed: the name of a `SkipsegError` class, its sentence, and the traceback."""

    number: int
    error: str
    message: str
    details: str
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, config=_STRICT)
class Cancelled:
    """Job `number` was stopped; it left no result."""

    number: int
    kind: Literal["cancelled"] = "cancelled"


Learnt = LessonPlanned | Taught | Trained
Result = Segmented | Planned | Inspected | Learnt | ObjectsFound | BatchEnded | DevicesFound | Reported
End = Result | Failed | Cancelled
Event = (
    Ready
    | ProgressMade
    | FoundAboutImage
    | ResultsOpened
    | TileWritten
    | CurvesMoved
    | TilePictured
    | BatchStarted
    | RowChanged
    | End
)

_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def event_to_line(event: Event) -> bytes:
    """Return `event` as one line of JSON, in ASCII: so the names of files cross that are no text."""
    return json.dumps(_EVENTS.dump_python(event, mode="json")).encode("ascii") + b"\n"


def event_from_line(line: bytes) -> Event:
    """Return the event in `line`.

    Raises:
        ValueError: no JSON, an unknown kind or key, a missing value.
    """
    return _EVENTS.validate_python(json.loads(line))
