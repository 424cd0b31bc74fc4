"""The command line: the same calls as Python."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from napari_skipseg.cli.batch import batch
from napari_skipseg.cli.corrections import app as corrections
from napari_skipseg.cli.edits import app as edits
from napari_skipseg.cli.export import export_labels
from napari_skipseg.cli.finetune import finetune
from napari_skipseg.cli.lists import doctor, models, networks
from napari_skipseg.cli.objects import objects
from napari_skipseg.cli.run import run
from napari_skipseg.cli.sample import demo, sample
from napari_skipseg.cli.score import score
from napari_skipseg.cli.segment import segment
from napari_skipseg.cli.study import app as study
from napari_skipseg.cli.suggest import suggest
from napari_skipseg.cli.train import train
from napari_skipseg.terminal import run_shown

app = typer.Typer(
    name="napari-skipseg",
    help="Segment EM and volumetric stacks with networks built on skip connections.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Add --verbose to any command to see the whole traceback of an error.",
)
for command in (
    segment,
    suggest,
    objects,
    batch,
    run,
    train,
    finetune,
    score,
    networks,
    models,
    doctor,
    sample,
    demo,
):
    app.command()(command)
app.command("export")(export_labels)
app.add_typer(corrections, name="corrections")
app.add_typer(edits, name="edits")
app.add_typer(study, name="study")


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Segment EM and volumetric stacks with networks built on skip connections."""
    if version:
        typer.echo(metadata.version("napari-skipseg"))
        raise typer.Exit


def main() -> None:
    """Run the command line; an error is one sentence, and the exit code is not 0."""
    run_shown(app)
