"""A tiny model, and one engine for all tests of this folder: each start of one takes 2 s of a core."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import write_tiny

from napari_skipseg.jobs.client import Engine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The temporary folder of engines."""
    before = tempfile.tempdir
    folder = tmp_path_factory.mktemp("temporary")
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before


@pytest.fixture(scope="session")
def engine(temporary: Path) -> Iterator[Engine]:
    with Engine() as engine:
        yield engine
