"""SIGTERM at any moment of a training from the shell: the same command goes on and ends with the same model."""

import json
import sys

import pytest
from run_python import run_python

from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.models.folder import is_scored

RUN = """
import os, signal, sys
from napari_skipseg import terminal
moment = sys.argv.pop(1)

def noting(console, title):
    def show(progress):
        print(progress.message, file=sys.stderr)
        if moment and moment in progress.message:
            os.kill(os.getpid(), signal.SIGTERM)
    return show

terminal._a_line_a_minute = noting
from napari_skipseg.cli import main
main()
"""
MOMENTS = ("step 3 of 8", "looking at what is held out", "measuring the margin", "held out, 1 of 2: tile")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_a_training_that_gets_a_signal_at_each_of_its_moments_ends_with_the_same_model(tmp_path):
    sample = make_sample((6, 96, 96))
    write_ome_tiff(tmp_path / "image.tif", sample.stack.data, Space("ZYX", (50, 4, 4), "nm"))
    write_ome_tiff(tmp_path / "labels.tif", sample.membrane, Space("ZYX", (50, 4, 4), "nm"))
    settings = {
        "name": "small",
        "images": [str(tmp_path / "image.tif")],
        "labels": [str(tmp_path / "labels.tif")],
        "classes": [{"name": "membrane", "label": 1}],
        "validate": "4-5",
        "validate_every": 5,
        "patch": [32, 32],
        "steps": 8,
        "spec": {"network": "unet", "widths": [4, 8]},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))

    def train(out, moment=""):
        command = ["train", str(tmp_path / "settings.json"), "--out", str(tmp_path / out), "--device", "cpu"]
        return run_python(RUN, moment, *command)

    assert train("straight").returncode == 0
    for moment in MOMENTS:
        stopped = train("stopped", moment)
        assert stopped.returncode == 130, stopped.stderr
        assert stopped.stderr.splitlines()[-1].startswith("Error: Stopped")
    assert not is_scored(tmp_path / "stopped" / "small")
    last = train("stopped")
    assert last.returncode == 0, last.stderr
    assert "step " not in last.stderr
    for file in ("weights.safetensors", "scores.json"):
        written = (tmp_path / out / "small" / file for out in ("straight", "stopped"))
        assert len({each.read_bytes() for each in written}) == 1, file
    assert [each.name for each in (tmp_path / "stopped").iterdir()] == ["small"]
