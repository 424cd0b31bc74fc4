"""The weight-update map: how far each convolution moved in each epoch (Drozdzal et al. 2016, section 3.2, figure 4)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from napari_skipseg.errors import InputError, ModelError
from napari_skipseg.inference.saving import scratch_folder
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress
from napari_skipseg.studies.pictures import new_figure, write_figure
from napari_skipseg.studies.results import StudyResult, StudyRow, move_into, write_table

THIRDS = ("input_third", "centre_third", "output_third")
UPDATE_COLOURS = "viridis"
PANELS_PER_ROW = 4
SHOWN_DECADES = 3
"""Most powers of ten that the colour scale spans below the largest update; smaller updates have one colour."""


@dataclass(frozen=True, eq=False)
class WeightUpdateMap:
    """The weight updates of one training.

    name: the model's. layers: its convolutions from input to output. values: mean |W_end - W_begin| of each in each
    epoch, (layers, epochs).
    """

    name: str
    layers: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def edges(self) -> tuple[int, int]:
        """The first layer of the centre third and of the output third; the outer thirds have as many layers each."""
        outer = round(len(self.layers) / 3)
        return outer, len(self.layers) - outer

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the summed updates in the input, centre and output third, (3, epochs); nan if nothing moved."""
        parts = np.split(self.values, self.edges)
        sums = np.stack([part.sum(axis=0) for part in parts])
        total = sums.sum(axis=0)
        shares: NDArray[np.float64] = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
        return shares


def read_updates(description: ModelDescription) -> WeightUpdateMap:
    """Return the weight-update map that a model's training recorded.

    Raises:
        ModelError: it recorded none.
    """
    record = description.training.updates
    lengths = {len(row) for row in record.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ModelError(
            f"Model '{description.name}' has no record of its weight updates: train it with --epoch N, the steps of "
            "one epoch, for N steps or more."
        )
    return WeightUpdateMap(description.name, tuple(record), np.array(list(record.values()), dtype=np.float64))


def iter_updates(
    model_folders: Sequence[Path], folder: Path, own_scale: bool = False
) -> Generator[Progress, None, StudyResult]:
    """Draw the maps of all models, yield the progress, and return the shares of the thirds and the files in `folder`.

    NAME_updates.csv contains the map of a model, updates.png all maps side by side, in one colour scale or each in its
    `own_scale`. The convolutions are divided into thirds: at the input, at the centre (the deepest) and at the output.
    The rows have the share of all updates that each third got, in the first and in the last epoch.

    Raises:
        SkipsegError: a folder is no model, has no record or is named twice, or nothing can be written to `folder`.
    """
    maps = []
    for done, model_folder in enumerate(model_folders):
        yield Progress(done, len(model_folders) + 1, f"reading {model_folder.name}")
        maps.append(read_updates(read_description(model_folder)))
    if not maps:
        raise InputError("There is no model: name one, or several to compare them.")
    for name, times in Counter(found.name for found in maps).items():
        if times > 1:
            raise InputError(f"Model '{name}' is named {times} times: name each once.")
    yield Progress(len(maps), len(maps) + 1, "drawing")
    with scratch_folder(folder) as scratch:
        drafts = [write_table(scratch / f"{Path(found.name).name}_updates.csv", update_rows(found)) for found in maps]
        drafts.append(write_figure(draw_updates(maps, own_scale), scratch / "updates.png"))
        return StudyResult([row for found in maps for row in share_rows(found)], move_into(drafts, folder))


def update_rows(found: WeightUpdateMap) -> list[StudyRow]:
    """Return one row per convolution: its module's name, its place from 1 at the input, and its update per epoch."""
    return [
        {"layer": layer, "depth": depth} | {f"epoch_{n}": float(value) for n, value in enumerate(values, start=1)}
        for depth, (layer, values) in enumerate(zip(found.layers, found.values, strict=True), start=1)
    ]


def share_rows(found: WeightUpdateMap) -> list[StudyRow]:
    """Return one row for the first epoch and one for the last: the mean update, and each third's share of all."""
    epochs = found.values.shape[1]
    return [
        {
            "model": found.name,
            "layers": len(found.layers),
            "epoch": epoch,
            "mean_update": float(f"{found.values[:, epoch - 1].mean():.5g}"),
            **{
                name: None if math.isnan(share) else round(float(share), 4)
                for name, share in zip(THIRDS, found.shares[:, epoch - 1], strict=True)
            },
        }
        for epoch in dict.fromkeys((1, epochs))
    ]


def draw_updates(maps: Sequence[WeightUpdateMap], own_scale: bool = False) -> Figure:
    """Return one panel per model (figure 4): epochs from left to right, convolutions from the input at the top to the
    output, and their updates as colours; dashed lines separate the thirds.

    The colours are logarithmic, because the classifier moves many times as far as the other convolutions.
    """
    columns = min(len(maps), PANELS_PER_ROW)
    rows = math.ceil(len(maps) / columns)
    figure = new_figure((3.9 if own_scale else 3.3) * columns + 1.2, 4.6 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, (axis, found) in enumerate(zip(axes.flat, maps, strict=False)):
        _show_map(axis, found, _scale([found] if own_scale else maps))
        if number % columns == 0:
            axis.set_ylabel("convolution, from input to output")
        if own_scale:
            _add_scale(figure, axis, axis.images[0], [found])
    for axis in list(axes.flat)[len(maps) :]:
        axis.set_axis_off()
    if not own_scale:
        _add_scale(figure, axes, axes[0, 0].images[0], maps)
    return figure


def _add_scale(figure: Figure, axes: Any, image: Any, maps: Sequence[WeightUpdateMap]) -> None:
    still = any((found.values < image.norm.vmin).any() for found in maps)
    figure.colorbar(image, ax=axes, extend="min" if still else "neither", label="mean |ΔW| in the epoch", pad=0.01)


def _scale(maps: Sequence[WeightUpdateMap]) -> LogNorm:
    """Return the colour scale from the smallest to the largest update, but of `SHOWN_DECADES` at most."""
    values = np.concatenate([found.values.ravel() for found in maps])
    moved = values[values > 0]
    top = float(moved.max()) if moved.size else 1.0
    lowest = float(moved.min()) if moved.size else 0.0
    return LogNorm(min(max(lowest, top / 10**SHOWN_DECADES), top / 2), top, clip=True)


def _show_map(axis: Any, found: WeightUpdateMap, scale: LogNorm) -> None:
    layers, epochs = found.values.shape
    box = (0.5, epochs + 0.5, layers + 0.5, 0.5)
    axis.imshow(found.values, aspect="auto", cmap=UPDATE_COLOURS, norm=scale, extent=box)
    for edge in found.edges:
        axis.axhline(edge + 0.5, color="white", linewidth=0.8, linestyle=(0, (4, 4)))
    centre = found.shares[1, [0, -1]].tolist()
    start, end = ("none" if math.isnan(share) else f"{share:.0%}" for share in centre)
    axis.set_title(f"{found.name}\ncentre third: {start} of updates, then {end}", fontsize=9)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.yaxis.get_major_locator().set_params(integer=True)
