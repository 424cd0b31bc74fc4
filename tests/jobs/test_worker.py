"""The engine process's own rules: what it answers, and when it ends."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import fields
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from napari_skipseg.errors import DeviceError, EngineError, InputError
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization
from napari_skipseg.images.space import Space
from napari_skipseg.inference.backends import torch_backend
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs import events, requests
from napari_skipseg.jobs import worker as worker_module
from napari_skipseg.jobs.child import COMMAND
from napari_skipseg.jobs.worker import Worker, explain

JOB = requests.SegmentJob(
    7,
    "/tmp/run",
    "",
    (3, 40, 50),
    Space("ZYX", (50.0, 4.0, 4.0), "nm"),
    "é",
    "/m",
    "ab",
    SegmentOptions(tile=64),
)

PLAN = requests.PlanJob(
    8, "/tmp", (3, 40, 50), "uint8", Space("ZYX", (50.0, 4.0, 4.0), "nm"), "é", "/m", "ab", SegmentOptions(average=8),
    GreyStatistics(Normalization(100.0, 20.0), ("It is framed.",)), ("It was read so.",),
)  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        JOB,
        PLAN,
        requests.DevicesJob(1),
        requests.ReportJob(2),
        requests.Look(7, {"Z": (3.0, 3.0)}),
        requests.Cancel(7),
        requests.Quit(),
    ],
)
def test_a_request_survives_its_line(request_: requests.Request) -> None:
    line = requests.request_to_line(request_)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert requests.request_from_line(line) == request_


def test_unknown_keys_and_kinds_are_refused() -> None:
    for line in (b'{"kind": "cancel", "number": 1, "more": 2}', b'{"kind": "dance"}', b"hello", b'{"kind": "cancel"}'):
        with pytest.raises((ValidationError, json.JSONDecodeError)):
            requests.request_from_line(line)
    line = requests.request_to_line(JOB).replace(b'"tile":64', b'"tile":-1')
    with pytest.raises(InputError, match="tile of -1"):
        requests.request_from_line(line)


def test_every_event_has_its_own_kind() -> None:
    kinds = [
        next(field.default for field in fields(event) if field.name == "kind")
        for event in (
            events.Ready,
            events.ProgressMade,
            events.ResultsOpened,
            events.TileWritten,
            events.Segmented,
            events.Planned,
            events.DevicesFound,
            events.Failed,
            events.Cancelled,
        )
    ]
    assert len(set(kinds)) == len(kinds)


def test_memory_faults_name_the_cure() -> None:
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("Exception from src/inference: std::bad_alloc"),
    ):
        shown = explain(error)
        assert isinstance(shown, EngineError)
        assert "choose a smaller tile" in str(shown)


def test_other_faults_are_one_sentence() -> None:
    assert explain(DeviceError("no such device")).args == ("no such device",)
    shown = explain(KeyError("a\nb"))
    assert isinstance(shown, EngineError)
    assert str(shown).startswith("The engine failed (KeyError: ")
    assert "\n" not in str(shown)


def test_engine_answers_a_line_it_cannot_read_and_ends_with_its_input() -> None:
    child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin
    assert child.stdout
    child.stdin.write(b'{"kind": "dance"}\n')
    child.stdin.flush()
    answer = events.event_from_line(child.stdout.readline())
    assert isinstance(answer, events.Failed)
    assert answer.number == events.NO_JOB
    child.stdin.close()
    assert child.wait(120) == 0
    child.stdout.close()


def test_memory_of_the_gpu_is_released_after_each_job_before_its_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    said = io.BytesIO()
    told_then: list[int] = []
    monkeypatch.setattr(torch_backend, "release_memory", lambda: told_then.append(said.getvalue().count(b"\n")))
    worker = Worker(said)
    jobs = iter([requests.DevicesJob(1), requests.DevicesJob(2)])

    def next_job() -> requests.Job:
        for job in jobs:
            return job
        raise Stopped

    monkeypatch.setattr(worker, "_jobs", SimpleNamespace(get=next_job))
    monkeypatch.setattr(worker_module, "look_at_devices", lambda: (_ for _ in ()).throw(InputError("It is broken.")))
    with pytest.raises(Stopped):
        worker.work()
    assert told_then == [1, 2], "after it was ready, and after the first end; a job that failed too"
    assert said.getvalue().count(b"\n") == 3
