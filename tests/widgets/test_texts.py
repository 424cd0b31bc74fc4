"""What the panel says: plain sentences, a tooltip where a user would ask, no promise of time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_skipseg.wording import counted

SOURCE = Path(__file__).parents[2] / "src" / "napari_skipseg"
ODD = (
    "all is there", "is the choice now", "stays the choice", "wavers", "is made small", "however large",
    "without those at the border", "find them too", "may lie among", "take back", "untick it.", "else untick",
    "looking at the corrections", "in the folders within it", "results of ours", "what seeds are the highest",
    "closer seeds become one", "above it a voxel", "1 pixels", ": seconds", ": minutes",
)  # fmt: skip
"""Phrases that readers had to read twice, or that promised what the plan contradicts."""


def texts(file: Path) -> Iterator[str]:
    """The strings of a module, but for its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


@pytest.mark.parametrize("room", ["widgets", "batch", "corrections", "training"])
def test_no_text_has_a_phrase_that_readers_stumbled_over(room):
    said = [(file.name, text) for file in sorted((SOURCE / room).rglob("*.py")) for text in texts(file)]
    assert len(said) > 100
    found = [(name, text) for name, text in said for odd in ODD if odd in text.lower()]
    assert [each for each in found if not each[1].startswith("take back")] == []  # the name of an action, not shown


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 pixels"), (1, "1 pixel"), (2, "2 pixels"), (1234, "1,234 pixels")]
)
def test_a_number_and_its_noun_agree(number, words):
    assert counted(number, "pixel") == words


@pytest.mark.gui
def test_every_field_of_the_segment_and_objects_forms_has_a_tooltip(open_panel):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((3, 32, 48), np.uint8), name="em")
    form, objects = panel.segment_tab.form, panel.objects_tab.form
    fields = {name: getattr(form, name) for name in ("image", "axes", "device", "extent", "threshold", "card")}
    fields |= {"objects layer": objects.layer, "objects measured": objects.measured}
    fields |= {f"objects {name}": objects.field(name) for name in objects.values()}
    assert [name for name, field in fields.items() if not field.toolTip()] == []


@pytest.mark.gui
def test_the_device_line_is_as_high_as_its_text_also_where_run_again_is_shown(open_panel, qtbot):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((3, 32, 48), np.uint8), name="em")
    tab = panel.segment_tab
    tab.segment()
    qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)
    viewer.layers.selection.active = viewer.layers["probability"]
    qtbot.waitUntil(tab.again_button.isVisible, timeout=5_000)
    note = tab.form.device_note
    note.setText(note.text() + " and so on" * 12)
    qtbot.waitUntil(lambda: note.height() == note.heightForWidth(note.width()), timeout=5_000)
    assert note.height() > 3 * note.fontMetrics().height()
