"""Segment a file of any size into OME-Zarr, in the memory of a tile; after a stop or a kill, run it again to resume.

    python examples/segment_a_large_file.py [FOLDER]

The file is a small one made from numbers here; any TIFF, OME-Zarr or MRC takes its place.
"""

from __future__ import annotations

import sys
from pathlib import Path

import napari_skipseg as skipseg


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sample = skipseg.make_sample((2, 256, 256), seed=3).stack
    skipseg.write_ome_tiff(folder / "large.tif", sample.data, sample.space)

    results = skipseg.segment_to_folder(folder / "large.tif", "em-membrane", folder, form="ome-zarr", average=4)
    for file in results:
        stack = skipseg.read_stack(file)
        print(f"{file}: {stack.shape}, voxels of {stack.space.voxel_size} {stack.space.unit}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
