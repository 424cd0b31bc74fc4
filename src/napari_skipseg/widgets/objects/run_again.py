"""Run again of objects: the search that the recipe of a layer describes, in the same probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton

from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.images.formats import USUAL_DEPTH, Depth
from napari_skipseg.images.identity import identify
from napari_skipseg.inference.recipes.lookup import find_locations
from napari_skipseg.inference.recipes.recipe import (
    OBJECTS_OPERATION,
    ObjectsRecipe,
    RecipeInput,
    objects_differences,
    objects_recipe_from_dict,
)
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.widgets.forms.fields import ConnectionGroup
from napari_skipseg.widgets.layers.files import opened_from
from napari_skipseg.widgets.layers.results import KEY, data_of
from napari_skipseg.widgets.objects.layers import OBJECTS_SOURCE
from napari_skipseg.widgets.objects.sources import (
    ProbabilitySource,
    describe_source,
    find_measured,
    find_sources,
    recipe_of_layer,
    stack_to_search,
    without_wrapper,
)
from napari_skipseg.widgets.segment.run_again import PLACE, open_again

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

_HINT = "Find objects again as in the recipe of the selected layer: in the same layer, with the same options"
_NOWHERE = "'{}', in which these objects were found, is not open and lies in no file: open it, and press Find objects."
GONE = "'{}', in which these objects were found, is no longer there: open it from where it is now, and try again."


@dataclass(frozen=True, eq=False)
class RepeatedObjectSearch:
    """A search for objects: source, options, the image whose grey values are measured, and the depth of a result.

    before: the recipe that is repeated, None for a new search.
    """

    source: ProbabilitySource
    options: ObjectOptions
    measured: Layer | None
    depth: Depth = USUAL_DEPTH
    before: ObjectsRecipe | None = None

    def compare(self, recipe: dict[str, Any]) -> str:
        """Return the differences from the repeated recipe in a sentence, "" for a new search."""
        if self.before is None:
            return ""
        try:
            others = objects_differences(self.before, objects_recipe_from_dict(recipe))
        except SkipsegError as error:
            return str(error)
        return f"Run again; different from before: {', '.join(others)}." if others else "Run again as before."


def find_search(viewer: ViewerModel, layer: Layer) -> RepeatedObjectSearch:
    """Return the search that the recipe of a layer describes; open the files that it needs.

    Raises:
        SkipsegError: the recipe is not valid, or the probability is neither open nor in a file.
    """
    recipe = objects_recipe_from_dict(recipe_of_layer(layer), PLACE)
    if recipe.objects.box:
        raise InputError("These objects were found in a box: repeat that in a shell, with napari-skipseg run RECIPE.")
    given = recipe.inputs[0]
    found = _find_open(viewer, layer, given) or _open(viewer, layer, given)
    options, searched = recipe.objects, found[0]
    if len(found) > 1 and "C" in given.space.axes:
        named = options.class_name in recipe.class_names
        searched = found[recipe.class_names.index(options.class_name) if named else 0]
        options = replace(options, class_name="")
    source = describe_source(viewer, searched)
    if tuple(data_of(searched).shape) == given.shape:
        source = replace(source, axes=given.space.axes, class_names=recipe.class_names, labels=recipe.labels)
    measured = _find_measured(viewer, layer, source, recipe.inputs[1:])
    return RepeatedObjectSearch(source, options, measured, _depth_of(given), recipe)


def _find_open(viewer: ViewerModel, layer: Layer, given: RecipeInput) -> list[Layer]:
    """Return the layers that show the input of a recipe.

    These are the layer that was searched, or those of its file, or one with the same voxels, or one with its name.
    """
    there, source = find_sources(viewer), layer.metadata[KEY].get("source")
    if mine := [each for each in there if OBJECTS_SOURCE.format(each.unique_id) == source]:
        return mine
    same = [each for each in there if tuple(data_of(each).shape) == given.shape]
    return (
        _of_file(viewer, layer, given)
        or [each for each in same if _holds(viewer, each, given)][:1]
        or [each for each in same if each.name == given.name][:1]
    )


def _holds(viewer: ViewerModel, layer: Layer, given: RecipeInput) -> bool:
    """Return whether a layer contains the voxels of the input of a recipe."""
    try:
        stack = stack_to_search(replace(describe_source(viewer, layer), axes=given.space.axes), _depth_of(given))
        return identify(stack) == given.sha256
    except SkipsegError:
        return False


def _depth_of(given: RecipeInput) -> Depth:
    """Return the depth in which the input of a recipe was read."""
    return "float32" if given.dtype.startswith("float") else "uint8"


def _of_file(viewer: ViewerModel, layer: Layer, given: RecipeInput) -> list[Layer]:
    places = {Path(given.file), *_places(layer, given)} if given.file else set()
    return [each for each in viewer.layers if opened_from(each) and Path(opened_from(each)) in places]


def _places(layer: Layer, given: RecipeInput) -> list[Path]:
    return find_locations(given, Path(opened_from(layer) or given.file).parent)


def _is_like(layer: Layer, given: RecipeInput) -> bool:
    return bool(layer.name == given.name and tuple(data_of(layer).shape) == given.shape)


def _open(viewer: ViewerModel, layer: Layer, given: RecipeInput) -> list[Layer]:
    """Open the file of the input of a recipe, and return its layers.

    Raises:
        InputError: there is no file, or it cannot be opened.
    """
    places = _places(layer, given)
    if not places:
        raise InputError(GONE.format(given.file) if given.file else _NOWHERE.format(given.name))
    return open_again(viewer, str(places[0]))


def _find_measured(
    viewer: ViewerModel, layer: Layer, source: ProbabilitySource, images: Sequence[RecipeInput]
) -> Layer | None:
    """Return the image whose grey values were measured, None if there was none or it cannot be found."""
    for given in images:
        there = find_measured(viewer, source)
        of_file = _of_file(viewer, layer, given)
        if not of_file and not any(_is_like(each, given) for each in there):
            try:
                of_file = _open(viewer, layer, given)
            except InputError:
                return None
            there = find_measured(viewer, source)
        fitting = [each for each in there if each in of_file] or [each for each in there if _is_like(each, given)]
        return without_wrapper(fitting[0]) if fitting else None
    return None


class ObjectsAgainButton(QPushButton):  # type: ignore[misc]
    """Visible while the selected layer has a recipe of objects. wanted: a `RepeatedObjectSearch`. failed: a fault."""

    wanted = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: ViewerModel, links: ConnectionGroup) -> None:
        super().__init__("Run again")
        self.setToolTip(_HINT)
        self._viewer = viewer
        self.clicked.connect(self.run)
        links.tie(viewer.layers.selection.events.active, self.update_visible)
        self.update_visible()

    def update_visible(self, event: Any = None) -> None:
        """Show the button if the selected layer has a recipe of objects."""
        active = self._viewer.layers.selection.active
        self.setVisible(active is not None and recipe_of_layer(active).get("operation") == OBJECTS_OPERATION)

    def run(self) -> None:
        """Emit the search of the selected layer, or the fault that prevents it."""
        try:
            search = find_search(self._viewer, self._viewer.layers.selection.active)
        except SkipsegError as error:
            self.failed.emit(str(error))
            return
        self.wanted.emit(search)
