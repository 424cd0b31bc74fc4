"""The two layers of corrections, strokes and accepted pixels; they stay over their image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_skipseg.corrections.store import Corrections
from napari_skipseg.corrections.subject import BACKGROUND, FIRST_CLASS, NOT_LOOKED_AT
from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.widgets.correct.classes import accepted_colormap, colormap_of
from napari_skipseg.widgets.correct.uncertain_regions import RegionHighlight
from napari_skipseg.widgets.correct.undo import EditHistory
from napari_skipseg.widgets.forms.fields import ConnectionGroup
from napari_skipseg.widgets.layers.placement import PLACING, place_at, place_over
from napari_skipseg.widgets.layers.results import KEY, is_result

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer


def copy_into_corrections(corrections: Corrections, data: Any) -> None:
    """Write an array of strokes into the corrections; planes that are equal are not written again.

    Raises:
        InputError: its shape or type is wrong, or no class has one of its values; then nothing was written.
    """
    strokes = corrections.strokes
    shape, kept = tuple(getattr(data, "shape", ())), "Your corrections are as they were"
    if shape != tuple(strokes.shape):
        raise InputError(f"{kept}: the new array has the shape {shape}, the image {tuple(strokes.shape)}.")
    if np.dtype(data.dtype).kind not in "bui":
        raise InputError(f"{kept}: the new array holds {data.dtype} values, corrections are whole numbers from 0.")
    known = [NOT_LOOKED_AT, BACKGROUND, *(each.value for each in corrections.classes)]
    for place in _planes(shape):
        strange = np.setdiff1d(np.asarray(data[place]), known)
        if strange.size:
            raise InputError(f"{kept}: no class has the value {strange[0]}; add one with + first.")
    for place in _planes(shape):
        new, old = np.asarray(data[place]).astype(np.uint8), np.asarray(strokes[place])
        rows, columns = np.nonzero(new != old)
        if rows.size:
            part = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            strokes[(*place, *part)] = new[part]


def _planes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the place of each plane along the axes before the last two."""
    yield from (tuple(int(part) for part in place) for place in np.ndindex(*shape[:-2]))


class Action(NamedTuple):
    """A key, the text of its button, and its tooltip."""

    key: str
    text: str
    hint: str


ACTIONS = {
    "previous class": Action("Q", "◂ Class", "Paint with the class above"),
    "next class": Action("W", "Class ▸", "Paint with the class below"),
    "undo": Action("U", "Undo", "Undo what was done last, stroke or acceptance; Ctrl-Z is napari's, for strokes"),
    "redo": Action("Shift-U", "Redo", "Redo what was undone last"),
    "carry": Action(
        "I",
        "Between slices",
        "Carry what is painted in this class to the slices between the painted ones: the first press outlines it, the "
        "second one writes it",
    ),
    "accept slice": Action("A", "Slice", "Accept this slice: the prediction as it is now, with your strokes on top"),
    "accept view": Action(
        "S", "View", "Accept what is on screen: the prediction as it is now, with your strokes on top"
    ),
    "accept rectangle": Action("D", "Box", "Draw a rectangle and accept what is in it"),
    "take back": Action("T", "Undo acceptance", "Undo the last acceptance, whatever was painted since; strokes stay"),
    "next place": Action("N", "Next place", "Go to the next place where the model is unsure"),
    "previous place": Action("Shift-N", "◂", "Go back to the previous place"),
}
"""napari does not use any of these keys while a Labels layer is active; its own keys still work."""


def hint_of(name: str) -> str:
    """Return the tooltip of an action with its key."""
    action = ACTIONS[name]
    return f"{action.hint} (key: {action.key})"


def bind_keys(layer: Layer, run: Mapping[str, Callable[[], None]]) -> None:
    """Bind the keys of all actions to `layer`; they work while it is the active layer."""

    def without_layer(action: Callable[[], None]) -> Callable[[Any], None]:
        # napari passes the layer
        return lambda layer: action()

    for name, action in ACTIONS.items():
        layer.bind_key(action.key, without_layer(run[name]), overwrite=True)


STROKES, REVIEWED = "{} corrections", "{} accepted"
ACCEPTED_OPACITY, STROKES_OPACITY = 0.22, 0.7


class CorrectionLayers(QObject):  # type: ignore[misc]
    """The layers of one image's corrections.

    strokes, reviewed: the layers, None before `show`; the user may rename them. history: the undo stack. highlight: the
    frame around an uncertain region. class_chosen: emitted with the value that is painted with. failed: emitted with
    the reason why a change of the user was reverted. painting: emitted with True at each step of a stroke, with False
    at its end.
    """

    class_chosen = Signal(int)
    painting = Signal(bool)
    failed = Signal(str)

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        axes: str,
        corrections: Corrections,
        actions: Mapping[str, Callable[[], None]],
    ) -> None:
        super().__init__()
        self._viewer, self.image, self._axes = viewer, image, axes
        self.corrections, self._actions = corrections, actions
        self.strokes: Labels | None = None
        self.reviewed: Labels | None = None
        self.history, self.highlight = EditHistory(corrections), RegionHighlight(viewer)
        self._links, self._image_links = ConnectionGroup(), ConnectionGroup()
        self._links.tie(viewer.layers.events.inserted, self._on_inserted)
        self.attach(image)

    @property
    def is_shown(self) -> bool:
        """Whether there is a layer to paint in."""
        return self.strokes is not None and self.strokes in self._viewer.layers

    def attach(self, image: Image) -> None:
        """Move with this image from now on."""
        self.image = image
        self._image_links.cut()
        for name in PLACING:
            self._image_links.tie(image.events[name], self._place)
        self._place()

    def show(self) -> None:
        """Add the layers that are missing, and prepare the strokes for painting."""
        if self.reviewed is None or self.reviewed not in self._viewer.layers:
            looks = {"opacity": ACCEPTED_OPACITY, "colormap": accepted_colormap()}
            self.reviewed = self._add(REVIEWED, self.corrections.reviewed, looks)
            self.reviewed.editable = False
        if not self.is_shown:
            looks = {"opacity": STROKES_OPACITY, "colormap": colormap_of(self.corrections.classes)}
            strokes = self.strokes = self._add(STROKES, self.corrections.strokes, looks)
            bind_keys(strokes, self._actions)
            self.history.record(strokes)
            strokes.mouse_drag_callbacks.append(self._on_drag)
            strokes.events.selected_label.connect(self._on_selected_label)
            strokes.events.data.connect(self._on_data)
            strokes.brush_size = 8
            strokes.selected_label = FIRST_CLASS
        self.activate()

    def activate(self) -> None:
        """Make the strokes the active layer, in a mode that paints."""
        if self.is_shown and self.strokes is not None:
            self.strokes.visible = True
            self._viewer.layers.selection.active = self.strokes
            if self.strokes.mode in ("pan_zoom", "transform"):
                self.strokes.mode = "paint"

    def _add(self, name: str, data: Any, looks: dict[str, Any]) -> Labels:
        placement = place_over(self.image, (1.0,) * self.image.ndim, (0.0,) * self.image.ndim, self._dropped())
        return self._viewer.add_labels(
            data,
            name=name.format(self.image.name),
            metadata={KEY: {"corrections": self.corrections.subject.key}},
            **looks,
            **placement.arguments(),
        )

    def _dropped(self) -> int:
        return int(self._axes.startswith("C"))

    def _place(self, event: Any = None) -> None:
        image = self.image
        if image.ndim != len(self._axes):
            return
        placement = place_over(image, (1.0,) * image.ndim, (0.0,) * image.ndim, self._dropped())
        for layer in (*self._mine(), *self.highlight.layers()):
            place_at(layer, placement)

    def _mine(self) -> list[Labels]:
        return [layer for layer in (self.reviewed, self.strokes) if layer is not None and layer in self._viewer.layers]

    def color(self) -> None:
        """Show the classes in their present colours."""
        if self.is_shown and self.strokes is not None:
            self.strokes.colormap = colormap_of(self.corrections.classes)
            self.strokes.selected_label = self.strokes.selected_label

    def refresh(self) -> None:
        """Draw both layers again."""
        for layer in self._mine():
            layer.refresh(extent=False)

    def refresh_accepted(self) -> None:
        """Draw the accepted pixels again; napari has drawn the strokes already."""
        if self.reviewed is not None and self.reviewed in self._viewer.layers:
            self.reviewed.refresh(extent=False)

    def step_class(self, step: int) -> None:
        """Paint with the class `step` rows further down."""
        if self.strokes is not None:
            values = self._values()
            here = values.index(self.strokes.selected_label) if self.strokes.selected_label in values else 0
            self.strokes.selected_label = values[(here + step) % len(values)]

    def choose_class(self, value: int) -> None:
        """Paint with a class."""
        if self.strokes is not None:
            self.strokes.selected_label = value
            self.activate()

    def _values(self) -> list[int]:
        return [BACKGROUND, *(each.value for each in self.corrections.classes)]

    def _on_selected_label(self, event: Any) -> None:
        """Allow only the values of classes, and 0, which erases."""
        strokes = self.strokes
        if strokes is None:
            return
        chosen, values = int(strokes.selected_label), self._values()
        if chosen != NOT_LOOKED_AT and chosen not in values:
            higher = [value for value in values if value > chosen]
            strokes.selected_label = min(higher, default=max(values))
            if not higher:
                self.failed.emit(f"No class has the value {chosen}: add one with + first.")
            return
        self.class_chosen.emit(chosen)

    def _on_data(self, event: Any) -> None:
        """Copy an array that was assigned to the layer into the corrections, and show these again."""
        strokes = self.strokes
        if strokes is None or strokes.data is self.corrections.strokes:
            return
        try:
            copy_into_corrections(self.corrections, strokes.data)
        except SkipsegError as error:
            self.failed.emit(str(error))
        strokes.data = self.corrections.strokes

    def _on_drag(self, layer: Any, event: Any) -> Iterator[None]:
        """Tell of a stroke, or of a pan that the mouse begins in the layer."""
        self.painting.emit(True)
        yield
        while event.type == "mouse_move":
            self.painting.emit(True)
            yield
        self.painting.emit(False)

    def _on_inserted(self, event: Any) -> None:
        if is_result(event.value):
            QTimer.singleShot(0, self._raise_layers)

    def _raise_layers(self) -> None:
        """Move above the results that were added later."""
        layers = self._viewer.layers
        for layer in self._mine():
            place = layers.index(layer)
            if any(is_result(other) for other in layers[place + 1 :]):
                layers.move(place, len(layers))

    def remove(self) -> None:
        """Remove the layers and disconnect from the viewer; the corrections stay as they are."""
        self.cut()
        for layer in (*self.highlight.layers(), *self._mine()):
            self._viewer.layers.remove(layer)

    def cut(self) -> None:
        """Disconnect from the viewer's events."""
        self._links.cut()
        self._image_links.cut()
        self.history.cut()
        self.highlight.cut()
