"""Segment EM and volumetric stacks with networks built on skip connections.

    import napari_skipseg as skipseg

    model = skipseg.load_model("em-membrane")
    prediction = skipseg.segment("stack.tif", model)
    skipseg.save_prediction(prediction, "results", "stack", threshold=0.5)

Importing the package imports neither torch nor any GUI: each public name (listed in `__init__.pyi`) is imported
from its module when it is first used.
"""

from __future__ import annotations

from importlib.metadata import version

import lazy_loader

__version__ = version("napari-skipseg")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
