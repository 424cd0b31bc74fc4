"""Make the pictures of the built-in models for the page of the models: `.venv/bin/python scripts/model_pictures.py`.

Each model segments one slice of a synthetic sample three times: as it is, with a poor microscope, and with inverted
grey values. Green is found and right, red is found and wrong, blue is missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from napari_skipseg.api import segment
from napari_skipseg.images.synthetic.sample import SyntheticSample, make_isotropic_sample, make_sample
from napari_skipseg.models.catalog import BUILT_IN
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.scores.overlap import score_overlap

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "models"
RIGHT, WRONG, MISSED = (60, 200, 90), (235, 60, 60), (80, 130, 255)
SIDE = 384
"""Pixels of a panel's side."""
CAPTION = 22


def as_it_is(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `image` itself."""
    return image


def poor_microscope(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `image` out of focus, with noise and a third of its contrast."""
    blurred = np.stack([gaussian_filter(plane.astype(np.float32), 2.5) for plane in image])
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return np.clip(128 + (blurred - 128) / 3 + noise, 0, 255).astype(np.uint8)


def inverted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the negative of `image`."""
    return 255 - image


CASES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "as it is": as_it_is,
    "poor microscope": poor_microscope,
    "inverted": inverted,
}


def main() -> None:
    """Write a picture for each built-in model."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for folder in sorted(BUILT_IN.iterdir()):
        if (folder / "model.json").exists():
            model = read_model(folder)
            panels = [panel(model, name, change) for name, change in CASES.items()]
            picture = Image.new("RGB", (sum(one.width for one in panels) + 8, panels[0].height), "white")
            for number, one in enumerate(panels):
                picture.paste(one, (number * (SIDE + 4), 0))
            picture.save(PICTURES / f"{folder.name}.jpg", quality=85, optimize=True)


def panel(model: Model, name: str, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Image.Image:
    """Return the middle slice of a changed sample with what `model` found in it, and the Dice coefficients below."""
    sample = make_isotropic_sample() if model.description.spec.dimensions == 3 else make_sample((3, SIDE, SIDE), seed=5)
    stack = replace(sample.stack, data=change(np.asarray(sample.stack.data)))
    probability = segment(stack, model, rescale=model.description.unit == "nm").probability
    found = (probability if probability.ndim == 4 else probability[np.newaxis]) > 0.5
    middle, scores = stack.data.shape[0] // 2, []
    colours = np.repeat(np.asarray(stack.data)[middle, ..., np.newaxis], 3, axis=-1).astype(np.float32)
    for class_name, mask in zip(model.description.class_names, found, strict=True):
        truth = truth_of(sample, class_name)
        scores.append(f"{class_name} {score_overlap(mask, truth).dice:.2f}")
        paint(colours, mask[middle], truth[middle])
    drawn = Image.fromarray(colours.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    whole = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    whole.paste(drawn, (0, 0))
    text = f"{name}: Dice {', '.join(scores)}"
    ImageDraw.Draw(whole).text((4, SIDE + 4), text, "black", ImageFont.load_default(13))
    return whole


def truth_of(sample: SyntheticSample, class_name: str) -> NDArray[np.bool_]:
    """Return where the sample has the class."""
    return (sample.mitochondria if class_name.startswith("mito") else sample.membrane) > 0


def paint(colours: NDArray[np.float32], found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    """Blend the colours of right, wrong and missed pixels into `colours` (Y, X, 3)."""
    for where, colour in ((found & truth, RIGHT), (found & ~truth, WRONG), (~found & truth, MISSED)):
        colours[where] = 0.45 * colours[where] + 0.55 * np.array(colour, np.float32)


if __name__ == "__main__":
    main()
