"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real EM data: SKIPSEG_DATA, else ../shared/data beside the checkout.

    Without it a test is skipped with that reason; under CI it fails instead.
    """
    named = os.environ.get("SKIPSEG_DATA")
    folder = Path(named) if named else Path(__file__).parents[1].parent / "shared" / "data"
    if folder.is_dir():
        return folder
    reason = f"the real EM data is not there: {folder} (set SKIPSEG_DATA)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
