"""The commands `study …`: the analyses of the two papers, as tables and pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_skipseg.cli.options import AsJson, DeviceFlag
from napari_skipseg.errors import SpecError
from napari_skipseg.terminal import print_line, report_rows, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.studies.results import StudyResult

app = typer.Typer(help="The analyses of the two papers, as tables and pictures.", rich_markup_mode=None)

OutDir = Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")]
Slice = Annotated[int | None, typer.Option("--slice", help="Number of the slice, from 0; by default the middle one.")]
Channel = Annotated[int | None, typer.Option(help="Channel of the image, from 0.")]


@app.command()
def channels(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or its folder.")],
    out_dir: OutDir,
    image: Annotated[Path | None, typer.Option(help="An image, to see features before and after selection.")] = None,
    number: Slice = None,
    channel: Channel = None,
    as_json: AsJson = False,
) -> None:
    """Show the channels that each gate switches off (SAT, figure 5): channels.csv, channels.png and features.png."""
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.models.catalog import locate_model
    from napari_skipseg.studies.channels import iter_channels

    stack = None if image is None else read_stack(image)
    work = iter_channels(locate_model(model), out_dir, stack, number, channel)
    draw_figures(with_progress_bar(work, f"the channels of {model}"), as_json)


@app.command()
def attention(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to look at.")],
    out_dir: OutDir,
    model: Annotated[list[str], typer.Option(help="A model's name, or its folder; repeat to compare several.")],
    number: Slice = None,
    truth: Annotated[Path | None, typer.Option(help="Its true labels, as the models were trained on.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Probability above which a pixel is labelled; by default the model's own.")
    ] = None,
    channel: Channel = None,
    as_json: AsJson = False,
) -> None:
    """Show the attention of several models in one image (SAT, figures 6 and 7): attention.png and the maps."""
    from napari_skipseg.api import load_model
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.studies.attention import iter_attention

    labels = None if truth is None else read_stack(truth, are_labels=True)
    models = [load_model(name) for name in model]
    work = iter_attention(read_stack(image), models, out_dir, number, labels, threshold, channel)
    draw_figures(with_progress_bar(work, f"attention in {image.name}"), as_json)


@app.command()
def costs(
    out_dir: OutDir,
    network: Annotated[list[str] | None, typer.Option(help="A network's name; repeat for several.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="org, st, at, sat, …; repeat for several.")] = None,
    dimensions: Annotated[list[int] | None, typer.Option(help="2 or 3; repeat for both.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Size of the image, such as 256,256 or 32,64,64; repeat.")
    ] = None,
    device: DeviceFlag = "cpu",
    training: Annotated[bool, typer.Option("--training", help="Measure a training step as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure parameters, memory and time of the networks with every skip (SAT, table 3): costs.csv and costs.png."""
    from napari_skipseg.studies.costs import CostSettings, cost_summary, iter_costs

    standard = CostSettings()
    settings = CostSettings(
        tuple(network or standard.networks),
        tuple(skip or standard.skips),
        tuple(dimensions or standard.dimensions),
        standard.sizes | {len(lengths): lengths for lengths in map(_lengths, size or ())},
        device,
        training,
    )
    result = with_progress_bar(iter_costs(settings, out_dir), "costs")
    draw_figures(result if as_json else result._replace(rows=cost_summary(result.rows)), as_json)


@app.command()
def updates(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Models trained with --epoch N, by name or folder.")
    ],
    out_dir: OutDir,
    own_scale: Annotated[bool, typer.Option("--own-scale", help="Give each model a colour scale of its own.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far each convolution moved in each epoch (Drozdzal, figure 4): NAME_updates.csv and updates.png."""
    from napari_skipseg.models.catalog import locate_model
    from napari_skipseg.studies.updates import iter_updates

    work = iter_updates([locate_model(model) for model in models], out_dir, own_scale)
    draw_figures(with_progress_bar(work, "weight updates"), as_json)


@app.command()
def ablation(
    settings: Annotated[Path, typer.Argument(metavar="SETTINGS.json", help="As for train, of a residual FCN.")],
    out_dir: OutDir,
    steps: Annotated[int | None, typer.Option(help="Training steps of each variant.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Steps per column of the weight-update map; 0 = no map.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, samples and augmentation.")] = None,
    device: DeviceFlag = "auto",
    all_variants: Annotated[bool, typer.Option("--all", help="Train the network without any skip as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train with long and short skips, with either alone, and compare (Drozdzal, figure 3, table 3); resumes."""
    from napari_skipseg.training.flags import settings_from_flags

    chosen = settings_from_flags(settings, {"steps": steps, "epoch": epoch, "seed": seed})
    from napari_skipseg.studies.ablation import NEITHER, PICTURE, TABLE, VARIANTS, ablation_summary, iter_ablation
    from napari_skipseg.studies.results import StudyResult

    variants = (*VARIANTS, NEITHER) if all_variants else VARIANTS
    rows = with_progress_bar(iter_ablation(chosen, out_dir, device, variants), f"ablation of {chosen.name}")
    table = [asdict(row) for row in rows] if as_json else ablation_summary(rows)
    draw_figures(StudyResult(table, [out_dir / TABLE, out_dir / PICTURE]), as_json)


def draw_figures(result: StudyResult, as_json: bool) -> None:
    """Print the table of a study and its files; as JSON only the table."""
    report_rows(result.rows, as_json)
    if not as_json:
        print_line("\n" + "\n".join(str(file) for file in result.files))


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if len(lengths) not in (2, 3):
        raise SpecError(f"'{text}' is no size: give lengths such as 256,256 (2D) or 32,64,64 (3D).")
    return lengths
