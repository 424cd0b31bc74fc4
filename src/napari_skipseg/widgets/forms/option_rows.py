"""Rows of a form that derive from the options of a dataclass: label, tooltip, range, choices and default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from napari_skipseg.option_fields import OptionField
from napari_skipseg.widgets.forms.fields import FreshCombo, mark_field

_LARGEST = 99_999
"""Top of a number in a form whose option has none."""


class OptionRows(QWidget):  # type: ignore[misc]
    """A field for each option. `edited` says that one of them has another value now."""

    edited = Signal()

    def __init__(self, options: Iterable[OptionField]) -> None:
        super().__init__()
        self._options = {each.name: each for each in options}
        self._fields = {name: make_field(each) for name, each in self._options.items()}
        self._rows = QFormLayout(self)
        self._rows.setContentsMargins(12, 0, 0, 0)
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for name, field in self._fields.items():
            self._rows.addRow("" if isinstance(field, QCheckBox) else self._options[name].option.title, field)
            _change_of(field).connect(self._emit_edited)
        self.mark({})

    def field(self, name: str) -> Any:
        """Return the field of an option."""
        return self._fields[name]

    def values(self) -> dict[str, Any]:
        """Return what the fields say, by the names of the options."""
        return {name: _value_of(field, self._options[name]) for name, field in self._fields.items()}

    def show_values(self, options: object) -> None:
        """Show the options of a dataclass."""
        for name, field in self._fields.items():
            _show(field, getattr(options, name))

    def show_row(self, name: str, shown: bool) -> None:
        """Show a row, or hide it."""
        self._rows.setRowVisible(self._fields[name], shown)

    def mark(self, faults: Mapping[str, str]) -> None:
        """Colour the fields that are wrong, and say what each is for."""
        for name, field in self._fields.items():
            mark_field(field, faults.get(name, ""), self._options[name].option.help)

    def _emit_edited(self, value: object = None) -> None:
        self.edited.emit()


def make_field(each: OptionField) -> QWidget:
    """Return a field for an option, with its default."""
    option = each.option
    if option.choices:
        combo = FreshCombo()
        combo.offer([(option.labels.get(choice, str(choice)), choice) for choice in option.choices], each.default)
        return combo
    if each.kind is bool:
        box = QCheckBox(option.title)
        box.setChecked(bool(each.default))
        return box
    if each.kind is int:
        whole = QSpinBox()
        whole.setRange(round(option.least or 0), _LARGEST if option.most is None else round(option.most))
        whole.setSingleStep(round(option.step or 1))
        whole.setKeyboardTracking(False)  # the 1 of a 10 that is being typed is no value yet
        whole.setSpecialValueText(option.unset)
        whole.setValue(each.default or 0)
        return whole
    if each.kind is float:
        number, step = QDoubleSpinBox(), option.step or 0.1
        top = option.most if option.most is not None else _LARGEST if option.below is None else option.below - step
        number.setRange(option.least or 0.0, top)
        number.setSingleStep(step)
        number.setSpecialValueText(option.unset)
        number.setValue(each.default or 0.0)
        return number
    line = QLineEdit()
    line.setText(each.default or "")
    return line


def _change_of(field: Any) -> Any:
    if isinstance(field, QCheckBox):
        return field.toggled
    if isinstance(field, QLineEdit):
        return field.editingFinished
    return field.activated if isinstance(field, FreshCombo) else field.valueChanged


def _value_of(field: Any, each: OptionField) -> Any:
    if isinstance(field, QCheckBox):
        return field.isChecked()
    if isinstance(field, FreshCombo):
        return field.currentData()
    value = field.text() if isinstance(field, QLineEdit) else each.kind(field.value())
    return None if each.is_optional and not value else value


def _show(field: Any, value: Any) -> None:
    if isinstance(field, QCheckBox):
        field.setChecked(bool(value))
    elif isinstance(field, FreshCombo):
        number = field.findData(value)
        if number >= 0:
            field.setCurrentIndex(number)
            field.activated.emit(number)
    elif isinstance(field, QLineEdit):
        field.setText(value or "")
    else:
        field.setValue(value or 0)
