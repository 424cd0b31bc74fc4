"""Objects go out of the window: saved into files, and scored against true ones."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QMessageBox, QPushButton, QVBoxLayout, QWidget

from napari_skipseg.errors import InputError
from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import file_name
from napari_skipseg.inference.saving import check_replaceable
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.dialogs import ask_new_file
from napari_skipseg.widgets.forms.fields import FreshCombo, MessageLine, PlainLabel
from napari_skipseg.widgets.forms.job_tab import FITS
from napari_skipseg.widgets.layers.results import stack_of_layer
from napari_skipseg.widgets.objects.layers import ShownObjects

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_skipseg.scores.instances import InstanceScores, MatchingScores


_MOST = 2**28
"""Most voxels that are scored at once: memory holds them several times."""
_MEANING = (
    "Adapted Rand error and variation of information (VI) say how well voxels are grouped: 0 = as in the truth. VI "
    "split counts what is cut into too many objects, VI merge what is joined. Both leave out voxels that the truth "
    "leaves at 0. Average precision (AP) counts objects that overlap: 1 = all found and none too many, the mean over "
    "overlaps of 0.5 to 0.95"
)


@dataclass(frozen=True)
class ObjectScores:
    """The scores of objects against true ones."""

    instances: InstanceScores
    matching: MatchingScores

    def in_words(self) -> str:
        """Return the scores in three lines."""
        found, match = self.instances, self.matching
        hits, false, missed = (
            counts[0] for counts in (match.true_positives, match.false_positives, match.false_negatives)
        )
        return (
            f"Adapted Rand error {found.adapted_rand_error:.3f}\n"
            f"VI {found.variation_of_information:.3f} bits "
            f"(split {found.variation_split:.3f}, merge {found.variation_merge:.3f})\n"
            f"AP {match.mean:.3f}; at overlap 0.5: {match.precisions[0]:.3f} "
            f"({hits} found, {false} too many, {missed} missed)"
        )


def iter_score(found: Stack, truth: Stack) -> Generator[Progress, None, ObjectScores]:
    """Return the scores of objects against true ones, both stacks of the same shape.

    Raises:
        InputError: there are too many voxels, or the truth is a mask without instances.
    """
    from napari_skipseg.scores.instances import MASK, MaskError, is_mask, score_instances, score_matching

    if math.prod(found.shape) > _MOST:
        raise InputError(
            "This volume is too large to be scored at once: crop both, or score slices with napari-skipseg score."
        )
    yield Progress(0, 2, "reading the truth")
    ours, theirs = (stack.read((...,)) for stack in (found, truth))  # type: ignore[arg-type]
    theirs = theirs.reshape(ours.shape)
    if is_mask(theirs):
        raise MaskError(MASK)
    yield Progress(0, 2, "comparing voxels")
    instances = score_instances(ours, theirs)
    yield Progress(1, 2, "comparing objects")
    return ObjectScores(instances, score_matching(ours, theirs))


class ScoreBox(QWidget):  # type: ignore[misc]
    """The truth, Score, and the scores. score_requested: Score was pressed."""

    score_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.truth, self.button, self.scores = FreshCombo(), QPushButton("Score"), MessageLine()
        self.truth.setAccessibleName("Score against")
        self.truth.setToolTip("A labels layer of the same voxels that contains the true objects, 0 = none")
        self.button.setToolTip("Compare the objects that were found with the true ones")
        self.scores.setToolTip(_MEANING)
        row = QHBoxLayout()
        row.addWidget(PlainLabel("Score against"))
        row.addWidget(self.truth, 1)
        row.addWidget(self.button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.scores)
        self.button.clicked.connect(self.score_requested)
        self.truth.activated.connect(lambda: self.scores.say(""))

    def offer(self, layers: list[Layer]) -> None:
        """Offer labels as truth; hide the box if there are none."""
        self.truth.offer([(layer.name, layer) for layer in layers], self.truth.currentData())
        self.setVisible(bool(layers))


TIFF, ZARR = ".tif", ".ome.zarr"
FILTERS = "OME-TIFF (*.tif);;OME-Zarr (*.ome.zarr)"


def ask_objects_file(parent: QWidget, name: str) -> Path | None:
    """Return the file that the user chooses for the objects of an image, None if the user cancels."""
    start = f"{file_name(name)}_objects{TIFF}"
    chosen, kind = ask_new_file(parent, "Save objects", start, FILTERS, "objects")
    if chosen is None:
        return None
    file = with_ending(chosen, ZARR if "Zarr" in kind else TIFF)
    table = table_beside(file)
    # the dialog checked the chosen name only, not about the table or about a name with an ending
    others = [path.name for path in (file, table) if path.exists() and path != chosen]
    if not others:
        return file
    twin = table.with_name(table.stem + (TIFF if file.name.endswith(ZARR) else ZARR))
    left = f" {twin.name} stays, but its measurements go." if table.exists() and twin.exists() else ""
    question = f"{', '.join(others)} in this folder will be replaced.{left} Replace?"
    answer = QMessageBox.question(parent, "Replace objects?", without_bidi_marks(question))
    return file if answer == QMessageBox.StandardButton.Yes else None


def with_ending(file: Path, ending: str) -> Path:
    """Return the file with its own ending if that is one of TIFF or OME-Zarr, else with `ending`."""
    if file.name.lower().endswith((TIFF, ".tiff", ZARR)):
        return file
    return file.with_name(file.name + ending)


def table_beside(file: Path) -> Path:
    """Return the file of the measurements."""
    name = file.name[: -len(ZARR)] if file.name.endswith(ZARR) else file.stem
    return file.with_name(f"{name}.csv")


def iter_save_objects(shown: ShownObjects, file: Path) -> Generator[Progress, None, list[Path]]:
    """Write labels and measurements; return the two files.

    Raises:
        FileError: they cannot be written, or something different has this name.
    """
    stack = without_channels(shown)
    recipe = {**shown.recipe, "form": "ome-zarr" if file.name.endswith(ZARR) else "tiff"}
    yield Progress(0, 1, f"writing {file.name}")
    if file.name.endswith(ZARR):
        from napari_skipseg.images.zarr.layout import Layout
        from napari_skipseg.images.zarr.writer import iter_write_ome_zarr

        check_replaceable([file], "ome-zarr")
        layout = Layout(stack.shape, stack.space, "uint32", kind="labels", description=recipe)
        yield from iter_write_ome_zarr(file, stack.data, layout)
    else:
        write_ome_tiff(file, stack.data, stack.space, description=recipe)
    table = table_beside(file)
    shown.table.write_csv(table)
    return [file, table]


def in_short(files: Sequence[Path]) -> str:
    """Return which labels and measurements were saved, in a line of a notification."""
    labels, table = files
    line = f"Saved {labels.name} and {table.suffix}"
    return line if len(line) <= FITS else f"Saved labels and measurements ({table.suffix})"


def without_channels(shown: ShownObjects) -> Stack:
    """Return the objects as a stack with the axes of space and time."""
    axes = shown.source.axes if shown.source.axes[0] != "C" else shown.source.voxel_axes
    stack = stack_of_layer(shown.layer, axes).channel(0)
    return stack if shown.edited is None else replace(stack, data=shown.edited)
