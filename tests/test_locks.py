"""The lock of a folder: one holder at a time, and nothing stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from napari_skipseg.errors import FileError
from napari_skipseg.locks import FolderLock, is_held

REFUSAL = "'{cells}' is taken by process {holder}: wait for it."
HOLD = """
import sys
from pathlib import Path
from napari_skipseg.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]), "taken")
lock.take()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path, REFUSAL), FolderLock(tmp_path, REFUSAL)
    assert not is_held(tmp_path)
    first.take()
    assert is_held(tmp_path)
    with pytest.raises(FileError) as raised:
        second.take()
    assert str(raised.value) == f"'{{cells}}' is taken by process {os.getpid()}: wait for it."
    first.release()
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []
    second.take()
    second.release()


def test_looking_does_not_take(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock = FolderLock(tmp_path, REFUSAL)
    (tmp_path / "lock").write_text("12345")
    assert not is_held(tmp_path)
    lock.take()
    assert (tmp_path / "lock").read_text() == str(os.getpid())
    lock.release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_held(tmp_path)
        with pytest.raises(FileError, match=f"process {holder.pid}"):
            FolderLock(tmp_path, REFUSAL).take()
        holder.kill()
        holder.wait()
    assert (tmp_path / "lock").exists()
    assert not is_held(tmp_path)
    lock = FolderLock(tmp_path, REFUSAL)
    lock.take()
    lock.release()


ASK = """
import sys
from pathlib import Path
from napari_skipseg.locks import is_held
print("asking", flush=True)
while True:
    is_held(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("with_queries", [True, False])
def test_who_asks_keeps_nobody_from_taking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_queries: bool) -> None:
    """Without questions to the system, as on macOS and Windows, taking is tried again for a moment."""
    source = (
        ASK if with_queries else ASK.replace("print", "from napari_skipseg import locks; locks._HAS_OFD = False; print")
    )
    if not with_queries:
        monkeypatch.setattr("napari_skipseg.locks._HAS_OFD", False, raising=False)
    with subprocess.Popen([sys.executable, "-c", source, tmp_path], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == "asking\n"
        for _ in range(200):
            lock = FolderLock(tmp_path, REFUSAL)
            lock.take()
            lock.release()
        asking.kill()
