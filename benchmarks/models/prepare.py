"""Write the files that the built-in models are trained on: every set with the same label values, at one voxel size.

    python benchmarks/models/prepare.py DATA OUT

DATA is the folder of real EM data (its README names sources, polarity and terms). Labels in OUT: 0 = background,
1 = membrane, 2 = mitochondrion, 255 = not known (not counted). Large sets are thinned, small ones repeated by the
settings files, so that each set is drawn about equally often (samples are drawn by the size of a file).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space

Array = NDArray[np.uint8]
UNKNOWN = 255


def boundaries(ids: NDArray[np.integer], grow: int) -> NDArray[np.bool_]:
    """Return where ids change between neighbours in a slice, grown by `grow` pixels; id 0 is boundary too."""
    edge = ids == 0
    for axis in (1, 2):
        moved = np.moveaxis(ids, axis, 0)
        changed = moved[1:] != moved[:-1]
        view = np.moveaxis(edge, axis, 0)
        view[1:] |= changed
        view[:-1] |= changed
    cross = ndimage.generate_binary_structure(2, 1)[None]
    return ndimage.binary_dilation(edge, cross, iterations=grow) if grow else edge


def doubled(values: NDArray, order: int) -> NDArray:
    """Return slices enlarged twofold in y and x."""
    return ndimage.zoom(values, (1, 2, 2), order=order, mode="nearest", grid_mode=True)


def save(folder: Path, name: str, image: Array, labels: Array, voxel_size: tuple[float, float, float]) -> None:
    for ending, values in (("", image), ("_labels", labels)):
        write_ome_tiff(folder / f"{name}{ending}.tif", np.ascontiguousarray(values), Space("ZYX", voxel_size, "nm"))
    print(name, image.shape, {int(v): round(float((labels == v).mean()), 3) for v in np.unique(labels)})


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    read = lambda name: tifffile.imread(data / name)  # noqa: E731

    isbi, cells = read("isbi2012/train-volume-00-24.tif"), read("isbi2012/train-labels-00-24.tif")
    save(out, "isbi", isbi, (cells == 0).astype(np.uint8), (50, 4, 4))

    vnc = read("vnc_larva3/stack1-raw-00-09.tif")
    membrane = read("vnc_larva3/stack1-membranes-00-09.tif") > 127
    mito = read("vnc_larva3/stack1-mitochondria-00-09.tif") >= 128
    save(out, "vnc", vnc, membrane.astype(np.uint8), (50, 4.6, 4.6))
    save(out, "vnc_mito", vnc, 2 * mito.astype(np.uint8), (50, 4.6, 4.6))
    both = np.where(mito, 2, membrane).astype(np.uint8)
    save(out, "vnc_both", vnc, both, (50, 4.6, 4.6))

    raw, ids = read("fib25_medulla/raw.tif"), read("fib25_medulla/neurons.tif")
    for plane, axes in (("xy", (0, 1, 2)), ("xz", (1, 0, 2)), ("yz", (2, 0, 1))):
        image, labels = raw.transpose(axes), ids.transpose(axes)
        chosen = slice(4, None, 9)
        edge = boundaries(labels[chosen], grow=0)
        wide = ndimage.binary_dilation(doubled(edge.astype(np.uint8), 0) > 0, np.ones((1, 2, 2), bool))
        save(out, f"fib25_{plane}", doubled(image[chosen], 3), wide.astype(np.uint8), (10, 5, 5))

    gala, ids = read("gala_fibsem/train-image.tif"), read("gala_fibsem/train-gt.tif")
    edge = doubled(boundaries(ids, grow=0).astype(np.uint8), 0) > 0
    save(out, "gala", doubled(gala, 3), edge.astype(np.uint8), (10, 5, 5))

    image, membrane = read("neuropil_membrane/raw.tif"), read("neuropil_membrane/membrane.tif") > 0
    save(out, "neuropil", image[None], membrane[None].astype(np.uint8), (50, 10, 10))

    for name, part in (("smooth", "10-19"), ("scanned", "20-39")):
        image = read(f"cdeep3m_mito/raw-smooth-{part}.tif" if name == "smooth" else f"cdeep3m_mito/raw-{part}.tif")
        mito = read(f"cdeep3m_mito/mito-{part}.tif") > 0
        save(out, f"cdeep3m_{name}", image, 2 * mito.astype(np.uint8), (40, 12, 12))

    image, ids = read("kasthuri_24nm/raw.tif"), read("kasthuri_24nm/mito-ids.tif")
    known = read("kasthuri_24nm/known.tif") > 0
    labels = np.where(known, 2 * (ids > 0), UNKNOWN).astype(np.uint8)
    save(out, "kasthuri", image, labels, (30, 24, 24))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
