"""Objects of what is on screen, found anew beside the window while the options change; the last wish counts."""

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
from napari_skipseg.widgets.objects.layers import remove_look, show_look
from napari_skipseg.widgets.objects.sources import ProbabilitySource, stack_to_search, without_wrapper
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_skipseg.objects.find import ObjectSearch

DEPTH = 8
"""Slices before and behind the one on screen that are looked at, where objects go through them."""
MOST = 2**22
"""Voxels that are looked at, at the most, so that a look takes a second: 512 x 512 in 16 slices."""


@dataclass(frozen=True, eq=False)
class PreviewRequest:
    """What is to be looked at: the part of a layer (axis number -> positions), its voxels now, and how."""

    source: ProbabilitySource
    data: Any
    part: dict[int, slice]
    options: ObjectOptions

    def is_same_place(self, other: PreviewRequest | None) -> bool:
        """Return whether another wish is of the same voxels."""
        return (
            other is not None
            and other.source.layer == self.source.layer
            and other.data is self.data
            and (other.part, other.source.class_names) == (self.part, self.source.class_names)
        )


def find_slab(viewer: ViewerModel, source: ProbabilitySource, options: ObjectOptions) -> dict[int, slice]:
    """Return what is on screen of a layer, by axis number, with some slices around; at most `MOST` voxels."""
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
    """The look ahead: a labels layer over the slab. `told` says how many objects it holds, or what is wrong."""

    told = Signal(str, bool)

    def __init__(self, owner: QObject, viewer: ViewerModel) -> None:
        super().__init__(owner)
        self._viewer = viewer
        self._wish: PreviewRequest | None = None
        self._done: PreviewRequest | None = None
        self._search: ObjectSearch | None = None
        self._worker: Any = None
        self._is_on = False

    @property
    def is_at_work(self) -> bool:
        """Whether objects are being found."""
        return self._worker is not None

    def follow(self, source: ProbabilitySource, options: ObjectOptions) -> None:
        """Look at what is on screen now, with these options, as soon as the last look is done."""
        self._is_on = True
        self._wish = PreviewRequest(
            source, without_wrapper(data_of(source.layer)), find_slab(self._viewer, source, options), options
        )
        self._begin()

    def stop(self) -> None:
        """Look no more, and remove the layer."""
        self._is_on, self._wish, self._done, self._search = False, None, None, None
        remove_look(self._viewer)

    def _begin(self) -> None:
        wish = self._wish
        if wish is None or self.is_at_work:
            return
        self._wish = None
        if wish.is_same_place(self._done) and self._done is not None and self._done.options == wish.options:
            return
        search = self._search if wish.is_same_place(self._done) else None

        def work() -> Generator[Progress, None, tuple[ObjectSearch, NDArray[np.uint32]]]:
            yield Progress(0, 1, "finding objects")
            ready = search or prepare_search(wish)
            return ready, ready.find(wish.options)

        def take(outcome: WorkOutcome) -> None:
            self._take(wish, outcome)

        self._worker = start_work(self, work, "Finding objects", _ignore, take, self._end, is_quiet=True)

    def _take(self, wish: PreviewRequest, outcome: WorkOutcome) -> None:
        if not self._is_on or wish.source.layer not in self._viewer.layers:
            return
        if outcome.fault:
            self._done = None
            self.told.emit(outcome.fault, True)
            return
        self._search, found = outcome.value
        self._done = wish
        show_look(self._viewer, wish.source, found, {axis: each.start for axis, each in wish.part.items()})
        self.told.emit(describe_preview(int(found.max(initial=0)), wish), False)

    def _end(self) -> None:
        self._worker = None
        self._begin()


def prepare_search(wish: PreviewRequest) -> ObjectSearch:
    """Return a search in the voxels of a wish, which are read.

    Raises:
        SkipsegError: they cannot be read.
    """
    from napari_skipseg.objects.find import ObjectSearch

    stack = stack_to_search(wish.source)
    index = tuple(wish.part.get(axis, slice(None)) for axis in range(len(wish.source.axes)))
    part, source = replace(stack, data=stack.read(index), file=""), wish.source
    return ObjectSearch(ClassImage(part, source.class_names, source.labels, source.has_padding))


def describe_preview(count: int, wish: PreviewRequest) -> str:
    """Return how many objects there are, and in what."""
    depth = next((part for axis, part in wish.part.items() if wish.source.axes[axis] == "Z"), slice(0, 1))
    slices = depth.stop - depth.start
    where = f"{slices} slices on screen" if slices > 1 else "the slice on screen"
    return f"{counted(count, 'object')} in {where}"


def iter_warm_up() -> Generator[Progress, None, None]:
    """Have all compiled that a search needs, which takes it seconds the first time, and the colours of its layer."""
    yield Progress(0, 1, "preparing the search for objects")
    from napari.utils.colormaps import label_colormap

    from napari_skipseg.objects.find import ObjectSearch

    label_colormap().map(np.zeros(1, np.uint32))
    ramp = np.linspace(0, 1, 4 * 12 * 12, dtype=np.float32).reshape(4, 12, 12)
    for method in get_args(Method):
        ObjectSearch(ClassImage(Stack(ramp, Space("ZYX")))).find(ObjectOptions(method, fill_holes=True))
        yield Progress(0, 1, "preparing the search for objects")


def _ignore(progress: Any) -> None:
    """Show nothing of it."""
