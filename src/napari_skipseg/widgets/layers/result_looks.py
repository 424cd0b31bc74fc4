"""The appearance of results: colours of classes, for new results and for those opened from files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.corrections.subject import CLASS_COLORS

if TYPE_CHECKING:
    from napari.utils.colormaps import DirectLabelColormap

PROBABILITY_LOOKS: dict[str, Any] = {"contrast_limits": (0, 1), "blending": "additive", "opacity": 0.6}
"""Its colormap goes from black, which adds nothing to the image, to the colour of the class."""
HIDDEN_MAP: dict[str, Any] = {"blending": "translucent", "opacity": 0.75, "visible": False}
"""A map that the user shows to read its values; additive blending would hide it in a bright image."""

RESULT = re.compile(r"_(attention_\d+|uncertainty|probability|binary|objects)\.(tif|ome\.zarr)$")
MAP = {name: value for name, value in HIDDEN_MAP.items() if name != "visible"}
LOOKS: dict[str, dict[str, Any]] = {
    "attention": {"colormap": "viridis", **MAP},
    "uncertainty": {"colormap": "inferno", **MAP},
    "probability": PROBABILITY_LOOKS,
    "binary": {"opacity": 0.25},
    "objects": {"opacity": 0.5},
}
"""By kind of result, from the bottom of the layer list to the top."""


def choose_colors(names: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return a colour for each class: the known one of its name in small letters, else the first free one."""
    colors: list[str] = []
    for name in names:
        taken = {*known.values(), *colors}
        free = [color for color in CLASS_COLORS if color not in taken] or CLASS_COLORS
        colors.append(known.get(name.casefold()) or free[0])
    return tuple(colors)


def label_colors(colors: Sequence[str]) -> DirectLabelColormap:
    """Return the colormap of labels: transparent for 0, then the colours of the classes."""
    from napari.utils.colormaps import DirectLabelColormap

    table: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    table.update(enumerate(colors, start=1))
    return DirectLabelColormap(color_dict=table)


def result_kind(file: str) -> str:
    """Return the kind of result in a file by its name, one of `LOOKS`; "" if it is not a result."""
    found = RESULT.search(Path(file).name)
    return "" if found is None else found.group(1).partition("_")[0]


def looks_of(file: str, recipe: Mapping[str, Any] | None, data: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layer arguments of a result that is opened from a file; empty without a recipe of ours.

    arguments: the layer arguments so far.
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
