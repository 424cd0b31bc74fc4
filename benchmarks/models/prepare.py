"""Write the files that the built-in models are trained on: every set with the same label values, at one voxel size.

    python benchmarks/models/prepare.py DATA OUT

DATA is the folder of real EM data (its README names sources, polarity and terms). Labels in OUT: 0 = background,
1 = membrane, 2 = mitochondrion, 255 = not known (not counted). Large sets are thinned, small ones repeated by the
settings files, so that each set is drawn about equally often (samples are drawn by the size of a file).

The sets of mitochondria are written at 12 nm a pixel, and thinned at their own size too, so that the model also works
where nobody knows the voxel size. Their last slices are files of their own, which the settings hold out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

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


def boundaries_3d(ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the voxels where ids change to one of the 6 neighbours, on both sides; id 0 is boundary too."""
    edge = ids == 0
    for axis in range(3):
        changed = np.diff(ids.astype(np.int64), axis=axis) != 0
        before, after = (np.moveaxis(edge, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        before |= np.moveaxis(changed, axis, 0)
        after |= np.moveaxis(changed, axis, 0)
    return edge


def doubled(values: NDArray, order: int) -> NDArray:
    """Return slices enlarged twofold in y and x."""
    return ndimage.zoom(values, (1, 2, 2), order=order, mode="nearest", grid_mode=True)


def shrunk(values: NDArray, factor: float) -> NDArray[np.float32]:
    """Return slices made smaller by `factor` in y and x; each pixel is the mean of those that it covers."""
    side = round(values.shape[1] * factor), round(values.shape[2] * factor)
    return np.stack([resize(plane.astype(np.float32), side, anti_aliasing=True) for plane in values])


def shrunk_labels(labels: NDArray, factor: float) -> Array:
    """Return labels made smaller by `factor` in y and x: each pixel is what covers most of it, nothing on a draw."""
    shares = {label: shrunk(labels == label, factor) for label in range(1, int(labels.max()) + 1)}
    result = np.zeros(next(iter(shares.values())).shape, np.uint8)
    for label, share in shares.items():
        result[share > 0.5] = label
    return result


def save(folder: Path, name: str, image: Array, labels: Array, voxel_size: tuple[float, float, float]) -> None:
    for ending, values in (("", image), ("_labels", labels)):
        write_ome_tiff(folder / f"{name}{ending}.tif", np.ascontiguousarray(values), Space("ZYX", voxel_size, "nm"))
    print(name, image.shape, {int(v): round(float((labels == v).mean()), 3) for v in np.unique(labels)})


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    read = lambda name: tifffile.imread(data / name)  # noqa: E731

    isbi, cells = read("isbi2012/train-volume-00-24.tif"), read("isbi2012/train-labels-00-24.tif")
    save(out, "isbi", isbi, (cells == 0).astype(np.uint8), (50, 4, 4))
    save(out, "isbi_train", isbi[:20], (cells[:20] == 0).astype(np.uint8), (50, 4, 4))

    vnc = read("vnc_larva3/stack1-raw-00-09.tif")
    vnc_membrane = read("vnc_larva3/stack1-membranes-00-09.tif") > 127
    save(out, "vnc", vnc, vnc_membrane.astype(np.uint8), (50, 4.6, 4.6))

    raw, ids = read("fib25_medulla/raw.tif"), read("fib25_medulla/neurons.tif")
    for plane, axes in (("xy", (0, 1, 2)), ("xz", (1, 0, 2)), ("yz", (2, 0, 1))):
        image, labels = raw.transpose(axes), ids.transpose(axes)
        chosen = slice(4, None, 9)
        edge = boundaries(labels[chosen], grow=0)
        wide = ndimage.binary_dilation(doubled(edge.astype(np.uint8), 0) > 0, np.ones((1, 2, 2), bool))
        save(out, f"fib25_{plane}", doubled(image[chosen], 3), wide.astype(np.uint8), (10, 5, 5))

    edge = boundaries_3d(ids).astype(np.uint8)
    for name, part in (("fib25_3d", slice(0, 130)), ("fib25_3d_held", slice(130, None))):
        save(out, name, raw[part], edge[part], (10, 10, 10))
        write_ome_tiff(out / f"{name}_ids.tif", np.ascontiguousarray(ids[part]), Space("ZYX", (10, 10, 10), "nm"))

    gala, ids = read("gala_fibsem/train-image.tif"), read("gala_fibsem/train-gt.tif")
    save(out, "gala_3d", gala, boundaries_3d(ids).astype(np.uint8), (10, 10, 10))
    edge = doubled(boundaries(ids, grow=0).astype(np.uint8), 0) > 0
    save(out, "gala", doubled(gala, 3), edge.astype(np.uint8), (10, 5, 5))

    image, membrane = read("neuropil_membrane/raw.tif"), read("neuropil_membrane/membrane.tif") > 0
    save(out, "neuropil", image[None], membrane[None].astype(np.uint8), (50, 10, 10))

    for name, part in (("smooth", "10-19"), ("scanned", "20-39")):
        image = read(f"cdeep3m_mito/raw-smooth-{part}.tif" if name == "smooth" else f"cdeep3m_mito/raw-{part}.tif")
        labels = (2 * (read(f"cdeep3m_mito/mito-{part}.tif") > 0)).astype(np.uint8)
        every = slice(None, -2, len(image) // 10)
        save(out, f"cdeep3m_{name}", image[every], labels[every], (40, 12, 12))
        save(out, f"cdeep3m_{name}_held", image[-2:], labels[-2:], (40, 12, 12))

    image, ids = read("kasthuri_24nm/raw.tif"), read("kasthuri_24nm/mito-ids.tif")
    known = read("kasthuri_24nm/known.tif") > 0
    labels = np.where(known, 2 * (ids > 0), UNKNOWN).astype(np.uint8)
    save(out, "kasthuri_24nm", image[1:40:2], labels[1:40:2], (30, 24, 24))
    save(out, "kasthuri_24nm_held", image[41:46:4], labels[41:46:4], (30, 24, 24))
    for name, chosen in (("kasthuri", slice(0, 40, 6)), ("kasthuri_held", slice(41, 46, 4))):
        save(out, name, doubled(image[chosen], 3), doubled(labels[chosen], 0), (30, 12, 12))

    soft = read("vnc_larva3/stack1-mitochondria-00-09.tif")
    mito = 2 * (soft > soft.max(axis=(1, 2), keepdims=True) / 2).astype(np.uint8)  # slices 1 and 7 are 0 and 1
    save(out, "vnc_mito_5nm", vnc[1:8:3], mito[1:8:3], (50, 4.6, 4.6))
    save(out, "vnc_mito_5nm_held", vnc[8:], mito[8:], (50, 4.6, 4.6))
    both = np.where(mito, 2, vnc_membrane).astype(np.uint8)
    save(out, "vnc_both_5nm", vnc[1:8:3], both[1:8:3], (50, 4.6, 4.6))
    image, labels = np.rint(shrunk(vnc, 4.6 / 7)).astype(np.uint8), shrunk_labels(both, 4.6 / 7)
    save(out, "vnc_both_7nm", image[:8], labels[:8], (50, 7, 7))
    save(out, "vnc_both_held", image[8:], labels[8:], (50, 7, 7))
    image, labels = np.rint(shrunk(isbi, 4 / 7)).astype(np.uint8), shrunk_labels(cells == 0, 4 / 7)
    save(out, "isbi_7nm", image[:20], labels[:20], (50, 7, 7))
    for size in (7, 12):
        image, labels = np.rint(shrunk(vnc, 4.6 / size)).astype(np.uint8), shrunk_labels(mito, 4.6 / size)
        save(out, f"vnc_mito_{size}nm", image[:8], labels[:8], (50, size, size))
        if size == 12:
            save(out, "vnc_mito_held", image[8:], labels[8:], (50, size, size))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
