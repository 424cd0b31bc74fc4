"""The names, file formats and types of results."""

from __future__ import annotations

import re
from typing import Literal

RESULT = r"(?:probability|binary|uncertainty|objects|attention_\d+)"
"""What a run adds to the name of an image, behind an underscore, as a regular expression."""
RESULT_FILE = re.compile(rf"_({RESULT})\.(tif|ome\.zarr)$")
"""The end of the name of a result's file."""
UNFINISHED = ".unfinished"
"""The end of the name of a run's folder that lies beside the results until they are whole."""

Format = Literal["tiff", "ome-zarr"]
FORMAT_ENDINGS: dict[Format, str] = {"tiff": ".tif", "ome-zarr": ".ome.zarr"}
Depth = Literal["uint8", "float32"]
"""The type of stored probabilities and similar values: 0-255, or unchanged."""
USUAL_DEPTH: Depth = "uint8"
