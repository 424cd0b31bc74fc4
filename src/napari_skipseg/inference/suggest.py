"""Which model suits an image: all installed models are tried on a part of it and ranked, without training.

A few strokes of a class that a model knows decide. Without strokes three things count: how little the result changes
if the image is turned, or blurred and made brighter; how sure the model is; and how near the image is to its training
images. These show which models suit the image, not what somebody wants to find in it. If models of different classes
suit it about as well, a note says so. Loads without torch.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.images.intensity.normalize import Normalization
from napari_skipseg.images.intensity.signature import LEAST_SIDE, limit_for, sign_image, signature_distance
from napari_skipseg.images.resample import resample_axis
from napari_skipseg.images.space import METRES, Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.scale import LARGEST, SMALLEST, network_scale, trained_voxel_size
from napari_skipseg.models.catalog import find_models
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.interface import Backend

PART_SEEN = {2: (512, 512), 3: (32, 96, 96)}
"""Largest part that a network sees, on its own grid."""
PART_UNPAINTED = {2: (384, 384), 3: (32, 64, 64)}
"""The same without strokes, which may lie anywhere in it."""
PART_CHANGED = {2: (256, 256), 3: (32, 64, 64)}
"""Part of it that is changed and seen again."""
LEAST_DEPTH = 8
"""Slices below which a 3D model is not tried."""
BLUR, GAIN = 0.7, 1.15
"""Deviation of the blur in pixels, and the factor on the contrast: about the difference between two stacks."""
HARDLY, NEARLY_ALL = 0.002, 0.7
"""Mean probability below which a model finds hardly anything, and above which it finds nearly everything."""
WEIGHT_OF_IMAGE = 0.1
"""What it counts beside the area under the curve of a few strokes how well the image suits a model. On the worst of
seven sets Dice of the first model was 0.011 below the best (mean of 6 drawings of 5 strokes), and 0.035 without."""
AS_SUITED = 0.75
"""Share of the first model's score from which a model of other classes suits an image about as well. On seven sets: 0.9
to 1 where the wrong one of two classes came first or nearly so, at most 0.7 where the right one did."""
STEADY_ENOUGH = 0.9
"""Agreement from which a model is not the better for more."""
GOOD_AUC, POOR_AUC = 0.8, 0.65
"""A model knows a class if it sorts pixels of strokes so well; below the second it contradicts them. 0.5 is chance."""
STEADY_FROM, UNSTEADY_TO = 0.85, 0.7
SURE_FROM, UNSURE_TO = 0.8, 0.55
COMMON_LETTERS = 4
"""First letters that names of one class share: mitochondrion and mitochondria, membrane and membranes."""


@dataclass(frozen=True)
class SuggestView:
    """A part of an image on which models are tried.

    pixels: grey values (C, Z, Y, X), one slice if the image has no Z. space: its voxel size. at: the slice of `labels`.
    labels: (Y, X) uint8: 0 = nothing, 1 = background, 2 and more = the classes in `names`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    pixels: NDArray[Any]
    space: Space
    normalization: Normalization
    at: int = 0
    labels: NDArray[Any] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suggestion:
    """A model, and whether the image should be rescaled for it.

    score: in [0, 1]; how well strokes are sorted if `by_strokes`, else how well the image suits the model. reasons:
    short phrases. suits: how well the image suits the model, in [0, 1]. classes: what it finds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    rescale: bool
    score: float
    reasons: tuple[str, ...]
    by_strokes: bool = False
    suits: float = 0.0
    classes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the suggestion in one line."""
        return f"{self.model}{', rescaled' if self.rescale else ''}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Suggestions:
    """Models that can be used, the best first, and why others cannot.

    note: a sentence to be read first, if the order does not decide; else "".
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    ranked: tuple[Suggestion, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def view_of_stack(
    stack: Stack, normalization: Normalization, labels: Stack | None, names: tuple[str, ...]
) -> SuggestView:
    """Return the middle of a stack, or the part around its labels (with the axes of the stack without C).

    Raises:
        InputError: labels of a different shape.
    """
    axes = stack.space.axes
    sizes = {axis: stack.length(axis) for axis in "TZYX"}
    middle = {axis: length // 2 for axis, length in sizes.items()}
    painted = None
    if labels is not None:
        painted = np.asarray(labels.data[...])
        if painted.shape != tuple(stack.length(axis) for axis in axes if axis != "C"):
            raise InputError(f"The labels have the shape {painted.shape}, which is not that of '{stack.name}'.")
        flat = [axis for axis in axes if axis != "C"]
        slices = painted.reshape(-1, *painted.shape[-2:])
        best = int(np.argmax([np.count_nonzero(each > 1) * np.count_nonzero(each == 1) for each in slices]))
        found = np.unravel_index(best, painted.shape[:-2]) if painted.ndim > 2 else ()
        middle |= {axis: int(place) for axis, place in zip(flat, found, strict=False)}
        if slices[best].any():
            middle |= dict(zip("YX", (int(at) for at in np.median(np.argwhere(slices[best]), axis=0)), strict=True))
        painted = slices[best]
    depth, side = PART_SEEN[3][0], PART_SEEN[2][0]
    spans = {"T": slice(middle["T"], middle["T"] + 1), "C": slice(None)}
    for axis, length in (("Z", depth), ("Y", side), ("X", side)):
        start = max(0, min(middle[axis] - length // 2, sizes[axis] - length))
        spans[axis] = slice(start, min(start + length, sizes[axis]))
    values = stack.read(tuple(spans[axis] for axis in axes))
    order = [axes.index(axis) for axis in "TCZYX" if axis in axes]
    missing = tuple(number for number, axis in enumerate("TCZYX") if axis not in axes)
    pixels = np.expand_dims(values.transpose(order), missing)[0]
    if painted is not None:
        painted = painted[spans["Y"], spans["X"]].astype(np.uint8)
    space = Space("CZYX", stack.space.voxel_size, stack.space.unit)
    return SuggestView(pixels, space, normalization, middle["Z"] - spans["Z"].start, painted, names)


def iter_suggest(view: SuggestView, device: str = "auto") -> Generator[Progress, None, Suggestions]:
    """Yield before each model is tried; return all models that can be used, the best first.

    Raises:
        SkipsegError: there is no such device.
    """
    candidates, copies, left_out = _find_candidates(view)
    found, opened = [], _Opened(device)
    for done, (folder, description, rescale) in enumerate(candidates):
        yield Progress(done, len(candidates), f"trying {description.name}{', rescaled' if rescale else ''}")
        try:
            found.append(_try_model(view, opened.backend(folder), description, rescale))
        except SkipsegError as error:
            left_out[description.name] = str(error)
    best: dict[str, Suggestion] = {}
    for each in found:
        if each.model not in best or _rank(each) > _rank(best[each.model]):
            best[each.model] = each
    for name, others in copies.items():
        if name in best:
            reasons = (*best[name].reasons, f"same weights as {', '.join(others)}")
            best[name] = replace(best[name], reasons=reasons)
    ranked = tuple(sorted(best.values(), key=_rank, reverse=True))
    return Suggestions(ranked, left_out, _describe_doubt(ranked))


def _describe_doubt(ranked: Sequence[Suggestion]) -> str:
    """Return a sentence that asks for strokes if a model of other classes suits the image about as well; else ""."""
    if not ranked or ranked[0].by_strokes:
        return ""
    first = ranked[0]
    others = [
        each
        for each in ranked[1:]
        if each.score >= AS_SUITED * first.score
        and not any(is_same_class(one, two) for one in each.classes for two in first.classes)
    ]
    if not others:
        return ""
    finds = [f"{each.model} finds {' and '.join(each.classes)}" for each in (first, others[0])]
    return (
        f"Which model it is cannot be decided without strokes: {', '.join(finds)}, and the image suits both. Paint "
        "five strokes, of what you want to find and of the background."
    )


def _rank(suggestion: Suggestion) -> tuple[int, float]:
    """Return what suggestions are sorted by: models that sort the strokes, others, those that contradict them."""
    if not suggestion.by_strokes:
        return 1, suggestion.score
    return (2 if suggestion.score >= POOR_AUC else 0), suggestion.score + WEIGHT_OF_IMAGE * suggestion.suits


def _find_candidates(
    view: SuggestView,
) -> tuple[list[tuple[Path, ModelDescription, bool]], dict[str, list[str]], dict[str, str]]:
    """Return models with and without rescaling, the copies of models, by the first's name, and why others cannot be
    used.
    """
    channels, depth, *sides = view.pixels.shape
    candidates, left_out = [], {}
    first: dict[str, str] = {}
    copies: dict[str, list[str]] = {}
    for name, folder in find_models().items():
        try:
            description = read_description(folder)
        except SkipsegError as error:
            left_out[name] = str(error)
            continue
        spec = description.spec
        if description.normalization == "steps":
            left_out[name] = "was imported, and takes other grey values than the models that are compared"
        elif spec.in_channels != channels:
            left_out[name] = f"takes {spec.in_channels} channels, the image has {channels}"
        elif spec.dimensions == 3 and depth < LEAST_DEPTH:
            left_out[name] = "needs a volume, and this is a slice"
        elif min(sides) < LEAST_SIDE:
            left_out[name] = "the image is too small to tell"
        elif (same := first.setdefault(_result_key(description), name)) != name:
            copies.setdefault(same, []).append(name)
        else:
            factors = list(_factors(view, description).values())
            candidates.append((folder, description, False))
            if any(factor != 1 for factor in factors) and all(SMALLEST <= factor <= LARGEST for factor in factors):
                candidates.append((folder, description, True))
    return candidates, copies, left_out


def _result_key(description: ModelDescription) -> str:
    """Return what two models have in common that find the same: their weights, classes and voxel size."""
    return repr((description.weights_sha256, description.class_names, description.voxel_size, description.unit))


def _factors(view: SuggestView, description: ModelDescription) -> dict[str, float]:
    """Return how many of the model's voxels one of the image is long, by axis; empty if it is not known."""
    stack = Stack(view.pixels, view.space)
    return network_scale(stack, description, "ZYX"[-description.spec.dimensions :])


class _Opened:
    """Keeps the model that was opened last: it is tried with and without rescaling."""

    def __init__(self, device: str) -> None:
        self._device, self._folder = device, Path()
        self._backend: Backend | None = None

    def backend(self, folder: Path) -> Backend:
        """Return a model that computes in torch, because compiling it would take longer than a few patches."""
        from napari_skipseg.devices import choose_device
        from napari_skipseg.inference.backends.torch_backend import TorchBackend
        from napari_skipseg.models.model import read_model

        if self._backend is None or folder != self._folder:
            backend = TorchBackend(read_model(folder), choose_device(self._device))
            backend.attention = False
            self._folder, self._backend = folder, backend
        return self._backend


def _try_model(view: SuggestView, backend: Backend, description: ModelDescription, rescale: bool) -> Suggestion:
    from napari_skipseg.inference.certainty import USUAL_CERTAINTY, certainty_of

    factors = _factors(view, description) if rescale else {}
    pixels, corner = _network_pixels(view, description, factors)
    probability = _run(backend, pixels, description.stride)
    reasons = [_describe_scale(view, description, factors)]
    auc, class_name = _sort_strokes(view, description, probability, factors, corner)
    away, limit = _distance(pixels, description)
    agreement = _agreement(backend, pixels, probability, description)
    certainty = certainty_of(probability).ratio / (description.certainty or USUAL_CERTAINTY)
    finds = float(probability.max(axis=0).mean())
    if auc is not None:
        verdict = "finds" if auc >= GOOD_AUC else "is poor at" if auc >= POOR_AUC else "contradicts"
        reasons.insert(0, f"{verdict} your strokes of {class_name} (area under the curve {auc:.2f})")
    elif view.names and view.labels is not None and (view.labels > 1).any():
        reasons.insert(0, f"does not know {' or '.join(view.names)}")
    if away is not None:
        like = "like" if away <= limit else "unlike"
        reasons.append(f"the image is {like} its training images")
    finds_some = HARDLY <= finds <= NEARLY_ALL
    if not finds_some:
        reasons.append(f"finds {'hardly anything' if finds < HARDLY else 'nearly everything'}")
    else:
        if not UNSTEADY_TO < agreement < STEADY_FROM:
            reasons.append(
                f"{'steady' if agreement >= STEADY_FROM else 'unsteady'} under small changes ({agreement:.2f})"
            )
        if not UNSURE_TO < certainty < SURE_FROM:
            reasons.append(f"{'sure' if certainty >= SURE_FROM else 'unsure'} of what it finds")
    familiar = 0.5 if away is None else 1 / (1 + (away / limit) ** 2)
    steady = min(1.0, agreement / STEADY_ENOUGH)
    suits = familiar * steady * min(1.0, certainty) if finds_some else 0.0
    return Suggestion(
        model=description.name,
        rescale=rescale,
        score=suits if auc is None else auc,
        reasons=tuple(reasons),
        by_strokes=auc is not None,
        suits=suits,
        classes=description.class_names,
    )


def _network_pixels(
    view: SuggestView, description: ModelDescription, factors: Mapping[str, float]
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Return the part that a network sees (C, *space), on its grid in standard units, and where it begins there."""
    dimensions = description.spec.dimensions
    pixels, _ = view.normalization.prepare(view.pixels)
    if dimensions == 2:
        pixels = pixels[:, view.at]
    for axis, factor in factors.items():
        number = 1 + "ZYX"[-dimensions:].index(axis)
        if factor != 1:
            length = pixels.shape[number]
            places = np.arange(max(1, round(length * factor)))
            pixels = resample_axis(pixels, number, 0, length, length / len(places), places)
    labelled = None if view.labels is None else np.argwhere(view.labels > 0)
    sides = PART_SEEN[dimensions]
    if labelled is None or not len(labelled):
        sides = tuple(min(pair) for pair in zip(sides, PART_UNPAINTED[dimensions], strict=True))
    start = []
    for number, (length, side) in enumerate(zip(pixels.shape[1:], sides, strict=True)):
        axis = "ZYX"[-dimensions:][number]
        middle = length / 2 if axis != "Z" else view.at * factors.get(axis, 1.0)
        if labelled is not None and len(labelled) and axis in "YX":
            middle = float(np.median(labelled[:, "YX".index(axis)])) * factors.get(axis, 1.0)
        start.append(int(max(0, min(middle - side / 2, length - side))))
    cut = tuple(slice(first, first + side) for first, side in zip(start, sides, strict=True))
    return np.ascontiguousarray(pixels[(slice(None), *cut)], np.float32), tuple(start)


def _run(backend: Backend, pixels: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Return the probability (classes, *space) of pixels of any size."""
    missing = [(0, -length % stride) for length in pixels.shape[1:]]
    padded = np.pad(pixels, [(0, 0), *missing], mode="symmetric")
    inside = tuple(slice(length) for length in pixels.shape[1:])
    found: NDArray[np.float32] = backend.run(padded[None]).probability[0][(slice(None), *inside)].astype(np.float32)
    return found


def _agreement(
    backend: Backend, pixels: NDArray[np.float32], probability: NDArray[np.float32], description: ModelDescription
) -> float:
    """Return how little the result changes if the image is turned, or blurred with more contrast: mean soft Dice.

    probability: of all pixels. Compared is the middle of a part, which sees the same around it.
    """
    from scipy import ndimage

    sides = PART_CHANGED[description.spec.dimensions]
    starts = [max(0, (length - side) // 2) for length, side in zip(pixels.shape[1:], sides, strict=True)]
    cut = (slice(None), *(slice(a, a + side) for a, side in zip(starts, sides, strict=True)))
    part, usual = pixels[cut], probability[cut]
    edges = [min(description.margin, length // 4) for length in part.shape[1:]]
    middle = (slice(None), *(slice(edge, length - edge) for edge, length in zip(edges, part.shape[1:], strict=True)))
    turned = _run(backend, np.ascontiguousarray(np.flip(part, (-1, -2))), description.stride)
    blurred = ndimage.gaussian_filter(part, (*(0,) * (part.ndim - 2), BLUR, BLUR)) * np.float32(GAIN)
    changed = np.flip(turned, (-1, -2)), _run(backend, blurred, description.stride)
    return float(np.mean([_soft_dice(usual[middle], each[middle]) for each in changed]))


def _soft_dice(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    total = float(one.sum() + other.sum())
    return 2 * float(np.minimum(one, other).sum()) / total if total else 0.0


def _distance(pixels: NDArray[np.float32], description: ModelDescription) -> tuple[float | None, float]:
    """Return how far the image is from the training images, None if nothing is known of these, and the limit."""
    planes = pixels if description.spec.dimensions == 2 else pixels[:, pixels.shape[1] // 2]
    signature = sign_image([planes]) if min(planes.shape[1:]) >= LEAST_SIDE else None
    limit = limit_for({"Y": planes.shape[1], "X": planes.shape[2]})
    if signature is None or not description.signatures:
        return None, limit
    return signature_distance(signature, description.signatures)[0], limit


def _sort_strokes(
    view: SuggestView,
    description: ModelDescription,
    probability: NDArray[np.float32],
    factors: Mapping[str, float],
    corner: Sequence[int],
) -> tuple[float | None, str]:
    """Return how well a model sorts the pixels of strokes (area under the ROC curve), and of which class.

    None if it knows none of the classes, or the part has no strokes of a class and of something else. Of several
    classes the mean counts.
    """
    if view.labels is None:
        return None, ""
    if description.spec.dimensions == 3:
        depth = round((view.at + 0.5) * factors.get("Z", 1.0) - 0.5) - corner[0]
        probability = probability[:, min(max(depth, 0), probability.shape[1] - 1)]
    places = np.argwhere(view.labels > 0)
    labels = view.labels[tuple(places.T)]
    scaled = [
        np.floor((places[:, number] + 0.5) * factors.get(axis, 1.0)).astype(int) - corner[number - 2]
        for number, axis in enumerate("YX")
    ]
    inside = np.all([(at >= 0) & (at < n) for at, n in zip(scaled, probability.shape[1:], strict=True)], axis=0)
    labels, at = labels[inside], tuple(each[inside] for each in scaled)
    found = {}
    from scipy import stats  # it takes half a second to import

    for number, name in enumerate(view.names, start=2):
        known = [place for place, own in enumerate(description.class_names) if is_same_class(name, own)]
        positive = labels == number
        if known and positive.any() and not positive.all():
            values = probability[known[0]][at]
            rank = stats.mannwhitneyu(values[positive], values[~positive]).statistic
            found[name] = float(rank) / (np.count_nonzero(positive) * np.count_nonzero(~positive))
    if not found:
        return None, ""
    return float(np.mean(list(found.values()))), " and ".join(found)


def is_same_class(one: str, other: str) -> bool:
    """Return whether two names are of one class, such as mitochondrion and mitochondria."""
    first, second = one.casefold().strip(), other.casefold().strip()
    shortest = min(len(first), len(second))
    return first == second or (shortest >= COMMON_LETTERS and first[:COMMON_LETTERS] == second[:COMMON_LETTERS])


def _describe_scale(view: SuggestView, description: ModelDescription, factors: Mapping[str, float]) -> str:
    """Return what the network sees: the image's own voxels, or voxels of another size."""
    trained = trained_voxel_size(description, view.space.unit, "ZYX"[-description.spec.dimensions :])
    if trained is None:
        unknown = [
            owner for owner, unit in (("image", view.space.unit), ("model", description.unit)) if unit not in METRES
        ]
        return f"the voxel size of the {' and of the '.join(unknown)} is not known"
    if factors:
        size = math.sqrt(trained[1] * trained[2])
        return f"pixels of {size:.3g} {view.space.unit}, as in its training"
    away = max((abs(math.log(factor)) for factor in _factors(view, description).values()), default=0.0)
    return "pixels of the size of its training" if away == 0 else f"pixels {math.exp(away):.2g} times off its training"
