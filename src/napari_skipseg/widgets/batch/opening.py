"""A row of a batch in the viewer: the image with its results on top."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from napari_skipseg.batch.table import BatchRow
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.layers.files import LayerData, add_layers, opened_from, read_layers
from napari_skipseg.widgets.layers.kept_view import frame
from napari_skipseg.widgets.layers.result_looks import LOOKS, result_kind

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

OpenedResults = list[tuple[str, list[LayerData]]]
"""Files, and the layers in each, from the bottom up."""


def iter_read_results(row: BatchRow, with_image: bool = True) -> Generator[Progress, None, OpenedResults]:
    """Yield file by file; return the layers of a row's results, and of its image unless that is open already.

    Raises:
        FileError: a file cannot be read.
        InputError: a file contains no image.
    """
    kinds = {file: result_kind(file) for file in row.outputs}
    shown = sorted((file for file in row.outputs if kinds[file]), key=lambda file: list(LOOKS).index(kinds[file]))
    read: OpenedResults = []
    for number, file in enumerate([row.file, *shown] if with_image else shown):
        yield Progress(number, len(shown) + 1, f"reading {Path(file).name}")
        layers: list[LayerData] = []
        for data, arguments, kind in read_layers(file):
            # maps are shown on demand, and objects show what the binary layer shows
            hidden = {"attention", "uncertainty", *(["binary"] if "objects" in kinds.values() else [])}
            is_hidden = file != row.file and kinds[file] in hidden
            layers.append((data, {**arguments, "visible": False} if is_hidden else arguments, kind))
        read.append((file, layers))
    return read


class OpenedRows:
    """The rows that are in the viewer. Layers of other rows are hidden, not removed: they may hold new strokes."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._shown: dict[str, tuple[BatchRow, dict[Layer, bool]]] = {}

    def show_again(self, row: BatchRow) -> bool:
        """Show a row that was opened before; return False if its results changed or a layer was removed."""
        known, layers = self._shown.get(row.relative, (None, {}))
        if known is None or known.outputs != row.outputs or not all(layer in self._viewer.layers for layer in layers):
            return False
        self._put_in_front(layers)
        return True

    def images(self, row: BatchRow) -> list[Layer]:
        """Return the layers that show a row's image already, no matter how they were opened."""
        opened = [(layer, opened_from(layer)) for layer in self._viewer.layers]
        return [layer for layer, file in opened if file and Path(file) == Path(row.file)]

    def show(self, row: BatchRow, read: OpenedResults) -> None:
        """Add the layers of a row, above its image if that is open already."""
        for layer in self._shown.pop(row.relative, (row, {}))[1]:
            layer.visible = False
        layers = dict.fromkeys(self.images(row), True)
        for file, found in read:
            layers |= {layer: bool(layer.visible) for layer in add_layers(self._viewer, found, file)}
        self._shown[row.relative] = (row, layers)
        self._put_in_front(layers)

    def _put_in_front(self, layers: dict[Layer, bool]) -> None:
        """Show these layers as they were when they were added, fit the view to them, and hide all others."""
        for layer in self._viewer.layers:
            layer.visible = layers.get(layer, False)
        stack = self._viewer.layers
        for layer in layers:
            stack.move(stack.index(layer), len(stack))
        first = next(iter(layers))
        self._viewer.layers.selection.active = first
        frame(self._viewer, first)
