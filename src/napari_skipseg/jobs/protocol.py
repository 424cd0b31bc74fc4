"""What viewer and engine process say to each other: one JSON object per line. Arrays never cross, only where they lie.

To the engine's standard input go jobs (`SegmentJob`, `PlanJob`, `InspectJob`, `DevicesJob`) and commands (`Look`,
`Cancel`, `Quit`); from its standard output come events. A job ends with exactly one of `Segmented`, `Planned`,
`Inspected`, `DevicesFound`, `Failed`, `Cancelled`, which bears its number. Loads without torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from napari_skipseg.devices import Device
from napari_skipseg.images.normalize import Normalization
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.run_plan import RunPlan

INPUT_FILE = "input.npy"
PROBABILITY_FILE = "probability.npy"
UNCERTAINTY_FILE = "uncertainty.npy"
BEFORE_FILE = "before.npy"
AFTER_FILE = "after.npy"
NO_JOB = 0
"""The number of a failure that belongs to no job: a line that the engine could not read. Jobs count from 1."""

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class SegmentJob:
    """Segment the array in `folder`/input.npy; the results go into the same folder. The rest is as in `Stack`.

    file: the image lies there, as `read_stack` opens it, and not in `folder`; "" where it was copied. preview: as in
    `iter_predict`.
    """

    number: int
    folder: str
    file: str
    shape: tuple[int, ...]
    axes: str
    voxel_size: tuple[float, float, float]
    unit: str
    origin: tuple[float, float, float]
    name: str
    model: str
    model_sha256: str
    options: SegmentOptions
    normalization: Normalization | None = None
    preview: bool = False
    kind: Literal["segment"] = "segment"


@dataclass(frozen=True, config=_STRICT)
class PlanJob:
    """Say what a `SegmentJob` of such an image would take. folder: where its results would lie."""

    number: int
    folder: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    voxel_size: tuple[float, float, float]
    unit: str
    name: str
    model: str
    model_sha256: str
    options: SegmentOptions
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
class Cancel:
    """Stop job `number` within a tile; nothing happens where it has ended already."""

    number: int
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, config=_STRICT)
class Quit:
    """End the engine process, in the middle of a job too."""

    kind: Literal["quit"] = "quit"


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
class AttentionFile:
    """One attention map; `file` lies in the job's folder."""

    level: int
    stride: tuple[int, ...]
    file: str


@dataclass(frozen=True, config=_STRICT)
class ResultsOpened:
    """The files of a `SegmentJob`'s results are there: a `Prediction` whose arrays fill from now on."""

    number: int
    axes: str
    voxel_size: tuple[float, float, float]
    unit: str
    origin: tuple[float, float, float]
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
class DeviceReport:
    """What there is to compute on: the device that "auto" chooses, those that can be chosen, and OpenVINO."""

    chosen: Device
    available: tuple[str, ...]
    has_openvino: bool


@dataclass(frozen=True, config=_STRICT)
class DevicesFound:
    """The result of a `DevicesJob`."""

    number: int
    report: DeviceReport
    kind: Literal["devices"] = "devices"


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


Job = SegmentJob | PlanJob | InspectJob | DevicesJob
Request = Job | Look | Cancel | Quit
End = Segmented | Planned | Inspected | DevicesFound | Failed | Cancelled
Event = Ready | ProgressMade | ResultsOpened | TileWritten | End

_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def request_to_line(request: Request) -> bytes:
    """Return `request` as one line of JSON."""
    return _REQUESTS.dump_json(request) + b"\n"


def request_from_line(line: bytes) -> Request:
    """Return the request in `line`.

    Raises:
        ValueError: no JSON, an unknown kind or key, a missing value.
        InputError: options that are impossible.
    """
    return _REQUESTS.validate_json(line)


def event_to_line(event: Event) -> bytes:
    """Return `event` as one line of JSON."""
    return _EVENTS.dump_json(event) + b"\n"


def event_from_line(line: bytes) -> Event:
    """Return the event in `line`.

    Raises:
        ValueError: no JSON, an unknown kind or key, a missing value.
    """
    return _EVENTS.validate_json(line)
