"""Result layers that fill during a run, the part of the image that is on screen meanwhile, and all shown results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_skipseg.inference.prediction import Focus, Prediction, ResultsOpened, Threshold, TileWritten
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.layers.placement import current_position, visible_box
from napari_skipseg.widgets.layers.results import (
    KEY,
    RESULT_SOURCE,
    ShownResult,
    image_of,
    move_results,
    put_in_front,
    remove_results,
    results_in,
    set_colors,
    set_threshold,
    show_result,
    update_recipe,
)
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


_PAUSE = 0.2
"""Shortest time in seconds between two drawings of new tiles."""
_SHARE = 0.1
"""Largest share of the window's time for such drawings: large slices and volumes are drawn less often."""


@dataclass(frozen=True)
class FilledPart:
    """The part of an image that is segmented; its fields are those of `ShownResult`."""

    axes: str
    positions: dict[int, int]
    source: str
    prefix: str = ""

    def show(self, prediction: Prediction, is_whole: bool) -> ShownResult:
        """Return a prediction of this part."""
        return ShownResult(prediction, self.axes, self.positions, self.source, self.prefix, is_whole)


class ResultFiller(QObject):  # type: ignore[misc]
    """The layers of one run: they appear when its results open, fill with each tile, and stay when it is stopped.

    shown: the result in the layers, None before. earlier: a whole result that is shown again if the run is stopped.
    """

    def __init__(
        self, owner: QObject, viewer: ViewerModel, layer: Image, part: FilledPart, earlier: ShownResult | None
    ) -> None:
        super().__init__(owner)
        self.layer, self.part, self.earlier = layer, part, earlier
        self.shown: ShownResult | None = None
        self._viewer = viewer
        self._tiles = self._voxels = 0
        self._counted = (0, 0)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._draw)
        self._rest_until = 0.0

    def place_at(self, positions: dict[int, int]) -> None:
        """Say where the part begins, if that was not known before its results opened."""
        self.part = replace(self.part, positions=positions)

    def open(self, prediction: Prediction, threshold: Threshold, colors: Mapping[str, str]) -> ShownResult:
        """Show a prediction whose arrays are still empty and return the shown result.

        colors: the known colours of classes by name.
        """
        self.shown = self.part.show(prediction, is_whole=False).with_colors(colors)
        show_result(self._viewer, self.layer, self.shown, threshold)
        return self.shown

    def on_tile_written(self, written: TileWritten) -> None:
        """Draw a tile soon if it lies in the slice on screen."""
        self._tiles += 1
        self._voxels += math.prod(stop - start for start, stop in written.region)
        self._counted = written.done, written.total
        if self.shown is not None and not self._timer.isActive() and self._is_on_screen(written):
            wait = max(0.0, self._rest_until - time.monotonic())
            self._timer.start(round(1000 * wait))

    def finish(self, prediction: Prediction) -> ShownResult:
        """Show that the result is complete and return it."""
        self._timer.stop()
        colors = () if self.shown is None else self.shown.colors
        self.shown = replace(self.part.show(prediction, is_whole=True), colors=colors)
        update_recipe(self._viewer, self.shown)
        return self.shown

    def stop(self, threshold: Threshold) -> tuple[ShownResult | None, str]:
        """Return the result that is shown after a stopped run, and a sentence about it; "" if nothing was changed."""
        self._timer.stop()
        if self.shown is None:
            return self.earlier, ""
        if self.earlier is not None:
            show_result(self._viewer, self.layer, self.earlier, threshold)
            done = f"{self._how_much()} done; " if self._tiles else ""
            return self.earlier, f"{done}the earlier result is back."
        if not self._tiles:
            remove_results(self._viewer, self.shown.source)
            return None, ""
        update_recipe(self._viewer, self.shown)
        return self.shown, f"{self._how_much()} done; the rest is empty."

    def focus(self) -> Focus:
        """Return the part on screen, in voxels of the result."""
        return find_focus(self._viewer, self.layer, self.part.axes, self.part.positions)

    def _how_much(self) -> str:
        """Return the finished share, in tiles if every step is one tile."""
        done, total = self._counted
        if done == self._tiles:
            return f"{done} of {counted(total, 'tile')} {'is' if done == 1 else 'are'}"
        shape = self.shown.prediction.probability.shape if self.shown is not None else ()
        classes = len(self.shown.prediction.class_names) if self.shown is not None else 1
        return f"{100 * self._voxels * classes // max(1, math.prod(shape))} % is"

    def _is_on_screen(self, written: TileWritten) -> bool:
        """Return whether a tile lies in the slice on screen; napari draws all of it, also outside the canvas."""
        if self._viewer.dims.ndisplay > 2:
            return True
        at, axes = current_position(self._viewer, self.layer), self.part.axes
        on_screen = {axis - self._viewer.dims.ndim + self.layer.ndim for axis in self._viewer.dims.displayed}
        for letter, (start, stop) in zip(axes.replace("C", ""), written.region, strict=True):
            axis = axes.index(letter)
            if axis not in on_screen and not start <= at[axis] - self.part.positions.get(axis, 0) < stop:
                return False
        return True

    def _draw(self) -> None:
        begun = time.monotonic()
        for layer in results_in(self._viewer, self.part.source):
            layer.refresh(thumbnail=False, highlight=False, extent=False)
        # it takes as long again until the pixels are on the screen
        spent = 2 * (time.monotonic() - begun)
        self._rest_until = begun + max(_PAUSE, spent / _SHARE)


def find_focus(viewer: ViewerModel, layer: Image, axes: str, positions: dict[int, int]) -> Focus:
    """Return the part of an image on screen, in voxels of its part that begins at `positions`."""
    view = {}
    for axis, (low, high) in enumerate(visible_box(viewer, layer)):
        first = positions.get(axis, 0)
        if axes[axis] != "C":
            view[axes[axis]] = (float(low - first), float(high - first))
    return Focus(view)


def with_first_view(
    work: Callable[[], Generator[Progress, Focus | None, Any]], focus: Focus
) -> Generator[Progress, Focus | None, Any]:
    """Run `work`, and send it `focus` or the newest focus that is sent, until its results are open."""
    steps = work()
    sent: Focus | None = None
    is_open = False
    try:
        while True:
            try:
                progress = steps.send(sent)
            except StopIteration as stop:
                return stop.value
            sent = yield progress
            focus = sent or focus
            if not is_open:
                sent = focus
            is_open = is_open or isinstance(progress, ResultsOpened)
    finally:
        steps.close()


class Results:
    """The shown results of each image that still have a layer: of all of it, of single slices, and a preview."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._shown: dict[str, ShownResult] = {}

    def keep(self, shown: ShownResult) -> None:
        """Add the newest result, in place of an earlier one with the same source."""
        self._shown.pop(shown.source, None)
        self._shown[shown.source] = shown
        self._shown = {source: each for source, each in self._shown.items() if results_in(self._viewer, source)}

    def drop(self, source: str) -> None:
        """Remove a result."""
        self._shown.pop(source, None)

    def get(self, source: str) -> ShownResult | None:
        """Return the result of a source if it is whole and has a layer."""
        shown = self._shown.get(source)
        there = shown is not None and shown.is_whole and results_in(self._viewer, source)
        return shown if there else None

    def find(self, layer: Image | None) -> ShownResult | None:
        """Return the result of an image whose layer is selected, else the newest; None if there is none.

        A preview does not count as a result.
        """
        if layer is None:
            return None
        preview = RESULT_SOURCE.format(layer.unique_id)
        results = [shown for shown in self._all(layer) if shown.source != preview]
        active = self._viewer.layers.selection.active
        selected = None if active is None else active.metadata.get(KEY, {}).get("source")
        return next((shown for shown in results if shown.source == selected), results[-1] if results else None)

    def find_whole(self, layer: Image) -> ShownResult | None:
        """Return the result of a whole image, if it is complete and has a layer."""
        return self.get(str(layer.unique_id))

    def on_show(self, layer: Image | None) -> tuple[ShownResult, ...]:
        """Return the results of an image that have a layer, the newest first."""
        return tuple(shown for shown in reversed(self._all(layer)) if results_in(self._viewer, shown.source))

    def put_in_front(self, layer: Image, source: str) -> None:
        """Show one of an image's results and hide the others."""
        put_in_front(self._viewer, source, {shown.source for shown in self._all(layer)} - {source})

    def set_threshold(self, layer: Image | None, threshold: Threshold) -> None:
        """Show the results of an image at a different threshold."""
        for shown in self._all(layer):
            set_threshold(self._viewer, shown, threshold)

    def set_colors(self, layer: Image | None, known: Mapping[str, str]) -> None:
        """Show the results of an image in the present colours of its classes, by name."""
        for shown in self._all(layer):
            colored = self._shown[shown.source] = shown.with_colors(known)
            if colored.colors != shown.colors:
                set_colors(self._viewer, colored)

    def move(self, layer: Image | None) -> None:
        """Move the results of an image to its present place."""
        for shown in self._all(layer):
            if layer is not None and len(shown.axes) == layer.ndim:
                move_results(self._viewer, layer, shown)

    def _all(self, layer: Image | None) -> list[ShownResult]:
        """Return the results of an image, the newest last."""
        image = "" if layer is None else str(layer.unique_id)
        return [shown for shown in self._shown.values() if image_of(shown.source) == image]
