"""The Segment tab in a real window: real clicks, and the values of the layers that appear."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

pytestmark = pytest.mark.gui


def press_segment(qtbot, panel, wait: bool = True) -> None:
    tab = panel.segment_tab
    assert tab.segment_button.isEnabled(), tab.message.text()
    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    assert tab.is_running
    if wait:
        qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)


def ramp(*shape: int) -> np.ndarray:
    """An image that rises from 0 to 255, so that a threshold has an exact answer."""
    return np.linspace(0, 255, int(np.prod(shape))).reshape(shape).astype(np.uint8)


def test_segment_shows_probability_binary_and_hidden_attention(open_panel, qtbot, engine):
    viewer, panel = open_panel()
    image = ramp(4, 32, 48)
    viewer.add_image(image, name="em", scale=(50, 4, 4), units="nm", axis_labels=("z", "y", "x"))
    press_segment(qtbot, panel)
    assert [layer.name for layer in viewer.layers] == ["em", "attention 2", "attention 1", "probability", "binary"]
    np.testing.assert_allclose(viewer.layers["probability"].data, image / 255, atol=1e-6)
    assert viewer.layers["probability"].contrast_limits == [0, 1]
    np.testing.assert_array_equal(np.asarray(viewer.layers["binary"].data), image / 255 > 0.5)
    assert [layer.visible for layer in viewer.layers] == [True, False, False, True, True]
    assert not viewer.layers["binary"].editable
    for layer in viewer.layers:
        assert [str(unit) for unit in layer.units] == ["nanometer"] * 3
        assert layer.axis_labels == ("z", "y", "x")
