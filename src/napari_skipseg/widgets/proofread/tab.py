"""The Proofread tab: merges, splits and other edits of objects, with undo, and the next doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QButtonGroup, QGridLayout, QPushButton, QWidget

from napari_skipseg.errors import SkipsegError
from napari_skipseg.proofread.doubts import Doubt
from napari_skipseg.proofread.edits import (
    Confirm,
    Delete,
    Edit,
    EditRefusedError,
    FillHoles,
    Grow,
    Lock,
    Separate,
    SkipDoubt,
    Smooth,
    Voxel,
)
from napari_skipseg.proofread.state import Change
from napari_skipseg.widgets.forms.fields import (
    FAULT_COLOR,
    ConnectionGroup,
    FreshCombo,
    MessageLine,
    Missing,
    PlainLabel,
    PrimaryButton,
    fill_column,
    make_row,
    set_hint,
)
from napari_skipseg.widgets.forms.job_tab import JobTab
from napari_skipseg.widgets.forms.worker import EngineQueue
from napari_skipseg.widgets.objects.layers import ShownObjects
from napari_skipseg.widgets.proofread.actions import EDITOR_ACTIONS, LEARN, TOOLS
from napari_skipseg.widgets.proofread.canvas import ProofreadLayers
from napari_skipseg.widgets.proofread.doubt_list import DoubtList, question_about
from napari_skipseg.widgets.proofread.edited_table import EditedObjectsTable
from napari_skipseg.widgets.proofread.learning import LearningRow, ReadPreview
from napari_skipseg.widgets.proofread.opening import (
    OpenedObjects,
    ask_edited_file,
    describe_opened,
    iter_open_session,
    iter_save_edited,
    layers_to_proofread,
    place_of_object,
    source_of_layer,
)
from napari_skipseg.widgets.proofread.tools import PendingEdit, ToolName, say_what_was_done

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

_NOTHING = Missing("Find objects in the Objects tab first, or open labels.")


class ProofreadTab(JobTab):
    """Opens objects, shows them in a layer of their own, and edits them by mouse and keys.

    shown: returns the objects that the Objects tab shows.
    """

    def __init__(self, viewer: ViewerModel, line: EngineQueue, shown: Callable[[], Sequence[ShownObjects]]) -> None:
        super().__init__(line)
        self._viewer, self._shown = viewer, shown
        self.opened: OpenedObjects | None = None
        self.layers: ProofreadLayers | None = None
        self.pending: PendingEdit | None = None
        self.doubt: Doubt | None = None
        self.doubts = DoubtList(self)
        self._selected: Voxel | None = None
        self.links = ConnectionGroup()
        self.choice, self.close_button = FreshCombo(), QPushButton("Close")
        self.open_button = PrimaryButton("Proofread")
        self.choice.setAccessibleName("Objects")
        self.choice.setToolTip("Objects that were found, or labels of any program")
        self.tool_buttons = {name: QPushButton(f"{tool.text} ({tool.key})") for name, tool in TOOLS.items()}
        self.buttons = {name: QPushButton(f"{action.text} ({action.key})") for name, action in EDITOR_ACTIONS.items()}
        self.save_button, self.table = QPushButton("Save…"), EditedObjectsTable()
        self.reason, self.editor, self.learning = MessageLine(), QWidget(), LearningRow()
        self._lay_out()
        self._connect()
        self.check()

    def _lay_out(self) -> None:
        group, grid = QButtonGroup(self), QGridLayout()
        for place, (tool, button) in enumerate(self.tool_buttons.items()):
            button.setCheckable(True)
            group.addButton(button)
            set_hint(button, f"{TOOLS[tool].hint} (key: {TOOLS[tool].key})")
            grid.addWidget(button, place // 2, place % 2)
        for place, (name, button) in enumerate(self.buttons.items(), start=len(self.tool_buttons)):
            set_hint(button, f"{EDITOR_ACTIONS[name].hint} (key: {EDITOR_ACTIONS[name].key})")
            grid.addWidget(button, place // 2, place % 2)
        inner = fill_column(self.editor, grid, self.reason, self.learning, self.table, self.save_button, spacing=6)
        inner.setStretchFactor(self.table, 1)
        chosen = make_row(PlainLabel("Objects"), self.choice, stretches=(0, 1))
        buttons = make_row(self.open_button, self.close_button, self.cancel_button)
        shown = (self.progress, self.progress_text, self.message, self.editor)
        column = fill_column(self, chosen, buttons, *shown, spacing=6, margin=10)
        column.setStretchFactor(self.editor, 1)
        column.addStretch(0)

    def _connect(self) -> None:
        self.open_button.clicked.connect(self.open)
        self.close_button.clicked.connect(self.close_session)
        self.choice.opening.connect(self._offer)
        self.save_button.clicked.connect(self.save)
        self.table.chosen.connect(self._on_row_chosen)
        self.doubts.announced.connect(self.reason.say)
        self.learning.previewed.connect(self._on_learned)
        self.learning.accepted.connect(self._on_accepted)
        for tool, button in self.tool_buttons.items():
            button.clicked.connect(partial(self.choose_tool, tool))
        for name, button in self.buttons.items():
            button.clicked.connect(self._actions()[name])
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            self.links.tie(event, self._on_layers_changed)

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "accept": self.accept,
            "confirm": self.confirm,
            "next": self.next_doubt,
            "undo": self.undo,
            "redo": self.redo,
            "new": self.paint_new,
            "between": self.carry_between,
            "delete": lambda: self._do_selected(lambda voxel: Delete((voxel,))),
            "fill": lambda: self._do_selected(FillHoles),
            "smooth": lambda: self._do_selected(Smooth),
            "separate": lambda: self._do_selected(Separate),
            "lock": self.lock,
        }

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Offer the layers that there are now."""
        super().showEvent(event)
        self._offer()

    def _offer(self) -> None:
        layers = layers_to_proofread(self._viewer)
        chosen = self.choice.currentData()
        found = [each.layer for each in self._shown()]
        if chosen not in layers:
            chosen = next((layer for layer in layers if layer in found), layers[0] if layers else None)
        self.choice.offer([(layer.name, layer) for layer in layers], chosen)
        self.check()

    def _on_layers_changed(self, event: Any = None) -> None:
        if self.layers is not None and not self.layers.is_shown:
            self.close_session()
        if self.isVisible():
            self._offer()

    def open(self) -> None:
        """Open the chosen objects with their stored edits, and show them in a layer of their own."""
        layer: Layer | None = self.choice.currentData()
        if layer is None or self.is_running:
            return
        self.close_session()
        try:
            source = source_of_layer(self._viewer, layer, self._shown())
        except SkipsegError as error:
            self.fail(str(error))
            return
        self.start(partial(iter_open_session, source), f"Opening {layer.name}", self._on_opened)

    def _on_opened(self, opened: OpenedObjects) -> None:
        if opened.source.layer not in self._viewer.layers:
            opened.session.close()
            self.show_message(f"'{opened.source.layer.name}' was removed meanwhile.")
            return
        self.opened, self.pending = opened, PendingEdit(opened.session.objects)
        self.doubts.open(opened.session.objects, opened.doubts)
        self.learning.open(opened.session.objects)
        self.doubt = None
        layers = self.layers = ProofreadLayers(self._viewer, opened)
        layers.clicked.connect(self._on_clicked)
        layers.moved.connect(self._on_moved)
        layers.drawn.connect(self._on_drawn)
        layers.scrolled.connect(self._on_scrolled)
        layers.painted.connect(self._on_painted)
        layers.refused.connect(lambda text: self.reason.say(text, FAULT_COLOR))
        tools = {TOOLS[tool].key: partial(self.choose_tool, tool) for tool in TOOLS}
        acts = {EDITOR_ACTIONS[name].key: act for name, act in self._actions().items()}
        layers.bind_keys(tools | acts | {LEARN.key: self.learning.learn, "Escape": self.cancel_gesture})
        self.table.open(opened)
        self.choose_tool("select")
        self.show_message(describe_opened(opened))

    def as_edited(self, shown: ShownObjects) -> ShownObjects:
        """Return objects with their edits if they are open here, else as they are."""
        if self.opened is None or self.layers is None or self.opened.source.layer != shown.layer:
            return shown
        return self.opened.replacing(shown, self.layers.layer, self.table.measure_now())

    def close_session(self) -> None:
        """Release the edits, which are on disk, and remove the layers."""
        opened, layers = self.opened, self.layers
        self.opened = self.layers = self.pending = self.doubt = None
        if layers is not None:
            layers.remove()
        if opened is not None and not opened.session.close():
            self.fail(opened.session.store.fault or "Some edits are not on disk: free some space, and try again.")
        for part in (self.table, self.learning):
            part.open(None)
        self.doubts.open(None, [])
        self.check()

    def release(self) -> None:
        """Write all edits to disk and release them; the widgets may be gone already."""
        if self.opened is not None:
            self.opened.session.close()

    def choose_tool(self, name: ToolName, *_: object) -> None:
        """Take another tool; what was chosen is dropped."""
        if self.pending is None or self.layers is None:
            return
        self.pending.tool = name
        self.tool_buttons[name].setChecked(True)
        self.layers.draw_lines(name in ("merge", "split"))
        self._drop_pending()

    def _drop_pending(self) -> None:
        self.doubt = None
        if self.pending is not None:
            self.pending.clear()
        self._show_pending()

    def cancel_gesture(self) -> None:
        """Drop what is chosen or outlined, put the brush away, and select."""
        self.choose_tool("select")
        self.learning.discard()
        self.reason.say("Nothing is chosen; what was outlined is left as it is.")

    def _on_clicked(self, voxel: Voxel, shift: bool) -> None:
        if self.pending is None or self.opened is None:
            return
        if self.pending.tool == "select":
            self._select(voxel)
        elif self.pending.tool == "grow" and self.opened.session.objects.takes_long_to_grow:
            self._build_tree(partial(self._grow_at, voxel))
        else:
            self._choose(partial(self.pending.click, voxel, shift))

    def _grow_at(self, voxel: Voxel) -> None:
        if self.pending is not None and self.pending.tool == "grow":
            self._choose(partial(self.pending.click, voxel, False))

    def _build_tree(self, then: Callable[[], None]) -> None:
        """Build the hierarchy in which regions grow, with the bar; then go on."""
        opened = self.opened
        if opened is None or self.is_running:
            self.reason.say("Regions grow when the work above has ended: try again then.", FAULT_COLOR)
            return
        work = opened.session.objects.iter_build_tree
        self.start(work, "Building the hierarchy of merges", lambda _: then() if self.opened is opened else None)

    def _on_drawn(self, line: list[Voxel], shift: bool) -> None:
        if self.pending is not None:
            self._choose(partial(self.pending.draw, line))

    def _choose(self, choose: Callable[[], bool]) -> None:
        """Let the tool choose, and do the edit if it is complete; show why it is refused."""
        if self.doubt is not None:
            self._drop_pending()
        try:
            is_complete = choose()
        except EditRefusedError as error:
            self._refuse(error)
            return
        if is_complete:
            self.accept()
        else:
            self._show_pending()

    def _on_moved(self, line: list[Voxel]) -> None:
        if self.pending is not None:
            self.pending.cross(line)
            self._show_pending()

    def _on_scrolled(self, steps: int) -> None:
        if self.pending is not None:
            self.pending.climb(steps)
            self._show_pending()

    def _select(self, voxel: Voxel) -> None:
        """Select the object at a voxel."""
        if self.opened is None or self.layers is None or self.pending is None:
            return
        label = self.pending.selected = self.opened.session.objects.object_at(voxel)
        self._selected = voxel if label else None
        if label:
            self.layers.layer.selected_label = label
            self.table.select_label(label)
        self.check()

    def _show_pending(self) -> None:
        """Outline what would be changed, and say what comes next."""
        pending, layers = self.pending, self.layers
        if pending is None or layers is None:
            return
        layers.takes_wheel = pending.takes_wheel
        text = pending.describe()
        layers.outline_with(pending.shown_sides_at if text else None)
        if self.doubt is not None:
            text = question_about(self.doubt)
        self.reason.say(text)
        self.check()

    def _refuse(self, error: EditRefusedError) -> None:
        if self.pending is not None:
            self.pending.clear()
        self._show_pending()
        self.reason.say(str(error), FAULT_COLOR)

    def accept(self) -> None:
        """Do what is outlined."""
        if self.pending is not None and self.pending.edit is not None:
            was_doubt, is_push = self.doubt is not None, self.pending.is_push
            if self.do(self.pending.edit) and was_doubt:
                self.next_doubt()
            if is_push and self._selected and not self.pending.is_selected(self._selected):
                self._selected = None  # the voxel that was clicked is another object's now, which no key may change

    def confirm(self) -> None:
        """Remember that the decision on show is right, and go to the next one."""
        if self.doubt is not None and self.do(Confirm(self.doubt.at)):
            self.next_doubt()

    def do(self, edit: Edit) -> bool:
        """Do an edit and show it; return whether it made sense."""
        if self.opened is None:
            return False
        try:
            change = self.opened.session.do(edit)
        except EditRefusedError as error:
            self._refuse(error)
            return False
        self._show_change(change, say_what_was_done(edit, self.opened.session.objects))
        return True

    def _show_change(self, change: Change, text: str) -> None:
        self.learning.discard()
        self._drop_pending()
        if self.layers is not None and change.box:
            self.layers.refresh()
        self.table.update_objects(change.objects)
        fault = "" if self.opened is None else self.opened.session.store.fault
        self.reason.say(fault or text, FAULT_COLOR if fault else "transparent")

    def undo(self) -> None:
        """Undo the last edit."""
        if self.opened is not None:
            change = self.opened.session.undo()
            if change is None:
                self.reason.say("There is nothing to undo.")
                return
            self._show_change(change, f"Undone: {change.edit.kind}.")

    def redo(self) -> None:
        """Do again what was undone last."""
        if self.opened is None:
            return
        session = self.opened.session
        if isinstance(session.edit_to_redo, Grow) and session.objects.takes_long_to_grow:
            self._build_tree(self.redo)
            return
        try:
            change = session.redo()
        except EditRefusedError as error:
            self._refuse(error)
            return
        if change is None:
            self.reason.say("There is nothing to do again.")
            return
        self._show_change(change, f"Done again: {change.edit.kind}.")

    def _do_selected(self, make: Callable[[Voxel], Edit]) -> None:
        """Do an edit of the selected object."""
        if self._selected is None or self.opened is None or self.layers is None:
            self.reason.say("Select an object first: press S and click it.", FAULT_COLOR)
        elif (label := self.opened.session.objects.object_at(self._selected)) and not self.layers.shows(label):
            self.reason.say(f"Object {label} is not in view: click its row to go to it.", FAULT_COLOR)
        else:
            self.do(make(self._selected))

    def lock(self) -> None:
        """Lock the selected object, or unlock it."""
        if self.opened is None:
            return
        objects = self.opened.session.objects
        is_locked = self._selected is not None and objects.object_at(self._selected) in objects.locked
        self._do_selected(lambda voxel: Lock((voxel,), not is_locked))

    def next_doubt(self) -> None:
        """Go to the next decision that may be wrong, and outline its sides; one on show that is open is skipped."""
        if self.opened is None or self.pending is None or self.layers is None:
            return
        if self.doubt is not None:
            self.do(SkipDoubt(self.doubt.at))
        doubt = self.doubts.next()
        if doubt is None:
            self._drop_pending()
            self.reason.say(self.doubts.why_none())
            return
        self.pending.propose(doubt)
        self.doubt = doubt
        if doubt.kind == "object?":
            self._select(doubt.at[0])
        self.layers.go_around(doubt.center)
        self._show_pending()

    def _on_learned(self, read: ReadPreview | None) -> None:
        """Outline what a classifier would change."""
        self._drop_pending()
        if self.layers is not None:
            self.layers.outline_with(read)

    def _on_accepted(self, edit: Edit) -> None:
        if self.do(edit):
            self.doubts.forget()

    def paint_new(self) -> None:
        """Take napari's brush with a number that no object has."""
        if self.opened is not None and self.layers is not None and self.layers.brush is not None:
            self._drop_pending()
            self.layers.layer.selected_label = self.opened.session.objects.next_object
            self.layers.layer.mode = "paint"
            self.reason.say("Paint the new object; E erases, S puts the brush away.")

    def carry_between(self) -> None:
        """Outline the chosen object on the slices between those where it is painted; if it is outlined, paint it."""
        if self.opened is None or self.pending is None or self.layers is None:
            return
        if self.pending.is_carried:
            self.accept()
            return
        session, layer = self.opened.session, self.layers.layer
        selected = 0 if self._selected is None else session.objects.object_at(self._selected)
        label = selected if layer.mode == "pan_zoom" and selected else int(layer.selected_label)
        self._choose(partial(self.pending.carry, label, session.changes, bool(layer.preserve_labels)))

    def _on_painted(self, edits: list[Edit]) -> None:
        for edit in edits:
            self.do(edit)
        if self.layers is not None:
            self.layers.refresh()  # a refused edit leaves nothing of the stroke

    def _on_row_chosen(self, row: int) -> None:
        """Go to an object of the table, and select it."""
        if self.opened is None or self.layers is None:
            return
        objects, label = self.opened.session.objects, int(self.table.data.column("label")[row])
        voxel, box = place_of_object(objects, label)
        self._select(voxel)
        self.layers.go_to(voxel, box)

    def save(self) -> None:
        """Ask for a file, and write the edited objects and their measurements."""
        opened = self.opened
        if opened is None or self.is_running or (file := ask_edited_file(self, opened)) is None:
            return
        work = partial(iter_save_edited, opened, self.table.measure_now(), file)
        self.start(work, "Saving", lambda file: self.show_message(f"Saved {file.name} in {file.parent}."))

    def check(self) -> None:
        """Enable what can be done now."""
        super().check()
        opened, running = self.opened, self.is_running
        fault = "" if self.choice.count() else _NOTHING
        self.open_button.setVisible(opened is None and not running)
        self.open_button.setEnabled(not fault)
        self.close_button.setVisible(opened is not None)
        self.choice.setEnabled(opened is None and not running)
        self.editor.setVisible(opened is not None)
        if opened is not None and self.pending is not None:
            self.buttons["undo"].setEnabled(opened.session.can_undo)
            self.buttons["redo"].setEnabled(opened.session.edit_to_redo is not None)
            self.buttons["accept"].setEnabled(self.pending.edit is not None)
            self.buttons["confirm"].setEnabled(self.doubt is not None)
            self.save_button.setEnabled(not running)
            has_graph = opened.session.objects.regions.graph is not None
            self.tool_buttons["grow"].setEnabled(has_graph)
            self.buttons["next"].setEnabled(has_graph)
            self.learning.setVisible(has_graph)
        self.explain(fault)
