"""A note that a fine-tuning was interrupted, with a button that brings its settings back."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_skipseg.training.settings import FinetuneSettings
from napari_skipseg.training.unfinished import Unfinished
from napari_skipseg.widgets.forms.fields import WARNING_COLOR, MessageLine, set_hint
from napari_skipseg.wording import counted


class UnfinishedNote(QWidget):  # type: ignore[misc]
    """What was interrupted, and what goes on with it. wanted: its settings are to be shown in the form."""

    wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._settings: FinetuneSettings | None = None
        self.note, self.button = MessageLine(), QPushButton("Take its settings")
        set_hint(self.button, "Fill in the form as it was; then Fine-tune goes on from the step that is saved")
        self.button.clicked.connect(self._take)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.note)
        column.addWidget(self.button)
        self.hide()

    def offer(self, unfinished: Unfinished | None) -> None:
        """Say what was interrupted, or nothing."""
        self._settings = None if unfinished is None else unfinished.settings
        self.setVisible(unfinished is not None)
        if unfinished is not None:
            settings = unfinished.settings
            images = " and ".join(dict.fromkeys(settings.images))
            self.note.say(
                f"The fine-tuning '{settings.name}' was interrupted; {counted(unfinished.step, 'step')} are saved. "
                f"Open {images}, restore the corrections, take its settings and press Fine-tune: then it goes on.",
                WARNING_COLOR,
            )

    def text(self) -> str:
        """Return what is said."""
        return str(self.note.text())

    def _take(self) -> None:
        if self._settings is not None:
            self.wanted.emit(self._settings)
            self.hide()
