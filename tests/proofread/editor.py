"""A process that edits at random until it is killed, and prints each act and when it was done.

`python editor.py SEED` goes on with the stored edits of `labels()`. `python editor.py hold` opens them and waits.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import run_to_end
from napari_skipseg.proofread.edits import Delete, EditRefusedError, Merge, Split, Voxel
from napari_skipseg.proofread.regions import iter_regions_of_labels
from napari_skipseg.proofread.session import EditSession
from napari_skipseg.proofread.store import EditStore, edits_record, folder_of

SIDE = 40


def labels() -> Stack:
    """A plane of 40 × 40 squares of 2 × 2 pixels."""
    numbers = np.arange(1, SIDE * SIDE + 1, dtype=np.uint32).reshape(SIDE, SIDE)
    return Stack(numbers.repeat(2, 0).repeat(2, 1), Space("YX", (1, 5, 5), "nm"), name="squares")


def open_session() -> EditSession:
    stack = labels()
    record = edits_record(stack)
    return EditSession(run_to_end(iter_regions_of_labels(stack)), EditStore(folder_of(record), record))


def act(session: EditSession, chance: np.random.Generator) -> str:
    """Do something at random, and return what; "" if it made no sense."""
    what = chance.choice(["merge", "split", "delete", "undo", "redo"], p=[0.5, 0.1, 0.1, 0.2, 0.1])
    places = [(0, 0, int(y), int(x)) for y, x in chance.integers(0, 2 * SIDE, (2, 2))]
    one: Voxel = places[0]
    other: Voxel = places[1]
    try:
        if what == "merge":
            session.do(Merge((one, other)))
        elif what == "split":
            session.do(Split(((one,), (other,))))
        elif what == "delete":
            session.do(Delete((one,)))
        elif (session.undo() if what == "undo" else session.redo()) is None:
            return ""
    except EditRefusedError:
        return ""
    return str(what)


def main() -> None:
    session = open_session()
    if sys.argv[1] == "hold":
        print("open", flush=True)
        sys.stdin.read()
        return
    chance = np.random.default_rng(int(sys.argv[1]))
    while True:
        if what := act(session, chance):
            numbers = [each.number for each in session.store.done]
            print(what, time.time(), len(numbers), hash(tuple(numbers)), flush=True)
        time.sleep(0.002)


if __name__ == "__main__":
    main()
