"""A run on disk that survives a kill: what was begun, which units are done, and their results so far.

It lies beside the results as `<name>.unfinished` and is removed when they are whole:

    run.json    the key of the run, its recipe from the beginning, the changes of that since, and, when all is written,
                the files that are being moved to their place
    done        the numbers of the units with results on disk (`run_journal`)
    lock        locked by the process that works on it, with its number
    *.ome.zarr  the results so far, each a store that any viewer can open; of a run in a box `<name>_tiles_*.ome.zarr`,
                of which the results are cut

Others may be able to write to the folder, too: only results of the run's own name are moved out of it, and no link in
it is followed.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import time
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from napari_skipseg.devices import cpu_title
from napari_skipseg.durable import (
    is_draft,
    missing_folders,
    refuse_link,
    remove_empty,
    remove_old_drafts,
    remove_place,
    replace,
    sync_folder,
    write_durably,
    write_whole,
)
from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import check_can_be_made, file_errors_as
from napari_skipseg.images.formats import UNFINISHED
from napari_skipseg.inference.recipes.recipe import dict_to_json
from napari_skipseg.inference.run_journal import JOURNAL, TileJournal, append_tiles, noted_tiles, tiles_to_bytes
from napari_skipseg.locks import FolderLock

_FACTS, _REPLACED = "run.json", "replaced-"
TILE_STORES = "_tiles"
"""Between the name of a run and those of stores from which its results are cut: no result can have their names."""
_RESULT = r"(probability|binary|uncertainty|attention_\d+)\.(tif|ome\.zarr)"
_OURS = re.compile(rf"_({_RESULT}|(recipe|times)\.json)")
"""The ends of the names of our files, after the name of the run."""
_OURS_INSIDE = re.compile(rf"({TILE_STORES})?{_OURS.pattern}")
"""Those of files that never leave the folder of the run, too."""


class RunFolder:
    """The folder of one run, begun or continued. It is a context manager that releases the folder, and removes it if
    nothing was done or all is finished.

    key: all that decides the results, as JSON; a run with a different key is not continued. restart: discard an earlier
    run. lasting: whether the run can be continued at all; if not, nothing of it is kept.

    Raises:
        FileError: a different process works on it, it contains a run with a different key, or nothing can be written.
    """

    def __init__(
        self, folder: Path, name: str, key: Mapping[str, Any], restart: bool = False, lasting: bool = True
    ) -> None:
        self.path = folder / f"{name}{UNFINISHED}"
        self.recipe: dict[str, Any] | None = None
        self.changes: dict[str, Any] = {}
        self._key: dict[str, Any] = json.loads(json.dumps(key))
        self._lasting = lasting
        self._name = name
        self._moving: list[str] | None = None
        self._journal = TileJournal(self.path)
        self._made = missing_folders(folder)
        check_can_be_made(folder)
        with file_errors_as(self.path):
            refuse_link(self.path)
        self._lock = FolderLock(self.path)
        with contextlib.ExitStack() as leaving:
            leaving.callback(self._release)
            with file_errors_as(self.path):
                folder.mkdir(parents=True, exist_ok=True)
                self._lock.take()
                if restart:
                    self._empty()
                self._begin()
            leaving.pop_all()

    def _begin(self) -> None:
        facts = _read_facts(self.path)
        remove_old_drafts(self.path, again=True)
        if facts is None or not facts["lasting"] or not all(map(self._is_ours, facts["moving"] or ())):
            self._empty()
        elif facts["key"] != self._key:
            differs = [name for name in {**self._key, **facts["key"]} if facts["key"].get(name) != self._key.get(name)]
            raise FileError(
                f"'{self.path}' contains an unfinished run that differs in {', '.join(differs)}: finish it first with "
                "the command that began it, or throw it away (in a shell with --restart)."
            )
        else:
            self.recipe, self.changes, self._moving = facts["recipe"], facts["changes"], facts["moving"]

    @property
    def recipe_now(self) -> dict[str, Any]:
        """The recipe with the changes since the beginning; empty before `begin`."""
        return (self.recipe or {}) | self.changes

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Record the recipe, so that a continued run uses the same choices.

        Raises:
            FileError: nothing can be written.
        """
        self.recipe = json.loads(json.dumps(recipe))
        self._write_facts()

    def change(self, changes: Mapping[str, Any]) -> None:
        """Record changes of the recipe.

        Raises:
            FileError: nothing can be written.
        """
        self.changes = json.loads(json.dumps(changes))
        self._write_facts()

    def _facts(self) -> bytes:
        facts = {
            "key": self._key,
            "recipe": self.recipe,
            "changes": self.changes,
            "moving": self._moving,
            "lasting": self._lasting,
        }
        return json.dumps(facts, indent=1).encode()

    def _write_facts(self) -> None:
        with file_errors_as(self.path / _FACTS):
            write_whole(self.path / _FACTS, self._facts(), synced=True)
        self._journal.add_files([self.path / _FACTS])  # and its folder, before the first unit is noted

    @property
    def is_whole(self) -> bool:
        """Whether all results are written, although some may still have to be moved."""
        return self._moving is not None and all(
            (self.path / name).exists() or (self.path.parent / name).exists() for name in self._moving
        )

    def finish(self, files: list[Path]) -> None:
        """Record that these `files` in this folder are the whole results, and only have to be moved.

        Files are brought to disk first; folders must be on disk already.

        Raises:
            FileError: nothing can be written.
        """
        self._moving = [file.name for file in files]
        with file_errors_as(self.path / _FACTS):
            write_durably(self.path / _FACTS, self._facts(), after=[file for file in files if file.is_file()])

    def waiting(self) -> list[Path]:
        """Return the results that still have to be moved."""
        return [self.path / name for name in self._moving or () if (self.path / name).exists()]

    def move_results(self) -> list[Path]:
        """Move all results out of the folder, in place of older ones, and return their paths.

        Raises:
            FileError: one cannot be moved.
        """
        for number, file in enumerate(self.waiting()):
            target, replaced = self.path.parent / file.name, self.path / f"{_REPLACED}{number}"
            with file_errors_as(target):
                if file.is_dir() and (target.exists() or target.is_symlink()):
                    remove_place(replaced)
                    replace(target, replaced)  # after a kill there is the old store or the new one, never half of one
                replace(file, target)
        with file_errors_as(self.path.parent):
            sync_folder(self.path.parent)
        return [self.path.parent / name for name in self._moving or ()]

    def done(self) -> list[int]:
        """Return the numbers of the units that are done, in the order of the journal.

        Raises:
            FileError: nothing can be written.
        """
        self._journal.flush()
        return noted_tiles(self.path)

    def note(self, number: int, files: Iterable[Path] = ()) -> None:
        """Note a unit as done, within seconds, once its `files` are on disk.

        Raises:
            FileError: nothing could be written.
        """
        self._journal.note(number, files)

    def flush(self) -> None:
        """Wait until all units that are done are noted.

        Raises:
            FileError: nothing can be written.
        """
        self._journal.flush()

    def forget(self, numbers: Collection[int]) -> None:
        """Mark units as not done, because their results are damaged.

        Raises:
            FileError: nothing can be written.
        """
        left = [number for number in self.done() if number not in numbers]
        with file_errors_as(self.path / JOURNAL):
            write_durably(self.path / JOURNAL, tiles_to_bytes(left))

    def discard(self) -> None:
        """Remove the run when it is released."""
        self._lasting = False

    def _empty(self) -> None:
        """Remove all our files, the record of the run first."""
        for name in (_FACTS, JOURNAL):
            (self.path / name).unlink(missing_ok=True)
        for place in self.path.iterdir():
            if place.name.startswith(_REPLACED) or is_draft(place.name) or self._is_ours(place.name, _OURS_INSIDE):
                remove_place(place)

    def _is_ours(self, name: str, endings: re.Pattern[str] = _OURS) -> bool:
        return name.startswith(self._name) and endings.fullmatch(name, len(self._name)) is not None

    def _release(self) -> None:
        """Release the folder, and remove it and the folders made for it if they are empty."""
        self._journal.close()
        self._lock.release()
        remove_empty((self.path, *self._made))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not self._lasting or not self._has_done():
                self._journal.close()
                with contextlib.suppress(OSError):
                    self._empty()
        finally:
            self._release()

    def _has_done(self) -> bool:
        with contextlib.suppress(FileError):  # the disk is full: units noted before count
            self._journal.flush()
        return bool(noted_tiles(self.path))


def recipe_of_run(path: Path) -> dict[str, Any]:
    """Return the recipe of the run that was begun in the folder `path`, with its changes.

    Raises:
        FileError: there is none that can be continued.
    """
    facts = _read_facts(path)
    if facts is None or facts["recipe"] is None:
        raise FileError(f"There is no unfinished run in '{path}' any more: start it again.")
    return {**facts["recipe"], **facts["changes"]}


def note_tiles(path: Path, numbers: Iterable[int]) -> None:
    """Record in the folder `path` of a run that these units are on disk; only one process at a time may call this.

    Raises:
        FileError: nothing can be written.
    """
    with file_errors_as(path / JOURNAL):
        append_tiles(path, numbers)


def _read_facts(path: Path) -> dict[str, Any] | None:
    """Return the record of the run in the folder `path`, None if there is none that can be continued."""
    try:
        facts = json.loads((path / _FACTS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"key": dict, "recipe": dict, "changes": dict, "moving": list | None, "lasting": bool}
    if not isinstance(facts, dict) or facts.keys() != kinds.keys():
        return None
    if not all(isinstance(facts[name], kind) for name, kind in kinds.items()):
        return None
    return facts if all(isinstance(name, str) for name in facts["moving"] or ()) else None


class RunTimes:
    """Counts the seconds of each part of a run, beginning with `part`; for a continued run, only of the rest."""

    def __init__(self, part: str) -> None:
        self._begin = datetime.now(UTC)
        self._seconds: dict[str, float] = {}
        self._entered: tuple[str, float] | None = part, time.perf_counter()

    def enter(self, part: str) -> None:
        """End the previous part, and begin this one."""
        self._release()
        self._entered = part, time.perf_counter()

    def _release(self) -> None:
        if self._entered is not None:
            part, since = self._entered
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - since
            self._entered = None

    def to_json(self, continued: bool) -> str:
        """Return begin, end, seconds of each part, and machine as readable JSON.

        continued: some tiles or blocks were done before.
        """
        self._release()
        record: dict[str, Any] = {
            "begin": self._begin.isoformat(timespec="seconds"),
            "end": datetime.now(UTC).isoformat(timespec="seconds"),
            "continued": continued,
            "seconds": {part: round(seconds, 3) for part, seconds in self._seconds.items()},
            "machine": {"name": platform.node(), "system": platform.platform(), "processor": cpu_title()},
        }
        return dict_to_json(record)
