"""The layers of proofreading and the mouse over them: clicks and lines as voxels, the outline of what would change."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_skipseg.images.stack import LazyArray
from napari_skipseg.proofread.edits import Voxel
from napari_skipseg.proofread.state import VoxelBox
from napari_skipseg.widgets.correct.uncertain_regions import go_to
from napari_skipseg.widgets.layers.placement import RepeatedSlices, current_position, place_over, voxel_at
from napari_skipseg.widgets.layers.results import KEY
from napari_skipseg.widgets.objects.layers import CLICK, OBJECTS_SOURCE
from napari_skipseg.widgets.objects.sources import PROOFREAD, without_wrapper
from napari_skipseg.widgets.proofread.brush import PaintableLabels, edits_of_stroke
from napari_skipseg.widgets.proofread.opening import OpenedObjects

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

NAME, OUTLINE = "{} proofread", "{} preview of the edit"
OUTLINE_COLORS = {1: "#ffe14d", 2: "#4dd2ff", None: "transparent"}
LARGEST_PREVIEW = 2**24
"""Voxels of a preview, at most: in the 3D view of a large volume there is none."""

_AROUND = 48
"""Voxels around a doubt that are shown, along Y and X."""

_STEP = 0.5
"""Voxels between two places along a ray through the 3D view."""


class Preview(LazyArray):
    """What would be changed, where it is looked at: 1 and 2 are two sides. read: gives the sides at an index."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype(np.uint8)
        self.read: Callable[[tuple[int | slice, ...]], NDArray[Any]] | None = None

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        lengths = [len(range(*part.indices(n))) for part, n in zip(index, self.shape, strict=True)
                   if isinstance(part, slice)]  # fmt: skip
        if self.read is None or np.prod(lengths, dtype=np.int64) > LARGEST_PREVIEW:
            return np.zeros(lengths, np.uint8)
        return self.read(index).astype(np.uint8)


class ProofreadLayers(QObject):  # type: ignore[misc]
    """The layer of the edited objects, and the outline over it.

    clicked: a voxel of the image, and whether Shift was held. moved: the voxels of a line so far. drawn: those of the
    whole line, and Shift. scrolled: the wheel turned over the layer, while `takes_wheel`. painted: edits of a stroke of
    napari's brush. refused: why a key did nothing.
    """

    clicked = Signal(tuple, bool)
    moved = Signal(list)
    drawn = Signal(list, bool)
    scrolled = Signal(int)
    painted = Signal(list)
    refused = Signal(str)

    def __init__(self, viewer: ViewerModel, opened: OpenedObjects) -> None:
        super().__init__()
        from napari.utils.colormaps import DirectLabelColormap

        self._viewer, self.source = viewer, opened.source
        self.takes_wheel = False
        objects = self._objects = opened.session.objects
        name, over, axes = opened.source.layer.name, opened.source.over, opened.source.axes
        self._channel = axes.find("C")
        self.axes = axes if self._channel > 0 else axes.replace("C", "")
        # along a channel axis between the others the labels are repeated, and cannot be painted
        self.brush = PaintableLabels(objects.labels()) if self._channel <= 0 else None
        labels = self._over_channels(objects.labels()) if self.brush is None else self.brush
        self.preview = Preview(objects.labels().shape)
        place = place_over(over, (1,) * len(axes), (0,) * len(axes), dropped=int(self._channel == 0))
        metadata = {KEY: {"role": PROOFREAD, "source": OBJECTS_SOURCE.format(over.unique_id)}}
        self.layer: Labels = without_wrapper(
            viewer.add_labels(labels, name=NAME.format(name), opacity=0.6, metadata=metadata, **place.arguments())
        )
        colors = DirectLabelColormap(color_dict=OUTLINE_COLORS)
        self.outline: Labels = without_wrapper(
            viewer.add_labels(
                self._over_channels(self.preview),
                name=OUTLINE.format(name),
                opacity=1.0,
                colormap=colors,
                metadata=metadata,
                **place.arguments(),
            )
        )
        self.outline.contour = 2
        self.layer.editable, self.outline.editable = self.brush is not None, False
        self.layer.events.paint.connect(self._on_paint)
        self.layer.mouse_drag_callbacks.append(self._on_drag)
        self.layer.mouse_wheel_callbacks.append(self._on_wheel)
        opened.source.layer.visible = False
        viewer.layers.selection.active = self.layer

    @property
    def is_shown(self) -> bool:
        """Whether both layers are in the viewer."""
        return self.layer in self._viewer.layers and self.outline in self._viewer.layers

    def _over_channels(self, data: LazyArray) -> Any:
        """Return labels repeated along a channel axis that is not the first; napari repeats the first."""
        if self._channel <= 0:
            return data
        return RepeatedSlices(data, self._channel, int(self.source.stack.length("C")))

    def bind_keys(self, acts: Mapping[str, Callable[[], None]]) -> None:
        """Bind keys, among them U and Shift-U for undo and redo; they work while the layer is active and on show."""
        from app_model.types import KeyCode, KeyMod

        def if_shown(act: Callable[[], None]) -> Callable[[Any], None]:
            def act_on(layer: Labels) -> None:
                if layer.visible:
                    act()
                else:
                    self.refused.emit(f"'{layer.name}' is hidden: show it before you edit it.")

            return act_on

        # napari's own undo knows strokes only, and would write over later edits
        control_z = KeyMod.CtrlCmd | KeyCode.KeyZ
        for key, act in (*acts.items(), (control_z, acts["U"]), (KeyMod.Shift | control_z, acts["Shift-U"])):
            self.layer.bind_key(key, if_shown(act), overwrite=True)

    def draw_lines(self, on: bool) -> None:
        """Draw a line with a drag instead of moving the view; napari's brush is put away."""
        self.layer.mode = "pan_zoom"
        self.layer.mouse_pan = not on

    def refresh(self) -> None:
        """Show the objects as they are now."""
        # the extent and the thumbnail need no new look: they would take longer than the slice
        if self.is_shown:
            self.layer.refresh(thumbnail=False, extent=False, highlight=False)

    def outline_with(self, read: Callable[[tuple[int | slice, ...]], NDArray[Any]] | None) -> None:
        """Outline what `read` gives: 0, 1 or 2 at an index of the image; None removes the outline."""
        if self.preview.read is None and read is None:
            return
        self.preview.read = read
        if self.is_shown:
            self.outline.refresh(thumbnail=False, extent=False, highlight=False)

    def shows(self, label: int) -> bool:
        """Return whether an object is in the slice on screen, or anywhere in a 3D view at its time."""
        if not self.layer.visible:
            return False
        boxes = self._objects.boxes[self._objects.regions_of(label)]
        low, high = boxes[:, 1::2].min(axis=0), boxes[:, 2::2].max(axis=0)
        sides = {"T": (boxes[0, 0], boxes[0, 0] + 1), **dict(zip("ZYX", zip(low, high, strict=True), strict=True))}
        position = dict(zip(self.axes, current_position(self._viewer, self.layer), strict=True))
        displayed = [self.axes[axis - self._viewer.dims.ndim] for axis in self._viewer.dims.displayed]
        return all(first <= position.get(axis, first) < stop for axis, (first, stop) in sides.items()
                   if axis not in displayed)  # fmt: skip

    def to_layer(self, voxel: Voxel) -> tuple[int, ...]:
        """Return a voxel of the image as one of the layer."""
        places = dict(zip("TZYX", voxel, strict=True))
        return tuple(places.get(axis, 0) for axis in self.axes)

    def to_voxel(self, place: Sequence[float] | NDArray[Any]) -> Voxel:
        """Return the voxel of the image at a place of the layer."""
        at = dict(zip(self.axes, (int(np.floor(part + 0.5)) for part in place), strict=True))
        return at.get("T", 0), at.get("Z", 0), at.get("Y", 0), at.get("X", 0)

    def go_to(self, voxel: Voxel, box: VoxelBox) -> None:
        """Show a box around a voxel, in the voxel's slice."""
        sides = {"T": (voxel[0], voxel[0] + 1)}
        sides |= {axis: (side.start, side.stop) for axis, side in zip("ZYX", box, strict=True)}
        go_to(self._viewer, self.layer, self.to_layer(voxel), [sides.get(axis, (0, 1)) for axis in self.axes])

    def go_around(self, voxel: Voxel) -> None:
        """Show a voxel and what lies around it."""
        _, z, y, x = voxel
        sides = [slice(z, z + 1), slice(y - _AROUND, y + _AROUND), slice(x - _AROUND, x + _AROUND)]
        self.go_to(voxel, (sides[0], sides[1], sides[2]))

    def _voxel_of(self, event: Any) -> Voxel | None:
        """Return the voxel under the mouse: of the slice, or of the first object along the ray; None without any."""
        if len(event.dims_displayed) < 3:
            return self.to_voxel(voxel_at(self._viewer, self.layer, event.position))
        start, end = self.layer.get_ray_intersections(
            position=event.position, view_direction=event.view_direction, dims_displayed=event.dims_displayed
        )
        if start is None or end is None:
            return None
        count = max(2, int(np.linalg.norm(end - start) / _STEP))
        data, last = self.layer.data, np.array(self.layer.data.shape) - 1
        places = np.clip(np.round(np.linspace(start, end, count)).astype(int), 0, last)
        for place in places:
            if data[tuple(int(part) for part in place)]:
                return self.to_voxel(place)
        return None

    def _on_drag(self, layer: Labels, event: Any) -> Generator[None, None, None]:
        if event.button != 1 or layer.mode != "pan_zoom":
            return
        begun, shift = np.asarray(event.pos), "Shift" in event.modifiers
        voxel = self._voxel_of(event)
        line: list[Voxel] = [] if voxel is None else [voxel]
        farthest = 0.0
        yield
        while event.type == "mouse_move":
            farthest = max(farthest, float(np.abs(np.asarray(event.pos) - begun).max()))
            if not layer.mouse_pan and farthest > CLICK and (voxel := self._voxel_of(event)) is not None:
                line.append(voxel)
                self.moved.emit(line)
            yield
        if farthest <= CLICK and line:
            self.clicked.emit(line[0], shift)
        elif not layer.mouse_pan and len(line) > 1:
            self.drawn.emit(line, shift)

    def _on_paint(self, event: Any) -> None:
        QTimer.singleShot(0, self._finish_stroke)  # napari emits the event before it writes, if a script paints

    def _finish_stroke(self) -> None:
        stroke = None if self.brush is None else self.brush.take_stroke()
        if stroke is not None:
            self.painted.emit(edits_of_stroke(self._objects, self.axes, *stroke))

    def _on_wheel(self, layer: Labels, event: Any) -> None:
        if self.takes_wheel and not event.modifiers:
            event.handled = True  # else the camera zooms too
            self.scrolled.emit(1 if event.delta[1] > 0 else -1)

    def remove(self) -> None:
        """Remove both layers, and show the objects again as they were found."""
        self.layer.events.paint.disconnect(self._on_paint)
        for layer in (self.outline, self.layer):
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        if self.source.layer in self._viewer.layers:
            self.source.layer.visible = True
