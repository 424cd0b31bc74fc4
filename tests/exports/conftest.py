"""A file of labels, and the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran, runner
from labels_to_export import SPACE, shapes

from napari_skipseg.images.files import write_ome_tiff


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    path = tmp_path / "made.tif"
    write_ome_tiff(path, shapes(), SPACE)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return runner(monkeypatch, capsys)
