"""The command `objects`, run in the process of the tests."""

from functools import partial

import pytest
from command_line import runner


@pytest.fixture
def objects(monkeypatch, capsys):
    """Run `objects` in this process; return its exit code, and what it printed."""
    return partial(runner(monkeypatch, capsys), "objects")
