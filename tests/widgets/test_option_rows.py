"""Rows of a form derive from options: an option that is invented here has a row, a range, a hint and a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox

from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.option_fields import Option, option_fields
from napari_skipseg.widgets.forms.option_rows import OptionRows
from napari_skipseg.widgets.segment.form import SegmentOptionsBox

pytestmark = pytest.mark.gui


@dataclass(frozen=True)
class Invented(SegmentOptions):
    sharpen: Annotated[float, Option("Sharpen", "Sharpen the image first.", least=0, most=2, step=0.5)] = 0.5
    mirror: Annotated[bool, Option("Mirror", "Mirror the image first.")] = False


def test_a_new_option_has_a_row_by_its_field_alone(qtbot):
    fold = SegmentOptionsBox(Invented)
    qtbot.addWidget(fold)
    sharpen, mirror = fold.rows.field("sharpen"), fold.rows.field("mirror")
    assert isinstance(sharpen, QDoubleSpinBox)
    assert (sharpen.minimum(), sharpen.maximum(), sharpen.singleStep(), sharpen.value()) == (0, 2, 0.5, 0.5)
    assert "Sharpen the image first" in sharpen.toolTip()
    assert isinstance(mirror, QCheckBox)
    assert mirror.text() == "Mirror"
    with qtbot.waitSignal(fold.edited):
        sharpen.setValue(1.5)
    assert Invented(**fold.rows.values()).sharpen == 1.5


def test_rows_give_back_what_they_are_shown(qtbot):
    rows = OptionRows(option_fields(SegmentOptions).values())
    qtbot.addWidget(rows)
    shown = SegmentOptions("cpu", 0.3, 64, 4, channel=2, invert=True, padding="none")
    rows.show_values(shown)
    assert SegmentOptions(**rows.values()) == shown
    rows.show_values(SegmentOptions(samples=8, dropout=0.25))
    assert rows.values()["dropout"] == 0.25
    rows.show_values(SegmentOptions())
    assert rows.values()["dropout"] is None
