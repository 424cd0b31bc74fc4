"""Training curves of several models side by side (Drozdzal et al. 2016, figure 3). No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from napari_skipseg.studies.pictures import COLOURS, new_figure

Curve = tuple[tuple[int, float], ...]
"""Points of (step, value)."""
CURVE_COLOURS = {"training loss": COLOURS[0], "held-out loss": COLOURS[1], "held-out Dice": COLOURS[2]}
REASON_WIDTH = 36
"""Letters in a line of why a training failed."""
FEW_POINTS = 20
CUT_AT = 2
"""The losses' axis is at most this many times as long as the training loss needs: held-out losses of networks that
train badly may be a hundred times as high."""


class CurvePanel(NamedTuple):
    """One training of the picture.

    curves: by name, as in `TrainingRecord`; none where it was not trained, and then `state` says why. step: of the
    weights that were kept.
    """

    title: str
    curves: dict[str, Curve]
    step: int | None
    state: str


def draw_curves(panels: Sequence[CurvePanel]) -> Figure:
    """Return one column per variant, all with the same axes: training and held-out loss, below the held-out Dice
    (figure 3). A dotted line marks the weights that were kept."""
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
    axes[0, 0].set_ylabel("loss" if most <= top else "loss (what is higher is cut off)")
    axes[1, 0].set_ylabel("held-out Dice")
    axes[0, 0].set_ylim(bottom, min(top, most) if max(both) > bottom else None)
    axes[1, 0].set_ylim(0, 1)
    handles = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _show_curve(axis: Any, name: str, panel: CurvePanel) -> None:
    points = panel.curves.get(name, ())
    if points:
        marker = "o" if len(points) < FEW_POINTS else None  # a line of one point is not seen
        axis.plot(*zip(*points, strict=True), color=CURVE_COLOURS[name], label=name, linewidth=1.4, marker=marker, ms=3)


def _losses(panels: Sequence[CurvePanel], *names: str) -> list[float]:
    return [value for panel in panels for name in names for _, value in panel.curves.get(name, ())] or [0.0]
