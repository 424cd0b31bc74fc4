"""The command `networks`."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_skipseg.cli.options import AsJson
from napari_skipseg.terminal import print_line, report_rows


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
