"""The folder of an export that is not finished: what a kill, a full disk or a cancel left is kept for the same call.

It lies beside the results and is called `NAME_unfinished`. `export.json` says what is exported, by the hash of its
labels, so that nothing of other labels or options is taken over. `results` has what gets its name at the end; other
files are pieces of blocks, and marks that say which results are on disk. The mark is written after them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from napari_skipseg import durable
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.locks import FolderLock
from napari_skipseg.progress import Progress

_RECORD, _RESULTS, _DONE = "export.json", "results", ".done"
_ALL = "all"
"""The stage that is done when all results are whole, so that they may get their names."""
_AT_ONCE = 256
"""Objects whose files are brought to disk together, before a mark says so."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class UnfinishedExport:
    """An export in its folder. name: how all results begin."""

    folder: Path
    name: str

    @property
    def results(self) -> Path:
        """The folder of results that do not have their names yet."""
        return self.folder / _RESULTS

    def result(self, ending: str) -> Path:
        """Return where a result is written."""
        return self.results / f"{self.name}{ending}"

    def is_done(self, stage: str) -> bool:
        """Return whether all results of a stage are whole and on disk."""
        return (self.folder / f"{stage}{_DONE}").exists()

    def finish(self, stage: str, results: Iterable[Path] = ()) -> None:
        """Bring results to disk, and then note that a stage is done.

        Raises:
            OSError: the disk is at fault.
        """
        for each in results:
            files = [each] if each.is_file() else [file for file in each.rglob("*") if file.is_file()]
            durable.sync(files, self.results)
        durable.write_durably(self.folder / f"{stage}{_DONE}", b"")

    def is_published(self, result: str) -> bool:
        """Return whether this export has given a result its name, before it was stopped."""
        has_record = (self.folder / _RECORD).exists()  # else it is being emptied for another export
        return has_record and self.is_done(_ALL) and not (self.results / result).exists()

    def iter_each(
        self, stage: str, items: Sequence[_Item], write: Callable[[_Item], Iterable[Path]], text: str
    ) -> Generator[Progress, None, None]:
        """Yield while the files of each item are written; those that an earlier try wrote are left out.

        Raises:
            OSError: the disk is at fault.
        """
        mark = self.folder / f"{stage}.count"
        done = int(mark.read_bytes()) if mark.exists() else 0
        while done < len(items):
            files: list[Path] = []
            for item in items[done : done + _AT_ONCE]:
                yield Progress(done, len(items), text)
                files += write(item)
                done += 1
            durable.write_durably(mark, str(done).encode("ascii"), after=files)

    def publish(self, names: Sequence[str]) -> None:
        """Give the results their names, in the place of older ones.

        Raises:
            OSError: one cannot be renamed.
        """
        self.finish(_ALL)
        for number, name in enumerate(names):
            target, source = self.folder.parent / name, self.results / name
            if not source.exists():
                continue  # an earlier try renamed it
            durable.refuse_link(target)
            if target.exists():
                durable.replace(target, self.folder / f"replaced-{number}")
            durable.replace(source, target)
        durable.sync_folder(self.folder.parent)


def unfinished_folder(folder: Path, name: str) -> UnfinishedExport:
    """Return where an export that is not finished lies; it may not exist."""
    return UnfinishedExport(folder / f"{name}_unfinished", name)


@contextlib.contextmanager
def resumed_export(
    folder: Path, name: str, record: dict[str, Any], overwrite: bool = False
) -> Iterator[UnfinishedExport]:
    """Yield the export of `name` into `folder`, a new one or one that was stopped; its folder is removed at the end.

    On an `InputError`, which the same call would meet again, it is removed too; on any other error it stays.
    record: what is exported, as JSON values. overwrite: remove one of a different record.

    Raises:
        FileError: nothing can be written, or another process does this export.
        InputError: one of a different record is unfinished.
    """
    export = unfinished_folder(folder, name)
    made = durable.missing_folders(folder)
    lock = FolderLock(
        export.folder, f"Process {{holder}} exports '{name}' into '{folder}' at this moment: wait for it."
    )
    try:
        durable.make_folders(folder)
        durable.refuse_link(export.folder)
        lock.take()
    except OSError as error:
        raise FileError(
            f"Nothing can be written to '{folder}' ({error.strerror or error}): choose a different folder."
        ) from error
    try:
        with file_errors_as(folder):
            _begin(export, record, overwrite)
            yield export
    except InputError as error:
        if not isinstance(error, _OtherExportError):
            _remove(export, lock)
            durable.remove_empty(made)
        raise
    else:
        _remove(export, lock)
    finally:
        lock.release()


class _OtherExportError(InputError):
    """An export of other labels, or with other options, is unfinished."""


def _begin(export: UnfinishedExport, record: dict[str, Any], overwrite: bool) -> None:
    content, file = json.dumps(record, sort_keys=True).encode("utf-8"), export.folder / _RECORD
    durable.remove_old_drafts(export.folder, again=True)
    if file.exists() and file.read_bytes() != content:
        if not overwrite:
            raise _OtherExportError(
                f"'{export.folder}' is what a stopped export of other labels, or with other options, left: repeat that "
                "one, or remove this folder (in a shell, --overwrite replaces it)."
            )
        file.unlink()
    if not file.exists():
        for each in export.folder.iterdir():
            if each.name != "lock":
                durable.remove_place(each)
        durable.write_durably(file, content)
    export.results.mkdir(exist_ok=True)


def _remove(export: UnfinishedExport, lock: FolderLock) -> None:
    """Remove the folder at once: what a kill leaves of it is a draft, which the next writer removes."""
    lock.release()  # Windows renames no folder with an open file
    with contextlib.suppress(OSError), durable.draft_folder(export.folder.parent) as draft:
        durable.replace(export.folder, draft / "finished")
