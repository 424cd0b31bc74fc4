"""Rows of forms derive from options: an option that is invented here has its row, range, tooltip and value."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Annotated

import pytest
from qtpy.QtWidgets import QCheckBox, QListWidget, QSpinBox

from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.option_fields import Option, option_fields
from napari_skipseg.training.settings import FinetuneSettings
from napari_skipseg.widgets.batch.form import BatchForm, BatchFormValues
from napari_skipseg.widgets.finetune.form import FinetuneDetails, FinetuneForm
from napari_skipseg.widgets.forms.fields import FreshCombo, KeyedSlider
from napari_skipseg.widgets.forms.option_rows import OptionRows
from napari_skipseg.widgets.objects.form import ObjectsForm
from napari_skipseg.widgets.segment.fields import SegmentOptionsBox

pytestmark = pytest.mark.gui

Sharpen = Annotated[float, Option("Sharpen", "Sharpen the image first. It helps.", least=0, most=2, step=0.5)]
Mirror = Annotated[bool, Option("Mirror", "Mirror the image first.")]


def invented(settings: type) -> type:
    """Return settings with two more options."""
    more = [("sharpen", Sharpen, 0.5), ("mirror", Mirror, False)]
    return make_dataclass("Invented", more, bases=(settings,), frozen=True)


def _segment():
    settings = invented(SegmentOptions)
    fold = SegmentOptionsBox(settings)
    return fold, fold.rows, fold.edited, lambda: settings(**fold.rows.values())


def _objects():
    form = ObjectsForm(invented(ObjectOptions))
    return form, form, form.changed, form.read


def _batch():
    form = BatchForm(invented(BatchFormValues))
    return form, form.details, form.changed, form.read


def _finetune():
    settings = invented(FinetuneSettings)
    fold, needed = FinetuneDetails(settings), {"name": "a", "images": ("b",), "labels": ("c",), "model": "d"}
    return fold, fold.rows, fold.edited, lambda: settings(**needed, **fold.rows.values())


@pytest.mark.parametrize("make", [_segment, _objects, _batch, _finetune])
def test_a_new_option_has_a_row_by_its_field_alone(qtbot, make):
    widget, rows, changed, read = make()
    qtbot.addWidget(widget)
    sharpen, mirror = rows.field("sharpen"), rows.field("mirror")
    assert isinstance(sharpen, KeyedSlider)
    assert (sharpen.minimum(), sharpen.maximum(), sharpen.singleStep(), sharpen.value()) == (0, 2, 0.5, 0.5)
    assert sharpen.toolTip() == "Sharpen the image first. It helps."
    assert rows._notes["sharpen"].text() == "Sharpen the image first."
    assert isinstance(mirror, QCheckBox)
    assert mirror.text() == "Mirror"
    with qtbot.waitSignal(changed):
        sharpen.setValue(1.5)
    mirror.click()
    assert (read().sharpen, read().mirror) == (1.5, True)


def test_the_form_of_a_batch_gives_back_all_that_it_is_shown(qtbot):
    form = BatchForm()
    qtbot.addWidget(form)
    for shown in (
        BatchFormValues(
            "/in", "/out", True, "ome-zarr", "float32", True, True, recursive=True, as_stack=True, truth="/truth",
            truth_label=0, inside=True,
        ),
        BatchFormValues(),
    ):  # fmt: skip
        with qtbot.assertNotEmitted(form.changed):
            form.show_choices(shown)
        assert form.read() == shown


def test_all_options_of_a_fine_tuning_reach_its_settings(qtbot):
    form = FinetuneForm(QListWidget())
    qtbot.addWidget(form)
    values = {
        "steps": 7, "minutes": 2.5, "learning_rate": 2e-3, "loss": "dice", "remember": False, "validate": "3-4",
        "batch_norm": "updated", "seed": 5,
    }  # fmt: skip
    assert set(form.fold.rows.values()) == set(values)
    settings = FinetuneSettings("a", ("b",), ("corrections of b",), model="d", reach="full", **values)
    form.show_settings(settings)
    again = form.read().settings(("b",), (), "a")
    assert {name: getattr(again, name) for name in values} == values
    assert again.reach == "full"


@dataclass(frozen=True)
class Numbers:
    label: Annotated[int | None, Option("Label", "A value.", unset="as trained")] = None
    rate: Annotated[float | None, Option("Rate", "A rate.", above=0, unset="auto", step=5e-5)] = None
    share: Annotated[float | None, Option("Share", "A share.", least=0, below=1, step=0.05)] = None
    count: Annotated[int, Option("Count", "A count.", least=0, unset="auto")] = 0
    words: Annotated[str, Option("Words", "Some words.")] = "auto"


def test_none_has_a_place_below_the_lowest_number_that_is_allowed(qtbot):
    rows = OptionRows(option_fields(Numbers).values())
    qtbot.addWidget(rows)
    assert Numbers(**rows.values()) == Numbers()
    texts = [rows.field(name).text() for name in ("label", "rate", "share", "count")]
    assert texts == ["as trained", "auto", "none", "auto"]
    for shown in (Numbers(0, 6e-4, 0.0, 3, "mine"), Numbers(), Numbers(255, 1.5e-3, 0.95)):
        rows.show_values(shown)
        assert Numbers(**rows.values()) == shown
    rows.field("words").setText(" ")
    assert rows.values()["words"] == "auto"


def test_rows_give_back_what_they_are_shown(qtbot):
    rows = OptionRows(option_fields(SegmentOptions).values())
    qtbot.addWidget(rows)
    for shown in (
        SegmentOptions("cpu", 0.3, 64, 4, channel=2, invert=True, padding="none"),
        SegmentOptions(samples=8, dropout=0.25, channel=0),
        SegmentOptions(),
    ):
        rows.show_values(shown)
        assert SegmentOptions(**rows.values()) == shown
    assert isinstance(rows.field("tile"), QSpinBox)


@dataclass(frozen=True)
class Chosen:
    way: Annotated[
        str, Option("Way", "How.", choices=("a", "b"), labels={"a": "One"}, notes={"a": "The first.", "b": "The last."})
    ] = "a"


def test_a_choice_has_its_note_below_and_all_notes_in_the_tooltip(qtbot):
    rows = OptionRows(option_fields(Chosen).values())
    qtbot.addWidget(rows)
    way, note = rows.field("way"), rows._notes["way"]
    assert isinstance(way, FreshCombo)
    assert ([way.itemText(n) for n in range(2)], note.text()) == (["One", "b"], "The first.")
    rows.show_values(Chosen("b"))
    assert (rows.values(), note.text()) == ({"way": "b"}, "The last.")
    assert way.toolTip() == "How. One: the first. b: the last."
    with qtbot.assertNotEmitted(rows.edited):
        rows.mark({"way": "No way."})
    assert way.toolTip() == "No way."


def test_tooltips_use_the_words_that_the_form_shows():
    options = option_fields(SegmentOptions) | option_fields(ObjectOptions)
    padding, tile, samples = (options[name].option for name in ("padding", "tile", "samples"))
    assert padding.form_text.startswith("leave out: black frames, empty slices")
    assert " keep as tissue: they are tissue" in padding.form_text
    assert padding.text.startswith("auto: black frames")
    assert tile.form_text.endswith("auto = chosen for you.")
    assert samples.form_text.endswith("off = one pass without dropout.")
    wrong = [
        (name, choice)
        for name, each in options.items()
        for choice in each.option.labels
        if f"{choice}:" in each.option.form_text.replace(f"{each.option.labels[choice]}:", "")
    ]
    assert wrong == []
