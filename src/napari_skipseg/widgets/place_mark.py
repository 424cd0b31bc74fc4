"""A frame around the place or object that is looked at: a layer that is neither painted nor saved by ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.places import Place
from napari_skipseg.widgets.fields import Links
from napari_skipseg.widgets.layers import KEY
from napari_skipseg.widgets.placement import current_position, pixel_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Shapes

NAME = "{} place"
COLOR = "#ffe14d"
WIDTH = 2.5
"""Pixels of the screen, whatever the zoom."""


class PlaceMark:
    """The frame, where there is one; it goes along with the sliders through the slices that its place has.

    place: what it is around, None where nothing is marked.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._frame: Shapes | None = None
        self._over: Labels | None = None
        self._links = Links()
        self.place: Place | None = None

    def layers(self) -> list[Shapes]:
        """Return the layer that shows the frame, none where nothing is marked."""
        return [self._frame] if self._frame is not None and self._frame in self._viewer.layers else []

    def show(self, over: Labels, image_name: str, place: Place) -> None:
        """Frame a place, given in voxels of a layer, in place of an earlier one. Another layer may be active then."""
        self.place, self._over = place, over
        if self.layers():
            self._follow_slice()
        else:
            self._add(over, NAME.format(image_name), corners_of(place, current_position(self._viewer, over)))
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
            frame.edge_width = WIDTH * pixel_of(self._viewer, frame)
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


def corners_of(place: Place, at: Sequence[int]) -> NDArray[np.float64]:
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
