"""The switch *Live*: each stroke updates, in layers of their own, where the classes are in the view."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QSizePolicy, QVBoxLayout, QWidget

from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.intensity.normalize import Normalization, iter_measure_greys
from napari_skipseg.jobs.messages import LiveView
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import LiveResult
from napari_skipseg.widgets.correct.live_parts import BORDER, PADDED_BORDER, PartReader, ViewPlace, find_view
from napari_skipseg.widgets.correct.sessions import CorrectionSession
from napari_skipseg.widgets.forms.engine_queue import EngineLike, EngineQueue, QueueEntry
from napari_skipseg.widgets.forms.fields import FAULT_COLOR, MessageLine, set_hint
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work
from napari_skipseg.widgets.layers.placement import place_at, place_over
from napari_skipseg.widgets.layers.result_looks import PROBABILITY_LOOKS
from napari_skipseg.widgets.layers.results import KEY, results_in, stack_of_layer
from napari_skipseg.widgets.segment.checks import find_faults, needs_channel
from napari_skipseg.widgets.segment.form import SegmentForm

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

LIVE_SOURCE = "{} live"
"""The source of the live layers of an image, made of the source of the image."""
LIVE_HINT = (
    "After each stroke, show what Quick would learn from all strokes so far, for the part of the slice on screen. "
    "Nothing is kept of it when it is off"
)
FLAT_ONLY = "Live shows slices along Y and X: turn the 3D view off and show these axes."
VOLUME_MODEL = "{} is a 3D model, which is too slow for Live: choose a 2D model in the Segment tab."
PART = "Live shows {} × {} pixels around the last stroke: zoom in to see all of the screen."
_WAITING = "waits for the live view"
_TICK = 100
"""Milliseconds between two looks at strokes and view. What is the same in two of them has settled."""


@dataclass(frozen=True)
class LiveState:
    """All that the live view depends on. version: of the corrections. judged: the classes that are learnt."""

    key: str
    model: str
    device: str
    channel: int | None
    judged: tuple[CorrectionClass, ...]
    view: ViewPlace
    version: int

    @property
    def place(self) -> tuple[object, ...]:
        """What the features of the view depend on; strokes are no part of it."""
        return self.key, self.model, self.device, self.channel, self.view


class LiveSwitch(QWidget):  # type: ignore[misc]
    """The switch with a line below, and the live layers.

    At most one request is at work. A newer stroke waits until it has ended, and then the newest strokes are sent; a
    request for a view that was left is cancelled. Other jobs of the engine go first.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        engine: EngineLike,
        queue: EngineQueue,
        form: SegmentForm,
        judged: Callable[[], tuple[CorrectionClass, ...]],
    ) -> None:
        super().__init__()
        self._viewer, self._engine, self._queue = viewer, engine, queue
        self._form, self._judged = form, judged
        self._session: CorrectionSession | None = None
        self._seen: LiveState | None = None
        self._shown: LiveState | None = None
        self._last_view: ViewPlace | None = None
        self._at_work: LiveState | None = None
        self._worker: Any = None
        self._entry: QueueEntry | None = None
        self._reader: tuple[object, PartReader, Normalization] | None = None
        self._is_kept = False
        self.switch, self.message = QCheckBox("Live"), MessageLine()
        set_hint(self.switch, LIVE_HINT)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        column.addWidget(self.switch)
        column.addWidget(self.message)
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK)
        self._timer.timeout.connect(self._look)
        self.switch.toggled.connect(self._on_toggled)
        queue.job_added.connect(self._give_way)

    @property
    def is_on(self) -> bool:
        """Whether strokes are followed."""
        return bool(self.switch.isChecked())

    def set_session(self, session: CorrectionSession | None) -> None:
        """Follow the strokes of these corrections from now on."""
        if session is not self._session:
            self._stop()
            self._session = session

    def _on_toggled(self, is_on: bool) -> None:
        if is_on:
            self._timer.start()
            self._look()
        else:
            self._timer.stop()
            self._stop()
            self._release_engine()

    def _stop(self) -> None:
        """Cancel what is at work, and remove the layers."""
        if self._worker is not None:
            self._worker.quit()
        if self._session is not None:
            for layer in self._layers(self._session.layers.image):
                self._viewer.layers.remove(layer)
        self._seen = self._shown = self._last_view = None
        self._reader = None
        self._say("")

    def _release_engine(self) -> None:
        """Let the engine drop the features that it keeps."""
        if not self._is_kept or getattr(self._engine, "pid", 1) is None:
            return
        self._is_kept = False
        entry = self._queue.add(_WAITING, is_job=False)

        def begin() -> None:
            work = self._queue.after_last_run(partial(self._engine.run, LiveView("", "")))
            start_work(self, work, "Live", lambda _: None, lambda _: None, entry.release, is_quiet=True)

        entry.start_when_first(begin)

    def _look(self) -> None:
        """See whether strokes or view have changed, and request a new result if they have settled."""
        session = self._session
        if session is None or not session.layers.is_shown:
            self._say("")
            return
        state = self._read_state(session)
        if isinstance(state, str):
            self._say(state, FAULT_COLOR)
            self._hide(session)
            if self._worker is not None:
                self._worker.quit()
            return
        has_settled, self._seen = state == self._seen, state
        if self._worker is not None or self._entry is not None:
            if self._at_work is not None and state.place != self._at_work.place and self._worker is not None:
                self._worker.quit()
            return
        if not has_settled or state == self._shown:
            return
        if not self._queue.is_empty:
            waiting = self._queue.describe_wait()
            self._say(f"Live {waiting}." if waiting.startswith("waits") else "Live waits for the engine.")
            return
        self._request(session, state)

    def _read_state(self, session: CorrectionSession) -> LiveState | str:
        """Return what is to be shown, or why nothing can be."""
        choices, judged = self._form.read(), self._judged()
        faults, model, image = find_faults(choices), choices.model, session.layers.image
        for name in ("image", "axes", "model", "channel"):
            if name in faults:
                return str(faults[name])
        if model is None or choices.layer is not image:
            return "Choose a model in the Segment tab."
        if model.spec.dimensions != 2:
            return VOLUME_MODEL.format(model.name)
        corrections = session.corrections
        if not judged and any(each.value in corrections.summary().pixels for each in corrections.classes):
            return "Tick a class in the list that is to be learnt."
        judged = judged or corrections.classes  # nothing is painted yet: a class is ticked when it has pixels
        if not judged:
            return "Add a class with + first."
        last = None
        if self._seen is None or corrections.version != self._seen.version:
            with contextlib.suppress(SkipsegError):  # of a damaged chunk: the request will say so
                last = corrections.last_label()
        view = find_view(self._viewer, image, choices.axes, self._last_view, last)
        if view is None:
            return FLAT_ONLY
        self._last_view = view
        channel = choices.channel if needs_channel(choices) else None
        return LiveState(session.key, model.name, choices.device, channel, judged, view, corrections.version)

    def _request(self, session: CorrectionSession, state: LiveState) -> None:
        self._at_work, self._is_kept = state, True
        entry = self._entry = self._queue.add(_WAITING, is_job=False)
        choices = self._form.read()
        model, image, axes = choices.model, session.layers.image, choices.axes

        def work() -> Generator[Progress, Any, LiveResult]:
            if model is None:
                raise ValueError("there is no model")
            return (yield from self._iter_update(session, state, model, image, axes))

        def on_progress(progress: Progress) -> None:
            if self.is_on and progress.message.startswith(("computing", "reading", "starting")):
                self._say(f"Live is {progress.message}…")

        def on_outcome(outcome: WorkOutcome) -> None:
            if self._session is not session or not self.is_on:
                return
            self._shown = state
            if outcome.fault:
                self._say(outcome.fault, FAULT_COLOR)
            elif self._seen is None or self._seen.place == state.place:
                self._show(session, state, outcome.value)

        def on_end() -> None:
            self._worker = self._entry = self._at_work = None
            entry.release()

        def begin() -> None:
            self._worker = start_work(
                self, self._queue.after_last_run(work), "Live", on_progress, on_outcome, on_end, is_quiet=True
            )

        entry.start_when_first(begin)

    def _iter_update(
        self,
        session: CorrectionSession,
        state: LiveState,
        model: ModelDescription,
        image: Image,
        axes: str,
    ) -> Generator[Progress, Any, LiveResult]:
        """Read what the engine needs, in a thread, and return its answer."""
        key = state.key, state.channel, model.padding
        reader = self._reader
        if reader is None or reader[0] != key:
            stack = stack_of_layer(image, axes)
            stack = stack if state.channel is None else stack.channel(state.channel)
            greys = yield from iter_measure_greys(stack, padding=model.padding)
            border = PADDED_BORDER if greys.normalization.has_padding else BORDER
            parts = PartReader(stack, session.corrections.saved, border)
            reader = self._reader = key, parts, greys.normalization
        yield Progress(0, 1, "reading the strokes")
        found = reader[1].read(state.view, session.corrections.classes, state.judged)
        names = tuple(each.name for each in state.judged)
        request = LiveView(state.key, state.model, names, found, reader[2], state.device)
        return (yield from self._engine.run(request))

    def _give_way(self) -> None:
        """Cancel the request at work, because a job wants the engine; it is sent again afterwards."""
        if self._worker is not None:
            self._shown = None
            self._worker.quit()

    def _say(self, text: str, color: str = "transparent") -> None:
        self.message.say(text, color)

    def _layers(self, image: Image) -> list[Layer]:
        return results_in(self._viewer, LIVE_SOURCE.format(image.unique_id))

    def _hide(self, session: CorrectionSession) -> None:
        """Remove the layers while nothing can be shown."""
        self._shown = None
        for layer in self._layers(session.layers.image):
            self._viewer.layers.remove(layer)

    def _show(self, session: CorrectionSession, state: LiveState, result: LiveResult) -> None:
        """Show the probability of each class in its layer; one that is shown no more is removed."""
        image, axes = session.layers.image, self._form.read().axes
        colors = {each.name: each.color for each in session.corrections.classes}
        for layer in self._layers(image):
            if layer.metadata[KEY]["role"] not in {f"live {name}" for name in result.names}:
                self._viewer.layers.remove(layer)
        if result.probability is not None:
            for name, values in zip(result.names, result.probability, strict=True):
                self._show_class(image, axes, name, colors[name], state.view, values)
        (top, bottom), (left, right) = state.view.box
        part = PART.format(bottom - top, right - left) if state.view.is_part else ""
        self._say(" ".join(text for text in (result.note, part) if text))

    def _show_class(
        self, image: Image, axes: str, name: str, color: str, view: ViewPlace, values: NDArray[Any]
    ) -> None:
        starts = {"T": view.time, "Z": view.z, "Y": view.box[0][0], "X": view.box[1][0]}
        dropped = int(axes.startswith("C"))
        place = place_over(image, (1.0,) * image.ndim, tuple(float(starts.get(axis, 0)) for axis in axes), dropped)
        shape = [values.shape["YX".index(axis)] if axis in "YX" else 1 for axis in axes if axis != "C"]
        data = np.asarray(values).reshape(shape)
        source, role = LIVE_SOURCE.format(image.unique_id), f"live {name}"
        old = next((layer for layer in self._layers(image) if layer.metadata[KEY]["role"] == role), None)
        if old is not None:
            old.data = data
            place_at(old, place)
            old.colormap = color
            return
        selected = set(self._viewer.layers.selection)
        active = self._viewer.layers.selection.active
        self._viewer.add_image(
            data,
            name=f"{name} live",
            metadata={KEY: {"role": role, "source": source, "threshold": 0.5, "recipe": {}}},
            rgb=False,
            **{**PROBABILITY_LOOKS, "colormap": color},
            **place.arguments(),
        )
        # napari selects what is added, and then the brush would be gone
        self._viewer.layers.selection = {layer for layer in selected if layer in self._viewer.layers}
        if active is not None and active in self._viewer.layers:
            self._viewer.layers.selection.active = active
