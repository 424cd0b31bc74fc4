"""Objects that are edited, with their journal: do, undo, redo, and what no longer makes sense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.edits import Edit, EditRefusedError
from napari_skipseg.proofread.regions import Regions
from napari_skipseg.proofread.state import Change, ObjectsUnderEdit
from napari_skipseg.proofread.store import EditStore, JournalledEdit


@dataclass(frozen=True)
class RefusedEdit:
    """An edit that does not make sense for these objects, and why. number: its place in the list of edits, from 1."""

    number: int
    edit: Edit
    reason: str


def apply_edits(objects: ObjectsUnderEdit, edits: Iterable[Edit]) -> tuple[list[Change], list[RefusedEdit]]:
    """Apply edits in their order; those that do not make sense are left out and returned with a reason."""
    changes, refused = [], []
    for number, edit in enumerate(edits, start=1):
        try:
            changes.append(apply_edit(objects, edit))
        except EditRefusedError as error:
            refused.append(RefusedEdit(number, edit, str(error)))
    return changes, refused


class EditSession:
    """Objects and their journal. refused: stored edits that make no sense for the objects as they were found now.

    Refused edits stay in the journal: they are tried again when the objects are found with other options.
    """

    def __init__(self, regions: Regions, store: EditStore) -> None:
        """Apply all stored edits to the objects that were found."""
        self.objects, self.store = ObjectsUnderEdit(regions), store
        self.refused: list[RefusedEdit] = []
        self._done: list[tuple[JournalledEdit, Change]] = []
        for number, each in enumerate(store.done, start=1):
            try:
                self._done.append((each, apply_edit(self.objects, each.edit)))
            except EditRefusedError as error:
                self.refused.append(RefusedEdit(number, each.edit, str(error)))

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to undo."""
        return bool(self._done)

    @property
    def edit_to_redo(self) -> Edit | None:
        """The edit that was undone last, None if there is none."""
        return self.store.undone[-1].edit if self.store.undone else None

    @property
    def changes(self) -> list[Change]:
        """What the edits that count have changed, in their order."""
        return [change for _, change in self._done]

    def do(self, edit: Edit) -> Change:
        """Apply an edit, and write it to the journal.

        Raises:
            EditRefusedError: the edit does not make sense; nothing changed.
        """
        change = apply_edit(self.objects, edit)
        self._done.append((self.store.add(edit), change))
        return change

    def undo(self) -> Change | None:
        """Undo the last edit, and return what it had changed; None if there is none."""
        if not self._done:
            return None
        journalled, change = self._done.pop()
        self.objects.undo(change)
        self.store.undo(journalled)
        return change

    def redo(self) -> Change | None:
        """Do the edit again that was undone last, and return what it changed; None if there is none.

        Raises:
            EditRefusedError: it does not make sense for these objects.
        """
        if not self.store.undone:
            return None
        journalled = self.store.undone[-1]
        change = apply_edit(self.objects, journalled.edit)
        self.store.redo(journalled)
        self._done.append((journalled, change))
        return change

    def close(self) -> bool:
        """Release the journal; return whether all edits are on disk."""
        return self.store.close()
