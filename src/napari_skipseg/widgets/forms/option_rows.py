"""Rows of a form that derive from the options of a dataclass: label, tooltip, range, choices and default."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QLineEdit, QSpinBox, QWidget

from napari_skipseg.option_fields import OptionField
from napari_skipseg.widgets.forms.fields import (
    FreshCombo,
    KeyedSlider,
    NoteLabel,
    PlainLabel,
    choose_value,
    fill_column,
    fill_form,
    mark_field,
)

_LARGEST = 2**31 - 1
"""Top of a number whose option has none: a spin box of Qt goes no further."""


@dataclass(frozen=True)
class OptionEditor:
    """A widget that edits an option. read, show: get and set its value. changed: the signal that it was edited."""

    widget: Any
    read: Callable[[], Any]
    show: Callable[[Any], object]
    changed: Any


class OptionRows(QWidget):  # type: ignore[misc]
    """A form with a row for each option: a field, and a note below it. edited: the name of an option with a new value.

    rows: options, and (title, widget) of rows that are no options, from the top down. editors: the fields of options
    that need one of their own, by name. indent: pixels to the left of the rows.
    """

    edited = Signal(str)

    def __init__(
        self,
        rows: Iterable[OptionField | tuple[str, QWidget]],
        editors: Mapping[str, OptionEditor] | None = None,
        indent: int = 12,
    ) -> None:
        super().__init__()
        self._options: dict[str, OptionField] = {}
        self._editors: dict[str, OptionEditor] = {}
        self._notes: dict[str, PlainLabel] = {}
        self._layout = fill_form(self, spacing=6)
        self._layout.setContentsMargins(indent, 0, 0, 0)
        for each in rows:
            # the Tab key goes through the fields in the order in which they are added
            if isinstance(each, OptionField):
                self._add_option(each, (editors or {}).get(each.name) or make_editor(each))
            else:
                self._layout.addRow(*each)
        self.mark({})

    def _add_option(self, each: OptionField, editor: OptionEditor) -> None:
        name, option, note = each.name, each.option, NoteLabel()
        self._options[name], self._editors[name], self._notes[name] = each, editor, note
        row = QWidget()
        fill_column(row, editor.widget, note, spacing=0)
        first_sentence = option.help.split(". ")[0].rstrip(".") + "."
        self.show_note(name, first_sentence if isinstance(editor.widget, KeyedSlider) else "")
        self._layout.addRow("" if isinstance(editor.widget, QCheckBox) else option.title, row)

        def show_note_of_value(*_: object) -> None:
            if option.notes:
                self.show_note(name, option.notes.get(editor.read(), ""))

        editor.changed.connect(show_note_of_value)
        editor.changed.connect(lambda *_: self.edited.emit(name))
        show_note_of_value()

    def field(self, name: str) -> Any:
        """Return the field of an option."""
        return self._editors[name].widget

    def values(self) -> dict[str, Any]:
        """Return the values in the fields, by the names of the options."""
        return {name: editor.read() for name, editor in self._editors.items()}

    def show_values(self, options: object) -> None:
        """Show the options of a dataclass."""
        for name, editor in self._editors.items():
            editor.show(getattr(options, name))

    def changed_values(self) -> dict[str, Any]:
        """Return the values that are not the defaults, by the names of the options."""
        return {name: value for name, value in self.values().items() if value != self._options[name].default}

    def show_remembered(self, values: Mapping[str, Any], names: Iterable[str]) -> None:
        """Show those of the values that an option takes and that `names` has: they come from a file."""
        for name in names:
            if name in values and self._options[name].accepts(values[name]):
                self._editors[name].show(values[name])

    def show_row(self, row: str | QWidget, shown: bool) -> None:
        """Show or hide the row of an option, or of a widget that is no option."""
        self._layout.setRowVisible(self._editors[row].widget.parentWidget() if isinstance(row, str) else row, shown)

    def show_note(self, name: str, text: str) -> None:
        """Show `text` below the field of an option; "" hides the note."""
        self._notes[name].setText(text)
        self._notes[name].setVisible(bool(text))

    def mark(self, faults: Mapping[str, str]) -> None:
        """Colour the fields that are wrong, and explain all in their tooltips."""
        for name, editor in self._editors.items():
            mark_field(editor.widget, faults.get(name, ""), self._options[name].option.form_text)


def make_editor(each: OptionField) -> OptionEditor:
    """Return the editor of an option, with its default."""
    option = each.option
    if option.choices:
        combo = FreshCombo()
        combo.offer([(option.labels.get(choice, str(choice)), choice) for choice in option.choices], each.default)
        return edit_combo(combo)
    if each.kind is bool:
        box = QCheckBox(option.title)
        box.setChecked(bool(each.default))
        return OptionEditor(box, box.isChecked, lambda value: box.setChecked(bool(value)), box.toggled)
    if each.kind in (int, float):
        return _make_number(each)
    line = QLineEdit(each.default or "")

    def read() -> Any:
        return line.text().strip() or each.default

    return OptionEditor(line, read, lambda value: line.setText(value or ""), line.editingFinished)


def edit_combo(combo: FreshCombo) -> OptionEditor:
    """Return the editor of an option with choices; it shows no value that is not offered."""
    return OptionEditor(combo, combo.currentData, partial(choose_value, combo), combo.activated)


def _make_number(each: OptionField) -> OptionEditor:
    """Return a slider for a fraction between two limits, else a spin box, whose minimum stands for None."""
    option, is_whole = each.option, each.kind is int
    step = option.step or (1 if is_whole else 0.1)
    decimals = 0 if is_whole else max(0, -math.floor(math.log10(step)))
    lowest = option.above if option.above is not None else option.least or 0
    if not is_whole and not each.is_optional and option.least is not None and option.most is not None:
        slider = KeyedSlider(option.most, step, each.default, decimals, lowest)
        return OptionEditor(
            slider, lambda: round(float(slider.value()), decimals), slider.setValue, slider.valueChanged
        )
    if each.is_optional and option.above is None:
        lowest -= step  # the lowest value itself is allowed
    highest = option.most if option.most is not None else _LARGEST if option.below is None else option.below - step
    number: Any = QSpinBox() if is_whole else QDoubleSpinBox()
    if is_whole:
        lowest, highest, step = round(lowest), round(highest), round(step)
    else:
        number.setDecimals(decimals)
    number.setRange(lowest, highest)
    number.setSingleStep(step)
    number.setKeyboardTracking(False)  # the 1 of a 10 that is being typed is no value yet
    number.setSpecialValueText(option.unset or ("none" if each.is_optional else ""))

    def read() -> Any:
        return None if each.is_optional and number.value() == number.minimum() else each.kind(number.value())

    def show(value: float | None) -> None:
        number.setValue(number.minimum() if value is None else value)

    show(each.default)
    return OptionEditor(number, read, show, number.valueChanged)
