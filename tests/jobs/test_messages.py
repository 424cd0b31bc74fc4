"""What crosses between viewer and engine: each value comes out of its line as it went in, and nothing else does."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from small_stacks import make_stack

from napari_skipseg.batch.run import BatchResult
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.table import BatchOpened, BatchRow, BatchWaits, FileChanged, Retry
from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.devices import ChosenPrecision, Device, DeviceReport, SystemReport
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.to_folder import ExportedFiles
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest
from napari_skipseg.inference.prediction import AttentionMap, Focus, Prediction, ResultsOpened, TileWritten
from napari_skipseg.inference.suggest import Suggestion, Suggestions, SuggestView
from napari_skipseg.jobs import encoding, messages
from napari_skipseg.jobs.encoding import Envelope, from_line, to_line
from napari_skipseg.jobs.messages import ArrayReference, CorrectedStack
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.transfer import CopiedModel
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.objects.files import FoundObjects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import ImageFindings, Progress
from napari_skipseg.studies.inspection import GateMap, Inspection
from napari_skipseg.training.progress import (
    ComparisonReport,
    Finetuned,
    KeepBest,
    LivePart,
    LiveResult,
    ScoreRow,
    Trained,
    TrainingProgress,
    TrainingSummary,
    ValidationPicture,
)
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

NO_TEXT = os.fsdecode(b"caf\xe9.tif")
"""The name of a file that is no text."""
PLACED = replace(make_stack(), data=ArrayReference("/in/a.tif", (3, 60, 70), np.dtype(">u2"), axes="ZYX"), name=NO_TEXT)
GREYS = GreyStatistics(Normalization(100.0, 20.0), ("It is framed.",))
GREY = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
ROW = BatchRow(NO_TEXT, f"/in/{NO_TEXT}", "done", scores={"dice": 0.5}, outputs=("/out/a", "/out/b"), seconds_left=1.5)
FINETUNING = FinetuneSettings("n", ("a",), ("b",), (ClassLabel("x", 2),), model="m")
TRAINING = TrainSettings("n", ("a",), ("b",), (ClassLabel("x", 1),), spec=UNetSpec(widths=(4, 8)))
CORRECTED = CorrectedStack(PLACED, Snapshot(Path("/run/l"), Path("/run/s")), {3: 2}, 1)
BATCH = BatchSettings(
    "/in/*.tif",
    "/out",
    SegmentRequest("m", "ab", SegmentOptions(), "uint8", "ome-zarr", ObjectOptions("watershed", smallest=9)),
    recursive=True,
    truth="/truth",
    truth_label=255,
    inside=True,
    axes="ZYX",
    voxel_size=(50.0, 4.0, 4.0),
    unit="nm",
)
PREDICTION = Prediction(
    probability=GREY,
    space=Space("YX", (1.0, 4.0, 4.0), "nm", (0.0, 0.0, 8.0)),
    class_names=("membrane",),
    attentions=(AttentionMap(1, (2, 2), GREY[::2, ::2].copy()),),
    recipe={"file": NO_TEXT, "classes": ["a"], "kind": "segment"},
)
LIVE_PART = LivePart(0, 3, ((64, 68), (0, 5)), (0, 0), GREY[None], GREY.astype(np.uint8))
PRECISION = ChosenPrecision("f32", "no bf16")

REQUESTS = [
    messages.Segment(
        PLACED, "m", SegmentOptions(tile=64), greys=GREYS, pinned={"side": 64, "device": "cpu"}, mask=PLACED
    ),
    messages.EstimateRun(PLACED, "m", SegmentOptions(average=8), greys=GREYS, probes=GREY),
    messages.Inspect(PLACED, "m", "long skip 1", {"Z": slice(2, 3), "Y": slice(0, 32)}, 1, GREYS.normalization, "ab"),
    messages.PlanFinetuning(FINETUNING, (CORRECTED,), "cpu"),
    messages.Finetune(FINETUNING, (CORRECTED, CORRECTED), Path("/models"), "cpu", "/m", "ab"),
    messages.LiveView("key", "m", ("a",), (LIVE_PART,), GREYS.normalization, "cpu", "ab"),
    messages.Suggest(
        SuggestView(GREY[None, None], Space("CZYX"), GREYS.normalization, 0, GREY.astype(np.uint8), ("a",))
    ),
    messages.Train(TRAINING, Path("/models"), "cpu", {"layer": PLACED}, restart=True),
    messages.FindObjects(PLACED, ("a",), ObjectOptions(smallest=3), PLACED, False, {"segmentation": {"model": "m"}}),
    messages.ExportObjects(PLACED, ExportOptions(contacts=True), "cells", Path("/out") / NO_TEXT, (3, 7), time=1),
    messages.RunBatch(BATCH, retry=True, only=("a.tif", NO_TEXT)),
    messages.CopyModel("export", Path("/models/m"), Path("/shared") / NO_TEXT),
    messages.CopyModel("import", Path("/shared") / NO_TEXT, name="n"),
    messages.ListDevices(),
    messages.ReportSystem(),
]
COMMANDS = [Focus({"Z": (3.0, 3.5)}), KeepBest(), Retry(("a.tif", NO_TEXT)), messages.Cancel()]
PROGRESS = [
    Progress(1, 2, "tile 1"),
    ImageFindings(0, 1, "m", ("It is framed.",), True),
    ResultsOpened(0, 1, "m", PREDICTION),
    TileWritten(3, 4, "m", ((0, 1), (32, 64))),
    TrainingProgress(1, 2, "m", 7, {"training loss": 0.5}),
    ValidationPicture(1, 2, "m", GREY, GREY, GREY.astype(np.int16)),
    ValidationPicture(1, 2, "m"),
    BatchOpened(1, 2, "m", (ROW, ROW), "/out", 3, 4, (NO_TEXT,)),
    FileChanged(1, 2, "m", ROW, 2.5),
    BatchWaits(1, 2, "m"),
]
RESULTS = [
    PREDICTION,
    RunPlan("CPU", (64, 64), 1, 40, 1, 0.3, 12.0, 2**30, 2**33, 0, 0, 2**29, 2**36, ("It is framed.",), True),
    Inspection(
        place="long skip 1",
        axes="YX",
        stride=2,
        before=GREY,
        after=GREY,
        limits=(0.0, 1.5),
        clearest=3,
        attentions=(GateMap("long skip 1", 1, 2, GREY),),
        start={"Z": 2},
        recipe={"gate": "x"},
    ),
    TrainingSummary({"x": 3}, {"x": 1}, (2, 1), 4, None, {"shape": [1]}, ("A note.",)),
    Finetuned(
        Path("/models/n"),
        ComparisonReport((ScoreRow("its own sample", "x", "V_rand", None, 0.5),), False, "Not better."),
    ),
    LiveResult(("a",), GREY[None], "Paint more."),
    Suggestions((Suggestion("m", True, 0.5, ("steady",), True),), {"n": "needs a volume"}),
    Trained(Path("/models") / NO_TEXT),
    FoundObjects(
        Path("/run/found.ome.zarr"), 7, ObjectTable(("label", "size"), (np.arange(7), np.ones(7))), {"file": NO_TEXT}
    ),
    ExportedFiles((Path("/out") / NO_TEXT,), 2, ("A note.",)),
    BatchResult(Path("/out"), Path("/out/s.csv"), Path("/out/r.html"), (ROW,), 1, 2, 3.5),
    DeviceReport(Device("cpu", "CPU", "no GPU"), ("cpu",), True, PRECISION, PRECISION),
    CopiedModel(Path("/models") / NO_TEXT),
    SystemReport({"device": "cpu"}),
]
ENDS = [messages.Ready(7), messages.Failed("InputError", "A sentence.", "a traceback"), messages.Cancelled()]


def cross(value: Any, folder: Path, job: int = 3) -> Any:
    """Return what a value is behind the line that it crosses in."""
    line = to_line(Envelope(job, value, "/run"), folder)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    envelope = from_line(line, lambda reference: np.load(reference.array_file) if reference.once else reference)
    assert (envelope.job, envelope.folder) == (job, "/run")
    return envelope.value


def equal(one: Any, other: Any) -> bool:
    """Whether two values are the same, arrays in them too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if is_dataclass(one):
        return all(equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    "value", [*REQUESTS, *COMMANDS, *PROGRESS, *RESULTS, *ENDS], ids=lambda each: type(each).__name__
)
def test_a_value_comes_out_of_its_line_as_it_went_in(value: Any, tmp_path: Path) -> None:
    assert equal(cross(value, tmp_path), value)


def test_every_request_with_its_result_and_every_progress_is_among_them() -> None:
    assert {type(each) for each in REQUESTS} == set(messages.Request.__subclasses__())
    assert {type(each) for each in RESULTS} == {type(each).result_type() for each in REQUESTS}
    assert {type(each) for each in PROGRESS} == set(encoding.YIELDED)


def test_a_progress_that_does_not_cross_crosses_as_what_it_derives_from(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Scoring(Progress):
        place: int = 0

    assert cross(Scoring(1, 2, "m", 3), tmp_path) == Progress(1, 2, "m")


def test_a_score_that_is_no_number_stays_none(tmp_path: Path) -> None:
    found = cross(FileChanged(1, 2, "m", replace(ROW, scores={"dice": float("nan")})), tmp_path)
    assert np.isnan(found.row.scores["dice"])


def test_numbers_of_numpy_are_plain_numbers_behind_the_line(tmp_path: Path) -> None:
    found = cross(replace(PREDICTION, recipe={"side": np.int64(64), "mean": np.float32(0.5)}), tmp_path)
    assert found.recipe == {"side": 64, "mean": 0.5}
    assert {type(each) for each in found.recipe.values()} == {int, float}


def test_a_memory_mapped_array_is_not_copied_and_its_part_is_the_part(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 5), np.float32))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    asked: list[ArrayReference] = []

    def open_array(reference: ArrayReference) -> Any:
        asked.append(reference)
        return np.load(reference.array_file)

    for probability in (mapped, mapped[2]):
        value = replace(PREDICTION, probability=probability, attentions=())
        from_line(to_line(Envelope(1, value), tmp_path / "no folder"), open_array)
    whole = ArrayReference(str(tmp_path / "a.npy"), (3, 4, 5), np.dtype(np.float32))
    assert asked == [whole, replace(whole, shape=(4, 5), part=2)]


def test_arrays_of_objects_and_unknown_classes_never_cross(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        cross(ValidationPicture(1, 2, "m", np.array([{}], object)), tmp_path)
    for value in (object(), "text", {"kind": 3}, replace(PREDICTION, recipe={"x": object()})):
        with pytest.raises((TypeError, ValueError)):
            cross(value, tmp_path)


def test_an_array_that_cannot_be_written_is_a_file_error_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="TMPDIR"):
        cross(ValidationPicture(1, 2, "m", GREY), tmp_path / "absent")


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"[]",
        b"{}",
        b'{"job": 1, "value": {"kind": "Dance"}}',
        b'{"job": 1, "value": {}}',
        b'{"job": 1, "value": {"kind": []}}',
        b'{"job": 1, "value": {"kind": "Cancel", "more": 2}}',
        b'{"job": 1, "value": {"kind": "Cancel"}, "more": 2}',
        b'{"value": {"kind": "Cancel"}}',
        b'{"job": 1, "value": {"kind": "Ready"}}',
        b'{"job": 1, "value": {"kind": "Trained", "folder": {"array_file": "/a.npy"}}}',
        b'{"job": 1, "value": {"kind": "Trained", "folder": {"array_file": "", "shape": [1], "dtype": "no type"}}}',
    ],
)
def test_what_is_no_line_of_ours_is_refused(line: bytes) -> None:
    with pytest.raises((ValidationError, json.JSONDecodeError)):
        from_line(line, lambda reference: reference)


def test_unknown_keys_deep_in_a_value_and_impossible_options_are_refused(tmp_path: Path) -> None:
    line = to_line(Envelope(1, REQUESTS[0]), tmp_path)
    with pytest.raises(ValidationError, match="strange"):
        from_line(line.replace(b'"voxel_size"', b'"strange":1,"voxel_size"'), lambda reference: reference)
    with pytest.raises(ValueError, match="Unterminated"):
        from_line(line[:-3], lambda reference: reference)
    with pytest.raises(InputError, match="tile"):
        from_line(line.replace(b'"tile":64', b'"tile":-1'), lambda reference: reference)


def test_a_request_by_hand_names_files_in_place_of_stacks() -> None:
    opened: list[str] = []

    def read(file: str) -> Stack:
        opened.append(file)
        return make_stack()

    text = '{"kind": "Segment", "stack": {"read": "em.tif"}, "model": "m", "options": {"tile": 64}}'
    request = encoding.request_from_text(text, read)
    assert isinstance(request, messages.Segment)
    assert (opened, request.model, request.options) == (["em.tif"], "m", SegmentOptions(tile=64))
    assert request.stack.shape == (3, 60, 70)
    for wrong in ('{"kind": "Cancel"}', '{"kind": "Segment"}', "em.tif"):
        with pytest.raises(ValueError, match=r"no request|Field required|Expecting value"):
            encoding.request_from_text(wrong, read)
