"""A model to choose and an engine without a process, for tests of the panel."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest

from napari_skipseg.devices import Device
from napari_skipseg.errors import EngineError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import AttentionMap, Prediction
from napari_skipseg.jobs.protocol import DeviceReport
from napari_skipseg.models.catalog import FOLDER_VARIABLE, locate_model
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress

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
            card=Card("A tiny model", "made-up <numbers>", "free", ("train it",), {"V_rand": 0.5}, "nothing"),
            training=TrainingRecord(curves={"loss": ((0, 1.0), (10, 0.5)), "V_rand": ((0, 0.1), (10, 0.5))}),
        )
        write_model(folder / name, described, build(described.spec))
    return folder


@pytest.fixture(autouse=True)
def only_tiny_models(model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library holds nothing but the tiny models."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(model_folder))
    monkeypatch.setattr("napari_skipseg.models.catalog.BUILT_IN", tmp_path / "no built-in models")


class FakeEngine:
    """Probability = grey value / 255, uncertainty = a tenth of it, attention = every 2nd pixel; the rest as it is."""

    def __init__(self) -> None:
        self.calls: list[tuple[Stack, str, SegmentOptions]] = []
        self.wholes: list[Stack | None] = []
        self.steps, self.pause = 4, 0.0
        self.fault: Exception | None = None
        self.closed = self.cancelled = False

    def segment(
        self, stack: Stack, model_folder: Path | str, options: SegmentOptions, whole: Stack | None = None
    ) -> Generator[Progress, None, Prediction]:
        description = read_description(locate_model(str(model_folder)))
        self.calls.append((stack, description.name, options))
        self.wholes.append(whole)
        try:
            for step in range(1, self.steps + 1):
                time.sleep(self.pause)
                yield Progress(step, self.steps, f"tile {step} of {self.steps}")
                if self.fault is not None and step == 2:
                    raise self.fault
        except GeneratorExit:
            self.cancelled = True
            raise
        stack = stack.channel(options.channel or 0)
        probability = np.asarray(stack.data[...], np.float32) / 255
        seen = "ZYX"[-description.spec.dimensions :]
        stride = tuple(2 if axis in seen else 1 for axis in stack.axes)
        maps = tuple(
            AttentionMap(level, stride, probability[tuple(slice(None, None, step) for step in stride)].copy())
            for level in (1, 2)
        )
        return Prediction(
            probability,
            stack.axes,
            stack.voxel_size,
            stack.unit,
            stack.origin,
            ("membrane",),
            maps,
            {"model": description.name},
            probability / 10 if options.samples else None,
        )

    def ask_devices(self) -> Generator[Progress, None, DeviceReport]:
        yield Progress(0, 1, "starting the engine")
        return DeviceReport(Device("cpu", "CPU, 2 cores", "no GPU: this torch was built without CUDA"), ("cpu",), True)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def dead_engine_error() -> Exception:
    return EngineError("The engine process ended unexpectedly (killed). Press Segment to start a new one.")


@pytest.fixture
def open_panel(make_napari_viewer: Callable, engine: FakeEngine, qtbot) -> Callable:
    """Open a viewer with the panel docked; give (viewer, panel)."""
    from napari_skipseg.widgets.panel import SkipSegPanel

    def open_it(with_engine=None):
        viewer = make_napari_viewer(show=True)
        panel = SkipSegPanel(viewer, engine if with_engine is None else with_engine)
        viewer.window.add_dock_widget(panel, name="SkipSeg")
        viewer.window.resize(1280, 800)
        qtbot.waitUntil(lambda: "asking" not in panel.segment_tab.form.device_note.text(), timeout=60_000)
        return viewer, panel

    return open_it
