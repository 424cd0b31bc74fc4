"""Objects found with a stored classifier of contacts: in blocks as in memory, in recipes, and what is refused."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from made import bumpy, cells, finished, image_of, same_partition

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.objects.contact_file import FEATURES, ContactClassifier, read_named_classifier, write_classifier
from napari_skipseg.objects.find import find_objects_in_array
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.options import ObjectOptions

SHAPE, SIZE = (11, 33, 29), (2.5, 1.0, 1.0)
MIXED = {"mean strength": 2.0, "strength, 50 %": 0.7, "log of the smaller size": 0.8, "neck": 0.5,
         "share of the smaller one's surface": -0.9, "lower probability inside": -0.3, "share across slices": 0.4,
         "always 1": -2.2}  # fmt: skip
"""A classifier that looks at strengths, sizes, surfaces and slices."""


@pytest.fixture
def classifier(tmp_path):
    """Write a classifier with these weights; return its file."""

    def write(weights=None, name="contacts.json"):
        values = {**dict.fromkeys(FEATURES, 0.0), **(MIXED if weights is None else weights)}
        return write_classifier(tmp_path / name, ContactClassifier(tuple(values.values())))

    return write


def below(limit):
    """The classifier that joins over boundaries with a mean strength below `limit`."""
    return {"mean strength": 12 / 4, "always 1": -12 * limit}


@pytest.mark.parametrize(
    ("method", "block"), [("watershed", (4, 12, 15)), ("cells", (6, 17, 29)), ("cells", (3, 9, 9))]
)
def test_any_block_gives_what_the_whole_gives(method, block, tmp_path, classifier, monkeypatch):
    monkeypatch.setattr("napari_skipseg.objects.contact_statistics.READ_AT_ONCE", 3 * 33 * 29)
    plain = 0
    for number, (planes, holes) in enumerate(itertools.product(("volume", "slices"), (False, True))):
        values = (np.round(bumpy(SHAPE, number) * 40) / 40).astype(np.float32)  # with plateaus, so that there are ties
        options = ObjectOptions(method, planes=planes, fill_holes=holes, threshold=0.4, smallest=3)
        by_contacts = replace(options, contacts=str(classifier()))
        whole = find_objects_in_array(values, Space("ZYX", SIZE), (), by_contacts)
        target = ObjectsTarget(tmp_path, str(number))
        found = finished(iter_find_objects(image_of(values, SIZE), by_contacts, target, block))
        assert found.count == whole.max() > 1
        np.testing.assert_array_equal(read_stack(found.file).data[...], whole)
        plain += same_partition(whole, find_objects_in_array(values, Space("ZYX", SIZE), (), options))
    assert plain == 0, "the classifier decides otherwise than the options"


def test_the_objects_are_those_that_the_classifier_gives_when_it_is_applied_as_an_edit(tmp_path, classifier):
    from napari_skipseg import find_objects

    values = bumpy((6, 40, 44), 5)
    space, how = Space("ZYX", SIZE), {"method": "cells", "threshold": 0.4, "merge": 0.5}
    write_ome_tiff(tmp_path / "x.tif", values, space)
    applied = find_objects(tmp_path / "x.tif", edits=classifier(), **how)
    found = find_objects(tmp_path / "x.tif", contacts=str(classifier()), **how)
    assert found.max() > 3
    assert same_partition(found, applied)


def test_the_command_joins_what_the_classifier_says_and_names_it(objects, tmp_path, classifier):
    write_ome_tiff(tmp_path / "em_probability.tif", cells((40, 60)), Space("YX", (1.0, 4.0, 4.0), "nm"))
    flags = ("--method", "cells", "--merge", "0.1", "--json")
    counts = {}
    for limit in (0.5, 0.6, 0.95):  # the boundary of the upper two cells is 0.55, all others are 0.9
        file = classifier(below(limit), f"{limit}.json")
        code, shown, errors = objects(tmp_path / "em_probability.tif", tmp_path / "out", *flags, "--contacts", file)
        assert code == 0, errors
        counts[limit] = json.loads(shown)["objects"]
    assert counts == {0.5: 4, 0.6: 3, 0.95: 1}
    named = read_recipe(tmp_path / "out" / "em_objects.tif")["objects"]["contacts"]
    assert named == json.loads((tmp_path / "out" / "em_objects_recipe.json").read_text())["objects"]["contacts"]
    path, digest = named.split("@sha256:")
    assert path == str(tmp_path / "0.95.json")
    assert len(digest) == 64
    assert read_named_classifier(named).weights[0] == 3.0


def test_a_file_that_changed_since_is_refused_with_a_sentence(tmp_path, classifier):
    options = ObjectOptions("cells", contacts=str(classifier(below(0.5))))
    classifier(below(0.6))
    with pytest.raises(FileError, match=r"contacts\.json' has changed since it was chosen"):
        find_objects_in_array(cells((40, 60)), Space("YX"), (), options)
    with pytest.raises(FileError, match=r"contacts\.json' has changed since it was chosen"):
        finished(iter_find_objects(image_of(cells((40, 60))), options, ObjectsTarget(tmp_path / "out", "x")))
    assert not (tmp_path / "out").exists()
    (tmp_path / "contacts.json").unlink()
    assert replace(options, smallest=3).contacts == options.contacts, "a recipe is read where the file is not"


def test_an_image_may_hold_nothing_and_times_are_apart(classifier):
    nothing = ObjectOptions("watershed", contacts=str(classifier()))
    assert find_objects_in_array(np.zeros((5, 6), np.float32), Space("YX"), (), nothing).max() == 0
    options = ObjectOptions("cells", contacts=str(classifier(below(0.95))))
    two = np.stack([cells((40, 60))] * 2)
    found = find_objects_in_array(two, Space("TYX"), (), options)
    assert [np.unique(each[each > 0]).tolist() for each in found] == [[1], [2]]


@pytest.mark.parametrize(
    ("text", "reason"), [("{}", "holds no classifier"), ("", "holds no classifier"), (None, "contacts.json")]
)
def test_what_is_no_classifier_is_refused_before_any_work(objects, tmp_path, text, reason):
    write_ome_tiff(tmp_path / "em_probability.tif", cells((40, 60)), Space("YX"))
    if text is not None:
        (tmp_path / "contacts.json").write_text(text)
    flags = ("--method", "cells", "--contacts", tmp_path / "contacts.json")
    code, _, errors = objects(tmp_path / "em_probability.tif", tmp_path / "out", *flags)
    assert code == 1
    assert reason in errors
    assert not (tmp_path / "out").exists()


def test_components_have_no_contacts(classifier):
    with pytest.raises(InputError, match="Connected components have no contacts"):
        ObjectOptions(contacts=str(classifier()))


def test_objects_that_a_classifier_gave_can_be_edited(classifier):
    from napari_skipseg.proofread.classifier import rule_of
    from napari_skipseg.proofread.regions import iter_regions_of_probability

    values, options = bumpy((6, 40, 44), 5), ObjectOptions("cells", threshold=0.4, contacts=str(classifier()))
    regions = finished(iter_regions_of_probability(image_of(values), options))
    labels = regions.objects[regions.labels][0]
    np.testing.assert_array_equal(labels, find_objects_in_array(values, Space("ZYX"), (), options))
    assert rule_of(options).tolist() == list(read_named_classifier(options.contacts).weights)
