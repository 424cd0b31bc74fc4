"""Objects on show in the Objects tab, and what is done with them: the way to each, into files, scored."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_skipseg.batch.wording import counted
from napari_skipseg.errors import SkipsegError
from napari_skipseg.widgets.layers import stack_of
from napari_skipseg.widgets.objects_body import ObjectsBody
from napari_skipseg.widgets.objects_files import ask_file, in_short, iter_save, without_channels
from napari_skipseg.widgets.objects_layers import (
    LoadedObjects,
    ShownObjects,
    follow_image,
    frame_of,
    pick_label,
    show_object,
    show_objects,
)
from napari_skipseg.widgets.objects_scores import ObjectScores, iter_score
from napari_skipseg.widgets.objects_sources import Source, describe_source, find_truths, unwrapped
from napari_skipseg.widgets.place_mark import PlaceMark
from napari_skipseg.widgets.popups import pop_up
from napari_skipseg.widgets.turns import EngineLine

if TYPE_CHECKING:
    from napari.components import ViewerModel


class ObjectsOnShow(ObjectsBody):
    """The objects that were found so far: a layer, a row for each, and what can be made of them."""

    def __init__(self, line: EngineLine, viewer: ViewerModel) -> None:
        super().__init__(line, viewer)
        self._shown: dict[str, ShownObjects] = {}
        self._source: Source | None = None
        self.mark = PlaceMark(viewer)
        self._marked: ShownObjects | None = None
        self._selected: ShownObjects | None = None
        self._tabled: ShownObjects | None = None
        self.links.tie(viewer.layers.selection.events.active, self._follow_selection)

    def result(self) -> ShownObjects | None:
        """Return the objects that are meant: those whose layer was selected last, else those of what is chosen.

        None where there are none.
        """
        self._shown = {key: shown for key, shown in self._shown.items() if shown.layer in self._viewer.layers}
        if self._selected is not None and self._selected in self._shown.values():
            return self._selected
        return None if self._source is None else self._shown.get(str(self._source.layer.unique_id))

    def _follow_selection(self, event: Any = None) -> None:
        """Show the table of the objects whose layer is selected."""
        active = self._viewer.layers.selection.active
        chosen = next((shown for shown in self._shown.values() if unwrapped(active) == shown.layer), None)
        if chosen is not None and chosen is not self.result():
            self._selected = chosen
            self.show_result()

    def show_result(self) -> None:
        """Show the table of the objects that are meant now."""
        shown = self._tabled = self.result()
        if self._marked is not None and self._marked is not shown:
            self.unmark()
        self.table.show_table(None if shown is None else shown.table)
        source = self._source if shown is None else shown.source
        self.score_box.offer([] if source is None else find_truths(self._viewer, source))
        self.score_box.scores.say("")
        self.check()

    def forget_removed(self) -> None:
        """Show another table where the objects of the present one are no longer there."""
        if self._tabled is not None and self._tabled is not self.result():
            self.show_result()

    def show_found(self, source: Source, loaded: LoadedObjects, compared: str = "") -> None:
        """Show the objects of a source as a layer and a table. compared: with what was found before, a sentence."""
        if source.layer not in self._viewer.layers:
            self.tell(f"'{source.layer.name}' was removed meanwhile: its objects are not shown.")
            return
        self.preview.setChecked(False)
        self.unmark()
        shown = show_objects(self._viewer, source, loaded)
        self._shown[str(source.layer.unique_id)] = self._selected = shown
        if pick_label not in shown.layer.mouse_drag_callbacks:
            shown.layer.mouse_drag_callbacks.append(pick_label)
            self.links.tie(shown.layer.events.selected_label, self._follow_label)
        self._viewer.layers.selection.active = shown.layer
        self.show_result()
        count = loaded.found.count
        self.tell(f"{counted(count, 'object')} found. {compared or 'Click a row to go to the object.'}")

    def _go_to(self, row: int) -> None:
        shown = self.result()
        if shown is not None:
            show_object(self._viewer, shown, row)
            self._frame(shown, row)

    def _follow_label(self, event: Any) -> None:
        shown = self.result()
        if shown is not None and event.source == shown.layer:
            label = int(shown.layer.selected_label)
            self.table.select_label(label)
            if (place := self.table.rows.place_of(label)) is not None:
                self._frame(shown, self.table.rows.row_at(place))

    def _frame(self, shown: ShownObjects, row: int) -> None:
        """Draw a frame around an object, in the slice on screen; its layer stays the active one."""
        if self._marked is not shown:
            self.unmark()
        self._marked = shown
        self.mark.show(shown.layer, shown.layer.name, frame_of(self._viewer, shown, row))
        self._viewer.layers.selection.active = shown.layer

    def unmark(self) -> None:
        """Take the frame around an object away."""
        self._marked = None
        self.mark.hide()

    def _check_mark(self) -> None:
        """Take the frame away where its objects are not on show any longer."""
        if self._marked is not None and self._marked is not self.result():
            self.unmark()

    def _follow_image(self) -> None:
        self.unmark()
        for shown in self._shown.values():
            follow_image(shown)
        if (shown_now := self.result()) is not None and not shown_now.is_measured_as_it_lies():
            self.tell("The voxel size has changed: find the objects again to measure them with it.")

    def _ask_file(self) -> None:
        shown = self.result()
        if shown is not None and (file := ask_file(self, shown.source.name)) is not None:
            self.save(shown, file)

    def save(self, shown: ShownObjects, file: Path) -> None:
        """Write objects and their measurements, beside the window."""

        def tell(files: list[Path]) -> None:
            self.tell(f"Saved {' and '.join(each.name for each in files)} in {file.parent}.")
            named = ", ".join(each.name for each in files)
            pop_up(f"SkipSeg saved {named} in {file.parent}.", in_short(files))

        self.start(partial(iter_save, shown, file), "Saving objects", tell)

    def score(self) -> None:
        """Score the objects on show against the chosen truth."""
        shown, truth = self.result(), self.score_box.truth.currentData()
        if shown is None or truth is None or self.is_running:
            return
        try:
            found, true = without_channels(shown), stack_of(truth, describe_source(self._viewer, truth).axes)
        except SkipsegError as error:
            self.fail(str(error))
            return

        def tell(scores: ObjectScores) -> None:
            self.score_box.scores.say(scores.in_words())

        self.start(partial(iter_score, found, true), "Scoring objects", tell)
