"""The view stays where it is: when a voxel size is typed, when objects are found, when a row of a batch is opened."""

from __future__ import annotations

import numpy as np
import pytest
from hand import choose, segment
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from searching import with_search

from napari_skipseg.images.space import Space
from napari_skipseg.widgets.layers.axes import set_calibration
from napari_skipseg.widgets.layers.placement import camera_of, frame, view_kept, view_of

pytestmark = pytest.mark.gui


def look(viewer, step: int, middle: tuple[float, float], zoom: float) -> None:
    viewer.dims.set_current_step(0, step)
    camera_of(viewer).center = (0.0, *middle)
    camera_of(viewer).zoom = zoom


def same(view, other) -> None:
    np.testing.assert_allclose(view.sliders, other.sliders, atol=1e-6)
    np.testing.assert_allclose(view.middle, other.middle, atol=1e-6)
    assert view.pixel == pytest.approx(other.pixel)


@pytest.mark.parametrize("size", [(5.0, 5.0, 5.0), (50.0, 4.0, 4.0), (0.04, 0.004, 0.004)])
@pytest.mark.parametrize("unit", ["nm", "µm", "pixel"])
def test_the_same_voxels_are_in_view_at_another_voxel_size(size, unit):
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((6, 64, 80)), translate=(0, 7, 3))
    look(viewer, 4, (20.0, 50.0), 6.0)
    before = view_of(viewer, layer)
    with view_kept(viewer, layer):
        set_calibration(layer, Space("ZYX", size, unit))
    same(view_of(viewer, layer), before)


def is_seen(layer) -> bool:
    return bool(layer.thumbnail[..., :3].any())


def constant(viewer, unit: str, size: float = 1.0):
    values = np.full((6, 8, 8), 200, np.uint8)
    return viewer.add_image(values, contrast_limits=(0, 255), units=[unit] * 3, scale=[size] * 3)


@pytest.mark.parametrize("before", ["pixel", "nm", "mm"])
@pytest.mark.parametrize("after", ["pixel", "nm", "µm"])
@pytest.mark.parametrize("step", [0, 3])
def test_an_image_stays_visible_when_only_its_unit_changes(before, after, step):
    viewer = ViewerModel()
    layer = constant(viewer, before)
    viewer.dims.set_current_step(0, step)
    with view_kept(viewer, layer):
        set_calibration(layer, Space("ZYX", (1.0, 1.0, 1.0), after))
    assert is_seen(layer)


def test_the_image_beside_it_stays_visible_when_the_unit_of_the_viewer_changes():
    viewer = ViewerModel()
    layer, beside = constant(viewer, "µm"), constant(viewer, "µm")
    viewer.dims.set_current_step(0, 3)
    with view_kept(viewer, layer):
        set_calibration(layer, Space("ZYX", (1000.0, 1000.0, 1000.0), "nm"))
    assert is_seen(layer)
    assert is_seen(beside)


def test_image_and_results_stay_visible_when_the_unit_is_chosen(open_panel, qtbot):
    viewer, panel = open_panel()
    layer = constant(viewer, "pixel")
    segment(qtbot, panel)
    viewer.dims.set_current_step(0, 3)
    for change_unit in (
        lambda: choose(panel.segment_tab.form.voxel_size.unit, "nm"),
        lambda: setattr(layer, "units", ("pixel", "pixel", "pixel")),
        lambda: setattr(layer, "units", ("nm", "nm", "nm")),
    ):
        change_unit()
        qtbot.wait(50)
        assert is_seen(layer)
        assert is_seen(viewer.layers["probability"])


def test_in_a_view_of_three_dimensions_the_middle_stays_too():
    viewer = ViewerModel(ndisplay=3)
    layer = viewer.add_image(np.zeros((6, 64, 80)))
    camera_of(viewer).center, camera_of(viewer).zoom = (2.0, 20.0, 50.0), 4.0
    before = view_of(viewer, layer)
    with view_kept(viewer, layer):
        set_calibration(layer, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    np.testing.assert_allclose(view_of(viewer, layer).middle, before.middle)
    assert camera_of(viewer).center == pytest.approx((100.0, 80.0, 200.0))


def test_a_voxel_size_that_is_typed_key_by_key_leaves_slice_and_zoom(open_panel, qtbot):
    viewer, panel = open_panel()
    layer = viewer.add_image(np.zeros((6, 64, 80), np.uint8), name="em")
    look(viewer, 4, (20.0, 50.0), 12.0)
    before, numbers = view_of(viewer, layer), panel.segment_tab.form.voxel_size.numbers
    for axis, size in (("Z", "50"), ("Y", "4"), ("X", "4")):
        numbers[axis].selectAll()
        QTest.keyClicks(numbers[axis], size)
        QTest.keyClick(numbers[axis], Qt.Key.Key_Return)
    assert list(layer.scale) == [50, 4, 4]
    same(view_of(viewer, layer), before)


def test_a_layer_is_framed_wherever_it_lies():
    viewer = ViewerModel()
    viewer.add_image(np.zeros((3, 20, 20)))
    layer = viewer.add_image(np.zeros((6, 64, 80)), scale=(50, 4, 4), translate=(1000, 500, 900))
    frame(viewer, layer)
    view = view_of(viewer, layer)
    np.testing.assert_allclose(view.middle[-2:], (31.5, 39.5))
    assert view.sliders[0] == pytest.approx(2.0)


def test_found_objects_do_not_move_the_view_though_the_table_gets_the_focus(open_panel, qtbot, engine, tmp_path):
    with_search(engine, tmp_path)
    viewer, panel = open_panel()
    image = np.zeros((5, 64, 80), np.uint8)
    image[1:3, 5:15, 5:15] = image[3, 40:60, 50:70] = 255
    layer = viewer.add_image(image, name="em")
    segment(qtbot, panel)
    panel.show_tab("Objects")
    tab = panel.objects_tab
    qtbot.waitUntil(tab.find_button.isEnabled)
    for _ in range(2):
        look(viewer, 4, (20.0, 50.0), 12.0)
        before = view_of(viewer, layer)
        tab.table.setFocus()
        qtbot.mouseClick(tab.find_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not tab.is_running)
        tab.table.setFocus()
        same(view_of(viewer, layer), before)
    QTest.keyClick(tab.table, Qt.Key.Key_Down)
    assert viewer.dims.current_step[0] != 4
