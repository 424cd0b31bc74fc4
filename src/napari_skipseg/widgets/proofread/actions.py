"""The tools and actions of proofreading, with their keys."""

from __future__ import annotations

from dataclasses import dataclass

from napari_skipseg.widgets.proofread.tools import ToolName


@dataclass(frozen=True)
class ProofreadAction:
    """A key, the text of its button, and its tooltip."""

    key: str
    text: str
    hint: str


TOOLS: dict[ToolName, ProofreadAction] = {
    "select": ProofreadAction("S", "Select", "Click an object to select it"),
    "merge": ProofreadAction("J", "Merge", "Click two objects, or draw a line across several"),
    "split": ProofreadAction(
        "K", "Split", "Draw a line through an object, or click one side and Shift-click the other"
    ),
    "grow": ProofreadAction("G", "Grow", "Click a region: the wheel lets it grow along the hierarchy of merges"),
    "push": ProofreadAction(
        "Q", "Push outline", "Click where the outline of the selected object is wrong: it moves over the click"
    ),
}
EDITOR_ACTIONS = {
    "accept": ProofreadAction("A", "Do it", "Do what is outlined"),
    "confirm": ProofreadAction("C", "It is right", "Leave this place as it is, and remember that it is right"),
    "next": ProofreadAction("N", "Next doubt", "Go to the next decision that may be wrong; skip the one on show"),
    "undo": ProofreadAction("U", "Undo", "Undo the last edit, also one of an earlier session"),
    "redo": ProofreadAction("Shift-U", "Redo", "Do again what was undone last"),
    "new": ProofreadAction("R", "New object", "Paint a new object with napari's brush, in a slice or in the volume"),
    "between": ProofreadAction(
        "I", "Between slices", "Carry the selected object from the slices where it is painted to those between"
    ),
    "delete": ProofreadAction("D", "Delete", "Delete the selected object"),
    "fill": ProofreadAction("H", "Fill holes", "Fill the holes of the selected object"),
    "smooth": ProofreadAction("Y", "Smooth", "Smooth the surface of the selected object; other objects stay"),
    "separate": ProofreadAction("T", "Separate", "Make objects of the parts of the selected object that do not touch"),
    "lock": ProofreadAction("O", "Lock", "Lock the selected object against edits, or unlock it"),
}
LEARN = ProofreadAction(
    "W", "Learn from edits", "Learn from merges, splits and what is right, and show what would change"
)
"""napari does not use any of these keys while a Labels layer is active."""
