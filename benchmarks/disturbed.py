"""Images with black frames, lost sections, beads and hot pixels: is the tissue segmented as if they were not there?

    python benchmarks/disturbed.py ISBI_FOLDER GALA_FOLDER [--models NAME ...] [--kinds WORD ...] [--json FILE]

ISBI_FOLDER contains train-volume-00-24.tif and train-labels-00-24.tif, GALA_FOLDER train-image.tif and train-gt.tif.
Each kind of disturbance is made of the same crop. A row gives the Dice of the undisturbed and of the disturbed crop
against the truth in the tissue, and the share of areas without tissue that is called membrane.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

import napari_skipseg as skipseg

Volume = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """A disturbed volume beside its original.

    plain: the undisturbed volume, of the same grey values. border: pixels by which `image` is larger on each side in Y
    and X. tissue: where the two are compared, in the shape of `plain`. empty: where there is no tissue, in that of
    `image`.
    """

    name: str
    image: Volume
    plain: Volume
    tissue: Mask
    empty: Mask
    border: int = 0


@dataclass(frozen=True)
class Row:
    """The figures of a case with a model."""

    model: str
    kind: str
    plain: float
    disturbed: float
    empty: float
    findings: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether it meets the targets."""
        return self.disturbed >= self.plain - 0.03 and not self.empty > 0.01


def framed(volume: Volume, border: int, value: float) -> Case:
    """Return a volume in a frame."""
    around = ((0, 0), (border, border), (border, border))
    empty = np.pad(np.zeros(volume.shape, bool), around, constant_values=True)
    image = np.pad(volume, around, constant_values=value)
    return Case(f"frame of {border}, {value}", image, volume, np.ones(volume.shape, bool), empty, border)


def covered(name: str, volume: Volume, empty: Mask, value: float) -> Case:
    """Return a volume where a part has one value."""
    image = volume.copy()
    image[empty] = value
    return Case(name, image, volume, ~empty, empty)


def rotated(volume: Volume, degrees: float, value: float, order: int) -> Case:
    """Return a volume turned in its plane, with corners of one value, beside the same without these corners."""
    inner = np.zeros(volume.shape, np.float32)
    cut = slice(volume.shape[1] // 6, -(volume.shape[1] // 6))
    inner[:, cut, cut] = 1
    turned = ndimage.rotate(volume, degrees, (2, 1), reshape=False, order=order, mode="reflect")
    share = ndimage.rotate(inner, degrees, (2, 1), reshape=False, order=min(order, 1))
    blended = value + (turned.astype(np.float32) - value) * share
    image = blended.round().astype(volume.dtype) if volume.dtype.kind in "ui" else blended.astype(volume.dtype)
    return Case(f"turned by {degrees:g}°, order {order}, {value:g}", image, turned, share == 1, share == 0)


def blocks(shape: tuple[int, ...], *places: tuple[slice, ...]) -> Mask:
    """Return a mask that is set in some blocks."""
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


def spotted(name: str, volume: Volume, spots: Mask, value: float, around: int = 24) -> Case:
    """Return a volume with artefacts, which is compared at some distance from them."""
    image = volume.copy()
    image[spots] = value
    far = ~ndimage.binary_dilation(spots, np.ones((1, 3, 3), bool), iterations=around) if around else ~spots
    return Case(name, image, volume, far, np.zeros(volume.shape, bool))


def paddings(volume: Volume) -> Iterator[Case]:
    """Yield the volume with all kinds of constant areas."""
    depth, height, width = volume.shape
    values = (0, 128, 255) if volume.dtype == np.uint8 else (0, 65535, 1000)
    for border in (16, 32, 64, 128):
        yield framed(volume, border, 0)
    for value in values[1:]:
        yield framed(volume, 64, value)
    yield rotated(volume, 10, 0, 1)
    yield rotated(volume, 10, 0, 0)
    yield rotated(volume, 30, values[-1], 1)
    tile = (slice(None), slice(0, height // 3), slice(0, width // 3))
    yield covered("missing corner tile", volume, blocks(volume.shape, tile), 0)
    yield covered("missing tile of one slice", volume, blocks(volume.shape, (slice(0, 1), *tile[1:])), 0)
    rows, columns = np.mgrid[:height, :width]
    outside = np.hypot(rows - height / 2, columns - width / 2) > min(height, width) / 2
    yield covered("round field of view", volume, np.broadcast_to(outside, volume.shape), 0)
    yield covered("1 slice empty", volume, blocks(volume.shape, (slice(1, 2),)), 0)
    half = blocks(volume.shape, *((slice(z, z + 1),) for z in range(0, depth, 2)))
    yield covered("every 2nd slice empty", volume, half, values[-1])
    shifted = blocks(volume.shape, (slice(0, 1), slice(0, 20)), (slice(2, 3), slice(None), slice(-37, None)))
    yield covered("shifted slices", volume, shifted, 0)


def artefacts(volume: Volume) -> Iterator[Case]:
    """Yield the volume, in 16 bits and a low contrast, with outliers of the grey values."""
    deep = (volume // 2).astype(np.uint16) + 300
    depth, height, width = deep.shape
    yield spotted("bead of 12²", deep, blocks(deep.shape, (slice(0, 1), slice(100, 112), slice(100, 112))), 65535)
    yield spotted("bead of 40²", deep, blocks(deep.shape, (slice(0, 1), slice(60, 100), slice(100, 140))), 65535)
    yield spotted("dark crystal of 40²", deep, blocks(deep.shape, (slice(1, 2), slice(60, 100), slice(10, 50))), 0)
    random = np.random.default_rng(0)
    for share in (0.0001, 0.001):
        yield spotted(f"hot pixels, {share:.2%}", deep, random.random(deep.shape) < share, 65535, around=3)
        yield spotted(f"dead pixels, {share:.2%}", deep, random.random(deep.shape) < share, 0, around=3)
    image = deep.copy()
    hot = random.random(deep.shape) < 0.001
    image[hot] = random.integers(1000, 65536, int(hot.sum()))
    far = ~ndimage.binary_dilation(hot, np.ones((1, 3, 3), bool), iterations=3)
    yield Case("hot pixels of all values, 0.10%", image, deep, far, np.zeros(deep.shape, bool))
    columns = blocks(deep.shape, (slice(None), slice(None), slice(77, 78)), (slice(None), slice(None), slice(150, 152)))
    yield spotted("dead columns", deep, columns, 0)
    rows, columns_ = np.mgrid[:height, :width]
    glow = 20000 * np.exp(-((rows - 60) ** 2 + (columns_ - 180) ** 2) / (2 * 14.0**2))
    image = deep.astype(np.float64)
    image[depth // 2] += glow
    near = blocks(deep.shape)
    near[depth // 2] = glow > 1
    flashed = image.clip(0, 65535).astype(np.uint16)
    yield Case("charge flash of one slice", flashed, deep, ~ndimage.binary_dilation(near, iterations=24), near & False)
    stripe = blocks(deep.shape, (slice(0, 1), slice(40, 52)))
    yield spotted("bright stripe of one slice", deep, stripe, 30000)
    places = random.integers(10, (height - 20, width - 20), (8, 2))
    beads = [(slice(z % depth, z % depth + 1), slice(y, y + 8), slice(x, x + 8)) for z, (y, x) in enumerate(places)]
    yield spotted("8 gold beads of 8²", deep, blocks(deep.shape, *beads), 0)


def deep_paddings(volume: Volume) -> Iterator[Case]:
    """Yield some paddings of 16-bit and float images, and of both with artefacts."""
    deep = (volume // 2).astype(np.uint16) + 300
    yield framed(deep, 64, 0)
    yield framed(deep, 64, 65535)
    real = volume.astype(np.float32) / 255
    for value in (-9999.0, np.nan, 0.0):
        case = framed(real, 64, value)
        yield Case(f"float32, {case.name}", case.image, case.plain, case.tissue, case.empty, case.border)
    case = framed(deep, 64, 0)
    case.image[0, 100:140, 100:140] = 65535
    tissue = case.tissue.copy()
    tissue[0, 100 - 64 - 24 : 140 - 64 + 24, 100 - 64 - 24 : 140 - 64 + 24] = False
    yield Case("frame of 64, 0, and a bead of 40²", case.image, deep, tissue, case.empty, 64)


def dice(probability: Volume, truth: Mask, where: Mask) -> float:
    """Return the Dice coefficient of what is above one half."""
    found = (probability > 0.5) & where
    real = truth & where
    return float(2 * (found & real).sum() / max(1, found.sum() + real.sum()))


def measure(model: Any, case: Case, truth: Mask, plain: Volume, **options: Any) -> tuple[float, float, float, Any]:
    """Return both Dice coefficients, the share of the empty part that is called membrane, and the findings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = skipseg.segment(case.image, model, "ZYX", attention=False, **options)
    inside = (slice(None), *(slice(case.border, length - case.border) for length in case.image.shape[1:]))
    empty = float((found.probability[case.empty] > 0.5).mean()) if case.empty.any() else float("nan")
    findings = tuple(found.recipe.get("findings", ()))
    return dice(plain, truth, case.tissue), dice(found.probability[inside], truth, case.tissue), empty, findings


def rows_of(model_name: str, volume: Volume, truth: Mask, kinds: list[str]) -> Iterator[Row]:
    """Yield a row for each case."""
    model = skipseg.load_model(model_name)
    known: dict[bytes, Volume] = {}
    makers: tuple[Callable[[Volume], Iterator[Case]], ...] = (paddings, artefacts, deep_paddings)
    for case in (case for make in makers for case in make(volume)):
        if kinds and not any(kind in case.name for kind in kinds):
            continue
        key = case.plain.tobytes()
        if key not in known:
            known[key] = skipseg.segment(case.plain, model, "ZYX", attention=False).probability
        wanted = truth
        if case.name.startswith("turned"):
            degrees = float(case.name.split()[2].rstrip("°,"))
            wanted = ndimage.rotate(truth, degrees, (2, 1), reshape=False, order=0, mode="reflect")
        try:
            yield Row(model_name, case.name, *measure(model, case, wanted, known[key]))
        except skipseg.SkipsegError as error:
            yield Row(model_name, case.name, float("nan"), float("nan"), float("nan"), (str(error),))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("isbi", type=Path)
    parser.add_argument("gala", type=Path)
    parser.add_argument("--models", nargs="+", default=["em-membrane", "em-membrane-residual", "em-boundary-3d"])
    parser.add_argument("--kinds", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    rows = []
    print(
        "| model | kind | undisturbed | disturbed | of the empty part | right | said |\n|---|---|---|---|---|---|---|"
    )
    for name in flags.models:
        if name == "em-boundary-3d":
            volume = tifffile.imread(flags.gala / "train-image.tif")[:24]
            truth = tifffile.imread(flags.gala / "train-gt.tif")[:24] == 0
        else:
            cut = (slice(15, 18), slice(100, 356), slice(100, 356))
            volume = tifffile.imread(flags.isbi / "train-volume-00-24.tif")[cut]
            truth = tifffile.imread(flags.isbi / "train-labels-00-24.tif")[cut] == 0
        for row in rows_of(name, volume, truth, flags.kinds):
            rows.append(row)
            right = "yes" if row.is_right else "**no**"
            numbers = f"{row.plain:.3f} | {row.disturbed:.3f} | {row.empty:.1%}"
            print(f"| {row.model} | {row.kind} | {numbers} | {right} | {' '.join(row.findings)} |", flush=True)
    if flags.json:
        flags.json.write_text(json.dumps([vars(row) for row in rows]))


if __name__ == "__main__":
    main()
