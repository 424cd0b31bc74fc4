"""A search for objects once more: what the recipe of a layer of objects says, in the same probability."""

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
    """A search for objects: in what, how, in which image grey values are measured, and how a result is looked at.

    before: the recipe that is repeated, None where there was no such search.
    """

    source: ProbabilitySource
    options: ObjectOptions
    measured: Layer | None
    depth: Depth = USUAL_DEPTH
    before: ObjectsRecipe | None = None

    def compare(self, recipe: dict[str, Any]) -> str:
        """Return in a sentence what was otherwise than before, "" where nothing is repeated."""
        if self.before is None:
            return ""
        try:
            others = objects_differences(self.before, objects_recipe_from_dict(recipe))
        except SkipsegError as error:
            return str(error)
        return f"Run again; different from before: {', '.join(others)}." if others else "Run again as before."


def find_search(viewer: ViewerModel, layer: Layer) -> RepeatedObjectSearch:
    """Return what the recipe of a layer of objects says; what that needs is opened where it lies in a file.

    Raises:
        SkipsegError: the recipe is not valid; the probability is neither open nor in a file.
    """
    recipe = objects_recipe_from_dict(recipe_of_layer(layer), PLACE)
    told = recipe.inputs[0]
    found = _find_open(viewer, layer, told) or _open(viewer, layer, told)
    options, searched = recipe.objects, found[0]
    if len(found) > 1 and "C" in told.space.axes:
        named = options.class_name in recipe.class_names
        searched = found[recipe.class_names.index(options.class_name) if named else 0]
        options = replace(options, class_name="")
    source = describe_source(viewer, searched)
    if tuple(data_of(searched).shape) == told.shape:
        source = replace(source, axes=told.space.axes, class_names=recipe.class_names, labels=recipe.labels)
    measured = _find_measured(viewer, layer, source, recipe.inputs[1:])
    return RepeatedObjectSearch(source, options, measured, _depth_of(told), recipe)


def _find_open(viewer: ViewerModel, layer: Layer, told: RecipeInput) -> list[Layer]:
    """Return the layers that show what a recipe tells of: the one it came of, those of its file, one of its voxels, one
    that is called so."""
    there, source = find_sources(viewer), layer.metadata[KEY].get("source")
    if mine := [each for each in there if OBJECTS_SOURCE.format(each.unique_id) == source]:
        return mine
    same = [each for each in there if tuple(data_of(each).shape) == told.shape]
    return (
        _of_file(viewer, layer, told)
        or [each for each in same if _holds(viewer, each, told)][:1]
        or [each for each in same if each.name == told.name][:1]
    )


def _holds(viewer: ViewerModel, layer: Layer, told: RecipeInput) -> bool:
    """Return whether a layer of its shape holds the voxels that a recipe tells of."""
    try:
        stack = stack_to_search(replace(describe_source(viewer, layer), axes=told.space.axes), _depth_of(told))
        return identify(stack) == told.sha256
    except SkipsegError:
        return False


def _depth_of(told: RecipeInput) -> Depth:
    """Return how a result would be looked at, as it was then."""
    return "float32" if told.dtype.startswith("float") else "uint8"


def _of_file(viewer: ViewerModel, layer: Layer, told: RecipeInput) -> list[Layer]:
    places = {Path(told.file), *_places(layer, told)} if told.file else set()
    return [each for each in viewer.layers if opened_from(each) and Path(opened_from(each)) in places]


def _places(layer: Layer, told: RecipeInput) -> list[Path]:
    return find_locations(told, Path(opened_from(layer) or told.file).parent)


def _is_like(layer: Layer, told: RecipeInput) -> bool:
    return bool(layer.name == told.name and tuple(data_of(layer).shape) == told.shape)


def _open(viewer: ViewerModel, layer: Layer, told: RecipeInput) -> list[Layer]:
    """Return the layers that show the file of which a recipe tells.

    Raises:
        InputError: there is none, or it cannot be opened.
    """
    places = _places(layer, told)
    if not places:
        raise InputError(GONE.format(told.file) if told.file else _NOWHERE.format(told.name))
    return open_again(viewer, str(places[0]))


def _find_measured(
    viewer: ViewerModel, layer: Layer, source: ProbabilitySource, images: Sequence[RecipeInput]
) -> Layer | None:
    """Return the image whose grey values a recipe had measured, None where it had none or it is here no longer."""
    for told in images:
        there = find_measured(viewer, source)
        of_file = _of_file(viewer, layer, told)
        if not of_file and not any(_is_like(each, told) for each in there):
            try:
                of_file = _open(viewer, layer, told)
            except InputError:
                return None
            there = find_measured(viewer, source)
        fitting = [each for each in there if each in of_file] or [each for each in there if _is_like(each, told)]
        return without_wrapper(fitting[0]) if fitting else None
    return None


class ObjectsAgainButton(QPushButton):  # type: ignore[misc]
    """Shown while the selected layer bears a recipe of objects. wanted: a `RepeatedObjectSearch`; failed: what is in
    the way.
    """

    wanted = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: ViewerModel, links: ConnectionGroup) -> None:
        super().__init__("Run again")
        self.setToolTip(_HINT)
        self._viewer = viewer
        self.clicked.connect(self.run)
        links.tie(viewer.layers.selection.events.active, self.follow)
        self.follow()

    def follow(self, event: Any = None) -> None:
        """Be there where there is a recipe."""
        active = self._viewer.layers.selection.active
        self.setVisible(active is not None and recipe_of_layer(active).get("operation") == OBJECTS_OPERATION)

    def run(self) -> None:
        """Have the same objects found; what is in the way is told in one sentence."""
        try:
            search = find_search(self._viewer, self._viewer.layers.selection.active)
        except SkipsegError as error:
            self.failed.emit(str(error))
            return
        self.wanted.emit(search)
