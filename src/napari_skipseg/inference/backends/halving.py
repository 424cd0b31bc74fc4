"""A backend that reduces the batch, then the tile, by half if memory is short. Its output has the same shape."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_skipseg.device_faults import fault_kind, gist_of, is_out_of_memory
from napari_skipseg.devices import release_memory
from napari_skipseg.errors import OutOfMemoryError, SkipsegError
from napari_skipseg.images.tiles import Tile, TilePlan, plan_tiles, round_up
from napari_skipseg.inference.backends.interface import Backend, Draw, NetworkView, Pixels, TileOutput
from napari_skipseg.models.model import Model

ALL = slice(None)


@dataclass(frozen=True)
class BackendOption:
    """A backend that can be made: its title, the reason for its rank, and a function that makes it.

    at_once: most images per run, None = any number. A CPU gains nothing from several, and one by one each image has the
    same bits in any batch. own_tile: returns the largest tile that it can compute, None = the tile of the run; it is
    for a CPU that takes over a run from a GPU, for which the tile was chosen. is_gpu: whether it computes on a GPU; an
    unknown error of a GPU may be a lack of memory.
    """

    title: str
    reason: str
    make: Callable[[Model, tuple[int, ...]], Backend]
    at_once: int | None = None
    own_tile: Callable[[Model], tuple[int, ...]] | None = None
    is_gpu: bool = False


class HalvingBackend:
    """The backend of `choice`. If memory is short it gets fewer images at once, then smaller tiles to stitch.

    The size that fits is kept for the next run. A sentence for each reduction is appended to `notes`. After an unknown
    error of a GPU, one image at a time and half the tile are tried once.

    attention: whether attention maps are computed.

    Raises:
        OutOfMemoryError: (also by `run`) there is no memory for a tile of one stride and its margins.
    """

    def __init__(self, choice: BackendOption, model: Model, shape: tuple[int, ...], notes: list[str]) -> None:
        self.attention = True
        self._choice, self._model, self._notes = choice, model, notes
        self._shape, self._tile = shape, self._first_tile(shape)
        self._batch = choice.at_once
        self._draw: Draw | None = None
        self._backend: Backend | None = None
        self._tried = not choice.is_gpu
        self._pending_note = ""  # the note on a reduction that has not helped yet
        self._averages = True
        backend = self._prepared()
        self.name, self.precision = backend.name, backend.precision

    @property
    def tile(self) -> tuple[int, ...]:
        """The size of the tiles that the network sees now."""
        return self._tile

    @property
    def averages(self) -> bool:
        """Whether `iter_average` and `iter_planes` are available: on a GPU, as long as a whole tile fits."""
        return self._averages and self._tile == self._shape and bool(getattr(self._prepared(), "averages", False))

    def draw(self, draw: Draw | None) -> None:
        """Choose the dropout masks of the next run; None for a network without dropout."""
        self._draw = draw

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space)."""
        outputs: list[TileOutput] = []
        done = 0
        while done < len(images):
            part = slice(done, done + (self._batch or len(images)))
            try:
                outputs.append(self._run(images[part], self._draw and self._draw.of_images(part)))
                done += len(images[part])
                self._note_step()
                continue
            except Exception as error:
                if not self._step_down(len(images[part]), error, in_a_run=True):
                    raise
            release_memory()
        return outputs[0] if len(outputs) == 1 else _joined(outputs)

    def iter_average(self, images: Pixels, views: Sequence[NetworkView]) -> Generator[None, None, TileOutput]:
        """Yield between views of a part of the batch; return the mean over all views, averaged on the GPU."""
        backend: Any = self._prepared()
        backend.attention = self.attention
        outputs = []
        step = self._batch or len(images)
        for part in (slice(first, min(first + step, len(images))) for first in range(0, len(images), step)):
            seen = [view.of_images(part) for view in views]
            outputs.append((yield from backend.iter_average(images[part], seen)))
        return outputs[0] if len(outputs) == 1 else _joined(outputs)

    def iter_planes(self, volumes: Pixels, at_once: int) -> Generator[None, None, TileOutput]:
        """Yield between batches of slices; return the mean over three directions, averaged on the GPU."""
        backend: Any = self._prepared()
        output: TileOutput = yield from backend.iter_planes(volumes, min(at_once, self._batch or at_once))
        return output

    def stop_averaging(self) -> None:
        """Compute one pass after the other from now on."""
        self._averages = False

    def _run(self, images: Pixels, draw: Draw | None) -> TileOutput:
        backend: Any = self._prepared()
        backend.attention = self.attention

        def run(pixels: Pixels, drawn: Draw | None) -> TileOutput:
            if drawn is not None:
                backend.draw(*drawn)
            output: TileOutput = backend.run(pixels)
            return output

        if self._tile == self._shape:
            return run(images, draw)

        def run_part(number: int, pixels: Pixels) -> TileOutput:
            return run(pixels, draw and draw.of_part(number))

        tiles = self._plan(images.shape[2:], self._tile)
        return run_in_parts(run_part, images, tiles, self._model.description.spec.attention_strides)

    def _first_tile(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self._choice.own_tile is None:
            return shape
        largest = self._choice.own_tile(self._model)
        if len(largest) != len(shape) or all(mine >= whole for mine, whole in zip(largest, shape, strict=True)):
            return shape
        return self._plan(shape, largest).size

    def _prepared(self) -> Backend:
        """Return the backend for the present tile; if memory is too short to make it, for a smaller one."""
        while self._backend is None:
            try:
                self._backend = self._choice.make(self._model, self._tile)
            except Exception as error:
                if not self._step_down(1, error, in_a_run=False):
                    raise
            release_memory()
        return self._backend

    def _step_down(self, count: int, error: Exception, in_a_run: bool) -> bool:
        """Use half of `count` images from now on, or half the tile if it is one; return whether that may help.

        The error is not raised here: a frame in its traceback that refers to it would keep the memory of the failed
        attempt on the device.
        """
        kind = fault_kind(error)
        is_unknown = kind == "other" and in_a_run and not self._tried
        # torch raises faults of a device as RuntimeError
        is_unknown &= isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError | SkipsegError)
        if kind not in ("memory", "size") and not is_unknown:
            self._pending_note = ""
            return False
        if count > 1 and not is_unknown:
            self._batch = count // 2
            steps = (
                f"it continues with {self._batch} tiles at a time" if self._batch > 1 else "it continues with one tile"
            )
        else:
            half = halved(self._tile, self._model.description.margin, self._model.description.stride)
            if half == self._tile and kind == "memory":
                raise OutOfMemoryError(
                    f"There is not enough memory for a tile of {_in_words(half)} voxels ({self._choice.title}), and a "
                    "smaller one is not possible: close other programs and try again."
                ) from error
            if half == self._tile:  # no tile is small enough, so size was not the cause
                return False
            self._tile, self._backend = self._plan(self._shape, half).size, None
            steps = f"it continues with tiles of {_in_words(self._tile)}"
            if is_unknown:
                self._tried, self._batch = True, 1
                steps = f"it continues with tiles of {_in_words(self._tile)}, one at a time"
        what = "ran out of memory" if is_out_of_memory(error) else f"failed ({type(error).__name__}: {gist_of(error)})"
        note = f"{self._choice.title} {what}; {steps}."
        if is_unknown:
            self._pending_note = note
        else:
            self._note_step()
            self._notes.append(note)
        return True

    def _note_step(self) -> None:
        """Note the reduction, now that it has helped."""
        if self._pending_note:
            self._notes.append(self._pending_note)
            self._pending_note = ""

    def _plan(self, shape: tuple[int, ...], largest: tuple[int, ...]) -> TilePlan:
        return plan_tiles(shape, largest, self._model.description.margin, self._model.description.stride)


def halved(tile: tuple[int, ...], margin: int, stride: int) -> tuple[int, ...]:
    """Return a tile that keeps half as much along each long axis, at least a stride; `tile` itself if it is minimal.

    Axes less than half as long as the longest one are not halved.
    """
    margins = 2 * round_up(margin, stride)
    return tuple(
        margins + round_up(-(-(length - margins) // 2), stride)
        if 2 * length >= max(tile) and length > margins + stride
        else length
        for length in tile
    )


def run_in_parts(
    run: Callable[[int, Pixels], TileOutput], images: Pixels, tiles: Sequence[Tile], strides: Sequence[int]
) -> TileOutput:
    """Return the output for `images` (N, C, *space), computed in `tiles` and stitched.

    run: returns the output for the number and the pixels of a tile. strides: of the attention maps.
    """
    shape = images.shape[2:]
    last = tiles[-1]
    beyond = [(0, start + size - length) for start, size, length in zip(last.start, last.size, shape, strict=True)]
    padded = np.pad(images, [(0, 0), (0, 0), *beyond], mode="reflect") if any(far for _, far in beyond) else images
    probability: Pixels = np.empty(0, np.float32)
    attentions: tuple[Pixels, ...] = ()
    for number, tile in enumerate(tiles):
        read = (slice(start, start + size) for start, size in zip(tile.start, tile.size, strict=True))
        output = run(number, np.ascontiguousarray(padded[(ALL, ALL, *read)]))
        wanted = strides if output.attentions else ()
        if number == 0:
            probability = np.empty((*output.probability.shape[:2], *shape), np.float32)
            levels = (tuple(-(-length // stride) for length in shape) for stride in wanted)
            attentions = tuple(np.empty((len(images), *level), np.float32) for level in levels)
        probability[(ALL, ALL, *tile.keep)] = output.probability[(ALL, ALL, *tile.keep_in_read)]
        for whole, part, stride in zip(attentions, output.attentions, wanted, strict=True):
            whole[(ALL, *tile.keep_of_level(stride))] = part[(ALL, *tile.keep_in_read_of_level(stride))]
    return TileOutput(probability, attentions)


def _joined(outputs: Sequence[TileOutput]) -> TileOutput:
    attentions = zip(*(output.attentions for output in outputs), strict=True)
    uncertainties = [output.uncertainty for output in outputs if output.uncertainty is not None]
    return TileOutput(
        np.concatenate([output.probability for output in outputs]),
        tuple(np.concatenate(maps) for maps in attentions),
        np.concatenate(uncertainties) if uncertainties else None,
    )


def _in_words(tile: tuple[int, ...]) -> str:
    return " × ".join(map(str, tile))
