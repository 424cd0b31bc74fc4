"""Runs in processes of their own that are killed, as by `kill -9`, at a moment that is named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import zarr
from command_line import PROCESSES
from identity import make_model

from napari_skipseg.images.files import read_stack
from napari_skipseg.images.tiff import writer
from napari_skipseg.images.zarr import chunk_writer
from napari_skipseg.images.zarr.writer import OmeZarrWriter
from napari_skipseg.inference import run_folder, run_journal
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.run_folder import RunFolder
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

if os.name == "nt":
    pytest.skip("Windows has no forkserver and no SIGKILL", allow_module_level=True)


@dataclass(frozen=True)
class Asked:
    """A run: of which file, into which folder, as what, with which options; on torch, unless `openvino`."""

    file: Path
    folder: Path
    form: Any = "tiff"
    depth: Any = "uint8"
    tile: int = 200
    openvino: bool = False  # compiling takes longer than these runs

    def model(self) -> Model:
        return make_model(widths=(2, 3, 4), classes=("membrane", "vesicle"))

    def work(self) -> Any:
        target = FolderTarget(self.folder, self.file.name.split(".")[0], self.depth, self.form)
        return iter_segment(RunSpec(read_stack(self.file), self.model(), SegmentOptions("cpu", tile=self.tile)), target)

    def run(self) -> list[Path]:
        """Run in this process."""
        if self.openvino:
            return run_to_end(self.work())
        with mock.patch("napari_skipseg.inference.backends.choose.has_openvino", return_value=False):
            return run_to_end(self.work())


def kill(asked: Asked, moment: str, count: int = 1) -> None:
    """Run in another process, which is killed at the `count`-th time that `moment` comes."""
    process = PROCESSES.Process(target=_run_until, args=(asked, moment, count))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"{moment} {count} never came ({process.exitcode})"


def _run_until(asked: Asked, moment: str, count: int) -> None:
    left = iter(range(count - 1, -1, -1))

    def die() -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    MOMENTS[moment](die)
    asked.run()


def _after(owner: Any, name: str) -> Callable[[Callable[[], None]], None]:
    def patch(die: Callable[[], None]) -> None:
        real = getattr(owner, name)

        def patched(*given: Any, **named: Any) -> Any:
            found = real(*given, **named)
            die()
            return found

        setattr(owner, name, patched)

    return patch


def _within_chunk(die: Callable[[], None]) -> None:
    """Chunks are written beside their name: of the last one half is there."""
    real = chunk_writer.write_whole

    def patched(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(".skipseg-00112233.part")
        half.write_bytes(content[: len(content) // 2])
        die()
        half.unlink()
        real(path, content)

    chunk_writer.write_whole = patched  # type: ignore[assignment]


def _within_note(die: Callable[[], None]) -> None:
    """Of the last number that is noted 3 bytes are there. Each is noted by itself, and at once."""
    real = run_journal.append_tiles

    def patched(folder: Path, numbers: Any) -> None:
        for number in numbers:
            before = (folder / "done").read_bytes() if (folder / "done").exists() else b""
            real(folder, [number])
            whole = (folder / "done").read_bytes()
            (folder / "done").write_bytes(whole[: len(before) + 3])
            die()
            (folder / "done").write_bytes(whole)

    run_journal.append_tiles = patched
    run_journal.EVERY = run_journal.PAUSE = 0


def _within_pyramid(die: Callable[[], None]) -> None:
    real = OmeZarrWriter._write

    def patched(self: OmeZarrWriter, level: int, *given: Any) -> None:
        real(self, level, *given)
        if level:
            die()

    OmeZarrWriter._write = patched  # type: ignore[method-assign]


def _within_tiff(die: Callable[[], None]) -> None:
    real = writer._planes

    def patched(*given: Any) -> Any:
        for plane in real(*given):
            yield plane
            die()

    writer._planes = patched


def _between_moves(die: Callable[[], None]) -> None:
    real = run_folder.replace

    def patched(source: Path, target: Path) -> Path:
        found = real(source, target)
        if source.parent.suffix == ".unfinished" and target.parent != source.parent:
            die()
        return found

    run_folder.replace = patched


MOMENTS: dict[str, Callable[[Callable[[], None]], None]] = {
    "begun": _after(RunFolder, "begin"),
    "tile noted": _after(RunFolder, "note"),
    "noting": _within_note,
    "chunk": _within_chunk,
    "pyramid": _within_pyramid,
    "tiff": _within_tiff,
    "all written": _after(RunFolder, "finish"),
    "moved": _between_moves,
}


def has_all_chunks(store: Path) -> bool:
    """Return whether every level of an OME-Zarr has a file for each of its chunks."""
    levels = [zarr.open_array(folder, mode="r") for folder in store.glob("[0-9]*")]
    return bool(levels) and all(level.nchunks_initialized == level.nchunks for level in levels)
