"""What a run is asked for, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from napari_skipseg.images.intensity.normalize import GreyStatistics
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends.choose import BackendMaker, make_backend
from napari_skipseg.inference.backends.interface import Pixels
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.model import Model


@dataclass(frozen=True, eq=False)
class RunSpec:
    """A stack, the model that segments it, and how.

    backend_maker: makes no samples: those take torch. pinned: the recipe of a run that is continued or repeated: its
    side, batch and device are taken again, and its backend, precision and grey values, if it has them and they are
    available here. mask: the labels that the run is limited to; without, those in the file that the options name.
    greys: measured on the stack unless they are given, such as on the volume that contains the slice `stack`.
    is_preview: take tiles of one size, whatever the size of the stack, for which a warm engine is ready. with_binary:
    write the labels too. probes: patches of the image (`guards.read_probes`) on which the network detects inverted
    contrast; read here if grey values are measured here.
    """

    stack: Stack
    model: Model
    options: SegmentOptions
    backend_maker: BackendMaker = make_backend
    pinned: Mapping[str, Any] | None = None
    mask: Stack | None = None
    greys: GreyStatistics | None = None
    is_preview: bool = False
    with_binary: bool = False
    probes: Pixels | None = None
