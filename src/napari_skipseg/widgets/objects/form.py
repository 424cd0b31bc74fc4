"""The form of the Objects tab: where objects are found, how, and what counts as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLineEdit, QPushButton, QSlider, QSpinBox, QVBoxLayout, QWidget

from napari_skipseg.errors import SkipsegError
from napari_skipseg.objects.contact_file import name_with_hash
from napari_skipseg.objects.options import THICK, Method, ObjectOptions, ObjectPlanes
from napari_skipseg.option_fields import option_fields
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.widgets.forms.dialogs import ask_file
from napari_skipseg.widgets.forms.fields import FreshCombo, KeyedSlider, PlainLabel, as_note, mark_field
from napari_skipseg.widgets.forms.option_rows import OptionEditor, OptionRows, edit_combo
from napari_skipseg.widgets.layers.axes import voxel_size_of
from napari_skipseg.widgets.objects.sources import ProbabilitySource, is_certain, suggest_method

if TYPE_CHECKING:
    from napari.layers import Layer


_WHOLE_FROM = 1000
"""A measure from which on it is written in whole numbers."""
_DECADE = 30
"""Steps of the slider for ten times the size."""
_MOST = 10**9
"""The largest number that can be typed: the same for all fields, so that their sliders are equally long."""


class SizeField(QWidget):  # type: ignore[misc]
    """A logarithmic slider with its number beside it, and below it what that number means.

    meaning: of a size, with {} in its place. no_limit: of 0. decades: powers of ten that the slider spans.
    """

    changed = Signal()

    def __init__(self, meaning: str, no_limit: str, decades: int) -> None:
        super().__init__()
        self._meaning, self._no_limit, self._steps = meaning, no_limit, decades * _DECADE
        self._voxel = (1.0, "")
        self.slider, self.number, self.note = QSlider(Qt.Orientation.Horizontal), QSpinBox(), PlainLabel()
        self.slider.setRange(0, self._steps)
        self.number.setRange(0, _MOST)
        self.number.setKeyboardTracking(False)
        self.number.setStyleSheet("QSpinBox { min-width: 56px; }")
        as_note(self.note)
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.number)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addLayout(row)
        column.addWidget(self.note)
        self.slider.valueChanged.connect(lambda step: self.number.setValue(size_at(step)))
        self.number.valueChanged.connect(self._on_number)
        self._update_note()

    def value(self) -> int:
        """Return the size in voxels."""
        return int(self.number.value())

    def set_value(self, size: int) -> None:
        """Show another size."""
        self.number.setValue(size)

    def set_voxel(self, size: float, unit: str) -> None:
        """Set the size of a voxel, for the note; unit "" = not known."""
        self._voxel = size, unit
        self._update_note()

    def _on_number(self, size: int) -> None:
        if size_at(self.slider.value()) != size:
            self.slider.blockSignals(True)
            self.slider.setValue(min(range(self._steps + 1), key=lambda step: abs(size_at(step) - size)))
            self.slider.blockSignals(False)
        self._update_note()
        self.changed.emit()

    def _update_note(self) -> None:
        size, (voxel, unit) = self.value(), self._voxel
        total = size * voxel
        measure = f" = {total:,.0f} {unit}" if total >= _WHOLE_FROM else f" = {total:.4g} {unit}"
        voxels = f"{size:,} voxel{'' if size == 1 else 's'}{measure if unit else ''}"
        self.note.setText(self._meaning.format(voxels) if size else self._no_limit)


def size_at(step: int) -> int:
    """Return the number of voxels at a step of the slider: 0, then 1, and ten times as many each `_DECADE` steps."""
    return round(10 ** (step / _DECADE)) if step else 0


class ClassifierField(QWidget):  # type: ignore[misc]
    """The file of a classifier of contacts, and a button to choose one. fault: why it is none, "" if it is one.

    The file is read when it is chosen; its hash stays with it, so that a different file in its place is noticed.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.fault = ""
        self._named = ""
        self.text, self.button = QLineEdit(), QPushButton("…")
        self.text.setPlaceholderText("none")
        self.text.setAccessibleName("Contacts")
        self.button.setMaximumWidth(30)
        self.button.setAccessibleName("Choose a classifier of contacts")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.button)
        self.text.editingFinished.connect(self._on_text)
        self.button.clicked.connect(self._choose)

    def value(self) -> str:
        """Return the file with the hash of the classifier in it, "" if there is none or a fault."""
        return self._named

    def set_value(self, named: str) -> None:
        """Show a file, with the hash of a classifier or without; "" = none."""
        self.text.setText(named.partition("@sha256:")[0])
        self._take(named)

    def _choose(self) -> None:
        file = ask_file(self, "Classifier of contacts", "Classifiers of contacts (*.json)", "contacts")
        if file is not None:
            self.set_value(str(file))

    def _on_text(self) -> None:
        typed = self.text.text().strip()
        if typed != self._named.partition("@sha256:")[0] or self.fault:
            self._take(typed)

    def _take(self, named: str) -> None:
        self._named, self.fault = "", ""
        try:
            self._named = name_with_hash(named) if named else ""
        except SkipsegError as error:
            self.fault = str(error)
        self.changed.emit()


_FIRST = ("class_name", "method", "planes")
"""Options that come first in the form; the others follow in the order of their fields."""
THICK_NOTE = "Slices are {:.3g} times thicker than pixels: each slice suits cells better."
SUGGESTED = "This class is a boundary: cells are suggested."
CHOOSE = "choose a layer…"
READ_AS = "{} (image, read as probability)"


class ObjectsForm(OptionRows):
    """The layer, and a row for each option. changed: the options may be different. moved: another layer was chosen."""

    changed = Signal()
    moved = Signal()

    def __init__(self, options: type[ObjectOptions] = ObjectOptions) -> None:
        found = {name: each for name, each in option_fields(options).items() if name not in ("box", "mask")}
        layer, measured, class_name = FreshCombo(), FreshCombo(), FreshCombo()
        smallest = SizeField("Objects of {} or more.", "No lower limit.", 7)
        largest = SizeField("Objects of at most {}.", "No upper limit.", 9)
        sizes = {"smallest": smallest, "largest": largest}
        editors = {name: OptionEditor(each, each.value, each.set_value, each.changed) for name, each in sizes.items()}
        editors["class_name"] = edit_combo(class_name)
        classifier = ClassifierField()
        editors["contacts"] = OptionEditor(classifier, classifier.value, classifier.set_value, classifier.changed)
        threshold = KeyedSlider(1.0, 0.01, DEFAULT_THRESHOLD)
        editors["threshold"] = OptionEditor(
            threshold, lambda: round(float(threshold.value()), 2), self._show_threshold, threshold.valueChanged
        )
        in_order = [*_FIRST, *(name for name in found if name not in _FIRST)]
        rows: list[Any] = [("Find in", layer), *(found[name] for name in in_order), ("Grey values", measured)]
        super().__init__(rows, editors, indent=0)
        self._kind = options
        self._source: ProbabilitySource | None = None
        self._chosen_method = self._chosen_planes = self._chosen_threshold = False
        self.smallest, self.largest, self.class_name, self.contacts = smallest, largest, class_name, classifier
        self.layer, self.measured = layer, measured
        self.method, self.planes, self.threshold = (self.field(name) for name in ("method", "planes", "threshold"))
        self.merge = self.field("merge")
        self.layer.setToolTip("A result, or another layer with a probability or labels")
        self.measured.setToolTip("The image whose grey values are measured in each object")
        self.edited.connect(self._on_edited)
        self.layer.activated.connect(self.moved)
        self.show_source(None)

    def offer_layers(self, layers: list[Layer], chosen: Layer | None) -> None:
        """Offer layers to find objects in; without a chosen one the form asks for it."""
        entries: list[tuple[str, object]] = [
            (layer.name if is_certain(layer) else READ_AS.format(layer.name), layer) for layer in layers
        ]
        self.layer.offer(entries if chosen is not None else [(CHOOSE, None), *entries], chosen)

    def show_source(self, source: ProbabilitySource | None) -> None:
        """Fit the fields to the layer in which objects are found, and suggest cells if its class is a boundary."""
        names = () if source is None else source.class_names
        before = self._source
        self._source = source
        self.class_name.offer([(name, name) for name in names], self.class_name.currentData())
        self.show_row("class_name", len(names) > 1)
        self.show_row("planes", self._has_slices())
        if source is None or before is None or before.layer != source.layer:
            self._chosen_method = self._chosen_threshold = False
        self._suggest_method()
        self._suggest_threshold()
        self._update()

    def offer_measured(self, layers: list[Layer]) -> None:
        """Offer images whose grey values can be measured."""
        chosen = self.measured.currentData()
        first = layers[0] if layers else None
        offered: list[tuple[str, object]] = [*((layer.name, layer) for layer in layers), ("not measured", None)]
        self.measured.offer(offered, chosen if chosen in layers else first)
        self.show_row(self.measured, bool(layers))

    def choose_measured(self, layer: Layer | None) -> None:
        """Choose the image whose grey values are measured, if it is offered; None = not measured."""
        for number in range(self.measured.count()):
            if self.measured.itemData(number) == layer:
                self.measured.setCurrentIndex(number)

    def read(self) -> ObjectOptions:
        """Return the options as they stand."""
        values: dict[str, Any] = self.values()
        values["class_name"] = values["class_name"] or "" if self.class_name.count() > 1 else ""
        values["smallest"] = min(values["smallest"], values["largest"] or values["smallest"])
        if self._source is not None and self._source.labels:
            values["seeds"] = "distance"
        if not self._has_slices():
            values["planes"] = "volume"
        if not self._has_contacts(values["method"]):
            values["contacts"] = ""
        return self._kind(**values)

    def _has_contacts(self, method: Method) -> bool:
        """Return whether a classifier can decide contacts: of basins of a probability."""
        return method != "components" and not (self._source is not None and self._source.labels)

    @property
    def fault(self) -> str:
        """Why the options cannot be used, "" if they can."""
        return self.contacts.fault if self._has_contacts(self.method.currentData()) else ""

    def read_for(self, class_names: Sequence[str]) -> ObjectOptions:
        """Return the options for the results of a model with these classes.

        The class is the one that this form shows, the first one if the model does not have it; method and planes that
        the user did not choose are those that suit the class.
        """
        options = self.read()
        # a layer of one class has no choice of classes, but other images have all classes of the model
        shown = self.class_name.currentData()
        class_name = str(shown) if len(class_names) > 1 and shown in class_names else ""
        method = options.method if self._chosen_method else suggest_method(class_names, class_name)
        planes = self.planes.currentData() if self._chosen_planes else self._suggested_planes(method)
        threshold = options.threshold if self._chosen_threshold else None
        contacts = options.contacts if self._has_contacts(method) else ""
        return replace(
            options, class_name=class_name, method=method, planes=planes, threshold=threshold, contacts=contacts
        )

    def show_options(self, options: ObjectOptions) -> None:
        """Show options as if the user had chosen them, except where there is no field for them now."""
        self.blockSignals(True)
        self._chosen_method, self._chosen_planes = True, self._chosen_planes or self._has_slices()
        self._chosen_threshold = options.threshold is not None
        self.show_values(options)
        self.blockSignals(False)
        self._update()

    def _on_edited(self, name: str) -> None:
        sizes = self.smallest.value(), self.largest.value()
        if name in ("smallest", "largest") and 0 < sizes[1] < sizes[0]:
            # the other size moves along, which is an edit of its own
            (self.largest if name == "smallest" else self.smallest).set_value(sizes[name == "largest"])
            return
        self._chosen_method = self._chosen_method or name == "method"
        self._chosen_planes = self._chosen_planes or name == "planes"
        self._chosen_threshold = self._chosen_threshold or name == "threshold"
        if name == "class_name":
            self._suggest_method()
            self._suggest_threshold()
        self._update()

    def _suggest_method(self) -> None:
        if not self._chosen_method:
            self.method.setCurrentIndex(self.method.findData(self._suggested(self.class_name.currentData() or "")))

    def _suggest_threshold(self) -> None:
        """Show the threshold that the chosen class has in its segmentation, unless the user chose one."""
        if self._source is None or self._chosen_threshold:
            return
        self.threshold.blockSignals(True)
        self.threshold.setValue(self._source.threshold(self.class_name.currentData() or ""))
        self.threshold.blockSignals(False)

    def _show_threshold(self, value: float | None) -> None:
        self.threshold.setValue(DEFAULT_THRESHOLD if value is None else value)

    def _suggested(self, class_name: str) -> Method:
        return "components" if self._source is None else self._source.suggested(class_name)

    def _has_slices(self) -> bool:
        return self._source is not None and self._source.length("Z") > 1

    def _thickness(self) -> float:
        return 1.0 if self._source is None else self._source.thickness()

    def _suggested_planes(self, method: Method) -> ObjectPlanes:
        return "slices" if method == "cells" and self._thickness() >= THICK else "volume"

    def _update(self) -> None:
        """Suggest planes, show the rows and notes that suit the choices, and say that these changed."""
        planes = self._suggested_planes(self.method.currentData())
        if not self._chosen_planes:
            self.planes.setCurrentIndex(self.planes.findData(planes))
        self.show_note("planes", THICK_NOTE.format(self._thickness()) if planes == "slices" else "")
        options = self.read()
        method, is_boundary = self._options["method"].option, self._suggested(options.class_name) == "cells"
        is_odd = is_boundary and options.method != "cells"
        self.show_note("method", SUGGESTED if is_odd else method.notes[options.method])
        self.method.setToolTip(f"{SUGGESTED} {method.form_text}" if is_boundary else method.form_text)
        is_labels = self._source is not None and self._source.labels
        has_seeds = options.method != "components"
        self.show_row("threshold", not is_labels)
        self.show_row("seeds", has_seeds and not is_labels)
        is_taught = bool(options.contacts)  # contacts are decided in place of what these two say
        self.show_row("contacts", self._has_contacts(options.method))
        self.show_row("seed_distance", has_seeds and not is_taught)
        self.show_row("merge", options.method == "cells" and not is_taught)
        mark_field(self.contacts, self.fault, self._options["contacts"].option.form_text)
        self._update_voxel(options)
        self.changed.emit()

    def _update_voxel(self, options: ObjectOptions) -> None:
        """Give the sizes a unit: of area if objects are flat, else of volume."""
        volume, unit = 1.0, "pixel"
        is_flat = options.planes == "slices" or not self._has_slices()
        if self._source is not None:
            sizes, unit = voxel_size_of(self._source.layer, self._source.axes)
            volume = sizes[1] * sizes[2] * (1.0 if is_flat else sizes[0])
        for field in (self.smallest, self.largest):
            field.set_voxel(volume, "" if unit == "pixel" else f"{unit}{'²' if is_flat else '³'}")
