"""A painting process is killed at random moments, again and again: what is older than a second is there."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import painter
import pytest
from killed_process import longest_pause, opened_elsewhere, work_and_kill
from numpy.typing import NDArray

from napari_skipseg.corrections.catalog import find_corrections
from napari_skipseg.corrections.chunk_files import CorrectionChunkFiles
from napari_skipseg.corrections.saved import SAVED_ARRAYS, load_saved
from napari_skipseg.corrections.store import open_corrections

if os.name == "nt":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)

Both = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def paint_and_kill(seed: int, seconds: float) -> tuple[list[float], float]:
    """Return when each stroke was made, and when the kill came."""
    lines, killed = work_and_kill(painter.__file__, [str(seed), str(20_000)], seconds)
    return [float(moment) for _, moment in lines], killed


def on_disk(folder: Path) -> Both:
    saved = load_saved(folder, painter.SHAPE)
    return np.asarray(saved.strokes), np.asarray(saved.reviewed)


def count_kept(before: Both, found: Both, seed: int, least: int, count: int) -> int:
    """Return how many of the strokes are there whole: all up to one, which may be there in part, and none after.

    least: fewer are not looked for.
    """
    state: Both = (before[0].copy(), before[1].copy())
    best = -1
    for number, (array, box, value) in zip(range(count + 2), painter.strokes(seed), strict=False):
        if number >= least:
            wrong = [now != new for now, new in zip(state, found, strict=True)]
            half = wrong[array].copy()
            half[box] &= found[array][box] != value
            if not wrong[1 - array].any() and not half.any():
                best = number
        state[array][box] = value
    return best


def kill_often(folder: Path, kills: int, longest: float) -> list[float]:
    """Return the age of the oldest stroke that was lost at each kill, in seconds."""
    chance, ages = random.Random(3), []
    before: Both = (np.zeros(painter.SHAPE, np.uint8), np.zeros(painter.SHAPE, np.uint8))
    for seed in range(kills):
        times, killed = paint_and_kill(seed, chance.uniform(0.05, longest))
        (place,) = folder.iterdir()
        (found,) = find_corrections()
        assert (found.was_interrupted, found.is_open, found.is_empty) == (True, False, False)
        now = on_disk(place)
        pause = longest_pause(times, killed)
        old = sum(moment < killed - 1 - pause for moment in times)
        kept = count_kept(before, now, seed, old, len(times))
        assert kept >= 0, f"after kill {seed} a stroke older than a second is gone, or there is what was never painted"
        ages.append(max(killed - times[kept] - pause, 0.0) if kept < len(times) else 0.0)
        before = now
    return ages


def test_nothing_older_than_a_second_is_lost(folder: Path) -> None:
    assert max(kill_often(folder, 3, 1.5)) < 1
    found = on_disk(next(folder.iterdir()))
    with_journal = open_corrections(painter.image())
    assert with_journal.was_interrupted
    np.testing.assert_array_equal(with_journal.strokes, found[0])
    np.testing.assert_array_equal(with_journal.reviewed, found[1])
    assert with_journal.close()
    assert sorted(file.name for file in with_journal.folder.iterdir()) == [
        "corrections.json", "counts.json", "reviewed.zarr", "strokes.zarr",
    ]  # fmt: skip
    for name, array in zip(SAVED_ARRAYS, found, strict=True):
        files = CorrectionChunkFiles(with_journal.folder / f"{name}.zarr", painter.SHAPE)
        assert {place[0] for place in files.chunk_numbers()} == set(np.unique(np.nonzero(array)[0]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sixty_kills_lose_nothing_older_than_a_second(folder: Path) -> None:
    ages = kill_often(folder, 60, 3.0)
    assert max(ages) < 1


def test_a_second_window_is_refused_and_the_first_loses_nothing(folder: Path) -> None:
    with opened_elsewhere(painter.__file__) as holder:
        with pytest.raises(Exception, match="is being corrected") as raised:
            open_corrections(painter.image())
        assert str(raised.value) == (
            f"'cells' is being corrected in another window (process {holder.pid}): close it there first."
        )
        assert find_corrections()[0].is_open
        holder.kill()
        holder.wait()
    open_corrections(painter.image()).close()
