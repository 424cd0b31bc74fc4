"""A batch is stopped in each phase of a file: nothing half-written is left, and it goes on to the same bytes."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from batch_folders import Gate, results_in, run, settings_for, states, write_image

from napari_skipseg.batch import run_file
from napari_skipseg.batch.engine import DeviceTurn
from napari_skipseg.batch.records import read_file_record
from napari_skipseg.batch.run import iter_batch
from napari_skipseg.durable import is_draft
from napari_skipseg.inference import to_folder
from napari_skipseg.inference.stores import ZarrStore
from napari_skipseg.objects import find_in_blocks
from napari_skipseg.objects.options import ObjectOptions

PHASES: dict[str, tuple[Any, str, int]] = {
    "reading": (run_file, "read_input", 0),
    "computing": (DeviceTurn, "run", 3),
    "writing tiles": (ZarrStore, "write", 3),
    "writing results": (to_folder, "write_tiff", 1),
    "objects": (find_in_blocks, "find_block_regions", 1),
    "picture": (run_file, "draw_thumbnail", 1),
}
"""What is held in each phase, after so many calls."""


@pytest.mark.parametrize("phase", PHASES)
def test_a_batch_is_stopped_in_any_phase_and_goes_on(
    phase: str, gate: Gate, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_skipseg.objects.blocks.BLOCK_SIDE", 16)  # so that objects are found in several blocks
    for number in range(2):
        write_image(tmp_path / "in" / f"{number}.tif", number, slices=4)
    asked = {"objects": ObjectOptions("components")}
    undisturbed = results_in(run(settings_for(tmp_path / "in", tmp_path / "whole", tiny, **asked)).folder)
    settings = settings_for(tmp_path / "in", tmp_path / "out", tiny, **asked)
    owner, name, most = PHASES[phase]
    real, calls, is_held = getattr(owner, name), itertools.count(), threading.Event()

    def held(*given: Any, **named: Any) -> Any:
        if next(calls) >= most:
            is_held.set()
            gate()
        return real(*given, **named)

    gate.shut()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, held)
        work = iter_batch(settings)
        for _ in work:
            if is_held.is_set():
                break
        work.close()
    assert is_held.is_set()
    (folder,) = (tmp_path / "out").iterdir()
    left = [path.name for path in folder.rglob("*")]
    assert "lock" not in left
    assert not [name for name in left if is_draft(name) or name.endswith(".opening")]
    records = [read_file_record(file) for file in folder.glob("records/*.json")]
    if phase != "picture":  # which is the last step of a file
        assert [record.state for record in records if record is not None].count("done") < 2
    result = run(settings)
    assert set(states(result).values()) <= {"done", "skipped"}
    assert results_in(folder) == undisturbed
