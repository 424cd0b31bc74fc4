"""The Inspect tab: plots of a model, and the features before and after its gates as layers over the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QPushButton

from napari_skipseg.errors import SkipsegError
from napari_skipseg.jobs.messages import Inspect
from napari_skipseg.models.catalog import describe_model, locate_model
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.selection import GateSelection, read_selection
from napari_skipseg.networks.specs import SELECTING
from napari_skipseg.studies.inspection import Inspection, choose_part
from napari_skipseg.widgets.forms.engine_queue import EngineLike, EngineQueue
from napari_skipseg.widgets.forms.fields import (
    BUTTON_HEIGHT,
    ConnectionGroup,
    FreshCombo,
    PlainLabel,
    mark_field,
    set_hint,
)
from napari_skipseg.widgets.forms.job_tab import JobTab
from napari_skipseg.widgets.forms.model_choices import model_choices
from napari_skipseg.widgets.inspect.gate_layers import (
    InspectedImage,
    describe_part,
    middle_of_view,
    place_gates,
    show_channel,
    show_gates,
)
from napari_skipseg.widgets.layers.results import data_of, stack_of_layer
from napari_skipseg.widgets.segment.checks import SegmentFormValues, find_faults, needs_channel
from napari_skipseg.widgets.segment.form import NO_MODEL
from napari_skipseg.widgets.segment.state import SegmentState

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_skipseg.widgets.inspect.plots import ModelPlots

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
        self.model, self.network = FreshCombo(), PlainLabel()
        self.network.setWordWrap(True)
        self.all_maps = QCheckBox("attention of all gates")
        self.all_maps.setToolTip("Add the attention maps of all gates, not only of the one chosen above")
        self.show_button = QPushButton("Show gates on this slice")
        self.show_button.setMinimumHeight(BUTTON_HEIGHT)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Model", self.model)
        form.addRow("", self.network)
        buttons = QHBoxLayout()
        buttons.addWidget(self.show_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        lines = self.progress, self.progress_text, self.message
        self._column = self.add_column(form, buttons, self.all_maps, *lines)
        self.model.opening.connect(self._offer_models)
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
        plots.channel_chosen.connect(self._on_channel_chosen)
        self.links.tie(self._viewer.events.theme, lambda event: plots.use_theme(self._viewer.theme))
        self._offer_models()
        chosen = self.model.findData(self._segment.model())
        self.model.setCurrentIndex(max(chosen, 0))
        self._read_model()

    def _offer_models(self) -> None:
        self.model.offer(model_choices(), self.model.currentData())

    def update_models(self, renamed: Mapping[str, str]) -> None:
        """Offer the models that there are now. renamed: new names by old ones."""
        if self.plots is not None:
            chosen = str(self.model.currentData())
            self.model.offer(model_choices(), renamed.get(chosen, chosen))
            self._read_model()

    def _read_model(self) -> None:
        """Read the chosen model and show it."""
        name = self.model.currentData()
        description: ModelDescription | None
        selection: tuple[GateSelection, ...]
        description, selection, self._model_fault = None, (), "" if name is not None else NO_MODEL
        try:
            if name is not None:
                description = describe_model(name)
                selects = any(skip in SELECTING for skip in description.spec.skips)
                selection = read_selection(locate_model(name)) if selects else ()
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
        place = dict(zip(choices.axes, middle_of_view(self._viewer, layer), strict=True))
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

    def _on_channel_chosen(self, channel: int) -> None:
        layer = self._segment.read().layer
        if layer is not None:
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
