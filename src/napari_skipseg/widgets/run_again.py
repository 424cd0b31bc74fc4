"""Run again: what the recipe of the selected layer says, with the same settings and model, on the same image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QPushButton

from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.inference import recipe_objects
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.recipe import OPERATION, Recipe, chosen_of, differences, recipe_from_dict
from napari_skipseg.inference.recipe_sources import find_model
from napari_skipseg.widgets.files import open_image, opened_from
from napari_skipseg.widgets.form import SegmentForm
from napari_skipseg.widgets.layers import KEY, data_of, image_of, is_ours
from napari_skipseg.widgets.preview import SOURCE_OF
from napari_skipseg.widgets.work import first_line

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_skipseg.widgets.segment import SegmentTab

HINT = "Repeat what the recipe of the selected layer describes: the same image, model and settings, or objects"
OBJECTS_FOLLOW = "The Objects tab finds its objects too."
PLACE = "The recipe of the selected layer"


class Asked(NamedTuple):
    """How to segment: the options, and what is pinned of the choices that a run makes, as in `iter_prepare`."""

    options: SegmentOptions
    pinned: dict[str, int | str] | None = None


class AgainButton(QPushButton):  # type: ignore[misc]
    """Shown while the selected layer bears a recipe; fills the form with what that says, and starts.

    objects_wanted: what was segmented again had its objects found, as its `SegmentRequest` says. search_wanted: the
    recipe is one of objects, which the Objects tab repeats.
    """

    objects_wanted = Signal(object)
    search_wanted = Signal()

    def __init__(self, tab: SegmentTab, viewer: ViewerModel) -> None:
        super().__init__("Run again")
        self.setToolTip(HINT)
        self._tab, self._viewer = tab, viewer
        self._repeated: Recipe | None = None
        self.clicked.connect(self.run)
        tab.finished.connect(self._tell)
        tab.form.links.tie(viewer.layers.selection.events.active, self.follow)

    def follow(self, event: Any = None) -> None:
        """Be there where there is a recipe, and on where nothing runs."""
        self.setVisible(bool(self._told()))
        self.setEnabled(not self._tab.is_running)

    def run(self) -> None:
        """Segment again; what is in the way is told in one sentence."""
        if self._told().get("operation") == recipe_objects.OPERATION:
            self.search_wanted.emit()
            return
        try:
            recipe = recipe_from_dict(self._told(), PLACE)
            model = find_model(recipe)
            layer = self._find_image(recipe)
        except SkipsegError as error:
            self._tab.fail(str(error))
            return
        fill_form(self._tab.form, recipe, layer, model.name)
        self._tab.segment_as(Asked(recipe.request.options, self._pinned(recipe)))
        self._repeated = recipe if self._tab.is_running else None

    def _pinned(self, recipe: Recipe) -> dict[str, int | str] | None:
        """Return what is taken again of a recipe's choices, None where its device is not here."""
        device = self._tab.form.device
        if recipe.device not in [device.itemData(number) for number in range(device.count())]:
            return None
        return chosen_of(recipe)

    def _told(self) -> Mapping[str, Any]:
        """Return the recipe of the selected layer, empty where it has none, or is a look ahead."""
        active = self._viewer.layers.selection.active
        told = {} if active is None else active.metadata.get(KEY, {})
        recipe = told.get("recipe") or {}
        is_preview = str(told.get("source", "")).endswith(SOURCE_OF.format(""))
        return recipe if recipe.get("operation") in (OPERATION, recipe_objects.OPERATION) and not is_preview else {}

    def _find_image(self, recipe: Recipe) -> Image:
        """Return the layer of the image that a recipe is of; it is opened where it lies in a file.

        Raises:
            InputError: it is neither open nor in a file.
        """
        source = image_of(str(self._viewer.layers.selection.active.metadata[KEY].get("source", "")))
        told = recipe.inputs[0] if recipe.inputs else None
        images = [layer for layer in self._viewer.layers if _can_be_segmented(layer)]
        for layer in images:
            if str(layer.unique_id) == source:
                return layer
        if told is not None:
            for layer in images:
                if told.file and Path(told.file) == Path(opened_from(layer)):
                    return layer
            for layer in images:
                if layer.name == told.name and tuple(data_of(layer).shape) == told.shape:
                    return layer
        if told is None or not told.file:
            raise InputError("The image of this result is not open, and lies in no file: open it, and press Segment.")
        return open_again(self._viewer, told.file)[0]

    def _tell(self, succeeded: bool) -> None:
        """Say in what the new result was made otherwise than the old one."""
        recipe, self._repeated = self._repeated, None
        shown = self._tab.result()
        if recipe is None or not succeeded or shown is None:
            return
        try:
            others = differences(recipe, recipe_from_dict(shown.prediction.recipe))
        except SkipsegError as error:
            self._tab.tell(str(error))
            return
        told = f"Run again; different from before: {', '.join(others)}." if others else "Run again as before."
        if recipe.request.objects is None:
            self._tab.tell(told)
            return
        self._tab.tell(f"{told} {OBJECTS_FOLLOW}")
        self.objects_wanted.emit(recipe.request)


def open_again(viewer: ViewerModel, file: str) -> list[Layer]:
    """Return the layers that show a file.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        return open_image(viewer, file)
    except (OSError, ValueError, RuntimeError, SkipsegError) as error:
        raise InputError(
            f"'{file}' cannot be opened: open the image from where it is now. ({first_line(error)})"
        ) from error


def fill_form(form: SegmentForm, recipe: Recipe, layer: Image, model: str) -> None:
    """Make the form say what a recipe says of an image, as far as it has fields for that."""
    options = recipe.request.options
    form.model.opening.emit()
    _choose(form.image, layer)
    _choose(form.model, model)
    form.options.samples.setValue(options.samples)
    form.options.dropout.setValue(options.dropout or 0.0)
    form.options.tile.setValue(options.tile)
    _choose(form.options.average, options.average)
    _choose(form.options.planes, options.planes)
    _choose(form.options.padding, options.padding)
    form.options.invert.setChecked(options.invert)
    _choose(form.channel, options.channel)
    _choose(form.device, options.device)
    form.rescale.setChecked(options.rescale)
    form.threshold.setValue(options.threshold)
    is_whole = not recipe.inputs or recipe.inputs[0].shape == tuple(data_of(layer).shape)
    _choose(form.extent, "whole" if is_whole else "current")
    form.check()


def _choose(combo: QComboBox, value: object) -> None:
    """Choose what stands for `value`, where it is offered."""
    for number in range(combo.count()):
        if combo.itemData(number) == value:
            combo.setCurrentIndex(number)
            combo.activated.emit(number)
            return


def _can_be_segmented(layer: Layer) -> bool:
    from napari.layers import Image

    return isinstance(layer, Image) and not is_ours(layer)
