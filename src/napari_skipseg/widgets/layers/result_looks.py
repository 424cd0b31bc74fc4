"""How results look: the colours of classes, and the same for those that are opened from their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.utils.colormaps import DirectLabelColormap

CLASS_COLORS = ("#2ee6c5", "#ffb347", "#7aa2ff", "#ff7ab6", "#c5f06b", "#d59bff")
PROBABILITY_LOOKS: dict[str, Any] = {"contrast_limits": (0, 1), "blending": "additive", "opacity": 0.6}
"""Beside its colour: a ramp from black, which adds nothing to the image, to the colour of the class."""
HIDDEN_MAP: dict[str, Any] = {"blending": "translucent", "opacity": 0.75, "visible": False}
"""How a map looks that one calls up to read it: added to a bright image it would drown."""

RESULT = re.compile(r"_(attention_\d+|uncertainty|probability|binary|objects)\.(tif|ome\.zarr)$")
MAP = {name: value for name, value in HIDDEN_MAP.items() if name != "visible"}
LOOKS: dict[str, dict[str, Any]] = {
    "attention": {"colormap": "viridis", **MAP},
    "uncertainty": {"colormap": "inferno", **MAP},
    "probability": PROBABILITY_LOOKS,
    "binary": {"opacity": 0.25},
    "objects": {"opacity": 0.5},
}
"""Of results, from the bottom of the layer list up."""


def choose_colors(names: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return a colour for each class: the one known by its name in small letters, else the first that is free."""
    colors: list[str] = []
    for name in names:
        taken = {*known.values(), *colors}
        free = [color for color in CLASS_COLORS if color not in taken] or CLASS_COLORS
        colors.append(known.get(name.casefold()) or free[0])
    return tuple(colors)


def label_colors(colors: Sequence[str]) -> DirectLabelColormap:
    """Return the colours of labels: nothing for 0, then those of the classes."""
    from napari.utils.colormaps import DirectLabelColormap

    table: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    table.update(enumerate(colors, start=1))
    return DirectLabelColormap(color_dict=table)


def result_kind(file: str) -> str:
    """Return which result a file of ours holds, one of `LOOKS`, by its name; "" where it is none."""
    found = RESULT.search(Path(file).name)
    return "" if found is None else found.group(1).partition("_")[0]


def looks_of(file: str, recipe: Mapping[str, Any] | None, data: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a layer of a file looks that bears a recipe of ours; empty for any other file.

    arguments: those that the layer has so far.
    """
    kind = result_kind(file) if recipe else ""
    if not recipe or not kind:
        return {}
    looks, classes = dict(LOOKS[kind]), [str(name) for name in recipe.get("classes", ())]
    if kind in ("probability", "uncertainty", "attention"):
        dtype = np.dtype((data[0] if arguments.get("multiscale") else data).dtype)
        highest = 255 if dtype.kind in "ui" else 0.5 if kind == "uncertainty" else 1
        looks["contrast_limits"] = (0, highest)
    colors = list(choose_colors(classes, {})) if classes else []
    if kind == "binary" and colors and recipe.get("layer") == "labels":
        looks["colormap"] = label_colors(colors)
    if kind == "probability" and colors:
        several = "channel_axis" in arguments and len(colors) > 1
        looks["colormap"] = colors if several else colors[0]
    if "channel_axis" in arguments and len(classes) > 1:
        looks["name"] = [f"{name} {arguments['name']}" for name in classes]
    return looks
