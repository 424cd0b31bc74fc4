"""A rectangle that is drawn to accept what lies in it: a layer that is there only for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_skipseg.widgets.fields import Links
from napari_skipseg.widgets.layers import KEY
from napari_skipseg.widgets.placement import pixel_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Shapes

NAME = "draw what is right"
WIDTH = 2.0
"""Pixels of the screen."""


class BoxDrawing(QObject):  # type: ignore[misc]
    """Ask for one rectangle over a layer; `on_drawn` is called with its corners in voxels of that layer.

    It ends when the rectangle is there, when Escape is pressed, or when another layer is chosen.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        over: Labels,
        on_drawn: Callable[[NDArray[np.float64]], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__()
        self._viewer, self._over, self._on_drawn, self._on_end = viewer, over, on_drawn, on_end
        self._links = Links()
        same = {name: getattr(over, name) for name in ("scale", "translate", "rotate", "shear", "affine", "units")}
        self.shapes: Shapes = viewer.add_shapes(
            ndim=over.ndim,
            name=NAME,
            edge_color="#ffffff",
            face_color="#ffffff22",
            edge_width=max(1.0, WIDTH * pixel_of(viewer, over)),
            metadata={KEY: {"drawing": True}},
            axis_labels=over.axis_labels,
            **same,
        )
        self.shapes.mode = "add_rectangle"
        self.shapes.bind_key("Escape", lambda layer: self._end_soon(), overwrite=True)
        self._links.tie(self.shapes.events.data, self._end_soon_where_drawn)
        self._links.tie(viewer.layers.selection.events.active, self._end_where_left)
        self._links.tie(viewer.layers.events.removed, self._end_where_left)
        self._is_over = False

    def _end_soon_where_drawn(self, event: Any) -> None:
        if getattr(event.action, "value", event.action) == "added":
            self._end_soon()

    def _end_where_left(self, event: Any) -> None:
        if self._viewer.layers.selection.active is not self.shapes:
            self._end_soon()

    def _end_soon(self) -> None:
        # napari is still at work on the shape
        QTimer.singleShot(0, self.end)

    def end(self) -> None:
        """Take the layer away; what was drawn is accepted."""
        if self._is_over:
            return
        self._is_over = True
        self._links.cut()
        drawn = [np.asarray(shape) for shape in self.shapes.data]
        if self.shapes in self._viewer.layers:
            self._viewer.layers.remove(self.shapes)
        self._on_end()
        if drawn:
            self._on_drawn(drawn[-1])
