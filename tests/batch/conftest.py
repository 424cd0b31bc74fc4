"""Fixtures of the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_folders import Gate, write_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def quickly(only_torch: None) -> None:
    pass


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds threads of a batch; open until it is shut."""
    return Gate(monkeypatch)
