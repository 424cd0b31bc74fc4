"""A model to choose and an engine without a process, for tests of the panel."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_skipseg.devices import ChosenPrecision, Device, DeviceReport, SystemReport
from napari_skipseg.images.box import box_from_text, box_to_text, box_within
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization
from napari_skipseg.images.mask import iter_survey, open_mask
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest
from napari_skipseg.inference.prediction import AttentionMap, Focus, Prediction, ResultsOpened, TileWritten
from napari_skipseg.inference.recipes.recipe import Recipe, describe_input, recipe_to_dict
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import EstimateRun, ListDevices, ReportSystem, Request, Segment
from napari_skipseg.models.catalog import MODELS_VARIABLE, locate_model
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import ImageFindings, Progress, run_to_end
from napari_skipseg.widgets.settings import SETTINGS_VARIABLE

MODELS = {"tiny-2d": 2, "tiny-3d": 3}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model for slices and one for volumes."""
    from dataclasses import replace

    import torch

    from napari_skipseg.models.description import Card, ClassLabel, ModelDescription, TrainingRecord
    from napari_skipseg.models.model import write_model
    from napari_skipseg.networks.build import build
    from napari_skipseg.networks.specs import UNetSpec

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)  # of some seeds, all features of so small a network are dead
    spec = UNetSpec(widths=(4, 8))
    for name, dimensions in MODELS.items():
        described = ModelDescription(
            name,
            replace(spec, dimensions=dimensions),
            (ClassLabel("membrane", 0),),
            margin=8,
            weights_sha256="",
            voxel_size=(50.0, 4.0, 4.0),
            unit="nm",
            card=Card("A tiny model", "made-up <numbers>", "free", ("train it",), {"V_rand": 0.5}, "nothing", "MIT"),
            training=TrainingRecord(curves={"loss": ((0, 1.0), (10, 0.5)), "V_rand": ((0, 0.1), (10, 0.5))}),
        )
        write_model(folder / name, described, build(described.spec))
    return folder


def cached_by_code(look: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return what answers for a function as for all of the same code; it asks again for what wraps another."""
    from napari.utils.events import EventEmitter

    known: dict[tuple[Any, bool], bool] = {}

    def answer(asked: Any) -> bool:
        function = getattr(asked, "__func__", asked)
        code = type(asked) if isinstance(asked, EventEmitter) else getattr(function, "__code__", None)
        if code is None or hasattr(function, "__wrapped__") or hasattr(function, "__signature__"):
            return look(asked)
        key = (code, asked is function)
        if key not in known:
            known[key] = look(asked)
        return known[key]

    return answer


@pytest.fixture(scope="session", autouse=True)
def _viewers_open_fast(model_folder: Path) -> Iterator[None]:
    """What napari does again for each viewer of the tests, and no test asks for, is done once or not at all.

    Measured for each viewer, of about 2 s in all: plugins are searched in every installed package though they are
    known (0.2 s), the menus of a closed window are taken apart one by one (0.2 s), every Qt event passes through a
    filter in Python that serves hidden menu bars (0.2 s), the settings of napari are written to the user's file seven
    times (0.2 s), the garbage collector looks at all that torch and napari hold (0.3 s), the welcome text is set
    again for each of 176 shortcuts (0.1 s), the parameters of the same functions are looked up at each of 2,400
    connections (0.1 s), and the menus of the window are filled (0.1 s).
    """
    from app_model import Application
    from app_model.backends.qt import QModelMenu
    from napari._qt.qt_main_window import _QtMainWindow
    from napari._qt.widgets.qt_welcome import QtWelcomeWidget
    from napari.settings._base import EventedConfigFileSettings
    from napari.utils.events import EventEmitter
    from npe2 import PluginManifest

    import napari_skipseg.widgets.panel  # noqa: F401

    plugins = list(PluginManifest.discover())
    takes_event = cached_by_code(EventEmitter._check_signature)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda paths=(): iter(plugins))
        patch.setattr(Application, "dispose", lambda self: None)
        patch.setattr(QModelMenu, "rebuild", lambda self, *args, **options: None)
        patch.delattr(_QtMainWindow, "eventFilter")
        patch.setattr(QtWelcomeWidget, "refresh_shortcuts", lambda self, event=None: None, raising=False)
        patch.setattr(EventedConfigFileSettings, "_maybe_save", lambda self: None)
        patch.setattr(EventEmitter, "_check_signature", staticmethod(takes_event))
        gc.collect()
        gc.freeze()
        yield
    gc.unfreeze()


@pytest.fixture
def painted() -> None:
    """The windows of the test are painted: for a test that drags over the canvas, or of what painting costs."""


@pytest.fixture(autouse=True)
def _not_painted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are shown and laid out but not painted, unless the test asks for `painted`.

    Software OpenGL and Qt's painting took half of the time of a test that shows results. With software OpenGL, vispy
    crashes in glDrawArrays after layers were cleared, plugin or not.
    """
    from napari._qt.qt_main_window import _QtMainWindow

    if "painted" in request.fixturenames:
        return
    show = _QtMainWindow.show

    def show_unpainted(window: Any, *args: Any, **options: Any) -> None:
        show(window, *args, **options)
        window.setUpdatesEnabled(False)

    monkeypatch.setattr(_QtMainWindow, "show", show_unpainted)
    # napari (not 0.6) searches before each update of the scene, which keeps a driver of Windows from crashing
    collect = SimpleNamespace(collect=lambda: 0)
    monkeypatch.setattr("napari._vispy.canvas.gc", collect, raising=False)


@pytest.fixture(autouse=True)
def _nothing_old_is_searched_for_garbage(_viewers_open_fast: None) -> None:
    """What earlier tests left for good is set aside: napari looks at all of the rest for each layer that is removed.

    So one of these searches takes 15 ms rather than 100, more with each test, and a test has four.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def only_tiny_models(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The library contains nothing but the tiny models; corrections and settings are those of the test."""
    monkeypatch.setenv("NAPARI_SKIPSEG_CORRECTIONS", str(tmp_path / "corrections"))
    monkeypatch.setenv(MODELS_VARIABLE, str(model_folder))
    monkeypatch.setenv(SETTINGS_VARIABLE, str(tmp_path_factory.mktemp("settings")))
    monkeypatch.setattr("napari_skipseg.models.catalog.BUILT_IN", tmp_path / "no built-in models")


def in_box(stack: Stack, box: str) -> Stack:
    """Return the part of a stack in a box, as the engine's result has it."""
    if not box:
        return stack
    inside = box_within(box_from_text(box), stack)
    data = np.asarray(stack.data)[tuple(inside[axis] for axis in stack.space.axes)]
    return replace(stack, data=data, space=stack.space.shifted({axis: side.start for axis, side in inside.items()}))


def in_mask(stack: Stack, mask: Stack | None) -> Stack:
    """Return the part of a stack around a mask, 0 outside of it, as the engine's result has it."""
    if mask is None:
        return stack
    box = run_to_end(iter_survey(open_mask(mask, stack), {}, {})).box
    labels = in_box(replace(mask, data=np.asarray(mask.data)), box_to_text(box))
    part = in_box(stack, box_to_text(box))
    return replace(part, data=np.where(np.asarray(labels.data), part.data, 0))


class FakeEngine:
    """Probability = grey value / 255, uncertainty = a tenth of it, attention = every 2nd pixel; the rest as it is.

    The results open empty and fill in `steps` bands along Y. Attention maps come only of `levels`, as each is a layer,
    which takes 0.1 s.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Stack, str, SegmentOptions]] = []
        self.wholes: list[Stack | None] = []
        self.greys: list[GreyStatistics | None] = []
        self.previews: list[bool] = []
        self.pinned: list[dict[str, int | str] | None] = []
        self.masks: list[Stack | None] = []
        self.sent: list[Focus] = []
        self.gave_way: list[float] = []
        self.planned: list[tuple[tuple[int, ...], str, SegmentOptions]] = []
        self.plan_fault: Exception | None = None
        self.findings: tuple[str, ...] = ()
        self.seems_inverted = False
        self.memory_free = 2**33
        self.levels: tuple[int, ...] = ()
        self.steps, self.pause, self.plan_pause = 4, 0.0, 0.0
        self.held_at, self.release = 0, threading.Event()  # the step before which it waits for the test
        self.fault: Exception | None = None
        self.report_fault: Exception | None = None
        self.is_busy = self.closed = self.cancelled = self.plan_cancelled = False
        self.answers: dict[type, Callable[[Any], Generator[Progress, Any, Any]]] = {
            Segment: self._segment,
            EstimateRun: self._estimate,
            ListDevices: self._list_devices,
            ReportSystem: self._report_system,
        }

    def leave(self, is_leaving: bool = True) -> None:
        pass

    def give_way(self, seconds: float) -> None:
        self.gave_way.append(seconds)

    def run(self, request: Request[Any]) -> Generator[Progress, Any, Any]:
        return self.answers[type(request)](request)

    def _segment(self, request: Segment) -> Generator[Progress, Focus | None, Prediction]:
        stack, options = request.stack, request.options
        description = read_description(locate_model(request.model))
        self.calls.append((stack, description.name, options))
        self.wholes.append(request.whole)
        self.greys.append(request.greys)
        self.previews.append(request.preview)
        self.pinned.append(request.pinned)
        self.masks.append(request.mask)
        self.is_busy = True
        try:
            part = in_mask(in_box(stack.channel(options.channel or 0), options.box), request.mask)
            full = _predicted(part, description, options, self.levels)
            full = replace(full, recipe=_recipe(stack, description, options, request.mask))
            empty = _emptied(full)
            if self.findings:
                self._look((yield ImageFindings(0, 1, "measuring the grey values", self.findings, self.seems_inverted)))
            self._look((yield ResultsOpened(0, 1, "the first tile", empty)))
            for step in range(1, self.steps + 1):
                time.sleep(self.pause)
                if step == self.held_at:
                    self.release.wait(60)
                region = _fill(empty, full, step, self.steps)
                self._look((yield TileWritten(step, self.steps, f"tile {step} of {self.steps}", region)))
                if self.fault is not None and step == 2:
                    raise self.fault
        except GeneratorExit:
            self.cancelled = True
            raise
        finally:
            self.is_busy = False
        return replace(empty, recipe={**empty.recipe, "notes": ("ended",)})

    def _look(self, focus: Focus | None) -> None:
        if focus is not None:
            self.sent.append(focus)

    def _estimate(self, request: EstimateRun) -> Generator[Progress, None, RunPlan]:
        self.planned.append((request.stack.shape, request.model, request.options))
        self.is_busy = True
        try:
            if self.plan_fault is not None:
                raise self.plan_fault
            until = time.monotonic() + self.plan_pause
            while time.monotonic() < until:
                yield Progress(0, 1, "measuring one tile")
                time.sleep(0.01)
        except GeneratorExit:
            self.plan_cancelled = True
            raise
        finally:
            self.is_busy = False
        return RunPlan(
            "CPU",
            (64, 64),
            1,
            40,
            1,
            0.3,
            12.0,
            2**30,
            self.memory_free,
            0,
            0,
            2**29,
            2**36,
            self.findings,
            self.seems_inverted,
        )

    def _list_devices(self, request: ListDevices) -> Generator[Progress, None, DeviceReport]:
        yield Progress(0, 1, "starting the engine")
        cpu = Device("cpu", "CPU, 2 cores", "no GPU: this torch was built without CUDA")
        precision = ChosenPrecision("f32", "this processor has no bf16 of its own")
        return DeviceReport(cpu, ("cpu",), True, precision, precision)

    def _report_system(self, request: ReportSystem) -> Generator[Progress, None, SystemReport]:
        yield Progress(0, 1, "starting the engine")
        if self.report_fault is not None:
            raise self.report_fault
        return SystemReport({"device": "cpu (CPU, 2 cores)", "torch version": "2.13.0+cpu"})

    def close(self) -> None:
        self.closed = True


def _predicted(
    stack: Stack, description: ModelDescription, options: SegmentOptions, levels: tuple[int, ...]
) -> Prediction:
    probability = np.asarray(stack.data[...], np.float32) / 255
    seen = "ZYX"[-description.spec.dimensions :]
    stride = tuple(2 if axis in seen else 1 for axis in stack.space.axes)
    maps = tuple(
        AttentionMap(level, stride, probability[tuple(slice(None, None, step) for step in stride)].copy())
        for level in (levels if options.attention else ())
    )
    deviation = probability / 10 if options.samples else None
    return Prediction(probability, stack.space, ("membrane",), maps, {}, deviation)


def _recipe(stack: Stack, description: ModelDescription, options: SegmentOptions, mask: Stack | None) -> dict[str, Any]:
    request = SegmentRequest(description.name, description.weights_sha256, options)
    chosen = (("membrane",), Normalization(100.0, 50.0), 0, (64, 64), 64, 1, "torch", "f32", "cpu", (), {"torch": "2"})
    inputs = tuple(describe_input(each) for each in (stack, mask) if each is not None)
    return recipe_to_dict(Recipe(request, inputs, *chosen))


def _emptied(full: Prediction) -> Prediction:
    return replace(
        full,
        probability=np.zeros_like(full.probability),
        attentions=tuple(replace(each, data=np.zeros_like(each.data)) for each in full.attentions),
        uncertainty=None if full.uncertainty is None else np.zeros_like(full.uncertainty),
    )


def _fill(empty: Prediction, full: Prediction, step: int, steps: int) -> tuple[tuple[int, int], ...]:
    """Copy one of `steps` bands along Y; return where it lies."""
    pairs = [(empty.probability, full.probability)]
    pairs += [(mine.data, theirs.data) for mine, theirs in zip(empty.attentions, full.attentions, strict=True)]
    if empty.uncertainty is not None and full.uncertainty is not None:
        pairs.append((empty.uncertainty, full.uncertainty))
    for mine, theirs in pairs:
        start, stop = (mine.shape[-2] * each // steps for each in (step - 1, step))
        mine[..., start:stop, :] = theirs[..., start:stop, :]
    shape = empty.probability.shape
    start, stop = (shape[-2] * each // steps for each in (step - 1, step))
    return (*((0, n) for n in shape[:-2]), (start, stop), (0, shape[-1]))


PATIENCE = 120_000
"""Milliseconds for which a test waits at the least: a machine that does other things too may be slow."""


@pytest.fixture
def qtbot(qtbot, monkeypatch: pytest.MonkeyPatch):
    wait = qtbot.waitUntil
    monkeypatch.setattr(
        qtbot, "waitUntil", lambda met, *, timeout=PATIENCE: wait(met, timeout=max(timeout, PATIENCE)), raising=True
    )
    return qtbot


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


class SharedEngine(Engine):
    """A real engine that outlives the panel that closes it."""

    def close(self) -> None:
        """Go on."""


@pytest.fixture(scope="session")
def real_engine(model_folder: Path) -> Iterator[Engine]:
    """One process for all tests that kill none: each start of one takes 2 s of a core."""
    engine = SharedEngine()
    yield engine
    Engine.close(engine)


@pytest.fixture
def open_panel(make_napari_viewer: Callable, engine: FakeEngine, qtbot) -> Callable:
    """Open a viewer with the panel docked; give (viewer, panel)."""
    from napari_skipseg.widgets.panel import SkipSegPanel

    def open_it(with_engine=None):
        viewer = make_napari_viewer(show=True)
        panel = SkipSegPanel(viewer, engine if with_engine is None else with_engine)
        viewer.window.add_dock_widget(panel, name="SkipSeg")
        viewer.window.resize(1280, 800)
        qtbot.waitUntil(lambda: "asking" not in panel.segment_tab.form.device_note.text())
        return viewer, panel

    return open_it
