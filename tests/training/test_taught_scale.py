"""A model that was taught at a different voxel size is for that size, and says so."""

import numpy as np
import pytest

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.scale import network_scale
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.training.finetune.blocks import BlockTable, LabelledBlock
from napari_skipseg.training.taught_scale import TaughtScale, is_same_scale, taught_scale

BOX = ((0, 1), (0, 32), (0, 32))


def parent_of(dimensions=2, voxel_size=(50.0, 4.0, 4.0), unit="nm"):
    spec = UNetSpec(dimensions=dimensions, widths=(2, 4))
    return ModelDescription("old", spec, (ClassLabel("membrane", 1),), 8, "", voxel_size, unit)


def stack_of(voxel_size, unit="nm", axes="ZYX", name="image"):
    return Stack(np.zeros((4,) * len(axes), np.uint8), Space(axes, voxel_size, unit), name=name)


def table_of(*labelled):
    """Return a table with a block of so many labelled voxels in each image."""
    return BlockTable(tuple(LabelledBlock(n, 0, BOX, (count, 0)) for n, count in enumerate(labelled) if count), ())


@pytest.mark.parametrize(
    ("voxel_size", "unit", "wanted"),
    [
        ((50, 4, 4), "nm", ((50, 4, 4), "nm")),
        ((30, 4.1, 4.1), "nm", ((50, 4, 4), "nm")),  # nearly the same in the plane, which is all that a 2D network sees
        ((0.05, 0.004, 0.004), "µm", ((50, 4, 4), "nm")),
        ((5, 5, 5), "nm", ((5, 5, 5), "nm")),
        ((0.05, 0.008, 0.008), "µm", ((0.05, 0.008, 0.008), "µm")),
        ((40, 4, 8), "nm", ((40, 4, 8), "nm")),
    ],
)
def test_the_new_model_is_for_the_voxels_that_it_was_taught_on(voxel_size, unit, wanted):
    stack = stack_of(voxel_size, unit)
    found = taught_scale([stack], table_of(100), parent_of())
    assert (found.voxel_size, found.unit) == wanted
    described = parent_of(voxel_size=found.voxel_size, unit=found.unit)
    assert set(network_scale(stack, described, "YX").values()) == {1.0}  # Segment does not recommend to rescale
    is_new = wanted != ((50, 4, 4), "nm")
    assert ("old is for 4 × 4 nm" in found.note) == is_new
    assert (found.note == "") == (not is_new)


def test_a_volume_is_compared_along_z_too():
    found = taught_scale([stack_of((40, 4, 4))], table_of(9), parent_of(3, (4.0, 4.0, 4.0)))
    assert found.voxel_size == (40, 4, 4)
    assert "40 × 4 × 4 nm" in found.note


def test_a_single_slice_keeps_the_depth_of_the_old_models_voxels():
    found = taught_scale([stack_of((1, 0.005, 0.005), "µm", "YX")], table_of(9), parent_of())
    assert found.voxel_size == pytest.approx((0.05, 0.005, 0.005))


def test_images_of_unknown_voxel_size_leave_that_of_the_old_model():
    found = taught_scale([stack_of((1, 1, 1), "pixel")], table_of(9), parent_of())
    assert (found.voxel_size, found.unit) == ((50, 4, 4), "nm")
    assert "is not known" in found.note
    assert taught_scale([stack_of((1, 1, 1), "pixel")], table_of(9), parent_of(unit="pixel")).note == ""


def test_an_old_model_of_unknown_voxel_size_gets_that_of_the_images():
    found = taught_scale([stack_of((50, 5, 5))], table_of(9), parent_of(voxel_size=(1, 1, 1), unit="pixel"))
    assert (found.voxel_size, found.unit) == ((50, 5, 5), "nm")


def test_of_images_of_several_sizes_that_with_the_most_labels_counts_and_the_others_are_named():
    stacks = [stack_of((50, 4, 4), name="few"), stack_of((50, 8, 8), name="many"), stack_of((1, 1, 1), "pixel")]
    found = taught_scale(stacks, table_of(10, 500, 900), parent_of())
    assert found.voxel_size == (50, 8, 8)
    assert "few" in found.note
    unlabelled = taught_scale(stacks[:2], table_of(0, 500), parent_of())
    assert "few" not in unlabelled.note


@pytest.mark.parametrize(("side", "is_same"), [(4.0, True), (4.19, True), (3.82, True), (4.3, False), (2.0, False)])
def test_sizes_are_the_same_within_what_segment_takes_for_the_same(side, is_same):
    assert is_same_scale(stack_of((50, side, side)), TaughtScale((50, 4, 4), "nm"), 2) == is_same
