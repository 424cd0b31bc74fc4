"""What the window remembers between two starts: one file of JSON in the user's folder of settings, and Preferences."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_skipseg.durable import make_folders, replace, write_whole
from napari_skipseg.user_folders import config_folder

SETTINGS_VARIABLE = "NAPARI_SKIPSEG_SETTINGS"
"""The variable of the environment with the folder of the settings; if it is empty, nothing is remembered."""
SETTINGS_FILE, SET_ASIDE = "settings.json", "settings.damaged.json"
_FORMAT = 1
LARGEST = 2**20
"""Bytes of the largest file that is read: a larger one is not ours."""
DAMAGED = "The settings could not be read: they are set aside as '{}', and the window starts with its defaults."
UNREADABLE = "The settings in '{}' cannot be read ({}): the window starts with its defaults."


class PanelSettings:
    """Values by keys such as "segment/model", in a file that several windows may share.

    notice: why earlier settings were not taken over, in a sentence; "" if they were. file: None = they are kept in
    memory only.

    A value is written with those that other windows wrote meanwhile, and the file is replaced as a whole. If it cannot
    be written, only the memory is lost.
    """

    def __init__(self, file: Path | None) -> None:
        self.file, self.notice = file, ""
        self._unwritten: dict[str, Any] = {}
        self._values = self._read()

    def get(self, key: str) -> Any:
        """Return a value, None if there is none. It comes from a file that users can edit: check it."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Remember a value that JSON can hold; None forgets it. `save` writes it."""
        if value == self._values.get(key):
            return
        self._unwritten[key] = value
        self._values = _changed(self._values, {key: value})

    def save(self) -> None:
        """Write what is new, if the file can be written."""
        if self.file is None or not self._unwritten:
            return
        with contextlib.suppress(OSError):
            values = _changed(self._read_file() or {}, self._unwritten)
            content = json.dumps({"format": _FORMAT, "values": values}, indent=1, sort_keys=True)
            make_folders(self.file.parent)
            write_whole(self.file, f"{content}\n".encode(), synced=True)
            self._unwritten = {}

    def forget(self) -> bool:
        """Forget all values, in the file too; return False if it cannot be removed."""
        self._values, self._unwritten = {}, {}
        if self.file is None:
            return True
        try:
            self.file.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _read(self) -> dict[str, Any]:
        """Return the values in the file; one that is damaged or not ours is set aside."""
        if self.file is None:
            return {}
        try:
            if (values := self._read_file()) is not None:
                return values
            replace(self.file, self.file.with_name(SET_ASIDE))
            self.notice = DAMAGED.format(self.file.with_name(SET_ASIDE))
        except OSError as error:
            self.notice = UNREADABLE.format(self.file, error.strerror)
        return {}

    def _read_file(self) -> dict[str, Any] | None:
        """Return the values in the file, none if there is no file; None if it is damaged or not ours.

        Raises:
            OSError: it cannot be read.
        """
        if self.file is None or not self.file.exists():
            return {}
        if self.file.stat().st_size > LARGEST:
            return None
        try:
            found = json.loads(self.file.read_bytes())
        except (ValueError, RecursionError):
            return None
        is_ours = isinstance(found, dict) and found.get("format") == _FORMAT and isinstance(found.get("values"), dict)
        return dict(found["values"]) if is_ours else None


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


_opened: dict[Path | None, PanelSettings] = {}


def open_settings() -> PanelSettings:
    """Return the settings of the user, the same for all windows of this process."""
    is_off = os.environ.get(SETTINGS_VARIABLE) == "" or not preference("remember", True)
    file = None if is_off else config_folder(SETTINGS_VARIABLE) / SETTINGS_FILE
    if file not in _opened:
        _opened[file] = PanelSettings(file)
    return _opened[file]


PLUGIN = "napari-skipseg"


def preference(name: str, default: Any) -> Any:
    """Return a choice of napari's Preferences under SkipSeg; `default` where napari has no such page (before 0.9)."""
    try:
        from napari.settings import get_plugin_settings

        return getattr(get_plugin_settings(PLUGIN).start, name)
    except Exception:  # napari reads a file that users can edit; no fault of it may keep the panel from opening
        return default
