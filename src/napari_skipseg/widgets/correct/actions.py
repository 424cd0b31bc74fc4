"""What the buttons and keys of the Correct tab do to the corrections that are open."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_skipseg.corrections.exchange import export_corrections, import_labels
from napari_skipseg.corrections.places import UncertainRegion
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import SkipsegError
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.correct.accept import (
    AcceptedBox,
    BoxDrawing,
    count_pixels,
    read_accepted_mask,
    rectangle_box,
    slice_box,
    view_box,
)
from napari_skipseg.widgets.correct.classes import add_classes, name_values, new_class_name, recolor_class, rename_class
from napari_skipseg.widgets.correct.sessions import CorrectionSession
from napari_skipseg.widgets.correct.uncertain_regions import (
    describe_search,
    go_to,
    is_region_done,
    iter_find_uncertain_regions,
)
from napari_skipseg.widgets.correct.undo import EditKind

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_skipseg.widgets.correct.tab import CorrectTab


AskedLabels = Literal["target", "strokes"]

KINDS = {"OME-TIFF (*.ome.tif)": ".ome.tif", "OME-Zarr (*.ome.zarr)": ".ome.zarr"}


def ask_export(parent: QWidget, name: str) -> Path | None:
    """Return the file that the user chooses for corrections; None where nothing is to be written."""
    chosen, kind = QFileDialog.getSaveFileName(parent, "Export corrections", f"{name}_labels.ome.tif", ";;".join(KINDS))
    if not chosen:
        return None
    has_ending = chosen.lower().endswith((".tif", ".tiff", ".zarr"))
    return Path(chosen if has_ending else chosen + KINDS.get(kind, ".ome.tif"))


def ask_import(parent: QWidget, folder: bool) -> Path | None:
    """Return the labels that the user chooses: a file, or the folder of an OME-Zarr."""
    if folder:
        chosen = QFileDialog.getExistingDirectory(parent, "Labels to import (OME-Zarr)")
    else:
        kinds = "Labels (*.tif *.tiff *.mrc);;All files (*)"
        chosen = QFileDialog.getOpenFileName(parent, "Labels to import", "", kinds)[0]
    return Path(chosen) if chosen else None


def iter_export(corrections: Corrections, path: Path, what: AskedLabels) -> Generator[Progress, None, Path]:
    """Return the file that the corrections were written into.

    Raises:
        SkipsegError: it cannot be written.
    """
    yield Progress(0, 1, "writing the corrections")
    export_corrections(corrections, path, what=what)
    return path


def iter_import(corrections: Corrections, path: Path) -> Generator[Progress, None, Path]:
    """Return the file whose labels the corrections hold now.

    Raises:
        SkipsegError: it cannot be read, or its labels do not fit; then nothing was changed.
    """
    yield Progress(0, 1, "reading the labels")
    import_labels(corrections, path)
    return path


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


class CorrectActions:
    """The actions by their names in `layers.ACTIONS`, and those that have no key. Without a session: nothing."""

    def __init__(self, viewer: ViewerModel, tab: CorrectTab) -> None:
        self._viewer, self._tab = viewer, tab
        self._drawing: BoxDrawing | None = None
        self._ranked: tuple[Any, ...] = ()
        self._searched: Any = None

    def by_name(self) -> dict[str, Callable[[], None]]:
        """Return what each key and button does."""
        return {
            "previous class": partial(self._step_class, -1),
            "next class": partial(self._step_class, 1),
            "undo": self.undo,
            "redo": self.redo,
            "accept slice": self.accept_slice,
            "accept view": self.accept_view,
            "accept rectangle": self.draw_rectangle,
            "take back": self.take_back,
            "next place": partial(self.next_place, 1),
            "previous place": partial(self.next_place, -1),
        }

    def _step_class(self, step: int) -> None:
        if (session := self._tab.session) is not None:
            session.layers.step_class(step)

    def undo(self) -> None:
        """Undo what was done last, be it a stroke or an acceptance."""
        if (session := self._tab.session) is not None:
            self._tell_deed(session, UNDONE, session.layers.deeds.undo())

    def redo(self) -> None:
        """Redo what was undone last."""
        if (session := self._tab.session) is not None:
            self._tell_deed(session, REDONE, session.layers.deeds.redo())

    def _tell_deed(self, session: CorrectionSession, told: dict[EditKind | None, str], deed: EditKind | None) -> None:
        session.layers.refresh_accepted()
        self._tab.show_amounts()
        self._tab.tell(told[deed])

    def _strokes(self) -> Labels | None:
        session = self._tab.session
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
        """Ask for a rectangle, and accept what lies in it."""
        strokes, session = self._strokes(), self._tab.session
        if strokes is None or session is None:
            return

        def accept(corners: NDArray[np.float64]) -> None:
            self._accept(partial(rectangle_box, self._viewer, strokes, corners), whole=False)

        def end() -> None:
            self._drawing = None
            session.layers.activate()
            self._tab.forget_and_check()

        if self._drawing is None:
            self._drawing = BoxDrawing(self._viewer, strokes, accept, end)
            self._tab.tell("Draw a rectangle around what is right, or press Escape to cancel.")

    def _accept(self, find_box: Callable[[], AcceptedBox], whole: bool) -> None:
        session = self._tab.session
        if session is None:
            return
        corrections, offers = session.corrections, self._tab.segment_tab.results.on_show(session.layers.image)
        threshold = float(self._tab.segment_tab.form.threshold.value())
        try:
            self._name(session, [name for shown in offers for name in shown.prediction.class_names])
            values = {
                name: value_of(corrections.classes, name) for each in offers for name in each.prediction.class_names
            }
            box, accepted = read_accepted_mask(offers, find_box(), threshold, values, whole)
            session.layers.deeds.accept(box, accepted)
        except SkipsegError as error:
            self._tab.complain(str(error))
            return
        session.layers.refresh_accepted()
        self._tab.show_amounts()
        told = f"Accepted {count_pixels(box)} (U undoes it)."
        others = [each.name for each in self._tab.judged_classes() if each.value not in values.values()]
        if others:
            named = " and ".join(others)
            told += f" Pixels there that you did not paint as {named} are learnt as not {named}. If that is wrong, "
            told += f"take away the tick at {named} in the list."
        self._tab.tell(told)

    def take_back(self) -> None:
        """Take back what was accepted last."""
        if (session := self._tab.session) is not None:
            taken = session.layers.deeds.take_back()
            self._tell_deed(session, UNDONE | {None: NO_ACCEPTANCE}, "acceptance" if taken else None)

    def next_place(self, step: int) -> None:
        """Go to the next place where the model is unsure; look for places where that is not known."""
        session, places = self._tab.session, self._tab.body.places
        if session is None or self._tab.is_running:
            return
        image = session.layers.image
        results = self._tab.segment_tab.results
        shown = results.find_whole(image) or next(iter(results.on_show(image)), None)
        if shown is None:
            self._tab.complain(UNSURE_FIRST)
            return
        taught = [each.name for each in self._tab.judged_classes()]
        told = session.key, shown.is_whole, taught
        if self._ranked == told and shown.prediction.probability is self._searched:
            self._go_on(session, step)
            return

        def show(found: tuple[UncertainRegion, ...]) -> None:
            self._ranked, self._searched = told, shown.prediction.probability
            places.show_places(found, session.corrections.subject.space.axes)
            self._go_on(session, 1)
            if found:
                self._tab.tell(describe_search(shown, taught, len(found)))

        work = partial(iter_find_uncertain_regions, shown, session.corrections, taught)
        self._tab.start(work, "Looking for places", show)

    def _go_on(self, session: CorrectionSession, step: int) -> None:
        """Go to another place of the list; those that are done are in it no longer."""
        places, done = self._tab.body.places, partial(is_region_done, session.corrections)
        places.step(step, done)
        if not places.count():
            session.layers.mark.hide()
            self._tab.tell(NO_PLACES)

    def go_to(self, place: UncertainRegion) -> None:
        """Bring a place into view."""
        session = self._tab.session
        if session is not None:
            go_to(self._viewer, session.layers.strokes or session.layers.image, place)
            if (strokes := self._strokes()) is not None:
                session.layers.mark.show(strokes, session.layers.image.name, place)
            session.layers.activate()
            self._tab.tell(place.reason[:1].upper() + place.reason[1:] + ".")

    def settle_place(self) -> None:
        """Frame the place no longer in which half was painted or accepted, or whose strokes' layer has gone."""
        session = self._tab.session
        mark = None if session is None else session.layers.mark
        if session is None or mark is None or mark.place is None:
            return
        if not session.layers.is_shown or is_region_done(session.corrections, mark.place):
            mark.hide()

    def add_class(self) -> None:
        """Add a class, ready to be named and painted."""
        if (session := self._tab.session) is not None:
            name = new_class_name(session.corrections.classes)
            self._change(session, partial(add_classes, names=[name]))
            value = value_of(session.corrections.classes, name)
            session.layers.choose_class(value)
            self._tab.body.classes.rows[value].ask_name()

    def rename_class(self, value: int, name: str) -> None:
        """Give a class another name."""
        if (session := self._tab.session) is not None:
            self._change(session, partial(rename_class, value=value, name=name))
            self._tab.give_keys_back()

    def recolor_class(self, value: int, color: str) -> None:
        """Give a class another colour."""
        if (session := self._tab.session) is not None:
            self._change(session, partial(recolor_class, value=value, color=color))

    def _name(self, session: CorrectionSession, names: list[str]) -> None:
        self._change(session, partial(add_classes, names=names), is_strict=True)

    def _change(
        self,
        session: CorrectionSession,
        change: Callable[[tuple[CorrectionClass, ...]], tuple[CorrectionClass, ...]],
        is_strict: bool = False,
    ) -> None:
        """Change the classes, on disk and on screen; what is wrong is said, or raised where `is_strict`."""
        try:
            classes = change(session.corrections.classes)
            if classes == session.corrections.classes:
                return
            session.corrections.name_classes(classes)
        except SkipsegError as error:
            if is_strict:
                raise
            self._tab.complain(str(error))
            return
        session.layers.color()
        self._tab.show_classes()
        self._tab.color_results(session)

    def name_model_classes(self, session: CorrectionSession) -> None:
        """Have a class for each of the model that is chosen."""
        model = self._tab.segment_tab.form.read().model
        self._change(session, partial(add_classes, names=() if model is None else model.class_names))

    def export_to(self, path: Path, what: AskedLabels) -> None:
        """Write the corrections into a file, beside the window."""
        if (session := self._tab.session) is not None:
            work = partial(iter_export, session.corrections, path, what)
            self._tab.start(work, "Exporting corrections", lambda file: self._tab.tell(f"Written to {file}."))

    def import_from(self, path: Path) -> None:
        """Take the labels in a file as strokes, beside the window."""
        session = self._tab.session
        if session is None:
            return

        def show(file: Path) -> None:
            self._change(session, partial(name_values, values=session.corrections.summary().pixels))
            session.layers.refresh()
            self._tab.show_amounts()
            self._tab.tell(f"The labels of {file.name} were imported as strokes.")

        self._tab.start(partial(iter_import, session.corrections, path), "Importing labels", show)


def value_of(classes: tuple[CorrectionClass, ...], name: str) -> int:
    """Return the value of a class by its name, whatever its capitals."""
    return next(each.value for each in classes if each.name.casefold() == name.casefold())
