"""Blocks of a volume that are found once: a search that was stopped, or shared out, goes on with what is there."""

import dataclasses

import numpy as np
import pytest
from made import bumpy, finished, image_of

from napari_skipseg.devices import versions
from napari_skipseg.errors import FileError
from napari_skipseg.objects import find_in_blocks
from napari_skipseg.objects.block_regions import find_block_regions
from napari_skipseg.objects.blocks import block_grid_of
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_blocks, iter_find_objects
from napari_skipseg.objects.options import ObjectOptions

BLOCK, SHAPE = (4, 12, 15), (11, 33, 29)
BLOCKS = 18
OPTIONS = ObjectOptions("cells", seed_distance=4, merge=0.55, fill_holes=True)


@pytest.fixture
def volume():
    return image_of(np.round(bumpy(SHAPE, 3) * 40) / np.float32(40), (2.5, 1.0, 1.0))


@pytest.fixture
def computed(monkeypatch):
    """The blocks that were looked at, by where they begin."""
    seen = []
    monkeypatch.setattr(
        find_in_blocks,
        "find_block_regions",
        lambda values, low, window, *how: seen.append(window.start) or find_block_regions(values, low, window, *how),
    )
    return seen


@pytest.fixture
def undisturbed(volume, tmp_path):
    return finished(iter_find_objects(volume, OPTIONS, ObjectsTarget(tmp_path / "whole", "x"), BLOCK))


def stopped_after(count, work):
    """Stop a search when so many blocks are found; return how far it said it was."""
    for progress in work:
        if progress.done >= count:
            work.close()
            return progress.done
    raise AssertionError("it came to its end")


@pytest.mark.parametrize("method", ["components", "watershed", "cells"])
def test_a_search_that_was_stopped_goes_on_with_what_it_found(method, volume, tmp_path, computed):
    options = dataclasses.replace(OPTIONS, method=method)
    plain = finished(iter_find_objects(volume, options, ObjectsTarget(tmp_path / "whole", "x"), BLOCK))
    assert len(computed) == BLOCKS
    computed.clear()
    target = ObjectsTarget(tmp_path / "out", "x", kept=tmp_path / "kept")
    done = stopped_after(7, iter_find_objects(volume, options, target, BLOCK))
    assert not target.file.exists()
    before = len(computed)
    assert done <= before < BLOCKS
    told = []
    found = finished(told_by(iter_find_objects(volume, options, target, BLOCK), told))
    assert len(computed) == len(set(computed)) == BLOCKS
    assert found.count == plain.count > 1
    assert found.file.read_bytes() == plain.file.read_bytes()
    finding = [progress.done for progress in told if progress.total == BLOCKS]
    assert finding == sorted(finding)
    assert finding[0] == before


def told_by(work, told):
    """The same work, and what it says."""
    while True:
        try:
            progress = next(work)
        except StopIteration as stop:
            return stop.value
        told.append(progress)
        yield progress


def test_a_damaged_block_is_found_anew(volume, tmp_path, computed, undisturbed):
    target = ObjectsTarget(tmp_path / "out", "x", kept=tmp_path / "kept")
    finished(iter_find_objects(volume, OPTIONS, target, BLOCK))
    computed.clear()
    files = sorted((tmp_path / "kept").glob("*.npz"))
    assert len(files) == BLOCKS
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:200])
    content = bytearray(files[2].read_bytes())
    content[len(content) // 3] ^= 255
    files[2].write_bytes(content)
    files[3].unlink()
    found = finished(iter_find_objects(volume, OPTIONS, target, BLOCK))
    assert 3 <= len(computed) <= 4  # a bit in a header of the archive may say nothing that is looked at
    assert found.file.read_bytes() == undisturbed.file.read_bytes()


@pytest.mark.parametrize("change", ["options", "recipe", "voxels", "version", "half made"])
def test_blocks_of_another_search_are_not_gone_on_with(change, volume, tmp_path, computed, monkeypatch):
    target = ObjectsTarget(tmp_path / "out", "x", kept=tmp_path / "kept", recipe={"inputs": 1})
    stopped_after(4, iter_find_objects(volume, OPTIONS, target, BLOCK))
    computed.clear()
    options = dataclasses.replace(OPTIONS, merge=0.3) if change == "options" else OPTIONS
    target = dataclasses.replace(target, recipe={"inputs": 2}) if change == "recipe" else target
    if change == "voxels":
        volume = image_of(volume.stack.data, (5.0, 1.0, 1.0))
    if change == "version":
        monkeypatch.setattr(find_in_blocks, "versions", lambda: {"napari-skipseg": "another"})
    if change == "half made":
        (tmp_path / "kept" / "made_of.json").unlink()
    found = finished(iter_find_objects(volume, options, target, BLOCK))
    assert len(computed) == BLOCKS
    plain = dataclasses.replace(target, folder=tmp_path / "whole", kept=None)
    again = finished(iter_find_objects(volume, options, plain, BLOCK))
    assert found.file.read_bytes() == again.file.read_bytes()


def test_blocks_may_be_found_by_others(volume, tmp_path, computed, monkeypatch):
    monkeypatch.setattr(
        find_in_blocks, "block_grid_of", lambda shape, options, _=None: block_grid_of(shape, options, BLOCK)
    )
    target = ObjectsTarget(tmp_path / "out", "x", kept=tmp_path / "kept")
    stopped_after(0, iter_find_objects(volume, OPTIONS, target))
    without_napari = {name: version for name, version in versions().items() if name != "napari"}
    monkeypatch.setattr(find_in_blocks, "versions", lambda: without_napari)
    for numbers in (range(12, 18), range(6), range(6, 12)):
        last = list(iter_find_blocks(volume, OPTIONS, target, numbers))[-1]
        assert last.done == last.total == 6
    assert len(computed) == len(set(computed)) == BLOCKS
    assert list(iter_find_blocks(volume, OPTIONS, target, range(6))) == []
    found = finished(iter_find_objects(volume, OPTIONS, target))
    plain = dataclasses.replace(target, folder=tmp_path / "whole", kept=None)
    assert len(computed) == BLOCKS
    assert found.file.read_bytes() == finished(iter_find_objects(volume, OPTIONS, plain)).file.read_bytes()
    with pytest.raises(ValueError, match="kept"):
        next(iter_find_blocks(volume, OPTIONS, plain, range(6)))


def test_a_full_disk_is_told_and_what_is_found_stays(volume, tmp_path, computed, monkeypatch):
    target = ObjectsTarget(tmp_path / "out", "x", kept=tmp_path / "kept")
    writing = np.lib.format.write_array

    def full(*given, **how):
        if len(list((tmp_path / "kept").glob("*.npz"))) >= 5:
            raise OSError(28, "No space left on device")
        return writing(*given, **how)

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(FileError, match="There is no space left to write"):
        finished(iter_find_objects(volume, OPTIONS, target, BLOCK))
    monkeypatch.undo()
    kept = {int(file.stem) for file in (tmp_path / "kept").glob("*.npz")}
    assert len(kept) >= 5
    assert not list((tmp_path / "kept").glob("*.part"))
    done = []
    finished(told_by(iter_find_objects(volume, OPTIONS, target, BLOCK), done))
    assert done[0].done == len(kept)
