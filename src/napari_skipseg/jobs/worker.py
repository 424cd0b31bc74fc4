"""The engine process, `python -m napari_skipseg.jobs.worker`: it reads lines from standard input and writes to output.

It runs one job at a time and keeps the last models in memory. It replaces its standard streams, so that a print of a
library cannot break the protocol; it has a lower priority than the viewer in processor time and memory; and it ends
with its standard input, that is with its parent. `jobs.client` is the other side.

By hand, `python -m napari_skipseg.jobs.worker REQUEST.json` runs one request from a file ("-": from standard input) in
this process, prints the messages that the viewer would get, one per line, and raises the error if it fails:

    {"kind": "Segment", "stack": {"read": "em.tif"}, "model": "em-membrane", "options": {"tile": 256}}
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import psutil

from napari_skipseg.device_faults import is_out_of_memory
from napari_skipseg.devices import release_memory
from napari_skipseg.errors import EngineError, OutOfMemoryError, SkipsegError
from napari_skipseg.images.files import read_stack
from napari_skipseg.inference.backends.warm import WarmModels
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.jobs.encoding import Envelope, from_line, request_from_text, to_line
from napari_skipseg.jobs.messages import (
    NO_JOB,
    ArrayReference,
    Cancel,
    Cancelled,
    Command,
    Failed,
    Finetune,
    GiveWay,
    Ready,
    Request,
    RunBatch,
    Segment,
    Train,
)
from napari_skipseg.jobs.operations import iter_perform
from napari_skipseg.jobs.preparation import iter_prepare_request
from napari_skipseg.jobs.workspace import INPUT
from napari_skipseg.progress import run_to_end

NICENESS = 10
LEAVING = 7.0
"""Seconds that a training has for its last step and its checkpoint when the viewer closes."""
IDLE = 2.0
"""Seconds without a job after which the engine loads torch."""
YIELDS_TO_STROKES = (Finetune, Train, RunBatch, Segment)
"""What gives way to a user who paints; all else was just asked for, such as a live view of what was painted."""
OUT_OF_MEMORY_SCORE = 500
"""Of 1000: if the system runs out of memory, it kills the engine and not the viewer."""


class Worker:
    """Runs jobs one after the other in the thread that calls `work`; a second thread reads messages."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._writing = threading.Lock()
        self._jobs: SimpleQueue[Envelope] = SimpleQueue()
        self._commands: deque[Envelope] = deque()
        self._cancelled = NO_JOB
        self._continues_at = 0.0
        self._may_have_changed = threading.Event()
        self._job: Envelope | None = None
        self._has_stopped = threading.Event()
        self._models = WarmModels()

    def listen(self, lines: Iterable[bytes]) -> None:
        """Read jobs and commands until the stream ends, then end the process, also during a job."""
        for line in lines:
            try:
                envelope = from_line(line, _read_once)
            except Exception as error:  # any: an engine that no longer reads messages could not be stopped
                message = "The engine got an unknown request: restart the viewer."
                self.send(Envelope(NO_JOB, Failed(EngineError.__name__, message, str(error))))
                continue
            if isinstance(envelope.value, Request):
                self._jobs.put(envelope)
            elif isinstance(envelope.value, Cancel):
                self._cancelled = envelope.job
            elif isinstance(envelope.value, GiveWay):
                self._continues_at = time.monotonic() + envelope.value.seconds
            else:
                self._commands.append(envelope)
            self._may_have_changed.set()
        self._leave_checkpoint()
        os._exit(0)

    def _leave_checkpoint(self) -> None:
        """Stop a training after its step, so that it writes a checkpoint; other jobs have none."""
        job = self._job
        if job is not None and isinstance(job.value, Finetune | Train):
            self._cancelled = job.job
            self._may_have_changed.set()
            self._has_stopped.wait(LEAVING)

    def work(self) -> None:
        """Load the libraries, send `Ready`, then run jobs for ever.

        torch is loaded while there is no job: a first preview with a compiled network need not wait for it.
        """
        import napari_skipseg.inference.predict  # noqa: F401

        self.send(Envelope(NO_JOB, Ready(os.getpid())))
        while True:
            envelope = self._next_job()
            self._has_stopped.clear()
            self._job = envelope
            try:
                line = self.run(envelope)
            except Exception as error:
                line = to_line(Envelope(envelope.job, failure(error)), Path())
            self._job = None
            self._has_stopped.set()
            release_memory()  # while the engine waits, napari and other programs can use the GPU's memory
            self._write(line)

    def _next_job(self) -> Envelope:
        if "torch" not in sys.modules:
            with contextlib.suppress(Empty):
                return self._jobs.get(timeout=IDLE)
            import torch  # noqa: F401
        return self._jobs.get()

    def run(self, envelope: Envelope) -> bytes:
        """Run a job and send its progress; return its last line, the result or `Cancelled`."""
        folder, command = Path(envelope.folder), None
        work = iter_perform(envelope.value, folder, self._models)
        while envelope.job != self._cancelled:
            try:
                progress = work.send(command)
            except StopIteration as stop:
                return to_line(Envelope(envelope.job, stop.value), folder)
            self.send(Envelope(envelope.job, progress), folder)
            self._give_way(envelope)
            command = self._take_command(envelope.job)
        work.close()
        return to_line(Envelope(envelope.job, Cancelled()), folder)

    def _give_way(self, envelope: Envelope) -> None:
        """Wait while the user paints, unless the job is cancelled or was just asked for."""
        while (
            isinstance(envelope.value, YIELDS_TO_STROKES)
            and envelope.job != self._cancelled
            and (left := self._continues_at - time.monotonic()) > 0
        ):
            self._may_have_changed.wait(left)
            self._may_have_changed.clear()

    def _take_command(self, job: int) -> Command | None:
        """Return the oldest command to a job; a `Focus` counts only if no later command follows."""
        command: Command | None = None
        while self._commands and (command is None or isinstance(command, Focus)):
            envelope = self._commands.popleft()
            command = envelope.value if envelope.job == job else command
        return command

    def send(self, envelope: Envelope, folder: Path = Path()) -> None:
        """Write a line; arrays in memory go into files in `folder`."""
        self._write(to_line(envelope, folder))

    def _write(self, line: bytes) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._output.write(line)
            self._output.flush()


def _read_once(reference: ArrayReference) -> Any:
    """Return an array that is read once; other references are opened by the job."""
    return np.load(reference.array_file) if reference.once else reference


def failure(error: Exception) -> Failed:
    """Return the message about the error that is being handled."""
    shown = explain(error)
    return Failed(type(shown).__name__, _printable(str(shown)), _printable(traceback.format_exc()))


def explain(error: Exception) -> SkipsegError:
    """Return `error` as one that the user can act on."""
    if isinstance(error, SkipsegError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "The engine ran out of memory: choose a smaller tile, such as 256 (64 for a volume), or crop the image."
        )
    message = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return EngineError(
        f"The engine failed ({type(error).__name__}: {message}): try again, and report the details if it fails again."
    )


def _printable(text: str) -> str:
    """Escape parts of file names that are no valid text."""
    return text.encode("utf-8", "backslashreplace").decode()


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return the process's input and output, which only the protocol uses from now on.

    Output of libraries goes to standard error, and their input is empty. (On Windows, a library that is loaded while a
    different thread waits for standard input would hang.)
    """
    lines, output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return lines, output


def lower_priority() -> None:
    """Give the viewer priority: in processor time, and if the system runs out of memory."""
    with contextlib.suppress(OSError, psutil.Error):
        if sys.platform == "win32":
            psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            os.nice(NICENESS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE), encoding="ascii")


def serve() -> None:
    """Serve until standard input ends. Ctrl-C in the viewer's terminal is ignored here; the viewer handles it."""
    lines, output = take_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    lower_priority()
    worker = Worker(output)
    threading.Thread(target=worker.listen, args=(lines,), daemon=True).start()
    worker.work()


def run_by_hand(text: str, folder: Path, output: BinaryIO) -> None:
    """Run one request in this process, and write each message to `output`; the results are in `folder`.

    Raises:
        Exception: any error of the request or its work, after it was written as `Failed`.
    """
    worker, job = Worker(output), NO_JOB + 1
    try:
        (folder / INPUT).mkdir(parents=True, exist_ok=True)
        work = iter_prepare_request(request_from_text(text, read_stack), folder / INPUT)
        prepared = run_to_end(work, lambda progress: worker.send(Envelope(job, progress), folder))
        output.write(worker.run(Envelope(job, prepared, str(folder))))
    except Exception as error:
        worker.send(Envelope(job, failure(error)))
        raise


def main() -> None:
    """Serve a viewer; with a file, run the request in it and print its messages."""
    parser = argparse.ArgumentParser(prog="python -m napari_skipseg.jobs.worker", description=main.__doc__)
    parser.add_argument("request", nargs="?", help="file with a request in JSON, - for standard input")
    parser.add_argument("--folder", type=Path, help="where arrays and other results go (a new temporary folder)")
    arguments = parser.parse_args()
    if arguments.request is None:
        return serve()
    is_input = arguments.request == "-"
    text = sys.stdin.read() if is_input else Path(arguments.request).read_text(encoding="utf-8")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="napari-skipseg-request-"))
    output = os.fdopen(os.dup(1), "wb")
    with contextlib.redirect_stdout(sys.stderr):  # output of libraries is no message
        run_by_hand(text, folder.resolve(), output)


if __name__ == "__main__":
    main()
