"""The two layers of corrections, strokes and accepted pixels, which stay over their image; and their undo stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_skipseg.corrections.store import Corrections
from napari_skipseg.corrections.subject import BACKGROUND, FIRST_CLASS, NOT_LOOKED_AT
from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.widgets.correct.classes import accepted_colormap, colormap_of
from napari_skipseg.widgets.correct.uncertain_regions import RegionHighlight
from napari_skipseg.widgets.forms.fields import ConnectionGroup
from napari_skipseg.widgets.layers.placement import PLACING, place_at, place_over
from napari_skipseg.widgets.layers.results import KEY, is_result

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer


EditKind = Literal["stroke", "acceptance"]
EditBox = tuple[slice, ...]

_CODEC: Any = Zstd(level=1)


@dataclass(frozen=True)
class _Edit:
    """A stroke, whose pixels are in napari's history; or an acceptance: its box and, once undone, its packed values."""

    box: EditBox | None = None
    accepted: bytes = b""


STROKE = _Edit()


class EditHistory:
    """The edits of one session, the last one at the end.

    napari's own undo and redo change strokes alone; this stack follows them. napari also drops its oldest strokes
    without an event: an edit that can no longer be undone is skipped.
    """

    def __init__(self, corrections: Corrections) -> None:
        self._corrections = corrections
        self._done: list[_Edit] = []
        self._undone: list[_Edit] = []
        self._strokes: Labels | None = None
        self._links = ConnectionGroup()

    def record(self, strokes: Labels) -> None:
        """Record what is painted in this layer from now on; strokes of an earlier layer can no longer be undone."""
        from app_model.types import KeyCode, KeyMod

        self._links.cut()
        self._strokes = strokes
        self._done = [edit for edit in self._done if edit is not STROKE]
        self._undone = [edit for edit in self._undone if edit is not STROKE]
        self._links.tie(strokes.events.paint, lambda event: self._record(STROKE))
        control_z = KeyMod.CtrlCmd | KeyCode.KeyZ
        strokes.bind_key(control_z, lambda layer: self.undo_stroke(), overwrite=True)
        strokes.bind_key(KeyMod.Shift | control_z, lambda layer: self.redo_stroke(), overwrite=True)

    def cut(self) -> None:
        """Disconnect from the layer."""
        self._links.cut()

    def _record(self, edit: _Edit) -> None:
        self._done.append(edit)
        self._undone.clear()

    def accept(self, box: EditBox, accepted: NDArray[np.uint8]) -> None:
        """Accept the values in a box, as `Corrections.review` does, so that it can be undone."""
        self._corrections.review(box, accepted)
        self._record(_Edit(box))

    def undo(self) -> EditKind | None:
        """Undo the last edit and return its kind, None if there is none."""
        while self._done:
            kind: EditKind = "stroke" if self._done[-1] is STROKE else "acceptance"
            if self.undo_stroke() if kind == "stroke" else self.undo_acceptance():
                return kind
        return None

    def redo(self) -> EditKind | None:
        """Redo the edit that was undone last and return its kind, None if there is none."""
        while self._undone:
            edit = self._undone[-1]
            if edit.box is not None:
                self._undone.pop()
                self._corrections.review(edit.box, np.frombuffer(_CODEC.decode(edit.accepted), np.uint8))
                self._done.append(_Edit(edit.box))
                return "acceptance"
            if self.redo_stroke():
                return "stroke"
        return None

    def undo_acceptance(self) -> bool:
        """Undo the last acceptance, regardless of later strokes; return whether there was one."""
        acceptance = _pop_last(self._done, is_stroke=False)
        if acceptance is None or acceptance.box is None:
            return False
        accepted = np.ascontiguousarray(self._corrections.reviewed[acceptance.box])
        is_undone = self._corrections.take_back_review() is not None
        if is_undone:
            self._undone.append(_Edit(acceptance.box, bytes(_CODEC.encode(accepted))))
        return is_undone

    def undo_stroke(self) -> bool:
        """Undo the last stroke, regardless of later acceptances; return whether there was one."""
        _pop_last(self._done, is_stroke=True)
        is_undone = self._strokes is not None and self._changes(self._strokes.undo)
        if is_undone:
            self._undone.append(STROKE)
        return is_undone

    def redo_stroke(self) -> bool:
        """Redo the stroke that was undone last; return whether there was one."""
        _pop_last(self._undone, is_stroke=True)
        is_redone = self._strokes is not None and self._changes(self._strokes.redo)
        if is_redone:
            self._done.append(STROKE)
        return is_redone

    def _changes(self, act: Callable[[], None]) -> bool:
        # napari does not say whether there was anything to undo
        before = self._corrections.version
        act()
        return self._corrections.version != before


def _pop_last(edits: list[_Edit], is_stroke: bool) -> _Edit | None:
    """Remove and return the last edit of a kind, None if there is none."""
    for number in reversed(range(len(edits))):
        if (edits[number] is STROKE) == is_stroke:
            return edits.pop(number)
    return None


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
        return self._viewer.add_labels(
            data,
            name=name.format(self.image.name),
            metadata={KEY: {"corrections": self.corrections.subject.key}},
            **looks,
            **place_over(self.image, dropped=int(self._axes.startswith("C"))).arguments(),
        )

    def _place(self, event: Any = None) -> None:
        if self.image.ndim != len(self._axes):
            return
        placement = place_over(self.image, dropped=int(self._axes.startswith("C")))
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
