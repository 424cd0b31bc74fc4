"""The command line: the same calls as Python.

A command is imported when it is called: importing all of them and building their options takes a third of a second.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_skipseg.terminal import run_shown

if TYPE_CHECKING:
    app: typer.Typer

_COMMANDS = {
    "segment": "segment",
    "suggest": "segment",
    "objects": "objects",
    "export": "objects",
    "batch": "batch",
    "run": "segment",
    "train": "train",
    "finetune": "train",
    "score": "score",
    "networks": "networks",
    "doctor": "doctor",
    "benchmark": "benchmark",
    "sample": "sample",
    "demo": "sample",
}
"""The module of each command's function, in the order of the help."""
_FUNCTIONS = {"export": "export_labels"}
"""The function of a command, if it has another name."""
_GROUPS = {"corrections": "corrections", "edits": "edits", "models": "models", "study": "study"}
"""The module of each group of commands, which has it as `app`."""


def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Segment EM and volumetric stacks with networks built on skip connections."""
    if version:
        typer.echo(metadata.version("napari-skipseg"))
        raise typer.Exit


def make_app(only: str = "") -> typer.Typer:
    """Return the command line with all commands, or with the one called `only`."""
    made = typer.Typer(
        name="napari-skipseg",
        help="Segment EM and volumetric stacks with networks built on skip connections.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog="Add --verbose to any command to see the whole traceback of an error.",
    )
    made.callback(invoke_without_command=True)(show_version)
    for name, module in _COMMANDS.items():
        if only in ("", name):
            made.command(name)(getattr(import_module(f"{__name__}.{module}"), _FUNCTIONS.get(name, name)))
    for name, module in _GROUPS.items():
        if only in ("", name):
            made.add_typer(import_module(f"{__name__}.{module}").app, name=name)
    for each in (made, *(group.typer_instance for group in made.registered_groups)):
        for command in each.registered_commands if each else ():
            command.help = (inspect.getdoc(command.callback) or "").partition("\n\nRaises:")[0]
    return made


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = made = make_app()
    return made


def main() -> None:
    """Run the command line; an error is one sentence, and the exit code is not 0."""
    first = next((argument for argument in sys.argv[1:] if argument != "--verbose"), "")
    run_shown(make_app(first) if first in _COMMANDS or first in _GROUPS else make_app())
