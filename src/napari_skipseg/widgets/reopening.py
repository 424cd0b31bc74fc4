"""Earlier corrections: offered for the image that is chosen, and brought back with their image after a breakdown."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

from napari_skipseg.corrections.catalog import Found, find_corrections
from napari_skipseg.errors import SkipsegError
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.axes import axes_of
from napari_skipseg.widgets.checks import Choices
from napari_skipseg.widgets.files import open_image
from napari_skipseg.widgets.offers import changed_text, restore_text
from napari_skipseg.widgets.popups import pop_up
from napari_skipseg.widgets.work import Outcome, first_line, start_work

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_skipseg.widgets.correct import CorrectTab


LOST = "napari ended while you painted: restore the corrections in the Correct tab."


class Reopening:
    """What the Correct tab offers.

    It opens the file of corrections that were left behind, and goes on with them when one of its layers is known.
    """

    def __init__(self, viewer: ViewerModel, tab: CorrectTab) -> None:
        self._viewer, self._tab = viewer, tab
        self._key = ""
        self._opened: list[Image] = []

    def offer(self, choices: Choices, fault: str) -> None:
        """Offer what there is of the image from earlier, where it can be corrected and is not yet."""
        tab, layer = self._tab, choices.layer
        known = None if layer is None or fault else tab.identities.find(layer, choices.axes)
        if known is None or tab.session is not None:
            tab.offers.withdraw()
        elif known.found is not None and not known.found.is_empty and not known.found.is_open:
            tab.offers.settle(known.key)
            tab.offers.offer_for_image(known.key, restore_text(known.found, known.amount), "Restore", tab.correct)
        elif known.before is not None and not known.before.is_empty:
            tab.offers.offer_for_image(known.key, changed_text(known.before), "", None)
        else:
            tab.offers.withdraw()

    def find_interrupted(self) -> None:
        """Offer what a napari left behind that did not end as it should, once it is found."""

        def offer(outcome: Outcome) -> None:
            lost: tuple[Found, ...] = outcome.value or ()
            for found in lost:
                self._tab.offers.offer_interrupted(found, partial(self.open, found))
            if lost:
                pop_up(LOST)

        name = "Looking for corrections"
        start_work(self._tab, iter_find_interrupted, name, lambda _: None, offer, lambda: None, is_quiet=True)

    def open(self, found: Found) -> None:
        """Open the image that was being corrected."""
        from napari.layers import Image

        name = found.subject.file
        try:
            layers = open_image(self._viewer, name)
        except (OSError, ValueError, RuntimeError, SkipsegError) as error:
            self._tab.complain(f"'{name}' cannot be opened: open the image from where it is now. ({first_line(error)})")
            return
        self._key, self._opened = found.subject.key, [layer for layer in layers if isinstance(layer, Image)]
        self.follow_identity()

    def follow_identity(self) -> None:
        """Go on with the corrections once the layer that they are of is known."""
        if not self._key:
            return
        there = [layer for layer in self._opened if layer in self._viewer.layers]
        known = [(layer, self._tab.identities.find(layer, axes_of(layer))) for layer in there]
        mine = [layer for layer, each in known if each is not None and each.key == self._key]
        if mine:
            self._key = ""
            choose_image(self._tab, mine[0])
            self._tab.correct()
        elif all(each is not None for _, each in known):
            self._key = ""
            self._tab.complain("This file now holds a different image. The corrections are kept, and can be exported.")


def choose_image(tab: CorrectTab, layer: Image) -> None:
    """Choose an image in the Segment tab."""
    combo = tab.segment_tab.form.image
    for number in range(combo.count()):
        if combo.itemData(number) is layer:
            combo.setCurrentIndex(number)
            combo.activated.emit(number)


def iter_find_interrupted() -> Generator[Progress, None, tuple[Found, ...]]:
    """Return the corrections that a napari left behind which did not end as it should."""
    yield Progress(0, 1, "looking for corrections")
    return tuple(each for each in find_corrections() if each.was_interrupted and not each.is_open and not each.is_empty)
