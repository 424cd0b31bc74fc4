"""A power cut may empty, shorten or scramble whatever was not brought to disk: a run that goes on ends with the same
bytes, and its journal names no unit whose chunks are not on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from identity import identity, make_model
from run_files import files_in, stop_after

from napari_skipseg import durable
from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.inference import run_journal
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import TileWritten
from napari_skipseg.inference.run_folder import RunFolder
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end

if os.name == "nt":
    pytest.skip("Windows has no /proc to see what was synced", allow_module_level=True)

CELLS = np.random.default_rng(5).integers(0, 256, (6, 80, 600)).astype(np.uint8)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("input") / "cells.ome.tif"
    write_ome_tiff(file, CELLS, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    return file


@pytest.fixture(scope="module")
def whole_run(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What a run without a fault leaves, by format."""
    found = {}
    for form in ("tiff", "ome-zarr"):
        folder = tmp_path_factory.mktemp("whole")
        run_to_end(work(cells, folder, form))
        found[form] = files_in(folder)
    return found


def work(cells: Path, folder: Path, form: Any = "tiff") -> Any:
    target = FolderTarget(folder, "cells", form=form)
    return iter_segment(
        RunSpec(read_stack(cells), make_model(), SegmentOptions("cpu", tile=200), backend_maker=identity), target
    )


class Disk:
    """What is on disk: for each file the bytes that it had when it was last synced. `cut` leaves no more than that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: dict[tuple[int, int], int] = {}
        self._real = os.fsync
        monkeypatch.setattr(durable, "_syncfs", lambda: None)
        monkeypatch.setattr(os, "fsync", self.sync)

    def sync(self, number: int) -> None:
        found = os.fstat(number)
        self.synced[found.st_dev, found.st_ino] = found.st_size

    def has(self, file: Path) -> bool:
        found = file.stat()
        return self.synced.get((found.st_dev, found.st_ino)) == found.st_size

    def cut(self, folder: Path) -> list[Path]:
        lost = [file for file in folder.rglob("*") if file.is_file() and not self.has(file)]
        for file in lost:
            file.write_bytes(b"")
        return lost


def test_no_unit_is_noted_before_its_chunks_and_what_describes_them_are_on_disk(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, seen = Disk(monkeypatch), []
    monkeypatch.setattr(run_journal, "EVERY", 0.0)
    monkeypatch.setattr(run_journal, "LONGEST", 0.0)
    append, note, chunks_of, taken = run_journal.append_tiles, RunFolder.note, {}, []

    def noting(self: RunFolder, number: int, files: Any = ()) -> None:
        taken.extend(files)  # several threads write units, and one takes the files of all that are written
        chunks_of[number] = list(taken)
        assert len(taken) >= 3 * len(chunks_of), "those of this unit are among them"
        note(self, number, files)

    def appending(folder: Path, numbers: Any) -> None:
        for number in numbers:
            chunks = chunks_of[number]
            assert len(chunks) >= 3
            told = [folder / "run.json", *folder.glob("*.ome.zarr/zarr.json"), *folder.glob("*.ome.zarr/0/zarr.json")]
            seen.append(all(map(disk.has, [*chunks, *told])))
        append(folder, numbers)

    monkeypatch.setattr(run_journal, "append_tiles", appending)
    monkeypatch.setattr(RunFolder, "note", noting)
    stop_after(work(cells, tmp_path / "out"), 14)
    assert len(seen) >= 14
    assert all(seen)


@pytest.mark.parametrize(("tiles", "form"), [(1, "tiff"), (9, "ome-zarr"), (17, "tiff"), (17, "ome-zarr")])
def test_a_power_cut_at_any_time_costs_no_more_than_what_was_not_on_disk(
    cells: Path, tmp_path: Path, whole_run: Any, monkeypatch: pytest.MonkeyPatch, form: str, tiles: int
) -> None:
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        going = work(cells, tmp_path / "out", form)
        left = tiles
        while left:
            left -= isinstance(next(going), TileWritten)
        patch.setattr(RunFolder, "_has_done", lambda self: True)  # nothing more comes to disk
        going.close()
        disk.cut(tmp_path / "out")
    run_to_end(work(cells, tmp_path / "out", form))
    assert files_in(tmp_path / "out") == whole_run[form]


def empty(content: bytes) -> bytes:
    return b""


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    return bytes(len(content))


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 0x10]) + content[-8:]


@pytest.mark.parametrize("damage", [empty, halved, zeroed, flipped])
@pytest.mark.parametrize(("form", "place"), [("tiff", 0), ("ome-zarr", -1)])
def test_a_chunk_that_the_journal_calls_done_and_is_damaged_is_computed_again(
    cells: Path, tmp_path: Path, whole_run: Any, form: str, damage: Any, place: int
) -> None:
    stop_after(work(cells, tmp_path / "out", form), 9)
    unfinished = tmp_path / "out" / "cells.unfinished"
    for result in ("probability", "binary"):
        chunk = sorted(unfinished.glob(f"cells_{result}.ome.zarr/0/c/*/*/*"))[place]
        chunk.write_bytes(damage(chunk.read_bytes()))
    run_to_end(work(cells, tmp_path / "out", form))
    assert files_in(tmp_path / "out") == whole_run[form]


@pytest.mark.parametrize(("damage", "form"), [(halved, "tiff"), (zeroed, "ome-zarr"), (flipped, "tiff")])
def test_a_chunk_that_is_found_damaged_at_the_end_is_computed_again(
    cells: Path, tmp_path: Path, whole_run: Any, form: str, damage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_skipseg.inference.to_folder.CHECKED", 0)
    stop_after(work(cells, tmp_path / "out", form), 9)
    chunk = sorted((tmp_path / "out" / "cells.unfinished").glob("cells_probability.ome.zarr/0/c/*/*/*"))[1]
    chunk.write_bytes(damage(chunk.read_bytes()))
    run_to_end(work(cells, tmp_path / "out", form))
    assert files_in(tmp_path / "out") == whole_run[form]


@pytest.mark.parametrize("level", ["1/c/2/0/0", "1/zarr.json", "0/zarr.json", "zarr.json"])
def test_pyramids_and_metadata_that_were_emptied_are_made_again(
    cells: Path, tmp_path: Path, whole_run: Any, level: str
) -> None:
    going = work(cells, tmp_path / "out", "ome-zarr")
    RunFolder.finish, real = (lambda self, files: (_ for _ in ()).throw(KeyboardInterrupt())), RunFolder.finish  # type: ignore[method-assign,assignment,misc]
    try:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(going)
    finally:
        RunFolder.finish = real  # type: ignore[method-assign]
    file = tmp_path / "out" / "cells.unfinished" / "cells_probability.ome.zarr" / level
    assert file.stat().st_size
    file.write_bytes(b"")
    run_to_end(work(cells, tmp_path / "out", "ome-zarr"))
    assert files_in(tmp_path / "out") == whole_run["ome-zarr"]


@pytest.mark.parametrize(
    "names",
    [["../../home/id_rsa"], ["/etc/hostname"], ["..\\home\\id_rsa"], ["notes.txt"], ["cells_binary.tif/../x"], [7]],
)
def test_a_run_moves_only_results_of_its_own_name(cells: Path, tmp_path: Path, names: list[Any]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("secret")
    stop_after(work(cells, tmp_path / "shared" / "out"), 3)
    unfinished = tmp_path / "shared" / "out" / "cells.unfinished"
    (unfinished / "notes.txt").write_text("of somebody")
    facts = json.loads((unfinished / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps(facts | {"moving": names}))
    files = run_to_end(work(cells, tmp_path / "shared" / "out"))
    assert {file.name for file in files} == {f"cells_{name}.tif" for name in ("probability", "binary", "attention_1")}
    assert (tmp_path / "home" / "id_rsa").read_text() == "secret"
    assert (unfinished / "notes.txt").read_text() == "of somebody"


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
@pytest.mark.parametrize(("letter", "extra"), [("x", 0), ("ö", 0), ("x", 1), ("x", 9), ("細", 3)])
def test_names_are_as_long_as_their_results_allow_and_else_it_is_said_by_how_much(
    cells: Path, tmp_path: Path, form: Any, letter: str, extra: int
) -> None:
    size = len(letter.encode())
    longest = (255 - len("_probability.ome.zarr")) // size
    target = FolderTarget(tmp_path / "out", letter * (longest + extra), form=form)
    options = SegmentOptions("cpu", tile=200, attention=False)
    going = iter_segment(RunSpec(read_stack(cells), make_model(), options, backend_maker=identity), target)
    if not extra:
        assert len(run_to_end(going)) == 2
        return
    with pytest.raises(FileError, match=f"too long by {extra} letter"):
        next(going)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [empty, halved, zeroed])
def test_blocks_of_objects_are_on_disk_before_they_count_and_damaged_ones_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    from napari_skipseg.images.stack import Stack
    from napari_skipseg.objects.block_cache import BlockCache, _region_of
    from napari_skipseg.objects.classes import ClassImage
    from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects

    z, y, x = np.mgrid[:20, :60, :60]
    values = (((z // 7 + y // 9 + x // 11) % 2) * 255).astype(np.uint8)
    image = ClassImage(Stack(values, Space("ZYX"), name="blobs"), ("a",))
    options = ObjectOptions()
    target = ObjectsTarget(tmp_path, "blobs", "tiff", {}, kept=tmp_path / "kept")
    disk = Disk(monkeypatch)
    seen = []
    write = BlockCache.write

    def writing(self: Any, block: Any, labels: Any, parts: Any) -> None:
        write(self, block, labels, parts)
        seen.extend(map(disk.has, self._chunks.files(_region_of(block))))
        seen.append(disk.has(next((tmp_path / "kept").glob(f"{block.number}.npz"))))

    monkeypatch.setattr(BlockCache, "write", writing)
    first = run_to_end(iter_find_objects(image, options, target, (16, 32, 32)))
    assert len(seen) > 4
    assert all(seen)
    expected = first.file.read_bytes()
    for file in (sorted(tmp_path.rglob("kept/labels/c/*/*/*/*"))[0], sorted((tmp_path / "kept").glob("*.npz"))[1]):
        file.write_bytes(damage(file.read_bytes()))
    again = run_to_end(iter_find_objects(image, options, target, (16, 32, 32)))
    assert again.count == first.count > 0
    assert again.file.read_bytes() == expected
