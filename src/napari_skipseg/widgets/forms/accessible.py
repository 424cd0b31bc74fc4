"""Names of controls for screen readers: a control without text takes the name of its label, or else its tooltip's."""

from __future__ import annotations

from collections.abc import Iterator

from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QWidget,
)

CONTROLS = (QAbstractButton, QAbstractItemView, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)


def name_of(control: QWidget) -> str:
    """Return what a screen reader says: the accessible name, or else the text of a button."""
    text = control.text() if isinstance(control, QAbstractButton) else ""
    return str(control.accessibleName() or text.strip(" …?+▸▾◂"))


def name_controls(root: QWidget) -> None:
    """Name the controls without a name or text, by their labels in forms or by the beginning of their tooltips."""
    for label, field in _rows(root.layout()):
        for control in [field, *field.findChildren(QWidget)]:
            if isinstance(control, CONTROLS) and not name_of(control):
                control.setAccessibleName(label)
    for control in root.findChildren(QWidget):
        if isinstance(control, CONTROLS) and not name_of(control) and control.toolTip():
            control.setAccessibleName(control.toolTip().split(". ")[0].split(":")[0])


def _rows(layout: QLayout | None) -> Iterator[tuple[str, QWidget]]:
    """Yield label and field of each row with a label, in all forms below a layout."""
    if layout is None:
        return
    for number in range(layout.count()):
        item = layout.itemAt(number)
        widget, inner = item.widget(), item.layout()
        yield from _rows(inner if inner is not None else None if widget is None else widget.layout())
    if isinstance(layout, QFormLayout):
        for row in range(layout.rowCount()):
            label = layout.itemAt(row, QFormLayout.ItemRole.LabelRole)
            field = layout.itemAt(row, QFormLayout.ItemRole.FieldRole)
            if label is None or field is None or field.widget() is None:
                continue
            if isinstance(label.widget(), QLabel) and label.widget().text():
                yield str(label.widget().text()), field.widget()
