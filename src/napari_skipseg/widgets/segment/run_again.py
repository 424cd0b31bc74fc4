"""Run again: what the recipe of the selected layer says, with the same settings and model, on the same image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton

from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.inference.recipes.lookup import find_model_of_recipe
from napari_skipseg.inference.recipes.recipe import (
    OBJECTS_OPERATION,
    OPERATION,
    Recipe,
    recipe_differences,
    recipe_from_dict,
)
from napari_skipseg.widgets.forms.worker import first_line_of
from napari_skipseg.widgets.layers.files import open_image, opened_from
from napari_skipseg.widgets.layers.results import KEY, RESULT_SOURCE, data_of, image_of, is_ours
from napari_skipseg.widgets.segment.part import labels_as_masks

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer


_HINT = "Repeat what the recipe of the selected layer describes: the same image, model and settings, or objects"
PLACE = "The recipe of the selected layer"


@dataclass(frozen=True)
class RepeatRequest:
    """What is to be segmented again: the recipe, the layer of its image, and the name of its model on this computer."""

    recipe: Recipe
    layer: Image
    model: str


class AgainButton(QPushButton):  # type: ignore[misc]
    """A button that is visible while the selected layer has a recipe.

    A click emits one of three signals: `requested` with a `RepeatRequest`, `search_requested` if the recipe is one of
    objects, or `failed` with the reason.
    """

    requested = Signal(object)
    search_requested = Signal()
    failed = Signal(str)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__("Run again")
        self.setToolTip(_HINT)
        self._viewer = viewer
        self.clicked.connect(self._on_clicked)

    def update_visible(self, event: Any = None) -> None:
        """Show the button if the selected layer has a recipe."""
        self.setVisible(bool(self._selected_recipe()))

    def _on_clicked(self) -> None:
        found = self._selected_recipe()
        if found.get("operation") == OBJECTS_OPERATION:
            self.search_requested.emit()
            return
        try:
            recipe = recipe_from_dict(found, PLACE)
            model = find_model_of_recipe(recipe)
            request = RepeatRequest(recipe, find_image_of_recipe(self._viewer, recipe), model.name)
        except SkipsegError as error:
            self.failed.emit(str(error))
            return
        self.requested.emit(request)

    def _selected_recipe(self) -> Mapping[str, Any]:
        """Return the recipe of the selected layer, empty if it has none or shows a preview."""
        active = self._viewer.layers.selection.active
        metadata = {} if active is None else active.metadata.get(KEY, {})
        recipe = metadata.get("recipe") or {}
        is_preview = str(metadata.get("source", "")).endswith(RESULT_SOURCE.format(""))
        return recipe if recipe.get("operation") in (OPERATION, OBJECTS_OPERATION) and not is_preview else {}


def find_image_of_recipe(viewer: ViewerModel, recipe: Recipe) -> Image:
    """Return the layer of the image that the selected result was made of; open its file if no layer shows it.

    Raises:
        InputError: the image is neither open nor in a file.
    """
    from napari.layers import Image

    source = image_of(str(viewer.layers.selection.active.metadata[KEY].get("source", "")))
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and not is_ours(layer)]
    found = [layer for layer in images if str(layer.unique_id) == source]
    described = recipe.inputs[0] if recipe.inputs else None
    if described is not None:
        found += [layer for layer in images if described.file and Path(described.file) == Path(opened_from(layer))]
        found += [
            layer for layer in images if layer.name == described.name and tuple(data_of(layer).shape) == described.shape
        ]
    if found:
        return found[0]
    if described is None or not described.file:
        raise InputError("The image of this result is not open, and lies in no file: open it, and press Segment.")
    return open_again(viewer, described.file)[0]


def open_again(viewer: ViewerModel, file: str) -> list[Layer]:
    """Return the layers that show a file.

    Raises:
        InputError: the file cannot be opened.
    """
    try:
        return open_image(viewer, file)
    except (OSError, ValueError, RuntimeError, SkipsegError) as error:
        raise InputError(
            f"'{file}' cannot be opened: open the image from where it is now. ({first_line_of(error)})"
        ) from error


def describe_repetition(before: Recipe, now: Mapping[str, Any]) -> str:
    """Return in a sentence how the recipe of the new result differs from the one that was repeated.

    Raises:
        SkipsegError: the new recipe cannot be read.
    """
    different = recipe_differences(before, recipe_from_dict(now))
    said = f"Run again; different from before: {', '.join(different)}." if different else "Run again as before."
    return said if before.request.objects is None else f"{said} The Objects tab finds its objects too."


def mask_of_recipe(viewer: ViewerModel, recipe: Recipe) -> Labels:
    """Return the layer of the mask that a recipe names; open its file if no layer shows it.

    Raises:
        InputError: it is neither open nor in a file.
    """
    name, layers = recipe.request.options.mask, labels_as_masks(viewer)
    described = recipe.inputs[1] if len(recipe.inputs) > 1 else None
    found = [each for each in layers if described is not None and each.name == described.name]
    if found:
        return found[-1]
    if described is None or not described.file:
        raise InputError(
            f"The mask '{name}' of this result is not open, and lies in no file: open it, and press Segment."
        )
    opened = open_again(viewer, described.file)
    found = [each for each in opened if each in labels_as_masks(viewer)]
    if not found:
        raise InputError(f"'{described.file}' opens as no layer of labels: convert it to labels, and press Segment.")
    return found[0]
