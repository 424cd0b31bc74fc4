"""Channels turned off by the select step of each gate (SAT, section 3, figure 5)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from napari_skipseg.errors import ModelError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.saving import scratch_folder
from napari_skipseg.models.model import read_model
from napari_skipseg.models.selection import GateSelection, read_selection
from napari_skipseg.networks.specs import SELECTING
from napari_skipseg.progress import Progress
from napari_skipseg.studies.gates import GateFeatures, gate_features
from napari_skipseg.studies.pictures import draw_channels, draw_features, write_figure
from napari_skipseg.studies.results import StudyResult, StudyRow, move_into, write_table
from napari_skipseg.studies.views import StudyView, read_view


def selection_rows(gates: Sequence[GateSelection]) -> list[StudyRow]:
    """Return one row per gate: its channels, the percentage that is off at start and end, and its weights."""
    return [
        {
            "gate": gate.name,
            "place": gate.place,
            "channels": len(gate.weights),
            "off_at_start_percent": _percent(gate.fraction_off_at_start),
            "off_at_end_percent": _percent(gate.fraction_off),
            "mean_weight": round(float(gate.weights.mean()), 4),
            "min_weight": round(float(gate.weights.min()), 4),
            "max_weight": round(float(gate.weights.max()), 4),
        }
        for gate in gates
    ]


def weight_rows(gates: Sequence[GateSelection]) -> list[StudyRow]:
    """Return one row per channel: its gate, and its select weight at start (None if not recorded) and end."""
    return [
        {
            "gate": gate.name,
            "channel": channel,
            "start_weight": float(gate.start[channel]) if gate.start.size else None,
            "end_weight": round(float(weight), 5),
            "off": bool(weight <= 0),
        }
        for gate in gates
        for channel, weight in enumerate(gate.weights)
    ]


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


def iter_channels(
    model_folder: Path, folder: Path, stack: Stack | None = None, number: int | None = None, channel: int | None = None
) -> Generator[Progress, None, StudyResult]:
    """Write channels.csv, channels.png and weights.csv to `folder`; yield the progress, return the table and the files.

    With a `stack` also features.png: a few channels of slice `number` (by default the middle one) before and after the
    select step of each gate.

    Raises:
        SkipsegError: the model has no select step, there is no such slice, or the folder cannot be written.
    """
    yield Progress(0, 3, "reading the select weights")
    gates = read_selection(model_folder)
    if not gates:
        raise ModelError(
            f"The gates of '{model_folder.name}' select no channels: choose a model whose skip is "
            f"{' or '.join(SELECTING)}."
        )
    rows = selection_rows(gates)
    with scratch_folder(folder) as scratch:
        drafts = [write_table(scratch / "channels.csv", rows), write_table(scratch / "weights.csv", weight_rows(gates))]
        drafts.append(write_figure(draw_channels(gates), scratch / "channels.png"))
        if stack is not None:
            yield Progress(1, 3, "running the network")
            view = read_view(stack, model := read_model(model_folder), number, channel)
            features = [gate for gate in gate_features(model, view.pixels) if gate.name in {g.name for g in gates}]
            yield Progress(2, 3, "drawing the features")
            planes = [_plane(gate, view) for gate in features]
            drafts.append(write_figure(draw_features(planes), scratch / "features.png"))
        return StudyResult(rows, move_into(drafts, folder))


def _plane(gate: GateFeatures, view: StudyView) -> GateFeatures:
    """Return the features in the plane that is shown, (C, Y, X)."""
    if gate.before.ndim == 3:
        return gate
    depth = min(view.shown // gate.stride, gate.before.shape[1] - 1)
    maps = tuple(np.asarray(attention[depth]) for attention in gate.attentions)
    return GateFeatures(gate.name, gate.place, gate.stride, gate.before[:, depth], gate.weights, maps)
