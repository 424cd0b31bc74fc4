"""The Objects tab: finds objects in a probability or in labels, first on screen, then in the whole stack."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QPushButton

from napari_skipseg.errors import SkipsegError
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.to_folder import ExportedFiles
from napari_skipseg.inference.options import SegmentRequest
from napari_skipseg.jobs.messages import FindObjects
from napari_skipseg.objects.files import describe_padding
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.correct.uncertain_regions import RegionHighlight
from napari_skipseg.widgets.forms.dialogs import ask_folder
from napari_skipseg.widgets.forms.fields import (
    FAULT_COLOR,
    ConnectionGroup,
    MessageLine,
    Missing,
    PrimaryButton,
    set_hint,
)
from napari_skipseg.widgets.forms.job_tab import JobTab, pop_up
from napari_skipseg.widgets.forms.worker import EngineLike, EngineQueue, start_work
from napari_skipseg.widgets.layers.results import data_of, stack_of_layer
from napari_skipseg.widgets.objects.export import (
    ObjectScores,
    ScoreBox,
    ask_objects_file,
    in_short,
    iter_save_objects,
    iter_score,
    without_channels,
)
from napari_skipseg.widgets.objects.form import ObjectsForm
from napari_skipseg.widgets.objects.layers import (
    LoadedObjects,
    ShownObjects,
    frame_of,
    iter_load,
    pick_label,
    place_over_image,
    show_object,
    show_objects,
)
from napari_skipseg.widgets.objects.preview import ObjectsPreview, iter_warm_up
from napari_skipseg.widgets.objects.run_again import ObjectsAgainButton, RepeatedObjectSearch
from napari_skipseg.widgets.objects.shapes import (
    ExportButton,
    ObjectShape,
    iter_shape,
    kept_of,
    request_of,
    show_shape,
)
from napari_skipseg.widgets.objects.sources import (
    ProbabilitySource,
    describe_source,
    find_measured,
    find_sources,
    find_truths,
    is_certain,
    recipe_of_layer,
    result_layer,
    stack_to_search,
    without_wrapper,
)
from napari_skipseg.widgets.objects.table import ObjectsTable
from napari_skipseg.widgets.segment.checks import SegmentState
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


_SETTLED = 120
"""Milliseconds without a change of the view before the preview is updated."""


class ObjectsOnShow(JobTab):
    """The widgets of the tab, and the objects found so far: a layer, a table, saving and scoring."""

    def __init__(self, queue: EngineQueue, viewer: ViewerModel) -> None:
        super().__init__(queue)
        self._viewer = viewer
        self.as_edited: Callable[[ShownObjects], ShownObjects] = lambda shown: shown  # the Proofread tab's, once it is
        self._shown: dict[str, ShownObjects] = {}
        self._source: ProbabilitySource | None = None
        self.mark = RegionHighlight(viewer)
        self._marked: ShownObjects | None = None
        self._selected: ShownObjects | None = None
        self._tabled: ShownObjects | None = None
        self.form, self.look = ObjectsForm(), ObjectsPreview(self, self._viewer)
        self.preview, self.preview_note = QCheckBox("Preview on screen"), MessageLine()
        self.preview.setToolTip("Find the objects on screen again whenever a slider or the view moves")
        self.find_button, self.save_button = PrimaryButton("Find objects"), QPushButton("Save…")
        self.save_button.setToolTip("Write the labels as OME-TIFF or OME-Zarr, and the measurements as CSV beside them")
        self.export_button = ExportButton()
        self.table, self.score_box = ObjectsTable(), ScoreBox()
        self.links = ConnectionGroup()
        self.again_button = ObjectsAgainButton(self._viewer, self.links)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SETTLED)
        self._lay_out()
        self.links.tie(viewer.layers.selection.events.active, self._on_layer_selected)

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.find_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        lines = self.progress, self.progress_text, self.message
        above = self.form, self.preview, self.preview_note, buttons, *lines, self.again_button
        below = QHBoxLayout()
        below.addWidget(self.save_button)
        below.addWidget(self.export_button)
        column = self.add_column(*above, self.table, below, self.score_box, stretched=self.table)
        column.setSpacing(6)

    def result(self) -> ShownObjects | None:
        """Return the objects whose layer was selected last, else those of the chosen layer, None without any."""
        self._shown = {key: shown for key, shown in self._shown.items() if shown.layer in self._viewer.layers}
        if self._selected is not None and self._selected in self._shown.values():
            return self._selected
        return None if self._source is None else self._shown.get(str(self._source.layer.unique_id))

    def edited_result(self) -> ShownObjects | None:
        """Return `result` with the edits that are open in Proofread."""
        return None if (shown := self.result()) is None else self.as_edited(shown)

    def on_show(self) -> list[ShownObjects]:
        """Return all objects whose layers are in the viewer."""
        return [shown for shown in self._shown.values() if shown.layer in self._viewer.layers]

    def _on_layer_selected(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        chosen = next((each for each in self._shown.values() if without_wrapper(active) == each.layer), None)
        if chosen is not None and chosen is not self.result():
            self._selected = chosen
            self.show_result()

    def show_result(self) -> None:
        """Show the table of `result`."""
        shown = self._tabled = self.result()
        if self._marked is not None and self._marked is not shown:
            self.unmark()
        self.table.show_table(None if shown is None else shown.table)
        source = self._source if shown is None else shown.source
        self.score_box.offer([] if source is None else find_truths(self._viewer, source))
        self.score_box.scores.say("")
        self.check()

    def show_found(self, source: ProbabilitySource, loaded: LoadedObjects, compared: str = "") -> None:
        """Show the objects of a source as a layer and a table. compared: how they differ from before, in a sentence."""
        if source.layer not in self._viewer.layers:
            self.show_message(f"'{source.layer.name}' was removed meanwhile: its objects are not shown.")
            return
        self.preview.setChecked(False)
        self.unmark()
        shown = show_objects(self._viewer, source, loaded)
        self._shown[str(source.layer.unique_id)] = self._selected = shown
        if pick_label not in shown.layer.mouse_drag_callbacks:
            shown.layer.mouse_drag_callbacks.append(pick_label)
            self.links.tie(shown.layer.events.selected_label, self._on_label_selected)
        self._viewer.layers.selection.active = shown.layer
        self.show_result()
        count = loaded.found.count
        self.show_message(f"{counted(count, 'object')} found. {compared or 'Click a row to go to the object.'}")

    def _on_row_chosen(self, row: int) -> None:
        shown = self.result()
        if shown is not None:
            show_object(self._viewer, shown, row)
            self._frame(shown, row)

    def _on_label_selected(self, event: Any) -> None:
        shown = self.result()
        if shown is not None and event.source == shown.layer:
            label = int(shown.layer.selected_label)
            self.table.select_label(label)
            if (place := self.table.rows.place_of(label)) is not None:
                self._frame(shown, self.table.rows.row_at(place))

    def _frame(self, shown: ShownObjects, row: int) -> None:
        """Draw a frame around an object in the slice on screen; its layer stays the active one."""
        if self._marked is not shown:
            self.unmark()
        self._marked = shown
        self.mark.show(shown.layer, shown.layer.name, frame_of(self._viewer, shown, row))
        self._viewer.layers.selection.active = shown.layer

    def unmark(self) -> None:
        """Remove the frame around an object."""
        self._marked = None
        self.mark.hide()

    def save(self) -> None:
        """Ask for a file, and write the objects on show and their measurements."""
        shown = self.edited_result()
        if shown is None or (file := ask_objects_file(self, shown.source.name)) is None:
            return

        def on_saved(files: list[Path]) -> None:
            self.show_message(f"Saved {' and '.join(each.name for each in files)} in {file.parent}.")
            named = ", ".join(each.name for each in files)
            pop_up(f"SkipSeg saved {named} in {file.parent}.", in_short(files))

        self.start(partial(iter_save_objects, shown, file), "Saving objects", on_saved)

    def score(self) -> None:
        """Score the objects on show against the chosen truth."""
        shown, truth = self.edited_result(), self.score_box.truth.currentData()
        if shown is None or truth is None or self.is_running:
            return
        try:
            found, true = without_channels(shown), stack_of_layer(truth, describe_source(self._viewer, truth).axes)
        except SkipsegError as error:
            self.fail(str(error))
            return

        def on_scored(scores: ObjectScores) -> None:
            self.score_box.scores.say(scores.in_words())

        self.start(partial(iter_score, found, true), "Scoring objects", on_scored)


_NOTHING = Missing("Segment an image first, or choose a layer with a probability or labels.")
_SEGMENTING = "The Segment tab is running: wait until it has finished."


class ObjectsTab(ObjectsOnShow):
    """Reads the form, previews, finds the objects in the engine, and shows them as a layer and a table."""

    def __init__(self, viewer: ViewerModel, engine: EngineLike, queue: EngineQueue, segment: SegmentState) -> None:
        super().__init__(queue, viewer)
        self._engine, self._segment = engine, segment
        self._is_warm = False
        self._waiting: list[RepeatedObjectSearch] = []
        self.source_links = ConnectionGroup()
        self.form.changed.connect(self._on_options_changed)
        self.form.moved.connect(self._on_layer_chosen)
        self.form.layer.opening.connect(self._offer)
        self.preview.toggled.connect(self._on_preview_toggled)
        self.look.updated.connect(
            lambda text, is_fault: self.preview_note.say(text, FAULT_COLOR if is_fault else "transparent")
        )
        self.find_button.clicked.connect(self.find)
        self.save_button.clicked.connect(self.save)
        self.export_button.show_requested.connect(self.show_shape_of_selected)
        self.export_button.write_requested.connect(self.export)
        self.table.chosen.connect(self._on_row_chosen)
        self.score_box.score_requested.connect(self.score)
        self.again_button.wanted.connect(self.search_again)
        self.again_button.failed.connect(self.fail)
        self.finished.connect(self._start_waiting)
        self._soon.timeout.connect(self._update_preview)
        layers, dims = self._viewer.layers.events, self._viewer.dims.events
        camera = getattr(self._viewer, "scene", self._viewer).camera.events
        for event in (layers.inserted, layers.removed):
            self.links.tie(event, self._on_layers_changed)
        for event in (dims.current_step, dims.ndisplay, dims.order, camera.center, camera.zoom):
            self.links.tie(event, self._update_preview_soon)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Offer the layers that there are now; compile what a search needs the first time."""
        super().showEvent(event)
        self._offer()
        if not self._is_warm:
            self._is_warm = True
            start_work(self, iter_warm_up, "Preparing", lambda _: None, lambda _: None, lambda: None, is_quiet=True)
        self._update_preview_soon()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        """Stop updating the preview."""
        super().hideEvent(event)
        self._soon.stop()

    def on_segmented(self, succeeded: bool) -> None:
        """Choose the new result of the Segment tab, unless a search runs here; start a search that waited for it."""
        found = self._result_of_segment()
        if succeeded and found is not None and not self.is_running:
            self._set_source(found)
        self.check_if_shown()
        self._update_preview_soon()
        self._start_waiting()

    def on_image_placed(self) -> None:
        """Move the objects to where their image lies now."""
        self.unmark()
        for shown in self._shown.values():
            place_over_image(shown)
        if (shown_now := self.result()) is not None and not shown_now.is_measured_as_it_lies():
            self.show_message("The voxel size has changed: find the objects again to measure them with it.")
        self._update_preview_soon()

    def _result_of_segment(self, options: ObjectOptions | None = None) -> Layer | None:
        return result_layer(self._viewer, self._segment.results, self._segment.read().layer, options)

    def _on_layers_changed(self, event: Any = None) -> None:
        if self.isVisible() or self._source is not None:
            self._offer()
        if self._tabled is not None and self._tabled is not self.result():
            self.show_result()  # its layer was removed

    def _offer(self) -> None:
        """Offer the layers; if none is chosen yet, choose the result on show, or a layer that is surely one."""
        layers = find_sources(self._viewer)
        chosen = None if self._source is None else self._source.layer
        if chosen not in layers:
            chosen = self._result_of_segment() or next((layer for layer in layers if is_certain(layer)), None)
        self._set_source(chosen)

    def _on_layer_chosen(self) -> None:
        self._set_source(self.form.layer.currentData())
        self._update_preview_soon()

    def _set_source(self, layer: Layer | None) -> None:
        before = None if self._source is None else self._source.layer
        self.form.offer_layers(find_sources(self._viewer), layer)
        source = self._source = None if layer is None else describe_source(self._viewer, layer)
        if before != layer:
            self.source_links.cut()
            if layer is not None:
                self.source_links.tie(layer.events.data, self._update_preview_soon)
            self.look.stop()
            self.score_box.scores.say("")
            self._last_message = ("", "")
        self.form.blockSignals(True)  # the options are the same, so the message stays
        self.form.show_source(source)
        self.form.blockSignals(False)
        self.form.offer_measured([] if source is None else find_measured(self._viewer, source))
        shown = self.result()
        truth_of = source if shown is None else shown.source
        self.score_box.offer([] if truth_of is None else find_truths(self._viewer, truth_of))
        if before != layer:
            self._update_preview_soon()
            self._selected = None
            self.show_result()
        self.check()

    def _on_options_changed(self) -> None:
        self.forget_and_check()
        self._update_preview()

    def _on_preview_toggled(self, is_on: bool) -> None:
        self.unmark()
        if is_on:
            self._update_preview()
        else:
            self.look.stop()
            self.preview_note.say("")

    def _update_preview_soon(self, event: Any = None) -> None:
        if self.preview.isChecked():
            self._soon.start()

    def _update_preview(self) -> None:
        source = self._source
        if self.preview.isChecked() and self.isVisible() and source is not None and not self._fault():
            self.look.update(source, self.form.read())

    def find(self) -> None:
        """Find the objects of the whole stack; the layer and the table appear when that is done."""
        if self._source is not None:
            self._find(RepeatedObjectSearch(self._source, self.form.read(), self.form.measured.currentData()))

    def find_again(self, request: SegmentRequest) -> None:
        """Find the objects that the request of a recipe asks for, in the result of the Segment tab."""
        image, options = self._segment.read().layer, request.objects
        layer = self._result_of_segment(options)
        if layer is None or options is None:
            self.fail("The probability is not open any longer: its objects were not found again.")
            return
        self.search_again(RepeatedObjectSearch(describe_source(self._viewer, layer), options, image, request.depth))

    def search_again(self, search: RepeatedObjectSearch) -> None:
        """Repeat a search as soon as no other job runs, and show its options in the form."""
        layer = search.source.layer
        self._waiting = [*(each for each in self._waiting if each.source.layer != layer), search]
        self._start_waiting()

    def _start_waiting(self, succeeded: bool = True) -> None:
        """Start the next search that waits, if no job runs."""
        while self._waiting and not self.is_running and not self._segment.is_running():
            search = self._waiting.pop(0)
            if search.source.layer not in self._viewer.layers:
                self.fail(f"'{search.source.layer.name}' was removed meanwhile: its objects were not found again.")
                continue
            self._set_source(search.source.layer)
            self.form.show_options(search.options)
            self.form.choose_measured(search.measured)
            if fault := self._fault():
                self.fail(fault)
            else:
                self._find(search)

    def _find(self, search: RepeatedObjectSearch) -> None:
        source, measured = search.source, search.measured
        if self.is_running or self._fault():
            return
        try:
            stack = stack_to_search(source, search.depth)
            image = None if measured is None else stack_of_layer(measured, describe_source(self._viewer, measured).axes)
        except SkipsegError as error:
            self.fail(str(error))
            return
        segmentation = recipe_of_layer(source.layer)
        recipe = {"segmentation": segmentation} if segmentation else {}
        request = FindObjects(
            probability=stack,
            class_names=tuple(source.class_names),
            options=search.options,
            image=image,
            is_labels=source.labels,
            recipe=recipe,
        )
        shape = tuple(source.length(axis) for axis in source.voxel_axes)

        def work() -> Generator[Progress, None, LoadedObjects]:
            return iter_load(self._engine.run(request), shape)

        def show(loaded: LoadedObjects) -> None:
            padding = describe_padding(source.has_padding, search.options, source.labels)
            self.show_found(source, loaded, f"{padding} {search.compare(loaded.found.recipe)}".strip())

        self.start(work, f"Finding objects in {source.name}", show, waiting_text="waits for the search for objects")

    def show_shape_of_selected(self, kind: str) -> None:
        """Show the mesh or the skeleton of the selected object as a layer."""
        shown = self.edited_result()
        if shown is None or self.is_running:
            return
        label = int(shown.layer.selected_label)

        def show(shape: ObjectShape) -> None:
            show_shape(self._viewer, shown, shape)
            self.show_message(f"The {kind} of object {label} is a layer of its own.")

        work = partial(iter_shape, shown, label, kind, self._engine)
        self.start(work, f"Finding the {kind} of object {label}", show, waiting_text=f"waits for the {kind}")

    def export(self, options: ExportOptions) -> None:
        """Ask for a folder, and write all objects on show into it."""
        shown = self.edited_result()
        folder = None if shown is None or self.is_running else ask_folder(self, "Export objects to a folder", "objects")
        if shown is None or folder is None:
            return
        try:
            request = request_of(shown, options, folder)
        except SkipsegError as error:
            self.fail(str(error))
            return

        def on_written(done: ExportedFiles) -> None:
            names = " and ".join(file.name for file in done.files)
            pop_up(f"SkipSeg wrote {names} in {folder}.", f"{counted(done.count, 'object')} exported")
            self.show_message(" ".join([f"{counted(done.count, 'object')} in {names}, in {folder}.", *done.notes]))

        work, kept = partial(self._engine.run, request), partial(kept_of, request)
        self.start(work, "Exporting objects", on_written, on_stop=kept, waiting_text="waits for an export")

    def _fault(self) -> str:
        """Return why objects cannot be found, "" if they can."""
        source = self._source
        if source is None:
            return _NOTHING
        if 0 in data_of(source.layer).shape:
            return f"'{source.layer.name}' is empty: choose a different layer."
        return self.form.fault or (_SEGMENTING if self._segment.is_running() else "")

    def check_if_shown(self) -> None:
        """Check the choices, if this tab is on screen."""
        if self.isVisible():
            self.check()

    def check(self) -> None:
        """Enable Find objects if all is right and nothing runs; otherwise the line below says why."""
        super().check()
        fault, shown, running = self._fault(), self.result(), self.is_running
        self.find_button.setEnabled(not fault and not running)
        set_hint(self.find_button, fault or "Find the objects of the whole stack, and measure them")
        self.preview.setEnabled(not fault)
        self.again_button.update_visible()
        self.again_button.setEnabled(not running and not self._segment.is_running())
        self.table.setVisible(shown is not None)
        for button in (self.save_button, self.export_button):
            button.setVisible(shown is not None)
            button.setEnabled(not running)
        self.score_box.button.setEnabled(shown is not None and not running)
        self.explain(fault)
