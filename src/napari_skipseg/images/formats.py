"""What results are written as."""

from __future__ import annotations

from typing import Literal

Format = Literal["tiff", "ome-zarr"]
FORMAT_ENDINGS: dict[Format, str] = {"tiff": ".tif", "ome-zarr": ".ome.zarr"}
Depth = Literal["uint8", "float32"]
"""How shares of 1, such as probabilities, are stored: as 0-255, or as they are."""
USUAL_DEPTH: Depth = "uint8"
