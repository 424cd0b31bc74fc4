"""Packages of the extras, which may be missing: imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from napari_skipseg.errors import InputError, SkipsegError


def import_extra(module: str, extra: str, what: str, error: type[SkipsegError] = InputError) -> Any:
    """Return the module of an optional package.

    what: the plural of what needs it, which begins the sentence of the error.

    Raises:
        SkipsegError: it is not installed; of the class `error`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as fault:
        raise error(
            f"{what} need the package {module}: install it with pip install 'napari-skipseg[{extra}]'."
        ) from fault
