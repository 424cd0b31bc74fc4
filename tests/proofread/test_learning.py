"""Learning from edits: what is judged, what would change, what stays, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from grid import CELLS, cell, found, labelled, labels_of, regions, row_of_cells

from napari_skipseg.errors import FileError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.agglomerate import agglomerate, cut_tree
from napari_skipseg.objects.contact_features import ContactTable, GroupSums, Links
from napari_skipseg.objects.contact_file import FEATURES, ContactClassifier, read_classifier, write_classifier
from napari_skipseg.objects.contact_statistics import BINS
from napari_skipseg.objects.watershed import FULL
from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.classifier import fit_classifier, rule_of
from napari_skipseg.proofread.contacts import contact_table
from napari_skipseg.proofread.edits import Confirm, EditRefusedError, Lock, Merge, Reweigh, Smooth, Split
from napari_skipseg.proofread.learn import learn, preview_learned
from napari_skipseg.proofread.session import EditSession
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.proofread.store import EditStore, edits_record, folder_of

STRENGTHS = (0.9, 0.6, 0.62, 0.9, 0.6, 0.9, 0.62, 0.9, 0.61, 0.9, 0.6)
"""In this row, boundaries of about 0.6 are none, although objects are found with a limit of 0.5."""


def taught(count: int = 3) -> ObjectsUnderEdit:
    """The row, with `count` weak boundaries merged and as many strong ones confirmed."""
    objects = found(row_of_cells(STRENGTHS))
    weak = [number for number, strength in enumerate(STRENGTHS) if strength < 0.8]
    strong = [number for number, strength in enumerate(STRENGTHS) if strength > 0.8]
    for number in weak[:count]:
        apply_edit(objects, Merge((cell(number), cell(number + 1))))
    for number in strong[:count]:
        apply_edit(objects, Confirm((cell(number), cell(number + 1))))
    return objects


def owners(objects: ObjectsUnderEdit) -> list[int]:
    return [objects.object_at(cell(number)) for number in range(len(STRENGTHS) + 1)]


def expected() -> list[int]:
    return np.cumsum([0, *(strength > 0.8 for strength in STRENGTHS)]).tolist()


def test_the_statistics_of_contacts_are_sums_over_voxels() -> None:
    objects = found(row_of_cells((0.9, 0.42)))
    statistics, edges = objects.regions.statistics, objects.regions.known_graph.edges
    assert statistics is not None
    np.testing.assert_array_equal(statistics.histogram.sum(axis=1), edges.contacts)
    assert [int(row.argmax()) for row in statistics.histogram] == [int(0.9 * BINS), int(0.42 * BINS)]
    np.testing.assert_array_equal(statistics.across, 0)
    sizes = np.bincount(np.asarray(objects.regions.labels).ravel())[1:]
    assert statistics.areas.sum() == sizes.sum()
    walls = row_of_cells((0.9, 0.42)).astype(np.float64).sum() * FULL
    assert statistics.inside.sum() == pytest.approx(walls, rel=1e-4)


def test_what_a_few_edits_teach_decides_all_other_contacts() -> None:
    objects = taught()
    classifier = learn(objects)
    assert classifier.learned_from == {"same": 3, "different": 3}
    preview = preview_learned(objects, classifier)
    assert (preview.merged, preview.split) == (3, 0)
    before = labels_of(objects)
    change = apply_edit(objects, Reweigh(classifier.weights))
    groups = owners(objects)
    assert np.unique(groups, return_inverse=True)[1].tolist() == np.unique(expected(), return_inverse=True)[1].tolist()
    objects.undo(change)
    np.testing.assert_array_equal(labels_of(objects), before)


def test_nothing_judged_gives_the_rule_of_the_objects() -> None:
    objects = found(row_of_cells((0.9, 0.42, 0.55, 0.3)))
    with pytest.raises(EditRefusedError, match="Nothing would change"):
        apply_edit(objects, Reweigh(tuple(rule_of(CELLS))))


EVERYTHING = (*[0.0] * (len(FEATURES) - 1), -50.0)
"""Weights by which all contacts are inside one object."""


def test_what_was_decided_stays_against_the_classifier() -> None:
    objects = taught()
    apply_edit(objects, Reweigh(EVERYTHING))
    assert objects.object_at(cell(7)) == objects.object_at(cell(8)), "nobody judged"
    for number, strength in enumerate(STRENGTHS[:6]):
        is_one = objects.object_at(cell(number)) == objects.object_at(cell(number + 1))
        assert is_one == (strength < 0.8), number
    nothing = (*EVERYTHING[:-1], 50.0)
    apply_edit(objects, Reweigh(nothing))
    assert objects.object_at(cell(1)) == objects.object_at(cell(2)), "a merge stays"
    assert objects.object_at(cell(6)) != objects.object_at(cell(7)), "what was learnt does not"


def test_a_split_stays_apart_and_a_locked_object_as_it_is() -> None:
    objects = found(row_of_cells((0.3, 0.9, 0.9, 0.9)))
    apply_edit(objects, Split(((cell(0),), (cell(1),))))
    apply_edit(objects, Lock((cell(2),)))
    apply_edit(objects, Reweigh(EVERYTHING))
    found_owners = [objects.object_at(cell(number)) for number in range(5)]
    assert found_owners[0] != found_owners[1]
    assert found_owners.count(found_owners[2]) == 1
    assert found_owners[3] == found_owners[4]


def test_of_contradictory_edits_the_later_counts() -> None:
    objects = taught()
    apply_edit(objects, Split(((cell(1),), (cell(2),))))
    apply_edit(objects, Reweigh(EVERYTHING))
    assert objects.object_at(cell(1)) != objects.object_at(cell(2))


def test_edits_of_one_kind_only_say_what_is_missing() -> None:
    objects = found(row_of_cells(STRENGTHS))
    for number in (1, 2, 4):
        apply_edit(objects, Merge((cell(number), cell(number + 1))))
    with pytest.raises(EditRefusedError, match="it needs 3 more splits") as raised:
        learn(objects)
    assert "more merges" not in str(raised.value)


def test_without_contacts_there_is_nothing_to_learn() -> None:
    plain = labelled(np.arange(12, dtype=np.uint8).reshape(3, 4))
    for objects in (plain, found(np.zeros((3, 14, 20), np.float32))):
        with pytest.raises(EditRefusedError, match="no contacts to learn from"):
            learn(objects)
    with pytest.raises(EditRefusedError, match="no contacts"):
        apply_edit(plain, Reweigh(tuple(rule_of(CELLS))))


def test_a_classifier_of_other_features_is_refused() -> None:
    with pytest.raises(EditRefusedError, match="other features"):
        apply_edit(taught(), Reweigh((1.0, 2.0)))


def test_what_was_learnt_is_kept_over_a_restart_in_less_than_a_kilobyte() -> None:
    values = row_of_cells(STRENGTHS)
    record = edits_record(Stack(values, Space("ZYX"), "row"))
    session = EditSession(regions(values), EditStore(folder_of(record), record))
    for change in taught().changes:
        session.do(change.edit)
    session.store.flush()
    size = sum(file.stat().st_size for file in session.store.folder.iterdir())
    session.do(Reweigh(learn(session.objects).weights))
    after, stored = labels_of(session.objects), session.store.flush()
    assert stored
    assert sum(file.stat().st_size for file in session.store.folder.iterdir()) - size <= 1000
    session.close()
    session = EditSession(regions(values), EditStore(folder_of(record), record))
    np.testing.assert_array_equal(labels_of(session.objects), after)
    assert session.refused == []
    session.close()


def test_a_classifier_goes_out_and_in_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    classifier = learn(taught())
    path = write_classifier(tmp_path / "contacts.json", classifier)
    assert read_classifier(path) == classifier
    found_content = json.loads(path.read_text())
    found_content["weights"][0] += 1
    path.write_text(json.dumps(found_content))
    with pytest.raises(FileError, match="was changed since"):
        read_classifier(path)
    for bad in ("", "[]", "{}", '{"format": "napari-skipseg contacts 1"}', "\0"):
        path.write_text(bad)
        with pytest.raises(FileError, match="holds no classifier"):
            read_classifier(path)


def test_a_hundred_thousand_contacts_are_learnt_and_decided_within_a_second() -> None:
    chance, side = np.random.default_rng(2), 184
    number = np.arange(side * side).reshape(side, side)
    steps = ((number[:-1], number[1:]), (number[:, :-1], number[:, 1:]), (number[:-1, :-1], number[1:, 1:]))
    ends = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in steps])
    assert len(ends) > 100_000
    contacts = chance.integers(10, 200, len(ends)).astype(np.float64)
    strength = chance.random(len(ends))
    histogram = np.zeros((len(ends), BINS))
    histogram[np.arange(len(ends)), (strength * BINS).astype(int)] = contacts
    links = Links(ends, contacts, strength * contacts * FULL, np.ones(len(ends)), contacts / 3, histogram)
    size = np.full(side * side, 1000.0)
    table = ContactTable(np.arange(side * side), GroupSums(size, size, size, size / 100), links, np.arange(len(ends)))
    rule = ContactClassifier(tuple(rule_of(CELLS)))
    agglomerate(table, rule)  # compiled once
    begun = time.thread_time()
    features = chance.random((2000, len(FEATURES)))
    fit_classifier(features, features[:, 0] > 0.5, CELLS, np.ones(2000))
    cut_tree(agglomerate(table, rule))
    assert time.thread_time() - begun < 1.0


def test_smoothing_takes_a_spike_away_and_leaves_other_objects() -> None:
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[:, 10:30, 10:30] = 1
    labels[:, 5:10, 20] = 1
    labels[:, 10:30, 32:38] = 2
    objects = labelled(labels)
    change = apply_edit(objects, Smooth((0, 0, 20, 20)))
    after = labels_of(objects)
    assert not after[0, 5:9, 20].any()
    assert (after == 1).sum() == pytest.approx(400, abs=30)
    np.testing.assert_array_equal(after == 2, labels == 2)
    objects.undo(change)
    np.testing.assert_array_equal(labels_of(objects), labels)
    for edit, why in ((Smooth((0, 0, 0, 0)), "no object"), (Smooth((0, 0, 20, 20), 50.0), "0.3 to 20 voxels")):
        with pytest.raises(EditRefusedError, match=why):
            apply_edit(objects, edit)
    thin = labelled(np.pad(np.ones((1, 1, 20), np.uint8), ((0, 0), (9, 9), (9, 9))))
    with pytest.raises(EditRefusedError, match="thinner than"):
        apply_edit(thin, Smooth((0, 0, 9, 12)))


def test_the_parts_of_a_cut_region_have_its_contacts() -> None:
    values = row_of_cells((0.9, 0.9))
    objects = found(values)
    apply_edit(objects, Split((((0, 1, 3, 18),), ((0, 1, 11, 18),))))
    table = contact_table(objects)
    upper, lower = objects.region_at((0, 1, 3, 18)), objects.region_at((0, 1, 11, 18))
    touching = {int(region) for ends in table.links.ends for region in table.regions[ends]}
    assert upper != lower
    assert {upper, lower} & touching
    assert len(table.links.ends) == 2, "both contacts of the cell that was cut are still there"
