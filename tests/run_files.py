"""What runs leave in a folder, and runs that are stopped in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_skipseg.images.files import read_stack
from napari_skipseg.inference.prediction import TileWritten


def files_in(folder: Path) -> dict[str, bytes]:
    """All files but the times, which no two runs share."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.endswith("_times.json")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def whole(path: Path) -> Any:
    """All values of a file."""
    stack = read_stack(path)
    return stack.read((slice(None),) * len(stack.shape))


def stop_after(work: Any, tiles: int) -> None:
    """Close a run after so many tiles, as Ctrl-C does."""
    for progress in work:
        tiles -= isinstance(progress, TileWritten)
        if not tiles:
            break
    work.close()
