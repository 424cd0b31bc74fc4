"""A row of a batch in the viewer: the image, and over it what the batch made of it."""

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
    """Yield file by file; return the layers of a row's results and, unless that is open already, of its image.

    Raises:
        FileError: a file cannot be read.
        InputError: it holds no image.
    """
    kinds = {file: result_kind(file) for file in row.outputs}
    shown = sorted((file for file in row.outputs if kinds[file]), key=lambda file: list(LOOKS).index(kinds[file]))
    read: OpenedResults = []
    for number, file in enumerate([row.file, *shown] if with_image else shown):
        yield Progress(number, len(shown) + 1, f"reading {Path(file).name}")
        layers: list[LayerData] = []
        for data, arguments, kind in read_layers(file):
            is_hidden = file != row.file and _is_hidden(kinds[file], "objects" in kinds.values())
            layers.append((data, {**arguments, "visible": False} if is_hidden else arguments, kind))
        read.append((file, layers))
    return read


def _is_hidden(kind: str, has_objects: bool) -> bool:
    """Return whether a result is only called up to read it, or lies below objects that show the same."""
    return kind in ("attention", "uncertainty") or (kind == "binary" and has_objects)


class OpenedRows:
    """Which rows are in the viewer. What was opened before is hidden, not removed: someone may have painted on it."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._shown: dict[str, tuple[BatchRow, dict[Layer, bool]]] = {}

    def bring_back(self, row: BatchRow) -> bool:
        """Show a row again where all its layers are there and its results are the same; return whether they were."""
        known, layers = self._shown.get(row.relative, (None, {}))
        if known is None or known.outputs != row.outputs or not all(layer in self._viewer.layers for layer in layers):
            return False
        self._put_in_front(layers)
        return True

    def images(self, row: BatchRow) -> list[Layer]:
        """Return the layers that show a row's image already, whoever opened them."""
        opened = [(layer, opened_from(layer)) for layer in self._viewer.layers]
        return [layer for layer, file in opened if file and Path(file) == Path(row.file)]

    def show(self, row: BatchRow, read: OpenedResults) -> None:
        """Add the layers of a row, over its image where that is open already."""
        for layer in self._shown.pop(row.relative, (row, {}))[1]:
            layer.visible = False
        layers = dict.fromkeys(self.images(row), True)
        for file, found in read:
            layers |= {layer: bool(layer.visible) for layer in add_layers(self._viewer, found, file)}
        self._shown[row.relative] = (row, layers)
        self._put_in_front(layers)

    def _put_in_front(self, layers: dict[Layer, bool]) -> None:
        """Show these layers as they were when they were new, and frame them; all others are hidden, not removed."""
        for layer in self._viewer.layers:
            layer.visible = layers.get(layer, False)
        stack = self._viewer.layers
        for layer in layers:
            stack.move(stack.index(layer), len(stack))
        first = next(iter(layers))
        self._viewer.layers.selection.active = first
        frame(self._viewer, first)
