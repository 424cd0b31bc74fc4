"""The engine reads the voxels that the viewer shows, also of files whose axes were turned."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_levels
from napari_skipseg.jobs.messages import ArrayReference
from napari_skipseg.jobs.operations import open_voxels

CUBE = np.random.default_rng(0).integers(0, 255, (8, 8, 8), "uint8")


def opened(path: Path, axes: str):
    """Return what the engine reads of a file that the viewer has opened and shows with `axes`."""
    shown = read_levels(path)[0]
    reference = ArrayReference(str(path), shown.shape, shown.data.dtype, axes)
    return np.asarray(open_voxels(reference)), np.asarray(shown.data)


@pytest.mark.parametrize("names", [("x", "y", "z"), ("y", "x", "z"), ("z", "y", "x")])
def test_of_a_turned_store_the_engine_reads_what_is_shown(tmp_path, names):
    zarr.create_array(tmp_path / "a.zarr", data=CUBE, dimension_names=names)
    read, shown = opened(tmp_path / "a.zarr", "ZYX")
    assert np.array_equal(read, shown)


def test_other_axes_on_the_layer_change_no_voxel(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", CUBE, photometric="minisblack", metadata={"axes": "XYZ"})
    read, shown = opened(tmp_path / "a.tif", "TYX")
    assert np.array_equal(read, shown)
    assert np.array_equal(shown, CUBE.T)


def test_an_image_of_another_shape_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", CUBE, photometric="minisblack")
    with pytest.raises(InputError, match="has changed since the viewer opened it"):
        open_voxels(ArrayReference(str(tmp_path / "a.tif"), (8, 8, 9), CUBE.dtype, "ZYX"))
