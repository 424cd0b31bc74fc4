"""The copy that crosses to the engine, and the folders it lies in."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from small_stacks import make_stack

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs import workspace
from napari_skipseg.jobs.client import Engine
from napari_skipseg.progress import run_to_end


class Counting(LazyArray):
    """An array that remembers the largest part it was asked for."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values, self.shape, self.dtype, self.largest = values, values.shape, values.dtype, 0

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        part = self.values[index]
        self.largest = max(self.largest, part.nbytes)
        return part


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((9, 7), "YX"), ((9, 7, 3), "YXC"), ((4, 9, 7), "ZYX"), ((2, 3, 4, 9, 7), "TCZYX"), ((9, 7, 5), "YXT")],
)
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", "bool"])
@pytest.mark.parametrize("largest", [2**28, 50, 1])
def test_copy_is_the_image(
    shape: tuple[int, ...], axes: str, dtype: str, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "LARGEST_PART", largest)
    stack = make_stack(shape, axes, dtype)
    run_to_end(workspace.copy_stack(stack, tmp_path / "input.npy"))
    copied = np.load(tmp_path / "input.npy")
    assert copied.dtype == stack.data.dtype
    np.testing.assert_array_equal(copied, stack.data)


@pytest.mark.parametrize(("axes", "part"), [("ZYX", 40 * 50), ("YXZ", 2000)])
def test_copy_reads_a_slice_at_a_time(axes: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "LARGEST_PART", 2000)
    monkeypatch.setattr("napari_skipseg.images.stack.check_axes", lambda axes, dimensions: None)
    data = Counting(np.zeros((30, 40, 50), np.uint8))
    run_to_end(workspace.copy_stack(Stack(data, axes), tmp_path / "input.npy"))
    assert data.largest <= part


def test_lazy_image_is_copied(tmp_path: Path) -> None:
    stack = Stack(dask.array.arange(24, chunks=5).reshape(2, 3, 4), "ZYX")
    run_to_end(workspace.copy_stack(stack, tmp_path / "input.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "input.npy"), np.arange(24).reshape(2, 3, 4))


def test_image_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    def fail(block: Any) -> Any:
        raise RuntimeError("the file has gone")

    lazy = dask.array.zeros((4, 4), dtype="uint8").map_blocks(fail, dtype="uint8", meta=np.zeros((0, 0), "uint8"))
    with pytest.raises(InputError, match=r"'image' cannot be read \(RuntimeError: the file has gone\)"):
        run_to_end(workspace.copy_stack(Stack(lazy, "YX"), tmp_path / "input.npy"))


def test_full_disk_is_one_sentence_and_leaves_nothing(
    temporary: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(opened: object, values: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workspace, "_append", fail)
    with Engine() as engine:
        with pytest.raises(FileError, match=r"No space left on device\): free \d+ MiB there, or set TMPDIR"):
            run_to_end(engine.segment(make_stack(), model_folder, SegmentOptions("cpu")))
        assert list(temporary.rglob("run-*")) == []
    assert list(temporary.iterdir()) == []


def test_folders_of_dead_sessions_are_swept_and_others_stay(temporary: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = temporary / f"{workspace._PREFIX}{int(ended.stdout)}-abc"
    alive = temporary / f"{workspace._PREFIX}{os.getppid()}-abc"
    foreign = temporary / f"napari-skipseg-elsewhere.org-{int(ended.stdout)}-abc"
    for folder in (dead, alive, foreign):
        folder.mkdir()
        (folder / "probability.npy").write_bytes(b"0")
    workspace.sweep_dead_sessions()
    assert not dead.exists()
    assert alive.exists()
    assert foreign.exists()
    for folder in (alive, foreign):
        (folder / "probability.npy").unlink()
        folder.rmdir()
