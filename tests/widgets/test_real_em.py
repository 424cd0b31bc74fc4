"""The main job as a user does it: real EM from a file, the built-in model, the real engine, real clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt

import napari_skipseg.models.catalog
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.scores.isbi import score_isbi
from napari_skipseg.widgets.segment.outcome import SaveChoices

pytestmark = [pytest.mark.gui, pytest.mark.data]
SLICES = range(21, 23)
BUILT_IN = Path(napari_skipseg.models.catalog.__file__).parent / "builtin"


@pytest.fixture
def em_file(data_folder: Path, tmp_path: Path) -> Path:
    """Two slices of real EM, as a microscope would save them: OME-TIFF with a voxel size."""
    values = tifffile.imread(data_folder / "isbi2012" / "train-volume-00-24.tif", key=SLICES)
    write_ome_tiff(tmp_path / "neuropil.ome.tif", values, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    return tmp_path / "neuropil.ome.tif"


def test_real_em_is_opened_segmented_thresholded_and_saved(
    open_panel, qtbot, em_file, data_folder, tmp_path, monkeypatch, painted, real_engine
) -> None:
    monkeypatch.setattr("napari_skipseg.models.catalog.BUILT_IN", BUILT_IN)
    viewer, panel = open_panel(real_engine)
    tab = panel.segment_tab
    viewer.open(em_file, plugin="napari-skipseg")
    source = viewer.layers[0]
    assert tuple(source.scale) == (50.0, 4.0, 4.0)
    assert tab.form.model.currentData() == "em-membrane"

    qtbot.mouseClick(tab.segment_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=240_000)

    probability, binary = viewer.layers["probability"], viewer.layers["binary"]
    truth = tifffile.imread(data_folder / "isbi2012" / "train-labels-00-24.tif", key=SLICES) > 0
    assert score_isbi(1 - np.asarray(probability.data), truth).v_rand > 0.95
    np.testing.assert_array_equal(np.asarray(binary.data), np.asarray(probability.data) > 0.5)
    for level, stride in enumerate((1, 2, 4), start=1):
        attention = viewer.layers[f"attention {level}"]
        assert attention.data.shape == (2, 512 // stride, 512 // stride)
        assert tuple(attention.scale) == (50.0, 4.0 * stride, 4.0 * stride)
        np.testing.assert_allclose(attention.translate, (0, 2.0 * (stride - 1), 2.0 * (stride - 1)))
        np.testing.assert_allclose(attention.extent.world[:, 1:], source.extent.world[:, 1:], atol=2.0 * stride)
        assert 0 <= attention.data.min() < attention.data.max() <= 1
    for layer in viewer.layers:
        assert [str(unit) for unit in layer.units] == ["nanometer"] * 3
        assert layer.axis_labels == ("z", "y", "x")

    before, layers = int(np.asarray(binary.data).sum()), len(viewer.layers)
    tab.form.threshold.setFocus()
    tab.form.threshold.setValue(0.2)
    assert int(np.asarray(binary.data).sum()) > before
    chosen = SaveChoices(tmp_path / "out", ("probability", "binary"))
    tab.save(chosen, "neuropil", tab.form.read().thresholds, tab.result())
    qtbot.waitUntil(lambda: not tab.is_running, timeout=60_000)
    saved = read_stack(tmp_path / "out" / "neuropil_binary.tif")
    np.testing.assert_array_equal(saved.read((slice(None),) * 3), np.asarray(binary.data))
    assert (saved.space.voxel_size, saved.space.unit, len(viewer.layers)) == ((50.0, 4.0, 4.0), "nm", layers)
