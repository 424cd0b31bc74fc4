"""What a terminal shows: results as text, table or JSON on stdout; progress and errors on stderr."""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import asdict
from types import FrameType
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from napari_skipseg.errors import SkipsegError
from napari_skipseg.progress import Progress, Result, run_to_end

LINE_EVERY = 60.0
"""Seconds between lines of progress in a log file."""
STOPPED = 130
"""Exit code of a command that was stopped by Ctrl-C or a signal."""


def run_shown(app: typer.Typer) -> NoReturn:
    """Run the command that the arguments name, and exit: an error is one line, and the exit code tells.

    0 = done, 1 = failed, 2 = a wrong command line, 130 = stopped. `--verbose` anywhere shows the traceback too.
    """
    verbose = "--verbose" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--verbose"]
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    signal.signal(signal.SIGTERM, _stop)
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
        fail("Stopped; nothing half-written was left.", STOPPED)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int = 1, show_traceback: bool = False) -> NoReturn:
    """End the program with `code` after one line on stderr, below the traceback where it is asked for."""
    if show_traceback:
        traceback.print_exc()
    _on_stderr().print(f"Error: {' '.join(message.split())}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


def watch(work: Generator[Progress, None, Result], title: str) -> Result:
    """Return the result of `work`; a bar with the time left is shown, or a line a minute where there is no terminal."""
    console = _on_stderr()
    if not console.is_terminal:
        return run_to_end(work, _a_line_a_minute(console, title))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[at]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, at="")
        return run_to_end(work, lambda p: bar.update(task, completed=p.done, total=p.total, at=p.message))


def _a_line_a_minute(console: Console, title: str) -> Callable[[Progress], None]:
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            console.print(f"{title}: {progress.fraction:.0%}, {progress.message}", markup=False, soft_wrap=True)

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
    """Show a table whose columns are the keys of its rows."""
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in rows[0] if rows else ():
        table.add_column(key.replace("_", " "), justify="right" if isinstance(rows[0][key], int) else "left")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    Console(highlight=False).print(table)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _help_of(error: Exception) -> str:
    """Return the command that explains the command line that `error` is about."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'napari-skipseg'} --help"


def _on_stderr() -> Console:
    return Console(stderr=True, highlight=False)
