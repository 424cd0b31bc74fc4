"""What results are written as, and how their files' names end."""

from __future__ import annotations

from typing import Literal

Format = Literal["tiff", "ome-zarr"]
ENDINGS: dict[Format, str] = {"tiff": ".tif", "ome-zarr": ".ome.zarr"}
