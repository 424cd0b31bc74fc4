"""The form of the Objects tab: where objects are found, how, and what counts as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QSlider, QSpinBox, QVBoxLayout, QWidget

from napari_skipseg.objects.options import FARTHEST_SEEDS, THICK, Method, ObjectOptions, ObjectPlanes
from napari_skipseg.widgets.forms.fields import FreshCombo, KeyedSlider, PlainLabel
from napari_skipseg.widgets.layers.axes import voxel_size_of
from napari_skipseg.widgets.objects.sources import ProbabilitySource, is_certain, suggest_method

if TYPE_CHECKING:
    from napari.layers import Layer


SIZE_NOTE = "QLabel { font-size: 8pt; }"
TENS = 1000
"""A size from which on it is written in whole numbers."""
DECADE = 30
"""Steps of the slider for ten times the size."""
_MOST = 10**9
"""The largest number that can be typed: the same for all fields, so that their sliders are equally long."""


class SizeField(QWidget):  # type: ignore[misc]
    """A slider over all sizes, a tenfold in the same way everywhere; the number beside it, and its meaning below.

    told: what a size means, with {} in its place; free: what 0 means. decades: powers of ten that the slider spans.
    """

    changed = Signal()

    def __init__(self, told: str, free: str, decades: int) -> None:
        super().__init__()
        self._told, self._free, self._steps = told, free, decades * DECADE
        self._voxel = (1.0, "")
        self.slider, self.number, self.note = QSlider(Qt.Orientation.Horizontal), QSpinBox(), PlainLabel()
        self.slider.setRange(0, self._steps)
        self.number.setRange(0, _MOST)
        self.number.setKeyboardTracking(False)
        self.number.setStyleSheet("QSpinBox { min-width: 56px; }")
        self.note.setStyleSheet(SIZE_NOTE)
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.number)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addLayout(row)
        column.addWidget(self.note)
        self.slider.valueChanged.connect(lambda step: self.number.setValue(size_at(step)))
        self.number.valueChanged.connect(self._follow)
        self._say()

    def value(self) -> int:
        """Return the size in voxels."""
        return int(self.number.value())

    def set_value(self, size: int) -> None:
        """Show another size."""
        self.number.setValue(size)

    def set_voxel(self, size: float, unit: str) -> None:
        """Say what a voxel is: so much of a unit, "" where that is not known."""
        self._voxel = size, unit
        self._say()

    def _follow(self, size: int) -> None:
        if size_at(self.slider.value()) != size:
            self.slider.blockSignals(True)
            self.slider.setValue(min(range(self._steps + 1), key=lambda step: abs(size_at(step) - size)))
            self.slider.blockSignals(False)
        self._say()
        self.changed.emit()

    def _say(self) -> None:
        size, (voxel, unit) = self.value(), self._voxel
        total = size * voxel
        measure = f" = {total:,.0f} {unit}" if total >= TENS else f" = {total:.4g} {unit}"
        voxels = f"{size:,} voxel{'' if size == 1 else 's'}{measure if unit else ''}"
        self.note.setText(self._told.format(voxels) if size else self._free)


def size_at(step: int) -> int:
    """Return the number of voxels at a step of the slider: 0, then 1, and ten times as many each `DECADE` steps."""
    return round(10 ** (step / DECADE)) if step else 0


_NOTE = "QLabel { font-size: 8pt; }"
_METHODS: dict[Method, tuple[str, str]] = {
    "components": ("Connected components", "Connected voxels are one object."),
    "watershed": ("Watershed", "Touching objects are split where they are narrow."),
    "cells": ("Cells between membranes", "Each cell is a region enclosed by the boundary."),
}
SEEDS = (("distance to the edge", "distance"), ("probability", "probability"))
PLANES = (("the volume", "volume"), ("each slice", "slices"))
NOTES = {
    "threshold": "A voxel above this probability belongs to the class.",
    "seed distance": "Seeds closer than this become one (in pixels along X).",
    "merge": "Cells with a weaker boundary between them are merged.",
}
THICK_NOTE = "Slices are {:.3g} times thicker than pixels: each slice suits cells better."
SUGGESTED = "This class is a boundary: cells are suggested."
CHOOSE = "choose a layer…"
READ_AS = "{} (image, read as probability)"


class ObjectsForm(QWidget):  # type: ignore[misc]
    """In which layer, of which class, and how. `changed` says that the options may be others, `moved` the layer."""

    changed = Signal()
    moved = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._source: ProbabilitySource | None = None
        self._chosen_method = self._chosen_planes = False
        self._make_fields()
        self._lay_out()
        self._connect()
        self.show_source(None)

    def _make_fields(self) -> None:
        self.layer, self.class_name, self.method, self.planes = (FreshCombo() for _ in range(4))
        self.seeds, self.measured = FreshCombo(), FreshCombo()
        self.layer.setToolTip("A result, or another layer with a probability or labels")
        self.measured.setToolTip("The image whose grey values are measured in each object")
        self.method_note, self.planes_note = _note(""), _note("")
        self.planes.offer(list(PLANES), "volume")
        self.planes.setToolTip("Objects that go through the slices, or objects of each slice on its own")
        self.seeds.offer(list(SEEDS), "distance")
        self.seeds.setToolTip("Seeds are the highest points of this map; an object grows from each of them")
        self.threshold, self.merge = KeyedSlider(1.0, 0.01, 0.5), KeyedSlider(1.0, 0.01, 0.5)
        self.seed_distance = KeyedSlider(FARTHEST_SEEDS, 0.5, 10.0, decimals=1)
        self.smallest = SizeField("Objects of {} or more.", "No lower limit.", 7)
        self.largest = SizeField("Objects of at most {}.", "No upper limit.", 9)
        self.threshold.setToolTip(NOTES["threshold"])
        self.merge.setToolTip(f"{NOTES['merge']} Raise it where cells fall into pieces")
        self.seed_distance.setToolTip(f"{NOTES['seed distance']} Raise it where objects fall into pieces")
        self.smallest.setToolTip("Leave out objects with fewer voxels; 0 = no lower limit")
        self.largest.setToolTip("Leave out objects with more voxels; 0 = no upper limit")
        self.fill_holes, self.no_border = QCheckBox("fill holes"), QCheckBox("leave out objects at the border")
        self.fill_holes.setToolTip("Background that one object encloses becomes part of it")
        self.no_border.setToolTip("Leave out objects that touch the border of the image: they are cut off there")

    def _lay_out(self) -> None:
        form = self._form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(5)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Find in", self.layer)
        form.addRow("Class", self.class_name)
        form.addRow("Method", _noted(self.method, self.method_note))
        self._planes_row = _noted(self.planes, self.planes_note)
        form.addRow("Objects of", self._planes_row)
        self._threshold_row = _noted(self.threshold, _note(NOTES["threshold"]))
        self._distance_row = _noted(self.seed_distance, _note(NOTES["seed distance"]))
        self._merge_row = _noted(self.merge, _note(NOTES["merge"]))
        form.addRow("Threshold", self._threshold_row)
        form.addRow("Seeds by", self.seeds)
        form.addRow("Seed distance", self._distance_row)
        form.addRow("Merge below", self._merge_row)
        form.addRow("Smallest", self.smallest)
        form.addRow("Largest", self.largest)
        form.addRow("", self.fill_holes)
        form.addRow("", self.no_border)
        form.addRow("Grey values", self.measured)

    def _connect(self) -> None:
        self.method.activated.connect(self._choose_method)
        self.class_name.activated.connect(self._follow_class)
        self.planes.activated.connect(self._choose_planes)
        for signal in (
            self.seeds.activated,
            self.threshold.valueChanged,
            self.merge.valueChanged,
            self.seed_distance.valueChanged,
            self.fill_holes.toggled,
            self.no_border.toggled,
        ):
            signal.connect(self._tell)
        self.smallest.changed.connect(self._move_smallest)
        self.largest.changed.connect(self._move_largest)
        self.layer.activated.connect(self.moved)

    def offer_layers(self, layers: list[Layer], chosen: Layer | None) -> None:
        """Offer layers to find objects in; without a chosen one the user is asked."""
        entries: list[tuple[str, object]] = [
            (layer.name if is_certain(layer) else READ_AS.format(layer.name), layer) for layer in layers
        ]
        self.layer.offer(entries if chosen is not None else [(CHOOSE, None), *entries], chosen)

    def show_source(self, source: ProbabilitySource | None) -> None:
        """Fit the fields to what objects are found in."""
        names = () if source is None else source.class_names
        before = self._source
        self._source = source
        self.class_name.offer([(name, name) for name in names], self.class_name.currentData())
        self._form.setRowVisible(self.class_name, len(names) > 1)
        self._form.setRowVisible(self._planes_row, self._has_slices())
        if source is None or before is None or before.layer != source.layer:
            self._chosen_method = False
        self._follow_class()

    def offer_measured(self, layers: list[Layer]) -> None:
        """Offer images whose grey values can be measured."""
        chosen = self.measured.currentData()
        first = layers[0] if layers else None
        offered: list[tuple[str, object]] = [*((layer.name, layer) for layer in layers), ("not measured", None)]
        self.measured.offer(offered, chosen if chosen in layers else first)
        self._form.setRowVisible(self.measured, bool(layers))

    def choose_measured(self, layer: Layer | None) -> None:
        """Choose the image whose grey values are measured, as far as it is offered; None = not measured."""
        for number in range(self.measured.count()):
            if self.measured.itemData(number) == layer:
                self.measured.setCurrentIndex(number)

    def read(self) -> ObjectOptions:
        """Return the options as they stand."""
        is_labels = self._source is not None and self._source.labels
        return ObjectOptions(
            self.method.currentData() or "components",
            class_name=self.class_name.currentData() or "" if self.class_name.count() > 1 else "",
            threshold=round(float(self.threshold.value()), 2),
            seeds="distance" if is_labels else self.seeds.currentData(),
            seed_distance=float(self.seed_distance.value()),
            merge=round(float(self.merge.value()), 2),
            smallest=min(self.smallest.value(), self.largest.value() or self.smallest.value()),
            largest=self.largest.value(),
            fill_holes=self.fill_holes.isChecked(),
            border="remove" if self.no_border.isChecked() else "keep",
            planes=self.planes.currentData() if self._has_slices() else "volume",
        )

    def read_for(self, class_names: Sequence[str]) -> ObjectOptions:
        """Return the options for the results of a model with these classes: its first where it has not the chosen one,
        and what is suggested for them where nothing was chosen."""
        options = self.read()
        class_name = options.class_name if options.class_name in class_names else ""
        method = options.method if self._chosen_method else suggest_method(class_names, class_name)
        planes = self.planes.currentData() if self._chosen_planes else self._suggested_planes(method)
        return replace(options, class_name=class_name, method=method, planes=planes)

    def show_options(self, options: ObjectOptions) -> None:
        """Show options as if they had been chosen, as far as there are fields for them now."""
        self.blockSignals(True)
        self._chosen_method, self._chosen_planes = True, self._chosen_planes or self._has_slices()
        choices = (
            (self.class_name, options.class_name),
            (self.method, options.method),
            (self.seeds, options.seeds),
            (self.planes, options.planes),
        )
        for combo, value in choices:
            if (place := combo.findData(value)) >= 0:
                combo.setCurrentIndex(place)
        for slider, number in (
            (self.threshold, options.threshold),
            (self.merge, options.merge),
            (self.seed_distance, options.seed_distance),
        ):
            slider.setValue(number)
        self.largest.set_value(0)
        self.smallest.set_value(options.smallest)
        self.largest.set_value(options.largest)
        self.fill_holes.setChecked(options.fill_holes)
        self.no_border.setChecked(options.border == "remove")
        self.blockSignals(False)
        self._tell()

    def _move_smallest(self) -> None:
        """Have the largest size be at least the smallest; both sliders tell then."""
        if 0 < self.largest.value() < self.smallest.value():
            self.largest.set_value(self.smallest.value())
        else:
            self._tell()

    def _move_largest(self) -> None:
        if 0 < self.largest.value() < self.smallest.value():
            self.smallest.set_value(self.largest.value())
        else:
            self._tell()

    def _follow_class(self) -> None:
        """Suggest cells where the class is a boundary."""
        suggested = self._suggested(self.class_name.currentData() or "")
        now: Any = self.method.currentData() if self._chosen_method else suggested
        self.method.offer([(text, method) for method, (text, _) in _METHODS.items()], now)
        self.method.setToolTip(SUGGESTED if suggested == "cells" else "How objects are separated")
        self._tell()

    def _suggested(self, class_name: str) -> Method:
        return "components" if self._source is None else self._source.suggested(class_name)

    def _choose_method(self) -> None:
        self._chosen_method = True
        self._tell()

    def _choose_planes(self) -> None:
        self._chosen_planes = True
        self._tell()

    def _has_slices(self) -> bool:
        return self._source is not None and self._source.length("Z") > 1

    def _thickness(self) -> float:
        return 1.0 if self._source is None else self._source.thickness()

    def _suggested_planes(self, method: Method) -> ObjectPlanes:
        """Return that cells are those of each slice where slices are thick."""
        return "slices" if method == "cells" and self._thickness() >= THICK else "volume"

    def _follow_planes(self) -> None:
        """Suggest each slice, as long as nothing was chosen, and say why."""
        suggested = self._suggested_planes(self.method.currentData() or "components")
        if not self._chosen_planes:
            self.planes.setCurrentIndex(self.planes.findData(suggested))
        self.planes_note.setText(THICK_NOTE.format(self._thickness()))
        self.planes_note.setVisible(suggested == "slices")

    def _tell(self) -> None:
        self._follow_planes()
        options = self.read()
        is_odd = self._suggested(options.class_name) == "cells" and options.method != "cells"
        self.method_note.setText(SUGGESTED if is_odd else _METHODS[options.method][1])
        is_labels = self._source is not None and self._source.labels
        has_seeds = options.method != "components"
        self._form.setRowVisible(self._threshold_row, not is_labels)
        self._form.setRowVisible(self.seeds, has_seeds and not is_labels)
        self._form.setRowVisible(self._distance_row, has_seeds)
        self._form.setRowVisible(self._merge_row, options.method == "cells")
        self._show_voxel(options)
        self.changed.emit()

    def _show_voxel(self, options: ObjectOptions) -> None:
        """Tell the field of sizes what a voxel is."""
        source = self._source
        if source is None:
            self.smallest.set_voxel(1.0, "")
            self.largest.set_voxel(1.0, "")
            return
        sizes, unit = voxel_size_of(source.layer, source.axes)
        flat = options.planes == "slices" or source.length("Z") == 1
        volume = sizes[1] * sizes[2] * (1.0 if flat else sizes[0])
        for field in (self.smallest, self.largest):
            field.set_voxel(volume, "" if unit == "pixel" else f"{unit}{'²' if flat else '³'}")


def _note(text: str) -> PlainLabel:
    note = PlainLabel(text)
    note.setWordWrap(True)
    note.setStyleSheet(_NOTE)
    return note


def _noted(field: QWidget, note: PlainLabel) -> QWidget:
    """Return a field with a line of explanation under it."""
    both = QWidget()
    column = QVBoxLayout(both)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(0)
    column.addWidget(field)
    column.addWidget(note)
    return both
