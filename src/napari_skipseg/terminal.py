"""Output to a terminal: results as text, table or JSON on stdout (or as a CSV file), progress and errors on stderr."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import signal
import sys
import textwrap
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from napari_skipseg.csv_files import write_csv_of
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.foreign_text import printable, printable_json
from napari_skipseg.progress import ImageFindings, Progress, Result, TimeLeft, run_to_end
from napari_skipseg.stopping import MESSAGE, STOPPED, stopping_between_steps

WIDEST = 10_000
"""Columns of a table that is not shown in a terminal."""
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
"""Substitutes for characters of ours on a console without them; all others lose their accents, or become "?"."""


def run_shown(app: typer.Typer) -> NoReturn:
    """Run the command that the arguments name, and exit: an error is one line, and the exit code is not 0.

    0 = done, 1 = failed, 2 = a wrong command line, 130 = stopped. `--verbose` anywhere shows the traceback too. The
    arguments of the process and its signal handlers are restored at the end.
    """
    verbose = "--verbose" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        _run(app, arguments or ["--help"], verbose)
    finally:
        if before is not None:  # None: it was not Python that set it
            signal.signal(signal.SIGTERM, before)


def _run(app: typer.Typer, arguments: list[str], verbose: bool) -> NoReturn:
    write_what_consoles_lack()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(arguments, prog_name=app.info.name, standalone_mode=False)
    except SkipsegError as error:
        fail(str(error), show_traceback=verbose)
    except MemoryError:
        fail("There is not enough memory: choose a smaller tile, or close other programs.", show_traceback=verbose)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Exception as error:
        if hasattr(error, "format_message"):  # a wrong command line; typer does not export the class of these
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "napari-skipseg"
            fail(f"{error.format_message().rstrip('.')}. See `{command} --help`.", 2, verbose)
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
    """Return what stands for the first character that an encoding lacks, and where the text continues."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), after  # a file's name goes out as the bytes that it consists of
    plain = _PLAIN.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?", after


def fail(message: str, code: int = 1, show_traceback: bool = False) -> NoReturn:
    """End the program with `code` after one line on stderr, below the traceback where it is requested."""
    if show_traceback:
        sys.stderr.write(printable(traceback.format_exc(), "\n"))
    on_stderr().print(f"Error: {' '.join(message.split())}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


def with_progress_bar(work: Generator[Progress, None, Result], title: str, notes: bool = True) -> Result:
    """Return the result of `work`; a bar with the time left is shown, or a line a minute without a terminal.
    What was `ImageFindings` about an image is printed once, a line each, unless `notes` is False: the result has it
    then.

    Ctrl-C or SIGTERM closes `work` at its next step, so that it leaves things in order; a second one, or a step that
    takes too long, stops at once (`stopping`).
    """
    console = on_stderr()
    noting = _noting if notes else lambda _, show: show
    with stopping_between_steps() as check, contextlib.closing(work):
        if not console.is_terminal:
            return run_to_end(work, _both(check, noting(console, _a_line_a_minute(console, title))))
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"))
        with Bar(*columns, console=console, transient=True) as bar:
            task, left = bar.add_task(printable(title), total=None, at=""), TimeLeft()

            def show(progress: Progress) -> None:
                bar.update(task, completed=progress.done, total=progress.total, at=printable(left.describe(progress)))

            return run_to_end(work, _both(check, noting(bar.console, show)))


def drive_with_progress(work: Generator[Progress, None, Result], show: Callable[[Progress], None]) -> Result:
    """Return the result of `work`, calling `show` with each step; Ctrl-C as for `with_progress_bar`."""
    with stopping_between_steps() as check, contextlib.closing(work):
        return run_to_end(work, _both(check, show))


@contextlib.contextmanager
def with_spinner(what: str) -> Iterator[None]:
    """Show in a terminal what is being done, and that it continues, until it is; a log file gets nothing."""
    console = on_stderr()
    shown = Live(Spinner("dots", Text(printable(what))), console=console, transient=True)
    with shown if console.is_terminal else contextlib.nullcontext():
        yield


def print_line(text: object, err: bool = False) -> None:
    """Show a text, which may name files; no control character in it reaches the terminal."""
    typer.echo(printable(str(text), "\n\t"), err=err)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of ours as a sentence, and one of a library as Python does."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parent):
        on_stderr().print(f"Warning: {message}", markup=False, soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def echo_json(text: str) -> None:
    """Show JSON, likewise."""
    typer.echo(printable_json(text))


def _both(check: Callable[[], None], show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    def shown(progress: Progress) -> None:
        check()
        show(progress)

    return shown


def _noting(console: Console, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    said: set[str] = set()

    def note(progress: Progress) -> None:
        for finding in progress.findings if isinstance(progress, ImageFindings) else ():
            if finding not in said:
                console.print(f"Note: {finding}", markup=False, soft_wrap=True)
                said.add(finding)
        show(progress)

    return note


def _a_line_a_minute(console: Console, title: str) -> Callable[[Progress], None]:
    last, left = time.monotonic(), TimeLeft()

    def show(progress: Progress) -> None:
        nonlocal last
        time_left = left.describe(progress)
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            line = f"{title}: {progress.fraction:.0%}{f', {time_left}' if time_left else ''}"
            console.print(line, markup=False, soft_wrap=True)

    return show


def confirm(question: str) -> None:
    """Ask before something is deleted, and return only if the answer is yes.

    Raises:
        InputError: there is nobody to answer.
        typer.Abort: Ctrl-C.
        typer.Exit: the answer is no.
    """
    try:
        is_meant = typer.confirm(question)
    except typer.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        typer.echo(err=True)  # ends the line of the question
        raise InputError("There was no answer, so nothing is deleted: give --yes if nobody can be asked.") from error
    if not is_meant:
        print_line("Nothing is deleted.", err=True)
        raise typer.Exit(1)


def print_report(facts: Any, as_json: bool) -> None:
    """Show names with their values; `facts` is a mapping or a dataclass."""
    values: dict[str, Any] = facts if isinstance(facts, dict) else asdict(facts)
    if as_json:
        echo_json(json.dumps(values, ensure_ascii=False))
        return
    width = max(len(key) for key in values)
    for key, value in values.items():
        print_line(f"{key:{width}}  {f'{value:.5f}' if isinstance(value, float) else value}")


def report_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Show a table whose columns are the keys of its first row; where a later row has no value, a cell is empty."""
    if as_json:
        echo_json(json.dumps(rows, ensure_ascii=False))
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
    # rich would cut a table at 80 columns where it goes into a pipe or a file
    is_cut = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(highlight=False, markup=False, width=None if is_cut else WIDEST).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else printable(str(value))


def print_or_write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table, its columns all the keys of its rows; the file appears whole or, on any fault, not at all.

    Raises:
        FileError: the file cannot be written: no such folder, no permission, no space.
    """
    if path.is_dir():
        raise FileError(f"'{path}' is a folder: give the name of a CSV file.")
    try:
        write_csv_of(path, rows)
    except FileError as error:
        raise FileError(f"'{path}' cannot be written. {error}") from error


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _SafeConsole(Console):
    """A console on which no control character of a text reaches the terminal; colours are its own."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each, "\n\t") if isinstance(each, str) else each for each in objects), **options)


def on_stderr() -> Console:
    """Return what shows progress and errors."""
    return _SafeConsole(stderr=True, highlight=False)
