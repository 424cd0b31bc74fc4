"""Objects from labels to a folder: all that is chosen appears at the end, whole; an export that was stopped goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.durable import remove_place
from napari_skipseg.errors import InputError
from napari_skipseg.exports.contacts import OtherLabels, iter_contacts
from napari_skipseg.exports.imod import check_imod, iter_outlines, middles, write_imod
from napari_skipseg.exports.labels import ObjectCounts, ObjectLabels, check_number_of_files, iter_count
from napari_skipseg.exports.neuroglancer import (
    check_precomputed,
    iter_write_precomputed,
    rounded_place,
    write_precomputed_mesh,
)
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.exports.skeletons import ObjectSkeleton, check_skeletons, iter_skeletons, lengths_table, swc_of
from napari_skipseg.exports.surfaces import ObjectMesh, check_meshes, iter_mesh_blocks, write_mesh
from napari_skipseg.exports.unfinished import UnfinishedExport, resumed_export, unfinished_folder
from napari_skipseg.exports.webknossos import check_webknossos, iter_write_webknossos
from napari_skipseg.images.identity import identify
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.objects.measure import iter_measure
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress


@dataclass(frozen=True, eq=False)
class ExportRequest:
    """What is exported: labels, the objects among them (none = all), and a second image for contacts.

    name: how all files begin. overwrite: replace files of these names.
    """

    labels: ObjectLabels
    options: ExportOptions
    name: str
    objects: tuple[int, ...] = ()
    other: OtherLabels | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ExportedFiles:
    """The files and folders that were written, how many objects are in them, and what a user should know."""

    files: tuple[Path, ...]
    count: int
    notes: tuple[str, ...] = ()


def targets(options: ExportOptions, name: str) -> list[str]:
    """Return the names of all files and folders that are written."""
    chosen = {
        "_meshes": options.meshes != "none",
        "_skeletons": options.skeletons,
        "_skeletons.csv": options.skeletons,
        "_contacts.csv": options.contacts,
        "_table.csv": options.table,
        "_precomputed": options.precomputed,
        ".mod": options.imod != "none",
        "_webknossos": options.webknossos,
    }
    return [f"{name}{ending}" for ending, is_chosen in chosen.items() if is_chosen]


def check_export(request: ExportRequest, folder: Path) -> None:
    """Raise if something prevents the export, before any work.

    Raises:
        InputError: nothing is chosen, a package is missing, the image does not fit, or a result is there already.
    """
    labels, options = request.labels, request.options
    if not options.writes_anything:
        raise InputError("Nothing is chosen to be exported: give one of --meshes, --skeletons, --contacts, --table, …")
    if options.meshes != "none":
        check_meshes(labels)
    if options.skeletons:
        check_skeletons()
    if options.precomputed:
        check_precomputed(labels)
    if options.imod != "none":
        check_imod()
    if options.webknossos:
        check_webknossos(labels)
    unfinished = unfinished_folder(folder, request.name)
    names = [each for each in targets(options, request.name) if not unfinished.is_published(each)]
    there = [each for each in names if os.path.lexists(folder / each)]
    if there and not request.overwrite:
        raise InputError(
            f"'{folder / there[0]}' is there already: choose a different folder, or remove it (in a shell, --overwrite "
            "replaces it)."
        )


def iter_export_objects(request: ExportRequest, folder: Path) -> Generator[Progress, None, ExportedFiles]:
    """Yield while the objects are exported; return what was written into `folder`.

    Memory holds a few blocks, the skeletons, and the largest mesh. All is written into the folder `NAME_unfinished`,
    and renamed at the end: a kill or a full disk leaves what was there before, and this folder, from which the same
    call goes on to the same bytes: results that are whole, and blocks that are meshed or have skeletons, are kept.

    Raises:
        InputError: as `check_export`; there are no such objects, or too many for a file each; an export of other
            labels, or with other options, is unfinished.
        FileError: the labels cannot be read, or nothing be written.
    """
    check_export(request, folder)
    labels = request.labels
    if request.objects:
        labels = labels.choose(np.array(request.objects, np.uint64))
    counts = yield from iter_count(labels)
    labels, counts = _chosen(labels, counts, request)
    if request.options.meshes != "none" or request.options.skeletons or request.options.imod != "none":
        check_number_of_files(len(counts))
    names = targets(request.options, request.name)
    record = _record_of(request, counts)
    with resumed_export(folder, request.name, record, request.overwrite) as export:
        yield from _iter_write(labels, counts, request, export)
        yield Progress(0, 1, "bringing the results to disk")
        export.publish(names)
    return ExportedFiles(tuple(folder / each for each in names), len(counts), notes_about(request))


def _record_of(request: ExportRequest, counts: ObjectCounts) -> dict[str, Any]:
    """Return what decides the bytes of an export, as JSON values."""
    labels, other, space = request.labels, request.other, request.labels.space
    return {
        "version": version("napari-skipseg"),
        "options": asdict(request.options),
        "labels": counts.digest,
        "objects": list(request.objects),
        "name": labels.name,
        "planes": labels.planes,
        "space": [*space.voxel_size, space.unit, *space.origin],
        "other": None if other is None else [other.name, other.labels.time, identify(other.labels.stack)],
    }


def notes_about(request: ExportRequest) -> tuple[str, ...]:
    """Return what a user should know about an export, in sentences."""
    labels, options, notes = request.labels, request.options, list(request.labels.stack.notes)
    if not labels.space.has_size:
        notes.append(
            f"'{labels.name}' has no voxel size, so lengths are in pixels: give it with --voxel-size Z Y X and --unit."
        )
    if labels.planes == "slices" and not labels.is_flat and (options.table or options.contacts):
        notes.append(
            f"The objects of '{labels.name}' were found slice by slice: areas and contacts within slices are measured."
        )
    if options.precomputed or options.webknossos:
        notes.append(rounded_place(labels.space))
    return tuple(filter(None, notes))


def _chosen(labels: ObjectLabels, counts: ObjectCounts, request: ExportRequest) -> tuple[ObjectLabels, ObjectCounts]:
    missing = sorted(set(request.objects) - set(counts.labels.tolist()))
    if missing:
        raise InputError(f"There is no object {missing[0]} in '{labels.name}'.")
    kept = counts.voxels >= request.options.least_voxels
    if not kept.all():
        counts = replace(counts, labels=counts.labels[kept], voxels=counts.voxels[kept], places=counts.places[kept])
        labels = labels.choose(counts.labels)
    if not len(counts):
        raise InputError(f"'{labels.name}' has no objects of {max(1, request.options.least_voxels)} voxels or more.")
    return labels, counts


def _iter_write(
    labels: ObjectLabels, counts: ObjectCounts, request: ExportRequest, export: UnfinishedExport
) -> Generator[Progress, None, None]:
    options = request.options

    def contacts(path: Path) -> Generator[Progress, None, None]:
        (yield from iter_contacts(labels, request.other, counts)).write_csv(path)

    def table(path: Path) -> Generator[Progress, None, None]:
        (yield from iter_measure_sparse(labels, counts)).write_csv(path)

    def precomputed(path: Path) -> Generator[Progress, None, None]:
        yield from iter_write_precomputed(labels, counts, path, with_meshes=_are_meshes_inside(options))

    def webknossos(path: Path) -> Generator[Progress, None, None]:
        yield from iter_write_webknossos(labels, counts, path)

    def imod(path: Path) -> Generator[Progress, None, None]:
        are_points = options.imod == "points"
        contours = middles(counts) if are_points else (yield from iter_outlines(labels))
        yield Progress(0, 1, "writing the IMOD model")
        write_imod(path, contours, labels, are_points)

    if options.contacts:
        yield from _iter_anew(export, "_contacts.csv", contacts)
    if options.table:
        yield from _iter_anew(export, "_table.csv", table)
    if options.precomputed:
        yield from _iter_anew(export, "_precomputed", precomputed)
    if options.webknossos:
        yield from _iter_anew(export, "_webknossos", webknossos)
    if options.meshes != "none" and not export.is_done("meshes"):
        yield from _iter_write_meshes(labels, options, export)
    if options.skeletons and not export.is_done("skeletons"):
        yield from _iter_write_skeletons(labels, counts, options, export)
    if options.imod != "none":
        yield from _iter_anew(export, ".mod", imod)


def _iter_anew(
    export: UnfinishedExport, ending: str, write: Callable[[Path], Generator[Progress, None, None]]
) -> Generator[Progress, None, None]:
    """Write a result, unless it is there whole; what an earlier try left of it is removed first."""
    stage, path = ending.strip("._"), export.result(ending)
    if export.is_done(stage):
        return
    remove_place(path)
    yield from write(path)
    export.finish(stage, [path])


def _are_meshes_inside(options: ExportOptions) -> bool:
    """Return whether Neuroglancer gets the meshes too; Windows allows no names with a colon, which it asks for."""
    return options.precomputed and options.meshes != "none" and os.name != "nt"


def _iter_write_meshes(
    labels: ObjectLabels, options: ExportOptions, export: UnfinishedExport
) -> Generator[Progress, None, None]:
    folder = export.result("_meshes")
    folder.mkdir(exist_ok=True)

    def write(mesh: ObjectMesh) -> list[Path]:
        path = folder / f"{mesh.label}.{options.meshes}"
        write_mesh(path, mesh.placed(labels.space), mesh.faces, options.meshes)
        if not _are_meshes_inside(options):
            return [path]
        return [path, *write_precomputed_mesh(export.result("_precomputed"), mesh, labels.space)]

    pieces = yield from iter_mesh_blocks(labels, options, export.folder)
    yield from export.iter_each("meshes", pieces, write, "writing meshes")
    export.finish("meshes")


def _iter_write_skeletons(
    labels: ObjectLabels, counts: ObjectCounts, options: ExportOptions, export: UnfinishedExport
) -> Generator[Progress, None, None]:
    folder = export.result("_skeletons")
    folder.mkdir(exist_ok=True)

    def write(skeleton: ObjectSkeleton) -> list[Path]:
        path = folder / f"{skeleton.label}.swc"
        path.write_text(swc_of(skeleton, labels.space), encoding="utf-8")
        return [path]

    skeletons = yield from iter_skeletons(labels, options, export.folder)
    yield from export.iter_each("skeletons", skeletons, write, "writing skeletons")
    table = export.result("_skeletons.csv")
    lengths_table(skeletons, counts, labels.space).write_csv(table)
    export.finish("skeletons", [table])


def iter_measure_sparse(labels: ObjectLabels, counts: ObjectCounts) -> Generator[Progress, None, ObjectTable]:
    """Yield slab by slab; return the measurements of objects with any numbers, as `objects.measure.iter_measure`."""
    numbered = Stack(_Numbered(labels, counts.labels), labels.space, labels.name)
    table = yield from iter_measure(numbered, planes=labels.planes)
    names, columns = table.names, list(table.columns)
    columns[names.index("label")] = counts.labels
    return ObjectTable(names, tuple(columns))


class _Numbered(LazyArray):
    """Labels as their places among all objects, from 1 on: tables of sums have a row for each number."""

    def __init__(self, labels: ObjectLabels, objects: NDArray[np.uint64]) -> None:
        self._labels, self._objects = labels, objects
        self.shape, self.dtype = labels.shape, np.dtype(np.uint32)

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.uint32]:
        parts = [part if isinstance(part, slice) else slice(part, part + 1) for part in index]
        spans = [part.indices(length) for part, length in zip(parts, self.shape, strict=True)]
        found = self._labels.read([start for start, _, _ in spans], [stop for _, stop, _ in spans])
        places = np.where(found > 0, np.searchsorted(self._objects, found) + 1, 0).astype(np.uint32)
        return places[tuple(slice(None) if isinstance(part, slice) else 0 for part in index)]


def with_space_of(labels: ObjectLabels, other: ObjectLabels) -> ObjectLabels:
    """Return `other` where `labels` lie if its own voxel size is not known."""
    if other.space.has_size or not labels.space.has_size:
        return other
    space = labels.stack.space.with_axes(other.stack.space.axes)
    return replace(other, stack=replace(other.stack, space=space))
