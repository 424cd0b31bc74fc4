"""The regions where the model is least sure: the search, a list with reasons, and a frame around the one on screen."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_skipseg.corrections.store import Corrections
from napari_skipseg.corrections.uncertain_regions import UncertainRegion, iter_rank_regions
from napari_skipseg.images.views import CutArray
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.fields import ConnectionGroup, as_note, set_hint
from napari_skipseg.widgets.layers.placement import (
    PLACING,
    camera_of,
    canvas_size,
    current_position,
    move_camera,
    move_sliders,
    pixel_of,
    world_at,
)
from napari_skipseg.widgets.layers.results import KEY, ShownResult
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer, Shapes


_DONE = 0.5
"""Share of a region that must be painted or accepted until it counts as done."""
OTHERS = 0.2
"""Weight of a class that is not taught, beside 1 for one that is."""
_MEANING = "0 = sure everywhere, 1 = undecided everywhere (mean entropy in bits)"
_FILLED = 0.6
"""Share of the view that a region fills when it is brought there."""


class UncertainRegionList(QListWidget):  # type: ignore[misc]
    """Uncertain regions, the one most worth a look first. `chosen` is emitted with the one to go to."""

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFixedHeight(118)
        self.setUniformItemSizes(True)
        as_note(self)
        self.itemClicked.connect(lambda item: self.chosen.emit(item.data(Qt.ItemDataRole.UserRole)))
        self.hide()

    def show_regions(self, regions: Sequence[UncertainRegion], axes: str) -> None:
        """Show regions, the one most worth a look first."""
        self.clear()
        for region in regions:
            text = f"{describe_voxel(region.center, axes)}: {region.reason}"
            item = QListWidgetItem(text)
            set_hint(item, f"{text}\n{_MEANING}")
            item.setData(Qt.ItemDataRole.UserRole, region)
            self.addItem(item)
        self.setVisible(bool(regions))

    def regions(self) -> list[UncertainRegion]:
        """Return the regions that are left."""
        return [self._region(row) for row in range(self.count())]

    def step(self, step: int, is_done: Callable[[UncertainRegion], bool]) -> None:
        """Move the choice by `step` rows; regions that are done leave the list first."""
        row = self.currentRow()
        if row >= 0 and is_done(self._region(row)):
            self.takeItem(row)
            step = min(step, 0)  # the next one is in its row now
        for other in reversed(range(self.count())):
            if is_done(self._region(other)):
                self.takeItem(other)
                row -= other < row
        if self.count():
            row = (row + step) % self.count() if row >= 0 else 0
            self.setCurrentRow(row)
            self.chosen.emit(self._region(row))
        self.setVisible(self.count() > 0)

    def _region(self, row: int) -> UncertainRegion:
        region: UncertainRegion = self.item(row).data(Qt.ItemDataRole.UserRole)
        return region


def describe_voxel(voxel: Sequence[int], axes: str) -> str:
    """Return the position of a voxel, counted as napari's sliders count: "z 3, y 64, x 192"."""
    return ", ".join(f"{axis.lower()} {at}" for axis, at in zip(axes, voxel, strict=True))


def is_region_done(corrections: Corrections, region: UncertainRegion) -> bool:
    """Return whether half of a region was painted or accepted."""
    box = tuple(slice(start, stop) for start, stop in region.box)
    seen = (np.asarray(corrections.strokes[box]) > 0) | (np.asarray(corrections.reviewed[box]) > 0)
    return bool(seen.mean() >= _DONE)


def weigh_classes(names: Sequence[str], taught: Container[str]) -> list[float]:
    """Return the weight of each class of a model: a class that is taught weighs more, if the model has one."""
    if not any(name in taught for name in names):
        return [1.0] * len(names)
    return [1.0 if name in taught else OTHERS for name in names]


def describe_search(shown: ShownResult, taught: Sequence[str], count: int) -> str:
    """Return how many regions were found in which part, and of which classes the model is unsure there."""
    axes = [(axis, letter) for axis, letter in enumerate(shown.axes) if letter in "TZ" and axis in shown.positions]
    part = ", ".join(f"{letter.lower()} {shown.positions[axis]}" for axis, letter in axes)
    where = f"Only {part} was looked at, as only that is segmented." if part else "All that is segmented was looked at."
    names = shown.prediction.class_names
    unknown = [name for name in taught if name not in names]
    about = ""
    if unknown and not any(name in names for name in taught):
        about = f" This model does not know {' or '.join(unknown)} yet: it is unsure of {' or '.join(names)} there."
    return f"{counted(count, 'place')}. {where}{about}"


def iter_find_uncertain_regions(
    shown: ShownResult, corrections: Corrections, taught: Container[str] = ()
) -> Generator[Progress, None, tuple[UncertainRegion, ...]]:
    """Return where the prediction is least sure and nothing was corrected yet, in voxels of the image.

    taught: the names of the classes that corrections are made for.
    """
    prediction = shown.prediction
    part = dict(enumerate(shown.box))
    starts = [side.start for side in shown.box]
    regions = yield from iter_rank_regions(
        prediction.probability,
        shown.axes.replace("C", ""),
        prediction.class_names,
        CutArray(corrections.reviewed, part),
        uncertainty=prediction.uncertainty,
        strokes=CutArray(corrections.strokes, part),
        weights=weigh_classes(prediction.class_names, taught),
    )
    found = []
    for region in regions:
        center = tuple(at + start for at, start in zip(region.center, starts, strict=True))
        box = tuple((low + start, stop + start) for (low, stop), start in zip(region.box, starts, strict=True))
        found.append(replace(region, center=center, box=box))
    return tuple(found)


def go_to(viewer: ViewerModel, layer: Layer, center: Sequence[float], box: Sequence[tuple[int, int]]) -> None:
    """Bring a box of a layer into the middle of the view, large enough to be seen. Both are in voxels."""
    move_sliders(viewer, layer, center)
    move_camera(viewer, layer, center)
    corners = [world_at(viewer, layer, [side[end] for side in box]) for end in (0, 1)]
    on_screen = [axis - viewer.dims.ndim + layer.ndim for axis in viewer.dims.displayed]
    length = max(abs(float(corners[1][axis] - corners[0][axis])) for axis in on_screen[-2:])
    if length > 0:
        camera, fitting = camera_of(viewer), _FILLED * min(canvas_size(viewer)) / length
        # a zoom at which the box is seen well enough is kept
        if not 0.75 * fitting <= camera.zoom <= 1.5 * fitting:
            camera.zoom = fitting


_AROUND = 128
"""Length in voxels of the surroundings of a single voxel that are brought into view."""


def go_to_voxel(viewer: ViewerModel, layer: Layer, voxel: Sequence[int]) -> None:
    """Bring a voxel of a layer into view with its surroundings; at the border these end with the layer."""
    box = [(at, at + 1) for at in voxel]
    for axis in (-2, -1):
        length = int(layer.data.shape[axis])
        first = min(max(voxel[axis] - _AROUND // 2, 0), max(length - _AROUND, 0))
        box[axis] = (first, min(first + _AROUND, length))
    middle = [(first + stop - 1) / 2 for first, stop in box]
    go_to(viewer, layer, middle, box)


_NAME = "{} place"
COLOR = "#ffe14d"
_WIDTH = 2.5
"""Pixels of the screen, whatever the zoom."""


class RegionHighlight:
    """A frame around one uncertain region; it moves with the sliders through the slices of the region.

    region: None while no frame is shown.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._frame: Shapes | None = None
        self._over: Labels | None = None
        self._links = ConnectionGroup()
        self.region: UncertainRegion | None = None

    def layers(self) -> list[Shapes]:
        """Return the layer that shows the frame, if there is one."""
        return [self._frame] if self._frame is not None and self._frame in self._viewer.layers else []

    def show(self, over: Labels, image_name: str, region: UncertainRegion) -> None:
        """Frame a region, given in voxels of a layer, instead of an earlier one. napari may make the frame active."""
        self.region, self._over = region, over
        if self.layers():
            self._on_slice()
        else:
            frame = self._frame = self._viewer.add_shapes(
                [corners_of(region, current_position(self._viewer, over))],
                name=_NAME.format(image_name),
                shape_type="rectangle",
                edge_color=COLOR,
                face_color="transparent",
                opacity=1.0,
                metadata={KEY: {"place": True}},
                **{each: getattr(over, each) for each in PLACING},
            )
            frame.editable = False
            self.cut()
            self._links.tie(camera_of(self._viewer).events.zoom, self._on_zoom)
            self._links.tie(self._viewer.dims.events.current_step, self._on_slice)
        self._on_zoom()

    def _on_slice(self, event: Any = None) -> None:
        if self.region is None or self._over not in self._viewer.layers:
            return
        corners = corners_of(self.region, current_position(self._viewer, self._over))
        for frame in self.layers():
            if not np.array_equal(frame.data[0], corners):
                frame.data = [corners]

    def _on_zoom(self, event: Any = None) -> None:
        for frame in self.layers():
            frame.edge_width = _WIDTH * pixel_of(self._viewer, frame)
            frame.refresh()

    def cut(self) -> None:
        """Disconnect from the viewer's events."""
        self._links.cut()

    def hide(self) -> None:
        """Remove the frame."""
        self.cut()
        frames, self.region, self._frame, self._over = self.layers(), None, None, None
        for frame in frames:
            self._viewer.layers.remove(frame)


def corners_of(region: UncertainRegion, at: Sequence[int]) -> NDArray[np.float64]:
    """Return the corners (4, dimensions) of a region along its last two axes, at the edges of its outermost voxels.

    Along the other axes they lie at the voxel `at` of the sliders, or at the nearest one that the region has.
    """
    *plane, rows, columns = region.box
    low = np.array([rows[0], columns[0]]) - 0.5
    high = np.array([rows[1], columns[1]]) - 0.5
    corners = np.array([(low[0], low[1]), (low[0], high[1]), (high[0], high[1]), (high[0], low[1])])
    nearest = [float(min(max(here, first), stop - 1)) for here, (first, stop) in zip(at, plane, strict=False)]
    behind = np.tile(nearest, (len(corners), 1))
    return np.concatenate([behind.reshape(len(corners), len(plane)), corners], axis=1)
