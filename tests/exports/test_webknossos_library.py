"""The dataset for WEBKNOSSOS is opened by its own library, in an environment of its own (decision 0025)."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from labels_to_export import shapes

OPEN = """
import json, sys
import numpy as np, webknossos as wk
dataset = wk.Dataset.open(sys.argv[1])
layer = dataset.get_layer("segmentation")
box = layer.bounding_box
np.save(sys.argv[2], layer.get_mag(1).read()[0])
facts = {"offset": list(box.topleft), "size": list(box.size), "voxel": list(dataset.voxel_size), "kind": layer.category,
         "largest": layer.largest_segment_id}
print(json.dumps(facts, default=int))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_library_opens_the_dataset(run, labels_file: Path, tmp_path: Path) -> None:
    """Installs the library: needs a package index."""
    assert run("export", labels_file, tmp_path, "--webknossos").code == 0
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    made = subprocess.run([python, "-m", "pip", "install", "-q", "webknossos==4.3.3"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"the library cannot be installed: {made.stderr[-300:]!r}")
    folder, values = tmp_path / "made_webknossos", tmp_path / "values.npy"
    ran = subprocess.run([python, "-c", OPEN, folder, values], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    facts = json.loads(ran.stdout.splitlines()[-1])
    expected = {"offset": [10, 20, 10], "size": [50, 44, 30], "voxel": [8, 10, 30]}
    assert facts == {**expected, "kind": "segmentation", "largest": 70}
    np.testing.assert_array_equal(np.load(values).T, shapes())
