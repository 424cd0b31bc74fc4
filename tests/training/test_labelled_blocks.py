"""Corrected images: where labels lie, what is held out, and what is refused in one sentence."""

from dataclasses import replace

import numpy as np
import pytest
import zarr

from napari_skipseg.errors import InputError, SpecError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.finetune.blocks import iter_find_labelled_blocks, summarize_training, total_counts
from napari_skipseg.training.finetune.crops import iter_read_crops
from napari_skipseg.training.finetune.labels import (
    Corrected,
    check_images,
    pair_with_labels,
    plan_classes,
    read_corrected,
)
from napari_skipseg.training.finetune.patches import iter_held_out_patches
from napari_skipseg.training.settings import FinetuneSettings

PARENT = ModelDescription("old", UNetSpec(widths=(4, 8)), (ClassLabel("membrane", 0),), 4, "")
MITO = (ClassLabel("mitochondrion", 2),)
SETTINGS = FinetuneSettings("new", ("a.tif",), ("b.tif",), MITO, model="old")
RNG = np.random.default_rng(0)


def image_of(*shape, axes=None):
    return Stack(RNG.integers(0, 255, shape).astype(np.uint8), Space(axes or "TZYX"[-len(shape) :]), name="cells")


def table_of(labels, settings=SETTINGS, stack=None, parent=PARENT):
    stack = stack or image_of(*labels.shape)
    plan = plan_classes(settings, parent)
    corrected = (Corrected(stack, labels, "cells"),)
    return run_to_end(iter_find_labelled_blocks(settings, corrected, plan, parent.spec.dimensions))


def dense(*shape):
    labels = np.ones(shape, np.uint8)
    labels[..., ::4, :] = 2
    return labels


def test_a_fifth_of_the_places_is_held_out_and_every_voxel_is_counted_once():
    labels = dense(5, 256, 256)
    table = table_of(labels)
    assert (len(table.training), len(table.held_out)) == (16, 4)
    counts = np.array(total_counts(table.training, 2)) + np.array(total_counts(table.held_out, 2))
    assert counts.tolist() == [(labels == 1).sum(), (labels == 2).sum()]
    assert not set(table.training) & set(table.held_out)
    assert table_of(labels) == table
    assert table_of(labels, replace(SETTINGS, seed=1)) != table


def test_every_class_in_two_places_is_held_out_and_trained_on():
    labels = np.zeros((1, 512, 512), np.uint8)
    labels[0, ::40, ::40] = 1
    labels[0, 10, 10] = labels[0, 500, 500] = 2
    table = table_of(labels)
    assert total_counts(table.training, 2)[1] == total_counts(table.held_out, 2)[1] == 1


def test_strokes_in_one_corner_are_parted_into_smaller_places():
    labels = np.zeros((1, 512, 512), np.uint8)
    for column in range(0, 128, 32):
        labels[0, 10, column : column + 8], labels[0, 80, column : column + 8] = 1, 2
    table = table_of(labels)
    assert {block.box[1][1] - block.box[1][0] for block in table.blocks} == {32}
    assert all(total_counts(table.held_out, 2))


def test_slices_are_held_out_by_number_over_all_images():
    labels = dense(4, 128, 128)
    settings = replace(SETTINGS, validate="1,6-7", images=("a", "b"), labels=("c", "d"))
    corrected = tuple(Corrected(image_of(4, 128, 128), labels, name) for name in "ab")
    table = run_to_end(iter_find_labelled_blocks(settings, corrected, plan_classes(settings, PARENT), 2))
    assert sorted((block.image, block.box[0][0]) for block in table.held_out) == [(0, 1), (1, 2), (1, 3)]
    assert len(table.training) == 5


def test_in_a_volume_held_out_slices_do_not_share_a_place_with_others():
    parent = replace(PARENT, spec=UNetSpec(dimensions=3, widths=(4, 8)))
    table = table_of(dense(20, 32, 32), replace(SETTINGS, validate="5-9"), parent=parent)
    assert [block.box[0] for block in table.held_out] == [(5, 10)]
    assert [block.box[0] for block in table.training] == [(0, 5), (10, 20)]


def test_of_a_sparse_zarr_only_chunks_that_are_there_are_read(tmp_path, monkeypatch):
    array = zarr.create_array(
        tmp_path / "labels.zarr", shape=(1_000_000, 10_000, 10_000), chunks=(1, 256, 256), dtype="u1", fill_value=0
    )
    array.attrs["axes"] = ["z", "y", "x"]
    for z in (3, 999_999):
        array[z, 300:320, 9_990:] = 1
        array[z, 5:9, 5:9] = 2
    labels = read_stack(tmp_path / "labels.zarr", axes="ZYX").data
    read = []
    original = type(labels)._read
    monkeypatch.setattr(type(labels), "_read", lambda self, index: read.append(index) or original(self, index))
    stack = Stack(np.broadcast_to(np.uint8(7), labels.shape), Space("ZYX"))
    table = table_of(labels, stack=stack)
    assert len(read) == 4
    counts = np.array(total_counts(table.training, 2)) + np.array(total_counts(table.held_out, 2))
    assert counts.tolist() == [400, 32]


def test_time_and_channels_find_their_labels():
    labels = np.zeros((2, 3, 128, 128), np.uint8)
    labels[0, 1], labels[1, 2] = dense(128, 128), dense(128, 128)
    stack = image_of(2, 3, 3, 128, 128, axes="TCZYX")
    parent = replace(PARENT, spec=UNetSpec(widths=(4, 8), in_channels=3))
    plan = plan_classes(SETTINGS, parent)
    corrected = (Corrected(stack, labels, "cells"),)
    table = run_to_end(iter_find_labelled_blocks(SETTINGS, corrected, plan, 2))
    assert {(block.time, block.box[0]) for block in table.blocks} == {(0, (1, 2)), (1, (2, 3))}
    read = run_to_end(iter_read_crops(corrected, table, plan, (32, 32), 0))
    grey = stack.data[0, :, 1].astype(float)
    crop = next(r for r in read.crops if np.corrcoef(r.image[0].ravel(), grey[0].ravel())[0, 1] > 0.99)
    assert crop.image.shape == (3, 128, 128)


def test_what_is_held_out_is_no_target():
    labels = dense(1, 256, 256)
    labels[:, 100:110] = 0
    corrected = (Corrected(image_of(1, 256, 256), labels, "cells"),)
    plan = plan_classes(SETTINGS, PARENT)
    table = run_to_end(iter_find_labelled_blocks(SETTINGS, corrected, plan, 2))
    (crop,) = run_to_end(iter_read_crops(corrected, table, plan, (64, 64), 0)).crops
    assert not ((crop.target >= 0) & (crop.held_out >= 0)).any()
    both = np.maximum(crop.target, crop.held_out)
    assert np.array_equal(both, np.select([labels[0] == 0, labels[0] == 1], [-1, 0], 2))  # membrane is class 1
    assert sum(block.counts[1] for block in table.held_out) == (crop.held_out == 2).sum()


def with_strokes():
    """Two accepted slices, over the second of which three strokes were painted."""
    labels, strokes = dense(2, 256, 256), np.zeros((2, 256, 256), np.uint8)
    strokes[1, 10, 10:20] = strokes[1, 200, 10:20] = 2
    strokes[1, 60, 10:30] = 1
    return np.where(strokes > 0, strokes, labels), strokes


def test_painted_voxels_are_counted_apart_from_accepted_ones():
    labels, strokes = with_strokes()
    corrected = (Corrected(image_of(2, 256, 256), labels, "cells", strokes),)
    plan = plan_classes(SETTINGS, PARENT)
    table = run_to_end(iter_find_labelled_blocks(SETTINGS, corrected, plan, 2))
    assert [counted for counted in table.columns if counted.is_painted] == [(0, True), (2, True)]
    counts = np.array(total_counts(table.training, 4)) + np.array(total_counts(table.held_out, 4))
    assert counts.tolist() == [(labels == 1).sum(), (labels == 2).sum(), 20, 20]
    assert total_counts(table.training, 4)[3] == total_counts(table.held_out, 4)[3] == 10
    read = run_to_end(iter_read_crops(corrected, table, plan, (64, 64), 0))
    assert [counted.is_painted for counted in read.table.columns] == [False, False, True, True]
    accepted = sum(crop.accepted.sum() for crop in read.crops)
    assert accepted == ((labels > 0) & (strokes == 0)).sum()
    (block,) = read.table.with_strokes(read.table.held_out)
    (patch,) = iter_held_out_patches(read, (block,), 0, 16, only_painted=True)
    assert (patch.target == 2).sum() == 10
    assert (patch.target >= 0).sum() == sum(block.counts[2:])


def test_where_all_was_painted_nothing_is_counted_apart():
    labels, _ = with_strokes()
    corrected = (Corrected(image_of(2, 256, 256), labels, "cells", labels),)
    plan = plan_classes(SETTINGS, PARENT)
    table = run_to_end(iter_find_labelled_blocks(SETTINGS, corrected, plan, 2))
    assert table == table_of(labels)
    read = run_to_end(iter_read_crops(corrected, table, plan, (64, 64), 0))
    assert read.table.with_strokes(read.table.held_out) == ()


def test_a_class_that_was_only_accepted_is_not_counted_apart():
    labels, strokes = with_strokes()
    strokes[strokes == 2] = 0
    corrected = (Corrected(image_of(2, 256, 256), labels, "cells", strokes),)
    table = run_to_end(iter_find_labelled_blocks(SETTINGS, corrected, plan_classes(SETTINGS, PARENT), 2))
    assert [counted for counted in table.columns if counted.is_painted] == [(0, True)]
    assert {len(block.counts) for block in table.blocks} == {3}


def test_strokes_far_apart_take_the_memory_of_their_surroundings_only():
    labels = np.zeros((1, 2048, 2048), np.uint8)
    for corner in (0, 1000, 2000):
        labels[0, corner : corner + 40, corner : corner + 40] = 1
        labels[0, corner, corner : corner + 40] = 2
    corrected = (Corrected(image_of(1, 2048, 2048), labels, "cells"),)
    plan = plan_classes(SETTINGS, PARENT)
    table = run_to_end(iter_find_labelled_blocks(SETTINGS, corrected, plan, 2))
    read = run_to_end(iter_read_crops(corrected, table, plan, (64, 64), 0))
    assert len(read.crops) == 3
    assert sum(crop.target.size for crop in read.crops) < 2048**2 / 20


def test_what_will_be_learnt_is_summarized_in_numbers():
    table = table_of(dense(2, 128, 256))
    summary = summarize_training(table, plan_classes(SETTINGS, PARENT))
    assert summary.pixels.keys() == summary.held_out.keys() == {"background", "mitochondrion"}
    assert sum(summary.pixels.values()) + sum(summary.held_out.values()) == 2 * 128 * 256
    assert summary.slices == 2


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (np.zeros((1, 256, 256), np.uint8), "No voxel is labelled: paint some"),
        (
            np.ones((1, 256, 256), np.uint8),
            r"No voxel is labelled mitochondrion \(2\): paint some.* turn 1 into 2",
        ),
        (np.full((1, 256, 256), 2, np.uint8), "belongs to a class: paint some background too"),
        (dense(1, 256, 256) + np.uint8(1), "hold the value 3, for which no class is named"),
        (dense(1, 256, 256).astype(np.int16) * -1, "hold negative values"),
        (dense(1, 256, 256).astype(np.uint16) * 300, "hold the value 300: labels go up to 255"),
    ],
)
def test_labels_that_teach_nothing_are_refused_with_the_cure(labels, fault):
    with pytest.raises(InputError, match=fault):
        table_of(labels)


def test_labels_in_one_place_are_refused():
    labels = np.zeros((1, 256, 256), np.uint8)
    labels[0, ::32, ::32] = 1
    labels[0, 40:44, 40:44] = 2
    with pytest.raises(InputError, match="mitochondrion lie in one place"):
        table_of(labels)


@pytest.mark.parametrize(
    ("validate", "error", "fault"),
    [
        ("3", SpecError, "Slice 3 cannot be held out: the images have slices 0 to 2"),
        ("2", InputError, r"No voxel is labelled mitochondrion in the slices held out \(2\)"),
        ("0-1", InputError, "No voxel labelled mitochondrion is left to train on"),
    ],
)
def test_slices_that_cannot_be_held_out_are_refused(validate, error, fault):
    labels = dense(3, 64, 64)
    labels[2] = 1
    with pytest.raises(error, match=fault):
        table_of(labels, replace(SETTINGS, validate=validate))


def test_labels_of_another_shape_or_kind_are_refused():
    with pytest.raises(InputError, match=r"have shape \(3, 64\) and the image \(64, 64\)"):
        Corrected(image_of(64, 64), np.zeros((3, 64), np.uint8), "cells")
    with pytest.raises(InputError, match="are float32 values: save them as whole numbers"):
        Corrected(image_of(64, 64), np.zeros((64, 64), np.float32), "cells")


def test_labels_of_another_scale_are_refused(tmp_path):
    write_ome_tiff(tmp_path / "a.tif", image_of(3, 64, 64).data, Space("ZYX", (50, 4, 4), "nm"))
    write_ome_tiff(tmp_path / "b.tif", dense(3, 64, 64), Space("ZYX", (0.05, 0.008, 0.008), "µm"))
    write_ome_tiff(tmp_path / "c.tif", dense(3, 64, 64), Space("ZYX", (0.05, 0.004, 0.004), "µm"))
    settings = replace(SETTINGS, images=(str(tmp_path / "a.tif"),), labels=(str(tmp_path / "b.tif"),))
    with pytest.raises(InputError, match="Along Y a voxel of the labels 'b' is 2 times as long"):
        read_corrected(settings)
    (corrected,) = read_corrected(replace(settings, labels=(str(tmp_path / "c.tif"),)))
    assert corrected.stack.space.voxel_size == (50, 4, 4)


def test_images_that_the_model_cannot_take_are_refused():
    rgb = pair_with_labels(image_of(3, 64, 64, axes="CYX"), Stack(dense(64, 64), Space("YX")))
    with pytest.raises(InputError, match="has 3 channels, old takes 1: choose one of them"):
        check_images([rgb], PARENT)
    flat = pair_with_labels(image_of(64, 64), Stack(dense(64, 64), Space("YX")))
    with pytest.raises(InputError, match="is a 3D model and 'cells' has no Z axis"):
        check_images([flat], replace(PARENT, spec=UNetSpec(dimensions=3, widths=(4, 8))))


def test_classes_of_the_new_model_are_the_old_ones_first():
    parent = replace(
        PARENT, spec=UNetSpec(widths=(4, 8), out_channels=3), classes=(*PARENT.classes, ClassLabel("vesicle", 9))
    )
    plan = plan_classes(replace(SETTINGS, classes=(ClassLabel("nucleus", 5), ClassLabel("vesicle", 3))), parent)
    assert plan.names == ("membrane", "vesicle", "nucleus")
    assert (plan.kept, plan.judged, plan.values) == ((0, 1), (False, True, True), {3: 2, 5: 3})
    assert plan.channels == 4
    alone = plan_classes(replace(SETTINGS, remember=False), parent)
    assert (alone.names, alone.kept, alone.channels) == (("mitochondrion",), (), 1)
    own = plan_classes(replace(SETTINGS, classes=()), parent)
    assert (own.names, own.values, own.judged) == (("membrane", "vesicle"), {2: 1, 3: 2}, (True, True))
