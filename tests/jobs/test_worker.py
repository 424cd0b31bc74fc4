"""The engine process's own rules: what it answers, when it ends, and how it is run by hand."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_skipseg.batch.table import Retry
from napari_skipseg.devices import SystemReport
from napari_skipseg.errors import DeviceError, EngineError, InputError, ModelError
from napari_skipseg.inference import system_report
from napari_skipseg.inference.prediction import Focus, Prediction, ResultsOpened, TileWritten
from napari_skipseg.jobs import worker as worker_module
from napari_skipseg.jobs.child import COMMAND
from napari_skipseg.jobs.encoding import Envelope, from_line, to_line
from napari_skipseg.jobs.messages import NO_JOB, Cancel, Failed, GiveWay, ListDevices, Ready
from napari_skipseg.jobs.worker import Worker, explain, run_by_hand
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import KeepBest


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


def answers(lines: bytes) -> list[Envelope]:
    return [from_line(line, lambda reference: np.load(reference.array_file)) for line in lines.splitlines()]


def test_engine_answers_a_line_it_cannot_read_and_ends_with_its_input() -> None:
    child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin
    assert child.stdout
    child.stdin.write(b'{"job": 1, "value": {"kind": "Dance"}}\n')
    child.stdin.flush()
    (answer,) = answers(child.stdout.readline())
    assert isinstance(answer.value, Failed)
    assert answer.job == NO_JOB
    child.stdin.close()
    assert child.wait(120) == 0
    child.stdout.close()


class Stopped(Exception):  # noqa: N818
    """The end of a worker's jobs."""


def run_jobs(worker: Worker, monkeypatch: pytest.MonkeyPatch, *jobs: Envelope) -> None:
    """Have a worker do these jobs."""
    waiting = iter(jobs)

    def next_job() -> Envelope:
        for job in waiting:
            return job
        raise Stopped

    monkeypatch.setattr(worker, "_jobs", SimpleNamespace(get=next_job))
    with pytest.raises(Stopped):
        worker.work()


def test_memory_of_the_gpu_is_released_after_each_job_before_its_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.BytesIO()
    told_then: list[int] = []
    monkeypatch.setattr(worker_module, "release_memory", lambda: told_then.append(said.getvalue().count(b"\n")))
    monkeypatch.setattr(system_report, "list_devices", lambda: (_ for _ in ()).throw(InputError("It is broken.")))
    run_jobs(Worker(said), monkeypatch, Envelope(1, ListDevices()), Envelope(2, ListDevices()))
    assert told_then == [1, 2], "after it was ready, and after the first end; a job that failed too"
    assert [type(answer.value) for answer in answers(said.getvalue())] == [Ready, Failed, Failed]


def test_commands_come_to_their_job_in_order_and_of_views_only_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module.os, "_exit", lambda code: None)
    heard: list[Any] = []

    def work(*asked: Any) -> Any:
        for step in range(4):
            heard.append((yield Progress(step, 4)))
        return SystemReport({})

    commands = [
        Envelope(1, Focus({"Z": (1.0, 1.0)})),
        Envelope(7, KeepBest()),
        Envelope(1, Focus({"Z": (2.0, 2.0)})),
        Envelope(1, Retry(("a.tif",))),
        Envelope(1, Retry(("b.tif",))),
        Envelope(1, Focus({"Z": (3.0, 3.0)})),
    ]
    monkeypatch.setattr(worker_module, "iter_perform", work)
    worker, said = Worker(io.BytesIO()), []
    worker.listen([to_line(each, Path()) for each in commands])
    said = answers(worker.run(Envelope(1, ListDevices())))
    assert heard == [Retry(("a.tif",)), Retry(("b.tif",)), Focus({"Z": (3.0, 3.0)}), None]
    assert said[0].value == SystemReport({})


def test_long_work_waits_while_the_user_paints_and_what_was_just_asked_for_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module.os, "_exit", lambda code: None)
    monkeypatch.setattr(worker_module, "iter_perform", lambda *_: (Progress(step, 2) for step in range(2)))
    monkeypatch.setattr(worker_module, "to_line", lambda *_: b"")
    kind: Any = type("Long", (), {})
    monkeypatch.setattr(worker_module, "YIELDS_TO_STROKES", (kind,))

    def seconds(value: Any, *told: Envelope, cancel_after: float = 0.0) -> float:
        worker = Worker(io.BytesIO())
        for each in told:
            worker.listen([to_line(each, Path())])
        if cancel_after:
            cancel = to_line(Envelope(1, Cancel()), Path())
            threading.Timer(cancel_after, worker.listen, [[cancel]]).start()
        begun = time.monotonic()
        worker.run(Envelope(1, value))
        return time.monotonic() - begun

    painting, ended = Envelope(NO_JOB, GiveWay(1.0)), Envelope(NO_JOB, GiveWay(0.0))
    assert seconds(kind(), painting) >= 0.95
    assert seconds(kind(), painting, ended) < 0.5
    assert seconds(ListDevices(), painting) < 0.5
    assert seconds(kind(), Envelope(NO_JOB, GiveWay(60.0)), cancel_after=0.1) < 30


def write_request(folder: Path, text: object) -> Path:
    file = folder / "request.json"
    file.write_text(json.dumps(text), encoding="utf-8")
    return file


def by_hand(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "napari_skipseg.jobs.worker", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)


def test_by_hand_a_request_in_a_file_is_run_and_its_messages_are_printed(model_folder: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "em.tif", np.arange(2 * 40 * 40, dtype=np.uint8).reshape(2, 40, 40), metadata=None)
    request = {
        "kind": "Segment",
        "stack": {"read": str(tmp_path / "em.tif")},
        "model": str(model_folder),
        "options": {"device": "cpu", "tile": 48},
    }
    done = by_hand(str(write_request(tmp_path, request)), "--folder", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    said = [answer.value for answer in answers(done.stdout.encode())]
    assert {ResultsOpened, TileWritten} <= {type(each) for each in said}
    assert isinstance(said[-1], Prediction)
    assert said[-1].probability.shape == (2, 40, 40)
    assert 0 < said[-1].probability.min() < said[-1].probability.max() < 1


def test_by_hand_a_fault_is_printed_and_let_through(tmp_path: Path) -> None:
    request = {"kind": "Segment", "stack": {"read": str(tmp_path / "absent.tif")}, "model": "tiny"}
    done = by_hand("-", text=json.dumps(request))
    assert done.returncode == 1
    (answer,) = answers(done.stdout.encode())
    assert (type(answer.value), answer.value.error) == (Failed, "FileError")
    assert "Traceback" in done.stderr


def test_by_hand_a_job_that_fails_says_so_before_its_traceback(tmp_path: Path) -> None:
    output, request = io.BytesIO(), '{"kind": "Finetune", "settings": %s, "images": [], "target": "/nowhere"}'
    settings = {"model": "no-such-model", "name": "n", "images": ["a"], "labels": ["b"]}
    with pytest.raises(ModelError):
        run_by_hand(request % json.dumps(settings), tmp_path, output)
    (answer,) = answers(output.getvalue())
    assert (type(answer.value), answer.value.error) == (Failed, "ModelError")
    assert "run_by_hand" in answer.value.details
