"""The engine process, `python -m napari_skipseg.jobs.worker`: lines in by standard input, out by standard output.

It runs one job at a time and keeps the last models warm between jobs. It takes its own standard streams away from the
libraries, so that a stray print cannot break the protocol; it steps back before the viewer in time and memory; and it
ends when its standard input does, that is with its parent. `jobs.client` is its other end.

By hand, `python -m napari_skipseg.jobs.worker REQUEST.json` runs one request from a file ("-": from standard input) in
this process, prints what the viewer would be sent, a line for each message, and lets the error through if it fails:

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
import traceback
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import psutil

from napari_skipseg.device_faults import is_out_of_memory
from napari_skipseg.errors import EngineError, OutOfMemoryError, SkipsegError
from napari_skipseg.images.files import read_stack
from napari_skipseg.inference.backends.warm import WarmModels
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.jobs.messages import (
    NO_JOB,
    ArrayReference,
    Cancel,
    Cancelled,
    Command,
    Envelope,
    Failed,
    Finetune,
    Ready,
    Request,
    Train,
    from_line,
    request_from_text,
    to_line,
)
from napari_skipseg.jobs.operations import iter_perform
from napari_skipseg.jobs.preparation import iter_prepare_request
from napari_skipseg.jobs.workspace import INPUT
from napari_skipseg.progress import run_to_end

NICENESS = 10
LEAVING = 7.0
"""Seconds that a training has for its last step and its checkpoint when the viewer closes."""
OUT_OF_MEMORY_SCORE = 500
"""Of 1000: when the system runs out of memory, the engine goes first and the viewer stays."""


class Worker:
    """Runs jobs one after the other on the thread that calls `work`, while another one listens."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._writing = threading.Lock()
        self._jobs: SimpleQueue[Envelope] = SimpleQueue()
        self._commands: deque[Envelope] = deque()
        self._cancelled = NO_JOB
        self._job: Envelope | None = None
        self._has_stopped = threading.Event()
        self._models = WarmModels()

    def listen(self, lines: Iterable[bytes]) -> None:
        """Take jobs and commands until the stream ends, then end the process, whatever it is doing."""
        for line in lines:
            try:
                envelope = from_line(line, _read_once)
            except Exception as error:  # whatever it is: an engine that stops listening cannot be stopped
                message = "The engine was asked for something it does not know: restart the viewer."
                self.send(Envelope(NO_JOB, Failed(EngineError.__name__, message, str(error))))
                continue
            if isinstance(envelope.value, Request):
                self._jobs.put(envelope)
            elif isinstance(envelope.value, Cancel):
                self._cancelled = envelope.job
            else:
                self._commands.append(envelope)
        self._leave_checkpoint()
        os._exit(0)

    def _leave_checkpoint(self) -> None:
        """Stop a training after its step, so that it leaves a checkpoint; other jobs have nothing to leave."""
        job = self._job
        if job is not None and isinstance(job.value, Finetune | Train):
            self._cancelled = job.job
            self._has_stopped.wait(LEAVING)

    def work(self) -> None:
        """Load the libraries, say `Ready`, then run jobs for ever."""
        import napari_skipseg.inference.predict  # noqa: F401
        from napari_skipseg.inference.backends.torch_backend import release_memory

        self.send(Envelope(NO_JOB, Ready(os.getpid())))
        while True:
            envelope = self._jobs.get()
            self._has_stopped.clear()
            self._job = envelope
            try:
                line = self.run(envelope)
            except Exception as error:
                line = to_line(Envelope(envelope.job, failure(error)), Path())
            self._job = None
            self._has_stopped.set()
            release_memory()  # an engine that waits leaves the GPU to napari and others
            self._write(line)

    def run(self, envelope: Envelope) -> bytes:
        """Return the line that ends a job: its result, or that it was stopped; send its progress on the way."""
        folder, command = Path(envelope.folder), None
        work = iter_perform(envelope.value, folder, self._models)
        while envelope.job != self._cancelled:
            try:
                progress = work.send(command)
            except StopIteration as stop:
                return to_line(Envelope(envelope.job, stop.value), folder)
            self.send(Envelope(envelope.job, progress), folder)
            command = self._take_command(envelope.job)
        work.close()
        return to_line(Envelope(envelope.job, Cancelled()), folder)

    def _take_command(self, job: int) -> Command | None:
        """Return the oldest command to a job; what is looked at counts only until there is another command."""
        command: Command | None = None
        while self._commands and (command is None or isinstance(command, Focus)):
            envelope = self._commands.popleft()
            command = envelope.value if envelope.job == job else command
        return command

    def send(self, envelope: Envelope, folder: Path = Path()) -> None:
        """Write a line; arrays that lie in no file go into `folder`."""
        self._write(to_line(envelope, folder))

    def _write(self, line: bytes) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._output.write(line)
            self._output.flush()


def _read_once(reference: ArrayReference) -> Any:
    """Return an array that is read once; others stay references, which the work opens."""
    return np.load(reference.array_file) if reference.once else reference


def failure(error: Exception) -> Failed:
    """Return what is reported of an error, which is the one at work."""
    shown = explain(error)
    return Failed(type(shown).__name__, _text(str(shown)), _text(traceback.format_exc()))


def explain(error: Exception) -> SkipsegError:
    """Return `error` as one that the user can act on."""
    if isinstance(error, SkipsegError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "The engine ran out of memory: choose a smaller tile, such as 256 (64 for a volume), or crop the image."
        )
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return EngineError(
        f"The engine failed ({type(error).__name__}: {said}): try again, and report the details where it "
        "fails once more."
    )


def _text(said: str) -> str:
    """Return `said` such that it can be shown, whatever the files in it are called."""
    return said.encode("utf-8", "backslashreplace").decode()


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return the process's input and output for the protocol's use alone.

    What libraries print goes to standard error from now on, and what they read is empty. (On Windows a library that
    loads while another thread waits for standard input would hang: it no longer is standard input.)
    """
    lines, output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return lines, output


def step_back() -> None:
    """Let the viewer go first: in processor time, and in what stays when memory runs out."""
    with contextlib.suppress(OSError, psutil.Error):
        if sys.platform == "win32":
            psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            os.nice(NICENESS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE), encoding="ascii")


def serve() -> None:
    """Serve until standard input ends. An interrupt typed in the viewer's terminal is the viewer's to answer."""
    lines, output = take_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    step_back()
    worker = Worker(output)
    threading.Thread(target=worker.listen, args=(lines,), daemon=True).start()
    worker.work()


def run_by_hand(text: str, folder: Path, output: BinaryIO) -> None:
    """Run one request in this process, and write each message to `output`; the results' files lie in `folder`.

    Raises:
        Exception: whatever reading the request and its work raise, after it was written as `Failed`.
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
    """Serve a viewer; with a request in a file, run it and print its messages."""
    parser = argparse.ArgumentParser(prog="python -m napari_skipseg.jobs.worker", description=main.__doc__)
    parser.add_argument("request", nargs="?", help="file with a request in JSON, - for standard input")
    parser.add_argument("--folder", type=Path, help="where arrays and other results go (a new temporary folder)")
    asked = parser.parse_args()
    if asked.request is None:
        return serve()
    text = sys.stdin.read() if asked.request == "-" else Path(asked.request).read_text(encoding="utf-8")
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="napari-skipseg-request-"))
    output = os.fdopen(os.dup(1), "wb")
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no message
        run_by_hand(text, folder.resolve(), output)


if __name__ == "__main__":
    main()
