"""What is done a thousand times while correcting: its key, what it is called, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from napari.layers import Layer


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
    "accept slice": Action("A", "Slice", "Accept this slice: the prediction as it is now, with your strokes on top"),
    "accept view": Action(
        "S", "View", "Accept what is on screen: the prediction as it is now, with your strokes on top"
    ),
    "accept rectangle": Action("D", "Box", "Draw a rectangle and accept what is in it"),
    "take back": Action("T", "Undo acceptance", "Undo the last acceptance, whatever was painted since; strokes stay"),
    "next place": Action("N", "Next place", "Go to the next place where the model is unsure"),
    "previous place": Action("Shift-N", "◂", "Go back to the previous place"),
}
"""None of these keys means anything to napari while a Labels layer is active; its own go on working beside them."""


def hint_of(name: str) -> str:
    """Return the tooltip of an action, its key included."""
    action = ACTIONS[name]
    return f"{action.hint} (key: {action.key})"


def bind_keys(layer: Layer, run: Mapping[str, Callable[[], None]]) -> None:
    """Bind the keys of all actions to `layer`: they work while it is the active one."""
    for name, action in ACTIONS.items():
        layer.bind_key(action.key, _call(run[name]), overwrite=True)


def _call(action: Callable[[], None]) -> Callable[[Any], None]:
    """Return a function of the layer, as napari calls it."""

    def call(layer: Any) -> None:
        action()

    return call
