"""The folders in which arrays cross to the engine and back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from full_disk import full_disk
from small_stacks import make_stack

from napari_skipseg.errors import FileError
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs import encoding, workspace
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import Segment
from napari_skipseg.progress import run_to_end


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of engines in a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_full_disk_is_one_sentence_and_leaves_nothing(
    temporary: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_append", full_disk)
    with Engine() as engine:
        with pytest.raises(FileError, match=r"No space left on device\): free \d+ MiB there, or set TMPDIR"):
            run_to_end(engine.run(Segment(make_stack(), str(model_folder), SegmentOptions("cpu"))))
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
