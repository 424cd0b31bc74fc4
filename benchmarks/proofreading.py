"""Proofreading against its targets: `python benchmarks/proofreading.py {edits,times,clicks} --data DIR`; prints tables.

- `edits`: a simulated user corrects cells of a probability until the adapted Rand error is at most `--target`: in order
  of size, by the ranked list of doubts, and by that list with learning. DIR holds raw.tif and neurons.tif (FIB-25), or
  train-image.tif and train-gt.tif (gala). The probability is that of `--model`, by default em-boundary-3d.
- `clicks`: clicks until an object has an IoU of 0.85 with the truth, by the rule in `clicks.py`. DIR may hold
  `stack1-raw-00-09.tif` and `stack1-mitochondria-00-09.tif` (VNC) too; its true objects are connected mitochondria.
- `times`: seconds of an edit, of its way to the disk, of its preview and of a slice, and bytes in the journal.

The truth is the connected parts of the true neurons: what joins them outside of the block, no user of it can see.

The simulated user follows one rule. It sees an object as a whole: if the object is of several neurons (each at least
1 % of it and 500 voxels), it tries to split it into all of them, by a seed in each of eight slices of a side; where the
preview is wrong, it adds seeds, at most 24 a side. It does the split if the preview has 500 wrong voxels fewer. A split
into n sides counts as n - 1 edits. *By size*: it visits the objects, the largest first, splits, and merges the object
with the object that was visited first of the same neuron; rounds go on until one changes nothing. *Ranked*: at each
doubt it looks up the most frequent neuron in both regions. At "one object?" it splits what does not belong there, and
merges if both regions and both objects are of one neuron; at "two objects?" it splits if they are of two; at an unusual
object it splits what is mixed. Else it confirms. The list is made again after ten looks. *Ranked, learning*: after
every ten edits the classifier learns, the list is ranked by it, and what it would change is accepted, as one edit, if
the error falls. A confirmation is a look without an edit.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cc3d
import numpy as np
from clicks import measure_clicks
from measuring import print_place, print_row, print_table
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csr_array

import napari_skipseg as skipseg
from napari_skipseg.corrections.journal import journals
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.contact_file import ContactClassifier
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end
from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.doubts import Doubt, rank_doubts
from napari_skipseg.proofread.edits import (
    MOST_SEEDS,
    Confirm,
    Edit,
    EditRefusedError,
    Merge,
    Reweigh,
    SkipDoubt,
    Split,
    Voxel,
)
from napari_skipseg.proofread.learn import learn
from napari_skipseg.proofread.regions import Regions, iter_regions_of_probability
from napari_skipseg.proofread.session import EditSession
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.proofread.store import EditStore, edits_record

SHARE, LEAST = 0.01, 500
"""What counts as a neuron in an object: its share of the object, and its voxels."""
MOST = 100
AFTER = (2, 5, 10, 15, 20, 30)
"""Edits after which the error is printed."""
WAYS = ("by size", "ranked", "ranked, learning")
SEEDS = 8
"""Seeds of each side of a split, in as many slices."""
ROUNDS = 6
"""How often seeds are added where the preview of a split is wrong."""
RANK_EVERY, LEARN_EVERY = 10, 10
"""Looks until the list is made again, and edits until the classifier learns again."""


class Overlap:
    """Voxels of each region in each neuron, and the error of the objects made of these regions."""

    def __init__(self, objects: ObjectsUnderEdit, truth: NDArray[np.uint32]) -> None:
        self._objects, self._truth, self._regions = objects, truth, -1

    def table(self) -> csr_array:
        """Return (regions, neurons) as a sparse array; counted again after voxels were cut."""
        if self._regions != self._objects.region_count:
            self._regions = self._objects.region_count
            everything = tuple(slice(0, side) for side in self._truth.shape)
            found = self._objects.read_regions(0, everything).ravel()  # type: ignore[arg-type]
            columns = int(self._truth.max()) + 1
            counts = np.bincount(found.astype(np.int64) * columns + self._truth.ravel(),
                                 minlength=(self._regions + 1) * columns)  # fmt: skip
            self._table = csr_array(counts.reshape(-1, columns))
        return self._table

    def main(self, region: int) -> int:
        """Return the most frequent neuron in a region."""
        return int(self.table()[[region]].toarray()[0].argmax())

    def error(self, owner: NDArray[np.int64] | None = None) -> float:
        """Return the adapted Rand error; voxels without a neuron do not count. owner: of each region, as an object."""
        table = self.table().tocoo()
        kept = table.coords[1] > 0
        label = (self._objects.object_of if owner is None else owner)[table.coords[0][kept]].astype(np.int64)
        pairs = coo_array((table.data[kept], (label, table.coords[1][kept]))).tocsr()
        both = float((pairs.data.astype(float) ** 2).sum())
        found, true = (np.asarray(pairs.sum(axis=axis)).astype(float) for axis in (1, 0))
        precision, recall = both / (found**2).sum(), both / (true**2).sum()
        return 1 - 2 * precision * recall / (precision + recall)


def split_of(objects: ObjectsUnderEdit, truth: NDArray[np.uint32], label: int) -> tuple[Split | None, int]:
    """Return the split that parts an object into its neurons, None if it is of one, and its most frequent neuron."""
    time, box = objects.box_of(objects.regions_of(label))
    mask, there = objects.read_objects(time, box) == label, truth[box]
    counts = np.bincount(there[mask])
    counts[0] = 0
    neurons = np.flatnonzero(counts >= max(LEAST, SHARE * mask.sum()))
    neurons = neurons[np.argsort(-counts[neurons])]
    corner = [side.start for side in box]
    main = int(counts.argmax()) if counts.any() else 0
    if len(neurons) < 2:
        return None, main
    sides = [list(seeds_in(mask & (there == neuron), corner)) for neuron in neurons]
    before, left = int((mask & (there != main)).sum()), 0
    for _ in range(ROUNDS):  # the preview shows where a side is wrong: a seed is added there
        edit = Split(tuple(map(tuple, sides)))
        try:
            change = apply_edit(objects, edit)
        except EditRefusedError:
            return None, main
        found = objects.read_objects(time, box)
        regions = objects.read_regions(time, box)
        owners = [objects.object_at(side[0]) for side in sides]
        objects.undo(change)
        added, left = False, int(mask.sum())
        for seeds, neuron, owner in zip(sides, neurons, owners, strict=True):
            left -= int((mask & (there == neuron) & (found == owner)).sum())
            wrong = mask & (there == neuron) & (found != owner)
            counts = np.bincount(regions[wrong], minlength=1)
            if counts.max() >= LEAST and len(seeds) < MOST_SEEDS:
                seeds.extend(seeds_in(wrong & (regions == counts.argmax()), corner)[:2])
                added = True
        if not added:
            break
    if before - left < LEAST:
        return None, main
    return Split(tuple(map(tuple, sides))), main


def seeds_in(mask: NDArray[np.bool_], corner: list[int]) -> tuple[Voxel, ...]:
    """Return the pixel farthest from the edge in each of up to eight evenly chosen slices of a mask."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    chosen = slices[np.unique(np.linspace(0, len(slices) - 1, SEEDS + 2).round().astype(int)[1:-1])]
    seeds = []
    for z in chosen.tolist():
        depth = ndimage.distance_transform_edt(np.pad(mask[z], 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        seeds.append((0, z + corner[0], int(y) + corner[1], int(x) + corner[2]))
    return tuple(seeds)


class User:
    """The simulated user of one session. edits, looks: so far. target: the error at which it ends."""

    def __init__(self, session: EditSession, truth: NDArray[np.uint32], target: float) -> None:
        self.target = target
        self.session, self.objects, self.truth = session, session.objects, truth
        self.overlap = Overlap(session.objects, truth)
        self.edits = self.looks = 0
        self.error, self.spent = self.overlap.error(), 0.0
        self.curve: list[tuple[int, float]] = [(0, self.error)]

    @property
    def is_done(self) -> bool:
        """Whether the target is reached, or the patience is over."""
        return self.error <= self.target or self.edits >= MOST or self.looks >= 5 * MOST

    def do(self, edit: Edit) -> bool:
        """Do an edit; return whether it made sense. A split into n sides counts as n - 1 edits."""
        begun = time.perf_counter()
        try:
            self.session.do(edit)
        except EditRefusedError:
            return False
        self.spent += time.perf_counter() - begun
        self.looks += 1
        if not isinstance(edit, Confirm | SkipDoubt):
            self.edits += len(edit.sides) - 1 if isinstance(edit, Split) else 1
            self.error = self.overlap.error()
            self.curve.append((self.edits, self.error))
        return True

    def by_size(self) -> None:
        """Visit all objects, the largest first, until a round changes nothing."""
        first: dict[int, Voxel] = {}
        before = -1
        while self.edits > before and not self.is_done:
            before, visited = self.edits, set[int]()
            while not self.is_done:
                owner = self.objects.object_of[: self.objects.region_count + 1]
                sizes = np.bincount(owner, self.overlap.table().sum(axis=1)).astype(int)
                sizes[[0, *(label for label in visited if label < len(sizes))]] = 0
                label = int(sizes.argmax())
                if not sizes[label]:
                    break
                visited.add(label)
                split, neuron = split_of(self.objects, self.truth, label)
                if split is not None:
                    self.do(split)
                if neuron:
                    _, box = self.objects.box_of(self.objects.regions_of(label))
                    mask = (self.objects.read_objects(0, box) == label) & (self.truth[box] == neuron)
                    if not mask.any():
                        continue
                    own = seeds_in(mask, [side.start for side in box])[0]
                    known = first.setdefault(neuron, own)
                    if self.objects.object_at(known) != self.objects.object_at(own) and not self.is_done:
                        self.do(Merge((known, own)))

    def by_doubts(self, learns: bool) -> None:
        """Follow the ranked list, which is made again after every few decisions; accept what was learnt if it helps."""
        classifier, learnt_at = None, 0
        while not self.is_done:
            if learns and self.edits >= learnt_at + LEARN_EVERY:
                learnt_at = self.edits
                with contextlib.suppress(EditRefusedError):
                    classifier = learn(self.objects)
                    self.accept(classifier)
            doubts = rank_doubts(self.objects, classifier=classifier)
            if not doubts:
                return
            begun = self.looks
            for doubt in doubts:
                if self.is_done or self.looks >= begun + RANK_EVERY:
                    break
                self.decide(doubt)
            if self.looks == begun:
                return

    def accept(self, classifier: ContactClassifier) -> None:
        """Look at what was learnt; keep it if the error falls."""
        before = self.error
        if self.do(Reweigh(classifier.weights)) and self.error >= before:
            self.session.undo()
            self.edits, self.error = self.edits - 1, before
            self.curve.pop()

    def decide(self, doubt: Doubt) -> None:
        """Do what a doubt needs, or confirm that all is right."""
        objects = self.objects
        labels = [objects.object_at(voxel) for voxel in doubt.at]
        if 0 in labels or (labels[0] == labels[1]) == (doubt.kind == "merge?"):
            return
        if doubt.kind == "object?":
            split, _ = split_of(objects, self.truth, labels[0])
            right = doubt.at[0] if split is None or not self.do(split) else split.sides[0][0]
            self.do(Confirm((right, right)))
            return
        one, other = (self.overlap.main(objects.region_at(voxel)) for voxel in doubt.at)
        if doubt.kind == "split?":
            split, _ = split_of(objects, self.truth, labels[0]) if one != other else (None, 0)
            if split is None or not self.do(split):
                self.do(Confirm(doubt.at))
            return
        if one != other or not one:
            self.do(Confirm(doubt.at))
            return
        whole = []
        for voxel, label in zip(doubt.at, labels, strict=True):
            split, neuron = split_of(objects, self.truth, label)
            if neuron != one and split is not None and objects.object_at(voxel) == label and self.do(split):
                _, neuron = split_of(objects, self.truth, objects.object_at(voxel))
            whole.append(neuron)
        if whole != [one, one]:
            self.do(Confirm(doubt.at))
        elif not self.do(Merge(doubt.at)):
            self.do(SkipDoubt(doubt.at))


def follow(regions: Regions, truth: NDArray[np.uint32], folder: Path, way: str, target: float) -> User:
    """Return the user at the end of one way."""
    image = Stack(np.zeros(truth.shape, np.uint8), regions.space, way)
    session = EditSession(regions, EditStore(folder / way.replace(" ", "-"), edits_record(image, way)))
    user = User(session, truth, target)
    if way == "by size":
        user.by_size()
    else:
        user.by_doubts(learns=way == "ranked, learning")
    session.close()
    return user


def floor_of(regions: Regions, truth: NDArray[np.uint32]) -> float:
    """Return the least error that merges of basins alone can reach: each basin goes to its most frequent neuron."""
    overlap = Overlap(ObjectsUnderEdit(regions), truth)
    return overlap.error(np.concatenate([[0], np.asarray(overlap.table()[1:, 1:].argmax(axis=1)).ravel() + 1]))


SETS = (
    ("raw.tif", "neurons.tif"),
    ("train-image.tif", "train-gt.tif"),
    ("stack1-raw-00-09.tif", "stack1-mitochondria-00-09.tif"),
)


def found_regions(asked: argparse.Namespace) -> tuple[Regions, NDArray[np.uint32]]:
    """Return the regions of a probability of the image in a folder, and the true objects."""
    names = next(names for names in SETS if (asked.data / names[0]).exists())
    size = None if asked.voxel_size is None else tuple(asked.voxel_size)
    unit = None if size is None else "nm"
    image, truth = (skipseg.read_stack(asked.data / name, "ZYX", size, unit) for name in names)
    part = (slice(*asked.depth), slice(asked.side), slice(asked.side))
    crop = Stack(np.asarray(image.data[part]), image.space, image.name)
    prediction = skipseg.segment(crop, asked.model, attention=False, rescale=size is not None)
    source = ClassImage(Stack(prediction.probability, prediction.space), tuple(prediction.class_names))
    options = ObjectOptions(
        asked.method, merge=asked.merge, threshold=asked.threshold, seed_distance=asked.seed_distance
    )
    values = np.asarray(truth.data[part])
    if names[1].startswith("stack1-mito"):  # the rim is soft
        values = ndimage.label(values >= 128)[0]
    return run_to_end(iter_regions_of_probability(source, options)), in_the_block(values.astype(np.uint32))


def in_the_block(truth: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the connected parts of true objects: what joins them outside of the block, nobody can see."""
    return np.asarray(cc3d.connected_components(truth, connectivity=6), np.uint32)


def measure_edits(regions: Regions, truth: NDArray[np.uint32], target: float) -> None:
    """Print edits and looks until the target, or the end of the list, by all ways."""
    start = Overlap(ObjectsUnderEdit(regions), truth).error()
    counts = f"{len(regions.objects) - 1} regions, {int(regions.objects.max())} objects"
    print(f"{counts}, error at the start {start:.3f}, floor of merges alone {floor_of(regions, truth):.3f}\n")
    print_table(("order", "edits", "looks", *(f"at {count}" for count in AFTER), "error", "ms an edit"), [])
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            user = follow(regions, truth, Path(folder), way, target)
            passed = [next(error for at, error in reversed(user.curve) if at <= count) for count in AFTER]
            seconds = user.spent / max(1, user.looks)
            row = (way, str(user.edits), str(user.looks), *(f"{error:.3f}" for error in passed))
            print_row((*row, f"{user.error:.3f}", f"{1000 * seconds:.1f}"))


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
    parser.add_argument("part", choices=("edits", "times", "clicks"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="em-boundary-3d")
    parser.add_argument("--depth", type=int, nargs=2, default=(0, 60), help="first slice, and the one behind the last")
    parser.add_argument("--side", type=int, help="rows and columns from the corner on; by default all")
    parser.add_argument(
        "--voxel-size",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="in nm; brings the image to the size of the model",
    )
    parser.add_argument("--target", type=float, default=0.05, help="the error at which edits end")
    parser.add_argument("--method", choices=("cells", "watershed"), default="cells")
    parser.add_argument("--merge", type=float, default=0.5)
    parser.add_argument("--threshold", type=float, default=0.15)
    parser.add_argument("--seed-distance", type=float, default=10.0)
    parser.add_argument("--least", type=int, default=2000, help="voxels of the smallest true object that is clicked")
    asked = parser.parse_args()
    print_place()
    regions, truth = found_regions(asked)
    if asked.part == "edits":
        measure_edits(regions, truth, asked.target)
    elif asked.part == "clicks":
        measure_clicks(regions, truth, asked.least)
    else:
        measure_times(regions)


if __name__ == "__main__":
    main()
