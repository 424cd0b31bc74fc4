"""The packages of the extra `bioimageio`, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from napari_skipseg.errors import ModelError


def needed(package: str) -> Any:
    """Return a package of the extra `bioimageio`.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"This needs the package {package}: install it with pip install 'napari-skipseg[bioimageio]'."
        ) from error
