"""A batch is killed at random moments, again and again, and goes on: what it leaves is the same, byte for byte."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from batch_folders import results_in, run, run_and_die, settings_for, states, write_image

from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.objects.options import Method, ObjectOptions

if os.name == "nt":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)


def folder_of(inputs: Path) -> Path:
    for number in range(3):
        write_image(inputs / f"{number}.tif", number, slices=6)
    write_image(inputs / "deep" / "one.tif", 9)
    return inputs


def kill_often(settings: BatchSettings, undisturbed: dict[str, bytes], rounds: int, seed: int) -> int:
    """Return how often the batch was killed; it is begun again whenever a process came to its end."""
    chance, killed = random.Random(seed), 0
    while killed < rounds:
        code = run_and_die(settings, chance.uniform(0.02, 0.7))
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        if code == 0:
            (folder,) = Path(settings.output).iterdir()
            assert results_in(folder) == undisturbed
            for file in sorted(folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
    return killed


@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("tiff", "watershed"),
        pytest.param("tiff", "components", marks=pytest.mark.slow),
        pytest.param("ome-zarr", "cells", marks=pytest.mark.slow),
    ],
)
def test_a_killed_batch_goes_on_to_the_same_bytes(tmp_path: Path, tiny: Path, form: str, method: Method) -> None:
    inputs = folder_of(tmp_path / "in")
    more = {"recursive": True, "form": form, "objects": ObjectOptions(method)}
    undisturbed = results_in(run(settings_for(inputs, tmp_path / "whole", tiny, **more)).folder)
    settings = settings_for(inputs, tmp_path / "out", tiny, **more)
    assert kill_often(settings, undisturbed, 3, seed=len(form)) == 3
    result = run(settings)
    assert set(states(result).values()) <= {"done", "skipped"}
    assert results_in(result.folder) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sixty_kills_change_no_byte(tmp_path: Path, tiny: Path) -> None:
    inputs = folder_of(tmp_path / "in")
    undisturbed = results_in(run(settings_for(inputs, tmp_path / "whole", tiny, recursive=True)).folder)
    settings = settings_for(inputs, tmp_path / "out", tiny, recursive=True)
    assert kill_often(settings, undisturbed, 60, seed=1) == 60
    assert results_in(run(settings).folder) == undisturbed
