"""How messages travel between the viewer and the engine: one JSON object per line, which contains the value itself.

The values are the dataclasses that the rest of the package uses; in JSON each has the name of its class under "kind".
Arrays are not sent. An array in a file is sent as an `ArrayReference`; an array in memory is first written to a file of
the run's folder, to be read once. Loads without torch.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ClassVar, Union, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Discriminator, Tag, TypeAdapter, WrapSerializer

from napari_skipseg.batch.table import BatchOpened, BatchWaits, FileChanged
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.prediction import ResultsOpened, TileWritten
from napari_skipseg.jobs.messages import (
    MESSAGE_CONFIG,
    ArrayReference,
    Cancel,
    Cancelled,
    Command,
    Failed,
    GiveWay,
    Ready,
    Request,
)
from napari_skipseg.progress import ImageFindings, Progress
from napari_skipseg.training.progress import TrainingProgress, ValidationPicture

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
"""The progress classes that can be sent; an instance of a different subclass is sent as its base class."""
_REQUESTS = Request.__subclasses__()
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *_REQUESTS,
        *(request.result_type() for request in _REQUESTS),
        *YIELDED,
        *get_args(Command),
        Cancel,
        GiveWay,
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
    """One line in either direction: a message about a job. folder: of a request, the folder for its results."""

    __pydantic_config__: ClassVar[ConfigDict] = MESSAGE_CONFIG

    job: int
    value: Any
    folder: str = ""


_ENVELOPES = TypeAdapter(Envelope)
_VALUES: TypeAdapter[Any] = TypeAdapter(Value, config=MESSAGE_CONFIG)
"""Values apart from their envelopes: pydantic ignores the NaN setting in a dataclass's own configuration, and a second
adapter for the same classes would take 0.06 s to build."""
_REFERENCES = TypeAdapter(ArrayReference)
_NUMBERS = count(1)


def to_line(envelope: Envelope, folder: Path) -> bytes:
    """Return a line of JSON in ASCII, which can contain file names that are no valid text; arrays go into `folder`.

    Raises:
        FileError: an array cannot be written there.
    """
    if _kind_of(envelope.value) not in _KINDS:
        raise TypeError(f"{type(envelope.value).__name__} cannot be sent between viewer and engine")
    # warnings=False: numpy numbers in fields of Python numbers are converted, and the receiver checks all types
    value = _VALUES.dump_python(
        envelope.value, mode="json", warnings=False, fallback=lambda each: _to_json_value(each, folder)
    )
    line = {"job": envelope.job, "value": value, "folder": envelope.folder}
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def from_line(line: bytes, open_array: Callable[[ArrayReference], Any]) -> Envelope:
    """Return the envelope in a line; `open_array` returns the array of a reference, or the reference itself.

    Raises:
        ValueError: no JSON, an unknown kind or key, a missing value.
        SkipsegError: options or settings that are impossible; as for `open_array`.
    """

    def to_array(values: dict[str, Any]) -> Any:
        return open_array(_REFERENCES.validate_python(values)) if "array_file" in values else values

    envelope = _ENVELOPES.validate_python(json.loads(line, object_hook=to_array))
    return replace(envelope, value=_VALUES.validate_python(envelope.value))


def request_from_text(text: str, read: Callable[[str], Stack]) -> Request[Any]:
    """Return a request written by hand, in which `read` replaces each {"read": FILE} by the stack in the file.

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


def _to_json_value(value: Any, folder: Path) -> Any:
    """Return a value that JSON can represent, for an array, a type or a number of numpy."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, np.ndarray):
        return _reference_to(value, folder)
    raise TypeError(f"{type(value).__name__} cannot be sent between viewer and engine")


def _reference_to(values: NDArray[Any], folder: Path) -> ArrayReference:
    """Return a reference to an array; write the array into `folder` if it is in no file."""
    file, part = find_npy_file(values)
    if file:
        return ArrayReference(file, values.shape, values.dtype, part=part)
    written = folder / f"array_{next(_NUMBERS)}.npy"
    try:
        np.save(written, values, allow_pickle=False)
    except OSError as error:
        raise FileError(
            f"An array cannot be written to {folder} ({error.strerror or error}): free some space there, or set TMPDIR "
            "to a folder on a different disk."
        ) from error
    return ArrayReference(str(written), values.shape, values.dtype, once=True)


LARGEST_PART = 2**28
"""Most bytes that are copied at once, unless a single slice is larger."""


def iter_write_npy(stack: Stack, file: Path) -> Generator[Progress, None, None]:
    """Write the stack to `file` (.npy), slice by slice, so that it is never whole in memory. Yield after each part.

    Raises:
        FileError: no space is left.
        InputError: the image cannot be read.
    """
    dtype = np.dtype(stack.data.dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": stack.shape}
    written, total = 0, math.prod(stack.shape) * dtype.itemsize
    try:
        with file.open("wb") as opened:
            np.lib.format.write_array_header_1_0(opened, header)
            for part in _parts(stack):
                values = _read(stack, part, dtype)
                _append(opened, values)
                written += values.nbytes
                yield Progress(0, 1, f"copying the image, {100 * written // total} %")
    except OSError as error:
        raise FileError(
            f"'{stack.name}' cannot be copied to {file.parent} ({error.strerror}): free {total / 2**20:.0f} MiB there, "
            "or set TMPDIR to a folder on a different disk."
        ) from error


def _append(opened: BinaryIO, values: NDArray[Any]) -> None:
    opened.write(values.data)


def _parts(stack: Stack) -> Iterator[tuple[int | slice, ...]]:
    """Yield parts in C order: slices, or strips of a slice if it exceeds `LARGEST_PART`."""
    shape, itemsize = stack.shape, np.dtype(stack.data.dtype).itemsize
    rows = stack.space.axes.index("Y")
    axis = max(rows - 1, 0)
    while axis < len(shape) - 1 and math.prod(shape[axis + 1 :]) * itemsize > LARGEST_PART:
        axis += 1
    step = 1 if axis < rows else max(1, LARGEST_PART // (math.prod(shape[axis + 1 :]) * itemsize))
    for lead in np.ndindex(shape[:axis]):
        for start in range(0, shape[axis], step):
            yield (*lead, slice(start, start + step), *(slice(None),) * (len(shape) - axis - 1))


def _read(stack: Stack, part: tuple[int | slice, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return np.ascontiguousarray(stack.read(part), dtype)
    except SkipsegError:
        raise
    except Exception as error:
        raise InputError(
            f"'{stack.name}' cannot be read ({type(error).__name__}: {error}): open the image again."
        ) from error


def find_npy_file(values: ArrayLike) -> tuple[str, int | None]:
    """Return the .npy file that an array maps, and the part of its first axis if it maps only that; else ("", None)."""
    if not isinstance(values, np.memmap) or not values.flags.c_contiguous or not str(values.filename).endswith(".npy"):
        return "", None
    whole = values if isinstance(values.base, mmap.mmap) else values.base
    if not isinstance(whole, np.memmap) or not isinstance(whole.base, mmap.mmap) or whole.dtype != values.dtype:
        return "", None
    # mode "c": changes in memory are not in the file. A file that is gone can still be mapped.
    if whole.mode == "c" or not Path(str(values.filename)).is_file():
        return "", None
    if whole.shape == values.shape:
        return str(values.filename), None
    if whole.shape[1:] != values.shape or not whole.flags.c_contiguous:
        return "", None
    start = values.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return str(values.filename), start // values.nbytes
