"""What a fine-tuning changed in the view: a layer of the voxels that the taught classes gained and lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_skipseg.images.stack import ArrayLike, LazyArray
from napari_skipseg.images.views import CutArray
from napari_skipseg.inference.prediction import Binary, Threshold
from napari_skipseg.widgets.forms.fields import MessageLine, set_hint
from napari_skipseg.widgets.layers.placement import visible_box
from napari_skipseg.widgets.layers.results import ShownResult, remove_results, results_in, show_derived_labels
from napari_skipseg.wording import percent

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

GAINED, LOST = 1, 2
CHANGE_COLORS = {"blue": "#4c9be8", "orange": "#f28e2b"}
"""Of what is gained and of what is lost: a pair that colour-blind people can distinguish."""
CHANGED_OF = "{} changed"
"""The source of the layer of changes, made of the source of the image."""
NOTHING_TO_COMPARE = "The results of the two models do not show the same part of the image: segment the view again."


class ChangedLabels(LazyArray):
    """Which voxels some classes gained (1) and lost (2) between two labels, computed where they are looked at.

    A voxel that went from one of the classes to another one is gained. pairs: of each class its values before and
    after; 0 before = not known then.

    Shape: that of `before` and `after`, uint8.
    """

    def __init__(self, before: ArrayLike, after: ArrayLike, pairs: Sequence[tuple[int, int]]) -> None:
        self._before, self._after = before, after
        self._tables = np.zeros((2, 256), np.uint8)
        for number, values in enumerate(pairs, start=1):
            for table, value in zip(self._tables, values, strict=True):
                if value:
                    table[value] = number
        self.shape, self.dtype = tuple(after.shape), np.dtype(np.uint8)

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        old = self._tables[0][np.asarray(self._before[index])]
        new = self._tables[1][np.asarray(self._after[index])]
        changed: NDArray[np.uint8] = np.where(old == new, 0, np.where(new > 0, GAINED, LOST)).astype(np.uint8)
        return changed


def compare_results(
    before: ShownResult, was: Threshold, after: ShownResult, now: Threshold, classes: Sequence[str]
) -> tuple[ChangedLabels, dict[int, int]] | None:
    """Return what changed where both results of an image lie, and where that begins (axis number -> position).

    None if they have no part in common. was, now: the thresholds of both. classes: names of those that were taught.
    """
    if before.axes != after.axes:
        return None
    axes = [axis for axis, letter in enumerate(after.axes) if letter != "C"]
    parts: tuple[dict[int, slice], dict[int, slice]] = ({}, {})
    starts: dict[int, int] = {}
    shapes = [shown.prediction.probability.shape[-len(axes) :] for shown in (before, after)]
    for number, axis in enumerate(axes):
        begins = [shown.positions.get(axis, 0) for shown in (before, after)]
        low = max(begins)
        high = min(begin + shape[number] for begin, shape in zip(begins, shapes, strict=True))
        if high <= low:
            return None
        starts[axis] = low
        for part, begin in zip(parts, begins, strict=True):
            part[number] = slice(low - begin, high - begin)
    old, new = (
        CutArray(_labels_of(*each), part) for each, part in zip(((before, was), (after, now)), parts, strict=True)
    )
    pairs = [(_value_of(before, name), _value_of(after, name)) for name in classes]
    return ChangedLabels(old, new, pairs), starts


def _value_of(shown: ShownResult, name: str) -> int:
    """Return the value of a class in the labels of a result, 0 if it is not known there."""
    names = shown.prediction.class_names
    return 1 + names.index(name) if name in names else 0


def _labels_of(shown: ShownResult, threshold: Threshold) -> Binary:
    prediction = shown.prediction
    return Binary(prediction.probability, prediction.thresholds_at(threshold), len(prediction.class_names) > 1)


class ChangesTick(QWidget):  # type: ignore[misc]
    """A tick that shows the layer of changes, and what its colours mean. toggled: the tick has changed."""

    toggled = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.tick, self.legend = QCheckBox("Show what changed"), MessageLine()
        set_hint(self.tick, "Show in a layer which pixels the taught classes gained and lost")
        self.tick.toggled.connect(self.toggled)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.tick)
        column.addWidget(self.legend)
        self.offer(False)

    def offer(self, is_there: bool) -> None:
        """Offer the tick, which is off at first, or hide it."""
        self.tick.setChecked(False)
        self.legend.say("")
        self.setVisible(is_there)


class ChangesLayer:
    """The layer of changes over an image; there is one at most."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._source = ""

    @property
    def was_removed(self) -> bool:
        """Whether the user removed the layer."""
        return bool(self._source) and not results_in(self._viewer, self._source)

    def show(
        self,
        layer: Image,
        before: ShownResult,
        was: Threshold,
        after: ShownResult,
        now: Threshold,
        classes: Sequence[str],
    ) -> str:
        """Show what changed between two results of an image; return the legend with the shares of the view."""
        self.drop()
        found = compare_results(before, was, after, now, classes)
        if found is None:
            return NOTHING_TO_COMPARE
        changed, starts = found
        self._source = CHANGED_OF.format(layer.unique_id)
        place = replace(after, positions=starts, source=self._source, prefix="")
        show_derived_labels(self._viewer, layer, place, changed, role="changed", colors=tuple(CHANGE_COLORS.values()))
        gained, lost = (percent(share) for share in self._shares(layer, changed, starts))
        blue, orange = CHANGE_COLORS
        return (
            f"{blue.capitalize()}: gained, {gained} of this view. {orange.capitalize()}: lost, {lost} "
            f"({', '.join(classes)})."
        )

    def _shares(self, layer: Image, changed: ChangedLabels, starts: dict[int, int]) -> tuple[float, float]:
        """Return the shares of what is on screen that were gained and lost; of a large image nothing else is read."""
        box: Any = visible_box(self._viewer, layer)
        inside = tuple(
            slice(max(0, box[axis][0] - start), max(0, box[axis][1] + 1 - start)) for axis, start in starts.items()
        )
        values = np.asarray(changed[inside])
        counts = np.bincount(values.ravel(), minlength=3) / max(1, values.size)
        return float(counts[GAINED]), float(counts[LOST])

    def drop(self) -> None:
        """Remove the layer."""
        source, self._source = self._source, ""
        if source:
            remove_results(self._viewer, source)
