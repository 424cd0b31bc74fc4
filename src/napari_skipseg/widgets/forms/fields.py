"""Small fields for forms: faults and tooltips, labels, numbers, combo boxes, folds and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QIcon, QKeyEvent, QPaintEvent, QPixmap, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QListWidgetItem,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible, QLabeledDoubleSlider

from napari_skipseg.errors import FileError
from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.widgets.forms.dialogs import ask_folder
from napari_skipseg.widgets.layers.axes import LAYER_UNITS

_SMALLER = "smaller_text"
FAULT_COLOR = "rgba(214, 69, 80, 110)"
WARNING_COLOR = "rgba(224, 165, 40, 90)"
PLAIN_STYLE = "plain_style"  # the Qt property of a field with its style without a fault


def as_note(widget: QWidget, points: int = 1) -> None:
    """Show the texts of a widget in a panel so many points smaller than napari's own."""
    widget.setProperty(_SMALLER, points)


def text_sizes(points: int) -> str:
    """Return the style of a panel whose texts follow napari's font size; napari itself leaves some as they are."""
    notes = (f'*[{_SMALLER}="{less}"] {{ font-size: {max(points - less, 6)}pt; }}' for less in (1, 2))
    return f"QLineEdit {{ font-size: {points}pt; }} {' '.join(notes)}"


BUTTON_HEIGHT = 30
_PRIMARY_STYLE = """
QPushButton:enabled { background-color: #3f66c8; color: white; font-weight: 600; }
QPushButton:enabled:hover { background-color: #4f78dc; }
"""


class PrimaryButton(QPushButton):  # type: ignore[misc]
    """The button that starts what a tab is for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setStyleSheet(_PRIMARY_STYLE)
        self.setMinimumHeight(BUTTON_HEIGHT)


class ScrolledDown(QScrollArea):  # type: ignore[misc]
    """A widget that scrolls down when it is too high."""

    def __init__(self, inner: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(inner)


def fill_column(owner: QWidget, *items: QWidget | QLayout, spacing: int = 4, margin: int = 0) -> QVBoxLayout:
    """Put widgets and layouts below each other into a widget."""
    column = QVBoxLayout(owner)
    column.setContentsMargins(margin, margin, margin, margin)
    column.setSpacing(spacing)
    for item in items:
        if isinstance(item, QLayout):
            column.addLayout(item)
        else:
            column.addWidget(item)
    return column


def make_row(*widgets: QWidget, stretches: Sequence[int] = ()) -> QHBoxLayout:
    """Return widgets beside each other. stretches: their shares of the width, by default the same for all."""
    row = QHBoxLayout()
    row.setSpacing(4)
    for widget, stretch in zip(widgets, stretches or (1,) * len(widgets), strict=True):
        row.addWidget(widget, stretch)
    return row


def fill_form(owner: QWidget | None = None, spacing: int = 7) -> QFormLayout:
    """Return the layout of a form, whose fields are as wide as the panel allows."""
    form = QFormLayout(owner)
    form.setContentsMargins(0, 0, 0, 0)
    form.setVerticalSpacing(spacing)
    form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form


class Missing(str):
    """A fault that disables a button but is no mistake, such as an image still to be opened: it has no alarm colour."""

    __slots__ = ()


def color_of(fault: str) -> str:
    """Return the background colour of a fault."""
    return "transparent" if isinstance(fault, Missing) or not fault else FAULT_COLOR


def mark_field(field: QWidget, fault: str, hint: str = "") -> None:
    """Colour a field with a fault, which becomes its tooltip; without one, restore its style and show `hint`."""
    kind = field.metaObject().className()
    plain = field.property(PLAIN_STYLE) or ""
    is_wrong = bool(fault) and not isinstance(fault, Missing)
    colored = f"{kind} {{ background-color: {FAULT_COLOR}; }}" if is_wrong else ""
    if field.styleSheet() != plain + colored:
        field.setStyleSheet(plain + colored)
    set_hint(field, fault or hint)


def set_hint(widget: QWidget | QListWidgetItem, hint: str) -> None:
    """Set a tooltip, which may contain names of files, layers and classes: none of them becomes HTML."""
    widget.setToolTip(without_bidi_marks(hint))


class PlainLabel(QLabel):  # type: ignore[misc]
    """A label of plain text. Qt's own label guesses, and may take the name of a file for HTML that loads pictures."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setText(text)


class RichLabel(QLabel):  # type: ignore[misc]
    """A label of HTML. Text from outside must be escaped in it."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setText(text)


class MessageLine(PlainLabel):
    """A line for a fault, a warning or a result."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self._shown: tuple[str, str] | None = None
        self.say("")

    def say(self, text: str, color: str = "transparent") -> None:
        """Show `text`; an empty one hides the line."""
        before, self._shown = self._shown, (text, color)
        if self._shown == before:
            return
        self.setText(text)
        self.setVisible(bool(text))
        if before is None or before[1] != color:  # a new style repaints the whole window
            self.setStyleSheet(f"QLabel {{ background-color: {color}; border-radius: 3px; padding: 5px; }}")

    def say_fault(self, fault: str) -> None:
        """Show a fault, in the alarm colour unless something is only missing."""
        self.say(fault, color_of(fault))


class NoteLabel(PlainLabel):
    """A wrapped label in small letters."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setWordWrap(True)
        as_note(self)


class WrappedLine(PlainLabel):
    """A wrapped label as high as its text is in its width: in a form, Qt takes the height for a different width."""

    def __init__(self, is_note: bool = False) -> None:
        super().__init__()
        self.setWordWrap(True)
        as_note(self, int(is_note))

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Fit the height to a new width."""
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._fit()

    def setText(self, text: str) -> None:  # noqa: N802
        """Show `text`."""
        if text != self.text():
            super().setText(text)
            self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # heightForWidth never returns less than the minimum
        self.setFixedHeight(max(self.heightForWidth(self.width()), 0))


TEXT_MARGIN = 4
"""Pixels beside the text of a combo box that Qt's style keeps free."""


class FreshCombo(QComboBox):  # type: ignore[misc]
    """A combo box that never widens the panel; a text that is too long loses its middle, never the mark at its end.

    opening: its list is about to open, so the choices may be updated.
    """

    opening = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)

    def shown_text(self) -> str:
        """Return the text in the box, shortened to the room that there is; what is in brackets at its end stays."""
        box = QStyleOptionComboBox()
        self.initStyleOption(box)
        part = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, box, part, self)
        text, metrics = self.currentText(), self.fontMetrics()
        mark = text[text.rfind(" (") :] if text.endswith(")") and " (" in text else ""
        name_room = room.width() - TEXT_MARGIN - metrics.horizontalAdvance(mark)
        return str(metrics.elidedText(text.removesuffix(mark), Qt.TextElideMode.ElideMiddle, name_room)) + mark

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Paint the box as Qt does, with the shown text: Qt itself cuts off the end."""
        painter, box = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(box)
        box.currentText = self.shown_text()
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, box)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, box)

    def showPopup(self) -> None:  # noqa: N802
        """Open the list."""
        self.opening.emit()
        super().showPopup()

    def offer(self, choices: Sequence[tuple[str, object]], chosen: object) -> None:
        """Offer (text, value) pairs and choose the one with value `chosen`, or else the first; emit nothing."""
        self.blockSignals(True)
        self.clear()
        for text, value in choices:
            self.addItem(text, value)
        values = [value for _, value in choices]
        self.setCurrentIndex(values.index(chosen) if chosen in values else min(0, len(values) - 1))
        self.blockSignals(False)


def choose_value(combo: QComboBox, value: object) -> None:
    """Choose the item that has `value`, as a user would; nothing changes if there is none."""
    number = combo.findData(value)
    if number >= 0:
        combo.setCurrentIndex(number)
        combo.activated.emit(number)


KEY_STEPS = {
    Qt.Key.Key_Right: 1,
    Qt.Key.Key_Up: 1,
    Qt.Key.Key_Left: -1,
    Qt.Key.Key_Down: -1,
    Qt.Key.Key_PageUp: 10,
    Qt.Key.Key_PageDown: -10,
}


class KeyedSlider(QLabeledDoubleSlider):  # type: ignore[misc]
    """A slider with its number beside it. Arrow keys move it by a step, page keys by ten steps."""

    def __init__(self, highest: float, step: float, value: float, decimals: int = 2, lowest: float = 0.0) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setRange(lowest, highest)
        self.setSingleStep(step)
        self.setDecimals(decimals)
        self.setValue(value)
        for inner in self.findChildren(QSlider):
            inner.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # superqt's inner slider takes the keys and ignores them

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Move by the key's step, or to an end."""
        ends = {Qt.Key.Key_Home: self.minimum(), Qt.Key.Key_End: self.maximum()}
        key = Qt.Key(event.key())
        if key in KEY_STEPS:
            self.setValue(self.value() + KEY_STEPS[key] * self.singleStep())
        elif key in ends:
            self.setValue(ends[key])
        else:
            super().keyPressEvent(event)


class PlainNumber(QDoubleSpinBox):  # type: ignore[misc]
    """A number written as 50 rather than 50.000000, without buttons."""

    def __init__(self, hint: str) -> None:
        super().__init__()
        self.setDecimals(6)
        self.setRange(0.0, 1e9)
        self.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
        self.setKeyboardTracking(False)
        self.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.setProperty(PLAIN_STYLE, "QDoubleSpinBox { min-width: 32px; padding: 0px; }")  # napari's own is 90 px
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.hint = hint

    def textFromValue(self, value: float) -> str:  # noqa: N802
        """Return the number as it is written."""
        return f"{value:.7g}"


class VoxelSizeField(QWidget):  # type: ignore[misc]
    """z, y and x of a voxel and their unit, in one row."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.numbers = {axis: PlainNumber(f"voxel size along {axis.lower()}") for axis in "ZYX"}
        self.unit = FreshCombo()
        self.unit.setMinimumContentsLength(2)
        self.unit.offer([(unit, unit) for unit in LAYER_UNITS], "pixel")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        for place, number in enumerate(self.numbers.values()):
            if place:
                row.addWidget(PlainLabel("×"))
            row.addWidget(number, 1)
            number.setValue(1.0)
            number.setAccessibleName(number.hint[0].upper() + number.hint[1:])
            number.valueChanged.connect(lambda _: self.edited.emit())
        row.addWidget(self.unit)
        self.unit.setAccessibleName("Unit of the voxel size")
        self.unit.activated.connect(lambda _: self.edited.emit())

    def show_size(self, voxel_size: tuple[float, float, float], unit: str, has_z: bool) -> None:
        """Show a voxel size; emit nothing."""
        for number, size in zip(self.numbers.values(), voxel_size, strict=True):
            number.blockSignals(True)
            number.setValue(size)
            number.blockSignals(False)
        self.numbers["Z"].setEnabled(has_z)
        offered = LAYER_UNITS if unit in LAYER_UNITS else (*LAYER_UNITS, unit)
        self.unit.offer([(name, name) for name in offered], unit)

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """The (z, y, x) voxel size in the field."""
        z, y, x = (float(number.value()) for number in self.numbers.values())
        return z, y, x

    def mark(self, fault: str) -> None:
        """Colour the numbers that are wrong."""
        for number in self.numbers.values():
            mark_field(number, fault if number.value() <= 0 else "", number.hint)


class AxesField(QLineEdit):  # type: ignore[misc]
    """A field for the letters of the axes, always in capitals."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setMaxLength(5)

        def on_text_edited(text: str) -> None:
            place = self.cursorPosition()
            self.setText(text.upper())
            self.setCursorPosition(place)
            self.edited.emit()

        self.textEdited.connect(on_text_edited)


class ConnectionGroup:
    """Connections to events of the viewer, which outlives a widget: the widget cuts them when it is deleted."""

    def __init__(self) -> None:
        self._ties: list[tuple[object, Callable[..., None]]] = []

    def tie(self, event: object, callback: Callable[..., None]) -> None:
        """Call `callback` at `event`, a napari event emitter, until `cut`."""
        event.connect(callback)  # type: ignore[attr-defined]
        self._ties.append((event, callback))

    def cut(self, *_: object) -> None:
        """Cut all connections."""
        for event, callback in self._ties:
            event.disconnect(callback)  # type: ignore[attr-defined]
        self._ties.clear()


_FLAT = (
    "QPushButton, QPushButton:checked { text-align: left; border: none; background: transparent; padding: 3px 0px; }"
)


class Collapsible(QCollapsible):  # type: ignore[misc]
    """A title that a click opens and closes."""

    _changes = ""

    def __init__(self, title: str) -> None:
        super().__init__(f"▸ {title}", expandedIcon=_no_icon(), collapsedIcon=_no_icon())
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.toggleButton().setStyleSheet(_FLAT)
        self._title = title
        self.toggled.connect(lambda opened: self._show_title())
        self.setDuration(0)

    def note_changes(self, count: int) -> None:
        """Show in the title how many options are not the defaults: they count also while it is closed."""
        self._changes = f" ({count} changed)" if count else ""
        self._show_title()

    def _show_title(self) -> None:
        self.setText(f"{'▾' if self.isExpanded() else '▸'} {self._title}{self._changes}")

    def fill(self, inner: QWidget) -> None:
        """Put a closed widget below the title."""
        self.setContent(inner)
        self.toggled.connect(inner.setVisible)  # the Tab key goes into a widget of no height, not into a hidden one
        self.collapse(animate=False)

    def fit(self) -> None:
        """Take the height of the rows."""
        if self.isExpanded():
            self.expand(animate=False)


def _no_icon() -> QIcon:
    """Return a clear icon: superqt's own would keep the colour of the first theme."""
    pixmap = QPixmap(1, 1)
    pixmap.fill(Qt.GlobalColor.transparent)
    return QIcon(pixmap)


class FolderField(QWidget):  # type: ignore[misc]
    """The path of a file or folder, and a button to choose one."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self.text, self.button = QLineEdit(), QPushButton("…")
        self.button.setMaximumWidth(30)
        self.button.setAccessibleName(f"Choose the folder of {what.lower()}")

        def choose() -> None:
            if chosen := ask_folder(self, f"Folder of {what.lower()}", what.lower()):
                self.text.setText(str(chosen))

        self.button.clicked.connect(choose)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.button)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def typed(self) -> str:
        """Return the text in the field without spaces around it."""
        return str(self.text.text().strip())

    def path(self) -> Path:
        """Return the path in the field.

        Raises:
            FileError: the field is empty, or there is no such file or folder.
        """
        path = Path(self.typed() or ".").expanduser()
        if not self.typed() or not path.exists():
            raise FileError(f"{self._what} are missing: '{self.text.text()}' is no file or folder. Choose one.")
        return path


def call_action(action: Callable[[], object], checked: bool = False) -> None:
    """Call an action that takes no argument; Qt passes `checked`."""
    action()
