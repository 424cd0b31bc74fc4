"""Objects into files: where to, and the writing beside the window: labels as OME-TIFF or OME-Zarr, the table as CSV."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_skipseg.foreign_text import unmarked
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.outputs import file_name
from napari_skipseg.inference.saving import check_replaceable
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.layers import stack_of
from napari_skipseg.widgets.objects_layers import ShownObjects
from napari_skipseg.widgets.popups import FITS

TIFF, ZARR = ".tif", ".ome.zarr"
FILTERS = "OME-TIFF (*.tif);;OME-Zarr (*.ome.zarr)"


def ask_file(parent: QWidget, name: str) -> Path | None:
    """Return the file that the user chooses for the objects of an image; None where nothing is to be written."""
    start = f"{file_name(name)}_objects{TIFF}"
    chosen, kind = QFileDialog.getSaveFileName(parent, "Save objects", start, FILTERS)
    if not chosen:
        return None
    file = with_ending(Path(chosen), ZARR if "Zarr" in kind else TIFF)
    question = _question(file, Path(chosen))
    if (
        question
        and QMessageBox.question(parent, "Replace objects?", unmarked(question)) != QMessageBox.StandardButton.Yes
    ):
        return None
    return file


def _question(file: Path, confirmed: Path) -> str:
    """Return what to ask before objects go into `file`; "" where nothing else is replaced than what was confirmed."""
    table = table_beside(file)
    others = [path.name for path in (file, table) if path.exists() and path != confirmed]
    if not others:
        return ""
    twin = table.with_name(table.stem + (TIFF if file.name.endswith(ZARR) else ZARR))
    left = f" {twin.name} stays, but its measurements go." if table.exists() and twin.exists() else ""
    return f"{', '.join(others)} in this folder will be replaced.{left} Go on?"


def with_ending(file: Path, ending: str) -> Path:
    """Return the file with an ending that says what it holds: its own, or else this one."""
    if file.name.lower().endswith((TIFF, ".tiff", ZARR)):
        return file
    return file.with_name(file.name + ending)


def table_beside(file: Path) -> Path:
    """Return where the measurements go."""
    name = file.name[: -len(ZARR)] if file.name.endswith(ZARR) else file.stem
    return file.with_name(f"{name}.csv")


def iter_save(shown: ShownObjects, file: Path) -> Generator[Progress, None, list[Path]]:
    """Return the files that labels and measurements were written into.

    Raises:
        FileError: nothing can be written, or something else lies there.
    """
    stack = without_channels(shown)
    recipe = {**shown.recipe, "form": "ome-zarr" if file.name.endswith(ZARR) else "tiff"}
    yield Progress(0, 1, f"writing {file.name}")
    if file.name.endswith(ZARR):
        from napari_skipseg.images.zarr_layout import Layout
        from napari_skipseg.images.zarr_writer import iter_write_ome_zarr

        check_replaceable([file], "ome-zarr")
        place = (stack.voxel_size, stack.unit, stack.origin)
        layout = Layout(stack.shape, stack.axes, "uint32", *place, kind="labels", description=recipe)
        yield from iter_write_ome_zarr(file, stack.data, layout)
    else:
        write_ome_tiff(file, stack.data, stack.axes, stack.voxel_size, stack.unit, stack.origin, description=recipe)
    table = table_beside(file)
    shown.table.write_csv(table)
    return [file, table]


def in_short(files: Sequence[Path]) -> str:
    """Return what was saved, labels and measurements, in a line of a notification."""
    labels, table = files
    told = f"Saved {labels.name} and {table.suffix}"
    return told if len(told) <= FITS else f"Saved labels and measurements ({table.suffix})"


def without_channels(shown: ShownObjects) -> Stack:
    """Return the objects as a stack with the axes of space and time."""
    axes = shown.source.axes if shown.source.axes[0] != "C" else shown.source.voxel_axes
    stack = stack_of(shown.layer, axes)
    return stack.channel(0)
