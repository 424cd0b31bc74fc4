"""What pops up: its first line is read whole in napari's own popup, and nothing of the sentence is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from napari._qt.dialogs.qt_notification import NapariQtNotification
from qtpy.QtGui import QFontMetrics

from napari_skipseg.corrections.catalog import StoredCorrections
from napari_skipseg.corrections.subject import Subject
from napari_skipseg.widgets.correct.sessions import day_of, lost_text
from napari_skipseg.widgets.forms import job_tab
from napari_skipseg.widgets.forms.job_tab import FITS, head_of, headed


def lost(name: str, changed: float) -> StoredCorrections:
    return StoredCorrections(Path(name), Subject(name, name, "", (4, 4), "YX"), (), changed, True, False, False)


LOST = lost_text([lost("em", 1e9), lost("other", 5e8)])


def test_corrections_that_were_left_behind_are_announced_with_image_and_time():
    assert "'em'" in LOST
    assert day_of(1e9) in LOST
    assert "1 other image" in LOST
    assert "other image" not in lost_text([lost("em", 1e9)])


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (LOST, "napari ended while you painted on 'em'"),
        (
            "The engine process ended unexpectedly (killed). Press Segment to start a new one.",
            "The engine process ended unexpectedly",
        ),
        ("There is not enough memory: choose a smaller tile, or close programs.", "There is not enough memory"),
        ("Training mine failed (RuntimeError: the loss is odd). Try again.", "Training mine failed"),
        ("No voxel is labelled mitochondrion anywhere in these labels: paint.", "No voxel is labelled mitochondrion…"),
        ("Oh: this is what went wrong with all of it today.", "Oh: this is what went wrong with all…"),
    ],
)
def test_a_long_text_is_headed_by_what_fits_into_the_line(text, head):
    assert head_of(text) == head
    assert len(head) <= FITS
    assert headed(text) == f"{head}\n{text}"


def test_a_short_text_pops_up_as_it_is():
    assert headed("Cancelled. Nothing was changed.") == "Cancelled. Nothing was changed."


@pytest.mark.gui
def test_the_line_is_read_whole_in_the_window(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    text = "The corrections cannot be written to disk (no space left): free some space, and paint on."
    popup = NapariQtNotification(headed(text), "info", parent=viewer.window._qt_window)
    popup.show()
    width_of = QFontMetrics(popup.message.font()).horizontalAdvance
    for line in (head_of(text), head_of(LOST), "The quick brown fox jumps over lazy dogs"):
        assert len(line) <= FITS
        assert width_of(line) <= popup.message.width()
    assert popup.message.text() == f"The corrections cannot be written to…\n{text}"
    popup.close()


def test_all_that_pops_up_goes_through_one_place():
    files = Path(job_tab.__file__).parents[1].rglob("*.py")
    assert [file.name for file in files if "utils.notifications" in file.read_text("utf-8")] == ["job_tab.py"]
