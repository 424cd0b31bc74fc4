"""Classes without a name go by the number that napari shows, and are never taken for a class of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand import correct, ramp
from qtpy.QtCore import Qt

from napari_skipseg.corrections.store import open_corrections
from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.widgets.correct.actions import describe_imported
from napari_skipseg.widgets.correct.classes import (
    add_classes,
    is_unnamed,
    name_values,
    new_class_name,
    next_value,
    rename_class,
)

MEMBRANE = CorrectionClass("membrane", 2, "#2ee6c5")


def test_a_class_without_a_name_goes_by_its_value():
    assert [(each.name, each.value) for each in name_values((MEMBRANE,), [1, 2, 5])] == [
        ("membrane", 2),
        ("class 5", 5),
    ]
    assert new_class_name((MEMBRANE,), next_value((MEMBRANE,))) == "class 3"
    taken = (CorrectionClass("class 4", 2, "#ffffff"), CorrectionClass("other", 3, "#ffffff"))
    assert new_class_name(taken, 4) == "class 5"
    assert is_unnamed("class 5")


def test_a_class_of_the_model_without_pixels_makes_way_for_imported_labels():
    classes = add_classes(name_values((), [2]), ["membrane"])
    assert [(each.name, each.value) for each in classes] == [("class 2", 2), ("membrane", 3)]
    renamed = rename_class(classes, 2, "Membrane", {2: 70})
    assert [(each.name, each.value) for each in renamed] == [("Membrane", 2)]
    with pytest.raises(InputError, match="Another class is called 'membrane' already"):
        rename_class(classes, 2, "membrane", {2: 70, 3: 1})
    with pytest.raises(InputError, match="Another class is called 'membrane' already"):
        rename_class(add_classes((MEMBRANE,), ["vesicle"]), 3, "membrane", {3: 70})


def test_an_import_says_which_class_each_value_became():
    classes = name_values((MEMBRANE,), [3])
    said = describe_imported(Path("a.tif"), {1: 4, 2: 9, 3: 1}, classes)
    assert said == (
        "The labels of a.tif were imported as strokes: 1 = background, 2 = membrane, 3 = class 3. Double-click a class "
        "in the list to name it."
    )
    assert describe_imported(Path("a.tif"), {2: 9}, classes).endswith("2 = membrane.")


@pytest.mark.gui
def test_labels_imported_without_names_are_not_the_models_first_class(open_panel, qtbot):
    data = ramp(32, 48)
    stored = open_corrections(Stack(data, Space("YX"), "em"))
    stored.strokes[4:8, 4:40] = 2
    stored.close()
    viewer, panel = open_panel()
    viewer.add_image(data, name="em")
    correct(qtbot, panel)
    tab = panel.correct_tab
    assert [(each.name, each.value) for each in tab.corrections().classes] == [("class 2", 2), ("membrane", 3)]
    tab.actions.rename_class(2, "membrane")
    assert [(each.name, each.value) for each in tab.corrections().classes] == [("membrane", 2)]
    assert np.count_nonzero(np.asarray(tab.corrections().strokes) == 2) == 4 * 36
    qtbot.mouseClick(tab.body.add_class, Qt.MouseButton.LeftButton)
    assert [each.value for each in tab.corrections().classes] == [2, 3]
