"""The packages of the extra `bioimageio`."""

from __future__ import annotations

from functools import partial

from napari_skipseg.errors import ModelError
from napari_skipseg.extras import import_extra

needed = partial(import_extra, extra="bioimageio", what="Models of other programs", error=ModelError)
"""Returns a module of the extra by its name, or raises a ModelError that says how to install it."""
