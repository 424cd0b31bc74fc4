"""The engine process from outside: lines in, lines out, and what became of it. Never imports torch."""

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
from napari_skipseg.jobs.messages import Cancel, Envelope, Failed, Ready, from_line, to_line
from napari_skipseg.jobs.workspace import INPUT, make_run_folder, make_session_folder, open_result, remove_folder
from napari_skipseg.progress import Progress

Fault = TypeVar("Fault", bound=SkipsegError)

COMMAND = (sys.executable, "-P", "-m", "napari_skipseg.jobs.worker")
"""-P: a file in the folder where the viewer was started must not take a library's place."""
ENGINE_WAKE = 0.1
"""Longest wait for a line, in seconds, before the caller may look at something else."""
GRACE = 8.0
"""Seconds that a cancelled job has to stop before its process is killed."""
LAST_WORDS = 40
"""Lines of standard error that are kept for the details of an error."""


class EngineEndedError(EngineError):
    """The engine's process ended in mid-job."""


class Child:
    """One engine process; it starts with the object and is not started twice."""

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
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._is_ready = False
        self._was_stopped = False
        self._listen = threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True)
        self._overhear = threading.Thread(
            target=_read_errors, args=(self._process.stderr, self._last_words), daemon=True
        )
        self._listen.start()
        self._overhear.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Return whether the process is gone."""
        return self._process.poll() is not None

    def send(self, sent: Envelope) -> None:
        """Hand a line to the process; where it is gone, `next_line` will say so.

        Raises:
            FileError: an array of the line cannot be written.
        """
        line = to_line(sent, Path(sent.folder) / INPUT)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def next_line(self, timeout: float) -> Envelope | None:
        """Return what the process says next, None if it says nothing within `timeout` seconds.

        Raises:
            EngineEndedError: the process ended.
            EngineError: it said something that is no line of ours, or its result cannot be read.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except Empty:
            return None
        if line is None:
            self._lines.put(None)
            raise self._why_it_ended()
        try:
            said = from_line(line, open_result)
        except ValueError as error:
            text = line.decode("utf-8", "replace").rstrip()
            if not self._is_ready:
                self._last_words.append(text)
                return None
            raise with_details(
                EngineError("The engine answered with something unexpected: try again."), text
            ) from error
        self._is_ready = self._is_ready or isinstance(said.value, Ready)
        return said

    def cancel(self, job: int) -> None:
        """Stop a job and return when it has stopped; end the process where that takes longer than `GRACE`."""
        self.send(Envelope(job, Cancel()))
        until = time.monotonic() + GRACE
        with contextlib.suppress(EngineError):
            while time.monotonic() < until:
                said = self.next_line(ENGINE_WAKE)
                if said is not None and said.job == job and not isinstance(said.value, Progress):
                    return
        self.end()

    def end(self, patience: float = 1.0) -> None:
        """End the process, whatever it is doing, and return when it is gone.

        patience: seconds that it has to end by itself: a training first writes a checkpoint.
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

    def _why_it_ended(self) -> EngineEndedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._overhear.join(1)
        how = "was stopped" if self._was_stopped else _how(self._process.returncode)
        return with_details(
            EngineEndedError(
                f"The engine process {how}; the viewer and its layers are safe: try again, with a smaller "
                "tile if memory was short."
            ),
            "\n".join(self._last_words),
        )


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (the system most likely ran out of memory)" if name == "SIGKILL" else "")


def error_of(failed: Failed) -> SkipsegError:
    """Return the error that the engine met, of the same kind and with the same sentence."""
    kind = getattr(errors, failed.error, EngineError)
    return with_details(kind(failed.message), failed.details)


def with_details(error: Fault, details: str) -> Fault:
    """Return `error` with `details` (a traceback, last words) as its attribute of that name."""
    error.details = details
    return error


def _read_lines(stream: IO[bytes], lines: SimpleQueue[bytes | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _read_errors(stream: IO[bytes], last_words: deque[str]) -> None:
    with stream:
        for line in stream:
            last_words.append(line.decode("utf-8", "replace").rstrip())


class Session:
    """The process and the folder of an engine, apart from it: they must end with it, and after it was forgotten."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.folder: Path | None = None
        self.closed = False
        self.is_leaving = False  # the viewer is being closed: what can be resumed stays
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
        """Return a new folder for one run, in the session's or, where `is_own`, beside it, to outlive the session."""
        with self._changing:
            if self.closed:
                raise EngineError("The engine was closed: make a new one.")
            if is_own:
                return make_session_folder()
            if self.folder is None or not self.folder.is_dir():
                self.folder = make_session_folder()
            return make_run_folder(self.folder)

    def close(self) -> None:
        """End the process and remove the folder; nothing is started any more."""
        with self._changing:
            self.closed = True
            if self.child is not None:
                self.child.end(GRACE)
            if self.folder is not None:
                remove_folder(self.folder)
