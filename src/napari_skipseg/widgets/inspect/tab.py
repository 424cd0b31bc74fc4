"""The Inspect tab: plots of a model, and the features before and after its gates as layers over the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QCheckBox, QPushButton

from napari_skipseg.errors import SkipsegError
from napari_skipseg.jobs.messages import Inspect
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.selection import GateSelection, read_selection
from napari_skipseg.networks.specs import SELECTING
from napari_skipseg.studies.inspection import InspectedPart, Inspection, choose_part
from napari_skipseg.widgets.forms.fields import (
    BUTTON_HEIGHT,
    ConnectionGroup,
    PlainLabel,
    fill_form,
    make_row,
    mark_field,
    set_hint,
)
from napari_skipseg.widgets.forms.job_tab import JobTab
from napari_skipseg.widgets.forms.models import ModelCombo
from napari_skipseg.widgets.forms.worker import EngineLike, EngineQueue
from napari_skipseg.widgets.layers.files import HIDDEN_MAP
from napari_skipseg.widgets.layers.placement import (
    Placement,
    middle_of_view,
    nearest_voxel,
    place_at,
    place_over,
    selection_kept,
)
from napari_skipseg.widgets.layers.results import KEY, data_of, results_in, stack_of_layer
from napari_skipseg.widgets.segment.checks import SegmentFormValues, SegmentState, find_faults, needs_channel

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_skipseg.widgets.inspect.plots import ModelPlots


ROLES_OF = "{} gates"
"""The source of these layers, made from the id of their image: results of a segmentation have another one."""


@dataclass(frozen=True)
class InspectedImage:
    """An inspection of an image with such axes. all_maps: show the attention of all gates, not only of one."""

    inspection: Inspection
    axes: str
    all_maps: bool


@dataclass(frozen=True)
class _GateLayer:
    role: str
    data: Any
    placement: Placement
    looks: dict[str, Any]


def show_gates(viewer: ViewerModel, layer: Image, seen: InspectedImage) -> None:
    """Show an inspection over its image, in place of an earlier one."""
    source = ROLES_OF.format(layer.unique_id)
    wanted, there = list(_iter_layers(layer, seen)), results_in(viewer, source)
    first_time = not any(other.ndim > layer.ndim for other in there)
    old = {other.metadata[KEY]["role"]: other for other in there}
    with selection_kept(viewer):
        for role in old.keys() - {each.role for each in wanted}:
            viewer.layers.remove(old.pop(role))
        for each in wanted:
            metadata = {KEY: {"role": each.role, "source": source, "recipe": seen.inspection.recipe}}
            known = old.get(each.role)
            if known is not None and known.ndim == each.data.ndim:
                known.data, known.metadata = each.data, metadata
                place_at(known, each.placement)
                continue
            if known is not None:
                viewer.layers.remove(known)
            arguments = {**each.placement.arguments(), **each.looks}
            viewer.add_image(each.data, name=each.role, metadata=metadata, rgb=False, **arguments)
    if first_time:
        show_channel(viewer, layer, seen.inspection.clearest)


def place_gates(viewer: ViewerModel, layer: Image, seen: InspectedImage) -> None:
    """Move the layers of an inspection to where their image lies now."""
    placed = {each.role: each.placement for each in _iter_layers(layer, seen)}
    for old in results_in(viewer, ROLES_OF.format(layer.unique_id)):
        if old.metadata[KEY]["role"] in placed:
            place_at(old, placed[old.metadata[KEY]["role"]])


def show_channel(viewer: ViewerModel, layer: Image, channel: int) -> None:
    """Move the slider of the features to `channel`, if an inspection of the image is shown."""
    for old in results_in(viewer, ROLES_OF.format(layer.unique_id)):
        if old.ndim > layer.ndim:
            axis = viewer.dims.ndim - old.ndim
            viewer.dims.set_point(axis, channel)
            return


def describe_part(part: InspectedPart, lengths: Mapping[str, int], seen: str) -> str:
    """Return the name of a part of an image, such as "the slice at z = 3". seen: the axes that the model sees."""
    spans = [(axis, part[axis]) for axis in seen]
    places = [f"{axis.lower()} = {each.start}" for axis, each in part.items() if axis not in seen]
    if all(each.stop - each.start == lengths[axis] for axis, each in spans):
        what = "the image" if seen == "YX" and not places else "the slice" if seen == "YX" else "the volume"
    else:
        what = "the block " + ", ".join(f"{axis.lower()} {each.start}-{each.stop - 1}" for axis, each in spans)
    return " ".join([what, *([f"at {', '.join(places)}"] if places else [])])


def _iter_layers(layer: Image, seen: InspectedImage) -> Iterator[_GateLayer]:
    """Yield the layers of an inspection from the bottom of the layer list up."""
    inspection = seen.inspection
    for attention in reversed(inspection.attentions):
        if not seen.all_maps and attention.place != inspection.place:
            continue
        role = f"{attention.place} attention" + (f" {attention.number}" if attention.number > 1 else "")
        looks = {"colormap": "viridis", "contrast_limits": (0, 1), **HIDDEN_MAP}
        place = _place(layer, seen, attention.stride)
        yield _GateLayer(role, _over(attention.data, layer, seen), place, looks)
    label = "feature" if "C" in seen.axes else "channel"
    under = _place(layer, seen, inspection.stride)
    place = Placement(
        # an axis for the features in front of those of the image, in steps of 1
        scale=np.concatenate([[1.0], under.scale]),
        translate=np.concatenate([[0.0], under.translate]),
        rotate=_bordered(under.rotate),
        shear=_bordered(under.shear),
        affine=_bordered(under.affine),
        units=("pixel", *map(str, under.units)),
        axis_labels=(label, *under.axis_labels),
    )
    for kind, data in (("before", inspection.before), ("after", inspection.after)):
        looks = {"colormap": "gray", "contrast_limits": inspection.limits, "blending": "opaque"}
        yield _GateLayer(f"{inspection.place} {kind}", _over(data, layer, seen), place, looks)


def _over(data: Any, layer: Image, seen: InspectedImage) -> Any:
    """Return `data`, (…, *axes seen), with all axes of the image: added ones have length 1, channels repeat."""
    lead = (slice(None),) * (data.ndim - len(seen.inspection.axes))
    index = tuple(slice(None) if axis in seen.inspection.axes else None for axis in seen.axes)
    data = data[(*lead, *index)]
    shape = list(data.shape)
    if "C" in seen.axes:
        place = seen.axes.index("C")
        shape[len(lead) + place] = data_of(layer).shape[place]
    return np.broadcast_to(data, shape)


def _place(layer: Image, seen: InspectedImage, stride: int) -> Placement:
    inspection = seen.inspection
    strides = tuple(stride if axis in inspection.axes else 1 for axis in seen.axes)
    starts = (inspection.start.get(axis, 0) for axis in seen.axes)
    offsets = tuple(start + (step - 1) / 2 for start, step in zip(starts, strides, strict=True))
    return place_over(layer, strides, offsets)


def _bordered(matrix: Any) -> Any:
    """Return a matrix with one more axis in front, which it leaves as it is."""
    larger = np.eye(len(matrix) + 1)
    larger[1:, 1:] = matrix
    return larger


_SEGMENT_FIELDS = ("image", "axes", "channel")
"""The fields of the Segment tab that this tab uses too."""


class InspectTab(JobTab):
    """Model, plots, Show gates and Cancel, and a line with the last result or fault.

    Image, axes and channel are those of the Segment tab. The plots are made when the tab is opened first.
    """

    def __init__(self, viewer: ViewerModel, engine: EngineLike, queue: EngineQueue, segment: SegmentState) -> None:
        super().__init__(queue)
        self._viewer, self._engine, self._segment = viewer, engine, segment
        self._seen: dict[str, InspectedImage] = {}
        self._description: ModelDescription | None = None
        self._model_fault = ""
        self.plots: ModelPlots | None = None
        self.links = ConnectionGroup()
        self.model, self.network = ModelCombo(), PlainLabel()
        self.network.setWordWrap(True)
        self.all_maps = QCheckBox("attention of all gates")
        self.all_maps.setToolTip("Add the attention maps of all gates, not only of the one chosen above")
        self.show_button = QPushButton("Show gates on this slice")
        self.show_button.setMinimumHeight(BUTTON_HEIGHT)
        form = fill_form()
        form.addRow("Model", self.model)
        form.addRow("", self.network)
        buttons = make_row(self.show_button, self.cancel_button, stretches=(2, 1))
        lines = self.progress, self.progress_text, self.message
        self._column = self.add_column(form, buttons, self.all_maps, *lines)
        self.model.activated.connect(self._read_model)
        self.show_button.clicked.connect(self.show_gates)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Make the plots the first time, with the model of the Segment tab; check the choices each time."""
        super().showEvent(event)
        if self.plots is None:
            self._add_plots()
        self.check()

    def _add_plots(self) -> None:
        # pyqtgraph takes long to import, and few sessions open this tab
        from napari_skipseg.widgets.inspect.plots import ModelPlots

        plots = self.plots = ModelPlots()
        plots.use_theme(self._viewer.theme)
        self._column.insertWidget(1, plots)
        plots.gate_changed.connect(self.forget_and_check)
        plots.channel_chosen.connect(self.show_channel)
        self.links.tie(self._viewer.events.theme, lambda event: plots.use_theme(self._viewer.theme))
        self.model.update_choices(self._segment.model())
        self._read_model()

    def update_models(self, renamed: Mapping[str, str]) -> None:
        """Offer the models that there are now. renamed: new names by old ones."""
        if self.plots is not None:
            self.model.follow_renamed(renamed)
            self._read_model()

    def _read_model(self) -> None:
        """Show the chosen model, with the select weights of its gates."""
        description, self._model_fault = self.model.description, self.model.fault
        selection: tuple[GateSelection, ...] = ()
        if description is not None and any(skip in SELECTING for skip in description.spec.skips):
            try:
                selection = read_selection(locate_model(self.model.currentData()))
            except SkipsegError as error:
                description, self._model_fault = None, str(error)
        self._description = description
        if self.plots is not None:
            self.plots.setVisible(description is not None)
            if description is not None:
                self.plots.show_model(description, selection)
        self.network.setText("" if description is None else in_a_line(description))
        mark_field(self.model, self._model_fault, "" if description is None else description.card.summary)
        self.forget_and_check()

    def _choices(self) -> SegmentFormValues:
        """Return the choices of the Segment tab, with the model of this tab."""
        return replace(self._segment.read(), model=self._description, model_fault=self._model_fault)

    def _fault(self) -> str:
        """Return why gates cannot be shown, "" if they can."""
        choices = self._choices()
        faults = find_faults(choices)
        if self._model_fault:
            return self._model_fault
        if self.plots is None or self.plots.gate.currentData() is None:
            return "This model has no gates to show: choose a different one."
        wrong = [faults[field] for field in (*_SEGMENT_FIELDS, "model") if field in faults]
        if wrong:
            return wrong[0]
        return "The Segment tab is running: wait until it has finished." if self._segment.is_running() else ""

    def show_gates(self) -> None:
        """Run the model on the part of the image on screen; the layers appear when it is done."""
        choices = self._choices()
        layer = choices.layer
        if self.is_running or self._fault() or layer is None or self.plots is None:
            return
        middle = nearest_voxel(layer, middle_of_view(self._viewer, layer))
        place = dict(zip(choices.axes, middle, strict=True))
        lengths = dict(zip(choices.axes, data_of(layer).shape, strict=False))
        part = choose_part(lengths, choices.seen, place)
        channel = choices.channel if needs_channel(choices) else None
        try:
            stack, folder = stack_of_layer(layer, choices.axes), locate_model(str(self.model.currentData()))
        except SkipsegError as error:
            self.fail(str(error))
            return
        gate = str(self.plots.gate.currentData())
        work = partial(self._engine.run, Inspect(stack, str(folder), gate, part, channel))
        where = describe_part(part, lengths, choices.seen)

        def show(inspection: Inspection) -> None:
            if layer not in self._viewer.layers:
                self.show_message(f"'{layer.name}' was removed meanwhile: its gates are not shown.")
                return
            there = {str(other.unique_id) for other in self._viewer.layers}
            self._seen = {source: seen for source, seen in self._seen.items() if source in there}
            seen = self._seen[str(layer.unique_id)] = InspectedImage(
                inspection, choices.axes, self.all_maps.isChecked()
            )
            show_gates(self._viewer, layer, seen)
            self.show_message(
                f"Shown: {inspection.place} of {where}. A slider below the image goes through its channels."
            )

        self.start(work, f"Inspecting {layer.name}", show, waiting_text="waits for the inspection of the model")

    def on_image_placed(self) -> None:
        """Move the layers of the gates to where their image lies now."""
        layer = self._segment.read().layer
        seen = None if layer is None else self._seen.get(str(layer.unique_id))
        if layer is not None and seen is not None and len(seen.axes) == layer.ndim:
            place_gates(self._viewer, layer, seen)

    def show_channel(self, channel: int) -> None:
        """Move the slider of the features to a channel that was clicked."""
        if (layer := self._segment.read().layer) is not None:
            show_channel(self._viewer, layer, channel)

    def check(self) -> None:
        """Enable Show gates if all is right and nothing runs; otherwise the line below says why."""
        super().check()
        if self.plots is None:
            return
        fault, volume = self._fault(), self._choices().seen == "ZYX"
        self.show_button.setText("Show gates in this volume" if volume else "Show gates on this slice")
        self.show_button.setEnabled(not fault and not self.is_running)
        set_hint(self.show_button, fault or "Add the features before and after the gate, and its attention, as layers")
        self.explain(fault)


def in_a_line(description: ModelDescription) -> str:
    """Return what kind of network a model is."""
    spec = description.spec
    return f"{spec.dimensions}D {spec.network}, skip {', '.join(dict.fromkeys(spec.skips))}"
