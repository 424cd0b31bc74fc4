"""The pictures of the studies. They need neither torch nor a screen; pyplot is not used, as threads share its state."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from napari_skipseg.errors import FileError
from napari_skipseg.models.selection import GateSelection

if TYPE_CHECKING:
    from napari_skipseg.studies.gates import GateFeatures

ATTENTION_COLOURS = "turbo"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255")
"""Colours of bars and lines that the colour-blind can distinguish (Paul Tol)."""
Curve = tuple[tuple[int, float], ...]
"""Points of (step, value)."""
CURVE_COLOURS = {"training loss": COLOURS[0], "held-out loss": COLOURS[1], "held-out Dice": COLOURS[2]}
REASON_WIDTH = 36
"""Letters in a line of the reason why a training failed."""
FEW_POINTS = 20
CUT_AT = 2
"""Longest axis of losses, relative to the range of the training loss: the held-out loss of a network that trains badly
may be a hundred times as high."""
SHOWN_CHANNELS = 8
"""Channels of a gate in a picture of features."""


@dataclass(frozen=True, eq=False)
class AttentionRow:
    """One model's row of an attention picture, all of the image's (Y, X).

    image: grey, or (Y, X, 3) colours. maps: titles and maps in [0, 1]. prediction, truth: classes, 0 = background.
    """

    title: str
    image: NDArray[Any]
    maps: tuple[tuple[str, NDArray[np.float32]], ...]
    prediction: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class BarGroups:
    """One panel of grouped bars: for each group (below the axis) one bar per series; None if not known."""

    title: str
    groups: tuple[str, ...]
    series: dict[str, tuple[float | None, ...]]
    notes: dict[str, tuple[str, ...]]
    """The texts above the bars."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, path: Path) -> Path:
    """Return `path`, a PNG of `figure`.

    Raises:
        FileError: it cannot be written.
    """
    try:
        figure.savefig(path, format="png", metadata={"Software": "napari-skipseg"})
    except OSError as error:
        raise FileError(
            f"The picture '{path}' cannot be written ({error.strerror or error}): choose a different folder."
        ) from error
    return path


def draw_channels(gates: Sequence[GateSelection]) -> Figure:
    """Return the select weights of each gate as bars, between 0 (off) and 1, and how many are off (SAT, figure 5)."""
    columns = 1 if len(gates) < 5 else 2
    rows = math.ceil(len(gates) / columns)
    figure = new_figure(9 * columns, 1.9 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, gate in zip(axes.flat, gates, strict=False):
        axis.bar(range(len(gate.weights)), gate.truncated, width=0.9, color=COLOURS[0])
        start = gate.fraction_off_at_start
        at_start = "start not recorded" if start is None else f"{start:.1%} off at start"
        axis.set_title(f"{gate.place}: {at_start}, {gate.fraction_off:.1%} off at the end", fontsize=10)
        axis.set(xlim=(-0.6, len(gate.weights) - 0.4), ylim=(0, 1.02), ylabel="weight")
    for axis in list(axes.flat)[len(gates) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("channel")
    return figure


def choose_channels(weights: NDArray[np.float32], count: int = SHOWN_CHANNELS) -> list[int]:
    """Return up to `count` channels, half of them on and half off if possible, evenly spaced; those on come first."""
    on, off = np.flatnonzero(weights > 0), np.flatnonzero(weights <= 0)
    wanted_off = min(len(off), max(count // 2, count - len(on)))
    wanted_on = min(len(on), count - wanted_off)
    chosen: list[int] = []
    for channels, wanted in ((on, wanted_on), (off, wanted_off)):
        places = (np.arange(wanted) + 0.5) * len(channels) / max(wanted, 1)
        chosen += channels[places.astype(int)].tolist()
    return chosen


def draw_features(gates: Sequence[GateFeatures]) -> Figure:
    """Return a few channels of each gate before (upper row) and after (lower row) the select step (SAT, figure 5).

    gates: features of one plane, (C, Y, X). A channel is shown on the same grey scale in both rows.
    """
    figure = new_figure(1.25 * SHOWN_CHANNELS + 0.6, 2.9 * len(gates))
    for part, gate in zip(np.ravel(figure.subfigures(len(gates), 1, squeeze=False)), gates, strict=True):
        part.suptitle(f"{gate.place} (1/{gate.stride}): {(gate.weights <= 0).mean():.1%} of channels off", fontsize=10)
        axes = part.subplots(2, SHOWN_CHANNELS)
        channels = choose_channels(gate.weights)
        after = gate.after
        for column, channel in enumerate(channels):
            low, high = (float(value) for value in np.percentile(gate.before[channel], (0.5, 99.5)))
            for axis, features in zip(axes[:, column], (gate.before, after), strict=True):
                axis.imshow(features[channel], cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axes[1, column].set_xlabel(f"W = {gate.weights[channel]:.2f}", fontsize=9)
            axes[0, column].set_title(f"channel {channel}", fontsize=8)
        for axis in axes.flat:
            axis.set(xticks=(), yticks=())
        for axis in axes[:, len(channels) :].flat:
            axis.set_axis_off()
        axes[0, 0].set_ylabel("before", fontsize=9)
        axes[1, 0].set_ylabel("after", fontsize=9)
    return figure


def enlarge(values: NDArray[Any], stride: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a map of one pixel per `stride` image pixels on the image's grid of `shape`, by nearest neighbour."""
    for axis, length in enumerate(shape):
        values = values.repeat(stride, axis).take(np.arange(length), axis)
    return values


def draw_attention(rows: Sequence[AttentionRow]) -> Figure:
    """Return one row per model: image, attention map of each gate, prediction, truth (SAT, figure 6).

    All maps share one colour scale from 0 to 1.
    """
    maps = max(len(row.maps) for row in rows)
    with_truth = any(row.truth is not None for row in rows)
    columns = 1 + maps + 1 + with_truth
    figure = new_figure(2.2 * columns + 0.8, 2.5 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=(), yticks=(), frame_on=False)
    shown = None
    for line, row in zip(axes, rows, strict=True):
        line[0].imshow(row.image, cmap="gray")
        line[0].set_ylabel(row.title, fontsize=9)
        line[0].set_title("image", fontsize=9)
        for axis, (title, attention) in zip(line[1:], row.maps, strict=False):
            shown = axis.imshow(attention, cmap=ATTENTION_COLOURS, vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(title, fontsize=9)
        _show_classes(line[1 + maps], row.prediction, "prediction")
        if row.truth is not None:
            _show_classes(line[2 + maps], row.truth, "truth")
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01, label="attention")
    return figure


def _show_classes(axis: Any, classes: NDArray[np.uint8], title: str) -> None:
    highest = max(int(classes.max()), 1)
    colours = "gray" if highest == 1 else "viridis"
    axis.imshow(classes, cmap=colours, vmin=0, vmax=highest, interpolation="nearest")
    axis.set_title(title, fontsize=9)


def draw_bars(panels: Sequence[BarGroups], columns: int = 1) -> Figure:
    """Return panels of grouped bars, `columns` beside one another, with one legend."""
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(6.2 * columns, 2.7 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _show_bars(axis, panel)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(labels)), frameon=False)
    return figure


def _show_bars(axis: Any, panel: BarGroups) -> None:
    width = 0.84 / max(1, len(panel.series))
    for number, (name, values) in enumerate(panel.series.items()):
        places = [group - 0.42 + (number + 0.5) * width for group in range(len(panel.groups))]
        heights = [0.0 if value is None else value for value in values]
        bars = axis.bar(places, heights, width * 0.94, label=name, color=COLOURS[number % len(COLOURS)])
        axis.bar_label(bars, panel.notes.get(name, ()), fontsize=7, rotation=90, padding=2)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xticks(range(len(panel.groups)), panel.groups, fontsize=9)
    axis.margins(y=0.42)
    axis.spines[["top", "right"]].set_visible(False)


class CurvePanel(NamedTuple):
    """One training of the picture.

    curves: by name, as in `TrainingRecord`; empty if it was not trained. state: why it was not trained. step: of the
    final weights.
    """

    title: str
    curves: dict[str, Curve]
    step: int | None
    state: str


def draw_curves(panels: Sequence[CurvePanel]) -> Figure:
    """Return one column per variant, all with the same axes: training and held-out loss, and below them the held-out
    Dice (figure 3). A dotted line marks the step of the final weights."""
    figure = new_figure(3.4 * len(panels) + 0.6, 5.6)
    axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 2))
    for column, panel in zip(axes.T, panels, strict=True):
        column[0].set_title(panel.title, fontsize=10)
        for axis, names in zip(column, (("training loss", "held-out loss"), ("held-out Dice",)), strict=True):
            for name in names:
                _show_curve(axis, name, panel)
            axis.spines[["top", "right"]].set_visible(False)
            if panel.step is not None:
                axis.axvline(panel.step, color="0.5", linewidth=0.8, linestyle=":")
        if not panel.curves:
            reason = textwrap.fill(panel.state, REASON_WIDTH)
            column[0].text(0.5, 0.5, reason, transform=column[0].transAxes, ha="center", va="center", fontsize=8)
        column[1].set_xlabel("step")
    training, both = _losses(panels, "training loss"), _losses(panels, "training loss", "held-out loss")
    bottom = min(0.0, *both) * 1.05  # Dice is a loss below 0
    top, most = bottom + CUT_AT * (max(training) - bottom), max(both) + 0.05 * (max(both) - bottom)
    axes[0, 0].set_ylabel("loss" if most <= top else "loss (higher values are cut off)")
    axes[1, 0].set_ylabel("held-out Dice")
    axes[0, 0].set_ylim(bottom, min(top, most) if max(both) > bottom else None)
    axes[1, 0].set_ylim(0, 1)
    handles = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _show_curve(axis: Any, name: str, panel: CurvePanel) -> None:
    points = panel.curves.get(name, ())
    if points:
        marker = "o" if len(points) < FEW_POINTS else None  # a line through one point would be invisible
        axis.plot(*zip(*points, strict=True), color=CURVE_COLOURS[name], label=name, linewidth=1.4, marker=marker, ms=3)


def _losses(panels: Sequence[CurvePanel], *names: str) -> list[float]:
    return [value for panel in panels for name in names for _, value in panel.curves.get(name, ())] or [0.0]
