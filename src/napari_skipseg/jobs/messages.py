"""The messages between the viewer and the engine process; `encoding` writes and reads them.

The viewer sends a `Request`, then commands to the running job. The engine sends each `Progress` that the work yields,
then the result, `Failed` or `Cancelled`. To add a request, derive a class from `Request[ITS RESULT]`, and register how
it is prepared and performed in `preparation` and `operations`. To add a progress, put its class into
`encoding.YIELDED`. Loads without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, PlainSerializer

from napari_skipseg.batch.run import BatchResult
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import Retry
from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.devices import DeviceReport, SystemReport
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.to_folder import ExportedFiles
from napari_skipseg.images.formats import Depth
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import Focus, Prediction
from napari_skipseg.inference.suggest import Suggestions, SuggestView
from napari_skipseg.models.transfer import CopiedModel
from napari_skipseg.objects.files import FoundObjects
from napari_skipseg.objects.options import ObjectOptions, ObjectPlanes
from napari_skipseg.progress import Progress
from napari_skipseg.studies.inspection import Inspection
from napari_skipseg.training.progress import (
    Finetuned,
    KeepBest,
    LivePart,
    LiveResult,
    Trained,
    TrainingSummary,
)
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

Result = TypeVar("Result")

NO_JOB = 0
"""The number of messages that belong to no job: the engine is ready, or could not read a line. Jobs count from 1."""

# extra: an unknown key is a fault. arbitrary types: arrays and dtypes. constants: a score may be NaN.
MESSAGE_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants")


def _to_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(value)
        return dtype
    except TypeError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class ArrayReference:
    """The file of an array; it replaces the array in a message.

    array_file: a .npy file, or an image file if `axes` has the axes of its layer; "" if only the shape and the type are
    known. part: index in the first axis of a .npy file, if the array is only that part of it. depth: the values are
    quantised like in files of this depth (`QuantizedArray`). once: the file is read whole and then removed; others are
    memory-mapped.
    """

    __pydantic_config__: ClassVar[ConfigDict] = MESSAGE_CONFIG

    array_file: str
    shape: tuple[int, ...]
    dtype: Annotated[np.dtype[Any], BeforeValidator(_to_dtype)]
    axes: str = ""
    part: int | None = None
    depth: Depth | None = None
    once: bool = False

    def __getitem__(self, key: Any) -> Any:
        raise ValueError("a reference has no values: open it first")


class Request(Generic[Result]):
    """A request to the engine, which answers with a `Result`.

    A request is made with arrays, layers and names. `preparation.iter_prepare_request` writes these to files and
    returns a request of the same class, which is sent. This sets `model_sha256`: the engine must find the same weights.
    folder: where the run's files are, "run" = removed with the engine, "own" = kept longer, "none" = there are no
    files.
    """

    folder: ClassVar[Literal["run", "own", "none"]] = "run"

    @classmethod
    def result_type(cls) -> type[Result]:
        """Return the class of the result."""
        found: type[Result] = get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        return found


@dataclass(frozen=True)
class Segment(Request[Prediction]):
    """Segment a stack. `ResultsOpened` has the prediction while it is still empty, and each `TileWritten` the part that
    was filled. A `Focus` that is sent changes the order of the tiles that are left.

    model: a folder, or a name in the catalog. whole: the image of which `stack` is a part, so that its grey values are
    normalised like those of the whole. greys: these, if measured before. preview, pinned, mask: as in `iter_predict`.
    """

    stack: Stack
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    whole: Stack | None = None
    greys: GreyStatistics | None = None
    preview: bool = False
    pinned: dict[str, int | str] | None = None
    model_sha256: str = ""
    mask: Stack | None = None


@dataclass(frozen=True)
class EstimateRun(Request[RunPlan]):
    """Estimate the time, memory and disk that a segmentation takes, from one tile, and report findings on the image.

    whole, mask: as in `Segment`. greys, probes: measured before it is sent. Probes are patches on which the network is
    tested, None if no test is needed.
    """

    stack: Stack
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    whole: Stack | None = None
    greys: GreyStatistics | None = None
    probes: NDArray[Any] | None = None
    model_sha256: str = ""
    mask: Stack | None = None


def _to_slice(value: Any) -> Any:
    return slice(*value) if isinstance(value, list | tuple) else value


Span = Annotated[slice, BeforeValidator(_to_slice), PlainSerializer(lambda span: [span.start, span.stop])]


@dataclass(frozen=True)
class Inspect(Request[Inspection]):
    """Compute the features before and after a gate of a model in one part of a stack, and all attention maps.

    gate: such as "long skip 1". part: positions by axis letter; `choose_part` returns one of a usable size. channel: of
    the image, if the model takes one channel. normalization: of the whole stack, measured before it is sent.
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
    """An image and its corrections.

    labels: the files of the corrections, or a function that writes their current state to a folder. values: maps values
    of the corrections from 2 on to values of the settings' classes, if they differ; 1 = a class that is not learnt.
    channel: the one to learn from; None if the image has one channel.
    """

    stack: Stack
    labels: Snapshot | Callable[[Path], Snapshot]
    values: Mapping[int, int] = field(default_factory=dict)
    channel: int | None = None


@dataclass(frozen=True)
class PlanFinetuning(Request[TrainingSummary]):
    """Summarise what fine-tuning would learn from and hold out; no voxel of an image in memory is read."""

    settings: FinetuneSettings
    images: tuple[CorrectedStack, ...]
    device: str = "auto"


@dataclass(frozen=True)
class Finetune(Request[Finetuned]):
    """Fine-tune a model, and compare the new one, in the folder `target`, with the old one.

    `TrainingProgress` has new points of the curves, and `ValidationPicture` the network's output for one patch. A
    `KeepBest` that is sent ends the training with the best weights so far. Strokes that are painted meanwhile do not
    count. The training resumes from a checkpoint in `target` with the same settings and corrections; if it is
    cancelled, no files stay. model: the folder of the settings' model, set before it is sent.
    """

    settings: FinetuneSettings
    images: tuple[CorrectedStack, ...]
    target: Path
    device: str = "auto"
    model: str = ""
    model_sha256: str = ""


@dataclass(frozen=True)
class LiveView(Request[LiveResult]):
    """Show what strokes teach about a view. The engine keeps the features of the view and of the strokes.

    image: changes with the content of the image. names: of the classes, whose labels are 2 and more. parts: the view,
    then the tiles (of `LIVE_TILE`) with labels elsewhere; () releases all that is kept. normalization: of the whole
    image.
    """

    image: str
    model: str
    names: tuple[str, ...] = ()
    parts: tuple[LivePart, ...] = ()
    normalization: Normalization | None = None
    device: str = "auto"
    model_sha256: str = ""


@dataclass(frozen=True)
class Suggest(Request[Suggestions]):
    """Try all installed models on a part of an image, and rank them."""

    view: SuggestView
    device: str = "auto"


@dataclass(frozen=True)
class Train(Request[Trained]):
    """Train a model from scratch into `target`; messages and commands are those of `Finetune`.

    layers: images and labels in memory, by the names that the settings use; they are first written to files. restart:
    discard the checkpoint of an earlier call with these settings.
    """

    settings: TrainSettings
    target: Path
    device: str = "auto"
    layers: Mapping[str, Stack] = field(default_factory=dict)
    restart: bool = False


@dataclass(frozen=True)
class FindObjects(Request[FoundObjects]):
    """Find and measure the objects of a whole stack, block by block.

    The labels are in a folder of their own, which the caller removes when it no longer shows them; at the latest, a
    session that begins after the end of this process removes it. is_labels, class_names: as for `objects.find.
    find_objects`. image: grey values to measure. recipe: entries that are added to the recipe of the labels.
    """

    folder = "own"

    probability: Stack
    class_names: tuple[str, ...] = ()
    options: ObjectOptions = field(default_factory=ObjectOptions)
    image: Stack | None = None
    is_labels: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportObjects(Request[ExportedFiles]):
    """Write objects into the folder `target`; arguments as `exports.to_folder.ExportRequest` and `labels_at_time`."""

    labels: Stack
    options: ExportOptions
    name: str
    target: Path
    objects: tuple[int, ...] = ()
    time: int | None = None
    planes: ObjectPlanes = "volume"


@dataclass(frozen=True)
class RunBatch(Request[BatchResult]):
    """Segment all images of a folder, as `batch.run.iter_batch` does.

    If it is cancelled, all that is done stays, and the same request continues at the same tile. A `Retry` that is sent
    processes failed files again. retry, only: as for `iter_batch`.
    """

    folder = "none"

    settings: BatchSettings
    retry: bool = False
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CopyModel(Request[CopiedModel]):
    """Export, import or duplicate a model, as the functions of `models.transfer` do.

    source: the folder of the model, or a file to import. target: of an export, the file, which is replaced. name: of
    the new model; "" of an import = the name that it has.
    """

    folder = "none"

    how: Literal["export", "import", "duplicate"]
    source: Path
    target: Path = Path()
    name: str = ""


@dataclass(frozen=True)
class ListDevices(Request[DeviceReport]):
    """List the devices. This also starts the engine, so that later requests are faster."""

    folder = "none"


@dataclass(frozen=True)
class ReportSystem(Request[SystemReport]):
    """Describe this machine for a bug report; a small network is tested for it."""

    folder = "none"


Command = Focus | KeepBest | Retry
"""What can be sent to a running job."""
Call = Generator[Progress, Command | None, Result]
"""A running request: it yields its progress, takes commands, and returns the result."""


@dataclass(frozen=True)
class GiveWay:
    """Begin no further step of long work for so many seconds, as the user paints. 0 ends that."""

    seconds: float


@dataclass(frozen=True)
class Cancel:
    """Stop the job within a tile; this has no effect if the job has ended."""


@dataclass(frozen=True)
class Ready:
    """The engine has loaded its libraries and accepts jobs."""

    pid: int


@dataclass(frozen=True)
class Failed:
    """The job failed: the name of a `SkipsegError` class, its message, and the traceback."""

    error: str
    message: str
    details: str


@dataclass(frozen=True)
class Cancelled:
    """The job was stopped without a result."""
