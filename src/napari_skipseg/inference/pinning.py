"""Backends of a run that is gone on with, or repeated: those that it was begun with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from napari_skipseg.devices import Device
from napari_skipseg.errors import DeviceError
from napari_skipseg.inference.backends import Backend, Pinned, make_backend
from napari_skipseg.inference.passes import BackendMaker
from napari_skipseg.models.model import Model


@runtime_checkable
class PinnableMaker(Protocol):
    """A maker of backends that can be asked for a certain one."""

    def pinned(self, pinned: Pinned) -> BackendMaker:
        """Return what makes no other backend than the one that a run was begun with."""
        ...


def only(maker: BackendMaker, pinned: Pinned) -> BackendMaker:
    """Return what makes the backend that a run was begun with, and no other; a maker of one kind stays as it is."""
    if isinstance(maker, PinnableMaker):
        return maker.pinned(pinned)
    return partial(make_backend, pinned=pinned) if maker is make_backend else maker


def rather(maker: BackendMaker, recipe: Mapping[str, Any] | None) -> BackendMaker:
    """Return what makes the backend that a recipe names where it can be had here, else what `maker` makes."""
    if recipe is None or not {"backend", "precision"} <= recipe.keys():
        return maker
    pinned = Pinned(recipe["backend"], recipe["precision"])

    def make(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        made = maker(model, device, shape)
        if Pinned(made.name, made.precision) == pinned:
            return made
        try:
            return make_backend(model, device, shape, pinned)
        except DeviceError:
            return made

    return make
