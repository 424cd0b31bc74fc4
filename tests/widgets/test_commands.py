"""The commands of napari's palette and menus, in a real window."""

from __future__ import annotations

import numpy as np
import pytest
from hand import ramp
from npe2 import PluginManifest
from qtpy.QtWidgets import QDockWidget

from napari_skipseg.widgets import commands
from napari_skipseg.widgets.settings import open_settings

pytestmark = pytest.mark.gui


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The notifications."""
    found: list[str] = []
    for module in ("commands", "forms.job_tab"):
        monkeypatch.setattr(f"napari_skipseg.widgets.{module}.pop_up", lambda text, head="": found.append(text))
        monkeypatch.setattr(f"napari_skipseg.widgets.{module}.pop_up_fault", found.append)
    return found


def front(panel) -> str:
    return panel.tabs.tabText(panel.tabs.currentIndex())


def test_each_command_of_the_manifest_is_a_function_and_lies_in_the_menus_that_napari_allows():
    from napari._app_model.constants._menus import is_menu_contributable

    manifest = PluginManifest.from_distribution("napari-skipseg").contributions
    ours = [each for each in manifest.commands if ":" in each.python_name and "widgets.commands" in each.python_name]
    assert all(callable(getattr(commands, each.python_name.partition(":")[2])) for each in ours)
    assert len(ours) == 10
    assert all(is_menu_contributable(menu) for menu in manifest.menus)
    placed = {menu.rpartition("/")[2]: [item.command for item in items] for menu, items in manifest.menus.items()}
    assert set(placed) == {"segment", "annotate", "measure", "visualize", "io_utilities"}
    assert placed["annotate"] == [f"napari-skipseg.{name}" for name in ("correct", "finetune", "proofread")]
    called = {writer.command for writer in manifest.writers} | {reader.command for reader in manifest.readers}
    assert {each.id for each in manifest.commands if each.enablement == "False"} == called


def test_segment_and_preview_take_the_selected_image_or_that_of_the_selected_result(open_panel, qtbot, engine, said):
    viewer, panel = open_panel()
    viewer.add_image(ramp(32, 48), name="one")
    two = viewer.add_image(ramp(32, 48), name="two")
    viewer.layers.selection.active = viewer.layers["one"]
    qtbot.waitUntil(lambda: panel.segment_tab.form.image.currentText() == "one")
    viewer.layers.selection.active = two
    panel.show_tab("Correct")
    commands.segment_layer()
    assert (front(panel), panel.segment_tab.form.read().layer) == ("Segment", two)
    assert panel.segment_tab.is_running
    commands.preview_layer()
    assert panel.segment_tab.message.text() == "The Segment tab is at work: wait until it has finished, or cancel it."
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running, timeout=60_000)
    panel.segment_tab.form.choose_model("tiny-2d")
    commands._choose(panel.segment_tab.form.image, viewer.layers["one"])
    viewer.layers.selection.active = viewer.layers["probability"]
    commands.preview_layer()
    assert panel.segment_tab.form.read().layer is two
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running, timeout=60_000)
    assert engine.previews == [False, True]
    assert said == []


def test_what_cannot_be_done_is_said_in_a_sentence(open_panel, said):
    viewer, panel = open_panel()
    commands.segment_layer()
    assert said.pop() == "No layer is selected: select an image in the layer list first."
    commands.find_objects_in_layer()
    assert said.pop() == (
        "No layer is selected: select a segmented image, a probability or labels in the layer list first."
    )
    commands.proofread_objects()
    assert said.pop() == "No layer is selected: select a layer of objects or labels in the layer list first."
    viewer.add_points(np.zeros((2, 2)), name="dots")
    for command, tab in ((commands.segment_layer, "Segment"), (commands.correct_layer, "Correct")):
        command()
        assert said.pop() == "'dots' is no image that can be segmented: select an image in the layer list first."
        assert front(panel) == tab
    commands.find_objects_in_layer()
    assert said.pop().startswith("'dots' has no objects to find: segment it first, or select a segmented image")
    commands.proofread_objects()
    assert said.pop() == "'dots' cannot be proofread: select a layer of objects or labels."
    em = viewer.add_image(np.zeros((32, 48), np.uint8), name="em")
    viewer.layers.selection.active = em
    panel.segment_tab.form.options.tile.setValue(7)
    commands.segment_layer()
    assert said.pop() == "A tile needs 32 voxels or more (0 = auto)."
    commands.finetune_model()
    assert front(panel) == "Fine-tune"
    assert said.pop() == panel.finetune_tab.message.text() != ""
    assert said == []


def test_correct_finds_the_image_of_its_own_layers_and_objects_are_found_in_the_result(open_panel, qtbot, engine, said):
    viewer, panel = open_panel()
    viewer.add_image(ramp(32, 48), name="em")
    viewer.layers.selection.active = viewer.layers["em"]
    commands.correct_layer()
    qtbot.waitUntil(lambda: panel.correct_tab.session is not None, timeout=20_000)
    assert viewer.layers.selection.active.name == "em corrections"
    commands.segment_layer()
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running, timeout=60_000)
    viewer.layers.selection.active = viewer.layers["em"]
    commands.find_objects_in_layer()
    assert (front(panel), panel.objects_tab.form.layer.currentData().name) == ("Objects", "probability")
    assert panel.objects_tab.is_running
    panel.objects_tab.cancel()
    qtbot.waitUntil(lambda: not panel.objects_tab.is_running, timeout=60_000)


def test_proofread_opens_the_selected_labels_and_the_panel_comes_back(open_panel, qtbot, said, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_SKIPSEG_EDITS", str(tmp_path / "edits"))
    viewer, panel = open_panel()
    labels = np.zeros((4, 32, 48), np.uint8)
    labels[:, 4:12, 4:12] = 1
    viewer.add_labels(labels, name="theirs")
    viewer.add_labels(labels, name="others")
    viewer.layers.selection.active = viewer.layers["theirs"]
    dock = panel.parent()
    while not isinstance(dock, QDockWidget):
        dock = dock.parent()
    dock.hide()
    commands.proofread_objects()
    assert (dock.isVisible(), front(panel)) == (True, "Proofread")
    tab = panel.proofread_tab
    qtbot.waitUntil(lambda: tab.opened is not None, timeout=60_000)
    assert tab.opened.source.layer.name == "theirs"
    commands.proofread_objects()
    assert tab.message.text() == "These objects are being proofread already."
    tab.close_session()
    for command, name in ((commands.open_batch, "Batch"), (commands.inspect_model, "Inspect")):
        command()
        assert front(panel) == name
    qtbot.wait(300)


def test_settings_are_forgotten_and_help_opens_the_page_of_the_tab(open_panel, said, monkeypatch):
    opened = []
    monkeypatch.setattr(commands, "open_page", opened.append)
    open_settings().put("segment/device", "cpu")
    commands.forget_settings()
    assert said.pop() == "The settings are forgotten: the next start begins with the defaults."
    assert open_settings().get("segment/device") is None
    open_panel()
    commands.show_help()
    assert opened == ["Segment"]
