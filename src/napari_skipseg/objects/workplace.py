"""The folder in which objects are found: what is found stays there until all is done, and everything else goes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from napari_skipseg.durable import refuse_link
from napari_skipseg.errors import InputError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.locks import LOCK_FILE
from napari_skipseg.objects.block_cache import holds_blocks

BLOCKS_FOLDER = "blocks"
"""The folder of blocks that are found, within that of an image whose objects are not all found yet."""


@contextlib.contextmanager
def search_folder(place: Path) -> Iterator[Path]:
    """Make the folder `place`, in which nothing lies but blocks that are found, and yield where these lie.

    It is gone when all is done, when it cannot be, and when nothing was found yet. After a stop, a kill or a full disk
    it stays, to be gone on with.

    Raises:
        FileError: nothing can be written.
    """
    blocks = place / BLOCKS_FOLDER
    with file_errors_as(place):
        for folder in (place, blocks):
            refuse_link(folder)
        place.mkdir(parents=True, exist_ok=True)
        for other in place.iterdir():
            if other.name not in (BLOCKS_FOLDER, LOCK_FILE):
                _remove(other)
    is_over = False
    try:
        yield blocks
        is_over = True
    except InputError:
        is_over = True
        raise
    finally:
        if is_over or not holds_blocks(blocks):
            _remove(place)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
