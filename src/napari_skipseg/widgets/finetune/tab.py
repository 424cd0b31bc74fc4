"""The Fine-tune tab: from corrections to a new model, which is shown to be better before it is the choice."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout

from napari_skipseg.errors import SkipsegError
from napari_skipseg.jobs.messages import Finetune, PlanLesson, Train
from napari_skipseg.models.catalog import find_models, user_folder
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import (
    Finetuned,
    KeepBest,
    Trained,
    TrainingProgress,
    TrainingSummary,
    ValidationPicture,
    without_losses,
)
from napari_skipseg.training.settings import FinetuneSettings, Reach
from napari_skipseg.training.taught_scale import SCALE
from napari_skipseg.training.unfinished import find_unfinished
from napari_skipseg.widgets.finetune.comparison import BeforeAfter, ReportTable, find_before
from napari_skipseg.widgets.finetune.form import FinetuneForm, TrainingSummaryLine
from napari_skipseg.widgets.finetune.phases import OverallProgress
from napari_skipseg.widgets.finetune.train_form import TrainForm, describe_trained
from napari_skipseg.widgets.finetune.training_images import CorrectionsOfTab, TrainingImages, TrainingSourceList
from napari_skipseg.widgets.finetune.unfinished_note import UnfinishedNote
from napari_skipseg.widgets.forms.engine_line import EngineLike, EngineLine
from napari_skipseg.widgets.forms.fields import WARNING_COLOR, Collapsible, ConnectionGroup, set_hint
from napari_skipseg.widgets.forms.job_tab import JobTab, pop_up
from napari_skipseg.widgets.forms.worker import Work
from napari_skipseg.widgets.layers.results import ShownResult
from napari_skipseg.widgets.segment.checks import find_faults
from napari_skipseg.widgets.segment.tab import PRIMARY

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_skipseg.widgets.finetune.curves import TrainingPlots
    from napari_skipseg.widgets.segment.tab import SegmentTab

_LOOKED_AT = 1000
"""Milliseconds between two looks at what was painted meanwhile."""
KEEP_HINT = "End the training now and keep the best weights so far; they are compared with the old model as usual"
NOT_YET_HINT = "Available while training steps are taken: before the first one there is nothing to keep"


class FinetuneTab(JobTab):
    """Form, what will be learnt from, Fine-tune, Stop and Cancel; curves and a tile; old against new; from scratch.

    It learns from the corrections of the image in the Segment tab, and from earlier ones that are ticked.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        engine: EngineLike,
        line: EngineLine,
        segment_tab: SegmentTab,
        correct_tab: CorrectionsOfTab,
    ) -> None:
        super().__init__(line)
        self._viewer, self._engine = viewer, engine
        self._segment_tab, self._correct_tab = segment_tab, correct_tab
        self._comparison = BeforeAfter(viewer)
        self._seen: object = None
        self._made = self._parent = ""
        self._overall, self._first_step = OverallProgress(""), 0
        self._pace: dict[Reach, float] = {}
        self._unfinished: object = None
        self._is_keeping = self._is_viewing = False
        self._step = ""
        self.plots: TrainingPlots | None = None
        self.links = ConnectionGroup()
        self._make_widgets()
        self._lay_out()
        self._connect()

    def _make_widgets(self) -> None:
        self.sources = TrainingSourceList()
        self.form = FinetuneForm(self.sources)
        self._material = TrainingImages(self.form, self.sources, self._segment_tab, self._correct_tab)
        self.lesson = TrainingSummaryLine(self._line)
        self.lesson.answered.connect(self.check)
        self.scratch, self.scratch_fold = TrainForm(self._viewer), Collapsible("Train from scratch")
        self.scratch_fold.fill(self.scratch)
        self.tune_button, self.keep_button = QPushButton("Fine-tune"), QPushButton("Stop, keep the best")
        self.tune_button.setStyleSheet(PRIMARY)
        self.keep_button.setToolTip(NOT_YET_HINT)
        for button in (self.tune_button, self.keep_button):
            button.setMinimumHeight(30)
        self.report = ReportTable()
        self.unfinished = UnfinishedNote()
        self._looking = QTimer(self)
        self._looking.setInterval(_LOOKED_AT)

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.tune_button, 2)
        buttons.addWidget(self.keep_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        column = self._column = QVBoxLayout(self)
        column.setContentsMargins(10, 10, 10, 10)
        column.setSpacing(8)
        for widget in (self.unfinished, self.form, self.form.fold, self.lesson):
            column.addWidget(widget)
        column.addLayout(buttons)
        for widget in (self.progress, self.progress_text, self.message, self.report, self.scratch_fold):
            column.addWidget(widget)
        column.addStretch(1)

    def _connect(self) -> None:
        self.form.changed.connect(self.forget_and_check)
        self.sources.ticked.connect(self.forget_and_check)
        self.tune_button.clicked.connect(self.finetune)
        self.keep_button.clicked.connect(self.keep_best)
        self.unfinished.wanted.connect(self._take_up)
        self.report.used.connect(lambda: self.use(self._made))
        self.report.compared.connect(self._comparison.compare)
        self._segment_tab.opening.connect(self.report.show_after)
        removed = self._viewer.layers.events.removed
        self.links.tie(removed, lambda event: self.report.keep_before(self._comparison.is_there))
        self.scratch.started.connect(self.train)
        self.scratch_fold.toggled.connect(self.scratch.offer_layers)
        self._segment_tab.form.changed.connect(self._follow)
        self._segment_tab.finished.connect(self._hear_of_view)
        self._looking.timeout.connect(self._look)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Make the plots the first time; look what there is to learn from each time."""
        super().showEvent(event)
        if self.plots is None:
            self._add_plots()
        self.form.offer_models()
        self._look_for_unfinished()
        self._looking.start()
        self._follow()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        """Look no more at what is painted."""
        super().hideEvent(event)
        self._looking.stop()
        if not self.is_running:
            self.lesson.stop()

    def _add_plots(self) -> None:
        from napari_skipseg.widgets.finetune.curves import TrainingPlots

        plots = self.plots = TrainingPlots()
        plots.use_theme(self._viewer.theme)
        self._column.insertWidget(self._column.indexOf(self.scratch_fold), plots)
        self.links.tie(self._viewer.events.theme, lambda event: plots.use_theme(self._viewer.theme))

    def tell_unfinished(self) -> None:
        """Say in a notification that a fine-tuning was interrupted, where there is one."""
        if self._look_for_unfinished():
            pop_up(self.unfinished.text(), "A fine-tuning was interrupted.")

    def _look_for_unfinished(self) -> bool:
        """Offer the newest fine-tuning that was interrupted; return whether there is one."""
        found = [] if self.is_running else find_unfinished(user_folder())
        self.unfinished.offer(found[0] if found else None)
        return bool(found)

    def _take_up(self, settings: FinetuneSettings) -> None:
        """Put the settings of an interrupted fine-tuning into the form: the same Fine-tune goes on with it."""
        self.form.take(settings)
        self.forget_and_check()

    def _follow(self) -> None:
        """Start from the model of the Segment tab, and learn from its image."""
        if not self.isVisible():
            return
        if not self.is_running:
            self.form.start_from(self._segment_tab.form.model.currentData())
        self.sources.show_sources(list(self._material.find_sources()))
        self.check()

    def _look(self) -> None:
        """Look whether something was painted since the last time."""
        if (state := self._material.state()) != self._seen:
            self._seen = state
            self._follow()

    def finetune(self) -> None:
        """Fine-tune as the form says; the new model becomes the choice where it is better.

        It is queued at once. Before it comes what it is compared with (a preview, where the view is not segmented yet),
        and before that the line that says what will be learnt from, where the answer is still awaited.
        """
        place, material = self._segment_tab.form.read(), self._material
        self._follow()
        if self.is_running or material.fault():
            return
        try:
            settings = material.settings()
        except SkipsegError as error:
            self.fail(str(error))
            return
        open_all = material.opening()

        def work() -> Generator[Progress, KeepBest | None, Finetuned]:
            images = yield from open_all()
            return (yield from self._engine.run(Finetune(settings, tuple(images), user_folder(), place.device)))

        self.lesson.ask_now()
        self._parent = Path(settings.model).name
        if self._find_before(place.layer) is None:
            self._segment_tab.preview_with(settings.model)
        if self.plots is not None:
            self.plots.use_classes(*material.colors(self._segment_tab.known_colors(place.layer) if place.layer else {}))
        finish = partial(self._finish, place.layer, self._parent)
        self._begin(work, f"Fine-tuning {settings.name}", finish, "waits for the fine-tuning", settings.name)

    def _find_before(self, layer: Image | None) -> ShownResult | None:
        """Return what the model that fine-tuning starts from made of the view, None where that is not on show."""
        return find_before(self._viewer, layer, self._segment_tab.results.on_show(layer), self._parent)

    def _ask_lesson(self) -> None:
        """Have the engine say what would be learnt from."""
        settings, device = self._material.settings("lesson"), self._segment_tab.form.read().device
        open_all = self._material.opening()

        def ask() -> Generator[Progress, None, TrainingSummary]:
            images = yield from open_all()
            return (yield from self._engine.run(PlanLesson(settings, tuple(images), device)))

        self.lesson.pace = self._pace.get(settings.reach, 1.0)
        self.lesson.follow((settings, self._material.version(), device), ask)

    def train(self) -> None:
        """Train from scratch as the fold says."""
        if self.is_running:
            return
        try:
            scratch = self.scratch.read()
        except SkipsegError as error:
            self.fail(str(error))
            return
        if self.plots is not None:
            self.plots.use_classes()
        settings, device = scratch.settings, self._segment_tab.form.read().device
        restart, self._unfinished = settings != self._unfinished, settings
        work = partial(self._engine.run, Train(settings, user_folder(), device, scratch.written, restart))
        self.lesson.clear()
        self._begin(work, f"Training {settings.name}", self._finish_training, "waits for the training", settings.name)

    def _begin(self, work: Work, description: str, finish: Callable[[Any], None], waiting: str, name: str) -> None:
        self.report.hide()
        self._overall, self._first_step = OverallProgress(name), 0
        self._step = ""
        if self.plots is not None:
            self.plots.start()
        self.start(work, description, finish, waiting=waiting)

    def keep_best(self) -> None:
        """End the training, and keep the best weights so far."""
        if self.is_running:
            self._is_keeping = True
            self.keep_button.setEnabled(False)
            self.send(KeepBest())

    def _finish(self, layer: Image | None, parent: str, done: Finetuned) -> None:
        self._made = done.folder.name
        self._note_time()
        self.report.show_report(done.report, parent, self._made)
        self.form.offer_models()
        if done.report.is_better:
            self.use(self._made, layer)
        elif done.report.is_unsure:
            self.use(self._made, layer)
            self.tell(f"{self._made} is selected in the Segment tab to be looked at. It is not known to be better.")
        else:
            self.tell(f"{self._made} is kept beside {self.form.model.currentText()}, which stays selected.")

    def _note_time(self) -> None:
        """Have what is told of the next fine-tuning follow what this one took, if it went on to its end in one go."""
        if self.lesson.estimated and not self._is_keeping and self._first_step <= 1:
            self._pace[self.form.read().reach] = self.seconds / self.lesson.estimated
            self.lesson.clear()  # it is told anew, also where nothing else changes

    def _finish_training(self, trained: Trained) -> None:
        name, self._unfinished = trained.folder.name, None
        self.use(name)
        self.tell(f"Trained {describe_trained(name)}. It is now selected in the Segment tab.")

    def use(self, name: str, layer: Image | None = None) -> None:
        """Make a model the choice in the Segment tab and here, and segment the view with it."""
        form = self._segment_tab.form
        place = form.read()
        layer = place.layer if layer is None else layer
        kept = "" if layer is None else self._comparison.keep(layer, self._find_before(layer), place.threshold)
        form.model.offer([(each, each) for each in find_models()], name)
        form.check()
        self.form.follow_model = True
        self.form.start_from(name)
        self.report.use_button.hide()
        self.report.offer_before(kept, name)
        self.tell(f"{name} is now selected in the Segment tab.")
        if place.layer is layer and not find_faults(form.read()):
            self._segment_tab.preview()
            self._is_viewing = self._segment_tab.is_running

    def _hear_of_view(self, succeeded: bool) -> None:
        """Say how much of the view the new model gives to what it was taught, once the view is segmented with it."""
        if self._is_viewing and succeeded:
            self.report.show_shares(self._segment_tab.shares, float(self._segment_tab.form.threshold.value()))
        self._is_viewing = False
        self.check()

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Say what was found about the images, but not again what the line above says."""
        news = [finding for finding in findings if finding not in self.lesson.summary.text()]
        is_plain = all(finding.startswith(SCALE) for finding in news)
        if news:
            self.tell(" ".join(news), "transparent" if is_plain else WARNING_COLOR)

    def describe(self, progress: Progress) -> str:
        """Return the progress in words; the losses are in the curves."""
        return super().describe(replace(progress, message=without_losses(progress.message)))

    def draw(self, heard: list[Progress]) -> None:
        """Show how far the job is: in words, in the bar, as curves."""
        super().draw(heard)
        if self.is_running and self.cancel_button.isEnabled():
            for progress in heard:
                overall = self._overall.of(progress)
            self.progress.show_progress(overall)
        steps = [progress.message for progress in heard if isinstance(progress, TrainingProgress | ValidationPicture)]
        self._step = steps[-1] if steps else self._step
        learned = [progress.step for progress in heard if isinstance(progress, TrainingProgress)]
        self._first_step = self._first_step or (learned[0] if learned else 0)
        # what comes between two steps only repeats the message of the last one
        is_training = self.is_running and heard[-1].message == self._step != ""
        self.keep_button.setEnabled(is_training and not self._is_keeping)
        self.keep_button.setToolTip(KEEP_HINT if is_training else NOT_YET_HINT)
        if self.plots is not None:
            self.plots.show_progress(heard)

    def check(self) -> None:
        """Fine-tune is on when all is right and nothing runs; otherwise the line below says why."""
        super().check()
        fault, running = self._material.fault(), self.is_running
        self._is_keeping = self._is_keeping and running
        self.tune_button.setVisible(not running)
        self.tune_button.setEnabled(not fault and not self.lesson.refused)
        set_hint(self.tune_button, fault or "Make a new model from the one above and your corrections")
        self.keep_button.setVisible(running)
        self.keep_button.setEnabled(self.keep_button.isEnabled() and running and not self._is_keeping)
        self.scratch.train_button.setEnabled(not running)
        for part in (self.form, self.form.fold):
            part.setEnabled(not running)
        if running:
            self.unfinished.offer(None)
        self.form.show_sources(self.sources.count() > 0)
        self.explain("" if running else fault)
        if running:
            return
        if fault or not self.isVisible():
            self.lesson.clear()
        else:
            self._ask_lesson()
