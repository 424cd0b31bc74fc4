"""Accepting a prediction: the box of the image, and the prediction there at the present threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_skipseg.corrections.subject import BACKGROUND, NOT_LOOKED_AT
from napari_skipseg.errors import InputError
from napari_skipseg.inference.prediction import Threshold
from napari_skipseg.objects.classes import records_padding
from napari_skipseg.widgets.forms.fields import ConnectionGroup
from napari_skipseg.widgets.layers.placement import PLACING, current_position, pixel_of, visible_box
from napari_skipseg.widgets.layers.results import KEY, ShownResult, common_box

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer, Shapes


AcceptedBox = tuple[slice, ...]

SEGMENT_FIRST = "Segment first: there is no prediction to accept here."
FLAT_VIEW = "Go to the 2D view to accept what is right: in 3D the slices behind would be accepted unseen."
IN_PART = "Only a part of this slice is segmented: press Segment, or accept the view (S)."
_UNFINISHED = "Not all of this is segmented yet: wait until it is, or press Segment again."
NO_TISSUE = "Nothing can be accepted here: this part was left out as an area without tissue."
SLIP = "The box covers only {}: drag it over all that is right, from corner to corner."
_LEAST_SIDE = 3
"""Pixels of each side of a rectangle; a smaller one is taken for a slip of the mouse."""
_MOST = 2**28
"""Limit of the voxels that are accepted at once."""


def slice_box(viewer: ViewerModel, layer: Layer) -> AcceptedBox:
    """Return the slice on screen, in voxels of a layer.

    Raises:
        InputError: the view is not flat.
    """
    _check_flat(viewer)
    place = current_position(viewer, layer)
    shown = {axis - viewer.dims.ndim + layer.ndim for axis in viewer.dims.displayed}
    lengths = layer.data.shape
    return tuple(
        slice(0, int(lengths[axis])) if axis in shown else slice(place[axis], place[axis] + 1)
        for axis in range(layer.ndim)
    )


def view_box(viewer: ViewerModel, layer: Layer) -> AcceptedBox:
    """Return the part that is on screen, in voxels of a layer.

    Raises:
        InputError: the view is not flat.
    """
    _check_flat(viewer)
    return tuple(slice(low, high + 1) for low, high in visible_box(viewer, layer))


def rectangle_box(viewer: ViewerModel, layer: Layer, corners: NDArray[np.float64]) -> AcceptedBox:
    """Return the part of the slice on screen between corners, in voxels of a layer.

    corners: (number, dimensions) in voxels of the layer.

    Raises:
        InputError: the view is not flat, or the rectangle is too small or beside the layer.
    """
    whole = slice_box(viewer, layer)
    low, high = np.round(corners.min(axis=0)).astype(int), np.round(corners.max(axis=0)).astype(int)
    box = []
    for side, first, last in zip(whole, low, high, strict=True):
        is_on_screen = side.stop - side.start > 1
        part = slice(max(side.start, int(first)), min(side.stop, int(last) + 1)) if is_on_screen else side
        if part.stop <= part.start:
            raise InputError("The rectangle lies beside the image: draw it over the image.")
        box.append(part)
    lengths = [(part.stop - part.start, side.stop - side.start) for part, side in zip(box, whole, strict=True)]
    if any(length < min(_LEAST_SIDE, whole_length) for length, whole_length in lengths):
        raise InputError(SLIP.format(count_pixels(box)))
    return tuple(box)


def count_pixels(box: Sequence[slice]) -> str:
    """Return the size of a box along the axes of a slice, such as "40 × 60 pixels"."""
    rows, columns = (side.stop - side.start for side in box[-2:])
    return "1 pixel" if rows == columns == 1 else f"{rows:,} × {columns:,} pixels"


def _check_flat(viewer: ViewerModel) -> None:
    if viewer.dims.ndisplay > 2:
        raise InputError(FLAT_VIEW)


def read_accepted_mask(
    offers: Sequence[ShownResult], box: AcceptedBox, threshold: Threshold, values: Mapping[str, int], whole: bool
) -> tuple[AcceptedBox, NDArray[np.uint8]]:
    """Return the box in which the first of the predictions overlaps `box`, and its labels there as correction values.

    Areas without tissue that the segmentation left out are 0, not reviewed: nothing was looked for there.

    box: in voxels of the image without channels. values: the value of each class by its name. whole: whether the
    prediction must cover the whole box.

    Raises:
        InputError: there is no prediction or no tissue in the box, it covers only a part, or it is not finished.
    """
    there = [(shown, part) for shown in offers if (part := common_box(box, shown.box)) is not None]
    if whole:
        complete = [(shown, part) for shown, part in there if part == box]
        if there and not complete:
            raise InputError(IN_PART)
        there = complete
    if not there:
        raise InputError(SEGMENT_FIRST)
    shown, part = there[0]
    if np.prod([side.stop - side.start for side in part], dtype=float) > _MOST:
        raise InputError("This part is too large to accept at once: zoom in, and accept the view (S).")
    probability, names = shown.prediction.probability, shown.prediction.class_names
    place = tuple(
        slice(side.start - own.start, side.stop - own.start) for side, own in zip(part, shown.box, strict=True)
    )
    several = len(names) > 1
    coded = np.array([BACKGROUND, *(values[name] for name in names)], np.uint8)
    accepted = coded[shown.labels(threshold)[place]]
    has_padding = records_padding(shown.prediction.recipe)
    if shown.is_whole and not has_padding:
        return part, accepted
    seen = np.asarray(probability[(slice(None), *place) if several else place])
    is_zero = (seen.max(axis=0) if several else seen) == 0
    if not shown.is_whole and is_zero.any():  # a probability of exactly 0 was not written yet
        raise InputError(_UNFINISHED)
    if has_padding and is_zero.all():
        raise InputError(NO_TISSUE)
    accepted[is_zero] = NOT_LOOKED_AT
    return part, accepted


_NAME = "draw what is right"
_WIDTH = 2.0
"""Pixels of the screen."""


class BoxDrawing(QObject):  # type: ignore[misc]
    """A rectangle that the user draws over a layer; `on_drawn` is called with its corners in voxels of that layer.

    The drawing ends after one rectangle, with Escape, or when a different layer becomes active.
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
        self._links = ConnectionGroup()
        self.shapes: Shapes = viewer.add_shapes(
            ndim=over.ndim,
            name=_NAME,
            edge_color="#ffffff",
            face_color="#ffffff22",
            edge_width=max(1.0, _WIDTH * pixel_of(viewer, over)),
            metadata={KEY: {"drawing": True}},
            **{name: getattr(over, name) for name in PLACING},
        )
        self.shapes.mode = "add_rectangle"
        self.shapes.bind_key("Escape", lambda layer: self._end_soon(), overwrite=True)
        self._links.tie(self.shapes.events.data, self._on_data)
        self._links.tie(viewer.layers.selection.events.active, self._on_left)
        self._links.tie(viewer.layers.events.removed, self._on_left)
        self._is_over = False

    def _on_data(self, event: Any) -> None:
        if getattr(event.action, "value", event.action) == "added":
            self._end_soon()

    def _on_left(self, event: Any) -> None:
        if self._viewer.layers.selection.active is not self.shapes:
            self._end_soon()

    def _end_soon(self) -> None:
        # napari is still working on the shape while it emits this event
        QTimer.singleShot(0, self.end)

    def end(self) -> None:
        """Remove the layer, and call `on_drawn` if there is a rectangle."""
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
