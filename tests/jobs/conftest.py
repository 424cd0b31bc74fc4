"""A tiny model, a small stack, and an engine that is warm for a whole module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from napari_skipseg.jobs.client import Engine
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = UNetSpec(widths=(4, 8))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder, ModelDescription("tiny", spec, (ClassLabel("membrane", 0),), 8, ""), build(spec))
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The temporary folder of engines that start in this module."""
    before = tempfile.tempdir
    folder = tmp_path_factory.mktemp("temporary")
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def engine(temporary: Path) -> Iterator[Engine]:
    with Engine() as engine:
        yield engine
