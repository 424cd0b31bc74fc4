"""Open objects for proofreading: which layers can be proofread, and the work before the first edit."""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_skipseg.images.formats import USUAL_DEPTH, Depth
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import file_name
from napari_skipseg.inference.recipes.recipe import objects_recipe_from_dict
from napari_skipseg.inference.saving import check_replaceable
from napari_skipseg.jobs.workspace import remove_folder
from napari_skipseg.objects.classes import ClassImage, records_padding, thresholds_in
from napari_skipseg.objects.measure import iter_measure
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress
from napari_skipseg.proofread.doubts import Doubt, rank_doubts
from napari_skipseg.proofread.edits import Voxel
from napari_skipseg.proofread.exchange import LabelsTarget, iter_regions, iter_write_labels
from napari_skipseg.proofread.measure import MeasuredImages, measured_images
from napari_skipseg.proofread.regions import IN_MEMORY
from napari_skipseg.proofread.session import EditSession
from napari_skipseg.proofread.state import ObjectsUnderEdit, VoxelBox
from napari_skipseg.proofread.store import EditStore, edits_record, folder_of
from napari_skipseg.widgets.forms.dialogs import ask_new_file
from napari_skipseg.widgets.layers.axes import axes_of
from napari_skipseg.widgets.layers.results import KEY, data_of, stack_of_layer
from napari_skipseg.widgets.objects.export import FILTERS, TIFF, ZARR, table_beside, with_ending
from napari_skipseg.widgets.objects.layers import ShownObjects
from napari_skipseg.widgets.objects.sources import PREVIEW, PROOFREAD, find_measured, recipe_of_layer, stack_to_search
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer
    from qtpy.QtWidgets import QWidget


@dataclass(frozen=True, eq=False)
class ProofreadSource:
    """Objects that can be proofread. layer: that shows them. over: the layer whose place they take.

    image: the probability in which they were found, or their labels. measured: grey values to measure.
    """

    layer: Labels
    over: Layer
    axes: str
    image: ClassImage | Stack
    options: ObjectOptions
    measured: Stack | None

    @property
    def stack(self) -> Stack:
        """The probability, or the labels."""
        return self.image if isinstance(self.image, Stack) else self.image.stack


@dataclass(frozen=True, eq=False)
class OpenedObjects:
    """Objects that are proofread: their session, table, doubts, and what is measured."""

    source: ProofreadSource
    session: EditSession
    table: ObjectTable
    doubts: list[Doubt]
    measured: MeasuredImages

    def replacing(self, shown: ShownObjects, layer: Labels, table: ObjectTable) -> ShownObjects:
        """Return the objects that were found with their edits. layer, table: those of Proofread."""
        return replace(shown, layer=layer, table=table, edited=self.session.objects.labels())


def layers_to_proofread(viewer: ViewerModel) -> list[Layer]:
    """Return the layers of objects and the labels of other programs, the last one first."""
    from napari.layers import Labels

    layers = [layer for layer in reversed(viewer.layers) if isinstance(layer, Labels)]
    return [layer for layer in layers if not _is_of_another_kind(layer)]


def _is_of_another_kind(layer: Layer) -> bool:
    ours = layer.metadata.get(KEY, {})
    return "corrections" in ours or ours.get("role") in (PREVIEW, PROOFREAD) or data_of(layer).ndim < 2


def source_of_layer(viewer: ViewerModel, layer: Labels, shown: Sequence[ShownObjects]) -> ProofreadSource:
    """Return the objects of a layer: with their probability if it is open, else as plain labels.

    Raises:
        SkipsegError: the layer cannot be read.
    """
    found = next((each for each in shown if each.layer == layer), None)
    if found is not None and found.source.layer in viewer.layers:
        source = found.source
        recipe = objects_recipe_from_dict(found.recipe)
        depth: Depth = "float32" if recipe.inputs[0].dtype.startswith("float") else USUAL_DEPTH
        image = ClassImage(
            stack_to_search(source, depth),
            source.class_names,
            source.labels,
            records_padding(found.recipe),
            thresholds=thresholds_in(found.recipe),
        )
        has_grey = any(name.startswith(("intensity", "channel")) for name in found.table.names)
        images = find_measured(viewer, source) if has_grey else []
        measured = stack_of_layer(images[0], axes_of(images[0])) if images else None
        return ProofreadSource(layer, source.layer, source.axes, image, recipe.objects, measured)
    axes = axes_of(layer)
    planes = (recipe_of_layer(layer).get("objects") or {}).get("planes", "volume")
    return ProofreadSource(layer, layer, axes, stack_of_layer(layer, axes), ObjectOptions(planes=planes), None)


def iter_open_session(source: ProofreadSource) -> Generator[Progress, None, OpenedObjects]:
    """Yield while the regions of the objects are found and stored edits are applied; return the objects.

    Raises:
        SkipsegError: another window edits them, or the edits are of another voxel size.
    """
    yield Progress(0, 4, "opening the edits")
    stack, options = source.stack, source.options
    record = edits_record(stack, options.class_name, options)
    store = EditStore(folder_of(record), record)
    try:
        is_large = math.prod(stack.length(axis) for axis in "TZYX") > IN_MEMORY
        folder = Path(tempfile.mkdtemp(prefix="napari-skipseg-regions-")) if is_large else None
        if folder is not None:
            weakref.finalize(store, remove_folder, folder)
        regions = yield from iter_regions(source.image, options, folder)
        yield Progress(2, 4, "applying the edits")
        session = EditSession(regions, store)
        measured = measured_images(session.objects, source.image, source.measured)
        labels = session.objects.labels()
        axes = "".join(axis for axis in "TZYX" if axis in regions.space.axes)
        shown = Stack(labels, regions.space.with_axes(axes), stack.name)
        table = yield from iter_measure(shown, measured.image, measured.probability, options.planes)
        yield Progress(3, 4, "looking for doubts")
        return OpenedObjects(source, session, table, rank_doubts(session.objects), measured)
    except BaseException:
        store.close()
        raise


def place_of_object(objects: ObjectsUnderEdit, label: int) -> tuple[Voxel, VoxelBox]:
    """Return a voxel in the middle of an object, and the object's box."""
    time, box = objects.box_of(objects.regions_of(label))
    inside = np.argwhere(objects.read_objects(time, box) == label)
    z, y, x = (int(at) + side.start for at, side in zip(inside[len(inside) // 2], box, strict=True))
    return (time, z, y, x), box


def describe_opened(opened: OpenedObjects) -> str:
    """Return how many objects, edits and doubts there are, and which stored edits made no sense."""
    session = opened.session
    parts = [counted(len(opened.table), "object"), counted(len(session.changes), "edit")]
    parts += [counted(len(opened.doubts), "doubt")] if opened.doubts else []
    if not session.refused:
        return f"{', '.join(parts)}."
    first = session.refused[0]
    return (
        f"{', '.join(parts)}. {counted(len(session.refused), 'edit')} made no sense here, and will be tried "
        f"again with other options; the first one ({first.edit.kind}): {first.reason}"
    )


def ask_edited_file(parent: QWidget, opened: OpenedObjects) -> Path | None:
    """Return the file that the user chooses for edited objects, None if the user cancels."""
    start = f"{file_name(opened.source.layer.name)}_proofread{TIFF}"
    chosen, kind = ask_new_file(parent, "Save proofread objects", start, FILTERS, "objects")
    return None if chosen is None else with_ending(chosen, ZARR if "Zarr" in kind else TIFF)


def iter_save_edited(opened: OpenedObjects, table: ObjectTable, file: Path) -> Generator[Progress, None, Path]:
    """Yield while the edited labels are written, and their measurements beside them; return the file of labels.

    Raises:
        FileError: they cannot be written, or something different has this name.
    """
    check_replaceable([file], "ome-zarr" if file.name.endswith(ZARR) else "tiff")
    yield from iter_write_labels(opened.session.objects, LabelsTarget(file))
    table.write_csv(table_beside(file))
    return file
