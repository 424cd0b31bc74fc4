"""A question and its answer: a job that fails leaves the engine warm, one that ran out of memory does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_stacks import make_stack

from napari_skipseg.devices import SystemReport
from napari_skipseg.errors import EngineError, FileError, InputError, OutOfMemoryError, SkipsegError
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs.child import EngineEndedError
from napari_skipseg.jobs.client import Engine, ResumePoint
from napari_skipseg.jobs.encoding import Envelope
from napari_skipseg.jobs.messages import NO_JOB, Cancelled, Failed, ListDevices, Segment
from napari_skipseg.jobs.worker import explain
from napari_skipseg.progress import run_to_end

JOB = 1
"""The number of an engine's first job."""


class StubChild:
    """An engine's process that answers with one line, or has one fault."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.has_ended = answer, False

    def send(self, envelope: Any) -> None: ...

    def next_line(self, timeout: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def end(self) -> None:
        self.has_ended = True


def ask(answer: Any) -> tuple[StubChild, SkipsegError | None]:
    child = StubChild(answer)
    try:
        run_to_end(Engine()._request_result(child, ListDevices(), Path(), ResumePoint()))  # type: ignore[arg-type]
    except SkipsegError as error:
        return child, error
    return child, None


def failed(kind: type[Exception], job: int = JOB) -> Envelope:
    return Envelope(job, Failed(kind.__name__, "A sentence.", "a traceback"))


@pytest.mark.parametrize("job", [JOB, NO_JOB])
@pytest.mark.parametrize("kind", [EngineError, InputError, FileError, ValueError])
def test_a_job_that_fails_leaves_the_engine_warm(kind: type[Exception], job: int) -> None:
    child, error = ask(failed(kind, job))
    assert not child.has_ended
    assert isinstance(error, kind if issubclass(kind, SkipsegError) else EngineError)
    assert (str(error), error.details) == ("A sentence.", "a traceback")


def test_after_memory_ran_out_the_next_job_has_a_new_process() -> None:
    child, error = ask(failed(OutOfMemoryError))
    assert child.has_ended
    assert isinstance(error, OutOfMemoryError)


@pytest.mark.parametrize("fault", [EngineEndedError("It ended."), EngineError("It answered with something else.")])
def test_a_process_that_ended_or_is_not_understood_is_ended(fault: EngineError) -> None:
    child, error = ask(fault)
    assert child.has_ended
    assert error is fault


def test_an_answer_leaves_the_engine_warm() -> None:
    child, error = ask(Envelope(JOB, SystemReport({"torch": "2"})))
    assert (child.has_ended, error) == (False, None)


def test_an_engine_that_was_stopped_from_outside_is_replaced() -> None:
    child, error = ask(Envelope(JOB, Cancelled()))
    assert child.has_ended
    assert isinstance(error, EngineEndedError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_every_shortage_of_memory_is_told_as_one(error: Exception) -> None:
    told = explain(error)
    assert isinstance(told, OutOfMemoryError)
    assert "smaller tile" in str(told)
    assert not isinstance(explain(RuntimeError("something else")), OutOfMemoryError)


def test_an_engine_that_failed_unexpectedly_answers_the_next_call(engine: Engine, model_folder: Path) -> None:
    run_to_end(engine.run(ListDevices()))
    pid = engine.pid
    with pytest.raises(EngineError, match="KeyError"):
        run_to_end(engine.run(Segment(make_stack(), str(model_folder), SegmentOptions("cpu"), pinned={"side": 32})))
    assert engine.pid == pid
    found = run_to_end(engine.run(Segment(make_stack(), str(model_folder), SegmentOptions("cpu"))))
    assert found.probability.shape == (3, 60, 70)
    assert engine.pid == pid
