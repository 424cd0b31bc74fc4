"""The folder of one run of a batch: results, records, summary, report and lock."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from napari_skipseg.batch.inputs import RECORDS, SETTINGS_FILE, BatchInput
from napari_skipseg.batch.settings import BatchSettings, batch_settings_to_json
from napari_skipseg.devices import versions
from napari_skipseg.durable import missing_folders, remove_empty, write_whole
from napari_skipseg.images.faults import check_can_be_made, file_errors_as, replacing
from napari_skipseg.images.formats import UNFINISHED
from napari_skipseg.locks import FolderLock

SUMMARY_FILE, REPORT_FILE, CHOICE_FILE = "summary.csv", "report.html", "chosen.json"

LONGEST = 200
"""Bytes of a file's name; the record of a file with a longer one is named by a hash, as file systems allow 255."""


@dataclass(frozen=True)
class RunPlace:
    """The paths in the folder of a run, which need not exist."""

    path: Path

    def results(self, entry: BatchInput) -> Path:
        """Return the folder of a file's results; it has the same subfolders as the inputs."""
        return self.path / entry.folder

    def unfinished(self, entry: BatchInput) -> Path:
        """Return the folder of a segmentation that was begun and not finished."""
        return self.results(entry) / f"{entry.name}{UNFINISHED}"

    def record(self, entry: BatchInput) -> Path:
        """Return the path of a file's record."""
        return self._beside_record(entry, ".json")

    def thumbnail(self, entry: BatchInput) -> Path:
        """Return the path of the small picture of a file's result."""
        return self._beside_record(entry, ".jpg")

    def _beside_record(self, entry: BatchInput, ending: str) -> Path:
        name = PurePosixPath(entry.relative).name
        if len(os.fsencode(name)) > LONGEST:
            name = hashlib.sha256(os.fsencode(name)).hexdigest()
        return self.path / RECORDS / entry.folder / f"{name}{ending}"

    @property
    def choice(self) -> Path:
        """The file with the tile and the device of all files of the run."""
        return self.path / CHOICE_FILE

    @contextlib.contextmanager
    def locked(self, settings: BatchSettings) -> Iterator[None]:
        """Make the folder if it is missing, lock it, and write `settings` into it; remove it if it stays empty.

        Raises:
            FileError: a different run has locked it, or nothing can be written.
        """
        lock = FolderLock(self.path)
        check_can_be_made(self.path)
        with contextlib.ExitStack() as leaving:
            leaving.callback(remove_empty, missing_folders(self.path))
            with file_errors_as(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock.take()
            leaving.callback(lock.release)
            with file_errors_as(self.path / RECORDS):
                (self.path / RECORDS).mkdir(exist_ok=True)
            write_run_text(self.path / SETTINGS_FILE, batch_settings_to_json(settings))
            yield


def place_of_run(settings: BatchSettings) -> RunPlace:
    """Return the folder of the run with these settings."""
    return RunPlace(Path(settings.output).expanduser().absolute() / settings.run_name(versions()))


def write_run_text(path: Path, text: str, after: Sequence[Path] = ()) -> None:
    """Write `text` as UTF-8, whole and on disk or not at all; make its folder.

    after: files that must be on disk before, because the text names them.

    Raises:
        FileError: it cannot be written.
    """
    with file_errors_as(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, after=after) as handle:
        handle.write(text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content`, whole or not at all; make its folder. A power cut may leave an empty file.

    Raises:
        FileError: it cannot be written.
    """
    with file_errors_as(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
