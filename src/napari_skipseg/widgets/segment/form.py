"""The form of the Segment tab: image, axes, voxel size, model, rescaling, device, extent, options, threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QPushButton, QWidget

from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.space import Space
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.widgets.forms.fields import (
    AxesField,
    ConnectionGroup,
    FreshCombo,
    VoxelSizeField,
    WrappedLine,
    choose_value,
    fill_column,
    fill_form,
    make_row,
    mark_field,
)
from napari_skipseg.widgets.forms.models import CardDialog, ModelCombo
from napari_skipseg.widgets.layers.axes import axes_of, set_calibration, voxel_size_of
from napari_skipseg.widgets.layers.placement import PLACING, slice_again, view_kept
from napari_skipseg.widgets.layers.results import data_of, is_ours, show_alone
from napari_skipseg.widgets.segment.checks import (
    SegmentFormValues,
    count_channels,
    find_faults,
    find_rescaling,
    image_fault,
    needs_channel,
    offers_planes,
)
from napari_skipseg.widgets.segment.fields import (
    SUGGEST_HINT,
    SegmentOptionsBox,
    SelectedLayers,
    SuggestionList,
    ThresholdSliders,
)
from napari_skipseg.widgets.segment.part import (
    box_of_shapes,
    box_on_screen,
    labels_as_masks,
    mask_of_layer,
    shapes_with_boxes,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_skipseg.devices import DeviceReport
    from napari_skipseg.inference.recipes.recipe import Recipe
    from napari_skipseg.inference.suggest import Suggestion


_PRECISIONS_HINT = "f32: numbers of 32 bits. bf16, f16: of 16 bits, faster where the processor or GPU computes in them"
_ASKING = (
    "asking the engine, which starts once and needs some seconds for that… Segment and Preview can be pressed already: "
    "they begin as soon as it has started."
)
DEVICE_HINT = "Where to compute: auto takes a graphics card that works, else the processor"
EXTENT_HINT = (
    "The whole image, or only a part, whose result gets layers of its own: the slice on screen, all that is on screen, "
    "the box around the shapes of a Shapes layer, or where a Labels layer is not 0. Inside, the result is that of the "
    "whole image"
)
RGB = ("red", "green", "blue", "alpha")


class SegmentForm(QWidget):  # type: ignore[misc]
    """What to segment and how.

    changed: the choices may differ now. placed: the image has a new position or scale. may_follow: returns whether an
    image that the user selects in the layer list is chosen.
    """

    changed = Signal()
    placed = Signal()
    threshold_moved = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self.links = ConnectionGroup()
        self._layer_links, self._name_links = ConnectionGroup(), ConnectionGroup()
        self.may_follow: Callable[[], bool] = lambda: True
        self._layer: Image | None = None
        # the viewer handles a layer's new unit after this form, and shows nothing until it slices again
        self._slicing = QTimer(self)
        self._slicing.setSingleShot(True)
        self._slicing.timeout.connect(lambda: slice_again(self._viewer))
        self._wanted_device = "auto"
        self._offered_thresholds: ModelDescription | None = None
        self._make_fields()
        self._lay_out()
        self._connect()
        self.model.update_choices()
        self._on_layers_changed()

    def _make_fields(self) -> None:
        self.image, self.channel, self.model = FreshCombo(), FreshCombo(), ModelCombo()
        self.device, self.extent = FreshCombo(), FreshCombo()
        self.axes, self.voxel_size = AxesField(), VoxelSizeField()
        self.difference, self.rescale = WrappedLine(is_note=True), QCheckBox()
        self.rescale.setAccessibleName("Rescale to the model's voxel size while segmenting")
        self.card = QPushButton("Card")
        self.card.setToolTip("What this model is, what it was trained on, and how well it does")
        self.library_button = QPushButton("Library…")
        self.library_button.setToolTip(
            "All models: import, export, rename, duplicate, delete, and compare two on the image"
        )
        self.suggest, self.suggestions = QPushButton("Suggest"), SuggestionList()
        self.suggest.setToolTip(SUGGEST_HINT)
        self.device_note = WrappedLine(is_note=True)
        self.device_note.setToolTip(_PRECISIONS_HINT)
        self.device_note.setText(_ASKING)
        self.device.offer([("auto", "auto")], "auto")
        self.report = QPushButton("Report")
        self.report.setToolTip("What this machine computes on, why it is not the GPU, and what a bug report needs")
        self.device.setToolTip(DEVICE_HINT)
        self.extent.setToolTip(EXTENT_HINT)
        self.options = SegmentOptionsBox()
        self.threshold = ThresholdSliders()

    def _lay_out(self) -> None:
        form = self._form = fill_form(self)
        form.addRow("Image", self.image)
        form.addRow("Channel", self.channel)
        form.addRow("Axes", self.axes)
        form.addRow("Voxel size", self.voxel_size)
        form.addRow("Model", self.model)
        # on a line of their own: beside the box they leave no room for the name and its licence
        form.addRow("", _side_by_side(self.suggest, self.card, self.library_button))
        form.addRow(self.suggestions)
        form.addRow(self.difference)
        form.addRow(self.rescale)
        form.addRow("Device", _side_by_side(self.device, self.report))
        form.addRow("", self.device_note)
        form.addRow("Segment", self.extent)
        form.addRow("Threshold", self.threshold)
        form.addRow(self.options)

    def _connect(self) -> None:
        self.image.activated.connect(self._choose_and_show)
        self.axes.edited.connect(self._write_calibration)
        self.voxel_size.edited.connect(self._write_calibration)
        self.device.activated.connect(lambda _: self.want_device(self.device.currentData()))
        self.card.clicked.connect(self._show_card)
        self.suggestions.chosen.connect(self._on_suggestion_chosen)
        self.threshold.moved.connect(self.threshold_moved)
        for signal in (
            self.channel.activated,
            self.model.activated,
            self.device.activated,
            self.extent.activated,
            self.extent.opening,
            self.options.edited,
            self.rescale.clicked,
        ):
            signal.connect(self.check)
        layers = self._viewer.layers.events
        for event in (layers.inserted, layers.removed):
            self.links.tie(event, self._on_layers_changed)
        self._selected = SelectedLayers(self, self._viewer, self.links)
        self._selected.chosen.connect(self._on_selected)

    def _on_selected(self, layer: Layer) -> None:
        """Choose an image that the user selected in the layer list, if it can be segmented."""
        is_offered = self.image.findData(layer) >= 0
        if is_offered and layer is not self._layer and self.may_follow() and not image_fault(layer):
            choose_value(self.image, layer)

    def _choose_and_show(self, index: int = 0) -> None:
        """Take the image that the user chose, and hide the other images of its file."""
        self._choose_image()
        if self._layer is not None:
            show_alone(self._viewer, self._layer)

    def read(self) -> SegmentFormValues:
        """Return the present choices."""
        model = self.model.description
        if model is not None and model != self._offered_thresholds:
            self._offered_thresholds = model
            self.threshold.offer(model.class_thresholds)
        return SegmentFormValues(
            self._layer,
            self.axes.text(),
            self.voxel_size.voxel_size,
            self.voxel_size.unit.currentData(),
            model,
            model_fault=self.model.fault,
            channel=self.channel.currentData(),
            device=self.device.currentData() or "auto",
            rescale=self.rescale.isChecked(),
            other_options=self.options.rows.values(),
            thresholds=self.threshold.values(),
            whole=self.extent.currentData() != "current",
            **self._read_box(),
        )

    def _read_box(self) -> dict[str, Any]:
        """Return the box or the mask that the run is limited to, what is wrong with it, and what to say about it."""
        from napari.layers import Labels

        layer, axes, part = self._layer, self.axes.text(), self.extent.currentData()
        if layer is None or part in (None, "whole", "current") or layer.ndim != len(axes):
            return {}
        if part == "view":
            return {"box": box_on_screen(self._viewer, layer, axes)}
        try:
            if isinstance(part, Labels):
                mask_of_layer(part, layer, axes)
                return {"mask": part}
            box, note = box_of_shapes(self._viewer, part, layer, axes)
        except SkipsegError as error:
            return {"box_fault": str(error)}
        return {"box": box, "box_note": note}

    def check(self) -> None:
        """Adapt the fields to the choices, mark what is wrong, and emit `changed`."""
        self._offer_channels(self.read())
        self.options.offer_planes(offers_planes(self.read()))
        self._offer_extents(self.read())
        faults = find_faults(self.read())
        self._offer_rescaling(self.read(), faults.get("rescale", ""))
        model = self.model.description
        for name, field, hint in (
            ("image", self.image, "The image layer to segment"),
            ("axes", self.axes, "One letter per axis: T time, C channel, Z Y X space"),
            ("channel", self.channel, "The channel to segment: this model takes one"),
            ("model", self.model, "" if model is None else model.card.summary),
        ):
            mark_field(field, faults.get(name, ""), hint)
        self.options.rows.mark(faults)
        self.voxel_size.mark(faults.get("voxel size", ""))
        self.card.setEnabled(model is not None)
        self.changed.emit()

    def _on_layers_changed(self, event: Any = None) -> None:
        self._name_links.cut()
        for layer in self._viewer.layers:
            self._name_links.tie(layer.events.name, self._offer_images)
        self._offer_images()

    def _offer_images(self, event: Any = None) -> None:
        from napari.layers import Image

        images = [layer for layer in self._viewer.layers if isinstance(layer, Image) and not is_ours(layer)]
        self.image.offer([(layer.name, layer) for layer in images], self._layer)
        self._choose_image()

    def _choose_image(self, index: int = 0) -> None:
        layer = self.image.currentData()
        if layer is not self._layer:
            self._layer_links.cut()
            self._layer = layer
            if layer is not None:
                for name in PLACING:
                    self._layer_links.tie(layer.events[name], self._on_placed)
                self._layer_links.tie(layer.events.data, self._show_calibration)
        self._show_calibration()

    def _on_placed(self, event: Any = None) -> None:
        self._show_calibration()
        self.placed.emit()
        self._slicing.start(0)

    def _show_calibration(self, event: Any = None) -> None:
        layer = self._layer
        self.axes.setEnabled(layer is not None)
        self.voxel_size.setEnabled(layer is not None)
        if layer is None:
            self.axes.setText("")
        elif not self.axes.hasFocus() or not find_faults(self.read()).get("axes"):
            axes = axes_of(layer)
            self.axes.setText(axes)
            self.voxel_size.show_size(*voxel_size_of(layer, axes), "Z" in axes)
        self.check()

    def _write_calibration(self) -> None:
        """Write the axes and voxel size in the fields to the layer, if they are right."""
        choices = self.read()
        faults = find_faults(choices)
        if choices.layer is not None and "axes" not in faults and "voxel size" not in faults:
            self._layer_links.cut()
            with view_kept(self._viewer, choices.layer):
                set_calibration(choices.layer, Space(choices.axes, choices.voxel_size, choices.unit))
                self._layer = None
                self._choose_image()
                self.placed.emit()
        self.check()

    def _offer_channels(self, choices: SegmentFormValues) -> None:
        is_needed = needs_channel(choices)
        self._form.setRowVisible(self.channel, is_needed)
        count = count_channels(choices) if is_needed else 0
        names = RGB if getattr(choices.layer, "rgb", False) else [str(number) for number in range(count)]
        self.channel.offer(
            [("choose…", None), *((names[number], number) for number in range(count))], self.channel.currentData()
        )

    def _offer_extents(self, choices: SegmentFormValues) -> None:
        is_right = choices.layer is not None and "axes" not in find_faults(choices)
        cuts = bool(choices.loops) and is_right
        self._form.setRowVisible(self.extent, is_right)
        current = "current slice" if choices.spanned == "YX" else "current volume"
        whole = ("whole stack" if choices.spanned == "YX" else "all volumes") if cuts else "whole image"
        offered: list[tuple[str, object]] = [(whole, "whole"), *([(current, "current")] if cuts else [])]
        offered.append(("what is on screen", "view"))
        offered += [(f"box of '{shapes.name}'", shapes) for shapes in shapes_with_boxes(self._viewer)]
        offered += [(f"mask '{labels.name}'", labels) for labels in labels_as_masks(self._viewer)]
        chosen = self.extent.currentData()
        is_offered = is_right and any(value is chosen or value == chosen for _, value in offered)
        self.extent.offer(offered, chosen if is_offered else "whole")

    def _offer_rescaling(self, choices: SegmentFormValues, fault: str) -> None:
        rescaling = find_rescaling(choices)
        if rescaling is not None:
            self.difference.setText(rescaling.difference)
            self.rescale.setText(f"Rescale to {rescaling.size} while segmenting")
            mark_field(self.rescale, fault, rescaling.hint)
        for row in (self.difference, self.rescale):
            self._form.setRowVisible(row, rescaling is not None)

    def show_recipe(self, recipe: Recipe, layer: Image, model: str) -> None:
        """Show what a recipe says of an image, in all fields that there are for it."""
        options = recipe.request.options
        self.model.update_choices()
        choose_value(self.image, layer)
        choose_value(self.model, model)
        self.options.rows.show_values(options)
        choose_value(self.channel, options.channel)
        choose_value(self.device, options.device)
        self.rescale.setChecked(options.rescale)
        self.threshold.show_values(dict(zip(recipe.classes, options.thresholds_of(recipe.classes), strict=True)))
        is_whole = not recipe.inputs or recipe.inputs[0].shape == tuple(data_of(layer).shape)
        choose_value(self.extent, "whole" if is_whole else "current")
        self.check()

    def choose_extent(self, part: object) -> None:
        """Choose what is segmented, such as a layer of labels that was opened just now."""
        self._offer_extents(self.read())
        choose_value(self.extent, part)

    def choose_model(self, name: str) -> None:
        """Choose a model by its name; the first one if there is none of this name any more."""
        self.model.update_choices(name)
        self.check()

    def update_models(self, renamed: Mapping[str, str]) -> None:
        """Offer the models that there are now. renamed: new names by old ones, so that the same one stays chosen."""
        self.model.follow_renamed(renamed)
        self.check()

    def _on_suggestion_chosen(self, suggestion: Suggestion) -> None:
        """Choose a suggested model and its scale."""
        self.choose_model(suggestion.model)
        self.rescale.setChecked(suggestion.rescale)
        self.check()

    def model_folder(self) -> Path:
        """Return the folder of the chosen model.

        Raises:
            ModelError: the folder was removed.
        """
        return locate_model(str(self.model.currentData()))

    def want_device(self, name: str) -> None:
        """Choose a device, or as soon as it is known to be available."""
        self._wanted_device = name
        self.device.setCurrentIndex(max(self.device.findData(name), 0))

    def show_devices(self, report: DeviceReport) -> None:
        """Offer the available devices, and say which one auto is."""
        chosen = report.chosen
        self.device.offer([(name, name) for name in ("auto", *report.available)], self._wanted_device)
        extra = ", with OpenVINO" if chosen.name == "cpu" and report.has_openvino else ""
        precisions = f"Segments in {report.segments_in}, trains in {report.trains_in}."
        self.device_note.setText(f"auto: {chosen.title}{extra} ({chosen.reason}). {precisions}")

    def cut_links(self) -> None:
        """Disconnect from the viewer's events."""
        self.links.cut()
        self._layer_links.cut()
        self._name_links.cut()

    def _show_card(self) -> None:
        if (description := self.model.description) is not None:
            self.card_dialog = CardDialog(description, self)
            self.card_dialog.show()


def _side_by_side(wide: QWidget, *narrow: QWidget) -> QWidget:
    # a widget rather than a layout: only a widget gets the row's label as its name for screen readers
    widget = QWidget()
    fill_column(widget, make_row(wide, *narrow, stretches=(1, *(0,) * len(narrow))))
    return widget
