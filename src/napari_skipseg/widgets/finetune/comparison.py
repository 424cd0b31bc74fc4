"""The comparison of a new model with the one it started from: scores, their results in the view, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QPushButton, QSizePolicy, QWidget

from napari_skipseg.images.stack import ArrayLike, LazyArray
from napari_skipseg.images.views import CutArray
from napari_skipseg.inference.prediction import Threshold
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.training.progress import EVEN, ComparisonReport, ScoreRow
from napari_skipseg.widgets.forms.fields import WARNING_COLOR, MessageLine, RichLabel, fill_column, make_row, set_hint
from napari_skipseg.widgets.layers.placement import visible_box
from napari_skipseg.widgets.layers.results import (
    ShownResult,
    common_box,
    remove_results,
    results_in,
    segmented_in,
    show_derived_labels,
    show_result,
)
from napari_skipseg.wording import percent

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer


GAINED, LOST = 1, 2
CHANGE_COLORS = {"blue": "#4c9be8", "orange": "#f28e2b"}
"""Of what is gained and of what is lost: a pair that colour-blind people can distinguish."""
CHANGED_OF = "{} changed"
"""The source of the layer of changes, made of the source of the image."""
SEGMENTS_FIRST = "{} segments this view first."
NOTHING_TO_COMPARE = (
    "The results of the two models do not show the same part of the image: wait until the view is segmented, or "
    "segment it again."
)


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
    common = common_box(before.box, after.box)
    if before.axes != after.axes or common is None:
        return None
    labels = []
    for shown, threshold in ((before, was), (after, now)):
        sides = enumerate(zip(common, shown.box, strict=True))
        part = {number: slice(side.start - own.start, side.stop - own.start) for number, (side, own) in sides}
        labels.append(CutArray(shown.labels(threshold), part))
    axes = [axis for axis, letter in enumerate(after.axes) if letter != "C"]
    pairs = [(_value_of(before, name), _value_of(after, name)) for name in classes]
    return ChangedLabels(labels[0], labels[1], pairs), dict(zip(axes, (side.start for side in common), strict=True))


def _value_of(shown: ShownResult, name: str) -> int:
    """Return the value of a class in the labels of a result, 0 if it is not known there."""
    names = shown.prediction.class_names
    return 1 + names.index(name) if name in names else 0


class ChangesTick(QWidget):  # type: ignore[misc]
    """A tick that shows the layer of changes, and what its colours mean. toggled: the tick has changed."""

    toggled = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.tick, self.legend = QCheckBox("Show what changed"), MessageLine()
        set_hint(self.tick, "Show in a layer which pixels the taught classes gained and lost")
        self.tick.toggled.connect(self.toggled)
        fill_column(self, self.tick, self.legend)
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
        *,
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
        # the shares of what is on screen: of a large image nothing else is read
        box = visible_box(self._viewer, layer)
        inside = tuple(
            slice(max(0, box[axis][0] - start), max(0, box[axis][1] + 1 - start)) for axis, start in starts.items()
        )
        values = np.asarray(changed[inside])
        shares = np.bincount(values.ravel(), minlength=3) / max(1, values.size)
        gained, lost = percent(float(shares[GAINED])), percent(float(shares[LOST]))
        blue, orange = CHANGE_COLORS
        return (
            f"{blue.capitalize()}: gained, {gained} of this view. {orange.capitalize()}: lost, {lost} "
            f"({', '.join(classes)})."
        )

    def drop(self) -> None:
        """Remove the layer."""
        source, self._source = self._source, ""
        if source:
            remove_results(self._viewer, source)


GOOD_COLOR = "rgba(46, 170, 110, 90)"
BETTER, WORSE = "#3ecf8e", "#ff8a5c"
_LONGEST_NAME = 24
"""Characters of a model's name on a button."""
_CORRECTIONS = "held-out corrections"
LOWER_IS_BETTER = ("FPR", "FNR")
MEANINGS = {
    "Dice": "overlap of prediction and corrections: 1 = the same",
    "precision": "share of what is marked in the image that is right: 1 = all",
    "FPR": "share of the background that is taken for the class: 0 = none",
    "FNR": "share of the class that is missed: 0 = none",
    "V_rand": "how well the cells are separated (ISBI 2012): 1 = as in the truth",
    "(low–high)": "what so few strokes leave open: the score may lie anywhere between them",
    "none": "the old model does not know the class, so the new one is compared with nothing found (Dice 0)",
}


class ReportTable(QWidget):  # type: ignore[misc]
    """The scores, the verdict, and buttons for the new model.

    used: the user wants the new model although it is not better. compared: True = show before in place of after.
    classes: the names of those that were taught.
    """

    used = Signal()
    compared = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.table, self.verdict, self.shares = RichLabel(), MessageLine(), MessageLine()
        self.table.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.table.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.table.setWordWrap(True)
        self._models = "", ""
        self.classes: tuple[str, ...] = ()
        self.use_button, self.before_button = QPushButton("Use it"), QPushButton("Show before")
        self.use_button.setToolTip("Select the new model in the Segment tab, and segment the view with it")
        self.before_button.setCheckable(True)
        self.use_button.clicked.connect(self.used)
        self.before_button.toggled.connect(self._name_button)
        self.before_button.toggled.connect(self.compared)
        self.changes = ChangesTick()
        buttons = make_row(self.use_button, self.before_button, stretches=(0, 0))
        fill_column(self, self.verdict, self.shares, self.table, buttons, self.changes, spacing=6)
        self.hide()

    def show_report(self, report: ComparisonReport, old: str, new: str) -> None:
        """Show a report. old, new: the names of the models that it compares."""
        self.verdict.say(report.reason, GOOD_COLOR if report.is_better else WARNING_COLOR)
        self.table.setText(report_html(report, old, new))
        self.table.setToolTip("\n".join(f"{score}: {text}" for score, text in MEANINGS.items()))
        self.table.setVisible(bool(report.rows))
        self.use_button.setVisible(not report.is_better)
        self.shares.say("")
        self.classes = tuple(dict.fromkeys(row.class_name for row in report.rows if row.on == _CORRECTIONS))
        self.offer_before("", "")
        self.show()

    def show_shares(self, shares: Mapping[str, float], thresholds: Mapping[str, float]) -> None:
        """Show the share of each class that was taught, which scores on strokes do not show.

        shares: of the pixels of the view, in [0, 1], by class.
        """
        parts = [
            f"{percent(shares[name])} is {name} (above {thresholds.get(name, DEFAULT_THRESHOLD):.2f})"
            for name in self.classes
            if name in shares
        ]
        self.shares.say(f"Of this view, {' and '.join(parts)} now." if parts else "")

    def offer_before(self, before: str, after: str) -> None:
        """Offer the switch between the results of two models in the view; it starts with after.

        before: the model that the table calls old, "" if it has no result in the view.
        """
        self._models = before, after
        self.show_after()
        self._name_button(False)
        self.before_button.setVisible(bool(before))
        self.changes.offer(bool(before))

    def keep_before(self, is_there: bool) -> None:
        """Hide the switch if the result of before was removed."""
        if not is_there and not self.before_button.isHidden():
            self.offer_before("", "")

    def show_after(self) -> None:
        """Show after, until the user presses the button again."""
        self.before_button.setChecked(False)

    def _name_button(self, before: bool) -> None:
        """Name the model whose result a click shows."""
        old, new = self._models
        title, name = ("Show after", new) if before else ("Show before", old)
        self.before_button.setText(f"{title}: {shortened(name)}" if name else title)
        set_hint(self.before_button, f"Switch between the results of {old} (before) and {new} (after) in this view")


def shortened(name: str) -> str:
    """Return a name that fits on a button."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def report_html(report: ComparisonReport, old: str, new: str) -> str:
    """Return the scores as a table: the names of the models, a heading for each set of labels that was scored on, and
    a row for each class and score."""
    models = f"old: <b>{escape(old)}</b>, new: <b>{escape(new)}</b>"
    rows = [
        f"<tr><td colspan='5' style='padding-bottom: 4px'>{models}</td></tr>",
        "<tr><td></td><td></td><td align='right' style='padding: 1px 8px'>old</td>"
        "<td align='right' style='padding: 1px 4px'>new</td><td></td></tr>",
    ]
    for heading, group in groupby(report.rows, key=lambda row: row.on):
        rows.append(f"<tr><td colspan='5' style='padding-top: 5px'><b>On {escape(heading)}</b></td></tr>")
        last_class = ""
        for row in group:
            name = "" if row.class_name == last_class else escape(row.class_name)
            last_class = row.class_name
            before = "none" if row.old is None else f"{row.old:.3f}"
            limits = "" if row.limits is None else f" ({row.limits[0]:.2f}–{row.limits[1]:.2f})"
            color, arrow = _mark_of_change(row)
            rows.append(
                f"<tr><td>{name}</td><td style='padding-left: 6px'>{escape(row.score)}</td>"
                f"<td align='right' style='padding: 1px 8px'>{before}</td>"
                f"<td align='right' style='padding: 1px 4px'><b>{row.new:.3f}</b>{limits}</td>"
                f"<td style='color: {color}'>{arrow}</td></tr>"
            )
    return f"<table cellspacing='0' width='100%'>{''.join(rows)}</table>"


def _mark_of_change(row: ScoreRow) -> tuple[str, str]:
    """Return the colour of a change, good or bad, and its arrow, up or down."""
    if row.old is None or abs(row.new - row.old) < EVEN or f"{row.old:.3f}" == f"{row.new:.3f}":
        return "gray", ""
    is_up = row.new > row.old
    is_better = is_up != (row.score in LOWER_IS_BETTER)
    return BETTER if is_better else WORSE, "▲" if is_up else "▼"


BEFORE = "before "
BEFORE_OF = "{} before"


def find_before(
    viewer: ViewerModel, layer: Image | None, offers: Sequence[ShownResult], model: str
) -> ShownResult | None:
    """Return the first result of `model` on show that covers the middle of the view, None if there is none."""
    if layer is None or layer not in viewer.layers:
        return None
    middle = [(low + high) // 2 for low, high in visible_box(viewer, layer)]

    def covers_middle(shown: ShownResult) -> bool:
        if len(shown.axes) != len(middle):
            return False
        inside = [at for at, letter in zip(middle, shown.axes, strict=True) if letter != "C"]
        return all(side.start <= at < side.stop for at, side in zip(inside, shown.box, strict=True))

    return next((shown for shown in offers if _model_of(shown) == model and covers_middle(shown)), None)


def _model_of(shown: ShownResult) -> str:
    return Path(str(shown.prediction.recipe.get("model", ""))).name


class BeforeAfter:
    """The layers of before, hidden at first. Those of after are all other results of the same image.

    before: the result of before with its thresholds, None if there is none.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._source = ""
        self._hidden: list[Layer] = []
        self.before: tuple[ShownResult, Threshold] | None = None

    @property
    def is_there(self) -> bool:
        """Whether there are layers of before."""
        return bool(self._before())

    def keep(self, layer: Image, shown: ShownResult | None, threshold: Threshold) -> str:
        """Keep a result as before, in place of an earlier one; return the name of its model, "" without a result."""
        self.drop()
        if shown is None or layer not in self._viewer.layers:
            return ""
        self._source = str(layer.unique_id)
        prediction = replace(shown.prediction, attentions=(), uncertainty=None)
        before = replace(shown, prediction=prediction, source=BEFORE_OF.format(self._source), prefix=BEFORE)
        show_result(self._viewer, layer, before, threshold)
        self.before = before, threshold
        for each in self._before():
            each.visible = False
        return _model_of(shown) or "the old model"

    def compare(self, before: bool) -> None:
        """Show before in place of after, or the layers of after that were visible in place of before."""
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
        """Remove the layers of before."""
        if self._source:
            remove_results(self._viewer, BEFORE_OF.format(self._source))
        self._source, self._hidden, self.before = "", [], None
