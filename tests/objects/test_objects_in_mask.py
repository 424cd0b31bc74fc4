"""Objects found only in a mask: outside of it the probability counts as 0, and its edge cuts objects off."""

import json

import numpy as np
import pytest
from made import bumpy, cells, finished, image_of

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.options import ObjectOptions

SHAPE = (11, 33, 29)
SPACE = Space("ZYX")


@pytest.fixture
def mask(tmp_path):
    """Write a ball as a mask; return its file and values."""
    places = np.indices(SHAPE) - np.reshape((5, 16, 12), (3, 1, 1, 1))
    inside = ((places * np.reshape((2, 1, 1), (3, 1, 1, 1))) ** 2).sum(axis=0) <= 12**2
    write_ome_tiff(tmp_path / "mask.tif", inside.astype(np.uint8) * 7, SPACE)
    return tmp_path / "mask.tif", inside


@pytest.mark.parametrize("method", ["components", "watershed", "cells"])
def test_blocks_give_what_the_whole_gives_and_nothing_lies_outside(method, mask, tmp_path):
    file, inside = mask
    values = bumpy(SHAPE, 3)
    options = ObjectOptions(method, threshold=0.5, mask=str(file))
    whole = find_objects_in_array(values, SPACE, (), options)
    found = finished(iter_find_objects(image_of(values), options, ObjectsTarget(tmp_path, "x"), (4, 12, 15)))
    np.testing.assert_array_equal(read_stack(found.file).data[...], whole)
    assert whole.max() > 1
    assert not whole[~inside].any()
    expected = inside if method == "cells" else inside & (values > 0.5)
    np.testing.assert_array_equal(whole > 0, expected)


def test_a_box_and_a_mask_hold_together(mask):
    file, inside = mask
    values = bumpy(SHAPE, 3)
    options = ObjectOptions(threshold=0.5, mask=str(file), box="z=3:9,x=5:20")
    found = find_objects_in_array(values, SPACE, (), options)
    part = (slice(3, 9), slice(None), slice(5, 20))
    np.testing.assert_array_equal(found > 0, inside[part] & (values[part] > 0.5))


def test_what_the_edge_of_the_mask_cuts_off_counts_as_cut_off_by_the_border(mask):
    file, inside = mask
    kept = find_objects_in_array(
        bumpy(SHAPE, 3), SPACE, (), ObjectOptions(threshold=0.7, mask=str(file), border="remove")
    )
    edge = inside & ~np.all([np.roll(inside, step, axis) for axis in range(3) for step in (-1, 1)], axis=0)
    assert kept.max() > 0
    assert not kept[edge].any()


def test_the_command_names_the_mask_in_the_recipe_and_a_changed_one_is_refused(objects, tmp_path):
    space = Space("YX", (1.0, 4.0, 4.0), "nm")
    write_ome_tiff(tmp_path / "em_probability.tif", cells((40, 60)), space)
    left = np.zeros((40, 60), np.uint8)
    left[:, :25] = 1
    write_ome_tiff(tmp_path / "mask.tif", left, space)
    flags = ("--method", "cells", "--json", "--mask", tmp_path / "mask.tif")
    code, shown, errors = objects(tmp_path / "em_probability.tif", tmp_path / "out", *flags)
    assert code == 0, errors
    labels = read_stack(tmp_path / "out" / "em_objects.tif").data[...]
    assert json.loads(shown)["objects"] == len(np.unique(labels)) - 1
    np.testing.assert_array_equal(labels > 0, left > 0)
    named = read_recipe(tmp_path / "out" / "em_objects.tif")["objects"]["mask"]
    assert named.startswith(f"{tmp_path / 'mask.tif'}@sha256:")
    left[:, :5] = 0
    write_ome_tiff(tmp_path / "mask.tif", left, space)
    with pytest.raises(FileError, match=r"mask\.tif' has changed since it was chosen"):
        find_objects_in_array(cells((40, 60)), Space("YX"), (), ObjectOptions("cells", mask=f"{named[:-1]}0"))


def test_a_mask_of_another_shape_or_kind_or_of_nothing_is_refused(mask, tmp_path):
    with pytest.raises(InputError, match="give a mask of the image's shape"):
        find_objects_in_array(bumpy((5, 6, 7)), SPACE, (), ObjectOptions(mask=str(mask[0])))
    for values, said in (
        (np.zeros(SHAPE, np.uint8), "is 0 everywhere"),
        (np.ones(SHAPE, np.float32), "no label image"),
    ):
        write_ome_tiff(tmp_path / "other.tif", values, SPACE)
        with pytest.raises(InputError, match=said):
            ObjectOptions(mask=str(tmp_path / "other.tif"))
