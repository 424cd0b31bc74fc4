"""Proofreading against its targets: `python benchmarks/proofreading.py {edits,times} --data DIR`; prints dated tables.

- `edits`: a simulated user corrects cells of a probability until the adapted Rand error is at most 0.05, once by the
  ranked list of doubts and once in the order of size. DIR holds raw.tif and neurons.tif (FIB-25), or train-image.tif
  and train-gt.tif (gala). The probability is that of `--model`, by default em-boundary-3d.
- `times`: seconds of an edit, of its way to the disk, of its preview and of a slice, and bytes in the journal.

The simulated user follows one rule. *By doubts*: at each doubt it looks up the most frequent neuron in both regions.
If the doubt asks "one object?" and both are of one neuron, it merges. If the doubt asks "two objects?" and they are of
two, it splits between two voxels, one in each region. Else it confirms. *By size*: it visits the objects, the largest
first. An object of several neurons (each at least 5 % of it and 500 voxels) is split, a split for each further neuron,
from the voxel of each that lies deepest in it. Then the object is merged with the object that was visited first of
the same neuron. Each merge and split is an edit; a confirmation is a look without an edit. Both begin with the same
objects.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measuring import print_place, print_row, print_table
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array

import napari_skipseg as skipseg
from napari_skipseg.corrections.journal import journals
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end
from napari_skipseg.proofread.doubts import rank_doubts
from napari_skipseg.proofread.edits import Confirm, Edit, EditRefusedError, Merge, Split, Voxel
from napari_skipseg.proofread.regions import Regions, iter_regions_of_probability
from napari_skipseg.proofread.session import EditSession
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.proofread.store import EditStore, edits_record

TARGET = 0.05
SHARE, LEAST = 0.05, 500
"""What counts as a neuron in an object: its share of the object, and its voxels."""
MOST = 3000


class Overlap:
    """Voxels of each region in each neuron, and the error of the objects made of these regions."""

    def __init__(self, objects: ObjectsUnderEdit, truth: NDArray[np.uint32]) -> None:
        self._objects, self._truth, self._regions = objects, truth, -1

    def table(self) -> coo_array:
        """Return (regions, neurons) as a sparse array; counted again after voxels were cut."""
        if self._regions != self._objects.region_count:
            self._regions = self._objects.region_count
            everything = tuple(slice(0, side) for side in self._truth.shape)
            found = self._objects.read_regions(0, everything).ravel()  # type: ignore[arg-type]
            shape = (self._regions + 1, int(self._truth.max()) + 1)
            ones = np.ones(found.size, np.int64)
            self._table = coo_array((ones, (found, self._truth.ravel())), shape).tocsr()
        return self._table

    def main(self, region: int) -> int:
        """Return the most frequent neuron in a region."""
        return int(self.table()[[region]].toarray()[0].argmax())

    def error(self) -> float:
        """Return the adapted Rand error; voxels without a neuron do not count."""
        table = self.table().tocoo()
        kept = table.coords[1] > 0
        label = self._objects.object_of[table.coords[0][kept]].astype(np.int64)
        pairs = coo_array((table.data[kept], (label, table.coords[1][kept]))).tocsr()
        both = float((pairs.data.astype(float) ** 2).sum())
        found, true = (np.asarray(pairs.sum(axis=axis)).astype(float) for axis in (1, 0))
        precision, recall = both / (found**2).sum(), both / (true**2).sum()
        return 1 - 2 * precision * recall / (precision + recall)


def by_doubts(objects: ObjectsUnderEdit, overlap: Overlap) -> Iterator[Edit]:
    """Yield what the user does along the ranked list; it is made again when it is empty."""
    while doubts := rank_doubts(objects):
        for doubt in doubts:
            labels = [objects.object_at(voxel) for voxel in doubt.at]
            if 0 in labels or (labels[0] == labels[1]) != (doubt.kind == "split?"):
                continue
            one, other = (overlap.main(objects.region_at(voxel)) for voxel in doubt.at)
            if doubt.kind == "merge?" and one == other:
                yield Merge(doubt.at)
            elif doubt.kind == "split?" and one != other:
                yield Split(((doubt.at[0],), (doubt.at[1],)))
            else:
                yield Confirm(doubt.at)


def by_size(objects: ObjectsUnderEdit, overlap: Overlap, truth: NDArray[np.uint32]) -> Iterator[Edit]:
    """Yield what the user does from the largest object down."""
    first: dict[int, Voxel] = {}
    visited: set[int] = set()
    everything = tuple(slice(0, side) for side in truth.shape)
    while True:
        labels = objects.read_objects(0, everything)  # type: ignore[arg-type]
        sizes = np.bincount(labels.ravel())
        sizes[[0, *(label for label in visited if label < len(sizes))]] = 0
        label = int(sizes.argmax())
        if not sizes[label]:
            return
        visited.add(label)
        inside = truth[labels == label]
        counts = np.bincount(inside)
        counts[0] = 0
        neurons = np.flatnonzero(counts >= max(LEAST, SHARE * len(inside)))
        neurons = neurons[np.argsort(-counts[neurons])]
        seeds = [_deepest((labels == label) & (truth == neuron)) for neuron in neurons]
        for seed in seeds[1:]:
            yield Split(((seeds[0],), (seed,)))
        if seeds:
            known = first.setdefault(int(neurons[0]), seeds[0])
            if objects.object_at(known) != objects.object_at(seeds[0]):
                yield Merge((known, seeds[0]))


def _deepest(mask: NDArray[np.bool_]) -> Voxel:
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1, 1:-1]
    z, y, x = (
        int(at) + side.start for at, side in zip(np.unravel_index(depth.argmax(), depth.shape), box, strict=True)
    )
    return 0, z, y, x


def follow(regions: Regions, truth: NDArray[np.uint32], folder: Path, way: str) -> tuple[int, int, float, float]:
    """Return edits and looks until the target, the error then, and seconds of the program for each edit."""
    image = Stack(np.zeros(truth.shape, np.uint8), regions.space, way)
    session = EditSession(regions, EditStore(folder / way, edits_record(image, way)))
    overlap = Overlap(session.objects, truth)
    edits = looks = 0
    spent = 0.0
    error = overlap.error()
    acts = by_doubts(session.objects, overlap) if way == "doubts" else by_size(session.objects, overlap, truth)
    for edit in acts:
        begun = time.perf_counter()
        try:
            session.do(edit)
        except EditRefusedError:
            continue
        spent += time.perf_counter() - begun
        looks += 1
        if not isinstance(edit, Confirm):
            edits += 1
            error = overlap.error()
        if error <= TARGET or edits >= MOST or looks >= 5 * MOST:
            break
    session.close()
    return edits, looks, error, spent / max(1, looks)


def found_regions(data: Path, model: str, depth: tuple[int, int], merge: float) -> tuple[Regions, NDArray[np.uint32]]:
    """Return the regions of a probability of the image in a folder, and the true neurons."""
    names = ("raw.tif", "neurons.tif") if (data / "raw.tif").exists() else ("train-image.tif", "train-gt.tif")
    image, truth = (skipseg.read_stack(data / name, axes="ZYX") for name in names)
    part = slice(*depth)
    crop = Stack(np.asarray(image.data[part]), image.space, image.name)
    prediction = skipseg.segment(crop, model, attention=False)
    source = ClassImage(Stack(prediction.probability, prediction.space), tuple(prediction.class_names))
    options = ObjectOptions("cells", merge=merge)
    return run_to_end(iter_regions_of_probability(source, options)), np.asarray(truth.data[part]).astype(np.uint32)


def measure_edits(regions: Regions, truth: NDArray[np.uint32]) -> None:
    """Print edits and looks until the target, by both ways."""
    start = Overlap(ObjectsUnderEdit(regions), truth).error()
    print(f"{len(regions.objects) - 1} regions, {int(regions.objects.max())} objects, error at the start {start:.3f}\n")
    print_table(("order", "edits", "looks", "error", "ms an edit"), [])
    with tempfile.TemporaryDirectory() as folder:
        for way in ("doubts", "size"):
            edits, looks, error, seconds = follow(regions, truth, Path(folder), way)
            print_row((way, str(edits), str(looks), f"{error:.3f}", f"{1000 * seconds:.1f}"))


def measure_times(regions: Regions) -> None:
    """Print the time of each kind of edit, of its way to the disk, of a slice, and bytes in the journal."""
    print_table(("what", "ms", "ms until on disk", "bytes"), [])
    with tempfile.TemporaryDirectory() as folder:
        record = edits_record(Stack(np.zeros(regions.shape[1:], np.uint8), regions.space, "times"))
        session = EditSession(regions, EditStore(Path(folder), record))
        objects = session.objects
        doubts = rank_doubts(objects)

        def timed(what: str, act: Callable[[], object]) -> None:
            before = sum(file.stat().st_size for file in journals(Path(folder)))
            begun = time.perf_counter()
            act()
            done = time.perf_counter()
            session.store.flush()
            after = sum(file.stat().st_size for file in journals(Path(folder)))
            now = time.perf_counter()
            print_row((what, f"{1000 * (done - begun):.1f}", f"{1000 * (now - begun):.0f}", str(after - before)))

        merge = next(doubt for doubt in doubts if doubt.kind == "merge?")
        split = next((doubt for doubt in doubts if doubt.kind == "split?"), None)
        timed("merge", lambda: session.do(Merge(merge.at)))
        timed("split of what was merged", lambda: session.do(Split(((merge.at[0],), (merge.at[1],)))))
        if split is not None:
            timed("split of a join", lambda: session.do(Split(((split.at[0],), (split.at[1],)))))
        timed("undo", session.undo)
        timed("redo", session.redo)
        middle = regions.shape[1] // 2
        timed("a slice", lambda: objects.labels()[middle])
        timed("the ranked list", lambda: rank_doubts(objects))
        session.close()


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("edits", "times"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="em-boundary-3d")
    parser.add_argument("--depth", type=int, nargs=2, default=(0, 60), help="first slice, and the one behind the last")
    parser.add_argument("--merge", type=float, default=0.5)
    asked = parser.parse_args()
    print_place()
    regions, truth = found_regions(asked.data, asked.model, tuple(asked.depth), asked.merge)
    if asked.part == "edits":
        measure_edits(regions, truth)
    else:
        measure_times(regions)


if __name__ == "__main__":
    main()
