"""The switch *Live*: each stroke updates, in layers of their own, where the classes are in the view."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QSizePolicy, QWidget

from napari_skipseg.corrections.saved import ChunkTarget, SavedCorrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.intensity.normalize import Normalization, iter_measure_greys
from napari_skipseg.images.stack import Stack
from napari_skipseg.jobs.messages import LiveView
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import LIVE_TILE, LivePart, LiveResult
from napari_skipseg.widgets.correct.classes import number_judged
from napari_skipseg.widgets.correct.sessions import CorrectionSession
from napari_skipseg.widgets.forms.fields import FAULT_COLOR, MessageLine, fill_column, set_hint
from napari_skipseg.widgets.forms.worker import EngineLike, EngineQueue, EngineTask, WorkOutcome
from napari_skipseg.widgets.layers.files import PROBABILITY_LOOKS
from napari_skipseg.widgets.layers.placement import place_at, place_over, selection_kept, visible_box
from napari_skipseg.widgets.layers.results import KEY, read_as_czyx, remove_results, results_in, stack_of_layer
from napari_skipseg.widgets.segment.checks import find_faults, needs_channel
from napari_skipseg.widgets.segment.form import SegmentForm

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer


LARGEST_SIDE, LEAST_SIDE = 512, 256
"""Sides of a view in pixels. A larger one would take seconds to compute, a smaller one would change with each step."""
BORDER = 64
"""Pixels that are read around a view or a tile, as the network needs its surroundings."""
PADDED_BORDER = 128
"""The same in images with padding, which is recognised and filled in a wider area."""
MOST_TILES_ELSEWHERE = 128
"""Tiles with labels elsewhere that are learnt from; of more, so many are drawn."""

_Box = tuple[tuple[int, int], tuple[int, int]]
TilePlace = tuple[int, int, int, int]
"""Time, Z, and the first pixel of a tile along Y and X."""


@dataclass(frozen=True)
class ViewPlace:
    """The part of a slice that a live view shows. is_part: more of the slice is on screen than that."""

    time: int
    z: int
    box: _Box
    is_part: bool = False


def find_view(
    viewer: ViewerModel, layer: Layer, axes: str, before: ViewPlace | None, last_label: Sequence[int] | None
) -> ViewPlace | None:
    """Return what to show of the slice on screen; None if no slice along Y and X is on screen.

    before: the last view, which stays if it shows all. last_label: a voxel of the last stroke, along the axes without
    C: if the screen shows more than a view can have, the view is around it.
    """
    shown = {axes[axis - viewer.dims.ndim + layer.ndim] for axis in viewer.dims.displayed}
    if viewer.dims.ndisplay != 2 or shown != {"Y", "X"}:
        return None
    visible = dict(zip(axes, visible_box(viewer, layer), strict=True))
    lengths = dict(zip(axes, (layer.data[0] if layer.multiscale else layer.data).shape, strict=False))
    time, z = (visible[axis][0] if axis in visible else 0 for axis in "TZ")
    last = None if last_label is None else dict(zip(axes.replace("C", ""), last_label, strict=True))
    if last is not None and any(last.get(axis, at) != at for axis, at in (("T", time), ("Z", z))):
        last = None
    spans = []
    for axis in "YX":
        low, stop = visible[axis][0], visible[axis][1] + 1
        around = last[axis] if last is not None and low <= last[axis] < stop else (low + stop) // 2
        spans.append(_span(low, stop, around, int(lengths[axis])))
    is_part = any(visible[axis][1] - visible[axis][0] >= LARGEST_SIDE for axis in "YX")
    if before is not None and (before.time, before.z) == (time, z):
        inside = all(
            a <= max(visible[axis][0], start) and min(visible[axis][1] + 1, stop) <= b
            for axis, (a, b), (start, stop) in zip("YX", before.box, spans, strict=True)
        )
        near = last is None or all(a <= last[axis] < b for axis, (a, b) in zip("YX", before.box, strict=True))
        middle_is_visible = all(
            visible[axis][0] <= a + (b - a) // 4 and b - (b - a) // 4 <= visible[axis][1] + 1
            for axis, (a, b) in zip("YX", before.box, strict=True)
        )
        if inside or (is_part and before.is_part and near and middle_is_visible):
            return before
    return ViewPlace(time, z, (spans[0], spans[1]), is_part)


def _span(low: int, stop: int, around: int, length: int) -> tuple[int, int]:
    """Return start and stop of a view along an axis, on multiples of a tile or the end of the image."""
    side = min(max(-(-(stop - low) // LIVE_TILE) * LIVE_TILE + LIVE_TILE, LEAST_SIDE), LARGEST_SIDE)
    middle = around if stop - low > LARGEST_SIDE - LIVE_TILE else (low + stop) // 2
    start = (middle - side // 2 + LIVE_TILE // 2) // LIVE_TILE * LIVE_TILE
    start = max(0, min(start, -(-(length - side) // LIVE_TILE) * LIVE_TILE))
    return start, min(start + side, length)


class PartReader:
    """Reads parts of an image and of its corrections; the pixels of tiles that were read last stay in memory.

    stack: with the channels that the model takes. border: `BORDER` or `PADDED_BORDER`.
    """

    def __init__(self, stack: Stack, saved: SavedCorrections, border: int) -> None:
        self._stack, self._target, self._border = stack, ChunkTarget(saved), border
        self._axes = stack.space.axes.replace("C", "")
        self._pixels: dict[tuple[int, int, _Box], NDArray[np.generic]] = {}

    def read(
        self, view: ViewPlace, classes: Sequence[CorrectionClass], judged: Sequence[CorrectionClass]
    ) -> tuple[LivePart, ...]:
        """Return the view, and the tiles with labels elsewhere.

        classes: all that can be painted. judged: those that are learnt, in the order of their numbers; others count as
        background.
        """
        numbers = number_judged(classes, judged)
        (top, bottom), (left, right) = view.box
        index = {"T": view.time, "Z": view.z, "Y": slice(top, bottom), "X": slice(left, right)}
        labels = numbers[np.asarray(self._target[tuple(index[axis] for axis in self._axes)])]
        parts = [self._part(view.time, view.z, view.box, labels)]
        tiles = dict(self._iter_tiles(view, numbers))
        for place in _choose(tiles):
            time, z, top, left = place
            height, width = (self._stack.length(axis) for axis in "YX")
            box = (top, min(top + LIVE_TILE, height)), (left, min(left + LIVE_TILE, width))
            inside = tiles[place][: box[0][1] - top, : box[1][1] - left]
            parts.append(self._part(time, z, box, inside))
        wanted = {(part.time, part.z, part.box) for part in parts}
        self._pixels = {place: pixels for place, pixels in self._pixels.items() if place in wanted}
        return tuple(parts)

    def _iter_tiles(self, view: ViewPlace, numbers: NDArray[np.uint8]) -> Iterator[tuple[TilePlace, NDArray[np.uint8]]]:
        """Yield the tiles with labels that do not lie in the view."""
        for number in self._target.chunk_numbers():
            chunk = self._target.read_chunk(number)
            height, width = chunk.shape[-2:]  # it is one long along the other axes
            values = numbers[chunk].reshape(height, width)
            at = dict(zip(self._axes, number, strict=True))
            time, z = at.get("T", 0), at.get("Z", 0)
            top, left = at["Y"] * height, at["X"] * width
            for y in range(0, height, LIVE_TILE):
                for x in range(0, width, LIVE_TILE):
                    tile = values[y : y + LIVE_TILE, x : x + LIVE_TILE]
                    place = time, z, top + y, left + x
                    is_in_view = place[:2] == (view.time, view.z) and all(
                        start <= first < stop for first, (start, stop) in zip(place[2:], view.box, strict=True)
                    )
                    if tile.any() and not is_in_view:
                        yield place, tile

    def _part(self, time: int, z: int, box: _Box, labels: NDArray[np.uint8]) -> LivePart:
        """Return a part with its pixels and a border of them."""
        corner = max(0, box[0][0] - self._border), max(0, box[1][0] - self._border)
        if (time, z, box) not in self._pixels:
            wide = {
                axis: slice(start, min(stop + self._border, self._stack.length(axis)))
                for axis, start, (_, stop) in zip("YX", corner, box, strict=True)
            }
            index = {"T": slice(time, time + 1), "Z": slice(z, z + 1), **wide}
            self._pixels[time, z, box] = read_as_czyx(self._stack, index)[:, 0]
        return LivePart(time, z, box, corner, self._pixels[time, z, box], labels)


def _choose(tiles: dict[TilePlace, NDArray[np.uint8]]) -> list[TilePlace]:
    """Return at most `MOST_TILES_ELSEWHERE` of the tiles: those with a rare label first, then some of all."""
    if len(tiles) <= MOST_TILES_ELSEWHERE:
        return list(tiles)
    order = [list(tiles)[number] for number in np.random.default_rng(0).permutation(len(tiles))]
    labels = {place: np.unique(tiles[place][tiles[place] > 0]).tolist() for place in order}
    counts = {label: sum(label in found for found in labels.values()) for label in range(1, 256)}
    order.sort(key=lambda place: min(counts[label] for label in labels[place]))  # stable: drawn among equals
    return order[:MOST_TILES_ELSEWHERE]


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
        self._task: EngineTask | None = None
        self._reader: tuple[object, PartReader, Normalization] | None = None
        self._is_kept = False
        self.switch, self.message = QCheckBox("Live"), MessageLine()
        set_hint(self.switch, LIVE_HINT)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        fill_column(self, self.switch, self.message, spacing=2)
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK)
        self._timer.timeout.connect(self._look)
        self.switch.toggled.connect(self._on_toggled)
        queue.job_added.connect(self._on_job_added)

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
            if self._is_kept and getattr(self._engine, "pid", 1) is not None:
                # an empty request: the engine drops the features that it keeps
                drop = partial(self._engine.run, LiveView("", ""))
                EngineTask(self, drop, "Live", queue=self._queue, waiting_text=_WAITING)
            self._is_kept = False

    def _stop(self) -> None:
        """Cancel the request at work, and remove the layers."""
        if self._task is not None:
            self._task.cancel()
        if self._session is not None:
            remove_results(self._viewer, _live_source(self._session.layers.image))
        self._seen = self._shown = self._last_view = None
        self._reader = None
        self.message.say("")

    def _look(self) -> None:
        """See whether strokes or view have changed, and request a new result if they have settled."""
        session = self._session
        if session is None or not session.layers.is_shown:
            self.message.say("")
            return
        state = self._read_state(session)
        if isinstance(state, str):
            self.message.say(state, FAULT_COLOR)
            self._shown = None
            remove_results(self._viewer, _live_source(session.layers.image))
            if self._task is not None:
                self._task.cancel()
            return
        has_settled, self._seen = state == self._seen, state
        if self._task is not None:
            if self._at_work is not None and state.place != self._at_work.place:
                self._task.cancel()
            return
        if not has_settled or state == self._shown:
            return
        if not self._queue.is_empty:
            waiting = self._queue.describe_wait()
            self.message.say(f"Live {waiting}." if waiting.startswith("waits") else "Live waits for the engine.")
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
        choices = self._form.read()
        model, image, axes = choices.model, session.layers.image, choices.axes

        def work() -> Generator[Progress, Any, LiveResult]:
            if model is None:
                raise ValueError("there is no model")
            return (yield from self._iter_update(session, state, model, image, axes))

        def on_progress(progress: Progress) -> None:
            if self.is_on and progress.message.startswith(("computing", "reading", "starting")):
                self.message.say(f"Live is {progress.message}…")

        def on_outcome(outcome: WorkOutcome) -> None:
            if self._session is not session or not self.is_on:
                return
            self._shown = state
            if outcome.fault:
                self.message.say(outcome.fault, FAULT_COLOR)
            elif self._seen is None or self._seen.place == state.place:
                self._show(session, state, outcome.value)

        def on_end() -> None:
            self._task = self._at_work = None

        self._task = EngineTask(
            self,
            work,
            "Live",
            queue=self._queue,
            waiting_text=_WAITING,
            on_progress=on_progress,
            on_outcome=on_outcome,
            on_end=on_end,
        )

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

    def _on_job_added(self) -> None:
        """Cancel the request at work, because a job needs the engine; it is sent again afterwards."""
        if self._task is not None:
            self._shown = None
            self._task.cancel()

    def _show(self, session: CorrectionSession, state: LiveState, result: LiveResult) -> None:
        """Show the probability of each class in its layer; one that is shown no more is removed."""
        image, axes = session.layers.image, self._form.read().axes
        colors = {each.name: each.color for each in session.corrections.classes}
        remove_results(self._viewer, _live_source(image), but={f"live {name}" for name in result.names})
        if result.probability is not None:
            for name, values in zip(result.names, result.probability, strict=True):
                self._show_class(image, axes, name, colors[name], state.view, values)
        (top, bottom), (left, right) = state.view.box
        part = PART.format(bottom - top, right - left) if state.view.is_part else ""
        self.message.say(" ".join(text for text in (result.note, part) if text))

    def _show_class(
        self, image: Image, axes: str, name: str, color: str, view: ViewPlace, values: NDArray[Any]
    ) -> None:
        starts = {"T": view.time, "Z": view.z, "Y": view.box[0][0], "X": view.box[1][0]}
        dropped = int(axes.startswith("C"))
        place = place_over(image, offset=[float(starts.get(axis, 0)) for axis in axes], dropped=dropped)
        shape = [values.shape["YX".index(axis)] if axis in "YX" else 1 for axis in axes if axis != "C"]
        data = np.asarray(values).reshape(shape)
        source, role = _live_source(image), f"live {name}"
        there = results_in(self._viewer, source)
        old = next((layer for layer in there if layer.metadata[KEY]["role"] == role), None)
        if old is not None:
            old.data = data
            place_at(old, place)
            old.colormap = color
            return
        with selection_kept(self._viewer):  # else the brush would be gone
            self._viewer.add_image(
                data,
                name=f"{name} live",
                metadata={KEY: {"role": role, "source": source, "threshold": 0.5, "recipe": {}}},
                rgb=False,
                **{**PROBABILITY_LOOKS, "colormap": color},
                **place.arguments(),
            )


def _live_source(image: Image) -> str:
    return LIVE_SOURCE.format(image.unique_id)
