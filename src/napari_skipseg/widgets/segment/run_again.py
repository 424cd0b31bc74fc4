"""Run again: what the recipe of the selected layer says, with the same settings and model, on the same image."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QPushButton

from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import file_name
from napari_skipseg.inference.recipes.lookup import find_model_of_recipe
from napari_skipseg.inference.recipes.recipe import (
    OBJECTS_OPERATION,
    OPERATION,
    Recipe,
    choices_of_recipe,
    recipe_differences,
    recipe_from_dict,
)
from napari_skipseg.widgets.forms.job_tab import pop_up
from napari_skipseg.widgets.forms.worker import first_line_of
from napari_skipseg.widgets.layers.files import (
    SaveChoices,
    ask_what_to_save,
    iter_save_results,
    open_image,
    opened_from,
    results_to_save,
)
from napari_skipseg.widgets.layers.results import KEY, RESULT_SOURCE, ShownResult, data_of, image_of, is_ours
from napari_skipseg.widgets.segment.form import SegmentForm
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_skipseg.widgets.segment.tab import SegmentTab


_HINT = "Repeat what the recipe of the selected layer describes: the same image, model and settings, or objects"
OBJECTS_FOLLOW = "The Objects tab finds its objects too."
PLACE = "The recipe of the selected layer"


class RepeatRequest(NamedTuple):
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
        self.setToolTip(_HINT)
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
        if self._told().get("operation") == OBJECTS_OPERATION:
            self.search_wanted.emit()
            return
        try:
            recipe = recipe_from_dict(self._told(), PLACE)
            model = find_model_of_recipe(recipe)
            layer = self._find_image(recipe)
        except SkipsegError as error:
            self._tab.fail(str(error))
            return
        fill_form(self._tab.form, recipe, layer, model.name)
        self._tab.segment_as(RepeatRequest(recipe.request.options, self._pinned(recipe)))
        self._repeated = recipe if self._tab.is_running else None

    def _pinned(self, recipe: Recipe) -> dict[str, int | str] | None:
        """Return what is taken again of a recipe's choices, None where its device is not here."""
        device = self._tab.form.device
        if recipe.device not in [device.itemData(number) for number in range(device.count())]:
            return None
        return choices_of_recipe(recipe)

    def _told(self) -> Mapping[str, Any]:
        """Return the recipe of the selected layer, empty where it has none, or is a look ahead."""
        active = self._viewer.layers.selection.active
        told = {} if active is None else active.metadata.get(KEY, {})
        recipe = told.get("recipe") or {}
        is_preview = str(told.get("source", "")).endswith(RESULT_SOURCE.format(""))
        return recipe if recipe.get("operation") in (OPERATION, OBJECTS_OPERATION) and not is_preview else {}

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
            others = recipe_differences(recipe, recipe_from_dict(shown.prediction.recipe))
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
            f"'{file}' cannot be opened: open the image from where it is now. ({first_line_of(error)})"
        ) from error


def fill_form(form: SegmentForm, recipe: Recipe, layer: Image, model: str) -> None:
    """Make the form say what a recipe says of an image, as far as it has fields for that."""
    options = recipe.request.options
    form.model.opening.emit()
    _choose(form.image, layer)
    _choose(form.model, model)
    form.options.rows.show_values(options)
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


SAVE_HINT = "Write the result of this image as OME-TIFF or OME-Zarr: the one whose layer is selected, else the newest"
STOPPED_HINT = "This result was stopped before it was whole: segment again to save it"


class SaveButton(QPushButton):  # type: ignore[misc]
    """Saves what the Segment tab shows of its image."""

    def __init__(self, tab: SegmentTab) -> None:
        super().__init__("Save results…")
        self._tab = tab
        self._folder = ""
        self.clicked.connect(self._ask)

    def follow(self) -> None:
        """Be on where there is something to save, and say why not."""
        result, running = self._tab.result(), self._tab.is_running
        is_partial = result is not None and not result.is_whole
        self.setEnabled(result is not None and not is_partial and not running)
        self.setToolTip(STOPPED_HINT if is_partial and not running else SAVE_HINT)

    def _ask(self) -> None:
        choices, shown = self._tab.form.read(), self._tab.result()
        if shown is None or choices.layer is None:
            return
        name, title = name_of(choices.layer, shown), title_of(choices.layer, shown)
        opened = opened_from(choices.layer)
        folder = self._folder or (str(Path(opened).absolute().parent) if opened else "")
        chosen = ask_what_to_save(self._tab, title, name, results_to_save(shown.prediction), folder)
        if chosen is not None:
            self._folder = str(chosen.folder)
            self.save(chosen, name, choices.threshold, shown)

    def save(self, chosen: SaveChoices, name: str, threshold: float, shown: ShownResult) -> None:
        """Write the result of an image, beside the window."""

        def tell(files: list[Path]) -> None:
            told = f"Saved {counted(len(files), 'file')}"
            self._tab.tell(f"{told} in {chosen.folder}.")
            pop_up(f"SkipSeg saved {', '.join(file.name for file in files)} in {chosen.folder}.", told)

        self._tab.start(partial(iter_save_results, shown.prediction, chosen, name, threshold), "Saving results", tell)


def name_of(layer: Image, shown: ShownResult) -> str:
    """Return how the files of a result are called: those of a slice bear its number, beside those of the whole."""
    places = [f"{shown.axes[axis].lower()}{place}" for axis, place in shown.positions.items()]
    return "_".join([file_name(layer.name), *places])


def title_of(layer: Image, shown: ShownResult) -> str:
    """Return in words of what a result is."""
    return f"'{layer.name}', {shown.prefix.strip()} alone" if shown.prefix else f"'{layer.name}'"
