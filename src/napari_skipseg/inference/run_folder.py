"""A run on disk that survives a kill: what was begun, which units are done, and their results so far.

It lies beside the results as `<name>.unfinished` and goes when they are whole:

    run.json    what the run is of (its key), what was settled when it began (its recipe), and, when all is written,
                the files that are being moved to their place
    done        the numbers of the units whose results are written, 8 bytes each, in the order of their ends
    lock        which process is at work on it
    *.ome.zarr  the results so far, each a store that any viewer opens
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil

from napari_skipseg.errors import FileError
from napari_skipseg.images.write_faults import telling_faults

ENDING = ".unfinished"
_FACTS, _JOURNAL, _LOCK = "run.json", "done", "lock"
_NUMBER = np.dtype("<u8")


class RunFolder:
    """The folder of one run, begun or continued; a context manager that lets go of it, and removes it where it is of
    no use: nothing was done, or all is finished.

    key: what the run is of, as JSON; a run of another key is not continued. restart: throw away what is there.

    Raises:
        FileError: another process is at work on it, it holds a run of another key, or nothing can be written.
    """

    def __init__(self, folder: Path, name: str, key: Mapping[str, Any], restart: bool = False) -> None:
        self.path = folder / f"{name}{ENDING}"
        self._key: dict[str, Any] = json.loads(json.dumps(key))
        self._made = [place for place in (folder, *folder.parents) if not place.exists()]
        self.recipe: dict[str, Any] | None = None
        self._moving: list[str] | None = None
        with telling_faults(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            if restart:
                self._empty()
            self._begin()

    def _begin(self) -> None:
        facts = self._read_facts()
        if facts is None:
            self._empty()
        elif facts["key"] != self._key:
            differs = sorted(
                name for name in {*facts["key"], *self._key} if facts["key"].get(name) != self._key.get(name)
            )
            self._unlock()
            raise FileError(
                f"'{self.path}' holds an unfinished run with another {', '.join(differs)}: finish it first with the "
                "command that began it, or throw it away (in a shell with --restart)."
            )
        else:
            self.recipe, self._moving = facts["recipe"], facts["moving"]

    def _read_facts(self) -> dict[str, Any] | None:
        """Return what was begun here, None where nothing was that can be gone on with."""
        try:
            facts = json.loads((self.path / _FACTS).read_bytes())
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) and {"key", "recipe", "moving"} <= facts.keys() else None

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Write down what was settled, so that a continued run takes it again.

        Raises:
            FileError: nothing can be written.
        """
        self.recipe = json.loads(json.dumps(recipe))
        self._write_facts()

    def _write_facts(self) -> None:
        part = self.path / f"{_FACTS}.part"
        facts = {"key": self._key, "recipe": self.recipe, "moving": self._moving}
        with telling_faults(self.path / _FACTS):
            part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
            part.replace(self.path / _FACTS)

    @property
    def is_whole(self) -> bool:
        """Whether all results are written, and at most not all of them in their place."""
        return self._moving is not None

    def move_results(self, files: list[Path] | None = None) -> list[Path]:
        """Return where the results lie when all have been moved out, in place of older ones.

        files: the results, as they lie in this folder; None goes on with those of a move that was cut short.

        Raises:
            FileError: one cannot be moved.
        """
        if files is not None:
            self._moving = [file.name for file in files]
            self._write_facts()
        places = []
        for name in self._moving or ():
            file, target = self.path / name, self.path.parent / name
            with telling_faults(target):
                if file.exists() and target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                if file.exists():
                    file.replace(target)
            places.append(target)
        return places

    def done(self) -> list[int]:
        """Return the numbers of the units that are done."""
        try:
            content = (self.path / _JOURNAL).read_bytes()
        except OSError:
            return []
        whole = len(content) // _NUMBER.itemsize * _NUMBER.itemsize  # a kill may cut the last one short
        return sorted(set(np.frombuffer(content[:whole], _NUMBER).tolist()))

    def note(self, number: int) -> None:
        """Write down that a unit is done.

        Raises:
            FileError: nothing can be written.
        """
        with (
            telling_faults(self.path / _JOURNAL),
            (self.path / _JOURNAL).open("r+b" if self._has_journal() else "wb") as file,
        ):
            end = file.seek(0, os.SEEK_END)
            file.seek(end // _NUMBER.itemsize * _NUMBER.itemsize)
            file.write(np.array([number], _NUMBER).tobytes())

    def _has_journal(self) -> bool:
        return (self.path / _JOURNAL).exists()

    def _lock(self) -> None:
        self.path.mkdir(exist_ok=True)
        holder = _read_json(self.path / _LOCK)
        if holder and holder.get("host") == platform.node() and _is_alive(holder):
            raise FileError(
                f"'{self.path}' is being written by another process ({holder['pid']}): wait for it, or end it first."
            )
        (self.path / _LOCK).write_text(json.dumps(_me()), encoding="ascii")

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)

    def _empty(self) -> None:
        for place in self.path.iterdir():
            if place.name == _LOCK:
                continue
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()
        if kind is None or not self.done():
            shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            for place in self._made:
                place.rmdir()


def _me() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": platform.node(), "pid": process.pid, "started": process.create_time()}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Return whether the process that left a lock is still there, and another one than this."""
    if holder.get("pid") == os.getpid():
        return False
    try:
        process = psutil.Process(int(holder["pid"]))
        return bool(process.create_time() == holder.get("started") and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
