"""What the old model made of an image, kept beside what the new one makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_skipseg.widgets.layers import Shown, remove_results, results_in, segmented_in, show
from napari_skipseg.widgets.placement import visible_box

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

BEFORE = "before "
BEFORE_OF = "{} before"


def find_before(viewer: ViewerModel, layer: Image | None, offers: Sequence[Shown]) -> Shown | None:
    """Return the first of what is shown of an image that reaches into the middle of the view, None where none does."""
    if layer is None:
        return None
    middle = [(low + high) // 2 for low, high in visible_box(viewer, layer)]
    return next((shown for shown in offers if _reaches(shown, middle)), None)


def _reaches(shown: Shown, place: Sequence[int]) -> bool:
    axes = [axis for axis, letter in enumerate(shown.axes) if letter != "C"]
    lengths = shown.prediction.probability.shape[-len(axes) :]
    starts = [shown.positions.get(axis, 0) for axis in axes]
    return len(shown.axes) == len(place) and all(
        start <= place[axis] < start + length for axis, start, length in zip(axes, starts, lengths, strict=True)
    )


class BeforeAfter:
    """The layers of before, hidden until they are wanted; those of after are all other results of the same image."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._source = ""
        self._hidden: list[Layer] = []

    @property
    def is_there(self) -> bool:
        """Whether there is anything of before to show."""
        return bool(self._before())

    def keep(self, layer: Image, shown: Shown | None, threshold: float) -> str:
        """Keep what is shown of an image as before, in place of an earlier one; return the name of the model that made
        it, "" where there is nothing."""
        self.drop()
        if shown is None or layer not in self._viewer.layers:
            return ""
        self._source = str(layer.unique_id)
        prediction = replace(shown.prediction, attentions=(), uncertainty=None)
        before = replace(shown, prediction=prediction, source=BEFORE_OF.format(self._source), prefix=BEFORE)
        show(self._viewer, layer, before, threshold)
        for each in self._before():
            each.visible = False
        return Path(str(shown.prediction.recipe.get("model", ""))).name or "the old model"

    def compare(self, before: bool) -> None:
        """Show before in place of after, or the other way round: of after what was on show."""
        for each in self._before():
            each.visible = before
        if before:
            self._hidden = [each for each in segmented_in(self._viewer, self._source) if each.visible]
        for each in self._hidden:
            each.visible = not before
        if not before:
            self._hidden = []

    def _before(self) -> list[Layer]:
        return results_in(self._viewer, BEFORE_OF.format(self._source))

    def drop(self) -> None:
        """Remove what was kept."""
        if self._source:
            remove_results(self._viewer, BEFORE_OF.format(self._source))
        self._source, self._hidden = "", []
