"""What is pressed while correcting: classes, what is right, the next place, how much there is, in and out of files."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_skipseg.corrections.tallies import Summary
from napari_skipseg.widgets.class_list import ClassList
from napari_skipseg.widgets.correct_keys import ACTIONS, hint_of
from napari_skipseg.widgets.fields import FAULT_COLOR, PlainLabel, set_hint
from napari_skipseg.widgets.offers import in_words
from napari_skipseg.widgets.places_list import PlacesList

HEADING = "QLabel { font-weight: 600; }"
QUIET = "QLabel { font-size: 8pt; }"
NEXT = "QPushButton:enabled { font-weight: 600; }"
SAVED, SAVING = "✓ saved", "saving…"


class CorrectBody(QWidget):  # type: ignore[misc]
    """The controls of corrections that are open, from the most used down. No button takes the keys from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.places = ClassList(), PlacesList()
        self.buttons = {name: _button(f"{action.text} ({_key(action.key)})") for name, action in ACTIONS.items()}
        for name, button in self.buttons.items():
            button.setToolTip(hint_of(name))
        self.buttons["previous place"].setText(ACTIONS["previous place"].text)
        self.buttons["previous place"].setMaximumWidth(32)
        self.buttons["next place"].setStyleSheet(NEXT)
        self.add_class = _button("+")
        self.add_class.setMaximumWidth(32)
        self.add_class.setToolTip("Add a class; double-click its name to change it")
        self.import_button, self.export_button = _button("Import"), _button("Export")
        self.amount, self.state = PlainLabel(), PlainLabel()
        self.amount.setWordWrap(True)
        for label in (self.amount, self.state):
            label.setStyleSheet(QUIET)
        self._make_menus()
        self._lay_out()

    def _make_menus(self) -> None:
        imports, exports = QMenu(self), QMenu(self)
        self.import_file = imports.addAction("Labels from a TIFF or MRC file…")
        self.import_zarr = imports.addAction("Labels from an OME-Zarr…")
        self.export_target = exports.addAction("Everything that is learnt from: strokes and accepted parts…")
        self.export_strokes = exports.addAction("Only the strokes…")
        self.import_button.setMenu(imports)
        self.export_button.setMenu(exports)
        self.import_button.setToolTip("Import labels as strokes: 0 = not looked at, 1 = background, 2, … = the classes")
        self.export_button.setToolTip("Write labels: 0 = not looked at, 1 = background, 2, … = the classes")

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.classes)
        by_name = self.buttons
        column.addLayout(_row(by_name["previous class"], by_name["next class"], self.add_class))
        column.addLayout(_row(by_name["undo"], by_name["redo"]))
        column.addWidget(_heading("Accept as right", "Everything that you accept is learnt from, background included"))
        column.addLayout(_row(by_name["accept slice"], by_name["accept view"], by_name["accept rectangle"]))
        column.addWidget(by_name["take back"])
        column.addWidget(_heading("Where to look next", "Where the model is least sure, spread over the stack"))
        column.addLayout(_row(by_name["previous place"], by_name["next place"], stretch=1))
        column.addWidget(self.places)
        line = QHBoxLayout()
        line.addWidget(self.amount, 1)
        line.addWidget(self.state, 0, Qt.AlignmentFlag.AlignTop)
        column.addSpacing(4)
        column.addLayout(line)
        column.addLayout(_row(self.import_button, self.export_button))

    def pause(self, is_paused: bool) -> None:
        """Switch off what takes a while, as long as one such thing is under way; painting goes on."""
        names = "next place", "previous place"
        for button in (self.import_button, self.export_button, *(self.buttons[name] for name in names)):
            button.setEnabled(not is_paused)

    def show_amount(self, summary: Summary, axes: str) -> None:
        """Say how much was corrected."""
        self.classes.show_counts(summary.pixels)
        if not summary.pixels:
            self.amount.setText("Nothing corrected yet: paint over what is wrong, accept what is right.")
            return
        accepted = f" ({summary.reviewed_pixels:,} accepted)" if summary.reviewed_pixels else ""
        self.amount.setText(in_words(summary, axes) + accepted)

    def show_saved(self, is_saved: bool, fault: str) -> None:
        """Say whether all of it is on disk; a fault is said in the tooltip, and by the tab."""
        self.state.setText("not saved" if fault else SAVED if is_saved else SAVING)
        set_hint(self.state, fault or "Every stroke is on disk within a second")
        self.state.setStyleSheet(QUIET.replace("}", f"background-color: {FAULT_COLOR}; }}") if fault else QUIET)


def _button(text: str) -> QPushButton:
    button = QPushButton(text)
    button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    button.setMinimumHeight(26)
    return button


def _key(key: str) -> str:
    return key.replace("Shift-", "⇧")


def _heading(text: str, hint: str) -> PlainLabel:
    label = PlainLabel(text)
    label.setStyleSheet(HEADING)
    label.setToolTip(hint)
    return label


def _row(*widgets: QWidget, stretch: int = -1) -> QHBoxLayout:
    """Return a row of widgets as wide as each other, or with all the room for one."""
    row = QHBoxLayout()
    row.setSpacing(4)
    for place, widget in enumerate(widgets):
        row.addWidget(widget, 1 if stretch < 0 and widget.maximumWidth() > 100 else int(place == stretch))
    return row
