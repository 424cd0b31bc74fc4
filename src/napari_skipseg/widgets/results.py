"""Which results and previews of the viewer's images are on show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_skipseg.widgets.layers import Shown, follow, results_in, set_threshold
from napari_skipseg.widgets.preview import SOURCE_OF

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


class Results:
    """What is shown of each image, as long as one of its layers is there."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._shown: dict[str, Shown] = {}

    def keep(self, shown: Shown) -> None:
        """Keep what is shown now in place of an earlier one."""
        self._shown[shown.source] = shown
        self._shown = {source: each for source, each in self._shown.items() if results_in(self._viewer, source)}

    def drop(self, source: str) -> None:
        """Forget what is shown no longer."""
        self._shown.pop(source, None)

    def find(self, layer: Image | None) -> Shown | None:
        """Return the result of an image, None where it was not segmented."""
        return None if layer is None else self._shown.get(str(layer.unique_id))

    def find_whole(self, layer: Image) -> Shown | None:
        """Return the result of an image where it is whole and has a layer."""
        shown = self.find(layer)
        there = shown is not None and shown.is_whole and results_in(self._viewer, shown.source)
        return shown if there else None

    def on_show(self, layer: Image | None) -> tuple[Shown, ...]:
        """Return what there is of an image and has a layer: a preview before the result that it hides."""
        return tuple(shown for shown in reversed(self._all(layer)) if results_in(self._viewer, shown.source))

    def set_threshold(self, layer: Image | None, threshold: float) -> None:
        """Show what there is of an image at another threshold."""
        for shown in self._all(layer):
            set_threshold(self._viewer, shown, threshold)

    def follow(self, layer: Image | None) -> None:
        """Move what there is of an image to where it lies now."""
        for shown in self._all(layer):
            if layer is not None and len(shown.axes) == layer.ndim:
                follow(self._viewer, layer, shown)

    def _all(self, layer: Image | None) -> list[Shown]:
        sources = () if layer is None else (str(layer.unique_id), SOURCE_OF.format(layer.unique_id))
        return [self._shown[source] for source in sources if source in self._shown]
