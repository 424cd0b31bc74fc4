"""The command `benchmark`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_skipseg.cli.options import AsJson, DeviceFlag
from napari_skipseg.terminal import echo_json, print_line, print_report, report_rows, with_progress_bar
from napari_skipseg.wording import in_words

if TYPE_CHECKING:
    from napari_skipseg.inference.machine_speed import MachineSpeed, ModelSpeed


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
