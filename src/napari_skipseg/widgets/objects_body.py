"""What the Objects tab is made of: its widgets, and where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QPushButton, QVBoxLayout

from napari_skipseg.widgets.fields import Links, Message
from napari_skipseg.widgets.job_tab import JobTab
from napari_skipseg.widgets.objects_again import ObjectsAgainButton
from napari_skipseg.widgets.objects_form import ObjectsForm
from napari_skipseg.widgets.objects_preview import ObjectsPreview
from napari_skipseg.widgets.objects_scores import ScoreBox
from napari_skipseg.widgets.objects_table import ObjectsTable
from napari_skipseg.widgets.segment import PRIMARY
from napari_skipseg.widgets.turns import EngineLine

if TYPE_CHECKING:
    from napari.components import ViewerModel

SETTLED = 120
"""Milliseconds for which the view rests before it is looked at anew."""


class ObjectsBody(JobTab):
    """Form, Preview, Find objects and Cancel, one line of how it went, the table, Save and Score."""

    def __init__(self, line: EngineLine, viewer: ViewerModel) -> None:
        super().__init__(line)
        self._viewer = viewer
        self._make_widgets()
        self._lay_out()

    def _make_widgets(self) -> None:
        self.form, self.look = ObjectsForm(), ObjectsPreview(self, self._viewer)
        self.preview, self.preview_note = QCheckBox("Preview on screen"), Message()
        self.preview.setToolTip("Find the objects on screen again whenever a slider or the view moves")
        self.find_button, self.save_button = QPushButton("Find objects"), QPushButton("Save…")
        self.find_button.setMinimumHeight(30)
        self.save_button.setToolTip("Write the labels as OME-TIFF or OME-Zarr, and the measurements as CSV beside them")
        self.table, self.score_box = ObjectsTable(), ScoreBox()
        self.links = Links()
        self.again_button = ObjectsAgainButton(self._viewer, self.links)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SETTLED)

    def _lay_out(self) -> None:
        self.find_button.setStyleSheet(PRIMARY)
        buttons = QHBoxLayout()
        buttons.addWidget(self.find_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 10, 10, 10)
        column.setSpacing(6)
        column.addWidget(self.form)
        column.addWidget(self.preview)
        column.addWidget(self.preview_note)
        column.addLayout(buttons)
        column.addWidget(self.progress)
        for widget in (self.progress_text, self.message, self.again_button):
            column.addWidget(widget)
        column.addWidget(self.table, 1)
        column.addWidget(self.save_button)
        column.addWidget(self.score_box)
        column.addStretch(0)
