"""Objects found and edited block by block are those of memory, label for label; the hierarchy is that of the cells."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from grid import CELLS, OPTIONS, bumpy, cell, found, image, labelled, labels_of, random_edit, regions, row_of_cells

from napari_skipseg.images.files import read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end
from napari_skipseg.proofread import hierarchy
from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.edits import Edit, EditRefusedError, Merge, Split
from napari_skipseg.proofread.exchange import EditsFile, LabelsTarget, iter_apply_to_file
from napari_skipseg.proofread.hierarchy import iter_merge_tree, merge_tree
from napari_skipseg.proofread.regions import iter_regions_of_probability
from napari_skipseg.proofread.session import apply_edits
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.proofread.store import edits_record


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options.method} {options.planes}")
def test_edits_in_blocks_give_the_labels_of_memory(options: ObjectOptions, tmp_path: Path) -> None:
    values, chance = bumpy((2, 20, 40, 50), 3), np.random.default_rng(2)
    whole = found(values, options)
    work = iter_regions_of_probability(image(values), options, tmp_path / "blocks", (8, 16, 24))
    parts = ObjectsUnderEdit(run_to_end(work))
    np.testing.assert_array_equal(labels_of(parts), labels_of(whole))
    np.testing.assert_array_equal(parts.boxes, whole.boxes)
    edits: list[Edit] = []
    while len(edits) < 40:
        edit = random_edit(whole, chance)
        try:
            apply_edit(whole, edit)
        except EditRefusedError:
            continue
        edits.append(edit)
        apply_edit(parts, edit)
        for z in (7, len(edits) % 20):  # as the viewer reads: the slice on screen again, and others
            np.testing.assert_array_equal(parts.labels()[1, z], whole.labels()[1, z])
            np.testing.assert_array_equal(parts.labels()[1, z, 5:30, 9:44], whole.labels()[1, z, 5:30, 9:44])
    np.testing.assert_array_equal(labels_of(parts), labels_of(whole))


def test_labels_in_a_store_are_edited_chunk_by_chunk_as_in_memory(tmp_path: Path) -> None:
    values = found(bumpy((20, 40, 50), 8), OPTIONS[0])
    labels = labels_of(values)
    stored = zarr.create_array(tmp_path / "labels.zarr", shape=labels.shape, chunks=(7, 16, 16), dtype="uint32")
    stored[:] = labels
    chance, edits = np.random.default_rng(4), []
    memory = Stack(labels, Space("ZYX"), "labels")

    objects = labelled(labels)
    while len(edits) < 25:
        edit = random_edit(objects, chance)
        try:
            apply_edit(objects, edit)
        except EditRefusedError:
            continue
        edits.append(edit)
    file = EditsFile(edits_record(memory), tuple(edits))
    for name, source in (("a.zarr", memory), ("b.zarr", Stack(stored, Space("ZYX"), "labels")), ("c.tif", memory)):
        written = run_to_end(iter_apply_to_file(source, ObjectOptions(), file, LabelsTarget(tmp_path / name)))
        assert (written.applied, written.refused) == (25, ())
        again = read_stack(tmp_path / name, are_labels=True)
        np.testing.assert_array_equal(np.asarray(again.data[...]), labels_of(objects))


@pytest.mark.parametrize("merge", [0.42, 0.5, 0.58])
def test_the_hierarchy_cut_at_the_threshold_gives_the_cells(merge: float) -> None:
    options = ObjectOptions("cells", threshold=0.5, merge=merge)
    those = regions(bumpy((12, 60, 60), 1), options)
    tree = merge_tree(those)
    groups = np.array([tree.climb(leaf, np.nextafter(merge, 0)) for leaf in range(tree.count)])
    pairs = np.unique(np.stack([those.objects[1:], groups]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] > 3
    inner = tree.parent >= 0
    assert (tree.level[inner] <= tree.level[tree.parent[inner]]).all()
    for node in (0, tree.count, len(tree.parent) - 1):
        below = tree.leaves(node)
        assert all(node in tree.steps(int(leaf)) for leaf in below)


def test_the_hierarchy_says_how_far_it_is_and_merges_no_more_when_it_is_closed(monkeypatch) -> None:
    merge, begin, states, made = hierarchy._merge, threading.Event(), [], []

    def held(*arguments):
        states.append(arguments[-1])
        begin.wait(60)
        made.append(merge(*arguments))
        return made[-1]

    monkeypatch.setattr(hierarchy, "_merge", held)
    those = regions(bumpy((12, 60, 60), 1), ObjectOptions("cells", threshold=0.5))
    work = iter_merge_tree(those)
    assert [next(work).message for _ in range(3)][1:] == ["building the hierarchy of merges"] * 2
    threading.Timer(0.1, begin.set).start()
    work.close()
    regions_left = len(those.known_graph.nodes.size)
    assert made[0][-1] == regions_left, "no node of a merge"
    assert run_to_end(iter_merge_tree(those)).count == regions_left
    assert made[1][-1] > regions_left
    assert states[1][0] == len(those.known_graph.edges.one), "the bar ends at all contacts"


def test_objects_found_with_other_options_take_the_edits_that_still_make_sense() -> None:

    values = row_of_cells()
    edits: tuple[Edit, ...] = (Merge((cell(0), cell(1))), Split(((cell(2),), (cell(3),))), Merge((cell(1), cell(3))))
    fine = found(values, ObjectOptions("cells", threshold=0.3, merge=0.3))  # all four cells are objects
    changes, refused = apply_edits(fine, edits)
    assert [change.edit for change in changes] == [edits[0], edits[2]]
    assert [(each.number, each.edit) for each in refused] == [(2, edits[1])]
    assert "different objects" in refused[0].reason
    assert fine.object_at(cell(0)) == fine.object_at(cell(3)) != fine.object_at(cell(2))


def test_the_python_call_applies_edits_and_warns_of_those_without_sense() -> None:

    from napari_skipseg.api import find_objects

    values, options = row_of_cells(), {"method": "cells", "threshold": 0.3, "merge": 0.5}
    plain = find_objects(values, **options)
    np.testing.assert_array_equal(plain, find_objects_in_array(values, Space("ZYX"), options=CELLS))
    with pytest.warns(UserWarning, match=r"Edit 2 \(merge\)"):
        edited = find_objects(values, edits=[Merge((cell(0), cell(1))), Merge((cell(0), cell(1)))], **options)
    np.testing.assert_array_equal(edited == plain[0, 0, 0], (plain == plain[0, 0, 0]) | (plain == plain[cell(1)[1:]]))
