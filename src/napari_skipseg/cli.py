"""The command line: the same calls as Python."""

from __future__ import annotations

from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.errors import InputError
from napari_skipseg.terminal import report, report_rows, run_shown, watch

app = typer.Typer(
    name="napari-skipseg",
    help="Segment EM and volumetric stacks with networks built on skip connections.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Add --verbose to any command to see the whole traceback of an error.",
)


class Depth(StrEnum):
    """How probabilities are stored."""

    uint8 = "uint8"
    float32 = "float32"


VoxelSize = Annotated[tuple[float, float, float] | None, typer.Option(metavar="Z Y X", help="Voxel size.")]
Unit = Annotated[str | None, typer.Option(help="Unit of the voxel size: nm, µm, …")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Segment EM and volumetric stacks with networks built on skip connections."""
    if version:
        typer.echo(metadata.version("napari-skipseg"))
        raise typer.Exit


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(metavar="IN", help="A TIFF, ImageJ TIFF or OME-TIFF.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")],
    model: Annotated[str, typer.Option(help="A model's name, or its folder.")] = "em-membrane",
    device: Device = "auto",
    attention: Annotated[bool, typer.Option("--attention", help="Write the attention maps too.")] = False,
    threshold: Annotated[float, typer.Option(help="Probability above which a voxel is labelled.")] = 0.5,
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored copies (4 passes in 2D, 8 in 3D).")] = False,
    channel: Annotated[int | None, typer.Option(help="Which channel, counted from 0.")] = None,
    axes: Annotated[str | None, typer.Option(help="Names of the axes, such as ZYX, where the file is wrong.")] = None,
    voxel_size: VoxelSize = None,
    unit: Unit = None,
    tile: Annotated[int, typer.Option(help="Longest side of a tile; 0 = chosen.")] = 0,
    dtype: Annotated[Depth, typer.Option(help="How probabilities are stored.")] = Depth.uint8,
) -> None:
    """Segment an image; write IN_probability.tif, IN_binary.tif and IN_attention_1.tif, … to OUT_DIR."""
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.inference.options import SegmentOptions

    options = SegmentOptions(device, threshold, tile, tta, channel, attention)
    stack = read_stack(image, axes, voxel_size, unit)
    from napari_skipseg.api import iter_segment_to_folder, load_model

    work = iter_segment_to_folder(stack, load_model(model), options, out_dir, image.name, dtype.value)
    for file in watch(work, f"segmenting {image.name}"):
        typer.echo(str(file))


@app.command()
def train(
    settings: Annotated[
        Path | None, typer.Argument(metavar="[SETTINGS.json]", help="Settings; flags override.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(help="An image; repeat for several.")] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Its labels; as many as images, in the same order.")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", metavar="NAME=VALUE", help="A class; repeat.")] = None,
    ignore: Annotated[int | None, typer.Option(help="Label value of pixels that do not count.")] = None,
    widen: Annotated[int | None, typer.Option(help="Voxels by which classes grow (for truths of thin lines).")] = None,
    validate: Annotated[str | None, typer.Option(help="Slices held out for validation, such as 20-24.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new model.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the new model; by default your model folder.")] = None,
    network: Annotated[str | None, typer.Option(help="unet or residual-fcn.")] = None,
    skip: Annotated[str | None, typer.Option(help="org, st, at, sat (unet); none, sum, org (residual-fcn).")] = None,
    dimensions: Annotated[int | None, typer.Option(help="2 or 3.")] = None,
    widths: Annotated[str | None, typer.Option(help="Channels per level of a U-Net, such as 32,64,128,256.")] = None,
    patch: Annotated[str | None, typer.Option(help="Size of a training patch, such as 256,256.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patches per step.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    loss: Annotated[str | None, typer.Option(help="bce, dice or bce+dice.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, samples and augmentation.")] = None,
    start_from: Annotated[str | None, typer.Option(help="A model whose weights are the first ones.")] = None,
    voxel_size: VoxelSize = None,
    unit: Unit = None,
    device: Device = "auto",
) -> None:
    """Train a model from labelled images; stopped at any moment, the same command resumes."""
    flags = dict(locals())
    from napari_skipseg.models.catalog import user_folder
    from napari_skipseg.training.flags import settings_from_flags

    chosen = settings_from_flags(settings, flags)
    from napari_skipseg.training.train import iter_train

    typer.echo(str(watch(iter_train(chosen, out or user_folder(), device), f"training {chosen.name}")))


@app.command()
def score(
    prediction: Annotated[Path, typer.Argument(metavar="PREDICTION", help="Probabilities or labels.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="True labels; with --isbi 0 = membrane.")],
    isbi: Annotated[bool, typer.Option("--isbi", help="V_rand and V_info after thinning; takes P(cell).")] = False,
    membrane: Annotated[bool, typer.Option("--membrane", help="PREDICTION is P(membrane), not P(cell).")] = False,
    threshold: Annotated[float, typer.Option(help="Probability above which a pixel counts as predicted.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Compare a prediction with the truth: Dice, IoU, precision, recall, FPR, FNR, or the ISBI 2012 scores."""
    from napari_skipseg.inference.scoring import score_files

    report(score_files(prediction, truth, isbi, membrane, threshold), as_json)


@app.command()
def networks(as_json: AsJson = False) -> None:
    """List the networks with their trainable parameters."""
    from napari_skipseg.networks.build import count_parameters
    from napari_skipseg.networks.presets import PRESETS, variants

    rows = [
        {
            "name": preset.name,
            "dimensions": spec.dimensions,
            "skip": spec.skip,
            "trainable_parameters": count_parameters(spec),
            "title": preset.title,
        }
        for preset in PRESETS
        for spec in variants(preset)
    ]
    report_rows(rows, as_json)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show the card of this model.")] = None, as_json: AsJson = False
) -> None:
    """List the models, or show the card of one."""
    from napari_skipseg.models import catalog
    from napari_skipseg.models.description import card_as_text, description_to_json
    from napari_skipseg.models.folder import read_description

    if name is not None:
        description = catalog.describe_model(name)
        typer.echo(description_to_json(description).strip() if as_json else card_as_text(description))
        return
    found = {key: read_description(folder) for key, folder in catalog.find_models().items()}
    rows = [
        {
            "name": key,
            "network": f"{description.spec.dimensions}D {description.spec.network}",
            "skip": description.spec.skip,
            "classes": ", ".join(description.class_names),
            "summary": description.card.summary,
        }
        for key, description in found.items()
    ]
    report_rows(rows, as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine computes on, and why it is not the GPU."""
    from napari_skipseg import devices
    from napari_skipseg.models.catalog import find_models, user_folder

    chosen = devices.choose_device()
    openvino = "installed" if devices.has_openvino() else 'missing: pip install "napari-skipseg[openvino]" doubles it'
    facts = {
        "device": f"{chosen.name} ({chosen.title})",
        "why": chosen.reason,
        "CPU speed-up by OpenVINO": openvino,
        "models": ", ".join(find_models()) or "none",
        "your models": str(user_folder()),
        **{f"{package} version": version for package, version in devices.versions().items()},
    }
    report(facts, as_json)


@app.command()
def demo(
    headless: Annotated[Path | None, typer.Option(metavar="DIR", help="No window to stay: write results here.")] = None,
) -> None:
    """Open napari with the sample EM stack, segmented."""
    try:
        from napari_skipseg.widgets.demo import open_demo
    except ImportError as error:
        raise InputError(f'The viewer is not installed ({error}): pip install "napari-skipseg[all]".') from error
    for file in open_demo(headless):
        typer.echo(str(file))


def main() -> None:
    """Run the command line; an error is one sentence, and the exit code tells."""
    run_shown(app)


if __name__ == "__main__":
    main()
