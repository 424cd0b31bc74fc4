"""Objects that are found in a box only: those of that part of the image, at their place in the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import napari_skipseg as skipseg
from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.files import iter_write_objects
from napari_skipseg.objects.find_in_blocks import ObjectsTarget
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end
from napari_skipseg.proofread.edits import Delete

BOX = "z=1:5,y=10:50,x=20:70"
INSIDE = slice(1, 5), slice(10, 50), slice(20, 70)


def probability() -> np.ndarray:
    return np.random.default_rng(4).random((6, 60, 80), np.float32)


@pytest.mark.parametrize("method", ["components", "cells"])
def test_objects_in_a_box_are_those_of_that_part(method: str) -> None:
    whole = Stack(probability(), Space("ZYX"))
    part = Stack(probability()[INSIDE], Space("ZYX"))
    found = skipseg.find_objects(whole, method=method, threshold=0.7, box=BOX)
    np.testing.assert_array_equal(found, skipseg.find_objects(part, method=method, threshold=0.7))
    assert found.max() > 1


def test_files_of_a_box_say_where_it_lies_and_measure_only_it(tmp_path: Path) -> None:
    space = Space("ZYX", (50, 4, 8), "nm", (100, 20, 30))
    image, grey = Stack(probability(), space), Stack((255 * probability()).astype(np.uint8), space)
    options = ObjectOptions(threshold=0.7, box=BOX)
    files = run_to_end(iter_write_objects(ClassImage(image), options, ObjectsTarget(tmp_path, "em"), grey))
    labels = read_stack(files.labels, are_labels=True)
    np.testing.assert_array_equal(labels.data[...], skipseg.find_objects(image, threshold=0.7, box=BOX))
    np.testing.assert_allclose(labels.space.origin, (150, 60, 190))
    assert read_recipe(files.labels)["objects"]["box"] == BOX
    rows = files.table.read_text().splitlines()
    assert len(rows) == 1 + files.count


def test_a_box_outside_or_with_edits_is_refused() -> None:
    image = Stack(probability(), Space("ZYX"), "p")
    with pytest.raises(InputError, match="lies outside of 'p', which has 6 voxels along Z"):
        skipseg.find_objects(image, box="z=6:7")
    with pytest.raises(InputError, match="is no box"):
        skipseg.find_objects(image, box="everything")
    with pytest.raises(InputError, match="leave out the box, or the edits"):
        skipseg.find_objects(image, box=BOX, edits=[Delete(((0, 0, 0, 0),))])
