"""Strokes carried between slices: outlined first, then written as one step of the undo stack."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from napari_skipseg.corrections.carried_strokes import CarriedBefore, CarriedStrokes, changed_voxels, iter_carry_strokes
from napari_skipseg.corrections.subject import NOT_LOOKED_AT
from napari_skipseg.errors import InputError
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.correct.classes import colormap_of
from napari_skipseg.widgets.correct.sessions import CorrectionSession
from napari_skipseg.widgets.layers.placement import PLACING, current_position
from napari_skipseg.widgets.layers.results import KEY
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

NAME = "{} between slices"
ERASER = "Choose a class to carry: 0 erases."
DROPPED = "Nothing was carried."
NOTHING = "Nothing would be carried: the slices between are painted or accepted where the shape lies."


class StrokeCarrier:
    """What would be carried, in a layer of its own, and what was carried in this session."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None
        self._offered: CarriedStrokes | None = None
        self._before: dict[str, CarriedBefore] = {}

    def iter_carry(self, session: CorrectionSession) -> Generator[Progress, None, CarriedStrokes | str]:
        """Yield while the chosen class is carried at the time on screen; return it, or why that cannot be done."""
        strokes = session.layers.strokes
        if strokes is None or strokes.selected_label == NOT_LOOKED_AT:
            return ERASER
        axes = session.corrections.subject.space.axes
        time = current_position(self._viewer, strokes)[axes.index("T")] if "T" in axes else 0
        before = self._before.setdefault(session.key, CarriedBefore())
        try:
            carried = yield from iter_carry_strokes(session.corrections, int(strokes.selected_label), time, before)
        except InputError as error:
            return str(error)
        return NOTHING if carried.array.is_empty() and not carried.earlier else carried

    def offer(self, session: CorrectionSession, carried: CarriedStrokes) -> str:
        """Outline what would be carried; return what it is in a sentence."""
        self.drop()
        strokes = session.layers.strokes
        if strokes is None:
            return ""
        self._offered = carried
        self._layer = self._viewer.add_labels(
            carried.array,
            name=NAME.format(session.layers.image.name),
            opacity=1.0,
            colormap=colormap_of(session.corrections.classes),
            metadata={KEY: {"corrections": session.key}},
            **{name: getattr(strokes, name) for name in PLACING},
        )
        self._layer.contour = 2
        self._layer.editable = False
        session.layers.activate()
        text = f"{counted(len(carried.slices), 'slice')} outlined: I carries the shape there, U drops it."
        if carried.left_out:
            parts = counted(carried.left_out, "part has", "parts have")
            text += f" {parts} no counterpart on the next painted slice, and will not be carried."
        return text

    def take(self, session: CorrectionSession) -> CarriedStrokes | None:
        """Remove the outline, and return what it showed; None if nothing is outlined, or it has changed since."""
        offered = self._offered
        is_current = self._is_shown() and offered is not None and offered.version == session.corrections.version
        self.drop()
        return offered if is_current else None

    def write(self, session: CorrectionSession, carried: CarriedStrokes) -> str:
        """Write carried strokes, as one stroke of the layer; return what was done."""
        strokes = session.layers.strokes
        if strokes is None:
            return ""
        places, values = changed_voxels(carried, session.corrections)
        strokes.data_setitem(places, values)
        self._before[session.key].keep(carried, session.corrections.subject.space.axes)
        name = next((each.name for each in session.corrections.classes if each.value == carried.value), "background")
        slices = counted(len(carried.slices), "slice")
        return f"Carried {name} to {slices} (U undoes it). Correct one of them and press I twice to carry again."

    def drop(self) -> bool:
        """Remove the outline; return whether there was one."""
        was_shown = self._is_shown()
        if was_shown:
            self._viewer.layers.remove(self._layer)
        self._layer = self._offered = None
        return was_shown

    def _is_shown(self) -> bool:
        return self._layer is not None and self._layer in self._viewer.layers
