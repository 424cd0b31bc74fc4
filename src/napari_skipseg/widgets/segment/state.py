"""What other tabs may ask of the Segment tab."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_skipseg.widgets.layers.live import Results
from napari_skipseg.widgets.segment.checks import SegmentFormValues

if TYPE_CHECKING:
    from napari.layers import Image


@dataclass(frozen=True)
class SegmentState:
    """The Segment tab as it is at the time of each call.

    read: the choices in its form. model: the name of the chosen model. is_running: it segments now. results: the
    results on show. known_colors: the colours that the user chose for the classes of an image.
    """

    read: Callable[[], SegmentFormValues]
    model: Callable[[], str | None]
    is_running: Callable[[], bool]
    results: Results
    known_colors: Callable[[Image], Mapping[str, str]]
