"""What the buttons and keys of the Correct tab do to the corrections that are open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_skipseg.corrections.carried_strokes import CarriedStrokes
from napari_skipseg.corrections.exchange import export_corrections, import_labels
from napari_skipseg.corrections.subject import BACKGROUND, CorrectionClass
from napari_skipseg.corrections.uncertain_regions import UncertainRegion
from napari_skipseg.errors import SkipsegError
from napari_skipseg.widgets.correct.accept import (
    AcceptedBox,
    BoxDrawing,
    count_pixels,
    read_accepted_mask,
    rectangle_box,
    slice_box,
    view_box,
)
from napari_skipseg.widgets.correct.carry import DROPPED, StrokeCarrier
from napari_skipseg.widgets.correct.classes import (
    ClassList,
    add_classes,
    is_unnamed,
    name_values,
    new_class_name,
    next_value,
    recolor_class,
    rename_class,
)
from napari_skipseg.widgets.correct.layers import EditKind
from napari_skipseg.widgets.correct.sessions import CorrectionSession
from napari_skipseg.widgets.correct.uncertain_regions import (
    UncertainRegionList,
    describe_search,
    go_to,
    is_region_done,
    iter_find_uncertain_regions,
)
from napari_skipseg.widgets.forms import dialogs
from napari_skipseg.widgets.forms.worker import Work, in_one_step
from napari_skipseg.widgets.layers.live import Results
from napari_skipseg.widgets.segment.form import SegmentForm
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels


AskedLabels = Literal["target", "strokes"]

KINDS = {"OME-TIFF (*.ome.tif)": ".ome.tif", "OME-Zarr (*.ome.zarr)": ".ome.zarr"}


def ask_export(parent: QWidget, name: str) -> Path | None:
    """Return the file that the user chooses for corrections, None if the dialog was cancelled."""
    start = f"{name}_labels.ome.tif"
    chosen, kind = dialogs.ask_new_file(parent, "Export corrections", start, ";;".join(KINDS), "corrections")
    if chosen is None or chosen.name.lower().endswith((".tif", ".tiff", ".zarr")):
        return chosen
    return chosen.with_name(chosen.name + KINDS.get(kind, ".ome.tif"))


def ask_import(parent: QWidget, folder: bool) -> Path | None:
    """Return the file or OME-Zarr folder that the user chooses, None if the dialog was cancelled."""
    if folder:
        return dialogs.ask_folder(parent, "Labels to import (OME-Zarr)", "corrections", is_file=True)
    return dialogs.ask_file(parent, "Labels to import", "Labels (*.tif *.tiff *.mrc);;All files (*)", "corrections")


def describe_imported(file: Path, pixels: Mapping[int, int], classes: Sequence[CorrectionClass]) -> str:
    """Return which class each value of imported labels became. pixels: how many pixels of the file have each value."""
    names = {BACKGROUND: "background"} | {each.value: each.name for each in classes}
    became = ", ".join(f"{value} = {names.get(value, 'no class')}" for value in pixels)
    text = f"The labels of {file.name} were imported as strokes: {became or 'all of them are 0'}."
    is_asked = any(is_unnamed(names.get(value, "")) for value in pixels)
    return f"{text} Double-click a class in the list to name it." if is_asked else text


NO_PLACES = "Nothing is left to look at: you painted or accepted every place where the model was unsure."
NO_ACCEPTANCE = "Nothing is accepted."
UNDONE: dict[EditKind | None, str] = {
    "stroke": "The last stroke is undone.",
    "acceptance": "The last acceptance is undone; your strokes are still there.",
    None: "There is nothing to undo: nothing was changed since these corrections were opened.",
}
REDONE: dict[EditKind | None, str] = {
    "stroke": "The stroke is redone.",
    "acceptance": "The acceptance is redone.",
    None: "There is nothing to redo.",
}
UNSURE_FIRST = "Segment first: the next place is where the prediction is least sure."


@dataclass(frozen=True)
class CorrectJob:
    """Work that takes a while. on_value: called with its result in the window's thread."""

    work: Work
    description: str
    on_value: Callable[[Any], None]


class CorrectActions(QObject):  # type: ignore[misc]
    """The actions by their names in `layers.ACTIONS`, and those without a key. Without a session they do nothing.

    reported, failed: emitted with a sentence on what was done, or why it cannot be done. edited: the corrections
    changed. classes_changed: their classes changed. job_requested: emitted with a `CorrectJob` to be run.
    """

    reported = Signal(str)
    failed = Signal(str)
    edited = Signal()
    classes_changed = Signal()
    job_requested = Signal(object)

    def __init__(
        self,
        viewer: ViewerModel,
        form: SegmentForm,
        results: Results,
        classes: ClassList,
        regions: UncertainRegionList,
    ) -> None:
        super().__init__(classes)
        self._viewer, self._form, self._results = viewer, form, results
        self._classes, self._regions = classes, regions
        self._session: CorrectionSession | None = None
        self._is_busy = False
        self._drawing: BoxDrawing | None = None
        self._carrier = StrokeCarrier(viewer)
        self._ranked: tuple[Any, ...] = ()
        self._searched: Any = None

    def update(self, session: CorrectionSession | None, is_busy: bool) -> None:
        """Act on these corrections from now on. is_busy: whether a job is running."""
        if session is not self._session:
            self._carrier.drop()
        self._session, self._is_busy = session, is_busy

    def by_name(self) -> dict[str, Callable[[], None]]:
        """Return what each key and button does."""
        return {
            "previous class": partial(self._step_class, -1),
            "next class": partial(self._step_class, 1),
            "undo": self.undo,
            "redo": self.redo,
            "carry": self.carry,
            "accept slice": self.accept_slice,
            "accept view": self.accept_view,
            "accept rectangle": self.draw_rectangle,
            "take back": self.take_back,
            "next place": partial(self.go_to_next, 1),
            "previous place": partial(self.go_to_next, -1),
        }

    def _step_class(self, step: int) -> None:
        if self._session is not None:
            self._session.layers.step_class(step)

    def carry(self) -> None:
        """Outline the shape of the chosen class between its painted slices; if that is outlined, write it."""
        session = self._session
        if session is None or self._is_busy or self._strokes() is None:
            return

        def on_value(carried: CarriedStrokes | str) -> None:
            if isinstance(carried, str):
                self.failed.emit(carried)
            elif self._session is session:
                self.reported.emit(self._carrier.offer(session, carried))

        if (taken := self._carrier.take(session)) is not None:
            self._show_edit(session, self._carrier.write(session, taken))
        else:
            self.job_requested.emit(CorrectJob(partial(self._carrier.iter_carry, session), "Carrying", on_value))

    def undo(self) -> None:
        """Drop what is outlined, else undo the last edit, a stroke or an acceptance."""
        if self._carrier.drop():
            self.reported.emit(DROPPED)
        elif self._session is not None:
            self._show_edit(self._session, UNDONE[self._session.layers.history.undo()])

    def redo(self) -> None:
        """Redo the edit that was undone last."""
        if self._session is not None:
            self._show_edit(self._session, REDONE[self._session.layers.history.redo()])

    def take_back(self) -> None:
        """Undo the last acceptance."""
        if self._session is not None:
            is_undone = self._session.layers.history.undo_acceptance()
            self._show_edit(self._session, UNDONE["acceptance"] if is_undone else NO_ACCEPTANCE)

    def _show_edit(self, session: CorrectionSession, text: str) -> None:
        session.layers.refresh_accepted()
        self.edited.emit()
        self.reported.emit(text)

    def _strokes(self) -> Labels | None:
        session = self._session
        return session.layers.strokes if session is not None and session.layers.is_shown else None

    def accept_slice(self) -> None:
        """Accept the whole slice on screen."""
        if (strokes := self._strokes()) is not None:
            self._accept(partial(slice_box, self._viewer, strokes), whole=True)

    def accept_view(self) -> None:
        """Accept what is on screen."""
        if (strokes := self._strokes()) is not None:
            self._accept(partial(view_box, self._viewer, strokes), whole=False)

    def draw_rectangle(self) -> None:
        """Have a rectangle drawn, and accept what lies in it."""
        strokes, session = self._strokes(), self._session
        if strokes is None or session is None:
            return

        def on_drawn(corners: NDArray[np.float64]) -> None:
            self._accept(partial(rectangle_box, self._viewer, strokes, corners), whole=False)

        def on_end() -> None:
            self._drawing = None
            session.layers.activate()
            self.reported.emit("")

        if self._drawing is None:
            self._drawing = BoxDrawing(self._viewer, strokes, on_drawn, on_end)
            self.reported.emit("Draw a rectangle around what is right, or press Escape to cancel.")

    def _accept(self, find_box: Callable[[], AcceptedBox], whole: bool) -> None:
        session = self._session
        if session is None:
            return
        corrections, offers = session.corrections, self._results.on_show(session.layers.image)
        names = [name for shown in offers for name in shown.prediction.class_names]
        try:
            self._change_classes(session, add_classes(corrections.classes, names))
            values = {name: value_of(corrections.classes, name) for name in names}
            box, accepted = read_accepted_mask(offers, find_box(), self._form.threshold.values(), values, whole)
            session.layers.history.accept(box, accepted)
        except SkipsegError as error:
            self.failed.emit(str(error))
            return
        count = count_pixels(box) if accepted.all() else counted(int(np.count_nonzero(accepted)), "pixel")
        text = f"Accepted {count} (U undoes it)."
        others = [each.name for each in self._classes.judged() if each.value not in values.values()]
        if others:
            named = " and ".join(others)
            text += f" Pixels there that you did not paint as {named} are learnt as not {named}. If that is wrong, "
            text += f"take away the tick at {named} in the list."
        self._show_edit(session, text)

    def go_to_next(self, step: int) -> None:
        """Go to the next place where the model is unsure; first search for such places if they are not known."""
        session = self._session
        if session is None or self._is_busy:
            return
        image = session.layers.image
        shown = self._results.find_whole(image) or next(iter(self._results.on_show(image)), None)
        if shown is None:
            self.failed.emit(UNSURE_FIRST)
            return
        taught = [each.name for each in self._classes.judged()]
        key = session.key, shown.is_whole, taught
        if self._ranked == key and shown.prediction.probability is self._searched:
            self._step_region(session, step)
            return

        def on_found(found: tuple[UncertainRegion, ...]) -> None:
            self._ranked, self._searched = key, shown.prediction.probability
            self._regions.show_regions(found, session.corrections.subject.space.axes)
            self._step_region(session, 1)
            if found:
                self.reported.emit(describe_search(shown, taught, len(found)))

        work = partial(iter_find_uncertain_regions, shown, session.corrections, taught)
        self.job_requested.emit(CorrectJob(work, "Looking for places", on_found))

    def _step_region(self, session: CorrectionSession, step: int) -> None:
        self._regions.step(step, partial(is_region_done, session.corrections))
        if not self._regions.count():
            session.layers.highlight.hide()
            self.reported.emit(NO_PLACES)

    def go_to(self, region: UncertainRegion) -> None:
        """Bring an uncertain region into view and frame it."""
        session = self._session
        if session is not None:
            go_to(self._viewer, session.layers.strokes or session.layers.image, region.center, region.box)
            if (strokes := self._strokes()) is not None:
                session.layers.highlight.show(strokes, session.layers.image.name, region)
            session.layers.activate()
            self.reported.emit(region.reason[:1].upper() + region.reason[1:] + ".")

    def update_highlight(self) -> None:
        """Remove the frame if half of its region was painted or accepted, or if the layer of strokes is gone."""
        session = self._session
        region = None if session is None else session.layers.highlight.region
        if session is None or region is None:
            return
        if not session.layers.is_shown or is_region_done(session.corrections, region):
            session.layers.highlight.hide()

    def choose_class(self, value: int) -> None:
        """Paint with a class."""
        if self._session is not None:
            self._session.layers.choose_class(value)

    def add_class(self) -> None:
        """Add a class, and make its name editable."""
        if (session := self._session) is not None:
            classes = session.corrections.classes
            name = new_class_name(classes, next_value(classes))
            if self._try_classes(session, partial(add_classes, names=[name])):
                value = value_of(session.corrections.classes, name)
                session.layers.choose_class(value)
                self._classes.rows[value].ask_name()

    def rename_class(self, value: int, name: str) -> None:
        """Give a class another name."""
        if (session := self._session) is not None:
            pixels = session.corrections.summary().pixels
            self._try_classes(session, partial(rename_class, value=value, name=name, pixels=pixels))

    def recolor_class(self, value: int, color: str) -> None:
        """Give a class another colour."""
        if self._session is not None:
            self._try_classes(self._session, partial(recolor_class, value=value, color=color))

    def name_model_classes(self, session: CorrectionSession) -> None:
        """Add the classes of the model that is chosen; labels without a name keep their values."""
        model = self._form.read().model
        names, values = () if model is None else model.class_names, session.corrections.summary().pixels
        # imported labels may have a value that no class has: it is not that of the model's first class
        self._try_classes(session, lambda classes: add_classes(name_values(classes, values), names))

    def _try_classes(
        self,
        session: CorrectionSession,
        change: Callable[[tuple[CorrectionClass, ...]], tuple[CorrectionClass, ...]],
    ) -> bool:
        """Return whether the classes could be changed; if not, the reason was emitted."""
        try:
            self._change_classes(session, change(session.corrections.classes))
        except SkipsegError as error:
            self.failed.emit(str(error))
            return False
        return True

    def _change_classes(self, session: CorrectionSession, classes: tuple[CorrectionClass, ...]) -> None:
        """Change the classes, on disk and on screen.

        Raises:
            SkipsegError: they cannot be written.
        """
        if classes != session.corrections.classes:
            session.corrections.name_classes(classes)
            session.layers.color()
            self.classes_changed.emit()

    def export_to(self, path: Path, what: AskedLabels) -> None:
        """Write the corrections into a file, beside the window."""
        if (session := self._session) is not None:
            write = partial(export_corrections, session.corrections, path, what=what)
            work = in_one_step("writing the corrections", write)
            job = CorrectJob(work, "Exporting corrections", lambda _: self.reported.emit(f"Written to {path}."))
            self.job_requested.emit(job)

    def import_from(self, path: Path) -> None:
        """Add the labels in a file to the strokes, beside the window."""
        session = self._session
        if session is None:
            return

        def on_imported(pixels: Mapping[int, int]) -> None:
            self._try_classes(session, partial(name_values, values=session.corrections.summary().pixels))
            session.layers.refresh()
            self.edited.emit()
            self.reported.emit(describe_imported(path, pixels, session.corrections.classes))

        work = in_one_step("reading the labels", partial(import_labels, session.corrections, path))
        self.job_requested.emit(CorrectJob(work, "Importing labels", on_imported))


def value_of(classes: tuple[CorrectionClass, ...], name: str) -> int:
    """Return the value of a class by its name, regardless of capitals."""
    return next(each.value for each in classes if each.name.casefold() == name.casefold())
