"""The command line, run in the process of the tests or in one that can be killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from napari_skipseg import cli


class Ran(NamedTuple):
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def files(self) -> list[Path]:
        """The paths that it printed, one a line."""
        return [Path(line) for line in self.out.splitlines()]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Return what runs a command; the signal handlers of pytest stay."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["napari-skipseg", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return Ran(int(ended.value.code or 0), shown.out, shown.err)

    return run


PROCESSES = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
if os.name != "nt":  # torch is imported once for all processes
    PROCESSES.set_forkserver_preload(
        [f"napari_skipseg.{name}" for name in ("api", "cli", "batch.run", "inference.to_folder")]
        + ["napari_skipseg.inference.activations", "napari_skipseg.networks.build", "tifffile", "torch", "zarr"]
    )


class Command:
    """A command in a process of its own, forked from one that has imported torch; else as `subprocess.Popen`."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self._folder = Path(tempfile.mkdtemp())
        given = tuple(map(str, arguments))
        self._process = PROCESSES.Process(target=_run_command, args=(given, environment, self._folder))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Wait for the end; return what was printed, and what went to stderr."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the command does not end"
        out, err = ((self._folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return out, err


def _run_command(arguments: tuple[str, ...], environment: dict[str, str], folder: Path) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["napari-skipseg", *arguments]
    with (
        (folder / "out").open("w", encoding="utf-8") as out,
        (folder / "err").open("w", encoding="utf-8") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        cli.main()
