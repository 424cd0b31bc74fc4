"""The Fine-tune tab: makes a new model from corrections, and compares it with the old one before it is selected."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QPushButton

from napari_skipseg.errors import SkipsegError
from napari_skipseg.jobs.messages import Finetune, PlanFinetuning, Train
from napari_skipseg.models.catalog import user_folder
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
from napari_skipseg.training.settings import Reach
from napari_skipseg.training.taught_scale import SCALE
from napari_skipseg.training.unfinished import find_unfinished
from napari_skipseg.widgets.correct.sessions import OpenCorrections
from napari_skipseg.widgets.finetune.comparison import (
    NOTHING_TO_COMPARE,
    SEGMENTS_FIRST,
    BeforeAfter,
    ChangesLayer,
    ReportTable,
    find_before,
)
from napari_skipseg.widgets.finetune.form import FinetuneForm, TrainingSummaryLine, UnfinishedNote
from napari_skipseg.widgets.finetune.train_form import TrainForm, describe_trained
from napari_skipseg.widgets.finetune.training_images import TrainingImages, TrainingSourceList
from napari_skipseg.widgets.forms.fields import (
    BUTTON_HEIGHT,
    WARNING_COLOR,
    Collapsible,
    ConnectionGroup,
    PrimaryButton,
    make_row,
    set_hint,
)
from napari_skipseg.widgets.forms.job_tab import JobTab, pop_up
from napari_skipseg.widgets.forms.worker import EngineLike, EngineQueue, Work
from napari_skipseg.widgets.layers.results import ShownResult
from napari_skipseg.widgets.segment.checks import SegmentState, find_faults

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_skipseg.widgets.finetune.curves import TrainingPlots


PHASES: tuple[tuple[tuple[str, ...], float], ...] = (
    (("reading", "opening", "saving"), 0.04),
    (("preparing patches", "computing features"), 0.16),
    (("warming up",), 0.15),
    (("step", "fitting"), 0.5),
    (("measuring", "writing"), 0.05),
    (("scoring",), 0.1),
)
"""The first words of each phase's messages, and its share of the bar, in the order of the work."""
_PARTS = 1000
"""Steps of the whole bar."""


class OverallProgress:
    """Turns the progress of a phase into that of the whole, which never goes back.

    new: the name of the new model, which is scored after the old one.
    """

    def __init__(self, new: str) -> None:
        self._new, self._reached = new, 0.0

    def of(self, progress: Progress) -> Progress:
        """Return the progress of the whole at `progress`, with the same message."""
        start = 0.0
        for beginnings, share in PHASES:
            if progress.message.startswith(beginnings):
                done = progress.fraction if progress.total > 1 else 0.0
                if progress.message.startswith("scoring"):  # the old model, then the new one
                    done = (done + progress.message.startswith(f"scoring {self._new}:")) / 2
                self._reached = max(self._reached, start + share * done)
                break
            start += share
        return Progress(round(_PARTS * self._reached), _PARTS, progress.message)


_POLLED = 1000
"""Milliseconds between two checks for new strokes."""
KEEP_HINT = "End the training now and keep the best weights so far; they are compared with the old model as usual"
STILL_SEGMENTING = "The Segment tab still runs: press Cancel there to stop it too."
NOT_YET_HINT = "Available during the training steps: before the first one there is nothing to keep"


class FinetuneTab(JobTab):
    """Form, training summary, buttons, curves and a picture, comparison of old and new, and training from scratch.

    It learns from the corrections of the image in the Segment tab, and from earlier ones that are ticked.
    model_wanted: a model that the Segment tab should select. view_wanted: the view should be segmented.
    view_with_wanted: the view should be segmented with this model.
    """

    model_wanted = Signal(str)
    view_wanted = Signal()
    view_with_wanted = Signal(str)

    def __init__(
        self,
        viewer: ViewerModel,
        engine: EngineLike,
        queue: EngineQueue,
        segment: SegmentState,
        corrections: OpenCorrections,
    ) -> None:
        super().__init__(queue)
        self._viewer, self._engine, self._segment = viewer, engine, segment
        self._comparison, self._changes = BeforeAfter(viewer), ChangesLayer(viewer)
        self._seen: object = None
        self._made = self._parent = ""
        self._overall, self._first_step = OverallProgress(""), 0
        self._pace: dict[Reach, float] = {}
        self._unfinished: object = None
        self._is_keeping = self._is_viewing = False
        self._step = ""
        self.plots: TrainingPlots | None = None
        self.links = ConnectionGroup()
        self.sources = TrainingSourceList()
        self.form = FinetuneForm(self.sources)
        self._images = TrainingImages(self.form, self.sources, segment.read, corrections)
        self.summary_line = TrainingSummaryLine(self._queue)
        self.summary_line.answered.connect(self.check)
        self.scratch, self.scratch_fold = TrainForm(viewer), Collapsible("Train from scratch")
        self.scratch_fold.fill(self.scratch)
        self.tune_button, self.keep_button = PrimaryButton("Fine-tune"), QPushButton("Stop, keep the best")
        self.keep_button.setToolTip(NOT_YET_HINT)
        self.keep_button.setMinimumHeight(BUTTON_HEIGHT)
        self.report = ReportTable()
        self.unfinished = UnfinishedNote()
        self._polling = QTimer(self)
        self._polling.setInterval(_POLLED)
        above = self.unfinished, self.form, self.form.fold, self.summary_line
        buttons = make_row(self.tune_button, self.keep_button, self.cancel_button, stretches=(2, 2, 1))
        lines = self.progress, self.progress_text, self.message
        self._column = self.add_column(*above, buttons, *lines, self.report, self.scratch_fold)
        self._connect()

    def _connect(self) -> None:
        self.form.changed.connect(self.forget_and_check)
        self.sources.ticked.connect(self.forget_and_check)
        self.tune_button.clicked.connect(self.finetune)
        self.keep_button.clicked.connect(self.keep_best)
        self.unfinished.wanted.connect(self.form.show_settings)
        self.report.used.connect(lambda: self.use(self._made))
        self.report.compared.connect(self._comparison.compare)
        self.report.changes.toggled.connect(self._on_changes_ticked)
        removed = self._viewer.layers.events.removed
        self.links.tie(removed, lambda event: self._on_layer_removed())
        self.scratch.started.connect(self.train)
        self.scratch_fold.toggled.connect(self.scratch.offer_layers)
        self._polling.timeout.connect(self._poll)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Make the plots the first time; offer models, corrections and interrupted runs each time."""
        super().showEvent(event)
        if self.plots is None:
            self._add_plots()
        self.form.offer_models()
        self._offer_unfinished()
        self._polling.start()
        self.on_segment_form()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        """Check for new strokes no longer."""
        super().hideEvent(event)
        self._polling.stop()
        if not self.is_running:
            self.summary_line.stop()

    def _add_plots(self) -> None:
        # pyqtgraph takes long to import, and few sessions open this tab
        from napari_skipseg.widgets.finetune.curves import TrainingPlots

        plots = self.plots = TrainingPlots()
        plots.use_theme(self._viewer.theme)
        self._column.insertWidget(self._column.indexOf(self.scratch_fold), plots)
        self.links.tie(self._viewer.events.theme, lambda event: plots.use_theme(self._viewer.theme))

    def notify_unfinished(self) -> None:
        """Show a notification if a fine-tuning was interrupted."""
        if self._offer_unfinished():
            pop_up(self.unfinished.note.text(), "A fine-tuning was interrupted.")

    def _offer_unfinished(self) -> bool:
        """Offer the newest fine-tuning that was interrupted; return whether there is one."""
        found = [] if self.is_running else find_unfinished(user_folder())
        self.unfinished.offer(found[0] if found else None)
        return bool(found)

    def on_segment_form(self) -> None:
        """Start from the model of the Segment tab and learn from its image, if this tab is on screen."""
        if not self.isVisible():
            return
        if not self.is_running:
            self.form.start_from(self._segment.model())
        self.sources.show_sources(list(self._images.find_sources()))
        self.check()

    def _poll(self) -> None:
        """Update the sources if something was painted since the last time."""
        if (state := self._images.state()) != self._seen:
            self._seen = state
            self.on_segment_form()

    def finetune(self) -> None:
        """Fine-tune as the form says; a better model is selected in the Segment tab.

        The job joins the engine's line at once. If the view is not segmented with the old model yet, a preview for the
        comparison goes first; if the training summary is still awaited, that goes before both.
        """
        place, images = self._segment.read(), self._images
        self.on_segment_form()
        if self.is_running or images.fault():
            return
        try:
            settings = images.settings()
        except SkipsegError as error:
            self.fail(str(error))
            return
        open_all = images.opening()

        def work() -> Generator[Progress, KeepBest | None, Finetuned]:
            opened = yield from open_all()
            return (yield from self._engine.run(Finetune(settings, tuple(opened), user_folder(), place.device)))

        self.summary_line.request_now()
        self._parent = Path(settings.model).name
        if self._find_before(place.layer) is None:
            self.view_with_wanted.emit(settings.model)
        if self.plots is not None:
            known = self._segment.known_colors(place.layer) if place.layer else {}
            colors, pictured = images.colors(known)
            self.plots.use_classes(colors, pictured)
        finish = partial(self._on_finetuned, place.layer, self._parent)
        self._begin(work, settings.name, "fine-tuning", finish)

    def _find_before(self, layer: Image | None) -> ShownResult | None:
        """Return the result of the old model in the view, None if it is not on show."""
        return find_before(self._viewer, layer, self._segment.results.on_show(layer), self._parent)

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
        settings, device = scratch.settings, self._segment.read().device
        restart, self._unfinished = settings != self._unfinished, settings
        work = partial(self._engine.run, Train(settings, user_folder(), device, scratch.written, restart))
        self.summary_line.clear()
        self._begin(work, settings.name, "training", self._on_trained)

    def _begin(self, work: Work, name: str, what: str, finish: Callable[[Any], None]) -> None:
        """Start a training of the model `name`. what: "training" or "fine-tuning"."""
        self.report.hide()
        self._overall, self._first_step = OverallProgress(name), 0
        self._step = ""
        if self.plots is not None:
            self.plots.start()
        # the preview that this tab has requested runs in the Segment tab, and goes on when the training is stopped
        self.start(
            work,
            f"{what.capitalize()} {name}",
            finish,
            on_stop=lambda: STILL_SEGMENTING if self._segment.is_running() else "",
            waiting_text=f"waits for the {what}",
        )

    def keep_best(self) -> None:
        """Stop the training, and keep the best weights so far."""
        if self.is_running:
            self._is_keeping = True
            self.keep_button.setEnabled(False)
            self.send(KeepBest())

    def _on_finetuned(self, layer: Image | None, parent: str, done: Finetuned) -> None:
        self._made = done.folder.name
        if self.summary_line.estimated and not self._is_keeping and self._first_step <= 1:
            # only a run from the first step to the last shows how far the next estimate is off
            self._pace[self.form.read().reach] = self.seconds / self.summary_line.estimated
            self.summary_line.clear()
        self.report.show_report(done.report, parent, self._made)
        self.form.offer_models()
        if done.report.is_better:
            self.use(self._made, layer)
        elif done.report.is_unsure:
            self.use(self._made, layer)
            self.show_message(
                f"{self._made} is selected in the Segment tab, but not known to be better: look at the view."
            )
        else:
            self.show_message(f"{self._made} is kept beside {self.form.model.currentData()}, which stays selected.")

    def _on_trained(self, trained: Trained) -> None:
        name, self._unfinished = trained.folder.name, None
        self.use(name)
        self.show_message(f"Trained {describe_trained(name)}. It is now selected in the Segment tab.")

    def _on_layer_removed(self) -> None:
        """Hide the switch or the tick of a layer that the user removed."""
        self.report.keep_before(self._comparison.is_there)
        if self._changes.was_removed:
            self.report.changes.tick.setChecked(False)

    def use(self, name: str, layer: Image | None = None) -> None:
        """Select a model in the Segment tab and here, and segment the view with it."""
        place = self._segment.read()
        layer = place.layer if layer is None else layer
        kept = "" if layer is None else self._comparison.keep(layer, self._find_before(layer), place.thresholds)
        self.model_wanted.emit(name)
        self.form.follow_model = True
        self.form.start_from(name)
        self.report.use_button.hide()
        self.report.offer_before(kept, name)
        self.show_message(f"{name} is now selected in the Segment tab.")
        if place.layer is layer and not find_faults(self._segment.read()):
            self.view_wanted.emit()
            self._is_viewing = self._segment.is_running()

    def on_segmented(self, succeeded: bool, shares: Mapping[str, float]) -> None:
        """Show the share of each class that was taught, if the view was segmented with the new model."""
        if self._is_viewing and succeeded:
            self.report.show_shares(shares, self._segment.read().thresholds)
        self._is_viewing = False
        self.show_changes()
        self.check()

    def _on_changes_ticked(self) -> None:
        """Show what changed; a view that the new model has not segmented yet is segmented first."""
        self.show_changes()
        if self.report.changes.legend.text() == NOTHING_TO_COMPARE and not self._segment.is_running():
            self.report.changes.legend.say(SEGMENTS_FIRST.format(self._made))
            self.view_with_wanted.emit(self._made)

    def show_changes(self) -> None:
        """Show what the new model changed in the view, if that is ticked; else remove the layer."""
        changes, layer, kept = self.report.changes, self._segment.read().layer, self._comparison.before
        self._changes.drop()
        if not changes.tick.isChecked() or layer is None or kept is None:
            changes.legend.say("")
            return
        offers = [shown for shown in self._segment.results.on_show(layer) if shown is not kept[0]]
        after = find_before(self._viewer, layer, offers, self._made)
        if after is None:
            changes.legend.say(NOTHING_TO_COMPARE)
            return
        legend = self._changes.show(
            layer,
            before=kept[0],
            was=kept[1],
            after=after,
            now=self._segment.read().thresholds,
            classes=self.report.classes,
        )
        changes.legend.say(legend)

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Show the findings about the images that the training summary does not name."""
        news = [finding for finding in findings if finding not in self.summary_line.summary.text()]
        is_plain = all(finding.startswith(SCALE) for finding in news)
        if news:
            self.show_message(" ".join(news), "transparent" if is_plain else WARNING_COLOR)

    def describe_progress(self, progress: Progress) -> str:
        """Return the progress in words, without the losses, which the curves show."""
        return super().describe_progress(replace(progress, message=without_losses(progress.message)))

    def show_progress(self, news: list[Progress]) -> None:
        """Show the progress in words, in the bar and as curves."""
        super().show_progress(news)
        if self.is_running and self.cancel_button.isEnabled():
            for progress in news:
                overall = self._overall.of(progress)
            self.progress.show_progress(overall)
        steps = [progress.message for progress in news if isinstance(progress, TrainingProgress | ValidationPicture)]
        self._step = steps[-1] if steps else self._step
        learned = [progress.step for progress in news if isinstance(progress, TrainingProgress)]
        self._first_step = self._first_step or (learned[0] if learned else 0)
        # progress between two steps repeats the message of the last step
        is_training = self.is_running and news[-1].message == self._step != ""
        self.keep_button.setEnabled(is_training and not self._is_keeping)
        self.keep_button.setToolTip(KEEP_HINT if is_training else NOT_YET_HINT)
        if self.plots is not None:
            self.plots.show_progress(news)

    def check(self) -> None:
        """Enable Fine-tune if all is right and nothing runs; otherwise the line below says why."""
        super().check()
        fault, running = self._images.fault(), self.is_running
        self._is_keeping = self._is_keeping and running
        self.tune_button.setVisible(not running)
        self.tune_button.setEnabled(not fault and not self.summary_line.refused)
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
            self.summary_line.clear()
            return
        settings, device = self._images.settings("summary"), self._segment.read().device
        open_all = self._images.opening()

        def ask() -> Generator[Progress, None, TrainingSummary]:
            images = yield from open_all()
            return (yield from self._engine.run(PlanFinetuning(settings, tuple(images), device)))

        self.summary_line.pace = self._pace.get(settings.reach, 1.0)
        self.summary_line.update_for((settings, self._images.version(), device), ask)
