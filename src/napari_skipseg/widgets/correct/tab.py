"""The Correct tab: strokes over an image and accepted parts, both on disk at once; and where to look next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, QTimer
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QMenu, QPushButton, QWidget

from napari_skipseg.corrections.saved import CorrectionSummary
from napari_skipseg.corrections.store import Corrections, open_corrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import SkipsegError
from napari_skipseg.inference.prediction import file_name
from napari_skipseg.widgets.correct.actions import AskedLabels, CorrectActions, ask_export, ask_import
from napari_skipseg.widgets.correct.classes import ClassList, number_judged
from napari_skipseg.widgets.correct.layers import ACTIONS, CorrectionLayers, hint_of
from napari_skipseg.widgets.correct.live_view import LiveSwitch
from napari_skipseg.widgets.correct.sessions import (
    CorrectionSession,
    CorrectionSessions,
    ImageHashes,
    OpenCorrections,
    RecoveryPrompt,
    SessionReopener,
    corrected_stack,
    describe_session,
    find_correcting_fault,
)
from napari_skipseg.widgets.correct.uncertain_regions import UncertainRegionList, describe_voxel, go_to_voxel
from napari_skipseg.widgets.forms.fields import (
    FAULT_COLOR,
    ConnectionGroup,
    NoteLabel,
    PlainLabel,
    PrimaryButton,
    as_note,
    call_action,
    choose_value,
    fill_column,
    make_row,
    set_hint,
)
from napari_skipseg.widgets.forms.job_tab import JobTab
from napari_skipseg.widgets.forms.worker import EngineLike, EngineQueue, WorkOutcome, in_one_step, start_work
from napari_skipseg.widgets.layers.live import Results
from napari_skipseg.widgets.segment.form import SegmentForm

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


HEADING = "QLabel { font-weight: 600; }"
NEXT = "QPushButton:enabled { font-weight: 600; }"
BETWEEN_STROKES = 1.5
"""Seconds after a stroke for which long work of the engine still waits: the next stroke often follows."""
SAVED, SAVING = "✓ saved", "saving…"


class CorrectBody(QWidget):  # type: ignore[misc]
    """The controls of open corrections, the most used ones on top. No button takes the keys from the image."""

    def __init__(self, make_live: Callable[[ClassList], LiveSwitch]) -> None:
        super().__init__()
        self.classes, self.regions = ClassList(), UncertainRegionList()
        self.live = make_live(self.classes)
        self.buttons = {
            name: _button(f"{action.text} ({action.key.replace('Shift-', '⇧')})") for name, action in ACTIONS.items()
        }
        for name, button in self.buttons.items():
            button.setToolTip(hint_of(name))
        self.buttons["previous place"].setText(ACTIONS["previous place"].text)
        self.buttons["previous place"].setMaximumWidth(32)
        self.buttons["next place"].setStyleSheet(NEXT)
        self.add_class = _button("+")
        self.add_class.setMaximumWidth(32)
        self.add_class.setToolTip("Add a class; double-click its name to change it")
        self.import_button, self.export_button = _button("Import"), _button("Export")
        self.amount, self.state = NoteLabel(), PlainLabel()
        as_note(self.state)
        imports, exports = QMenu(self), QMenu(self)
        self.import_file = imports.addAction("Labels from a TIFF or MRC file…")
        self.import_zarr = imports.addAction("Labels from an OME-Zarr…")
        self.export_target = exports.addAction("Everything that is learnt from: strokes and accepted parts…")
        self.export_strokes = exports.addAction("Only the strokes…")
        self.import_button.setMenu(imports)
        self.export_button.setMenu(exports)
        self.import_button.setToolTip("Import labels as strokes: 0 = not looked at, 1 = background, 2, … = the classes")
        self.export_button.setToolTip("Write labels: 0 = not looked at, 1 = background, 2, … = the classes")
        line = make_row(self.amount, self.state, stretches=(1, 0))
        line.setAlignment(self.state, Qt.AlignmentFlag.AlignTop)
        by_name = self.buttons
        fill_column(
            self,
            self.classes,
            make_row(by_name["previous class"], by_name["next class"], self.add_class, stretches=(1, 1, 0)),
            make_row(by_name["undo"], by_name["redo"]),
            by_name["carry"],
            self.live,
            _heading("Accept as right", "Everything that you accept is learnt from, background included"),
            make_row(by_name["accept slice"], by_name["accept view"], by_name["accept rectangle"]),
            by_name["take back"],
            _heading("Where to look next", "Where the model is least sure, spread over the stack"),
            make_row(by_name["previous place"], by_name["next place"], stretches=(0, 1)),
            self.regions,
            line,
            make_row(self.import_button, self.export_button),
            spacing=6,
        )

    def pause(self, is_paused: bool) -> None:
        """Disable the buttons of jobs while a job runs; painting stays possible."""
        names = "next place", "previous place"
        for button in (self.import_button, self.export_button, *(self.buttons[name] for name in names)):
            button.setEnabled(not is_paused)

    def show_amount(self, summary: CorrectionSummary, axes: str) -> None:
        """Show how much was corrected."""
        self.classes.show_counts(summary.pixels)
        if not summary.pixels:
            self.amount.setText("Nothing corrected yet: paint over what is wrong, accept what is right.")
            return
        accepted = f" ({summary.reviewed_pixels:,} accepted)" if summary.reviewed_pixels else ""
        self.amount.setText(describe_session(summary, axes) + accepted)

    def show_saved(self, is_saved: bool, fault: str) -> None:
        """Show whether all of it is on disk; the tooltip says what is wrong."""
        self.state.setText("not saved" if fault else SAVED if is_saved else SAVING)
        set_hint(self.state, fault or "Every stroke is on disk within a second")
        self.state.setStyleSheet(f"QLabel {{ background-color: {FAULT_COLOR}; }}" if fault else "")


def _button(text: str) -> QPushButton:
    button = QPushButton(text)
    button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    button.setMinimumHeight(26)
    return button


def _heading(text: str, hint: str) -> PlainLabel:
    label = PlainLabel(text)
    label.setStyleSheet(HEADING)
    label.setToolTip(hint)
    return label


WHAT_FOR = (
    "Paint over what is wrong and accept what is right, then fine-tune a model with it. Every stroke is saved within "
    "a second."
)
DELETED = "The layer of corrections was deleted. Nothing is lost: press Correct to bring it back."
OTHER_VOXELS = "The data of '{}' were replaced: the corrections of the earlier data are kept on disk."
RESTORED = "Your corrections are restored. The last one is at {}."
_UPDATE_PAUSE = 300
"""Milliseconds between two updates of how much was corrected, and whether it is on disk."""


class CorrectTab(JobTab):
    """Offers, Correct, the controls of open corrections, one line with the outcome or what is wrong.

    It corrects the image that the Segment form has chosen. session: its corrections, None while they are not open.
    """

    def __init__(
        self, viewer: ViewerModel, engine: EngineLike, queue: EngineQueue, form: SegmentForm, results: Results
    ) -> None:
        super().__init__(queue)
        self._viewer, self._form, self._results = viewer, form, results
        self.sessions, self.identities, self.links = CorrectionSessions(), ImageHashes(), ConnectionGroup()
        self.session: CorrectionSession | None = None
        self._engine, self._next_request = engine, 0.0
        self._is_opening = self._is_wanted = self._is_restoring = False
        self._closing: set[str] = set()
        self._fault_said = ""
        self.offers = RecoveryPrompt()
        self.body = CorrectBody(lambda classes: LiveSwitch(viewer, engine, queue, form, classes.judged))
        self.live = self.body.live
        self.actions = CorrectActions(viewer, form, results, self.body.classes, self.body.regions)
        self.reopening = SessionReopener(viewer, self.identities, self.offers)
        self.correct_button, self.what_for = PrimaryButton("Correct"), NoteLabel(WHAT_FOR)
        self.correct_button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        lines = self.cancel_button, self.progress, self.progress_text, self.message
        self.add_column(self.offers, self.correct_button, self.what_for, self.body, *lines)
        self._connect()
        self.reopening.find_interrupted()
        self.check()

    def _connect(self) -> None:
        body, actions, reopening = self.body, self.actions, self.reopening
        self.correct_button.clicked.connect(partial(call_action, self.correct))
        for name, action in actions.by_name().items():
            body.buttons[name].clicked.connect(partial(call_action, action))
        body.add_class.clicked.connect(actions.add_class)
        body.classes.chosen.connect(actions.choose_class)
        body.classes.renamed.connect(actions.rename_class)
        body.classes.renamed.connect(self.give_keys_back)
        body.classes.recolored.connect(actions.recolor_class)
        body.regions.chosen.connect(actions.go_to)
        body.import_file.triggered.connect(lambda: self._ask_import(folder=False))
        body.import_zarr.triggered.connect(lambda: self._ask_import(folder=True))
        body.export_target.triggered.connect(lambda: self._ask_export("target"))
        body.export_strokes.triggered.connect(lambda: self._ask_export("strokes"))
        actions.reported.connect(self.show_message)
        actions.failed.connect(self.show_fault)
        actions.edited.connect(self.show_amounts)
        actions.classes_changed.connect(self._on_classes_changed)
        actions.job_requested.connect(lambda job: self.start(job.work, job.description, job.on_value))
        reopening.restore_requested.connect(lambda: self.correct(is_restoring=True))
        reopening.image_opened.connect(self._on_image_opened)
        reopening.failed.connect(self.show_fault)
        self._form.changed.connect(self.forget_and_check)
        self.identities.known.connect(self._on_image_known)
        self.offers.changed.connect(self.check)
        self.links.tie(self._viewer.layers.events.removed, self._on_layer_removed)
        self._timer = QTimer(self)
        self._timer.setInterval(_UPDATE_PAUSE)
        self._timer.timeout.connect(self.show_amounts)

    @property
    def is_closing(self) -> bool:
        """Whether corrections that were left are still being written."""
        return bool(self._closing)

    def corrections(self) -> Corrections | None:
        """Return the corrections of the image that is chosen, None while they are not open."""
        return None if self.session is None else self.session.corrections

    def judged_classes(self) -> tuple[CorrectionClass, ...]:
        """Return the classes that the corrections of the image are made for; other classes were not looked at."""
        return () if self.session is None else self.body.classes.judged()

    def open_corrections(self) -> OpenCorrections:
        """Return what a fine-tuning may read of this tab."""
        return OpenCorrections(
            chosen=self.corrections,
            judged_classes=self.judged_classes,
            all=lambda: [(session.layers.image, session.corrections) for session in self.sessions],
            can_restore=lambda: self.offers.restores,
        )

    def colors_of(self, image: Image) -> dict[str, str]:
        """Return the colours of an image's classes by their names in small letters; none if it is not corrected."""
        session = self.sessions.find_of(image)
        return {} if session is None else {each.name.casefold(): each.color for each in session.corrections.classes}

    def strokes_in(self, image: Image, spans: Mapping[str, slice]) -> tuple[NDArray[np.uint8], tuple[str, ...]] | None:
        """Return the strokes (Y, X) over a part of a slice, 2 and more being the ticked classes, and their names."""
        session = self.sessions.find_of(image)
        judged = self.judged_classes()
        if session is None or session is not self.session or not judged:
            return None
        axes = session.corrections.subject.space.axes
        painted = np.asarray(session.corrections.strokes[tuple(spans[axis] for axis in axes)])
        numbers = number_judged(session.corrections.classes, judged)
        return numbers[painted.reshape(painted.shape[-2:])], tuple(each.name for each in judged)

    def correct(self, is_restoring: bool = False) -> None:
        """Open the corrections of the image, new or earlier ones, and make them ready to be painted.

        is_restoring: whether the view then goes to the last correction.
        """
        choices = self._form.read()
        layer = choices.layer
        if layer is None or find_correcting_fault(choices) or self._is_opening:
            return
        if self.session is not None:
            self._enter(self.session)
            return
        if self.identities.fault(layer):
            self.identities.forget(layer)
        known = self.identities.find(layer, choices.axes)
        self._is_wanted = known is None or known.key in self._closing
        self._is_restoring = is_restoring and self._is_wanted
        if known is None or self._is_wanted:
            self.check()
            return
        elsewhere = self.sessions.find(known.key)
        if elsewhere is not None and elsewhere.layers.image in self._viewer.layers:
            name = elsewhere.layers.image.name
            self.show_fault(
                f"'{layer.name}' has the same voxels as '{name}', which is being corrected: choose that one."
            )
        elif elsewhere is not None:
            elsewhere.layers.attach(layer)
            self.check()
            self._enter(elsewhere)
        else:
            self._open(layer, choices.axes, known.key, is_restoring)

    def _open(self, layer: Image, axes: str, key: str, is_restoring: bool) -> None:
        try:
            stack = corrected_stack(layer, axes)
        except SkipsegError as error:
            self.show_fault(str(error))
            return

        def on_outcome(outcome: WorkOutcome) -> None:
            if outcome.fault:
                self.show_fault(outcome.fault)
                return
            layers = CorrectionLayers(self._viewer, layer, axes, outcome.value, self.actions.by_name())
            layers.class_chosen.connect(self.body.classes.mark_chosen)
            layers.failed.connect(self.show_fault)
            layers.painting.connect(self._give_way)
            session = CorrectionSession(outcome.value, layers)
            self.sessions.keep(session)
            self._fault_said = ""
            if layer not in self._viewer.layers:
                self._on_layer_removed()
                return
            self.check()
            self.actions.name_model_classes(session)
            self._enter(session)
            if is_restoring:
                self._go_to_last_label(session)

        def on_end() -> None:
            self._is_opening = False
            self.check()

        self._is_opening = True
        self.check()
        work = in_one_step("opening the corrections", partial(open_corrections, stack, key))
        start_work(self, work, "Opening the corrections", on_outcome=on_outcome, on_end=on_end, is_quiet=True)

    def _give_way(self, is_painting: bool) -> None:
        """Let long work of the engine wait while the user paints, and for a moment after."""
        now = time.monotonic()
        if not is_painting or now >= self._next_request:
            self._engine.give_way(BETWEEN_STROKES)
            self._next_request = now + BETWEEN_STROKES / 4

    def _go_to_last_label(self, session: CorrectionSession) -> None:
        """Bring the last correction into view."""
        try:
            voxel = session.corrections.last_label()
        except SkipsegError as error:
            self.show_fault(str(error))
            return
        if voxel is not None and (strokes := session.layers.strokes) is not None:
            go_to_voxel(self._viewer, strokes, voxel)
            self.show_message(RESTORED.format(describe_voxel(voxel, session.corrections.subject.space.axes)))

    def _on_image_opened(self, layer: Image) -> None:
        choose_value(self._form.image, layer)
        self.correct(is_restoring=True)

    def _enter(self, session: CorrectionSession) -> None:
        session.layers.show()
        self.offers.settle(session.key)
        self.forget_and_check()
        self.show_classes()
        self.color_results(session)
        self.give_keys_back()

    def color_results(self, session: CorrectionSession) -> None:
        """Show an image's results in the colours that its classes have here."""
        image = session.layers.image
        self._results.set_colors(image, self.colors_of(image))

    def give_keys_back(self) -> None:
        """Give the keyboard focus to the image again, so that its keys do not go to a field of the panel."""
        canvas = self.window().findChild(QOpenGLWidget)
        if canvas is not None:
            canvas.setFocus()

    def check(self) -> None:
        """Show the controls of open corrections, or how to begin; the line below says what is wrong."""
        super().check()
        choices = self._form.read()
        fault = find_correcting_fault(choices)
        session = self.sessions.find_of(choices.layer)
        if session is not self.session:
            if self.session is not None:
                self.session.layers.highlight.hide()
            self.session = session
            self.live.set_session(session)
            self.body.classes.forget()
            self.body.regions.show_regions((), "")
            self.show_classes()
        self.actions.update(session, self.is_running)
        is_shown = session is not None and session.layers.is_shown
        self.correct_button.setEnabled(not fault and not self._is_opening and not self._is_wanted)
        set_hint(self.correct_button, fault or WHAT_FOR)
        self.what_for.setVisible(not is_shown)
        self.body.setVisible(is_shown)
        self.body.pause(self.is_running)
        self.reopening.update_offer(choices, not fault, session is not None)
        self.correct_button.setVisible(not is_shown and not self.offers.restores)
        if session is not None and not is_shown and not self._last_message[0]:
            self.message.say(DELETED)
        else:
            self.explain(fault)
        (self._timer.start if any(self.sessions) else self._timer.stop)()

    def _on_image_known(self) -> None:
        """Resume what waited for the content of the image; leave corrections that are of different voxels."""
        choices = self._form.read()
        known = None if choices.layer is None else self.identities.find(choices.layer, choices.axes)
        if self.session is not None and known is not None and known.key != self.session.key:
            name = self.session.layers.image.name
            self._leave(self.session)
            self.show_message(OTHER_VOXELS.format(name))
        self.check()
        self.reopening.on_image_known()
        if self._is_wanted and known is not None:
            self._is_wanted = False
            self.correct(self._is_restoring)
        elif self._is_wanted and (fault := self.identities.fault(choices.layer)):
            self._is_wanted = False
            self.show_fault(fault)

    def _on_layer_removed(self, event: Any = None) -> None:
        for session in self.sessions.abandoned(self._viewer):
            self._leave(session)
        self.check()

    def _leave(self, session: CorrectionSession) -> None:
        """Remove the layers and close the corrections, beside the window."""

        def on_outcome(outcome: WorkOutcome) -> None:
            if outcome.fault:
                self.fail(outcome.fault)

        def on_end() -> None:
            self._closing.discard(session.key)
            self.identities.forget(session.layers.image)
            self._on_image_known()

        self.sessions.take_out(session)
        self._closing.add(session.key)
        session.layers.remove()
        work = in_one_step("storing the corrections", session.corrections.close)
        start_work(self, work, "Storing corrections", on_outcome=on_outcome, on_end=on_end, is_quiet=True)
        self.check()

    def show_amounts(self) -> None:
        """Show how much was corrected, and whether it is on disk."""
        for session in self.sessions:
            if session.corrections.fault and session.corrections.fault != self._fault_said:
                self._fault_said = session.corrections.fault
                self.fail(session.corrections.fault)
        self.actions.update_highlight()
        if self.session is not None:
            corrections = self.session.corrections
            self.body.show_amount(corrections.summary(), corrections.subject.space.axes)
            self.body.show_saved(corrections.flush(timeout=0), corrections.fault)

    def show_classes(self) -> None:
        """Show the classes as they are now."""
        if self.session is not None:
            self.body.classes.show_classes(self.session.corrections.classes)
            strokes = self.session.layers.strokes
            if strokes is not None:
                self.body.classes.mark_chosen(int(strokes.selected_label))
            self.show_amounts()

    def show_fault(self, fault: str) -> None:
        """Show in the line what cannot be done."""
        self.show_message(fault, FAULT_COLOR)

    def _on_classes_changed(self) -> None:
        self.show_classes()
        if self.session is not None:
            self.color_results(self.session)

    def _ask_import(self, folder: bool) -> None:
        if self.session is not None and (path := ask_import(self, folder)) is not None:
            self.actions.import_from(path)

    def _ask_export(self, what: AskedLabels) -> None:
        if self.session is None:
            return
        name = file_name(self.session.layers.image.name)
        if (path := ask_export(self, name)) is not None:
            self.actions.export_to(path, what)
