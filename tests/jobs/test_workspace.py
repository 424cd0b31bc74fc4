"""The copy that crosses to the engine, and the folders it lies in."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from small_stacks import make_stack

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.space import Space
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


@pytest.mark.parametrize(("axes", "part"), [("ZYX", 40 * 50), ("YXC", 2000)])
def test_copy_reads_a_slice_at_a_time(axes: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "LARGEST_PART", 2000)
    data = Counting(np.zeros((30, 40, 50), np.uint8))
    run_to_end(workspace.copy_stack(Stack(data, Space(axes)), tmp_path / "input.npy"))
    assert data.largest <= part


def test_lazy_image_is_copied(tmp_path: Path) -> None:
    stack = Stack(dask.array.arange(24, chunks=5).reshape(2, 3, 4), Space("ZYX"))
    run_to_end(workspace.copy_stack(stack, tmp_path / "input.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "input.npy"), np.arange(24).reshape(2, 3, 4))


def test_image_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    def fail(block: Any) -> Any:
        raise RuntimeError("the file has gone")

    lazy = dask.array.zeros((4, 4), dtype="uint8").map_blocks(fail, dtype="uint8", meta=np.zeros((0, 0), "uint8"))
    with pytest.raises(InputError, match=r"'image' cannot be read \(RuntimeError: the file has gone\)"):
        run_to_end(workspace.copy_stack(Stack(lazy, Space("YX")), tmp_path / "input.npy"))


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


SESSION = """
import sys
from napari_skipseg.jobs.workspace import make_session_folder
print(make_session_folder(), flush=True)
sys.stdin.read()
"""


def test_only_folders_of_dead_sessions_are_swept(temporary: Path) -> None:
    """A session is known by the lock that it holds: of processes in other containers no number says anything."""
    here = os.environ | {"TMPDIR": str(temporary), "TEMP": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", SESSION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=here
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        mine = workspace.make_session_folder()
        foreign = temporary / "napari-skipseg-elsewhere.org-abc"
        begun, left = temporary / f"{workspace._PREFIX}begun", temporary / f"{workspace._PREFIX}left"
        for folder in (foreign, begun, left):
            folder.mkdir()
        for folder in (theirs, mine, foreign, begun, left):
            (folder / "probability.npy").write_bytes(b"0")
        os.utime(left, (0, 0))
        workspace.sweep_dead_sessions()
        assert set(temporary.iterdir()) == {theirs, mine, foreign, begun}
        other.kill()
        other.wait()
        workspace.sweep_dead_sessions()
        assert set(temporary.iterdir()) == {mine, foreign, begun}
    workspace.remove_folder(mine)
    assert not mine.exists()
    for folder in (foreign, begun):
        workspace.remove_folder(folder)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_session_of_another_container_is_left_alone(temporary: Path) -> None:
    """Its processes are counted from 1 again, and the host's name is the same."""
    mine = workspace.make_session_folder()
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", sys.executable, "-c", SESSION]
    here = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, env=here)
    if "unshare" in done.stderr:
        pytest.skip("no namespaces here")
    assert done.returncode == 0, done.stderr
    assert mine.exists()
    workspace.remove_folder(mine)
    workspace.sweep_dead_sessions()
