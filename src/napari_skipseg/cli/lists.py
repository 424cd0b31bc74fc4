"""The commands `networks`, `doctor` and `benchmark`, which say what is available and how fast it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_skipseg.cli.options import AsJson, DeviceFlag
from napari_skipseg.errors import InputError
from napari_skipseg.terminal import echo_json, print_line, print_report, report_rows, with_progress_bar
from napari_skipseg.wording import in_words

if TYPE_CHECKING:
    from napari_skipseg.inference.machine_speed import MachineSpeed, ModelSpeed


def networks(
    name: Annotated[str | None, typer.Argument(help="Show this network with each of its skips.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks with their trainable parameters; --json lists each network with each of its skips."""
    from napari_skipseg.networks.build import count_parameters
    from napari_skipseg.networks.presets import PRESETS, find_preset, variants

    presets = PRESETS if name is None else (find_preset(name),)
    if as_json:
        rows = [
            {
                "name": preset.name,
                "dimensions": spec.dimensions,
                "skip": spec.skip,
                "trainable_parameters": count_parameters(spec),
                "title": preset.title,
            }
            for preset in presets
            for spec in variants(preset)
        ]
        report_rows(rows, as_json)
        return
    lines = [
        {
            "name": preset.name,
            "network": preset.title,
            "skip": skip,
            **{
                f"parameters_in_{spec.dimensions}D": count_parameters(spec)
                for spec in variants(preset)
                if spec.skip == skip
            },
        }
        for preset in presets
        for skip in ((name and preset.skips) or (preset.spec.skip,))
    ]
    report_rows(lines, as_json)
    if name is None:
        print_line("\nEach is listed with its default skip: `napari-skipseg networks NAME` shows its other skips.")


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


def benchmark(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to measure; may be given several times. Default: all shipped ones."),
    ] = None,
    device: DeviceFlag = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine segments, in about a minute: models, backends, and what is not network."""
    from napari_skipseg.inference.machine_speed import iter_measure_machine, keep_machine_speed
    from napari_skipseg.models.catalog import BUILT_IN, find_models, locate_model

    folders = [locate_model(name) for name in model or []]
    folders = folders or [folder for folder in find_models().values() if folder.is_relative_to(BUILT_IN)]
    found = with_progress_bar(iter_measure_machine(folders, device), "measuring this machine", notes=False)
    keep_machine_speed(found)
    if as_json:
        echo_json(json.dumps(asdict(found), ensure_ascii=False))
        return
    print_report(_describe_machine(found), as_json=False)
    print_line("")
    report_rows([_row_of(each) for each in found.models], as_json=False)
    print_line("")
    report_rows(
        [
            {
                "model": each.model,
                "backend": each.backend,
                "precision": each.precision,
                "Mvox/s": _short(each.voxels_per_second / 1e6),
            }
            for each in found.backends
        ],
        as_json=False,
    )


def _describe_machine(found: MachineSpeed) -> dict[str, str]:
    from napari_skipseg.inference.kept_speed import BUSY

    facts = {
        "processor": f"{found.processor}, {found.cores} cores, {found.memory / 2**30:.0f} GiB",
        "bf16": "of its own" if found.bf16 else "no: it computes in f32",
        "threads": str(found.threads),
        "device": found.device,
        "date": found.date,
    }
    if found.load > BUSY:
        facts["note"] = (
            f"Other work was running (load {found.load:.1f} for each core): measure again when the machine is idle."
        )
    return facts


def _row_of(speed: ModelSpeed) -> dict[str, Any]:
    """Return the row of a model: speed of its network, nanoseconds a voxel of each part, and times foretold."""
    return {
        "model": speed.model,
        "backend": f"{speed.backend} {speed.precision}",
        "Mvox/s": _short(speed.voxels_per_second / 1e6),
        "read": _short(speed.reading),
        "compute": _short(speed.network),
        "write": _short(speed.writing),
        "pyramid": _short(speed.pyramid),
        "2048²": "" if speed.slice_seconds is None else in_words(speed.slice_seconds),
        "1 GiB": in_words(speed.stack_seconds),
    }


def _short(value: float) -> str:
    """Return a number with three digits at most."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
