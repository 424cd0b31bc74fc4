"""What was done to the corrections of an image, strokes and acceptances alike: undone and redone in its order."""

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
class _Deed:
    """A stroke, which napari knows; or an acceptance: where, and once it is undone what was accepted, packed."""

    box: EditBox | None = None
    accepted: bytes = b""


STROKE = _Deed()


class EditHistory:
    """The deeds of one session, the last one at the end. napari's own undo and redo keep to strokes, and are followed.

    napari forgets strokes of long ago and tells nobody: a deed that cannot be undone any more is passed over.
    """

    def __init__(self, corrections: Corrections) -> None:
        self._corrections = corrections
        self._done: list[_Deed] = []
        self._undone: list[_Deed] = []
        self._strokes: Labels | None = None
        self._links = ConnectionGroup()

    def follow(self, strokes: Labels) -> None:
        """Hear of what is painted in this layer from now on; strokes in another one cannot be undone any more."""
        from app_model.types import KeyCode, KeyMod

        self._links.cut()
        self._strokes = strokes
        self._done = [deed for deed in self._done if deed is not STROKE]
        self._undone = [deed for deed in self._undone if deed is not STROKE]
        self._links.tie(strokes.events.paint, self._hear_stroke)
        control_z = KeyMod.CtrlCmd | KeyCode.KeyZ
        strokes.bind_key(control_z, lambda layer: self.undo_stroke(), overwrite=True)
        strokes.bind_key(KeyMod.Shift | control_z, lambda layer: self.redo_stroke(), overwrite=True)

    def cut(self) -> None:
        """Hear of strokes no more."""
        self._links.cut()

    def accept(self, box: EditBox, accepted: NDArray[np.uint8]) -> None:
        """Accept what is right in a box: `Corrections.review`, which can be undone."""
        self._corrections.review(box, accepted)
        self._done.append(_Deed(box))
        self._undone.clear()

    def undo(self) -> EditKind | None:
        """Return what the last deed was, which is undone; None where there is none."""
        while self._done:
            kind: EditKind = "stroke" if self._done[-1] is STROKE else "acceptance"
            if self.undo_stroke() if kind == "stroke" else self.take_back():
                return kind
        return None

    def redo(self) -> EditKind | None:
        """Return what was undone last, which is done again; None where there is nothing."""
        while self._undone:
            deed = self._undone[-1]
            if deed.box is not None:
                self._undone.pop()
                self._corrections.review(deed.box, np.frombuffer(_CODEC.decode(deed.accepted), np.uint8))
                self._done.append(_Deed(deed.box))
                return "acceptance"
            if self.redo_stroke():
                return "stroke"
        return None

    def take_back(self) -> bool:
        """Return whether there was an acceptance; the last one is undone, whatever was painted since."""
        acceptance = _take_last(self._done, is_stroke=False)
        if acceptance is None or acceptance.box is None:
            return False
        accepted = np.ascontiguousarray(self._corrections.reviewed[acceptance.box])
        is_undone = self._corrections.take_back_review() is not None
        if is_undone:
            self._undone.append(_Deed(acceptance.box, bytes(_CODEC.encode(accepted))))
        return is_undone

    def undo_stroke(self) -> bool:
        """Return whether there was a stroke; the last one is undone, whatever was accepted since."""
        _take_last(self._done, is_stroke=True)
        is_undone = self._strokes is not None and self._changes(self._strokes.undo)
        if is_undone:
            self._undone.append(STROKE)
        return is_undone

    def redo_stroke(self) -> bool:
        """Return whether a stroke had been undone; the last such one is done again."""
        _take_last(self._undone, is_stroke=True)
        is_redone = self._strokes is not None and self._changes(self._strokes.redo)
        if is_redone:
            self._done.append(STROKE)
        return is_redone

    def _changes(self, act: Callable[[], None]) -> bool:
        before = self._corrections.version
        act()
        return self._corrections.version != before

    def _hear_stroke(self, event: Any) -> None:
        self._done.append(STROKE)
        self._undone.clear()


def _take_last(deeds: list[_Deed], is_stroke: bool) -> _Deed | None:
    """Return the last deed of a kind, taken out; None where there is none."""
    for place in reversed(range(len(deeds))):
        if (deeds[place] is STROKE) == is_stroke:
            return deeds.pop(place)
    return None
