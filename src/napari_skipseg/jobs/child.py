"""The engine process as seen by its parent: lines to it, lines from it, and how it ended. Never imports torch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TypeVar

from napari_skipseg import errors
from napari_skipseg.errors import EngineError, SkipsegError
from napari_skipseg.jobs.encoding import Envelope, from_line, to_line
from napari_skipseg.jobs.messages import Cancel, Failed, Ready
from napari_skipseg.jobs.workspace import INPUT, make_run_folder, make_session_folder, open_result, remove_folder
from napari_skipseg.progress import Progress

Fault = TypeVar("Fault", bound=SkipsegError)

COMMAND = (sys.executable, "-P", "-m", "napari_skipseg.jobs.worker")
"""-P: a file in the folder where the viewer was started must not shadow a library."""
ENGINE_WAKE = 0.1
"""Longest wait for a line in seconds, after which the caller gets control again."""
GRACE = 8.0
"""Seconds in which a cancelled job has to stop, else its process is killed."""
ERROR_LINES = 40
"""Lines of standard error that are kept for the details of an error."""


class EngineEndedError(EngineError):
    """The engine's process ended during a job."""


class Child:
    """One engine process. It starts with the object, and only once."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise EngineError(f"The engine process cannot be started ({error}): install the package again.") from error
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._error_lines: deque[str] = deque(maxlen=ERROR_LINES)
        self._is_ready = False
        self._was_stopped = False
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True).start()
        self._error_reader = threading.Thread(
            target=_read_errors, args=(self._process.stderr, self._error_lines), daemon=True
        )
        self._error_reader.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Return whether the process is gone."""
        return self._process.poll() is not None

    def send(self, envelope: Envelope) -> None:
        """Send a line to the process; if it has ended, `next_line` will raise.

        Raises:
            FileError: an array of the line cannot be written.
        """
        line = to_line(envelope, Path(envelope.folder) / INPUT)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def next_line(self, timeout: float) -> Envelope | None:
        """Return the next line of the process, None if there is none within `timeout` seconds.

        Raises:
            EngineEndedError: the process ended.
            EngineError: the line is not one of ours, or its result cannot be read.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except Empty:
            return None
        if line is None:
            self._lines.put(None)
            raise self._ended_error()
        try:
            envelope = from_line(line, open_result)
        except ValueError as error:
            text = line.decode("utf-8", "replace").rstrip()
            if not self._is_ready:
                self._error_lines.append(text)
                return None
            raise with_details(
                EngineError("The engine answered with something unexpected: try again."), text
            ) from error
        self._is_ready = self._is_ready or isinstance(envelope.value, Ready)
        return envelope

    def cancel(self, job: int) -> None:
        """Stop a job and return when it has stopped; end the process if that takes longer than `GRACE`."""
        self.send(Envelope(job, Cancel()))
        until = time.monotonic() + GRACE
        with contextlib.suppress(EngineError):
            while time.monotonic() < until:
                envelope = self.next_line(ENGINE_WAKE)
                if envelope is not None and envelope.job == job and not isinstance(envelope.value, Progress):
                    return
        self.end()

    def end(self, patience: float = 1.0) -> None:
        """End the process, also during a job, and return when it has ended.

        patience: seconds in which it may end by itself: a training first writes a checkpoint.
        """
        self._was_stopped = self._was_stopped or not self.has_ended()
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ended_error(self) -> EngineEndedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._error_reader.join(1)
        how = "was stopped" if self._was_stopped else _describe_exit(self._process.returncode)
        return with_details(
            EngineEndedError(
                f"The engine process {how}; the viewer and its layers are safe: try again, with a smaller "
                "tile if memory was short."
            ),
            "\n".join(self._error_lines),
        )


def _describe_exit(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (the system most likely ran out of memory)" if name == "SIGKILL" else "")


def error_of(failed: Failed) -> SkipsegError:
    """Return the error of the engine, of the same class and with the same message."""
    kind = getattr(errors, failed.error, EngineError)
    return with_details(kind(failed.message), failed.details)


def with_details(error: Fault, details: str) -> Fault:
    """Return `error` with the attribute `details`: a traceback, or the last lines of standard error."""
    error.details = details
    return error


def _read_lines(stream: IO[bytes], lines: SimpleQueue[bytes | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _read_errors(stream: IO[bytes], lines: deque[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line.decode("utf-8", "replace").rstrip())


class Session:
    """The process and the folder of an engine. It is a separate object so that a finaliser of the engine can close
    it."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.folder: Path | None = None
        self.closed = False
        self.is_leaving = False  # the viewer is closing: checkpoints stay
        self._changing = threading.Lock()

    def start(self) -> Child:
        """Return the process, started if there is none."""
        with self._changing:
            if self.closed:
                raise EngineError("The engine was closed: make a new one.")
            if self.child is not None and self.child.has_ended():
                self.child.end()
                self.child = None
            self.child = self.child or Child()
            return self.child

    def new_run(self, is_own: bool = False) -> Path:
        """Return a new folder for one run. is_own: it outlives the session, so it is not in the session's folder."""
        with self._changing:
            if self.closed:
                raise EngineError("The engine was closed: make a new one.")
            if is_own:
                return make_session_folder()
            if self.folder is None or not self.folder.is_dir():
                self.folder = make_session_folder()
            return make_run_folder(self.folder)

    def close(self) -> None:
        """End the process and remove the folder; no process can be started after that."""
        with self._changing:
            self.closed = True
            if self.child is not None:
                self.child.end(GRACE)
            if self.folder is not None:
                remove_folder(self.folder)
