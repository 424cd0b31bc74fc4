"""The command `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_skipseg.cli.options import AsJson
from napari_skipseg.errors import InputError
from napari_skipseg.terminal import print_line, print_report


def doctor(
    as_json: AsJson = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Print Markdown to paste into an issue, without your name."),
    ] = False,
) -> None:
    """Test the devices of this machine; report what it computes on, why not on a GPU, and what a bug report needs.

    Raises:
        InputError: two forms are asked for.
    """
    from napari_skipseg.inference.system_report import issue_text, system_report

    if report and as_json:
        raise InputError("--report prints Markdown and --json prints JSON: give one of them.")
    if report:
        print_line(issue_text(system_report()))
    else:
        print_report(system_report(), as_json)
