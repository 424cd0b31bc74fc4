"""Objects of a volume that is never whole in memory: the same, voxel by voxel, as of the whole, whatever the blocks."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from chosen_cases import pairs_first
from made import bumpy, finished, image_of

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import holds_labels, read_recipe, read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects import blocks, merge_blocks
from napari_skipseg.objects.blocks import block_grid_of, plan_blocks
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.files import iter_write_objects, read_probability
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import join_parts

SHAPE, SIZE = (11, 33, 29), (2.5, 1.0, 1.0)


WAYS = [
    ("components", "distance"),
    ("watershed", "distance"),
    ("watershed", "probability"),
    ("cells", "distance"),
    ("cells", "probability"),
]


@pytest.mark.parametrize(("way", "block"), pairs_first(WAYS, [(4, 12, 15), (11, 33, 10), (6, 17, 29)]))
def test_any_block_gives_what_the_whole_gives(way, block, tmp_path):
    method, seeds = way
    for number, (planes, holes) in enumerate(itertools.product(("volume", "slices"), (False, True))):
        values = np.round(bumpy(SHAPE, number) * 40) / 40  # with plateaus, so that there are ties
        options = ObjectOptions(
            method, seeds=seeds, planes=planes, fill_holes=holes, seed_distance=4, merge=0.55, smallest=3
        )
        whole = find_objects_in_array(values.astype(np.float32), Space("ZYX", SIZE), (), options)
        image = image_of(values.astype(np.float32), SIZE)
        found = finished(iter_find_objects(image, options, ObjectsTarget(tmp_path, str(number)), block))
        assert found.count == whole.max() > 1
        assert np.array_equal(read_stack(found.file).data[...], whole)


@pytest.mark.parametrize("method", ["components", "watershed", "cells"])
def test_parts_that_are_joined_while_blocks_come_give_the_same(method, tmp_path, monkeypatch):
    monkeypatch.setattr(merge_blocks, "MOST_NEW", 60)
    joined = []
    monkeypatch.setattr(merge_blocks, "join_parts", lambda *given: joined.append(given) or join_parts(*given))
    values = np.round(bumpy(SHAPE, 4) * 40) / np.float32(40)
    options = ObjectOptions(method, fill_holes=True, seed_distance=4, merge=0.55)
    found = finished(iter_find_objects(image_of(values, SIZE), options, ObjectsTarget(tmp_path, "x"), (4, 9, 8)))
    assert len(joined) > 3
    whole = find_objects_in_array(values, Space("ZYX", SIZE), (), options)
    assert np.array_equal(read_stack(found.file).data[...], whole)


def test_what_is_wrong_in_a_later_block_is_told_and_leaves_nothing(tmp_path):
    values = bumpy((9, 20, 24))
    values[7] = 3
    work = iter_find_objects(image_of(values), ObjectOptions("cells"), ObjectsTarget(tmp_path, "x"), (2, 9, 9))
    with pytest.raises(InputError, match="probabilities lie between 0 and 1"):
        finished(work)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_files_hold_place_recipe_and_times(form, tmp_path):
    values = np.stack([bumpy((5, 20, 24), seed) for seed in (1, 2)])
    stack = Stack(values, Space("TZYX", (30.0, 4.0, 4.0), "nm", (60.0, 8.0, 0.0)))
    options = ObjectOptions("watershed", seed_distance=3)
    target = ObjectsTarget(tmp_path / "new", "cell", form, {"operation": "objects", "seed": 3})
    found = finished(iter_find_objects(ClassImage(stack), options, target, (2, 16, 10)))
    read = read_stack(found.file)
    assert read.space == stack.space
    assert read.data.dtype == np.uint32
    assert np.array_equal(read.data[...], find_objects_in_array(values, stack.space, (), options))
    recipe = read_recipe(found.file)
    assert (recipe["seed"], recipe["objects"]["method"]) == (3, "watershed")
    assert holds_labels(found.file)
    assert [place.name for place in found.file.parent.iterdir()] == [found.file.name]


def test_the_labels_of_a_position_have_its_name(tmp_path):
    image = image_of(bumpy((5, 20, 24)))
    image = replace(image, stack=replace(image.stack, title="Pos1"))
    found = finished(iter_find_objects(image, ObjectOptions(), ObjectsTarget(tmp_path, "positions_1")))
    assert read_stack(found.file).title == "Pos1"


def test_the_same_search_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        finished(iter_find_objects(image_of(bumpy((5, 20, 24))), ObjectOptions(), ObjectsTarget(tmp_path / name, "x")))
    assert (tmp_path / "a" / "x_objects.tif").read_bytes() == (tmp_path / "b" / "x_objects.tif").read_bytes()


def test_what_is_stopped_leaves_nothing(tmp_path):
    work = iter_find_objects(image_of(bumpy((5, 20, 24))), ObjectOptions(), ObjectsTarget(tmp_path, "x"), (2, 9, 9))
    next(work)
    work.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(FileError, match="out"):
        finished(iter_find_objects(image_of(bumpy((5, 9, 9))), ObjectOptions(), ObjectsTarget(tmp_path / "out", "x")))


def test_blocks_cover_the_image_once_and_read_what_they_depend_on(monkeypatch):
    monkeypatch.setattr(blocks, "LARGEST_BLOCK", 2**20)
    for options in (ObjectOptions(), ObjectOptions("watershed"), ObjectOptions("cells", planes="slices")):
        spacing = (2.0 if options.planes == "volume" else 0.0, 1.0, 1.0)
        seen = np.zeros((2 * 40, 300, 700), np.uint8)
        for block in plan_blocks(block_grid_of((2, 40, 300, 700), options), options, spacing):
            window = block.window
            place = tuple(slice(a, a + n) for a, n in zip(window.start, window.shape, strict=True))
            seen[place] += 1
            assert all(part.start % chunk == 0 for part, chunk in zip(place[1:], blocks.CHUNK[1:], strict=True))
            inside = [part.start + low for part, low in zip(block.read, block.low, strict=True)]
            assert inside == [window.start[0] % 40, *window.start[1:]]
        assert seen.min() == seen.max() == 1


def test_labels_and_their_measurements_come_together(tmp_path):
    image = image_of(bumpy((5, 20, 24)), (2.0, 1.0, 1.0))
    grey = Stack(np.random.default_rng(0).integers(0, 255, (5, 20, 24)).astype(np.uint8), Space("ZYX"))
    files = finished(iter_write_objects(image, ObjectOptions(), ObjectsTarget(tmp_path, "x"), grey))
    head, *rows = files.table.read_text(encoding="utf-8").splitlines()
    assert len(rows) == files.count
    assert {"volume (nm³)", "intensity mean", "mean probability"} <= set(head.split(","))


def test_a_file_says_whether_it_holds_labels(tmp_path):
    from napari_skipseg.images.files import write_ome_tiff

    values = np.round(bumpy((20, 30)) * 255).astype(np.uint8)
    space = Space("YX")
    write_ome_tiff(tmp_path / "foreign.tif", values, space)
    write_ome_tiff(tmp_path / "mask.tif", (values > 128).astype(np.uint8), space)
    recipe = json.loads('{"classes": ["a", "b"], "layer": "labels"}')
    write_ome_tiff(tmp_path / "ours.tif", values // 100, space, description=recipe)
    write_ome_tiff(tmp_path / "dark.tif", values // 10, space, description={"classes": ["a"]})
    assert [
        read_probability(tmp_path / name).labels for name in ("foreign.tif", "mask.tif", "ours.tif", "dark.tif")
    ] == [
        False,
        True,
        True,
        False,
    ]
    assert read_probability(tmp_path / "ours.tif").class_names == ("a", "b")


@pytest.mark.parametrize(
    ("dtype", "values", "labels"),
    [
        ("uint16", (0, 255), True),
        ("int32", (0, 255), True),
        ("uint8", (0, 100), True),
        ("uint8", (0, 255), False),
        ("uint16", (0, 65535), False),
        ("uint16", (0, 100, 255), False),
        ("uint8", (7, 255), False),
    ],
)
def test_whole_numbers_of_two_values_are_a_mask_whatever_they_are(tmp_path, dtype, values, labels):
    image = np.random.default_rng(0).choice(values, (3, 20, 30)).astype(dtype)
    image[0] = values[0]
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    assert read_probability(tmp_path / "a.tif").labels == labels
