"""What of a layer is on screen, and arrays cut and repeated without a copy."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_skipseg.images.views import CutArray
from napari_skipseg.widgets.layers.placement import RepeatedSlices, visible_box


def look_at(viewer: ViewerModel, centre: tuple[float, float], zoom: float) -> None:
    camera = getattr(viewer, "scene", viewer).camera
    camera.center, camera.zoom = (0, *centre), zoom


def test_a_cut_keeps_its_axes_and_reads_as_the_part_does():
    image = np.arange(4 * 10 * 12).reshape(4, 10, 12)
    cut = CutArray(image, {0: 2, 1: slice(3, 8), 2: slice(0, 12)})
    part = image[2:3, 3:8]
    assert cut.shape == (1, 5, 12)
    np.testing.assert_array_equal(np.asarray(cut), part)
    for index in ((0, 1, slice(None)), (slice(None), slice(1, 3), 5), (0, -1, -1), (0, slice(None, None, -1), 0)):
        np.testing.assert_array_equal(cut[index], part[index])


def test_what_is_repeated_follows_the_array_and_reads_nothing_more():
    image = np.zeros((3, 4, 5))
    repeated = RepeatedSlices(image, 1, 2)
    image[1, 2, 3] = 7
    whole = np.broadcast_to(image[:, None], (3, 2, 4, 5))
    assert repeated.shape == whole.shape
    for index in (..., (1, 1), (1, slice(None), 2), (slice(0, 2), 0, slice(1, 3)), (1, slice(0, 1), 2, 3)):
        np.testing.assert_array_equal(repeated[index], whole[index])


def test_the_box_on_screen_is_counted_in_voxels_of_the_layer():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((6, 400, 400)), scale=(50, 4, 4), translate=(0, 100, 8), units="nm")
    viewer.dims.set_current_step(0, 4)
    height, width = viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size
    look_at(viewer, (100 + 4 * 200, 8 + 4 * 200), zoom=5.0)
    (z, z_last), (y, y_last), (x, x_last) = visible_box(viewer, layer)
    assert z == z_last == 4
    assert (y_last - y, x_last - x) == pytest.approx((height / 20, width / 20), abs=2)
    assert (y + y_last, x + x_last) == pytest.approx((400, 400), abs=2)
    look_at(viewer, (100 + 4 * 200, 8 + 4 * 200), zoom=0.01)
    assert visible_box(viewer, layer)[1:] == ((0, 399), (0, 399))
    look_at(viewer, (1e6, -1e6), zoom=1.0)
    assert visible_box(viewer, layer)[1:] == ((399, 399), (0, 0))
    viewer.dims.ndisplay = 3
    assert visible_box(viewer, layer) == ((0, 5), (0, 399), (0, 399))


def test_the_box_of_a_multiscale_image_is_in_voxels_of_the_finest_level():
    viewer = ViewerModel()
    layer = viewer.add_image([np.zeros((400, 400)), np.zeros((200, 200))], multiscale=True)
    look_at(viewer, (200, 200), zoom=10.0)
    (top, bottom), _ = visible_box(viewer, layer)
    height = (viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size)[0]
    assert bottom - top == pytest.approx(height / 10, abs=2)


def test_the_view_of_another_plane_names_the_axes_that_are_shown():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((6, 400, 400)))
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_current_step(1, 30)
    look_at(viewer, (3, 200), zoom=0.01)
    assert visible_box(viewer, layer) == ((0, 5), (30, 30), (0, 399))
