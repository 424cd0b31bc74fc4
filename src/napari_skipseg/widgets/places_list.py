"""The places where a correction would teach most: a list with reasons, and the way there."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_skipseg.batch.wording import counted
from napari_skipseg.corrections.places import Place, iter_rank_places
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.fields import set_hint
from napari_skipseg.widgets.layers import Shown
from napari_skipseg.widgets.placement import Cut, world_at

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

DONE = 0.5
"""Share of a place that was painted or accepted from which on there is nothing more to do there."""
OTHERS = 0.2
"""What the doubt about a class that is not taught counts, beside 1 for one that is."""
MEANING = "0 = sure everywhere, 1 = undecided everywhere (mean entropy in bits)"
FILLED = 0.6
"""Share of the view that a place fills when one is brought there."""


class PlacesList(QListWidget):  # type: ignore[misc]
    """Places in the order of their worth. `chosen` is emitted with the one to go to."""

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFixedHeight(118)
        self.setUniformItemSizes(True)
        self.setStyleSheet("QListWidget { font-size: 8pt; }")
        self.itemClicked.connect(lambda item: self.chosen.emit(item.data(Qt.ItemDataRole.UserRole)))
        self.hide()

    def show_places(self, places: Sequence[Place], axes: str) -> None:
        """Show places, the most telling one first."""
        self.clear()
        for place in places:
            item = QListWidgetItem(f"{_where(place, axes)}: {place.reason}")
            set_hint(item, f"{_where(place, axes)}: {place.reason}\n{MEANING}")
            item.setData(Qt.ItemDataRole.UserRole, place)
            self.addItem(item)
        self.setVisible(bool(places))

    def places(self) -> list[Place]:
        """Return the places that are left."""
        return [self._place(row) for row in range(self.count())]

    def step(self, step: int, is_done: Callable[[Place], bool]) -> None:
        """Go so many places on, past those where nothing more is to be done: these leave the list."""
        row = self.currentRow()
        if row >= 0 and is_done(self._place(row)):
            self.takeItem(row)
            step = min(step, 0)  # the next one is in its row now
        for other in reversed(range(self.count())):
            if is_done(self._place(other)):
                self.takeItem(other)
                row -= other < row
        if self.count():
            row = (row + step) % self.count() if row >= 0 else 0
            self.setCurrentRow(row)
            self.chosen.emit(self._place(row))
        self.setVisible(self.count() > 0)

    def _place(self, row: int) -> Place:
        place: Place = self.item(row).data(Qt.ItemDataRole.UserRole)
        return place


def _where(place: Place, axes: str) -> str:
    """Return the middle of a place in voxels, as napari's sliders count them."""
    return ", ".join(f"{axis.lower()} {at}" for axis, at in zip(axes, place.center, strict=True))


def is_done(corrections: Corrections, place: Place) -> bool:
    """Return whether half of a place was painted or accepted."""
    box = tuple(slice(start, stop) for start, stop in place.box)
    seen = (np.asarray(corrections.strokes[box]) > 0) | (np.asarray(corrections.reviewed[box]) > 0)
    return bool(seen.mean() >= DONE)


def weigh_classes(names: Sequence[str], taught: Container[str]) -> list[float]:
    """Return what the doubt about each class of a model counts: more for those that are taught, where it has some."""
    if not any(name in taught for name in names):
        return [1.0] * len(names)
    return [1.0 if name in taught else OTHERS for name in names]


def describe_search(shown: Shown, taught: Sequence[str], count: int) -> str:
    """Return how many places were found, where was looked, and of what the model is unsure there."""
    axes = [(axis, letter) for axis, letter in enumerate(shown.axes) if letter in "TZ" and axis in shown.positions]
    part = ", ".join(f"{letter.lower()} {shown.positions[axis]}" for axis, letter in axes)
    where = f"Only {part} was looked at, as only that is segmented." if part else "All that is segmented was looked at."
    names = shown.prediction.class_names
    unknown = [name for name in taught if name not in names]
    known = [name for name in taught if name in names]
    about = ""
    if unknown and not known:
        about = f" This model does not know {' or '.join(unknown)} yet: it is unsure of {' or '.join(names)} there."
    return f"{counted(count, 'place')}. {where}{about}"


def iter_find_places(
    shown: Shown, corrections: Corrections, taught: Container[str] = ()
) -> Generator[Progress, None, tuple[Place, ...]]:
    """Return where the prediction is least sure and nothing was corrected yet, in voxels of the image.

    taught: the names of the classes that corrections are made for.
    """
    prediction = shown.prediction
    starts = [shown.positions.get(axis, 0) for axis, letter in enumerate(shown.axes) if letter != "C"]
    lengths = prediction.probability.shape[-len(starts) :]
    part = {n: slice(start, start + int(length)) for n, (start, length) in enumerate(zip(starts, lengths, strict=True))}
    places = yield from iter_rank_places(
        prediction.probability,
        shown.axes.replace("C", ""),
        prediction.class_names,
        Cut(corrections.reviewed, part),
        uncertainty=prediction.uncertainty,
        strokes=Cut(corrections.strokes, part),
        weights=weigh_classes(prediction.class_names, taught),
    )
    return tuple(_moved(place, starts) for place in places)


def _moved(place: Place, starts: Sequence[int]) -> Place:
    center = tuple(at + start for at, start in zip(place.center, starts, strict=True))
    box = tuple((low + start, stop + start) for (low, stop), start in zip(place.box, starts, strict=True))
    return replace(place, center=center, box=box)


def go_to(viewer: ViewerModel, layer: Layer, place: Place) -> None:
    """Bring a place of a layer into the middle of the view, as large as it can be seen at a glance."""
    corners = [world_at(viewer, layer, [side[end] for side in place.box]) for end in (0, 1)]
    middle = world_at(viewer, layer, place.center)
    offset = viewer.dims.ndim - layer.ndim
    shown = set(viewer.dims.displayed)
    for axis in range(layer.ndim):
        if axis + offset not in shown:
            viewer.dims.set_point(axis + offset, float(middle[axis]))
    camera: Any = getattr(viewer, "scene", viewer).camera
    on_screen = [axis - offset for axis in viewer.dims.displayed]
    camera.center = tuple(float(middle[axis]) for axis in on_screen)
    size = viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size
    length = max(abs(float(corners[1][axis] - corners[0][axis])) for axis in on_screen[-2:])
    if length > 0:
        fitting = FILLED * min(size) / length
        # a zoom at which one sees the place well enough is left as it is
        if not 0.75 * fitting <= camera.zoom <= 1.5 * fitting:
            camera.zoom = fitting
