"""Corrections of the tests lie in a folder of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_skipseg.corrections.catalog import CORRECTIONS_VARIABLE


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all corrections, of this test alone."""
    monkeypatch.setenv(CORRECTIONS_VARIABLE, str(tmp_path / "corrections"))
    return tmp_path / "corrections"
