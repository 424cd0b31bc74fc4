"""A preview of the objects on screen, updated in a thread while the options change; only the last request counts."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.options import Method, ObjectOptions
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work
from napari_skipseg.widgets.layers.placement import current_position, visible_box
from napari_skipseg.widgets.layers.results import data_of
from napari_skipseg.widgets.objects.layers import remove_objects_preview, show_objects_preview
from napari_skipseg.widgets.objects.sources import ProbabilitySource, stack_to_search, without_wrapper
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_skipseg.objects.find import ObjectSearch

DEPTH = 8
"""Slices before and behind the one on screen that are searched, if objects go through them."""
MOST = 2**22
"""Voxels of a preview, at most, so that it takes a second: 512 x 512 in 16 slices."""


@dataclass(frozen=True, eq=False)
class PreviewRequest:
    """A part of a layer (axis number -> positions), its voxels now, and the options of the search."""

    source: ProbabilitySource
    data: Any
    part: dict[int, slice]
    options: ObjectOptions

    def is_same_place(self, other: PreviewRequest | None) -> bool:
        """Return whether another request is of the same voxels."""
        return (
            other is not None
            and other.source.layer == self.source.layer
            and other.data is self.data
            and (other.part, other.source.class_names) == (self.part, self.source.class_names)
        )


def find_slab(viewer: ViewerModel, source: ProbabilitySource, options: ObjectOptions) -> dict[int, slice]:
    """Return the part of a layer on screen, by axis number, with some slices around; at most `MOST` voxels."""
    part, at = {}, current_position(viewer, source.layer)
    for axis, (low, high) in enumerate(visible_box(viewer, source.layer)):
        letter, length = source.axes[axis], int(data_of(source.layer).shape[axis])
        if letter in "YX":
            part[axis] = slice(low, high + 1)
        elif letter in "ZT":
            around = DEPTH if letter == "Z" and options.planes == "volume" else 0
            part[axis] = slice(max(0, at[axis] - around), min(length, at[axis] + around + 1))
    planes = [axis for axis in part if source.axes[axis] in "YX"]
    while math.prod(each.stop - each.start for each in part.values()) > MOST:
        widest = max(planes, key=lambda axis: part[axis].stop - part[axis].start)
        cut = max(1, (part[widest].stop - part[widest].start) // 16)
        part[widest] = slice(part[widest].start + cut, part[widest].stop - cut)
    return part


class ObjectsPreview(QObject):  # type: ignore[misc]
    """A labels layer over the slab on screen. updated: the number of objects, or a fault with True."""

    updated = Signal(str, bool)

    def __init__(self, owner: QObject, viewer: ViewerModel) -> None:
        super().__init__(owner)
        self._viewer = viewer
        self._next: PreviewRequest | None = None
        self._done: PreviewRequest | None = None
        self._search: ObjectSearch | None = None
        self._worker: Any = None
        self._is_on = False

    @property
    def is_at_work(self) -> bool:
        """Whether objects are being found."""
        return self._worker is not None

    def update(self, source: ProbabilitySource, options: ObjectOptions) -> None:
        """Find the objects on screen with these options, as soon as the last search is done."""
        self._is_on = True
        self._next = PreviewRequest(
            source, without_wrapper(data_of(source.layer)), find_slab(self._viewer, source, options), options
        )
        self._begin()

    def stop(self) -> None:
        """Remove the layer, and forget what was requested."""
        self._is_on, self._next, self._done, self._search = False, None, None, None
        remove_objects_preview(self._viewer)

    def _begin(self) -> None:
        request = self._next
        if request is None or self.is_at_work:
            return
        self._next = None
        if request.is_same_place(self._done) and self._done is not None and self._done.options == request.options:
            return
        search = self._search if request.is_same_place(self._done) else None

        def work() -> Generator[Progress, None, tuple[ObjectSearch, NDArray[np.uint32]]]:
            yield Progress(0, 1, "finding objects")
            ready = search or prepare_search(request)
            return ready, ready.find(request.options)

        def on_outcome(outcome: WorkOutcome) -> None:
            if not self._is_on or request.source.layer not in self._viewer.layers:
                return
            if outcome.fault:
                self._done = None
                self.updated.emit(outcome.fault, True)
                return
            self._search, found = outcome.value
            self._done = request
            show_objects_preview(
                self._viewer, request.source, found, {axis: each.start for axis, each in request.part.items()}
            )
            self.updated.emit(describe_preview(int(found.max(initial=0)), request), False)

        def on_end() -> None:
            self._worker = None
            self._begin()

        self._worker = start_work(self, work, "Finding objects", lambda _: None, on_outcome, on_end, is_quiet=True)


def prepare_search(request: PreviewRequest) -> ObjectSearch:
    """Return a search in the voxels of a request, which are read here.

    Raises:
        SkipsegError: they cannot be read.
    """
    from napari_skipseg.objects.find import ObjectSearch

    stack = stack_to_search(request.source)
    index = tuple(request.part.get(axis, slice(None)) for axis in range(len(request.source.axes)))
    part, source = replace(stack, data=stack.read(index), file=""), request.source
    return ObjectSearch(ClassImage(part, source.class_names, source.labels, source.has_padding))


def describe_preview(count: int, request: PreviewRequest) -> str:
    """Return a text such as "4 objects in 3 slices on screen"."""
    depth = next((part for axis, part in request.part.items() if request.source.axes[axis] == "Z"), slice(0, 1))
    slices = depth.stop - depth.start
    where = f"{slices} slices on screen" if slices > 1 else "the slice on screen"
    return f"{counted(count, 'object')} in {where}"


def iter_warm_up() -> Generator[Progress, None, None]:
    """Compile what a search needs, which takes seconds the first time, and make the colours of its layer."""
    yield Progress(0, 1, "preparing the search for objects")
    from napari.utils.colormaps import label_colormap

    from napari_skipseg.objects.find import ObjectSearch

    label_colormap().map(np.zeros(1, np.uint32))
    ramp = np.linspace(0, 1, 4 * 12 * 12, dtype=np.float32).reshape(4, 12, 12)
    for method in get_args(Method):
        ObjectSearch(ClassImage(Stack(ramp, Space("ZYX")))).find(ObjectOptions(method, fill_holes=True))
        yield Progress(0, 1, "preparing the search for objects")
