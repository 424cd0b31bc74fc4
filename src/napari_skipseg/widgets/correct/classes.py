"""The list of classes to paint with: the chosen one, colours, names, and the number of pixels of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent
from qtpy.QtWidgets import QCheckBox, QColorDialog, QFrame, QHBoxLayout, QLineEdit, QPushButton, QWidget

from napari_skipseg.corrections.subject import (
    BACKGROUND,
    CLASS_COLORS,
    FIRST_CLASS,
    HIGHEST,
    NOT_LOOKED_AT,
    CorrectionClass,
)
from napari_skipseg.errors import InputError
from napari_skipseg.widgets.forms.fields import PlainLabel, as_note, fill_column, set_hint
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.utils.colormaps import DirectLabelColormap


BACKGROUND_COLOR = "#ff5a5f"
UNNAMED_COLOR = "#ffffff"
ACCEPTED_COLOR = "#3f7bff"
"""Colour of all accepted pixels, whatever their class: in the colours of the classes they would hide the result."""


def add_classes(classes: Sequence[CorrectionClass], names: Sequence[str]) -> tuple[CorrectionClass, ...]:
    """Return the classes with one more for each new name, each with a value of its own.

    Raises:
        InputError: there is no value left, or a name is empty.
    """
    grown = list(classes)
    for name in names:
        if name.casefold() in {each.name.casefold() for each in grown}:
            continue
        value = next_value(grown)
        if value > HIGHEST:
            raise InputError(f"There are {len(grown)} classes already: corrections hold no more.")
        used = {each.color for each in grown}
        free = [color for color in CLASS_COLORS if color not in used] or list(CLASS_COLORS)
        grown.append(CorrectionClass(name.strip(), value, free[0]))
    return tuple(grown)


def name_values(classes: Sequence[CorrectionClass], values: Iterable[int]) -> tuple[CorrectionClass, ...]:
    """Return the classes with one more for each value that has no class yet."""
    missing = sorted({*values} - {NOT_LOOKED_AT, BACKGROUND, *(each.value for each in classes)})
    grown = list(classes)
    for value in missing:
        color = CLASS_COLORS[(value - FIRST_CLASS) % len(CLASS_COLORS)]
        grown.append(CorrectionClass(new_class_name(grown, value), value, color))
    return tuple(sorted(grown, key=lambda each: each.value))


def rename_class(
    classes: Sequence[CorrectionClass], value: int, name: str, pixels: Mapping[int, int]
) -> tuple[CorrectionClass, ...]:
    """Return the classes, one of them renamed. pixels: how many each value has.

    If the class has no name yet, one of that name without pixels makes way: so imported labels can get the name of a
    class of the model.

    Raises:
        InputError: the name is empty, or another class has it.
    """
    may_take = any(each.value == value and is_unnamed(each.name) for each in classes)
    others = [each for each in classes if each.value != value and each.name.casefold() == name.strip().casefold()]
    if others and not (may_take and not any(pixels.get(each.value, 0) for each in others)):
        raise InputError(f"Another class is called '{name.strip()}' already: give this one a name of its own.")
    left = (each for each in classes if each not in others)
    return tuple(replace(each, name=name.strip()) if each.value == value else each for each in left)


def recolor_class(classes: Sequence[CorrectionClass], value: int, color: str) -> tuple[CorrectionClass, ...]:
    """Return the classes, one of them recoloured."""
    return tuple(replace(each, color=color) if each.value == value else each for each in classes)


def next_value(classes: Sequence[CorrectionClass]) -> int:
    """Return the value of the next class."""
    return max([FIRST_CLASS - 1, *(each.value for each in classes)]) + 1


def new_class_name(classes: Sequence[CorrectionClass], value: int) -> str:
    """Return a name that no class has yet: "class 3" for the value 3, which napari shows, or else a higher number."""
    names = {each.name.casefold() for each in classes}
    number = value
    while f"class {number}" in names:
        number += 1
    return f"class {number}"


def is_unnamed(name: str) -> bool:
    """Return whether a class still has the name that `new_class_name` gave it."""
    return re.fullmatch(r"class \d+", name.casefold()) is not None


def number_judged(classes: Sequence[CorrectionClass], judged: Sequence[CorrectionClass]) -> NDArray[np.uint8]:
    """Return a table from values of strokes to numbers: 1 = background, 2 and more = the judged classes in their order.

    Classes that are not judged count as background.
    """
    numbers = np.zeros(256, np.uint8)
    numbers[BACKGROUND] = BACKGROUND
    for each in classes:
        numbers[each.value] = judged.index(each) + 2 if each in judged else BACKGROUND
    return numbers


def colormap_of(classes: Sequence[CorrectionClass]) -> DirectLabelColormap:
    """Return the colormap of the layer of strokes."""
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, str] = {None: UNNAMED_COLOR, NOT_LOOKED_AT: "transparent", BACKGROUND: BACKGROUND_COLOR}
    colors.update({each.value: each.color for each in classes})
    return DirectLabelColormap(color_dict=colors)


def accepted_colormap() -> DirectLabelColormap:
    """Return the colormap of the layer of accepted pixels."""
    from napari.utils.colormaps import DirectLabelColormap

    return DirectLabelColormap(color_dict={None: ACCEPTED_COLOR, NOT_LOOKED_AT: "transparent"})


_CHOSEN = "QFrame#row { background-color: rgba(99, 137, 255, 95); border-radius: 4px; }"
_PLAIN = "QFrame#row { background-color: transparent; border-radius: 4px; }"
_NAME = "QLineEdit { background: transparent; border: none; padding: 0px; }"
NAME_ASKED = _NAME.replace("}", "font-style: italic; }")
NAME_EDITED = "QLineEdit { padding: 0px 2px; }"
ASK = "its name, such as mitochondrion"
JUDGED_HINT = (
    "Learn {name} from these corrections: whatever was painted or accepted and is not {name} then counts as a place "
    "without it. Untick a class that you did not look at"
)


class ClassRow(QFrame):  # type: ignore[misc]
    """One class. A click chooses it; a double click on the name renames it; the swatch recolours it."""

    chosen = Signal(int)
    renamed = Signal(int, str)
    recolored = Signal(int, str)
    ticked = Signal()

    def __init__(self, name: str, value: int, color: str, is_fixed: bool) -> None:
        super().__init__()
        self.setObjectName("row")
        self.value, self._name, self._color = value, name, color
        self.swatch, self.name, self.count, self.judged = QPushButton(), QLineEdit(name), PlainLabel(), QCheckBox()
        self.swatch.setFixedSize(16, 16)
        self.swatch.setStyleSheet(f"QPushButton {{ background-color: {color}; border-radius: 8px; }}")
        self.swatch.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.swatch.setEnabled(not is_fixed)
        self.swatch.clicked.connect(self._ask_color)
        for widget, role in ((self.swatch, "Colour of"), (self.name, "Name of"), (self.judged, "Learn")):
            widget.setAccessibleName(f"{role} {name}")
        self.count.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.judged.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        set_hint(self.judged, JUDGED_HINT.format(name=name))
        self.judged.clicked.connect(self.ticked)
        self._stop_editing()
        self.name.editingFinished.connect(self._on_name_edited)
        if not is_fixed:
            set_hint(self.name, f"Paint with {name}; double-click to {'name' if is_unnamed(name) else 'rename'} it")
            self.swatch.setToolTip("Another colour")
        self.is_fixed = is_fixed
        self.name.installEventFilter(self)
        row = QHBoxLayout(self)
        row.setContentsMargins(6, 3, 4, 3)
        row.setSpacing(6)
        for widget, stretch in ((self.swatch, 0), (self.name, 1), (self.count, 0), (self.judged, 0)):
            row.addWidget(widget, stretch)

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Choose this class."""
        self.chosen.emit(self.value)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Choose the class at a click on its name; edit the name at a double click."""
        if self.name.isReadOnly() and event.type() == QEvent.Type.MouseButtonPress:
            self.chosen.emit(self.value)
            return True
        if event.type() == QEvent.Type.MouseButtonDblClick and not self.is_fixed:
            self.edit()
            return True
        return bool(super().eventFilter(watched, event))

    def edit(self) -> None:
        """Make the name editable."""
        self.name.setReadOnly(False)
        self.name.setStyleSheet(NAME_EDITED)
        self.name.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.name.setFocus()
        self.name.selectAll()

    def ask_name(self) -> None:
        """Make the name of a new class editable, empty and with a hint."""
        self.edit()
        self.name.clear()
        self.name.setPlaceholderText(ASK)

    def _stop_editing(self) -> None:
        self.name.setReadOnly(True)
        self.name.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.name.setStyleSheet(NAME_ASKED if is_unnamed(self._name) else _NAME)
        self.name.deselect()

    def _on_name_edited(self) -> None:
        if self.name.isReadOnly():
            return
        self._stop_editing()
        wanted = self.name.text().strip() or self._name
        self.name.setText(self._name)
        self.renamed.emit(self.value, wanted)

    def _ask_color(self) -> None:
        color = QColorDialog.getColor(QColor(self._color), self, f"Colour of {self._name}")
        if color.isValid():
            self.recolored.emit(self.value, color.name())


class ClassList(QWidget):  # type: ignore[misc]
    """Background and the classes.

    A class is ticked as soon as it has pixels, unless the user changed its tick.
    """

    chosen = Signal(int)
    renamed = Signal(int, str)
    recolored = Signal(int, str)
    judged_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, ClassRow] = {}
        self._classes: tuple[CorrectionClass, ...] = ()
        self._ticks: dict[int, bool] = {}
        self.heading = PlainLabel("pixels  learn")
        self.heading.setAlignment(Qt.AlignmentFlag.AlignRight)
        as_note(self.heading, 2)
        self._column = fill_column(self, self.heading, spacing=1)

    def show_classes(self, classes: Sequence[CorrectionClass]) -> None:
        """Show these classes; what the user ticked stays."""
        if tuple(classes) == self._classes and self.rows:
            return
        self._classes = tuple(classes)
        for row in self.rows.values():
            self._column.removeWidget(row)
            row.hide()
            row.deleteLater()
        self.rows = {}
        self.heading.setVisible(len(classes) > 1)
        self._add(ClassRow("background", BACKGROUND, BACKGROUND_COLOR, is_fixed=True))
        for each in classes:
            self._add(ClassRow(each.name, each.value, each.color, is_fixed=False))

    def _add(self, row: ClassRow) -> None:
        self.rows[row.value] = row
        self._column.addWidget(row)
        row.chosen.connect(self.chosen)
        row.renamed.connect(self.renamed)
        row.recolored.connect(self.recolored)

        def on_ticked() -> None:
            self._ticks[row.value] = bool(row.judged.isChecked())
            self.judged_changed.emit()

        row.ticked.connect(on_ticked)
        # a single class needs no tick: the corrections are made for it
        row.judged.setVisible(row.value != BACKGROUND and len(self._classes) > 1)
        row.setStyleSheet(_PLAIN)

    def forget(self) -> None:
        """Forget which ticks the user changed."""
        self._ticks = {}

    def mark_chosen(self, value: int) -> None:
        """Highlight the class that is painted with."""
        for row in self.rows.values():
            row.setStyleSheet(_CHOSEN if row.value == value else _PLAIN)

    def show_counts(self, pixels: Mapping[int, int]) -> None:
        """Show the number of pixels of each value, and tick the classes that have pixels."""
        for value, row in self.rows.items():
            count = pixels.get(value, 0)
            row.count.setText(short_count(count))
            row.count.setToolTip(f"{counted(count, 'pixel')} painted or accepted")
            row.judged.setChecked(self._ticks.get(value, count > 0))

    def judged(self) -> tuple[CorrectionClass, ...]:
        """Return the ticked classes, which are learnt from the corrections."""
        if len(self._classes) == 1:
            return self._classes
        return tuple(each for each in self._classes if self.rows[each.value].judged.isChecked())


def short_count(count: int) -> str:
    """Return a number of pixels in a short form: 950, 12.3k, 4.5M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{float(f'{count / size:.3g}'):g}{letter}"
    return str(count)
