"""The viewer's engine: what it gives, and that it survives whatever happens to its process."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from run_python import run_python
from small_stacks import make_stack

from napari_skipseg.devices import choose_device
from napari_skipseg.errors import EngineError, InputError, ModelError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.jobs import worker
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import ListDevices, ReportSystem, Segment
from napari_skipseg.models.model import read_model
from napari_skipseg.progress import run_to_end

OPTIONS = SegmentOptions(device="cpu", tile=48)
LONG = (150, 128, 128)
"""Thousands of tiles of 48: seconds of work."""


def started(engine: Engine, model_folder: Path):
    """A long run that has finished its first tile."""
    work = engine.run(Segment(make_stack(LONG), str(model_folder), OPTIONS))
    for progress in work:
        if progress.done > 0:
            return work
    raise RuntimeError("the run ended early")


def run_folders(temporary: Path) -> list[Path]:
    return list(temporary.glob("napari-skipseg-*/run-*"))


def test_a_slice_is_normalised_as_its_whole_stack(engine: Engine, model_folder: Path) -> None:
    whole = make_stack()
    part = Stack(whole.read((slice(1, 2),)), Space("ZYX", whole.space.voxel_size, whole.space.unit), name="part")
    expected = run_to_end(iter_predict(RunSpec(whole, read_model(model_folder), OPTIONS)))
    found = run_to_end(engine.run(Segment(part, str(model_folder), OPTIONS, whole)))
    np.testing.assert_array_equal(found.probability[0], expected.probability[1])
    assert found.recipe["normalization"] == json.loads(json.dumps(expected.recipe))["normalization"]


def test_results_are_those_of_the_same_call_in_this_process(engine: Engine, model_folder: Path) -> None:
    stack = make_stack()
    expected = run_to_end(iter_predict(RunSpec(stack, read_model(model_folder), OPTIONS)))
    found = run_to_end(engine.run(Segment(stack, str(model_folder), OPTIONS)))
    assert isinstance(found.probability, np.memmap)
    np.testing.assert_array_equal(found.probability, expected.probability)
    assert len(found.attentions) == len(expected.attentions) == 1
    np.testing.assert_array_equal(found.attentions[0].data, expected.attentions[0].data)
    assert found.attentions[0].stride == expected.attentions[0].stride
    for name in ("space", "class_names"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.recipe == json.loads(json.dumps(expected.recipe))


def test_what_is_pinned_is_taken_rather_than_chosen(engine: Engine, model_folder: Path) -> None:
    pinned = {"side": 40, "batch": 1, "device": "cpu"}
    found = run_to_end(engine.run(Segment(make_stack(), str(model_folder), SegmentOptions("auto"), pinned=pinned)))
    assert (found.recipe["side"], found.recipe["options"]["tile"], found.recipe["options"]["device"]) == (40, 0, "auto")


def test_the_backend_of_a_recipe_is_taken_again_where_it_is_here(engine: Engine, model_folder: Path) -> None:
    first = run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS))).recipe
    wanted = {"side": first["side"], "batch": 1, "device": "cpu", "backend": "torch", "precision": "f32"}
    found = run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS, pinned=wanted)))
    assert (found.recipe["backend"], found.recipe["precision"]) == ("torch", "f32")
    there_is_none = wanted | {"backend": "abacus"}
    other = run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS, pinned=there_is_none)))
    assert (other.recipe["backend"], other.recipe["precision"]) == (first["backend"], first["precision"])


def test_samples_run_on_torch_between_runs_that_need_not(engine: Engine, model_folder: Path) -> None:
    stack, sampled = make_stack(), replace(OPTIONS, samples=3, dropout=0.3, seed=4)
    model = read_model(model_folder)
    plain = run_to_end(iter_predict(RunSpec(stack, model, OPTIONS)))
    expected = run_to_end(iter_predict(RunSpec(stack, model, sampled)))
    for options, wanted in ((OPTIONS, plain), (sampled, expected), (OPTIONS, plain), (sampled, expected)):
        found = run_to_end(engine.run(Segment(stack, str(model_folder), options)))
        np.testing.assert_array_equal(found.probability, wanted.probability)
        assert found.recipe == json.loads(json.dumps(wanted.recipe))
        assert (found.uncertainty is None) == (wanted.uncertainty is None)
        if found.uncertainty is not None:
            np.testing.assert_array_equal(found.uncertainty, wanted.uncertainty)
            assert isinstance(found.uncertainty, np.memmap)
    assert expected.recipe["backend"] == "torch"


def test_progress_only_grows_and_ends_whole(engine: Engine, model_folder: Path) -> None:
    fractions = [progress.fraction for progress in engine.run(Segment(make_stack(), str(model_folder), OPTIONS))]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1


def test_second_run_is_warm(engine: Engine, model_folder: Path) -> None:
    run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS)))
    pid, messages = engine.pid, []
    run_to_end(
        engine.run(Segment(make_stack(), str(model_folder), OPTIONS)),
        lambda progress: messages.append(progress.message),
    )
    assert pid is not None
    assert engine.pid == pid
    assert "reading the model" not in messages


def test_channel_is_chosen_before_anything_is_copied(engine: Engine, model_folder: Path) -> None:
    stack = make_stack((64, 64, 3), "YXC")
    options = SegmentOptions(device="cpu", channel=1, tile=48)
    expected = run_to_end(iter_predict(RunSpec(stack, read_model(model_folder), options)))
    found = run_to_end(engine.run(Segment(stack, str(model_folder), options)))
    np.testing.assert_array_equal(found.probability, expected.probability)


def test_a_later_run_leaves_earlier_arrays_alone_and_unused_ones_go(
    engine: Engine, model_folder: Path, temporary: Path
) -> None:
    gc.collect()
    before = len(run_folders(temporary))
    first = run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS)))
    kept, view = first.probability.copy(), first.probability[1]
    second = run_to_end(engine.run(Segment(make_stack((2, 64, 64)), str(model_folder), OPTIONS)))
    np.testing.assert_array_equal(first.probability, kept)
    files = sorted(file.name for folder in run_folders(temporary) for file in folder.iterdir())
    assert files == ["attention_1.npy"] * 2 + ["probability.npy"] * 2
    del first, second
    gc.collect()
    assert len(run_folders(temporary)) == before + 1
    np.testing.assert_array_equal(view, kept[1])
    del view
    assert len(run_folders(temporary)) == before


def test_cancel_stops_the_run_and_the_engine_stays_warm(engine: Engine, model_folder: Path, temporary: Path) -> None:
    work = started(engine, model_folder)
    pid, start = engine.pid, time.monotonic()
    for progress in work:
        if progress.done >= 30:
            break
    whole = (time.monotonic() - start) / progress.done * progress.total
    start = time.monotonic()
    work.close()
    assert time.monotonic() - start < whole / 4
    found = run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS)))
    assert time.monotonic() - start < whole / 2
    assert found.probability.shape == (3, 60, 70)
    assert engine.pid == pid
    del found
    assert run_folders(temporary) == []


def test_a_run_that_is_cancelled_before_its_results_are_opened_leaves_the_engine_warm(
    engine: Engine, model_folder: Path, temporary: Path
) -> None:
    run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS)))
    pid, work = engine.pid, engine.run(Segment(make_stack(LONG), str(model_folder), OPTIONS))
    while next(work).message.startswith("copying"):
        pass
    (folder,) = run_folders(temporary)
    until = time.monotonic() + 60
    while not (folder / "probability.npy").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    work.close()
    run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS)))
    assert engine.pid == pid
    gc.collect()
    assert run_folders(temporary) == []


def test_one_call_at_a_time(engine: Engine, model_folder: Path) -> None:
    work = started(engine, model_folder)
    with pytest.raises(EngineError, match="busy: wait until it is done, or cancel"):
        next(engine.run(ListDevices()))
    work.close()
    assert run_to_end(engine.run(ListDevices())).chosen.name == choose_device().name


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_engine_is_one_sentence_and_the_next_run_works_and_never_keeps_a_caller_waiting(
    engine: Engine, model_folder: Path, temporary: Path
) -> None:
    work = started(engine, model_folder)
    pid = engine.pid
    psutil.Process(pid).kill()
    with pytest.raises(
        EngineError, match=r"killed by SIGKILL \(the system most likely ran out of memory\); the viewer"
    ):
        run_to_end(work)
    assert run_folders(temporary) == []
    moments = [time.monotonic()]
    work = engine.run(Segment(make_stack(), str(model_folder), OPTIONS))
    found = run_to_end(work, lambda progress: moments.append(time.monotonic()))
    assert found.probability.shape == (3, 60, 70)
    assert engine.pid not in (None, pid)
    longest = max(after - before for before, after in pairwise(moments))  # a cold start is the longest wait
    assert longest < max(1, (moments[-1] - moments[0]) / 4)  # 0.2 with both cores to ourselves


def test_nan_is_an_input_error_with_its_sentence_and_traceback(
    engine: Engine, model_folder: Path, temporary: Path
) -> None:
    values = np.random.default_rng(0).random((64, 64), np.float32)
    values[3, 4] = np.nan
    with pytest.raises(InputError, match=r"'dirty' contains .* NaN or infinite value") as caught:
        run_to_end(engine.run(Segment(Stack(values, Space("YX"), name="dirty"), str(model_folder), OPTIONS)))
    assert "Traceback" in caught.value.details
    assert run_folders(temporary) == []
    assert engine.pid is not None


def test_damaged_model_is_a_model_error(engine: Engine, model_folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model_folder, damaged)
    with (damaged / "weights.safetensors").open("ab") as opened:
        opened.write(b"x")
    with pytest.raises(ModelError, match="SHA-256"):
        run_to_end(engine.run(Segment(make_stack(), str(damaged), OPTIONS)))
    with pytest.raises(ModelError, match="There is no model folder"):
        run_to_end(engine.run(Segment(make_stack(), str(tmp_path / "absent"), OPTIONS)))


def test_device_that_is_not_there_is_named(engine: Engine, model_folder: Path) -> None:
    report = run_to_end(engine.run(ListDevices()))
    assert "cpu" in report.available
    assert report.chosen.name in report.available
    assert report.chosen == choose_device()


def test_engine_runs_at_low_priority_and_goes_first(engine: Engine) -> None:
    run_to_end(engine.run(ListDevices()))
    assert engine.pid is not None
    if sys.platform != "win32":
        assert psutil.Process(engine.pid).nice() >= min(19, psutil.Process().nice() + worker.NICENESS)
    score = Path(f"/proc/{engine.pid}/oom_score_adj")
    if score.exists():
        assert int(score.read_text()) == worker.OUT_OF_MEMORY_SCORE


def test_stray_prints_do_no_harm_and_a_forgotten_engine_takes_its_process_and_folder_along(
    temporary: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, threading\n"
        "print('hello from a start-up file')\n"
        "threading.Timer(0.5, lambda: (print('printed'), os.write(1, b'from C\\n'))).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    before = set(temporary.iterdir())
    engine = Engine()
    found = run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS)))
    assert found.probability.shape == (3, 60, 70)
    said = "\n".join(engine._session.child._error_lines)
    assert "hello from a start-up file" in said
    assert "printed" in said
    assert "from C" in said
    pid = engine.pid
    del engine, found
    gc.collect()
    assert not psutil.pid_exists(pid)
    assert set(temporary.iterdir()) == before


def test_close_ends_process_and_folder_in_mid_run_and_for_good(temporary: Path, model_folder: Path) -> None:
    before = set(temporary.iterdir())
    engine = Engine()
    done = run_to_end(engine.run(Segment(make_stack(), str(model_folder), OPTIONS)))
    kept = done.probability.copy()
    work = started(engine, model_folder)
    pid = engine.pid
    (folder,) = set(temporary.iterdir()) - before
    if sys.platform != "win32":
        assert folder.stat().st_mode & 0o777 == 0o700
    engine.close()
    assert not psutil.pid_exists(pid)
    assert set(temporary.iterdir()) == before
    with pytest.raises(EngineError, match="was stopped"):
        run_to_end(work)
    with pytest.raises(EngineError, match="was closed"):
        run_to_end(engine.run(ListDevices()))
    np.testing.assert_array_equal(done.probability, kept)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_engine_ends_with_a_viewer_that_was_killed_and_its_folder_is_swept(
    engine: Engine, model_folder: Path, temporary: Path
) -> None:
    code = (
        "import os, signal, sys, numpy\n"
        "from napari_skipseg.images.space import Space\n"
        "from napari_skipseg.images.stack import Stack\n"
        "from napari_skipseg.inference.options import SegmentOptions\n"
        "from napari_skipseg.jobs.client import Engine\n"
        "from napari_skipseg.jobs.messages import Segment\n"
        "engine = Engine()\n"
        f"stack = Stack(numpy.random.default_rng(0).random({LONG}, numpy.float32), Space('ZYX'))\n"
        f"for progress in engine.run(Segment(stack, {str(model_folder)!r}, SegmentOptions(tile=48))):\n"
        "    if progress.done:\n"
        "        sys.stdout.write(f'{engine.pid}\\n'); sys.stdout.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = run_python(code, TMPDIR=str(temporary))
    deadline = time.monotonic() + 120
    while psutil.pid_exists(int(ended.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = set(temporary.iterdir())
    with Engine() as other:
        run_to_end(other.run(Segment(make_stack(), str(model_folder), OPTIONS)))
        (own,) = set(temporary.iterdir()) - before
        assert before - set(temporary.iterdir()), "the folder of the killed viewer is still there"
        assert own.is_dir()


def test_the_engine_reports_what_a_bug_report_needs(engine: Engine) -> None:
    facts = run_to_end(engine.run(ReportSystem())).facts
    assert facts["device"].startswith(choose_device().name)
    needed = {"backend", "segments in", "trains in", "memory", "system", "processor", "Python", "compiled networks"}
    assert needed <= facts.keys()
    assert {"torch version", "numpy version"} <= facts.keys()
    assert all(isinstance(value, str) and value for value in facts.values())
