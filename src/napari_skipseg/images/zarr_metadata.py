"""The metadata of an OME-Zarr 0.5 image that we write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
