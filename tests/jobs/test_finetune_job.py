"""Lessons, fine-tuning and training through the engine: what comes back, what is told, and what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_stacks import make_stack

from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.errors import EngineError, FileError, InputError, ModelError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs import child
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import ArrayReference, CorrectedStack, Finetune, PlanFinetuning, Train
from napari_skipseg.jobs.operations import open_labels, open_strokes
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import read_model
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.progress import (
    ComparisonReport,
    Finetuned,
    KeepBest,
    ScoreRow,
    TrainingProgress,
    ValidationPicture,
)
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

STUB = Path(__file__).parent / "stub_teacher.py"


@pytest.fixture(scope="module")
def stub_engine(temporary: Path) -> Iterator[Engine]:
    with Engine() as engine:
        yield engine


@pytest.fixture
def teacher(stub_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose fine-tuning is a stub."""
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-P", str(STUB)))
    return stub_engine


def settings_for(model_folder: Path, name: str = "new") -> FinetuneSettings:
    return FinetuneSettings(name, ("sample",), ("corrections",), (ClassLabel("membrane", 2),), model=str(model_folder))


def corrected(stack: Stack | None = None, membrane: int = 30) -> CorrectedStack:
    """A stack with 20 pixels of background and some of membrane."""
    stack = make_stack() if stack is None else stack
    labels = np.zeros([stack.length(axis) for axis in "ZYX"], np.uint8)
    labels[0, 0, :20], labels[0, 1, :membrane] = 1, 2

    def write(folder: Path) -> Path:
        array = zarr.create_array(folder, shape=labels.shape, dtype="uint8", chunks=(1, 64, 64))
        array[...] = labels
        return Snapshot(folder)

    return CorrectedStack(stack, write)


def until(work, is_reached: Callable):
    for progress in work:
        if is_reached(progress):
            return progress
    raise RuntimeError("the work ended early")


def test_a_lesson_is_planned_without_the_voxels_and_a_refusal_has_its_cure(teacher: Engine, model_folder: Path) -> None:
    lesson = run_to_end(teacher.run(PlanFinetuning(settings_for(model_folder), (corrected(),))))
    assert lesson.pixels == {"background": 20, "membrane": 30}
    assert (lesson.places, lesson.slices, lesson.seconds) == ((1, 0), 1, 12.5)
    assert lesson.facts["shape"] == [3, 60, 70]
    with pytest.raises(InputError, match="paint some"):
        run_to_end(teacher.run(PlanFinetuning(settings_for(model_folder), (corrected(membrane=0),))))
    assert not teacher.is_busy


def test_curves_pictures_and_the_report_come_back(
    teacher: Engine, model_folder: Path, tmp_path: Path, temporary: Path
) -> None:
    heard: list[object] = []
    stack = make_stack((3, 2, 60, 70), "ZCYX")
    one = corrected(stack)
    image = CorrectedStack(stack, one.labels, {2: 1}, channel=1)
    work = teacher.run(
        Finetune(
            settings_for(model_folder),
            (
                image,
                corrected(),
            ),
            tmp_path,
        )
    )
    done = run_to_end(work, heard.append)
    assert done == Finetuned(
        tmp_path / "new",
        ComparisonReport((ScoreRow("held-out corrections", "membrane", "Dice", 0.5, 0.75),), True, "Better."),
    )
    facts = json.loads((done.folder / "facts.json").read_text())
    assert facts == {"begun": 0, "ended": 40, "parent": "tiny", "background": 70, "membrane": 30}
    learned = [progress for progress in heard if isinstance(progress, TrainingProgress)]
    assert [progress.step for progress in learned] == list(range(1, 41))
    assert learned[3].values == {"training loss": 0.25}
    pictured = next(progress for progress in heard if isinstance(progress, ValidationPicture))
    np.testing.assert_array_equal(pictured.image, np.asarray(stack.data)[0, 1])
    assert pictured.probability.shape == pictured.target.shape == (60, 70)
    assert list(temporary.glob("napari-skipseg-*/run-*")) == []
    assert not (tmp_path / "new.training").exists()


def test_keep_ends_it_with_a_model_and_cancel_leaves_nothing(
    teacher: Engine, model_folder: Path, tmp_path: Path, temporary: Path
) -> None:
    work = teacher.run(Finetune(replace(settings_for(model_folder, "kept"), steps=1000), (corrected(),), tmp_path))
    until(work, lambda progress: isinstance(progress, TrainingProgress))
    work.send(KeepBest())
    done = run_to_end(work)
    assert json.loads((done.folder / "facts.json").read_text())["ended"] < 1000
    work = teacher.run(Finetune(replace(settings_for(model_folder, "dropped"), steps=1000), (corrected(),), tmp_path))
    until(work, lambda progress: isinstance(progress, TrainingProgress) and progress.step > 6)
    work.close()
    assert not teacher.is_busy
    run_to_end(teacher.run(PlanFinetuning(settings_for(model_folder), (corrected(),))))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert list(temporary.glob("napari-skipseg-*/run-*")) == []


@pytest.mark.parametrize("is_quit_first", [True, False])
def test_a_viewer_that_closes_leaves_the_checkpoint_of_its_last_step(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_quit_first: bool
) -> None:
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-P", str(STUB)))
    step, settings = 0, replace(settings_for(model_folder, "left"), steps=1000)
    with Engine() as engine:  # one of its own: it is closed
        work = engine.run(Finetune(settings, (corrected(),), tmp_path))
        step = until(work, lambda progress: isinstance(progress, TrainingProgress) and progress.step >= 7).step
        engine.leave()
        if is_quit_first:  # napari quits its workers before it closes the window
            work.close()
    assert int((tmp_path / "left.training" / "step").read_text()) >= step


def test_a_viewer_that_stays_open_after_all_removes_what_is_cancelled(
    teacher: Engine, model_folder: Path, tmp_path: Path
) -> None:
    work = teacher.run(Finetune(replace(settings_for(model_folder, "dropped"), steps=1000), (corrected(),), tmp_path))
    until(work, lambda progress: isinstance(progress, TrainingProgress) and progress.step > 6)
    teacher.leave()
    teacher.leave(False)
    work.close()
    run_to_end(teacher.run(PlanFinetuning(settings_for(model_folder), (corrected(),))))
    assert not list(tmp_path.iterdir())


def test_a_killed_engine_goes_on_from_its_checkpoint(teacher: Engine, model_folder: Path, tmp_path: Path) -> None:
    work = teacher.run(Finetune(replace(settings_for(model_folder, "killed"), steps=200), (corrected(),), tmp_path))
    for step in (7, 60):
        until(work, lambda progress, step=step: isinstance(progress, TrainingProgress) and progress.step >= step)
        os.kill(teacher.pid, signal.SIGKILL)
    done = run_to_end(work)
    facts = json.loads((done.folder / "facts.json").read_text())
    assert 60 <= facts["begun"] < 200
    assert facts["ended"] == 200


def test_an_engine_that_dies_before_it_has_learnt_anything_is_one_sentence(
    teacher: Engine, model_folder: Path, tmp_path: Path
) -> None:
    run_to_end(teacher.run(PlanFinetuning(settings_for(model_folder), (corrected(),))))
    work = teacher.run(Finetune(settings_for(model_folder, "unlearnt"), (corrected(),), tmp_path))
    next(work)
    os.kill(teacher.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"The engine process was killed by SIGKILL .* the viewer and its layers"):
        run_to_end(work)
    assert not teacher.is_busy


def test_a_model_is_trained_from_layers_and_files(engine: Engine, tmp_path: Path) -> None:
    image = make_stack((2, 40, 40))
    labels = Stack(
        (np.asarray(image.data) > 127).astype(np.int64),
        Space("ZYX", image.space.voxel_size, image.space.unit),
        name="truth",
    )
    write_ome_tiff(tmp_path / "labels.ome.tif", np.uint8(labels.data), Space("ZYX", (50, 4, 4), "nm"))
    settings = TrainSettings(
        "fresh",
        ("layer em", "layer em"),
        ("layer truth", str(tmp_path / "labels.ome.tif")),
        (ClassLabel("bright", 1),),
        spec=UNetSpec(widths=(4, 8)),
        patch=(32, 32),
        batch=2,
        steps=3,
    )
    written = {"layer em": image, "layer truth": labels}
    folder = run_to_end(engine.run(Train(settings, tmp_path / "models", "cpu", written))).folder
    assert folder == tmp_path / "models" / "fresh"
    description = read_model(folder).description
    assert (description.class_names, description.voxel_size, description.unit) == (("bright",), (50, 4, 4), "nm")
    assert not (tmp_path / "models" / "fresh.training").exists()


def test_labels_too_large_for_a_file_and_a_folder_that_cannot_be_made_are_refused(
    engine: Engine, tmp_path: Path
) -> None:
    huge = Stack(np.full((2, 40, 40), 2**40), Space("ZYX"), name="huge")
    settings = TrainSettings(
        "x", ("em",), ("huge",), (ClassLabel("a", 1),), spec=UNetSpec(widths=(4, 8)), patch=(32, 32)
    )
    with pytest.raises(InputError, match="'huge' contains labels above"):
        run_to_end(engine.run(Train(settings, tmp_path, "cpu", {"em": make_stack((2, 40, 40)), "huge": huge})))
    (tmp_path / "file").write_text("")
    stacks = {"em": make_stack((2, 40, 40)), "huge": make_stack((2, 40, 40))}
    with pytest.raises(FileError, match="cannot be made"):
        run_to_end(engine.run(Train(settings, tmp_path / "file" / "models", "cpu", stacks)))


def test_written_layers_keep_values_and_calibration(tmp_path: Path) -> None:
    from napari_skipseg.jobs.preparation import write_layer

    values = np.random.default_rng(0).integers(0, 1000, (2, 30, 40))
    written = read_stack(
        write_layer(Stack(values, Space("ZYX", (50.0, 4.0, 4.0), "nm"), name="t"), tmp_path / "t.ome.tif")
    )
    np.testing.assert_array_equal(written.data[...], values)
    assert (written.space.voxel_size, written.space.unit) == ((50.0, 4.0, 4.0), "nm")


def test_labels_are_recoded_where_they_are_read_and_say_where_they_are(tmp_path: Path) -> None:
    labels = np.zeros((1, 60, 70), np.uint8)
    labels[0, 2, :4] = 1, 2, 3, 4
    array = zarr.create_array(
        tmp_path / "l", shape=labels.shape, dtype="uint8", chunks=(1, 30, 30), dimension_names=["z", "y", "x"]
    )
    array[:, :30, :30] = labels[:, :30, :30]
    stack = Stack(ArrayReference("", (2, 1, 60, 70), np.dtype(np.uint8)), Space("CZYX"), name="em")
    image = CorrectedStack(stack, Snapshot(tmp_path / "l"), {2: 1, 3: 2, 4: 4})
    assert open_strokes(image) is None
    painted = replace(image, labels=Snapshot(tmp_path / "l", tmp_path / "l"))
    np.testing.assert_array_equal(open_strokes(painted)[0, 2, :5], [1, 2, 3, 4, 0])
    opened = open_labels(image)
    assert opened.shape == (1, 60, 70)
    np.testing.assert_array_equal(opened[0, 2, :5], [1, 1, 2, 4, 0])
    assert list(opened.written()) == [(slice(0, 1), slice(0, 30), slice(0, 30))]


def test_a_few_strokes_make_a_new_model_beside_the_old_one(engine: Engine, model_folder: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 128, 128)).astype(np.uint8)
    labels = np.zeros(values.shape, np.uint8)
    labels[:, 20:40, 10:100], labels[:, 60:80, 10:100] = 1, 2

    def write(folder: Path) -> Path:
        array = zarr.create_array(
            folder, shape=labels.shape, dtype="uint8", chunks=(1, 128, 128), dimension_names=["z", "y", "x"]
        )
        array[...] = labels
        return Snapshot(folder)

    image = CorrectedStack(Stack(values, Space("ZYX", (50.0, 4.0, 4.0), "nm"), name="em"), write)
    settings = replace(settings_for(model_folder), reach="quick", steps=3, remember=False)
    lesson = run_to_end(engine.run(PlanFinetuning(settings, (image,), "cpu")))
    assert lesson.pixels["membrane"] + lesson.held_out["membrane"] == 4 * 20 * 90
    heard: list[object] = []
    done = run_to_end(engine.run(Finetune(settings, (image,), tmp_path, "cpu")), heard.append)
    assert done.folder == tmp_path / "new"
    assert {(row.on, row.score) for row in done.report.rows} >= {("held-out corrections", "Dice")}
    assert read_model(done.folder).description.training.parent is not None
    assert max(progress.step for progress in heard if isinstance(progress, TrainingProgress)) == 3
    assert any(isinstance(progress, ValidationPicture) for progress in heard)
    with pytest.raises(ModelError, match="never overwritten"):
        run_to_end(engine.run(Finetune(settings, (image,), tmp_path, "cpu")))
