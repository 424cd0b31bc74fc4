"""What crosses between the viewer and the engine process: one JSON object per line that holds the value itself.

To the engine goes a `Request`, then commands to the job at work. Back comes every `Progress` that the work yields, then
what it returns, `Failed` or `Cancelled`. The values are the dataclasses that the rest of the package uses; in JSON each
has the name of its class under "kind". To add a request, derive a class from `Request[ITS RESULT]`, and say in
`preparation` and `operations` how it is prepared and done; to add a progress, put its class into `YIELDED`.

Arrays do not cross. One that lies in a file crosses as an `ArrayReference`; another one is written to a file of the
run's folder first, to be read once. Loads without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar, Union, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Discriminator, PlainSerializer, Tag, TypeAdapter, WrapSerializer

from napari_skipseg.batch.run import BatchResult
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import BatchOpened, BatchWaits, FileChanged, Retry
from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.devices import DeviceReport, SystemReport
from napari_skipseg.errors import FileError
from napari_skipseg.images.formats import Depth
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization
from napari_skipseg.images.npy import find_npy_file
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import Focus, Prediction, ResultsOpened, TileWritten
from napari_skipseg.objects.files import FoundObjects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import ImageFindings, Progress
from napari_skipseg.studies.inspection import Inspection
from napari_skipseg.training.progress import (
    Finetuned,
    KeepBest,
    Trained,
    TrainingProgress,
    TrainingSummary,
    ValidationPicture,
)
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

Result = TypeVar("Result")

NO_JOB = 0
"""The number of what belongs to no job: that the engine is ready, or could not read a line. Jobs count from 1."""

# extra: a key that nobody knows is a fault. arbitrary types: arrays and dtypes. constants: a score may be NaN.
_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants")


def _to_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(value)
        return dtype
    except TypeError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class ArrayReference:
    """Where the values of an array lie; it stands in the array's place on a line.

    array_file: a .npy file, or an image file where `axes` says which axes its layer has; "" if only the shape and
    the type are known. part: of the first axis of a .npy file, where the array is one part of it. depth: the values
    are taken as files of this depth hold them (`Stored`). once: the file is read whole and then removed; others are
    memory-mapped.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    array_file: str
    shape: tuple[int, ...]
    dtype: Annotated[np.dtype[Any], BeforeValidator(_to_dtype)]
    axes: str = ""
    part: int | None = None
    depth: Depth | None = None
    once: bool = False

    def __getitem__(self, key: Any) -> Any:
        raise ValueError("a reference holds no values: open it first")


class Request(Generic[Result]):
    """What the engine can be asked for; it answers with a `Result`.

    A request is made with arrays, layers and names. `preparation.iter_prepare` brings what it needs into files, and it
    crosses as the same class. `model_sha256` is set then: the weights must be those still when the engine reads them.
    folder: of the run's files, "run" for one that goes with the engine, "own" for one that outlives it, "none" where
    the request has no files.
    """

    folder: ClassVar[Literal["run", "own", "none"]] = "run"

    @classmethod
    def result_type(cls) -> type[Result]:
        """The class of the answer."""
        found: type[Result] = get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        return found


@dataclass(frozen=True)
class Segment(Request[Prediction]):
    """Segment a stack. Before the end `ResultsOpened` brings the prediction while it is empty, and `TileWritten` says
    which part has come; a `Focus` sent back puts what is left in another order.

    model: a folder, or a name in the catalog. whole: what `stack` is a part of, so that its grey values are normalised
    as the whole's are. greys: these, measured before. preview, pinned: as in `iter_predict`.
    """

    stack: Stack
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    whole: Stack | None = None
    greys: GreyStatistics | None = None
    preview: bool = False
    pinned: dict[str, int | str] | None = None
    model_sha256: str = ""


@dataclass(frozen=True)
class EstimateRun(Request[RunPlan]):
    """Say what segmenting a stack would take, measured on one tile, and what was found about the image.

    whole: as in `Segment`. greys, probes: of the image, measured before it crosses; probes are patches that the network
    is asked about, None if there is nothing to ask.
    """

    stack: Stack
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    whole: Stack | None = None
    greys: GreyStatistics | None = None
    probes: NDArray[Any] | None = None
    model_sha256: str = ""


def _to_slice(value: Any) -> Any:
    return slice(*value) if isinstance(value, list | tuple) else value


Span = Annotated[slice, BeforeValidator(_to_slice), PlainSerializer(lambda span: [span.start, span.stop])]


@dataclass(frozen=True)
class Inspect(Request[Inspection]):
    """Show what the gates of a model see and let through in one part of a stack.

    gate: whose features are wanted, such as "long skip 1". part: which positions, by axis letter; `choose_part` gives
    one of a usable size. channel: the one to look at, where the model takes one. normalization: of the whole stack,
    measured before it crosses.
    """

    stack: Stack
    model: str
    gate: str
    part: Mapping[str, Span]
    channel: int | None = None
    normalization: Normalization | None = None
    model_sha256: str = ""


@dataclass(frozen=True)
class CorrectedStack:
    """An image and what corrects it.

    labels: where the corrections lie, or what writes them as they are now under a path. values: what their values from
    2 on stand for in the settings' classes, where not the same; 1 for a class that is not learnt. channel: the one to
    learn from; None if the image has no others.
    """

    stack: Stack
    labels: Snapshot | Callable[[Path], Snapshot]
    values: Mapping[int, int] = field(default_factory=dict)
    channel: int | None = None


@dataclass(frozen=True)
class PlanLesson(Request[TrainingSummary]):
    """Say what fine-tuning would learn from and hold out; no voxel of an image in memory is read."""

    settings: FinetuneSettings
    images: tuple[CorrectedStack, ...]
    device: str = "auto"


@dataclass(frozen=True)
class Finetune(Request[Finetuned]):
    """Fine-tune a model, and compare the new one, which lies in `target`, with the old one.

    `TrainingProgress` comes where curves move and `ValidationPicture` with what the network returns for one tile; a
    `KeepBest` sent back ends training with the best weights so far. What is painted meanwhile does not count. It goes
    on from a checkpoint of the same settings and corrections, where one lies in `target`; cancelled, it leaves
    nothing. model: set before it crosses, from the settings.
    """

    settings: FinetuneSettings
    images: tuple[CorrectedStack, ...]
    target: Path
    device: str = "auto"
    model: str = ""
    model_sha256: str = ""


@dataclass(frozen=True)
class Train(Request[Trained]):
    """Train a model from scratch into `target`; the rest is as in `Finetune`.

    layers: images and labels that lie in no file; those that the settings name by these names are written first.
    restart: throw away the checkpoint that an earlier call of such settings left.
    """

    settings: TrainSettings
    target: Path
    device: str = "auto"
    layers: Mapping[str, Stack] = field(default_factory=dict)
    restart: bool = False


@dataclass(frozen=True)
class FindObjects(Request[FoundObjects]):
    """Find and measure the objects of a whole stack, block by block.

    The labels lie in a folder of their own, which the caller removes when it no longer shows them; it goes in any case
    when a later session begins after this process's end. is_labels, class_names: as for `objects.find.find_objects`.
    image: grey values to measure. recipe: what is kept with the labels, besides.
    """

    folder = "own"

    probability: Stack
    class_names: tuple[str, ...] = ()
    options: ObjectOptions = field(default_factory=ObjectOptions)
    image: Stack | None = None
    is_labels: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunBatch(Request[BatchResult]):
    """Segment all images of a folder; what became of them is as `batch.run.iter_batch` says.

    Cancelled, what is done stays, and the same request continues at the tile where it was; a `Retry` sent back has
    failed files done again. retry: only what failed the last time. only: the files to do, by their names in the table;
    None = all.
    """

    folder = "none"

    settings: BatchSettings
    retry: bool = False
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ListDevices(Request[DeviceReport]):
    """Say what there is to compute on; it warms the engine up, too."""

    folder = "none"


@dataclass(frozen=True)
class ReportSystem(Request[SystemReport]):
    """Say what a bug report needs to know of this machine; a small network is tried for it."""

    folder = "none"


Command = Focus | KeepBest | Retry
"""What can be sent to a job at work."""
Call = Generator[Progress, Command | None, Result]
"""How a request is run: it yields how far it is, takes commands, and returns the result."""


@dataclass(frozen=True)
class Cancel:
    """Stop the job within a tile; nothing happens where it has ended already."""


@dataclass(frozen=True)
class Ready:
    """The engine has loaded its libraries and takes jobs."""

    pid: int


@dataclass(frozen=True)
class Failed:
    """The job failed: the name of a `SkipsegError` class, its sentence, and the traceback."""

    error: str
    message: str
    details: str


@dataclass(frozen=True)
class Cancelled:
    """The job was stopped; it left no result."""


YIELDED = (
    Progress,
    ImageFindings,
    ResultsOpened,
    TileWritten,
    TrainingProgress,
    ValidationPicture,
    BatchOpened,
    FileChanged,
    BatchWaits,
)
"""What the work yields; another subclass of these crosses as the one that it derives from."""
_REQUESTS = Request.__subclasses__()
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *_REQUESTS,
        *(request.result_type() for request in _REQUESTS),
        *YIELDED,
        *get_args(Command),
        Cancel,
        Ready,
        Failed,
        Cancelled,
    )
}


def _kind_of(value: Any) -> str | None:
    """Return the name of a value's class, or that in its JSON."""
    if isinstance(value, dict):
        return value.get("kind")
    return next((each.__name__ for each in type(value).__mro__ if each in _KINDS.values()), None)


def _tagged(kind: type) -> Any:
    """Return the type of `kind` with its name under "kind" in JSON."""

    def add(value: Any, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {"kind": kind.__name__, **serialize(value)}

    def drop(value: Any) -> Any:
        return {key: each for key, each in value.items() if key != "kind"} if isinstance(value, dict) else value

    return Annotated[kind, BeforeValidator(drop), WrapSerializer(add), Tag(kind.__name__)]


if TYPE_CHECKING:
    Value = Any
else:
    Value = Annotated[Union[tuple(_tagged(kind) for kind in _KINDS.values())], Discriminator(_kind_of)]  # noqa: UP007


@dataclass(frozen=True)
class Envelope:
    """One line in either direction: what is said about a job. folder: of a request, where files of its results go."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    job: int
    value: Value
    folder: str = ""


_ENVELOPES = TypeAdapter(Envelope)
_VALUES: TypeAdapter[Any] = TypeAdapter(Value, config=_CONFIG)
"""Writes values: of a dataclass's own configuration pydantic does not take what concerns NaN."""
_REFERENCES = TypeAdapter(ArrayReference)
_NUMBERS = count(1)


def to_line(envelope: Envelope, folder: Path) -> bytes:
    """Return a line of JSON in ASCII, so that the names of files cross that are no text; arrays go into `folder`.

    Raises:
        FileError: an array cannot be written there.
    """
    if _kind_of(envelope.value) not in _KINDS:
        raise TypeError(f"{type(envelope.value).__name__} does not cross between viewer and engine")
    # warnings: of a numpy number where Python's is expected, which becomes one; the other side checks all types
    value = _VALUES.dump_python(
        envelope.value, mode="json", warnings=False, fallback=lambda each: _to_crossing(each, folder)
    )
    line = {"job": envelope.job, "value": value, "folder": envelope.folder}
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def from_line(line: bytes, open_array: Callable[[ArrayReference], Any]) -> Envelope:
    """Return the envelope in a line; `open_array` gives the array of a reference, or the reference itself.

    Raises:
        ValueError: no JSON, an unknown kind or key, a missing value.
        SkipsegError: options or settings that are impossible; as for `open_array`.
    """

    def to_array(values: dict[str, Any]) -> Any:
        return open_array(_REFERENCES.validate_python(values)) if "array_file" in values else values

    return _ENVELOPES.validate_python(json.loads(line, object_hook=to_array))


def request_from_text(text: str, read: Callable[[str], Stack]) -> Request[Any]:
    """Return the request that somebody wrote by hand; {"read": FILE} stands for a stack, which `read` opens.

    Raises:
        ValueError: no JSON, no request, an unknown kind or key, a missing value.
        SkipsegError: options or settings that are impossible; as for `read`.
    """

    def to_stack(values: dict[str, Any]) -> Any:
        return read(values["read"]) if values.keys() == {"read"} else values

    request = _VALUES.validate_python(json.loads(text, object_hook=to_stack))
    if not isinstance(request, Request):
        raise ValueError(f"{type(request).__name__} is no request")
    return request


def _to_crossing(value: Any, folder: Path) -> Any:
    """Return what crosses in place of an array, a type or a number of numpy."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, np.ndarray):
        return _reference_to(value, folder)
    raise TypeError(f"{type(value).__name__} does not cross between viewer and engine")


def _reference_to(values: NDArray[Any], folder: Path) -> ArrayReference:
    """Return where an array lies, after it was written into `folder` where it lies in no file."""
    file, part = find_npy_file(values)
    if file:
        return ArrayReference(file, values.shape, values.dtype, part=part)
    written = folder / f"array_{next(_NUMBERS)}.npy"
    try:
        np.save(written, values, allow_pickle=False)
    except OSError as error:
        raise FileError(
            f"An array cannot be written to {folder} ({error.strerror or error}): free some space there, or set TMPDIR "
            "to a folder on another disk."
        ) from error
    return ArrayReference(str(written), values.shape, values.dtype, once=True)
