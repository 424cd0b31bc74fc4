"""The places where a correction would teach most: a list with reasons, and the way there."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_skipseg.corrections.places import UncertainRegion, iter_rank_regions
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.fields import ConnectionGroup, set_hint
from napari_skipseg.widgets.layers.placement import CutArray, current_position, pixel_of, world_at
from napari_skipseg.widgets.layers.results import KEY, ShownResult
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer, Shapes


_DONE = 0.5
"""Share of a place that was painted or accepted from which on there is nothing more to do there."""
OTHERS = 0.2
"""What the doubt about a class that is not taught counts, beside 1 for one that is."""
_MEANING = "0 = sure everywhere, 1 = undecided everywhere (mean entropy in bits)"
_FILLED = 0.6
"""Share of the view that a place fills when one is brought there."""


class UncertainRegionList(QListWidget):  # type: ignore[misc]
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

    def show_places(self, places: Sequence[UncertainRegion], axes: str) -> None:
        """Show places, the most telling one first."""
        self.clear()
        for place in places:
            item = QListWidgetItem(f"{_where(place, axes)}: {place.reason}")
            set_hint(item, f"{_where(place, axes)}: {place.reason}\n{_MEANING}")
            item.setData(Qt.ItemDataRole.UserRole, place)
            self.addItem(item)
        self.setVisible(bool(places))

    def places(self) -> list[UncertainRegion]:
        """Return the places that are left."""
        return [self._place(row) for row in range(self.count())]

    def step(self, step: int, is_done: Callable[[UncertainRegion], bool]) -> None:
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

    def _place(self, row: int) -> UncertainRegion:
        place: UncertainRegion = self.item(row).data(Qt.ItemDataRole.UserRole)
        return place


def _where(place: UncertainRegion, axes: str) -> str:
    """Return the middle of a place in voxels, as napari's sliders count them."""
    return ", ".join(f"{axis.lower()} {at}" for axis, at in zip(axes, place.center, strict=True))


def is_region_done(corrections: Corrections, place: UncertainRegion) -> bool:
    """Return whether half of a place was painted or accepted."""
    box = tuple(slice(start, stop) for start, stop in place.box)
    seen = (np.asarray(corrections.strokes[box]) > 0) | (np.asarray(corrections.reviewed[box]) > 0)
    return bool(seen.mean() >= _DONE)


def weigh_classes(names: Sequence[str], taught: Container[str]) -> list[float]:
    """Return what the doubt about each class of a model counts: more for those that are taught, where it has some."""
    if not any(name in taught for name in names):
        return [1.0] * len(names)
    return [1.0 if name in taught else OTHERS for name in names]


def describe_search(shown: ShownResult, taught: Sequence[str], count: int) -> str:
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


def iter_find_uncertain_regions(
    shown: ShownResult, corrections: Corrections, taught: Container[str] = ()
) -> Generator[Progress, None, tuple[UncertainRegion, ...]]:
    """Return where the prediction is least sure and nothing was corrected yet, in voxels of the image.

    taught: the names of the classes that corrections are made for.
    """
    prediction = shown.prediction
    starts = [shown.positions.get(axis, 0) for axis, letter in enumerate(shown.axes) if letter != "C"]
    lengths = prediction.probability.shape[-len(starts) :]
    part = {n: slice(start, start + int(length)) for n, (start, length) in enumerate(zip(starts, lengths, strict=True))}
    places = yield from iter_rank_regions(
        prediction.probability,
        shown.axes.replace("C", ""),
        prediction.class_names,
        CutArray(corrections.reviewed, part),
        uncertainty=prediction.uncertainty,
        strokes=CutArray(corrections.strokes, part),
        weights=weigh_classes(prediction.class_names, taught),
    )
    return tuple(_moved(place, starts) for place in places)


def _moved(place: UncertainRegion, starts: Sequence[int]) -> UncertainRegion:
    center = tuple(at + start for at, start in zip(place.center, starts, strict=True))
    box = tuple((low + start, stop + start) for (low, stop), start in zip(place.box, starts, strict=True))
    return replace(place, center=center, box=box)


def go_to(viewer: ViewerModel, layer: Layer, place: UncertainRegion) -> None:
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
        fitting = _FILLED * min(size) / length
        # a zoom at which one sees the place well enough is left as it is
        if not 0.75 * fitting <= camera.zoom <= 1.5 * fitting:
            camera.zoom = fitting


_NAME = "{} place"
COLOR = "#ffe14d"
_WIDTH = 2.5
"""Pixels of the screen, whatever the zoom."""


class RegionHighlight:
    """The frame, where there is one; it goes along with the sliders through the slices that its place has.

    place: what it is around, None where nothing is marked.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._frame: Shapes | None = None
        self._over: Labels | None = None
        self._links = ConnectionGroup()
        self.place: UncertainRegion | None = None

    def layers(self) -> list[Shapes]:
        """Return the layer that shows the frame, none where nothing is marked."""
        return [self._frame] if self._frame is not None and self._frame in self._viewer.layers else []

    def show(self, over: Labels, image_name: str, place: UncertainRegion) -> None:
        """Frame a place, given in voxels of a layer, in place of an earlier one. Another layer may be active then."""
        self.place, self._over = place, over
        if self.layers():
            self._follow_slice()
        else:
            self._add(over, _NAME.format(image_name), corners_of(place, current_position(self._viewer, over)))
        self._follow_zoom()

    def _follow_slice(self, event: Any = None) -> None:
        if self.place is None or self._over not in self._viewer.layers:
            return
        corners = corners_of(self.place, current_position(self._viewer, self._over))
        for frame in self.layers():
            if not np.array_equal(frame.data[0], corners):
                frame.data = [corners]

    def _follow_zoom(self, event: Any = None) -> None:
        for frame in self.layers():
            frame.edge_width = _WIDTH * pixel_of(self._viewer, frame)
            frame.refresh()

    def _add(self, over: Labels, name: str, corners: NDArray[np.float64]) -> None:
        same = {
            each: getattr(over, each)
            for each in ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
        }
        frame = self._frame = self._viewer.add_shapes(
            [corners],
            name=name,
            shape_type="rectangle",
            edge_color=COLOR,
            face_color="transparent",
            opacity=1.0,
            metadata={KEY: {"place": True}},
            **same,
        )
        frame.editable = False
        self.cut()
        self._links.tie(getattr(self._viewer, "scene", self._viewer).camera.events.zoom, self._follow_zoom)
        self._links.tie(self._viewer.dims.events.current_step, self._follow_slice)

    def cut(self) -> None:
        """Let go of the viewer's events."""
        self._links.cut()

    def hide(self) -> None:
        """Take the frame away."""
        self.cut()
        frames, self.place, self._frame, self._over = self.layers(), None, None, None
        for frame in frames:
            self._viewer.layers.remove(frame)


def corners_of(place: UncertainRegion, at: Sequence[int]) -> NDArray[np.float64]:
    """Return the corners (4, dimensions) of a place along its last two axes, at the edges of its outermost voxels.

    Along the other axes they lie at the voxel `at` which the sliders stand, or at the nearest that the place has.
    """
    *plane, rows, columns = place.box
    low = np.array([rows[0], columns[0]]) - 0.5
    high = np.array([rows[1], columns[1]]) - 0.5
    corners = np.array([(low[0], low[1]), (low[0], high[1]), (high[0], high[1]), (high[0], low[1])])
    nearest = [float(min(max(here, first), stop - 1)) for here, (first, stop) in zip(at, plane, strict=False)]
    behind = np.tile(nearest, (len(corners), 1))
    return np.concatenate([behind.reshape(len(corners), len(plane)), corners], axis=1)
