"""The pictures of the documentation are not older than the window that they show."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.gui


def test_every_label_and_button_of_the_window_was_there_when_the_pictures_were_made(open_panel):
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "scripts" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    _, panel = open_panel()
    pictured = json.loads(pictures.TEXTS.read_text(encoding="utf-8"))
    assert pictures.window_texts(panel) == pictured, "make them again: scripts/pictures.py, loop_pictures.py, walks.py"
    assert {"Segment", "Preview", "Image"} <= set(pictured["Segment"])
