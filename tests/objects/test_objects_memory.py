"""The memory that objects of a large volume take: that of a few blocks, and not of the volume."""

import sys

import numpy as np
import pytest
from made import bumpy
from run_python import run_python

from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import create_ome_zarr

SHAPE, BLOCK = (384, 768, 768), (64, 256, 256)
LAYOUT = Layout(SHAPE, Space("ZYX", (8.0, 8.0, 8.0), "nm"), "uint8", chunks=BLOCK)
MOST = 1500
"""MiB: two blocks of up to 450, their labels, and what Python and its packages take."""

MEASURED = """
import sys
from pathlib import Path
from napari_skipseg.images.files import read_stack
from napari_skipseg.objects import find_in_blocks
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.progress import run_to_end

find_in_blocks.blocks_at_once = lambda: 2
folder = Path(sys.argv[1])
target = ObjectsTarget(folder, "found", "ome-zarr")
image = ClassImage(read_stack(folder / "volume.ome.zarr"))
found = run_to_end(iter_find_objects(image, ObjectOptions(sys.argv[2]), target))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(found.count, int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is read as Linux tells it")
@pytest.mark.parametrize("method", ["components", "watershed", "cells"])
def test_a_volume_takes_the_memory_of_blocks(method, tmp_path):
    writer = create_ome_zarr(tmp_path / "volume.ome.zarr", LAYOUT)
    part = np.round(255 * bumpy(BLOCK, sigma=6)).astype(np.uint8)
    for number, corner in enumerate(np.ndindex(*(length // side for length, side in zip(SHAPE, BLOCK, strict=True)))):
        place = tuple(slice(at * side, (at + 1) * side) for at, side in zip(corner, BLOCK, strict=True))
        writer.write(place, np.roll(part, 16 * number, axis=2))
    count, peak = map(int, run_python(MEASURED, tmp_path, method).stdout.split())
    assert count > 20
    assert peak < MOST, f"{peak} MiB"
