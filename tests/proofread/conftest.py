"""Fixtures for tests of edits: edits are stored in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def edits_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_SKIPSEG_EDITS", str(tmp_path / "edits"))
    return tmp_path / "edits"
