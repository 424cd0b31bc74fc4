"""In what a search for objects is otherwise than the one that its recipe tells of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from napari_skipseg.images.space import Space
from napari_skipseg.inference.recipes.recipe import ObjectsRecipe, RecipeInput, objects_differences
from napari_skipseg.objects.options import ObjectOptions

IMAGE = RecipeInput(
    "em", "/data/em.tif", "ab" * 32, (2, 8, 9), "uint8", Space("ZYX", (50.0, 4.0, 4.0), "nm", (0.0, 0.0, 0.0))
)
PROBABILITY = replace(IMAGE, name="em_probability", file="/data/em_probability.tif", sha256="cd" * 32)
BEFORE = ObjectsRecipe(
    (PROBABILITY, IMAGE), ("membrane",), False, ObjectOptions("cells", "membrane"), "tiff", {"numpy": "2.3"}
)


def with_inputs(*inputs: RecipeInput, **more: Any) -> ObjectsRecipe:
    return replace(BEFORE, inputs=inputs, **more)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (BEFORE, []),
        (with_inputs(replace(PROBABILITY, name="p", file=""), IMAGE, form="ome-zarr"), []),
        (with_inputs(replace(PROBABILITY, sha256="ef" * 32), IMAGE), ["another probability"]),
        (with_inputs(PROBABILITY), ["grey values not measured"]),
        (with_inputs(PROBABILITY, replace(IMAGE, sha256="ef" * 32)), ["grey values of a different image"]),
        (
            with_inputs(replace(PROBABILITY, space=Space("ZYX", (50.0, 4.5, 4.0), "µm")), IMAGE),
            ["voxel size 50 × 4.5 × 4 µm (was 50 × 4 × 4 nm)"],
        ),
        (
            replace(BEFORE, objects=ObjectOptions("cells", "", smallest=5), versions={}),
            ["class name none (was membrane)", "smallest 5 (was 0)", "numpy missing (was 2.3)"],
        ),
    ],
)
def test_contents_options_and_versions_count_and_names_do_not(now: ObjectsRecipe, told: list[str]) -> None:
    assert objects_differences(BEFORE, now) == told


def test_images_measured_now_and_other_labels_are_told() -> None:
    labels = with_inputs(PROBABILITY, labels=True)
    now = with_inputs(replace(PROBABILITY, sha256="ef" * 32), IMAGE, labels=True)
    assert objects_differences(labels, now) == ["other labels", "grey values measured too"]


def test_of_several_classes_the_channel_of_one_is_no_other_probability() -> None:
    several = replace(PROBABILITY, space=PROBABILITY.space.with_axes("CZYX"), shape=(2, 2, 8, 9))
    now = with_inputs(replace(PROBABILITY, sha256="ef" * 32), IMAGE, objects=ObjectOptions("cells"))
    assert objects_differences(with_inputs(several, IMAGE), now) == ["only the channel of its class was read"]
