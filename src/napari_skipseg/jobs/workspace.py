"""The private temporary folder in which arrays cross between viewer and engine process.

A session has one folder (mode 0700, in `TMPDIR`), a run one folder in it. The copy of the image goes when the run ends.
A result's file goes when the last array that shows it does, or when the engine is closed: on Linux and macOS such
arrays stay readable even then; on Windows a file in use stays, and is swept by a later session. A session holds a lock
in its folder; folders whose lock is free are removed when a new session begins. Loads without torch.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import EngineError, FileError, InputError, SkipsegError
from napari_skipseg.images.faults import telling_faults
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import AttentionMap, Prediction
from napari_skipseg.jobs.events import PROBABILITY_FILE, UNCERTAINTY_FILE, ResultsOpened
from napari_skipseg.locks import LOCK_FILE, FolderLock, holder_state
from napari_skipseg.progress import Progress

LARGEST_PART = 2**28
"""Bytes that are copied at once, where a single slice is not larger."""

_PREFIX = f"napari-skipseg-{re.sub(r'[^A-Za-z0-9]+', '_', platform.node())}-"
"""Names the host: a temporary folder may be shared by several, and not every file system has locks across them."""

NEW = 3600.0
"""Seconds for which a folder without a lock is left alone: its session may be about to take the lock."""

_held: dict[Path, FolderLock] = {}
"""The locks of the session folders of this process. A number of a process would not do: containers that share a
temporary folder, and may have one host name, count their processes each from 1."""


def make_session_folder() -> Path:
    """Return a new private folder, after those of dead sessions were removed; `remove_folder` removes it.

    Raises:
        FileError: it cannot be made.
    """
    sweep_dead_sessions()
    folder = _make_folder(_PREFIX, None)
    lock = FolderLock(folder, f"'{folder}' belongs to another session.")
    with telling_faults(folder):
        lock.take()
    _held[folder] = lock
    return folder


def make_run_folder(session: Path) -> Path:
    """Return a new folder for one run.

    Raises:
        FileError: it cannot be made.
    """
    return _make_folder("run-", session)


def remove_folder(folder: Path) -> None:
    """Remove the folder of a session or a run, as far as nobody has its files open."""
    lock = _held.pop(folder, None)
    if lock is not None:
        lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def _make_folder(prefix: str, parent: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        place = parent or tempfile.gettempdir()
        raise FileError(
            f"No temporary folder can be made in {place} ({error.strerror}): free some space, or set TMPDIR to a "
            "folder on another disk."
        ) from error


def sweep_dead_sessions() -> None:
    """Remove this user's folders of sessions whose process has ended: their locks are free."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_mine(folder) and _is_dead(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    try:
        return folder.is_dir() and not folder.is_symlink() and (os.name == "nt" or folder.stat().st_uid == os.getuid())
    except OSError:
        return False


def _is_dead(folder: Path) -> bool:
    try:
        has_lock, age = (folder / LOCK_FILE).exists(), time.time() - folder.stat().st_mtime
    except OSError:
        return False
    return holder_state(folder) is False and (has_lock or age > NEW)


def copy_stack(stack: Stack, file: Path) -> Generator[Progress, None, None]:
    """Write the stack to `file` (.npy), slice by slice: it is never whole in memory. Yield after each part.

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
            "or set TMPDIR to a folder on another disk."
        ) from error


def _append(opened: BinaryIO, values: NDArray[Any]) -> None:
    opened.write(values.data)


def _parts(stack: Stack) -> Iterator[tuple[int | slice, ...]]:
    """Yield parts that follow each other in C order: slices, or strips of them where one exceeds `LARGEST_PART`."""
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


def open_prediction(result: ResultsOpened, folder: Path) -> Prediction:
    """Return the prediction that lies in `folder`, memory-mapped; a file goes when its array is no longer used.

    Raises:
        EngineError: a file is missing or damaged.
    """
    attentions = tuple(AttentionMap(a.level, a.stride, open_array(folder / a.file)) for a in result.attentions)
    return Prediction(
        open_array(folder / PROBABILITY_FILE),
        result.space,
        result.class_names,
        attentions,
        result.recipe,
        open_array(folder / UNCERTAINTY_FILE) if result.has_uncertainty else None,
    )


def open_array(file: Path) -> NDArray[np.float32]:
    """Return the array in a result's file, memory-mapped; the file goes when the array is no longer used.

    Raises:
        EngineError: it is missing or damaged.
    """
    try:
        values: NDArray[np.float32] = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise EngineError(f"The engine's result {file.name} cannot be read: try again.") from error
    weakref.finalize(values.base, _discard, file).atexit = False
    return values


def _discard(file: Path) -> None:
    """Remove a result's file, and its folder with the last one. (`values.base` is the map that all views share.)"""
    with contextlib.suppress(OSError):
        file.unlink()
        file.parent.rmdir()
