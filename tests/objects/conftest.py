"""The command `objects`, run in the process of the tests."""

from functools import partial

import pytest


@pytest.fixture
def objects(run):
    """Run `objects` in this process; return its exit code, and what it printed."""
    return partial(run, "objects")
