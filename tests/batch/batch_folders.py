"""Folders of tiny images, a tiny model, and batches over them, here or in a process that is killed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
import torch
from command_line import PROCESSES

from napari_skipseg.batch.engine import NetworkRunner
from napari_skipseg.batch.run import BatchResult, iter_batch
from napari_skipseg.batch.settings import BatchSettings, make_settings
from napari_skipseg.batch.table import FileChanged
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import Progress, run_to_end

SIDE = 40
NOT_COMPARED = ("batch.json", "summary.csv", "report.html")
"""What of a run's folder holds times."""


def write_tiny_model(folder: Path, classes: tuple[str, ...] = ("membrane",)) -> Path:
    """A model of random weights, which a processor runs in no time."""
    torch.manual_seed(0)
    spec = UNetSpec(widths=(2, 4), out_channels=1 if len(classes) == 1 else len(classes) + 1)
    labels = tuple(ClassLabel(name, value) for value, name in enumerate(classes, start=1))
    network = build(spec).eval()
    with torch.no_grad():  # about half of the pixels belong to a class
        image = torch.randn(2, 1, 32, 32)
        network.classifier.weight *= 2 / network(image).logits.std()
        network.classifier.bias -= network(image).logits.transpose(0, 1).flatten(1).mean(1)
    write_model(folder, ModelDescription(folder.name, spec, labels, margin=8, weights_sha256=""), network)
    return folder


def write_image(file: Path, seed: int = 0, slices: int = 1) -> Path:
    """Grey noise, a slice or a stack."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (slices, SIDE, SIDE) if slices > 1 else (SIDE, SIDE)
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    tifffile.imwrite(file, values, photometric="minisblack", metadata={"axes": "ZYX"[-len(shape) :]})
    return file


class Gate:
    """Holds threads of a batch in this process where a test says so, until it opens; it does when the batch stops.

    So a test that stops a batch in the middle does not depend on how fast anything is.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._is_open = threading.Event()
        self._is_open.set()
        real = NetworkRunner.close

        def close(engine: NetworkRunner) -> None:
            real(engine)
            self._is_open.set()

        patch.setattr(NetworkRunner, "close", close)

    def shut(self) -> None:
        """Hold who comes from now on."""
        self._is_open.clear()

    def __call__(self) -> None:
        """Wait until it is open."""
        assert self._is_open.wait(240), "the test never saw what it waits for"


def settings_for(inputs: object, output: Path, model: Path, **more: Any) -> BatchSettings:
    """Settings on the CPU with a small tile; fields of the options, of the request or of the batch."""
    of_options = {name: more.pop(name) for name in ("threshold", "channel", "tile", "box") if name in more}
    of_request = {name: more.pop(name) for name in ("form", "depth", "objects") if name in more}
    options = SegmentOptions(**{"device": "cpu", "attention": False, "tile": 64, **of_options})
    return BatchSettings(str(inputs), str(output), make_settings(str(model), options, **of_request), **more)


def run(settings: BatchSettings, retry: bool = False) -> BatchResult:
    return run_to_end(iter_batch(settings, retry))


def states(result: BatchResult) -> dict[str, str]:
    return {row.relative: row.state for row in result.rows}


def ended(events: list[Progress]) -> list[str]:
    """The files whose end was told of, in that order."""
    rows = [event.row for event in events if isinstance(event, FileChanged)]
    return [row.relative for row in rows if row.state in ("done", "skipped", "failed")]


def results_in(folder: Path) -> dict[str, bytes]:
    """All that a batch leaves, but what holds times."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes()
        for name, file in found.items()
        if not name.endswith("_times.json") and file.name not in NOT_COMPARED and "records/" not in name
    }


def run_and_die(settings: BatchSettings, seconds: float) -> int:
    """Return how a process ended that was killed, as by `kill -9`, so long after it began the batch; 0 = before."""
    process = PROCESSES.Process(target=_run_until, args=(settings, seconds))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _run_until(settings: BatchSettings, seconds: float) -> None:
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    with (
        mock.patch("napari_skipseg.inference.backends.choose.has_openvino", return_value=False),
        mock.patch("napari_skipseg.objects.blocks.BLOCK_SIDE", 16),  # so that objects are found in several blocks
    ):
        run(settings)
    os._exit(0)
