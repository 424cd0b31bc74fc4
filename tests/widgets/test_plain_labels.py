"""Labels, tooltips and offers of the panel show names as they are, and never as HTML."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QListWidgetItem

from napari_skipseg import widgets
from napari_skipseg.widgets.correct.sessions import RecoveryOffer
from napari_skipseg.widgets.forms.fields import MessageLine, PlainLabel, RichLabel, WrappedLine, mark_field, set_hint

pytestmark = pytest.mark.gui
BAD = "<img src='//evil/share/x.png'>.tif"


def test_every_label_says_whether_it_holds_text_or_html() -> None:
    """Qt's own label guesses: no module of the panel makes one."""
    for file in Path(widgets.__file__).parent.glob("*.py"):
        calls = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        assert "QLabel" not in {call.func.id for call in calls if isinstance(call.func, ast.Name)}, file.name


@pytest.mark.parametrize("kind", [PlainLabel, MessageLine, WrappedLine])
def test_labels_of_names_are_plain(qtbot: object, kind: type[QLabel]) -> None:
    label = kind()
    label.setText(BAD)
    assert label.textFormat() == Qt.TextFormat.PlainText
    assert label.text() == BAD
    assert RichLabel().textFormat() == Qt.TextFormat.RichText


def test_tooltips_and_offers_are_plain(qtbot: object) -> None:
    label, item = PlainLabel(), QListWidgetItem()
    for widget in (label, item):
        set_hint(widget, BAD)
        assert not Qt.mightBeRichText(widget.toolTip())
    mark_field(label, BAD)
    assert not Qt.mightBeRichText(label.toolTip())
    assert RecoveryOffer(BAD, "Go on", None).label.textFormat() == Qt.TextFormat.PlainText
