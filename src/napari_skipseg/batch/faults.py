"""Faults of a batch: which are of one file, and which stop it all."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from napari_skipseg.device_faults import is_out_of_memory
from napari_skipseg.durable import write_whole
from napari_skipseg.errors import FileError, SkipsegError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What only writing can meet, and every file would."""
PROBE = ".probe"
GOES_ON = "What is done stays, and the same batch goes on from there."


class StoppedError(SkipsegError):
    """The batch was told to stop: no fault of the file that was at work."""


def reason_of(error: Exception) -> str:
    """Return in one sentence why a file failed."""
    if isinstance(error, SkipsegError):
        return " ".join(str(error).split())
    if is_out_of_memory(error):
        return "There was not enough memory for it: choose a smaller tile, such as 256 (64 for a volume), or crop it."
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return (
        f"It failed unexpectedly ({type(error).__name__}: {said}): try again, and report it where it fails once more."
    )


def fault_of_folder(error: Exception, folder: Path) -> FileError | None:
    """Return why nothing more can be written to `folder`, where that is what `error` says; None for all else."""
    faults = [fault for fault in _chain(error) if isinstance(fault, OSError)]
    if any(fault.errno in FULL for fault in faults):
        return FileError(f"{reason_of(error)} {GOES_ON}")
    if faults:
        try:
            write_whole(folder / PROBE, b"can this be written?")
            (folder / PROBE).unlink()
        except OSError as fault:
            return FileError(f"Nothing can be written to '{folder}' any more ({fault.strerror or fault}). {GOES_ON}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
