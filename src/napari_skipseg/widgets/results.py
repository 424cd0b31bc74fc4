"""Which results and previews of the viewer's images are on show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_skipseg.widgets.layers import (
    KEY,
    Shown,
    follow,
    image_of,
    put_in_front,
    results_in,
    set_colors,
    set_threshold,
)
from napari_skipseg.widgets.preview import SOURCE_OF

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


class Results:
    """What is shown of each image, as long as one of its layers is there: of all of it, of single slices, a preview."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._shown: dict[str, Shown] = {}

    def keep(self, shown: Shown) -> None:
        """Keep what is shown now, as the newest, in place of an earlier one of the same source."""
        self._shown.pop(shown.source, None)
        self._shown[shown.source] = shown
        self._shown = {source: each for source, each in self._shown.items() if results_in(self._viewer, source)}

    def drop(self, source: str) -> None:
        """Forget what is shown no longer."""
        self._shown.pop(source, None)

    def get(self, source: str) -> Shown | None:
        """Return what is shown under a source, where it is whole and has a layer."""
        shown = self._shown.get(source)
        there = shown is not None and shown.is_whole and results_in(self._viewer, source)
        return shown if there else None

    def find(self, layer: Image | None) -> Shown | None:
        """Return the result of an image that is meant: the one whose layer is selected, else the newest.

        None where the image was not segmented; a preview is no result.
        """
        if layer is None:
            return None
        preview = SOURCE_OF.format(layer.unique_id)
        results = [shown for shown in self._all(layer) if shown.source != preview]
        active = self._viewer.layers.selection.active
        selected = None if active is None else active.metadata.get(KEY, {}).get("source")
        return next((shown for shown in results if shown.source == selected), results[-1] if results else None)

    def find_whole(self, layer: Image) -> Shown | None:
        """Return the result of all of an image, where it is whole and has a layer."""
        return self.get(str(layer.unique_id))

    def on_show(self, layer: Image | None) -> tuple[Shown, ...]:
        """Return what there is of an image and has a layer, the newest first."""
        return tuple(shown for shown in reversed(self._all(layer)) if results_in(self._viewer, shown.source))

    def put_in_front(self, layer: Image, source: str) -> None:
        """Show one of an image's results, and put the others aside."""
        put_in_front(self._viewer, source, {shown.source for shown in self._all(layer)} - {source})

    def set_threshold(self, layer: Image | None, threshold: float) -> None:
        """Show what there is of an image at another threshold."""
        for shown in self._all(layer):
            set_threshold(self._viewer, shown, threshold)

    def set_colors(self, layer: Image | None, known: Mapping[str, str]) -> None:
        """Show what there is of an image in the colours that its classes have now, by their names."""
        for shown in self._all(layer):
            colored = self._shown[shown.source] = shown.with_colors(known)
            if colored.colors != shown.colors:
                set_colors(self._viewer, colored)

    def follow(self, layer: Image | None) -> None:
        """Move what there is of an image to where it lies now."""
        for shown in self._all(layer):
            if layer is not None and len(shown.axes) == layer.ndim:
                follow(self._viewer, layer, shown)

    def _all(self, layer: Image | None) -> list[Shown]:
        """Return what there is of an image, the newest last."""
        image = "" if layer is None else str(layer.unique_id)
        return [shown for shown in self._shown.values() if image_of(shown.source) == image]
