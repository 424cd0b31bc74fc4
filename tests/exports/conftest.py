"""A file of labels."""

from pathlib import Path

import pytest
from labels_to_export import SPACE, shapes

from napari_skipseg.images.files import write_ome_tiff


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    path = tmp_path / "made.tif"
    write_ome_tiff(path, shapes(), SPACE)
    return path
