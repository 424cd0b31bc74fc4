"""The undo stack of an image's corrections: strokes and acceptances, in the order in which they were made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_skipseg.corrections.store import Corrections
from napari_skipseg.widgets.forms.fields import ConnectionGroup

if TYPE_CHECKING:
    from napari.layers import Labels

EditKind = Literal["stroke", "acceptance"]
EditBox = tuple[slice, ...]

_CODEC: Any = Zstd(level=1)


@dataclass(frozen=True)
class _Edit:
    """A stroke, whose pixels napari knows; or an acceptance: its box and, once it is undone, its packed values."""

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
        self._links.tie(strokes.events.paint, self._on_paint)
        control_z = KeyMod.CtrlCmd | KeyCode.KeyZ
        strokes.bind_key(control_z, lambda layer: self.undo_stroke(), overwrite=True)
        strokes.bind_key(KeyMod.Shift | control_z, lambda layer: self.redo_stroke(), overwrite=True)

    def cut(self) -> None:
        """Disconnect from the layer."""
        self._links.cut()

    def _on_paint(self, event: Any) -> None:
        self._done.append(STROKE)
        self._undone.clear()

    def accept(self, box: EditBox, accepted: NDArray[np.uint8]) -> None:
        """Accept the values in a box, as `Corrections.review` does, so that it can be undone."""
        self._corrections.review(box, accepted)
        self._done.append(_Edit(box))
        self._undone.clear()

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
