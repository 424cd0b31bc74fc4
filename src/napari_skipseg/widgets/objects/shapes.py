"""The menu Export of the Objects tab: meshes and skeletons as layers, and all objects for other programs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QMenu, QPushButton

from napari_skipseg.errors import InputError
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.skeletons import read_swc
from napari_skipseg.exports.surfaces import read_ply
from napari_skipseg.exports.unfinished import unfinished_folder
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import file_name
from napari_skipseg.jobs.messages import ExportObjects
from napari_skipseg.objects.files import planes_in
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.worker import EngineLike
from napari_skipseg.widgets.layers.placement import frame_in_3d
from napari_skipseg.widgets.layers.results import KEY
from napari_skipseg.widgets.objects.export import without_channels
from napari_skipseg.widgets.objects.layers import ShownObjects

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

MESH, SKELETON = "mesh", "skeleton"
SHAPE = "shape"
"""The role of a layer that shows a mesh or skeleton."""
SHOWN = {MESH: ExportOptions(meshes="ply"), SKELETON: ExportOptions(skeletons=True)}
"""What the engine writes to be shown as a layer."""
WRITTEN = {
    "Meshes of all objects (PLY)…": ExportOptions(meshes="ply"),
    "Meshes of all objects (OBJ)…": ExportOptions(meshes="obj"),
    "Skeletons of all objects (SWC) and lengths…": ExportOptions(skeletons=True),
    "Contacts between objects (CSV)…": ExportOptions(contacts=True),
    "Labels for Neuroglancer…": ExportOptions(precomputed=True),
    "Outlines for IMOD…": ExportOptions(imod="contours"),
    "Labels for WEBKNOSSOS…": ExportOptions(webknossos=True),
}
"""What the menu writes into a folder."""


class ExportButton(QPushButton):  # type: ignore[misc]
    """Opens the menu. show_requested: "mesh" or "skeleton" of the selected object. write_requested: the options."""

    show_requested = Signal(str)
    write_requested = Signal(object)

    def __init__(self) -> None:
        super().__init__("Export")
        self.setToolTip("Show meshes and skeletons, and write objects for other programs")
        menu = QMenu(self)
        for kind in SHOWN:
            action = menu.addAction(f"Show the {kind} of the selected object")
            action.triggered.connect(lambda _=False, kind=kind: self.show_requested.emit(kind))
        menu.addSeparator()
        for title, options in WRITTEN.items():
            action = menu.addAction(title)
            action.triggered.connect(lambda _=False, options=options: self.write_requested.emit(options))
        self.setMenu(menu)


def request_of(shown: ShownObjects, options: ExportOptions, folder: Path) -> ExportObjects:
    """Return the request that writes all objects on show into a folder.

    Raises:
        InputError: there are several times.
    """
    stack = without_channels(shown)
    if stack.length("T") > 1:
        raise InputError(
            "Objects of several times are exported one time at a time: save them, and use napari-skipseg export --time."
        )
    name = f"{file_name(shown.source.name)}_objects"
    return ExportObjects(stack, options, name, folder, planes=planes_in(shown.recipe))


def kept_of(request: ExportObjects) -> str:
    """Return that an export which was stopped goes on if it is repeated, "" if nothing of it is kept."""
    is_kept = unfinished_folder(request.target, request.name).folder.is_dir()
    return "An export that is repeated goes on from what is done." if is_kept else ""


@dataclass(frozen=True, eq=False)
class ObjectShape:
    """The mesh or skeleton of an object. points: (N, 3), z, y, x in voxels. parts: triangles, or edges."""

    kind: str
    label: int
    points: NDArray[np.float64]
    parts: NDArray[Any]


def iter_shape(
    shown: ShownObjects, label: int, kind: str, engine: EngineLike
) -> Generator[Progress, None, ObjectShape]:
    """Return the mesh or the skeleton of an object, which the engine computes in the object's box.

    Raises:
        SkipsegError: there is no such object, a package is missing, or the object has none.
    """
    stack, time = _box_of(shown, label)
    folder = Path(tempfile.mkdtemp(prefix="skipseg-shape-"))
    try:
        request = ExportObjects(stack, SHOWN[kind], "shape", folder, (label,), time)
        yield from engine.run(request)
        parts: NDArray[Any]
        if kind == MESH:
            places, parts = read_ply(folder / "shape_meshes" / f"{label}.ply")
        else:
            file = folder / "shape_skeletons" / f"{label}.swc"
            if not file.exists():
                raise InputError(f"Object {label} is too small to have a skeleton.")
            places, parts = read_swc(file.read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    space = without_channels(shown).space
    voxels = (places - space.origin[::-1]) / space.voxel_size[::-1]
    return ObjectShape(kind, label, voxels[:, ::-1], parts)


def _box_of(shown: ShownObjects, label: int) -> tuple[Stack, int | None]:
    """Return the labels in the box of an object, and its time."""
    table, stack = shown.table, without_channels(shown)
    rows = np.flatnonzero(table.column("label") == label)
    if not len(rows):
        raise InputError("Select an object first: click it in the image, or its row in the table.")
    starts, spans = {}, []
    for axis in stack.axes:
        if axis == "T":
            spans.append(slice(None))
            continue
        low, stop = (int(table.column(f"bounding box {axis.lower()} {end}")[rows[0]]) for end in ("start", "end"))
        if axis == "Z" and stop - low == 1 < stack.length("Z"):  # one slice alone would be a plane
            low, stop = (low, stop + 1) if stop < stack.length("Z") else (low - 1, stop)
        starts[axis] = low
        spans.append(slice(low, stop))
    time = int(table.column("time")[rows[0]]) if "time" in table.names else None
    if time is not None and "T" in stack.axes:
        spans[stack.axes.index("T")] = slice(time, time + 1)
    cut = np.asarray(stack.data[tuple(spans)])
    space: Space = stack.space.shifted(starts)
    return replace(stack, data=cut, space=space, file=""), 0 if time is not None else None


def show_shape(viewer: ViewerModel, shown: ShownObjects, shape: ObjectShape) -> None:
    """Show a mesh as a Surface layer, a skeleton as Vectors, in place of an earlier one; the view turns to it in 3D.

    The labels of the objects, which would cover it, are hidden until it is removed or the view is 2D again.
    """
    name = f"{shown.source.name} object {shape.label} {shape.kind}"
    former = next((each for each in viewer.layers if each.name == name), None)
    place = {"scale": shown.layer.scale[-3:], "translate": shown.layer.translate[-3:], "units": shown.layer.units[-3:]}
    color = shown.layer.get_color(shape.label)
    if shape.kind == MESH:
        flat = np.tile(np.asarray(color, np.float32), (len(shape.points), 1))
        layer = viewer.add_surface(
            (shape.points, shape.parts), name=name, vertex_colors=flat, shading="smooth", **place
        )
    else:
        ends = shape.points[shape.parts]
        vectors = np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)
        layer = viewer.add_vectors(
            vectors, name=name, edge_color="yellow", edge_width=1.5, vector_style="line", **place
        )
    layer.metadata[KEY] = {"role": SHAPE, "source": str(shown.layer.unique_id)}
    if former is not None:  # removed last, so that the labels stay hidden
        viewer.layers.remove(former)
        layer.name = name
    _hide_labels_until_removed(viewer, shown.layer)
    viewer.dims.ndisplay = 3
    frame_in_3d(viewer, layer)


def _hide_labels_until_removed(viewer: ViewerModel, labels: Labels) -> None:
    """Hide labels while the view is 3D and a mesh or skeleton of theirs is in it."""
    if not labels.visible:
        return  # the user hid them, or an earlier shape did
    labels.visible = False

    def show_again(event: Any = None) -> None:
        shapes = [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("role") == SHAPE]
        is_covered = any(each.metadata[KEY]["source"] == str(labels.unique_id) for each in shapes)
        if viewer.dims.ndisplay == 3 and is_covered and labels in viewer.layers:
            return
        for emitter in (viewer.layers.events.removed, viewer.dims.events.ndisplay):
            emitter.disconnect(show_again)
        labels.visible = True

    viewer.dims.ndisplay = 3
    for emitter in (viewer.layers.events.removed, viewer.dims.events.ndisplay):
        emitter.connect(show_again)
