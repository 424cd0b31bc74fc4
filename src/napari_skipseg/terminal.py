"""What a terminal shows: results as text, table or JSON on stdout (or as a CSV file), progress and errors on stderr."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import signal
import sys
import textwrap
import time
import traceback
import unicodedata
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.progress import Found, Progress, Result, TimeLeft, about_left, run_to_end
from napari_skipseg.stopping import MESSAGE, STOPPED, stopping_between_steps

LINE_EVERY = 60.0
"""Seconds between lines of progress in a log file."""
_PLAIN = {
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "×": "x",
    "·": "*",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+-",
    "µ": "u",
    "μ": "u",
    "›": ">",
    "σ": "sigma",
    "“": '"',
    "”": '"',
    "’": "'",
    "•": "-",
    "█": "#",
    "━": "-",
    "─": "-",
}
"""What stands for characters of ours on a console without them; all others are parted from their accents, or "?"."""


def run_shown(app: typer.Typer) -> NoReturn:
    """Run the command that the arguments name, and exit: an error is one line, and the exit code tells.

    0 = done, 1 = failed, 2 = a wrong command line, 130 = stopped. `--verbose` anywhere shows the traceback too.
    """
    verbose = "--verbose" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--verbose"]
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    signal.signal(signal.SIGTERM, _stop)
    write_what_consoles_lack()
    try:
        code = app(prog_name=app.info.name, standalone_mode=False)
    except SkipsegError as error:
        fail(str(error), show_traceback=verbose)
    except MemoryError:
        fail("There is not enough memory: choose a smaller tile, or close other programs.", show_traceback=verbose)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Exception as error:
        if hasattr(error, "format_message"):  # a wrong command line; typer keeps the class of these to itself
            fail(f"{error.format_message().rstrip('.')}. See `{_help_of(error)}`.", 2, verbose)
        fail(f"Something unexpected went wrong ({type(error).__name__}: {error}).", show_traceback=verbose)
    if code == STOPPED:
        fail(MESSAGE, STOPPED)
    sys.exit(code if isinstance(code, int) else 0)


def write_what_consoles_lack() -> None:
    """Let stdout and stderr replace the characters that their encoding lacks, so that no output ends a good run.

    Windows gives a program whose output goes into a file cp1252, and older consoles have cp437 or cp850: none of them
    has → or ≥. Without this Python raises UnicodeEncodeError at the first one.
    """
    codecs.register_error("napari-skipseg", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="napari-skipseg")


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for the first character that an encoding lacks, and where the text goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), after  # a file's name goes out as the bytes that it consists of
    plain = _PLAIN.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?", after


def fail(message: str, code: int = 1, show_traceback: bool = False) -> NoReturn:
    """End the program with `code` after one line on stderr, below the traceback where it is asked for."""
    if show_traceback:
        traceback.print_exc()
    _on_stderr().print(f"Error: {' '.join(message.split())}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


def watch(work: Generator[Progress, None, Result], title: str) -> Result:
    """Return the result of `work`; a bar with the time left is shown, or a line a minute where there is no terminal.
    What was `Found` about an image is printed once, a line each.

    Ctrl-C or SIGTERM closes `work` at its next step, so that it leaves things in order; a second one, or a step that
    takes too long, stops at once (`stopping`).
    """
    console = _on_stderr()
    with stopping_between_steps() as check, contextlib.closing(work):
        if not console.is_terminal:
            return run_to_end(work, _both(check, _noting(console, _a_line_a_minute(console, title))))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[at]}"),
        )
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=None, at="")

            def show(progress: Progress) -> None:
                bar.update(task, completed=progress.done, total=progress.total, at=progress.message)

            return run_to_end(work, _both(check, _noting(bar.console, show)))


def follow(work: Generator[Progress, None, Result], show: Callable[[Progress], None]) -> Result:
    """Return the result of `work`, calling `show` with each step; Ctrl-C as for `watch`."""
    with stopping_between_steps() as check, contextlib.closing(work):
        return run_to_end(work, _both(check, show))


@contextlib.contextmanager
def saying(what: str) -> Iterator[None]:
    """Show in a terminal what is being done, and that it goes on, until it is; a log file is not told."""
    console = _on_stderr()
    shown = Live(Spinner("dots", Text(what)), console=console, transient=True)
    with shown if console.is_terminal else contextlib.nullcontext():
        yield


def _both(check: Callable[[], None], show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    def shown(progress: Progress) -> None:
        check()
        show(progress)

    return shown


def _noting(console: Console, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    said: set[str] = set()

    def note(progress: Progress) -> None:
        for finding in progress.findings if isinstance(progress, Found) else ():
            if finding not in said:
                console.print(f"Note: {finding}", markup=False, soft_wrap=True)
                said.add(finding)
        show(progress)

    return note


def _a_line_a_minute(console: Console, title: str) -> Callable[[Progress], None]:
    last, left = time.monotonic(), TimeLeft()

    def show(progress: Progress) -> None:
        nonlocal last
        seconds = left.after(progress)
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            told = f", {progress.message}" if progress.message else ""
            line = f"{title}: {progress.fraction:.0%}{told}{about_left(seconds)}"
            console.print(line, markup=False, soft_wrap=True)

    return show


def report(facts: Any, as_json: bool) -> None:
    """Show names with their values; `facts` is a mapping or a dataclass."""
    values: dict[str, Any] = facts if isinstance(facts, dict) else asdict(facts)
    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    width = max(len(key) for key in values)
    for key, value in values.items():
        typer.echo(f"{key:{width}}  {f'{value:.5f}' if isinstance(value, float) else value}")


def report_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Show a table whose columns are the keys of its first row; where a later row has no value, a cell is empty."""
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(rows[0]) if rows else []
    cells = {key: [_cell(row.get(key)) for row in rows] for key in columns}
    for key in columns:
        header, number = key.replace("_", " "), isinstance(rows[0][key], int | float)
        if number:  # a column of numbers is as narrow as they are, so that none of them is cut off
            header = textwrap.fill(header, max(map(len, [*header.split(), *cells[key]])))
        table.add_column(header, justify="right" if number else "left")
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table, its columns all the keys of its rows; the file appears whole or, on any fault, not at all.

    Raises:
        FileError: the file cannot be written: no such folder, no permission, no space.
    """
    if path.is_dir():
        raise FileError(f"'{path}' is a folder: give the name of a CSV file.")
    part = path.with_name(path.name + ".part")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    try:
        with part.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, columns)
            writer.writeheader()
            writer.writerows(rows)
        part.replace(path)
    except OSError as error:
        raise FileError(f"'{path}' cannot be written ({error.strerror or error}): choose another place.") from error
    finally:
        with suppress(OSError):  # where there is no such folder, nothing is there to remove
            part.unlink(missing_ok=True)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _help_of(error: Exception) -> str:
    """Return the command that explains the command line that `error` is about."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'napari-skipseg'} --help"


def _on_stderr() -> Console:
    return Console(stderr=True, highlight=False)
