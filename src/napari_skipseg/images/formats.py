"""The file formats and types of results."""

from __future__ import annotations

from typing import Literal

Format = Literal["tiff", "ome-zarr"]
FORMAT_ENDINGS: dict[Format, str] = {"tiff": ".tif", "ome-zarr": ".ome.zarr"}
Depth = Literal["uint8", "float32"]
"""The type of stored probabilities and similar values: 0-255, or unchanged."""
USUAL_DEPTH: Depth = "uint8"
