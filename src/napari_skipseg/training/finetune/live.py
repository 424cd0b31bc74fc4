"""The live view: what the strokes so far teach, shown for the part of a slice that is on screen.

It fits the same classifier as quick fine-tuning, again after each stroke. The features of the view are computed once
and kept while the view stays, so a stroke costs one fit and one weighted sum of feature maps. Features of pixels that
were painted in other views are kept too, so all strokes count.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import Normalization
from napari_skipseg.models.description import check_trainable
from napari_skipseg.models.model import Model
from napari_skipseg.networks.head import add_pixel_heads
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute, choose_compute, one_thread
from napari_skipseg.training.distributed import ONE_PROCESS
from napari_skipseg.training.finetune.labelled_pixels import (
    Columns,
    LabelledPixels,
    columns_at,
    compute_features,
    group_maps,
    number_strokes,
)
from napari_skipseg.training.finetune.pixel_classifier import fit_class, iter_choose_regressions, write_head
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.progress import LIVE_TILE, LivePart, LiveResult

PIXELS_OF_LABEL = 50
"""Pixels of each label that are taken of a tile: as many for each area as quick fine-tuning takes."""
MOST_FITTED = 4000
"""Pixels that are fitted to. With more, a fit takes longer than a user waits for a stroke."""
DRAWN_IN_TILE = 75
"""Pixels drawn at random in each tile, on which is seen how often a class is called."""
MOST_TILES_KEPT = 512
"""Tiles whose features are kept: about 150 MB with the networks that are built in."""
LARGEST_CANVAS = 2**24
"""Pixels of the smallest box around the labels of a slice up to which strokes are followed from tile to tile."""
INDISTINCT = 0.65
"""Cross-validated loss in nats from which on a class cannot be distinguished: guessing has 0.69."""

ENOUGH_STROKES = 4
"""Strokes of a class, and of the rest, below which nothing is said about that: of 2 and 2 one odd one decides."""

TileKey = tuple[int, int, int, int]
"""Time, Z, and the number of a tile along Y and X."""
_Box = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class _Sums:
    """Number, sum and sum of squares of the values of each feature map."""

    count: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


@dataclass
class _Tile:
    """What is kept of a tile: its sums, columns of pixels drawn at random, and columns of labelled pixels by place."""

    sums: _Sums
    around: Columns
    columns: dict[int, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class _View:
    """The features of a view. start: where they begin along Y and X, a multiple of every stride."""

    time: int
    z: int
    box: _Box
    start: tuple[int, int]
    features: tuple[Tensor, ...]

    def contains(self, key: TileKey) -> bool:
        """Return whether a tile lies in the view."""
        inside = zip(key[2:], self.box, strict=True)
        return key[:2] == (self.time, self.z) and all(a <= n * LIVE_TILE < b for n, (a, b) in inside)


class LiveFeatures:
    """The features of one image that are kept between two strokes, and what was chosen for each class.

    key: the model, the image, and all else that the features depend on.

    Raises:
        InputError: the model is a 3D one, whose features take too long for a live view.
        DeviceError: as `choose_compute`.
    """

    def __init__(self, model: Model, key: Hashable, normalization: Normalization, device: str) -> None:
        spec = model.description.spec
        if spec.dimensions != 2:
            raise InputError(f"{model.description.name} is a 3D model, which is too slow for Live: choose a 2D model.")
        self.key, self._normalization = key, normalization
        kept = range(len(model.description.classes))
        check_trainable(model.description)
        self._network: TaughtNetwork = add_pixel_heads(model.network, kept, [len(kept)], classes=len(kept) + 1)
        self._head = self._network.head_of(len(kept))
        self._compute: Compute = choose_compute(_plain(self._network), "auto", device, None, ONE_PROCESS)
        self._compute.place(self._network).eval()
        self._view: _View | None = None
        self._widths: list[int] = []
        self._tiles: dict[TileKey, _Tile] = {}

    def iter_update(self, names: Sequence[str], parts: Sequence[LivePart]) -> Generator[Progress, None, LiveResult]:
        """Yield while features are computed and classes are fitted; return what the strokes teach about the view.

        names: of the classes. parts: the view, then tiles with labels elsewhere.
        """
        view, *others = parts
        labels = _labels_by_tile(view, others)
        yield from self._iter_view(view)
        yield from self._iter_tiles(labels, others)
        note = _find_need(names, labels)
        taught = [number for number in range(len(names)) if _has_both(labels, number + 2)]
        if not taught:
            return LiveResult((), None, note)
        # a stroke is many small products: where another program had one of two cores, two threads that wait for each
        # other took 1-3 s of the processor for it, and one takes 0.4
        with one_thread():
            pixels = self._gather(labels)
            shown: list[NDArray[np.float32]] = []
            alike: list[str] = []
            for number in taught:
                positive = pixels.labels == number + 1
                yield Progress(len(shown), len(taught), f"fitting {names[number]}")
                choices = yield from iter_choose_regressions(pixels, positive)
                fitted = fit_class(pixels, positive, choices)
                write_head(self._head, fitted, pixels)
                shown.append(self._apply())
                if fitted.loss > INDISTINCT and _count_strokes(pixels, positive) >= ENOUGH_STROKES:
                    alike.append(names[number])
        if alike:
            note = (
                f"The strokes of {' and '.join(alike)} look like the others to this model: look for strokes of the "
                "wrong class, paint clearer places, or choose another model."
            )
        return LiveResult(tuple(names[number] for number in taught), np.stack(shown), note)

    def _iter_view(self, part: LivePart) -> Generator[Progress, None, None]:
        """Compute the features of a view unless they are there."""
        place = part.time, part.z, part.box
        if self._view is not None and (self._view.time, self._view.z, self._view.box) == place:
            return
        yield Progress(0, 1, "computing the features of the view")
        self._view = None  # so that two views are never in memory together
        features, start = self._compute_features(part)
        self._view = _View(*place, start, features)

    def _compute_features(self, part: LivePart) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Return the features of a part with a border, and where they begin in the image."""
        pixels, _ = self._normalization.prepare(part.pixels[:, None])
        inside = tuple(
            slice(start - corner, stop - corner) for (start, stop), corner in zip(part.box, part.corner, strict=True)
        )
        # quick fine-tuning keeps crops in half precision
        image = pixels[:, 0].astype(np.float16)
        features, begin = compute_features(self._network, image, inside, self._compute)
        self._widths = [maps.shape[1] for maps in features]
        y, x = (start - offset for (start, _), offset in zip(part.box, begin, strict=True))
        return features, (y, x)

    def _iter_tiles(
        self, labels: dict[TileKey, NDArray[np.uint8]], others: Sequence[LivePart]
    ) -> Generator[Progress, None, None]:
        """Compute what is missing of the tiles with labels, from the features of the view where they lie in it."""
        view = self._view
        parts = {_key_of(part): part for part in others}
        wanted = {key: _places_of(key, values, _cap(labels)) for key, values in labels.items()}
        missing = [key for key, places in wanted.items() if not self._knows(key, places)]
        for key in missing:
            if view is not None and view.contains(key):
                self._keep(key, wanted[key], view.features, view.start)
        elsewhere = [key for key in missing if key in parts]
        for done, key in enumerate(elsewhere, start=1):
            yield Progress(done, len(elsewhere), f"reading earlier strokes: {done} of {len(elsewhere)}")
            self._keep(key, wanted[key], *self._compute_features(parts[key]))
        for key in [key for key in self._tiles if key not in labels][: max(0, len(self._tiles) - MOST_TILES_KEPT)]:
            del self._tiles[key]

    def _knows(self, key: TileKey, places: NDArray[np.intp]) -> bool:
        tile = self._tiles.get(key)
        return tile is not None and all(int(place) in tile.columns for place in places)

    def _keep(self, key: TileKey, places: NDArray[np.intp], features: Sequence[Tensor], start: tuple[int, int]) -> None:
        """Keep the columns of pixels of a tile, given by their places in it."""
        corner = key[2] * LIVE_TILE - start[0], key[3] * LIVE_TILE - start[1]
        strides = self._network.feature_strides
        with one_thread():
            if key not in self._tiles:
                around = np.random.default_rng(key).integers(LIVE_TILE**2, size=DRAWN_IN_TILE)
                sums = _sum_up(features, strides, corner)
                self._tiles[key] = _Tile(sums, columns_at(strides, features, _in_maps(around, corner)))
            tile = self._tiles[key]
            new = np.array([place for place in places.tolist() if place not in tile.columns], np.intp)
            tile.columns.update(zip(new.tolist(), columns_at(strides, features, _in_maps(new, corner)), strict=True))

    def _gather(self, labels: dict[TileKey, NDArray[np.uint8]]) -> LabelledPixels:
        """Return the labelled pixels of all tiles."""
        strokes = _number_all(labels)
        cap = _cap(labels)
        columns, values, names = [], [], []
        known = [key for key in labels if key in self._tiles]
        for key in known:
            places = _places_of(key, labels[key], cap)
            tile = self._tiles[key].columns
            columns.append(np.stack([tile[place] for place in places.tolist()]))
            values.append(labels[key].ravel()[places].astype(np.int64) - 1)
            names.append(strokes[key].ravel()[places])
        sums = [self._tiles[key].sums for key in known]
        count = np.sum([each.count for each in sums], axis=0)
        means = np.sum([each.total for each in sums], axis=0) / count
        variances = np.maximum(np.sum([each.squares for each in sums], axis=0) / count - means**2, 1e-6)
        lengths = np.cumsum(self._widths)[:-1]
        joined = np.concatenate(columns)
        return LabelledPixels(
            columns=joined,
            labels=np.concatenate(values),
            strokes=np.concatenate(names),
            is_painted=np.ones(len(joined), bool),
            around=np.concatenate([self._tiles[key].around for key in known]),
            means=tuple(np.split(means.astype(np.float32), lengths)),
            variances=tuple(np.split(variances.astype(np.float32), lengths)),
            groups=group_maps(self._network),
        )

    def _apply(self) -> NDArray[np.float32]:
        """Return the probability of the class whose weights the head has, for the view's box."""
        view = self._view
        if view is None:
            raise ValueError("no view was computed")
        with torch.inference_mode():
            probability = torch.sigmoid(self._head(view.features))[0, 0].float().cpu().numpy()
        inside = tuple(slice(a - first, b - first) for (a, b), first in zip(view.box, view.start, strict=True))
        found: NDArray[np.float32] = np.ascontiguousarray(probability[inside])
        return found


def _count_strokes(pixels: LabelledPixels, positive: NDArray[np.bool_]) -> int:
    """Return the number of strokes of a class, or of all else if these are fewer."""
    return min(len(np.unique(pixels.strokes[side])) for side in (positive, ~positive))


def _plain(network: TaughtNetwork) -> Network:
    """Return the network without pixel heads: it is what a device must be able to run."""
    return network.body


def _key_of(part: LivePart) -> TileKey:
    return part.time, part.z, part.box[0][0] // LIVE_TILE, part.box[1][0] // LIVE_TILE


def _labels_by_tile(view: LivePart, others: Sequence[LivePart]) -> dict[TileKey, NDArray[np.uint8]]:
    """Return the labels of each tile that has some; tiles at the end of an image are filled with 0."""
    found: dict[TileKey, NDArray[np.uint8]] = {}
    for part in (view, *others):
        (top, bottom), (left, right) = part.box
        for y in range(top, bottom, LIVE_TILE):
            for x in range(left, right, LIVE_TILE):
                values = part.labels[y - top : y - top + LIVE_TILE, x - left : x - left + LIVE_TILE]
                if values.any():
                    whole = np.zeros((LIVE_TILE, LIVE_TILE), np.uint8)
                    whole[: values.shape[0], : values.shape[1]] = values
                    found.setdefault((part.time, part.z, y // LIVE_TILE, x // LIVE_TILE), whole)
    return found


def _cap(labels: dict[TileKey, NDArray[np.uint8]]) -> int:
    """Return how many pixels of each label are taken of a tile."""
    kinds = sum(len(np.unique(values[values > 0])) for values in labels.values())
    return min(PIXELS_OF_LABEL, max(5, MOST_FITTED // max(1, kinds)))


def _places_of(key: TileKey, values: NDArray[np.uint8], cap: int) -> NDArray[np.intp]:
    """Return places in a tile: at most `cap` of each label, nearly the same ones as a stroke grows."""
    order = np.random.default_rng(key).permutation(LIVE_TILE**2)
    drawn = values.ravel()[order]
    return np.concatenate([order[drawn == label][:cap] for label in np.unique(values[values > 0])])


def _number_all(labels: dict[TileKey, NDArray[np.uint8]]) -> dict[TileKey, NDArray[np.int64]]:
    """Return the number of the stroke of each pixel: strokes that cross tiles are one, if these are not far apart."""
    numbers: dict[TileKey, NDArray[np.int64]] = {}
    highest = 0
    for time, z in dict.fromkeys(key[:2] for key in labels):
        keys = [key for key in labels if key[:2] == (time, z)]
        corners = np.array([key[2:] for key in keys])
        low, high = corners.min(axis=0), corners.max(axis=0) + 1
        together = int(np.prod((high - low) * LIVE_TILE)) <= LARGEST_CANVAS
        for group in [keys] if together else [[key] for key in keys]:
            first = low if together else np.array(group[0][2:])
            height, width = ((high - low) if together else np.array([1, 1])) * LIVE_TILE
            canvas = np.full((height, width), IGNORED, np.int16)
            places = {key: tuple(slice(n * LIVE_TILE, (n + 1) * LIVE_TILE) for n in key[2:] - first) for key in group}
            for key, place in places.items():
                canvas[place] = np.where(labels[key] > 0, labels[key].astype(np.int16), IGNORED)
            found = number_strokes(canvas, LIVE_TILE)
            for key, place in places.items():
                numbers[key] = np.where(found[place] > 0, found[place] + highest, 0)
            highest += int(found.max())
    return numbers


def _has_both(labels: dict[TileKey, NDArray[np.uint8]], value: int) -> bool:
    """Return whether pixels of a class are labelled, and pixels that are not of it."""
    return any((values == value).any() for values in labels.values()) and any(
        ((values > 0) & (values != value)).any() for values in labels.values()
    )


def _find_need(names: Sequence[str], labels: dict[TileKey, NDArray[np.uint8]]) -> str:
    """Return what has to be painted before all classes can be shown, "" if nothing has."""
    seen = {int(value) for tile in labels.values() for value in np.unique(tile)} - {0}
    missing = [name for value, name in enumerate(names, start=2) if value not in seen]
    if not seen:
        return f"Paint a stroke of {' or '.join(names)}, and one of the background."
    if 1 not in seen:
        return "Paint a stroke of the background too."
    if len(missing) == len(names):
        return f"Paint a stroke of {' or '.join(missing)} too."
    return ""


def _sum_up(features: Sequence[Tensor], strides: Sequence[int], corner: tuple[int, int]) -> _Sums:
    """Return the sums of feature maps over a tile that begins at `corner` of the finest map."""
    counts, totals, squares = [], [], []
    for stride, values in zip(strides, features, strict=True):
        y, x = (start // stride for start in corner)
        side = max(1, LIVE_TILE // stride)
        flat = values[0, :, y : y + side, x : x + side].flatten(1).double()
        counts.append(np.full(len(flat), flat.shape[1], np.float64))
        totals.append(flat.sum(dim=1).cpu().numpy())
        squares.append(flat.square().sum(dim=1).cpu().numpy())
    return _Sums(np.concatenate(counts), np.concatenate(totals), np.concatenate(squares))


def _in_maps(places: NDArray[np.intp], corner: tuple[int, int]) -> tuple[NDArray[np.intp], ...]:
    """Return Y and X in the finest map of places in a tile that begins at `corner` of it."""
    return tuple(first + part for first, part in zip(corner, np.divmod(places, LIVE_TILE), strict=True))
