"""The Segment tab: reads the form, runs the engine beside the window, shows the result as layers while it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout

from napari_skipseg.errors import SkipsegError
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.prediction import ResultsOpened, TileWritten
from napari_skipseg.jobs.messages import EstimateRun, ListDevices, Segment
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import STARTING, Progress
from napari_skipseg.widgets.forms.done_line import WHOLE_IS_KEPT, DoneRun, describe_done, name_part, with_shares
from napari_skipseg.widgets.forms.engine_line import EngineLike, EngineLine
from napari_skipseg.widgets.forms.estimate_line import PlanLine
from napari_skipseg.widgets.forms.fields import WARNING_COLOR, MessageLine
from napari_skipseg.widgets.forms.job_tab import JobTab
from napari_skipseg.widgets.forms.worker import Work, WorkOutcome, start_work
from napari_skipseg.widgets.layers.images_of_file import show_alone
from napari_skipseg.widgets.layers.live import FilledPart, ResultFiller, Results, with_first_view
from napari_skipseg.widgets.layers.placement import current_position
from napari_skipseg.widgets.layers.results import (
    LAYER_NAMES,
    RESULT_SOURCE,
    SLICE_OF,
    ShownResult,
    bring_results_back,
    data_of,
    iter_prepare_colors,
    stack_of_layer,
)
from napari_skipseg.widgets.segment.checks import SegmentFormValues, find_faults, find_warning
from napari_skipseg.widgets.segment.form import SegmentForm
from napari_skipseg.widgets.segment.preview import PREVIEW_HINT, GreyValues, cut_to_view, remove_preview
from napari_skipseg.widgets.segment.run_again import AgainButton, RepeatRequest, SaveButton
from napari_skipseg.widgets.system_report import SystemReportDialog

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

PRIMARY = """
QPushButton:enabled { background-color: #3f66c8; color: white; font-weight: 600; }
QPushButton:enabled:hover { background-color: #4f78dc; }
"""
_SETTLED = 150
"""Milliseconds for which the view rests before the engine hears of it."""


class SegmentTab(JobTab):
    """Form, plan, Segment, Preview and Cancel, progress, one line of what is wrong or how it went, Save results.

    opening: new results of an image are about to take the place of those on show. known_colors: gives the colours of an
    image's classes by their names, as far as they are chosen. shares: of the voxels of what was segmented last, by
    class.
    """

    opening = Signal()

    def __init__(self, viewer: ViewerModel, engine: EngineLike, line: EngineLine) -> None:
        super().__init__(line)
        self._viewer, self._engine = viewer, engine
        self._filling: ResultFiller | None = None
        self.results = Results(viewer)
        self._grey_values = GreyValues()
        self.known_colors: Callable[[Image], Mapping[str, str]] = lambda layer: {}
        self._heard_of: SegmentFormValues | None = None
        self.shares: dict[str, float] = {}
        self._make_widgets()
        self._connect()
        self.check()
        self.form.report.clicked.connect(self.show_report)
        self._ask_devices()
        start_work(self, iter_prepare_colors, "Preparing", lambda _: None, lambda _: None, lambda: None, is_quiet=True)

    def _make_widgets(self) -> None:
        self.form = SegmentForm(self._viewer)
        self.plan = PlanLine(self._line)
        self.segment_button, self.preview_button = QPushButton("Segment"), QPushButton("Preview")
        self.segment_button.setStyleSheet(PRIMARY)
        self.segment_button.setMinimumHeight(30)
        self.preview_button.setMinimumHeight(30)
        self.preview_button.setToolTip(PREVIEW_HINT)
        self.done = MessageLine()
        self.save_button, self.again_button = SaveButton(self), AgainButton(self, self._viewer)
        self._looking = QTimer(self)
        self._looking.setSingleShot(True)
        self._looking.setInterval(_SETTLED)
        self._lay_out()

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.segment_button, 2)
        buttons.addWidget(self.preview_button, 1)
        buttons.addWidget(self.cancel_button, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 10, 10, 10)
        column.setSpacing(8)
        column.addWidget(self.form)
        column.addWidget(self.plan)
        column.addLayout(buttons)
        below = self.progress, self.progress_text, self.done, self.message, self.again_button, self.save_button
        for widget in below:
            column.addWidget(widget)
        column.addStretch(1)

    def _connect(self) -> None:
        self.form.changed.connect(self._follow_form)
        self.form.placed.connect(self._follow_image)
        self.form.threshold_moved.connect(self._move_threshold)
        self.segment_button.clicked.connect(self.segment)
        self.plan.invert_asked.connect(self._invert)
        self.preview_button.clicked.connect(self.preview)
        self._looking.timeout.connect(self._look)
        self._line.joined.connect(self.plan.stop)
        dims, camera = self._viewer.dims.events, getattr(self._viewer, "scene", self._viewer).camera.events
        for event in (dims.current_step, dims.ndisplay, dims.order, camera.center, camera.zoom):
            self.form.links.tie(event, self._look_soon)
        self.form.links.tie(self._viewer.layers.events.removed, self._bring_back)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Plan for what was chosen meanwhile."""
        super().showEvent(event)
        self.check()

    def segment(self) -> None:
        """Segment what the form says; the layers appear at once and fill."""
        self.segment_as(None)

    def segment_as(self, asked: RepeatRequest | None) -> None:
        """Segment what the form says, with what is `asked` rather than the form's options where that is given."""
        choices = self.form.read()
        layer = choices.layer
        if layer is None or not self._may_start(choices):
            return
        try:
            positions = self._positions(choices)
            stack = stack_of_layer(layer, choices.axes, positions)
            whole = stack_of_layer(layer, choices.axes) if positions else None
            model = self.form.model_folder()
        except SkipsegError as error:
            self.fail(str(error))
            return
        options, pinned = asked or RepeatRequest(choices.options())
        work = partial(self._engine.run, Segment(stack, str(model), options, whole, pinned=pinned))
        part = part_at(layer, choices.axes, positions)
        self._fill(work, choices, ResultFiller(self, self._viewer, layer, part, self.results.get(part.source)))

    def preview(self) -> None:
        """Segment what is on screen."""
        self._preview(self.form.read(), str(self.form.model.currentData()))

    def preview_with(self, model: str) -> None:
        """Segment what is on screen with another model than the form's, which stays as it is."""
        try:
            described = read_description(locate_model(model))
        except SkipsegError as error:
            self.fail(str(error))
            return
        self._preview(replace(self.form.read(), model=described), model)

    def _preview(self, choices: SegmentFormValues, name: str) -> None:
        layer = choices.layer
        if layer is None or not self._may_start(choices):
            return
        try:
            view, model = cut_to_view(self._viewer, choices), locate_model(name)
        except SkipsegError as error:
            self.fail(str(error))
            return
        known = self._grey_values.find(layer, view.options)
        request = Segment(view.stack, str(model), view.options, view.whole, known, preview=True)
        part = FilledPart(choices.axes, view.start, RESULT_SOURCE.format(layer.unique_id), LAYER_NAMES)
        self._fill(partial(self._engine.run, request), choices, ResultFiller(self, self._viewer, layer, part, None))

    def _may_start(self, choices: SegmentFormValues) -> bool:
        return not self.is_running and not find_faults(choices) and choices.model is not None

    def _positions(self, choices: SegmentFormValues) -> dict[int, int]:
        """Return where the image is cut, by axis number; empty for all of it."""
        if choices.whole or choices.layer is None:
            return {}
        place = current_position(self._viewer, choices.layer)
        return {axis: place[axis] for axis in choices.loops}

    def _fill(self, work: Work, choices: SegmentFormValues, filling: ResultFiller) -> None:
        layer, source = filling.layer, filling.part.source
        show_alone(self._viewer, layer)
        is_preview = source == RESULT_SOURCE.format(layer.unique_id)
        if self._filling is not None:
            self._filling.deleteLater()
        self._filling = filling

        started = 0.0

        def hear(progress: Progress) -> None:
            nonlocal started
            if progress.message == STARTING:
                started = self.seconds
            if isinstance(progress, ResultsOpened) and progress.prediction is not None:
                self.opening.emit()
                if not is_preview:
                    remove_preview(self._viewer, layer)
                colors, threshold = self.known_colors(layer), float(self.form.threshold.value())
                self.results.keep(filling.open(progress.prediction, threshold, colors))
                self.results.put_in_front(layer, source)
                self._grey_values.keep(layer, choices.options(), progress.prediction.recipe)
            elif isinstance(progress, TileWritten):
                filling.hear(progress)

        def finish(done: DoneRun) -> None:
            shown = filling.finish(done.prediction)
            self.results.keep(shown)
            what = name_part(shown, choices.spanned)
            said = describe_done(what, self.seconds, done, choices.threshold, started=started)
            is_beside = source.startswith(SLICE_OF.format(layer.unique_id, "")) and self.results.find_whole(layer)
            self.done.say(said + WHOLE_IS_KEPT if is_beside else said)
            self.shares = dict(done.shares)
            if layer not in self._viewer.layers:
                self.tell(f"'{layer.name}' was removed meanwhile; its result stays.")

        def stop() -> str:
            shown, said = filling.stop(float(self.form.threshold.value()))
            self.results.drop(filling.part.source)
            if shown is not None:
                self.results.keep(shown)
            return said

        name = "Previewing" if is_preview else "Segmenting"
        waiting = f"waits for the {'preview' if is_preview else 'segmentation'}"
        looking = partial(with_first_view, work, filling.focus())
        measured = partial(with_shares, looking, choices.threshold)
        self.done.say("")
        self.start(measured, f"{name} {layer.name}", finish, hear, stop, waiting)

    def _look_soon(self, event: Any = None) -> None:
        if self.is_running:
            self._looking.start()

    def _look(self) -> None:
        if self.is_running and self._filling is not None:
            self.send(self._filling.focus())

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Say what was found about the image, under the plan, and offer to invert its contrast if that seems right."""
        self.plan.show_findings(findings, seems_inverted)

    def _invert(self, checked: bool = False) -> None:
        """Take the negative of the image, or the image itself again, in what is run next."""
        self.form.options.invert.toggle()

    def result(self) -> ShownResult | None:
        """Return the result of the image in the form, None where it was not segmented."""
        return self.results.find(self.form.read().layer)

    def _move_threshold(self, threshold: float) -> None:
        self.results.set_threshold(self.form.read().layer, threshold)

    def _follow_form(self) -> None:
        """Say no longer how it went where the choices are others now; new layers alone do not change them."""
        before, self._heard_of = self._heard_of, self.form.read()
        if self._heard_of != before:
            self.done.say("")
            self.forget_and_check()
        else:
            self.check()

    def _follow_image(self) -> None:
        self.results.follow(self.form.read().layer)

    def _bring_back(self, event: Any = None) -> None:
        bring_results_back(self._viewer)

    def check(self) -> None:
        """Segment is on when all is right and nothing runs; otherwise the line under the form says why."""
        super().check()
        choices, running = self.form.read(), self.is_running
        faults = list(find_faults(choices).values())
        self.segment_button.setEnabled(not faults and not running)
        self.preview_button.setEnabled(not faults and not running)
        self.preview_button.setVisible(not running)
        self.save_button.follow()
        self.again_button.follow()
        if self._told[0]:
            self.message.say(*self._told)
        elif faults:
            self.message.say_fault(faults[0])
        else:
            self.message.say(find_warning(choices), WARNING_COLOR)
        self._plan(choices, bool(faults))

    def _plan(self, choices: SegmentFormValues, is_wrong: bool) -> None:
        """Say what a run would take, where one could be started."""
        layer, model = choices.layer, choices.model
        if is_wrong or layer is None or model is None or not self.isVisible():
            self.plan.clear()
            self.plan.show_image(None)
            return
        data = data_of(layer)
        options = replace(choices.options(), threshold=0.5)
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
            return self._engine.run(EstimateRun(stack, model.name, options, whole))

        self.plan.follow(key, measure)

    def show_report(self) -> None:
        """Show what this machine computes on, and what a bug report needs."""
        self.report = SystemReportDialog(self, self._engine)
        self.report.open()

    def _ask_devices(self) -> None:
        def answer(outcome: WorkOutcome) -> None:
            if outcome.fault:
                self.form.device_note.setText(outcome.fault)
            else:
                self.form.show_devices(outcome.value)

        def start() -> None:
            ask = partial(self._engine.run, ListDevices())
            start_work(self, ask, "Looking for devices", lambda _: None, answer, turn.leave)

        turn = self._line.join(STARTING, is_job=False)
        turn.call(start)


def part_at(layer: Image, axes: str, positions: dict[int, int]) -> FilledPart:
    """Return all of an image, or the part of it at such positions, whose results have layers of their own."""
    if not positions:
        return FilledPart(axes, positions, str(layer.unique_id))
    where = [f"{axes[axis].lower()} {place}" for axis, place in positions.items()]
    return FilledPart(axes, positions, SLICE_OF.format(layer.unique_id, " ".join(where)), f"{', '.join(where)} ")
