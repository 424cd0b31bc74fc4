"""The process and the folder behind an `Engine`, which must end with it, and after it was forgotten."""

from __future__ import annotations

import threading
from pathlib import Path

from napari_skipseg.errors import EngineError
from napari_skipseg.jobs.child import Child
from napari_skipseg.jobs.workspace import make_run_folder, make_session_folder, remove_folder


class Session:
    """The process and the folder of an engine, apart from it: they must end with it, and after it was forgotten."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.folder: Path | None = None
        self.closed = False
        self._changing = threading.Lock()

    def start(self) -> Child:
        """Return the process, started where there is none."""
        with self._changing:
            if self.closed:
                raise EngineError("The engine was closed: make a new one.")
            if self.child is not None and self.child.has_ended():
                self.child.end()
                self.child = None
            self.child = self.child or Child()
            return self.child

    def new_run(self) -> Path:
        """Return a new folder for one run."""
        with self._changing:
            if self.closed:
                raise EngineError("The engine was closed: make a new one.")
            if self.folder is None or not self.folder.is_dir():
                self.folder = make_session_folder()
            return make_run_folder(self.folder)

    def close(self) -> None:
        """End the process and remove the folder; nothing is started any more."""
        with self._changing:
            self.closed = True
            if self.child is not None:
                self.child.end()
            if self.folder is not None:
                remove_folder(self.folder)
