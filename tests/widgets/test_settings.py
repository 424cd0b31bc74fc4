"""The window remembers choices between two starts; no fault of the file of settings stops it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_skipseg.option_fields import option_fields
from napari_skipseg.training.settings import FinetuneSettings
from napari_skipseg.widgets import settings as settings_module
from napari_skipseg.widgets.forms.dialogs import ask_new_file, last_folder
from napari_skipseg.widgets.forms.fields import choose_value
from napari_skipseg.widgets.settings import SETTINGS_VARIABLE, PanelSettings, open_settings, preference


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "settings.json"


def test_values_are_there_at_the_next_start_and_none_forgets_one(file):
    first = PanelSettings(file)
    first.put("segment/model", "em-membrane")
    first.put("batch/choices", {"recursive": True})
    first.put("segment/device", "cpu")
    first.put("segment/device", None)
    assert not file.exists()
    first.save()
    again = PanelSettings(file)
    assert (again.get("segment/model"), again.get("batch/choices")) == ("em-membrane", {"recursive": True})
    assert (again.get("segment/device"), again.notice) == (None, "")
    assert again.forget()
    assert (again.get("segment/model"), file.exists(), PanelSettings(file).get("segment/model")) == (None, False, None)


def test_two_windows_keep_what_each_of_them_changed(file):
    one, other = PanelSettings(file), PanelSettings(file)
    one.put("a", 1)
    other.put("b", 2)
    one.save()
    other.save()
    one.put("a", 3)
    one.save()
    assert json.loads(file.read_bytes())["values"] == {"a": 3, "b": 2}
    assert [each.name for each in file.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1]", b'{"format": 2, "values": {}}', b'{"format": 1, "values": []}', b"[" * 10**5],
    ids=["empty", "no text", "a list", "a later version", "no values", "nested too deeply"],
)
def test_a_damaged_or_foreign_file_is_set_aside_with_one_sentence(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    found = PanelSettings(file)
    aside = file.with_name("settings.damaged.json")
    assert found.notice == (
        f"The settings could not be read: they are set aside as '{aside}', and the window starts with its defaults."
    )
    assert aside.read_bytes() == content
    found.put("a", 1)
    found.save()
    assert PanelSettings(file).get("a") == 1


def test_a_file_that_is_too_large_to_be_ours_is_not_read(file, monkeypatch):
    monkeypatch.setattr(settings_module, "LARGEST", 10)
    file.parent.mkdir()
    file.write_text('{"format": 1, "values": {"a": 1}}')
    assert PanelSettings(file).get("a") is None


def test_a_full_disk_loses_nothing_but_the_memory(file, monkeypatch):
    kept = PanelSettings(file)
    kept.put("a", 1)
    kept.save()
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(settings_module, "write_whole", full)
        kept.put("a", 2)
        kept.save()
    assert (kept.get("a"), file.read_bytes()) == (2, before)
    kept.save()
    assert PanelSettings(file).get("a") == 2


def test_a_folder_in_place_of_the_file_is_said_and_left_alone(file):
    file.mkdir(parents=True)
    found = PanelSettings(file)
    assert found.notice.startswith(f"The settings in '{file}' cannot be read (")
    found.put("a", 1)
    found.save()
    assert (file.is_dir(), found.forget()) == (True, False)


def test_an_empty_variable_means_that_nothing_is_remembered(monkeypatch):
    monkeypatch.setenv(SETTINGS_VARIABLE, "")
    assert open_settings().file is None


def test_an_option_takes_only_what_has_its_type_and_range():
    options = option_fields(FinetuneSettings)
    steps, rate, remember = options["steps"], options["learning_rate"], options["remember"]
    assert [steps.accepts(value) for value in (5, True, 5.0, "5", -1, None)] == [True] + [False] * 5
    assert [rate.accepts(value) for value in (None, 0.1, 1, "x", True)] == [True, True, True, False, False]
    assert [remember.accepts(value) for value in (True, 1)] == [True, False]
    assert [options["loss"].accepts(value) for value in ("dice", "unknown", [])] == [True, False, False]


@pytest.mark.gui
def test_dialogs_open_in_the_folder_that_was_chosen_last(qapp, tmp_path, monkeypatch):
    asked = []

    def choose(parent, title, start, kinds):
        asked.append(start)
        return str(tmp_path / "a" / "x.tif"), kinds

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    for _ in range(2):
        assert ask_new_file(None, "Save", "x.tif", "TIFF (*.tif)", "objects")[0] == tmp_path / "a" / "x.tif"
    assert asked == ["x.tif", str(tmp_path / "a" / "x.tif")]
    (tmp_path / "a").rmdir()
    assert (last_folder("objects"), last_folder("corrections")) == ("", "")


@pytest.mark.gui
def test_the_panel_opens_with_the_choices_of_the_last_time(open_panel, qtbot):
    _, panel = open_panel()
    form, fold = panel.segment_tab.form, panel.finetune_tab.form.fold
    choose_value(form.model, "tiny-3d")
    choose_value(form.device, "cpu")
    choose_value(form.options.average, 4)
    form.options.invert.setChecked(True)
    form.threshold.setValue(0.3)
    panel.finetune_tab.form.reaches["full"].click()
    fold.rows.field("steps").setValue(70)
    panel.objects_tab.form.smallest.set_value(12)
    panel.inspect_tab.all_maps.setChecked(True)
    fold.expand(animate=False)
    panel.tabs.setCurrentIndex(1)
    stored = open_settings().file
    qtbot.waitUntil(lambda: stored.exists() and '"window/tab": "Correct"' in stored.read_text())
    settings_module._opened.clear()  # as in a new process

    _, again = open_panel()
    form, fold = again.segment_tab.form, again.finetune_tab.form.fold
    choices = form.read()
    assert (choices.model.name, choices.device, choices.average) == ("tiny-3d", "cpu", 4)
    assert (choices.thresholds, choices.other_options["invert"]) == ({"membrane": 0.3}, False)
    assert form.options.text() == "▸ Options (1 changed)"
    assert (again.finetune_tab.form.read().reach, again.finetune_tab.form.read().asked["steps"]) == ("full", 70)
    assert (fold.isExpanded(), fold.text()) == (True, "▾ Details (1 changed)")
    assert (again.objects_tab.form.smallest.value(), again.inspect_tab.all_maps.isChecked()) == (12, True)
    assert again.tabs.tabText(again.tabs.currentIndex()) == "Correct"
    choose_value(form.model, "tiny-2d")
    assert form.threshold.value() == 0.5  # its own, although it finds the same class
    form.threshold.setValue(0.8)
    choose_value(form.model, "tiny-3d")
    assert form.threshold.value() == 0.3
    choose_value(form.model, "tiny-2d")
    assert form.threshold.value() == 0.8


@pytest.mark.gui
def test_nonsense_in_the_settings_is_passed_over_and_a_model_that_is_gone_is_named(open_panel, tmp_path):
    settings = open_settings()
    for key in (
        "segment/device", "segment/options", "finetune/reach", "finetune/options", "finetune/augmentation",
        "scratch/kind", "scratch/network", "scratch/dimensions", "scratch/images", "scratch/options",
        "objects/options", "inspect/all maps", "window/tab", "window/open segment", "batch/choices",
        "thresholds/tiny-2d", "folder/objects", "save/format", "save/values",
    ):  # fmt: skip
        settings.put(key, [{"no": "sense"}])
    settings.put("segment/options", {"tile": "large", "average": 3, "samples": 1e9, "unknown": 1, "padding": "none"})
    settings.put("thresholds/tiny-2d", {"membrane": 7, "other": 0.1})
    settings.put("segment/model", "my-old-model")
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((32, 48), np.uint8), name="em")
    choices = panel.segment_tab.form.read()
    assert (choices.model.name, choices.device, choices.tile, choices.average) == ("tiny-2d", "auto", 0, 1)
    assert (choices.other_options["padding"], choices.thresholds) == ("none", {"membrane": 0.5})
    assert last_folder("objects") == ""


@pytest.mark.gui
def test_a_model_that_is_gone_is_named_until_something_is_chosen(open_panel):
    open_settings().put("segment/model", "my-old-model")
    _, panel = open_panel()
    said = "The model 'my-old-model' of the last session is not there any longer: tiny-2d is chosen."
    assert panel.segment_tab.message.text() == said


def test_preferences_of_napari_switch_memory_off_and_set_the_device(monkeypatch):
    napari_settings = pytest.importorskip("napari.settings")
    if not hasattr(napari_settings, "get_plugin_settings"):
        assert preference("device", "as last time") == "as last time"
        pytest.skip("napari before 0.9 has no settings of plugins")
    start = napari_settings.get_plugin_settings("napari-skipseg").start
    monkeypatch.setattr(start, "device", "cpu")
    assert preference("device", "as last time") == "cpu"
    assert open_settings().file is not None
    monkeypatch.setattr(start, "remember", False)
    assert open_settings().file is None
    with pytest.raises(ValueError, match="tpu"):
        start.device = "tpu"
