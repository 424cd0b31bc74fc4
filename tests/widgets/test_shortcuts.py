"""Keys of the panel: none is one of napari's, and the page of the documentation names them all."""

from __future__ import annotations

from pathlib import Path

import napari.components
import napari.layers
import pytest
from app_model.types import KeyBinding
from napari.utils.action_manager import action_manager
from napari.utils.key_bindings import coerce_keybinding
from napari.utils.shortcuts import default_shortcuts

from napari_skipseg.widgets.correct.layers import ACTIONS
from napari_skipseg.widgets.proofread.actions import EDITOR_ACTIONS, LEARN, TOOLS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "settings-and-shortcuts.md"
OURS = {"Correct": ACTIONS, "Proofread": TOOLS | EDITOR_ACTIONS | {"learn": LEARN}}


def keys_of_napari() -> dict[str, str]:
    """The default keys that napari takes while a labels layer is active, with the names of their actions."""
    providers = (napari.layers.Labels, napari.components.ViewerModel, napari.Viewer)
    found = {}
    for name, keys in default_shortcuts.items():
        action = action_manager._actions.get(name)
        if action is None or action.keymapprovider in providers:
            found |= {str(coerce_keybinding(key)): name for key in keys}
    return found


def test_napari_uses_none_of_our_keys_while_a_labels_layer_is_active():
    taken = keys_of_napari()
    assert (taken["P"], taken["V"]) == ("napari:activate_labels_paint_mode", "napari:toggle_selected_visibility")
    assert "O" not in taken  # a key of image layers only
    for tab, actions in OURS.items():
        keys = [str(coerce_keybinding(action.key)) for action in actions.values()]
        assert [key for key in keys if key in taken] == [], tab
        assert len(set(keys)) == len(keys), tab


@pytest.mark.parametrize("tab", OURS)
def test_the_documentation_lists_each_key(tab):
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    listed = {(row[1].strip(), row[2].strip()) for row in rows}
    assert {(action.text.strip("◂▸ ") or "Previous place", action.key) for action in OURS[tab].values()} <= listed


def test_a_key_is_one_that_napari_understands():
    for actions in OURS.values():
        assert all(isinstance(coerce_keybinding(action.key), KeyBinding) for action in actions.values())
