"""What is exported of objects, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from napari_skipseg.errors import InputError
from napari_skipseg.option_fields import Option, check_options

MeshFormat = Literal["none", "ply", "obj"]
ImodContent = Literal["none", "contours", "points"]


@dataclass(frozen=True)
class ExportOptions:
    """What to write of a label image, and how; nothing by default.

    Raises:
        InputError: an option is out of its range.
    """

    meshes: Annotated[
        MeshFormat,
        Option(
            "Meshes",
            "Write the surface of each object, a file each.",
            notes={
                "none": "No meshes.",
                "ply": "Binary PLY, for Blender, MeshLab or ParaView.",
                "obj": "Wavefront OBJ, as text.",
            },
        ),
    ] = "none"
    skeletons: Annotated[
        bool, Option("Skeletons", "Write the skeleton of each object as SWC, and the lengths of all as CSV.")
    ] = False
    contacts: Annotated[
        bool,
        Option("Contacts", "Write which objects touch, and the area of each contact, as CSV."),
    ] = False
    table: Annotated[bool, Option("Measurements", "Write the measurements of all objects as CSV.")] = False
    precomputed: Annotated[
        bool, Option("Neuroglancer", "Write the labels as a precomputed segmentation for Neuroglancer.")
    ] = False
    imod: Annotated[
        ImodContent,
        Option(
            "IMOD model",
            "Write a model for IMOD.",
            notes={
                "none": "No model.",
                "contours": "The outlines of each object in each slice.",
                "points": "One point in the middle of each object.",
            },
        ),
    ] = "none"
    webknossos: Annotated[bool, Option("WEBKNOSSOS", "Write the labels as a dataset for WEBKNOSSOS.")] = False
    least_voxels: Annotated[int, Option("Least voxels", "Leave out objects with fewer voxels than this.", least=0)] = 0
    simplify: Annotated[
        int, Option("Simplify", "A mesh gets about one of so many of its triangles; 1 keeps all.", least=1, most=1000)
    ] = 8
    simplify_error: Annotated[
        float,
        Option(
            "Simplification error",
            "How far a vertex may move when a mesh is simplified, in voxels.",
            above=0,
            most=100,
        ),
    ] = 1.0
    skeleton_scale: Annotated[
        float,
        Option(
            "Skeleton scale",
            "A branch of a skeleton must leave the ball of so many times the object's radius at its root.",
            least=0,
            most=100,
        ),
    ] = 1.5
    skeleton_const: Annotated[
        float,
        Option(
            "Skeleton constant",
            "The radius that is added to these balls, in sides of a voxel along X: larger gives fewer branches.",
            least=0,
            most=10000,
        ),
    ] = 30.0

    def __post_init__(self) -> None:
        check_options(self, InputError)

    @property
    def writes_anything(self) -> bool:
        """Whether any result is chosen."""
        chosen = (self.skeletons, self.contacts, self.table, self.precomputed, self.webknossos)
        return any(chosen) or self.meshes != "none" or self.imod != "none"
