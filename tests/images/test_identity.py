"""What an image is called by its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_skipseg.images.files import read_stack
from napari_skipseg.images.identity import HASHED_BLOCKS, HASHED_SIDE, WHOLE, identify
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr


def grey(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, shape).astype(np.uint8)


class Watched:
    """An array that counts the voxels that are read, and has an invented length."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.voxels = shape, np.dtype(np.uint16), 0

    def __getitem__(self, index: Any) -> NDArray[np.uint16]:
        lengths = [part.stop - part.start for part in index if isinstance(part, slice)]
        self.voxels += int(np.prod(lengths))
        start = sum(part if isinstance(part, int) else part.start for part in index)
        return np.full(lengths, start % 60_000, np.uint16)


@pytest.mark.parametrize("shape", [(40, 50), (3, 40, 50), (12, 300, 400)])
def test_it_is_the_same_in_memory_in_tiff_and_in_zarr(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values, axes = grey(*shape), "ZYX"[3 - len(shape) :]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata={"axes": axes})
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="minisblack", compression="zlib", byteorder=">")
    write_ome_zarr(tmp_path / "c.zarr", values, Layout(shape, Space(axes, (40, 5, 5), "nm"), "uint8"))
    found = {identify(read_stack(tmp_path / name)) for name in ("a.tif", "b.tif", "c.zarr")}
    assert found == {identify(Stack(values, Space(axes, (2, 1, 1)), name="other"))}
    assert len(found.pop()) == 64


def test_it_does_not_depend_on_byte_order_but_on_the_type() -> None:
    values = grey(40, 50).astype(np.uint16)
    assert identify(Stack(values.astype(">u2"), Space("YX"))) == identify(Stack(values, Space("YX")))
    assert identify(Stack(values.astype(np.int32), Space("YX"))) != identify(Stack(values, Space("YX")))


def test_one_voxel_makes_another_image_where_it_is_small() -> None:
    values = grey(4, 40, 50)
    changed = values.copy()
    changed[2, 7, 9] ^= 1
    assert identify(Stack(changed, Space("ZYX"))) != identify(Stack(values, Space("ZYX")))
    assert identify(Stack(values.reshape(4, 50, 40), Space("ZYX"))) != identify(Stack(values, Space("ZYX")))


def test_other_colours_make_another_image() -> None:
    values = grey(700, 800, 3)
    changed = values.copy()
    changed[..., 2] = 255 - changed[..., 2]
    assert identify(Stack(changed, Space("YXC"))) != identify(Stack(values, Space("YXC")))
    assert identify(Stack(values, Space("ZYX"))) != identify(Stack(values, Space("YXC")))


@pytest.mark.parametrize(("shape", "axes"), [((5000, 90_000, 80_000), "ZYX"), ((9, 2, 200, 9000, 9000), "TCZYX")])
def test_of_terabytes_it_reads_a_few_blocks(shape: tuple[int, ...], axes: str) -> None:
    data = Watched(shape)
    first = identify(Stack(data, Space(axes)))
    assert 0 < data.voxels <= HASHED_BLOCKS * HASHED_SIDE**2 * 2
    assert identify(Stack(data, Space(axes))) == first


def test_a_name_is_for_ever() -> None:
    """Corrections of years ago must be found."""
    ramp = np.arange(WHOLE * 2, dtype=np.uint8).reshape(2, 1024, 1024)
    assert identify(Stack(ramp[0, :8, :8], Space("YX"))).startswith("a9f7bfbdb159b54f")
    assert identify(Stack(ramp, Space("ZYX"))).startswith("ca44a5a1b51a420e")
