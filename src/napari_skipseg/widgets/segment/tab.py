"""The Segment tab: reads the form, runs the engine beside the window, shows the result as layers while it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QPushButton

from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.box import box_from_text, box_within
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import ResultsOpened, Threshold, TileWritten, file_name
from napari_skipseg.inference.recipes.recipe import Recipe, choices_of_recipe
from napari_skipseg.jobs.messages import EstimateRun, ListDevices, Segment
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import STARTING, Progress
from napari_skipseg.widgets.forms.dialogs import SystemReportDialog, last_folder
from napari_skipseg.widgets.forms.estimate_line import PlanLine
from napari_skipseg.widgets.forms.fields import BUTTON_HEIGHT, WARNING_COLOR, MessageLine, PrimaryButton, call_action
from napari_skipseg.widgets.forms.job_tab import JobTab, pop_up
from napari_skipseg.widgets.forms.worker import (
    EngineLike,
    EngineQueue,
    EngineTask,
    Work,
    WorkOutcome,
    in_one_step,
    start_work,
)
from napari_skipseg.widgets.layers.files import opened_from
from napari_skipseg.widgets.layers.live import FilledPart, ResultFiller, Results, with_first_view
from napari_skipseg.widgets.layers.placement import current_position
from napari_skipseg.widgets.layers.results import (
    LAYER_NAMES,
    RESULT_SOURCE,
    SLICE_OF,
    ShownResult,
    bring_results_back,
    data_of,
    prepare_colors,
    show_alone,
    stack_of_layer,
)
from napari_skipseg.widgets.segment.checks import SegmentFormValues, SegmentState, find_faults, find_warning
from napari_skipseg.widgets.segment.form import SegmentForm
from napari_skipseg.widgets.segment.outcome import (
    SAVED_RESULTS,
    WHOLE_IS_KEPT,
    DoneRun,
    SaveChoices,
    ask_what_to_save,
    describe_done,
    name_part,
    results_to_save,
    save_results,
    with_shares,
)
from napari_skipseg.widgets.segment.part import (
    PREVIEW_HINT,
    GreyValues,
    StrokesIn,
    cut_to_view,
    iter_suggest_for,
    mask_of_layer,
    remove_preview,
    start_of,
)
from napari_skipseg.widgets.segment.run_again import AgainButton, RepeatRequest, describe_repetition, mask_of_recipe
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

_DRAWN = 1500
"""Milliseconds after which napari's colouring of labels is compiled, in a thread: in 0.4 s of processor, which would
delay the opening panel, and which the first result would wait for."""
_SETTLED = 150
"""Milliseconds for which the view must rest before its position is sent to the engine."""
SAVE_HINT = "Write the result of this image as OME-TIFF or OME-Zarr: the one whose layer is selected, else the newest"
STOPPED_HINT = "This result was stopped before it was whole: segment again to save it"


class SegmentTab(JobTab):
    """Form, plan, Segment, Preview and Cancel, progress, one line with the outcome or what is wrong, Save results.

    opening: emitted just before new results of an image replace those on screen. objects_requested: emitted with the
    recipe's request when a result with objects in its recipe was repeated. known_colors: returns the colours that were
    chosen for an image's classes, by name. strokes_in: returns the strokes over a part of an image. shares: the share
    of the voxels that each class has in the last result.
    """

    opening = Signal()
    objects_requested = Signal(object)

    def __init__(self, viewer: ViewerModel, engine: EngineLike, queue: EngineQueue) -> None:
        super().__init__(queue)
        self._viewer, self._engine = viewer, engine
        self._filling: ResultFiller | None = None
        self.results = Results(viewer)
        self._grey_values = GreyValues()
        self.known_colors: Callable[[Image], Mapping[str, str]] = lambda layer: {}
        self.strokes_in: StrokesIn = lambda layer, spans: None
        self._last_choices: SegmentFormValues | None = None
        self._repeated: Recipe | None = None
        self._save_folder = ""
        self.shares: dict[str, float] = {}
        self._lay_out()
        self._connect()
        self.check()
        self.form.report.clicked.connect(self.show_report)
        self._ask_devices()
        self._colors_timer.start()

    def _lay_out(self) -> None:
        self.form = SegmentForm(self._viewer)
        self.plan = PlanLine(self._queue)
        self.segment_button, self.preview_button = PrimaryButton("Segment"), QPushButton("Preview")
        self.preview_button.setMinimumHeight(BUTTON_HEIGHT)
        self.preview_button.setToolTip(PREVIEW_HINT)
        self.done = MessageLine()
        self.save_button, self.again_button = QPushButton("Save results…"), AgainButton(self._viewer)
        self._view_timer = QTimer(self)
        self._view_timer.setSingleShot(True)
        self._view_timer.setInterval(_SETTLED)
        self._colors_timer = QTimer(self)
        self._colors_timer.setSingleShot(True)
        self._colors_timer.setInterval(_DRAWN)
        buttons = QHBoxLayout()
        buttons.addWidget(self.segment_button, 2)
        buttons.addWidget(self.preview_button, 1)
        buttons.addWidget(self.cancel_button, 1)
        lines = self.progress, self.progress_text, self.done, self.message
        self.add_column(self.form, self.plan, buttons, *lines, self.again_button, self.save_button)

    def _connect(self) -> None:
        self.form.changed.connect(self._on_form_changed)
        self.form.placed.connect(lambda: self.results.move(self.form.read().layer))
        self.form.threshold_moved.connect(
            lambda: self.results.set_threshold(self.form.read().layer, self.form.threshold.values())
        )
        self.segment_button.clicked.connect(partial(call_action, self.segment))
        self.plan.invert_requested.connect(self.form.options.invert.toggle)
        self.preview_button.clicked.connect(partial(call_action, self.preview))
        self.form.suggest.clicked.connect(self.suggest)
        self.save_button.clicked.connect(self._ask_what_to_save)
        self.again_button.requested.connect(self._segment_again)
        self.again_button.failed.connect(self.fail)
        self.finished.connect(self._describe_repetition)
        self._view_timer.timeout.connect(self._send_focus)
        prepare = in_one_step("preparing the colours", prepare_colors)
        self._colors_timer.timeout.connect(lambda: start_work(self, prepare, "Preparing", is_quiet=True))
        self._queue.job_added.connect(self.plan.stop)
        dims, camera = self._viewer.dims.events, getattr(self._viewer, "scene", self._viewer).camera.events
        for event in (dims.current_step, dims.ndisplay, dims.order, camera.center, camera.zoom):
            self.form.links.tie(event, self._on_view_moved)
        self.form.links.tie(self._viewer.layers.events.removed, lambda event: bring_results_back(self._viewer))
        self.form.links.tie(self._viewer.layers.selection.events.active, self.again_button.update_visible)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Plan for what was chosen meanwhile."""
        super().showEvent(event)
        self.check()

    def _segment_again(self, request: RepeatRequest) -> None:
        """Fill the form from a recipe and segment with the recipe's own options, which may have no field in the form.

        The choices that a run makes by itself (such as its tile) are taken from the recipe if its device is here.
        """
        self.form.show_recipe(request.recipe, request.layer, request.model)
        if request.recipe.request.options.mask:
            try:
                labels = mask_of_recipe(self._viewer, request.recipe)
            except SkipsegError as error:
                self.fail(str(error))
                return
            self.form.choose_extent(labels)
        is_here = self.form.device.findData(request.recipe.device) >= 0
        pinned = choices_of_recipe(request.recipe) if is_here else None
        self._repeated = request.recipe if self.segment(request.recipe.request.options, pinned) else None

    def segment(self, options: SegmentOptions | None = None, pinned: dict[str, int | str] | None = None) -> bool:
        """Segment what the form says, into layers that appear at once and fill; return whether the run was started.

        options: None for those of the form. pinned: as in `RunSpec`.
        """
        choices = self.form.read()
        layer = choices.layer
        if layer is None or not self._may_start(choices):
            return False
        try:
            positions = {}
            if not choices.whole:
                place = current_position(self._viewer, layer)
                positions = {axis: place[axis] for axis in choices.loops}
            stack = stack_of_layer(layer, choices.axes, positions)
            whole = stack_of_layer(layer, choices.axes) if positions else None
            model = self.form.model_folder()
            asked = options or choices.options()
            mask = None if choices.mask is None else mask_of_layer(choices.mask, layer, choices.axes)
            if asked.box:
                inside = box_within(box_from_text(asked.box), stack)
                positions = {choices.axes.index(axis): side.start for axis, side in inside.items()}
        except SkipsegError as error:
            self.fail(str(error))
            return False
        request = Segment(stack, str(model), asked, whole, pinned=pinned, mask=mask)
        part = part_at(layer, choices.axes, positions, asked.box, choices.mask.name if choices.mask is not None else "")
        filling = ResultFiller(self, self._viewer, layer, part, self.results.get(part.source))
        self._fill(partial(self._engine.run, request), choices, filling)
        return True

    def _describe_repetition(self, succeeded: bool) -> None:
        """Say how a repeated result differs from the earlier one, and request its objects."""
        recipe, self._repeated = self._repeated, None
        shown = self.result()
        if recipe is None or not succeeded or shown is None:
            return
        try:
            self.show_message(describe_repetition(recipe, shown.prediction.recipe))
        except SkipsegError as error:
            self.show_message(str(error))
            return
        if recipe.request.objects is not None:
            self.objects_requested.emit(recipe.request)

    def preview(self, model: str | None = None) -> None:
        """Segment what is on screen. model: the name of a different model than the form's, which stays as it is."""
        choices = self.form.read()
        layer = choices.layer
        try:
            if model is not None:
                choices = replace(choices, model=read_description(locate_model(model)))
            if layer is None or not self._may_start(choices):
                return
            folder = self.form.model_folder() if model is None else locate_model(model)
            view = cut_to_view(self._viewer, choices)
        except SkipsegError as error:
            self.fail(str(error))
            return
        known = self._grey_values.find(layer, view.options)
        request = Segment(view.stack, str(folder), view.options, view.whole, known, preview=True)
        part = FilledPart(choices.axes, view.start, RESULT_SOURCE.format(layer.unique_id), LAYER_NAMES)
        self._fill(partial(self._engine.run, request), choices, ResultFiller(self, self._viewer, layer, part, None))

    def suggest(self) -> None:
        """Rank all models on what is on screen, and list the best."""
        choices = self.form.read()
        try:
            work = iter_suggest_for(self._viewer, self._engine, choices, self.strokes_in)
        except SkipsegError as error:
            self.fail(str(error))
            return
        self.form.suggestions.clear()
        self.start(work, "Suggesting", self.form.suggestions.show_suggestions, waiting_text="waits for the suggestion")

    def _may_start(self, choices: SegmentFormValues) -> bool:
        return not self.is_running and not find_faults(choices) and choices.model is not None

    def _fill(self, work: Work, choices: SegmentFormValues, filling: ResultFiller) -> None:
        layer, source = filling.layer, filling.part.source
        show_alone(self._viewer, layer)
        is_preview = source == RESULT_SOURCE.format(layer.unique_id)
        if self._filling is not None:
            self._filling.deleteLater()
        self._filling = filling

        started = 0.0

        def on_progress(progress: Progress) -> None:
            nonlocal started
            if progress.message == STARTING:
                started = self.seconds
            if isinstance(progress, ResultsOpened) and progress.prediction is not None:
                self.opening.emit()
                if choices.mask is not None:
                    filling.place_at(start_of(progress.prediction.space, layer, choices.axes))
                if not is_preview:
                    remove_preview(self._viewer, layer)
                colors, threshold = self.known_colors(layer), self.form.threshold.values()
                self.results.keep(filling.open(progress.prediction, threshold, colors))
                self.results.put_in_front(layer, source)
                self._grey_values.keep(layer, choices.options(), progress.prediction.recipe)
            elif isinstance(progress, TileWritten):
                filling.on_tile_written(progress)

        def finish(done: DoneRun) -> None:
            shown = filling.finish(done.prediction)
            self.results.keep(shown)
            part = name_part(shown, choices.spanned)
            said = describe_done(part, self.seconds, done, choices.thresholds, started=started)
            is_beside = source.startswith(SLICE_OF.format(layer.unique_id, "")) and self.results.find_whole(layer)
            self.done.say(said + WHOLE_IS_KEPT if is_beside else said)
            self.shares = dict(done.shares)
            if layer not in self._viewer.layers:
                self.show_message(f"'{layer.name}' was removed meanwhile; its result stays.")

        def stop() -> str:
            shown, said = filling.stop(self.form.threshold.values())
            self.results.drop(filling.part.source)
            if shown is not None:
                self.results.keep(shown)
            return said

        name = "Previewing" if is_preview else "Segmenting"
        work = partial(with_first_view, work, filling.focus())
        self.done.say("")
        self.start(
            partial(with_shares, work, choices.thresholds),
            f"{name} {layer.name}",
            finish,
            on_progress=on_progress,
            on_stop=stop,
            waiting_text=f"waits for the {'preview' if is_preview else 'segmentation'}",
        )

    def _on_view_moved(self, event: Any = None) -> None:
        if self.is_running:
            self._view_timer.start()

    def _send_focus(self) -> None:
        if self.is_running and self._filling is not None:
            self.send(self._filling.focus())

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Say what was found about the image, under the plan, and offer to invert its contrast if that seems right."""
        self.plan.show_findings(findings, seems_inverted)

    def state(self) -> SegmentState:
        """Return what other tabs may read of this tab."""
        return SegmentState(
            read=self.form.read,
            model=self.form.model.currentData,
            is_running=lambda: self.is_running,
            results=self.results,
            known_colors=self.known_colors,
        )

    def result(self) -> ShownResult | None:
        """Return the result of the image in the form, None if it was not segmented."""
        return self.results.find(self.form.read().layer)

    def _on_form_changed(self) -> None:
        """Remove the outcome of the last run if the choices differ now; new layers alone do not change them."""
        before, self._last_choices = self._last_choices, self.form.read()
        if self._last_choices != before:
            self.done.say("")
            self.forget_and_check()
        else:
            self.check()

    def check(self) -> None:
        """Enable Segment if nothing is wrong and nothing runs; otherwise say why in the line under the form."""
        super().check()
        choices, running = self.form.read(), self.is_running
        faults = list(find_faults(choices).values())
        self.segment_button.setEnabled(not faults and not running)
        self.preview_button.setEnabled(not faults and not running)
        self.preview_button.setVisible(not running)
        of_image = [name for name in ("image", "axes", "channel") if name in find_faults(choices)]
        self.form.suggest.setEnabled(not of_image and not running)
        result = self.result()
        is_partial = result is not None and not result.is_whole
        self.save_button.setEnabled(result is not None and not is_partial and not running)
        self.save_button.setToolTip(STOPPED_HINT if is_partial and not running else SAVE_HINT)
        self.again_button.update_visible()
        self.again_button.setEnabled(not running)
        if self._last_message[0]:
            self.message.say(*self._last_message)
        elif faults:
            self.message.say_fault(faults[0])
        else:
            self.message.say(find_warning(choices), WARNING_COLOR)
        self._plan(choices, bool(faults))

    def _plan(self, choices: SegmentFormValues, is_wrong: bool) -> None:
        """Show time, memory and disk of a run, if one could be started."""
        layer, model = choices.layer, choices.model
        if is_wrong or layer is None or model is None or not self.isVisible():
            self.plan.clear()
            self.plan.show_image(None)
            return
        data = data_of(layer)
        options = replace(choices.options(), threshold=None, class_threshold=())
        cut = () if choices.whole else choices.loops
        image = (tuple(data.shape), str(data.dtype), choices.axes, choices.voxel_size, choices.unit, cut)
        key = (model.name, model.weights_sha256, options, image)
        self.plan.show_image((str(layer.unique_id), choices.channel, choices.axes))
        if self.is_running:
            self.plan.keep(key)
            return

        def measure() -> Generator[Progress, None, RunPlan]:
            whole = stack_of_layer(layer, choices.axes)
            stack = stack_of_layer(layer, choices.axes, dict.fromkeys(cut, 0)) if cut else whole
            mask = None if choices.mask is None else mask_of_layer(choices.mask, layer, choices.axes)
            return self._engine.run(EstimateRun(stack, model.name, options, whole, mask=mask))

        self.plan.update_for(key, measure)

    def _ask_what_to_save(self) -> None:
        choices, shown = self.form.read(), self.result()
        if shown is None or choices.layer is None:
            return
        name, title = result_file_name(choices.layer, shown), f"'{choices.layer.name}'"
        if shown.prefix:
            title += f", {shown.prefix.strip()} alone"
        opened = opened_from(choices.layer)
        beside = str(Path(opened).absolute().parent) if opened else last_folder(SAVED_RESULTS)
        folder = self._save_folder or beside
        chosen = ask_what_to_save(self, title, name, results_to_save(shown.prediction), folder)
        if chosen is not None:
            self._save_folder = str(chosen.folder)
            self.save(chosen, name, choices.thresholds, shown)

    def save(self, chosen: SaveChoices, name: str, threshold: Threshold, shown: ShownResult) -> None:
        """Write a result into files, beside the window."""

        def on_saved(files: list[Path]) -> None:
            said = f"Saved {counted(len(files), 'file')}"
            self.show_message(f"{said} in {chosen.folder}.")
            pop_up(f"SkipSeg saved {', '.join(file.name for file in files)} in {chosen.folder}.", said)

        write = partial(save_results, shown.prediction, chosen, name, threshold)
        self.start(in_one_step("writing the results", write), "Saving results", on_saved)

    def show_report(self) -> None:
        """Show what this machine computes on, and what a bug report needs."""
        self.report = SystemReportDialog(self, self._engine)
        self.report.open()

    def _ask_devices(self) -> None:
        def on_outcome(outcome: WorkOutcome) -> None:
            if outcome.fault:
                self.form.device_note.setText(outcome.fault)
            else:
                self.form.show_devices(outcome.value)

        EngineTask(
            self,
            partial(self._engine.run, ListDevices()),
            "Looking for devices",
            queue=self._queue,
            waiting_text=STARTING,
            is_quiet=False,
            on_outcome=on_outcome,
        )


def part_at(layer: Image, axes: str, positions: dict[int, int], box: str = "", mask: str = "") -> FilledPart:
    """Return all of an image, or the part of it at such positions, whose results have layers of their own."""
    if mask:  # where its result begins is known when the mask was read
        return FilledPart(axes, positions, SLICE_OF.format(layer.unique_id, f"mask {mask}"), f"Mask {mask} ")
    if not positions:
        return FilledPart(axes, positions, str(layer.unique_id))
    if box:
        return FilledPart(axes, positions, SLICE_OF.format(layer.unique_id, box), f"Box {box} ")
    where = [f"{axes[axis].lower()} {place}" for axis, place in positions.items()]
    return FilledPart(axes, positions, SLICE_OF.format(layer.unique_id, " ".join(where)), f"{', '.join(where)} ")


def result_file_name(layer: Image, shown: ShownResult) -> str:
    """Return the beginning of the names of a result's files; those of a single slice have its number."""
    places = [f"{shown.axes[axis].lower()}{place}" for axis, place in shown.positions.items()]
    return "_".join([file_name(layer.name), *places])
