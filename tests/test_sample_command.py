"""The command `sample`: the synthetic stack and its truth as files."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_skipseg.cli import app
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.synthetic.sample import make_sample


def run(*arguments: str):
    return CliRunner().invoke(app, ["sample", *arguments])


def test_the_sample_and_its_truth_are_written_with_their_voxel_size(tmp_path):
    out = tmp_path / "new" / "folder"
    done = run(str(out), "--slices", "2", "--side", "96", "--seed", "3")
    assert done.exit_code == 0
    made = make_sample((2, 96, 96), 3)
    names = ("em-sample", "em-sample_membranes", "em-sample_mitochondria")
    assert done.output.split() == [str(out / f"{name}.tif") for name in names]
    for name, values in zip(names, (made.stack.data, made.membrane, made.mitochondria), strict=True):
        read = read_stack(out / f"{name}.tif")
        np.testing.assert_array_equal(read.data[...], values)
        assert (read.space.axes, read.space.voxel_size, read.space.unit) == ("ZYX", (50.0, 4.0, 4.0), "nm")


@pytest.mark.parametrize(("arguments", "said"), [(("--side", "8"), "64"), (("--slices", "0"), "64")])
def test_too_small_a_sample_is_refused_and_writes_nothing(tmp_path, arguments, said):
    done = run(str(tmp_path / "out"), *arguments)
    assert done.exit_code != 0
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    done = run(str(tmp_path / "file" / "out"), "--slices", "1", "--side", "64")
    assert "cannot be made" in str(done.exception)
