"""The folder of a run: what it remembers, who may write to it, and what is left of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed_runs import PROCESSES

from napari_skipseg.errors import FileError
from napari_skipseg.inference.run_folder import RunFolder

KEY = {"input": {"bytes": 7}, "threshold": 0.5, "shape": (3, 4)}


def opened(folder: Path, key: Any = KEY, **more: Any) -> RunFolder:
    """The folder of a run, its lock gone as after a kill."""
    place = RunFolder(folder, "cells", key, **more)
    place._lock.release()
    return place


def begin(folder: Path, **more: Any) -> None:
    """A run of which two units are done, and that was killed."""
    place = opened(folder, **more)
    place.begin({"side": 64, "tile": (64, 64)})
    place.note(4)
    place.note(1)
    place.flush()


def stop(place: RunFolder, discard: bool = False) -> None:
    with pytest.raises(KeyboardInterrupt):
        _stopped(place, discard)


def _stopped(place: RunFolder, discard: bool) -> None:
    with place:
        if discard:
            place.discard()
        raise KeyboardInterrupt


def test_a_run_is_remembered(tmp_path: Path) -> None:
    begin(tmp_path)
    with RunFolder(tmp_path, "cells", KEY) as place:
        assert place.recipe == {"side": 64, "tile": [64, 64]}
        assert (place.done(), place.changes, place.is_whole) == ([4, 1], {}, False)
    begin(tmp_path)
    opened(tmp_path).change({"backend": "torch", "notes": ("it failed",)})
    assert opened(tmp_path).changes == {"backend": "torch", "notes": ["it failed"]}


def test_a_run_that_ends_well_leaves_only_its_results(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "b", "cells", KEY) as place:
        place.begin({})
        place.note(0)
        (place.path / "cells_binary.tif").write_text("new")
        (tmp_path / "a" / "b" / "cells_binary.tif").write_text("old")
        place.finish([place.path / "cells_binary.tif"])
        assert place.move_results() == [tmp_path / "a" / "b" / "cells_binary.tif"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["cells_binary.tif"]
    assert (tmp_path / "a" / "b" / "cells_binary.tif").read_text() == "new"


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_run_that_fails_leaves_what_can_be_gone_on_with(tmp_path: Path, done: bool, lasting: bool) -> None:
    place = RunFolder(tmp_path / "a" / "b", "cells", KEY, lasting=lasting)
    place.begin({})
    if done:
        place.note(0)
    stop(place)
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == ({"a", "b", "cells.unfinished", "run.json", "done"} if done and lasting else set())


def test_what_is_discarded_does_not_stay(tmp_path: Path) -> None:
    begin(tmp_path)
    stop(RunFolder(tmp_path, "cells", KEY), discard=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_could_never_go_on_is_begun_anew(tmp_path: Path) -> None:
    begin(tmp_path, lasting=False)
    for lasting in (True, False):
        place = opened(tmp_path, lasting=lasting)
        assert (place.recipe, place.done()) == (None, [])


@pytest.mark.parametrize("torn", range(1, 8))
def test_a_number_cut_short_is_not_there_and_does_no_harm(tmp_path: Path, torn: int) -> None:
    begin(tmp_path)
    with (tmp_path / "cells.unfinished" / "done").open("ab") as journal:
        journal.write(b"\x07\0\0\0\0\0\0"[:torn])
    place = opened(tmp_path)
    assert place.done() == [4, 1]
    place.note(9)
    assert place.done() == [4, 1, 9]
    assert (place.path / "done").read_bytes() == np.array([4, 1, 9], "<u8").tobytes()


def test_another_run_is_named_by_what_differs(tmp_path: Path) -> None:
    begin(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "cells.unfinished").iterdir()}
    other = {"input": {"bytes": 8}, "threshold": 0.5, "shape": (3, 5), "new": 1}
    with pytest.raises(FileError, match="differs in input, shape, new: finish it first"):
        RunFolder(tmp_path, "cells", other)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cells.unfinished").iterdir()} == before
    assert opened(tmp_path, other, restart=True).done() == []


# ------------------------------------------------------------------------------------------------------------- lock


def _hold(folder: Path, seen: Any) -> None:
    place = RunFolder(folder, "cells", KEY)
    place.begin({})
    place.note(3)
    place.flush()
    seen.set()
    signal.pause()


def hold(folder: Path) -> Any:
    """Another process at work on the run in `folder`."""
    seen = PROCESSES.Event()
    process = PROCESSES.Process(target=_hold, args=(folder, seen))
    process.start()
    assert seen.wait(60)
    return process


def test_a_run_that_another_process_is_at_work_on_is_refused_until_that_is_gone(tmp_path: Path) -> None:
    process = hold(tmp_path)
    for restart in (False, True):
        with pytest.raises(FileError, match=rf"a different run \(process {process.pid}\): wait for it"):
            RunFolder(tmp_path, "cells", KEY, restart)
    process.kill()
    process.join()
    assert (tmp_path / "cells.unfinished" / "lock").exists()
    place = RunFolder(tmp_path, "cells", KEY)
    assert place.done() == [3]
    stop(place)
    assert not (tmp_path / "cells.unfinished" / "lock").exists()


def test_a_lock_of_the_dead_counts_for_nothing_whoever_has_its_number_now(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for left in (str(other.pid), str(os.getpid()), "1", "", "no number", "\xff"):
        begin(tmp_path)
        (tmp_path / "cells.unfinished" / "lock").write_text(left, encoding="latin-1")
        place = RunFolder(tmp_path, "cells", KEY)
        assert (place.path / "lock").read_text() == str(os.getpid())
        place._lock.release()
    other.communicate(b"\n")


def test_of_many_that_begin_at_once_one_does(tmp_path: Path) -> None:
    results = PROCESSES.SimpleQueue()
    gate = PROCESSES.Barrier(4)
    crowd = [PROCESSES.Process(target=_compete, args=(tmp_path, gate, results)) for _ in range(4)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(60)
    assert [process.exitcode for process in crowd] == [0] * 4
    clashes, taken = zip(*(results.get() for _ in crowd), strict=True)
    assert sum(clashes) == 0
    assert sum(taken) >= 50


def _compete(folder: Path, gate: Any, results: Any) -> None:
    """Take the folder again and again; a run that finds another one in it at the same time fails."""
    clashes = taken = 0
    for _ in range(50):
        gate.wait()
        try:
            with RunFolder(folder, "cells", KEY) as place:
                mine = place.path / "mine"
                taken += 1
                clashes += mine.exists()
                mine.touch()
                mine.unlink()
        except FileError:
            continue
    results.put((clashes, taken))


def test_a_file_system_without_locks_grants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unknown(*given: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for name in ("flock", "fcntl"):
        monkeypatch.setattr(fcntl, name, unknown)
    with pytest.warns(UserWarning, match="has no locks"), RunFolder(tmp_path, "cells", KEY) as place:
        assert json.loads((place.path / "lock").read_text()) == os.getpid()


def test_only_what_is_ours_goes_with_a_run_whatever_it_is_called(tmp_path: Path) -> None:
    name = "a.b(c)+"
    place = RunFolder(tmp_path, name, KEY)
    ours = (
        f"{name}_probability.tif",
        ".skipseg-0123abcd.part",
        f"{name}_attention_2.tif",
        f"{name}_times.json",
    )
    others = ("b_probability.tif", f"{name}_probability.png", "aXb(c)+_binary.tif", f"x{name}_recipe.json")
    for file in (*ours, *others):
        (place.path / file).write_bytes(b"")
    place.begin({})
    stop(place, discard=True)
    assert {file.name for file in place.path.iterdir()} == set(others)


def test_ten_thousand_names_cost_no_time_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_one(*given: Any) -> Any:
        raise AssertionError("an expression is compiled for a name")

    monkeypatch.setattr("napari_skipseg.inference.run_folder.re.compile", compile_one)
    stop(opened(tmp_path), discard=True)
