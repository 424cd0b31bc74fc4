"""The menu Export of the Objects tab: meshes and skeletons as layers, and objects for other programs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog
from searching import with_search
from test_objects_tab import SIZE, blobs

from napari_skipseg.exports.labels import labels_at_time
from napari_skipseg.exports.to_folder import ExportRequest, iter_export_objects
from napari_skipseg.jobs.messages import ExportObjects
from napari_skipseg.widgets.layers.placement import camera_of, canvas_size
from napari_skipseg.widgets.objects.shapes import ObjectShape, show_shape

pytestmark = pytest.mark.gui
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def found(open_panel: Callable, engine, qtbot, tmp_path: Path):
    """The panel with the objects in labels of a class; give (viewer, tab)."""
    engine = with_search(engine, tmp_path)
    engine.answers[ExportObjects] = lambda asked: iter_export_objects(
        ExportRequest(labels_at_time(asked.labels, asked.time), asked.options, asked.name, asked.objects), asked.target
    )
    viewer, panel = open_panel(engine)
    viewer.add_labels((blobs() > 0).astype(np.uint8), name="em", scale=SIZE, units="nm", translate=(0, 8, 0))
    tab = panel.objects_tab
    bar = panel.tabs.tabBar()
    place = [bar.tabText(n) for n in range(bar.count())].index("Objects")
    qtbot.mouseClick(bar, LEFT, pos=bar.tabRect(place).center())
    qtbot.waitUntil(tab.find_button.isEnabled)
    qtbot.mouseClick(tab.find_button, LEFT)
    qtbot.waitUntil(lambda: tab.result() is not None and not tab.is_running, timeout=30_000)
    return viewer, tab


def trigger(tab, words: str) -> None:
    """Choose an entry of the menu."""
    assert tab.export_button.isVisible()
    assert tab.export_button.isEnabled()
    next(action for action in tab.export_button.menu().actions() if words in action.text()).trigger()


def test_the_mesh_of_the_selected_object_lies_over_it_in_3d(found, qtbot) -> None:
    pytest.importorskip("zmesh")
    viewer, tab = found
    shown = tab.result()
    label = int(np.asarray(shown.layer.data)[1, 27, 23])
    shown.layer.selected_label = label
    trigger(tab, "mesh of the selected")
    qtbot.waitUntil(lambda: f"em object {label} mesh" in viewer.layers, timeout=30_000)
    mesh = viewer.layers[f"em object {label} mesh"]
    low, high = mesh.extent.world
    np.testing.assert_allclose(low, [-0.5 * 50, 8 + 24.5 * 4, 19.5 * 4], rtol=1e-5)
    np.testing.assert_allclose(high, [2.5 * 50, 8 + 29.5 * 4, 25.5 * 4], rtol=1e-5)
    assert viewer.dims.ndisplay == 3
    camera = camera_of(viewer)
    np.testing.assert_allclose(camera.center, (low + high) / 2, rtol=1e-5)
    seen = float(np.linalg.norm(high - low) * camera.zoom) / min(canvas_size(viewer))
    assert 0.9 < seen < 1, "a small object fills the canvas"
    qtbot.waitUntil(lambda: not tab.is_running)
    assert not shown.layer.visible, "the labels would cover it"
    trigger(tab, "mesh of the selected")  # again: another layer takes its place
    qtbot.waitUntil(lambda: mesh not in viewer.layers, timeout=30_000)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert (f"em object {label} mesh" in viewer.layers, shown.layer.visible) == (True, False)
    viewer.layers.remove(f"em object {label} mesh")
    assert shown.layer.visible
    show_shape(viewer, shown, ObjectShape("mesh", label, np.asarray(mesh.data[0]), np.asarray(mesh.data[1])))
    assert not shown.layer.visible
    viewer.dims.ndisplay = 2
    assert shown.layer.visible


def test_a_skeleton_is_shown_as_lines(found, qtbot) -> None:
    pytest.importorskip("kimimaro")
    viewer, tab = found
    label = int(np.asarray(tab.result().layer.data)[1, 7, 7])
    tab.result().layer.selected_label = label
    trigger(tab, "skeleton of the selected")
    qtbot.waitUntil(lambda: f"em object {label} skeleton" in viewer.layers, timeout=30_000)
    lines = viewer.layers[f"em object {label} skeleton"]
    assert len(lines.data) > 0
    ends = np.concatenate([lines.data[:, 0], lines.data.sum(axis=1)])
    values = np.asarray(tab.result().layer.data)[tuple(np.rint(ends).astype(int).T)]
    assert (values == label).all()
    qtbot.waitUntil(lambda: not tab.is_running)


def test_contacts_are_written_and_an_unselected_object_is_a_sentence(found, qtbot, tmp_path: Path, monkeypatch) -> None:
    viewer, tab = found
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    trigger(tab, "Contacts")
    qtbot.waitUntil((tmp_path / "out" / "em_objects_contacts.csv").exists, timeout=30_000)
    qtbot.waitUntil(lambda: not tab.is_running)
    assert "em_objects_contacts.csv" in tab.message.text()
    (tmp_path / "out" / "em_objects_unfinished").mkdir()  # as a stop leaves it
    trigger(tab, "Contacts between")
    qtbot.waitUntil(lambda: "An export that is repeated goes on" in tab.message.text(), timeout=30_000)
    qtbot.waitUntil(lambda: not tab.is_running)
    tab.result().layer.selected_label = 999
    trigger(tab, "mesh of the selected")
    qtbot.waitUntil(lambda: "Select an object first" in tab.message.text(), timeout=30_000)
    assert not any("mesh" in layer.name for layer in viewer.layers)
