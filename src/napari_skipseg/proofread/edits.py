"""Edits of objects as values. An edit names objects by voxels in them, so it can be applied to other labels too.

A voxel is (t, z, y, x); an axis that the image does not have is 0.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_skipseg.errors import InputError, SkipsegError

Voxel = tuple[int, int, int, int]

MOST_SEEDS = 24
"""Voxels that are kept of each side of a split: so an edit has less than 1 kB."""

LARGEST_MASK = 2**28
"""Voxels of the box of a painted mask, at most; a larger number in a file is taken for damage."""

_CODEC: Any = Zstd(level=3)
_CONFIG = ConfigDict(extra="forbid")


class EditRefusedError(InputError):
    """An edit does not make sense for these objects."""


@dataclass(frozen=True)
class Merge:
    """Make one object of all objects at these voxels."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: tuple[Voxel, ...]
    kind: Literal["merge"] = "merge"


@dataclass(frozen=True)
class Split:
    """Split the object that holds a voxel of each side, so that each side is an object of its own."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    sides: tuple[tuple[Voxel, ...], ...]
    kind: Literal["split"] = "split"


@dataclass(frozen=True)
class Delete:
    """Delete the objects at these voxels."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: tuple[Voxel, ...]
    kind: Literal["delete"] = "delete"


@dataclass(frozen=True)
class Grow:
    """Make an object of the region at a voxel and all that merges with it over boundaries up to `level`."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: Voxel
    level: float
    kind: Literal["grow"] = "grow"


@dataclass(frozen=True)
class Paint:
    """Add the voxels of a mask to the object at `into`, or make an object of them.

    corner: first voxel of the box of the mask. shape: of the box, (z, y, x). mask: packed by `pack_mask`. slices: those
    on which the object keeps no other voxels in the box, because it was carried there from other slices.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    corner: Voxel
    shape: tuple[int, int, int]
    mask: str
    into: Voxel | None = None
    slices: tuple[int, ...] = ()
    kind: Literal["paint"] = "paint"


@dataclass(frozen=True)
class Erase:
    """Remove the voxels of a mask from all objects; the mask as in `Paint`."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    corner: Voxel
    shape: tuple[int, int, int]
    mask: str
    kind: Literal["erase"] = "erase"


@dataclass(frozen=True)
class FillHoles:
    """Add background that the object at a voxel encloses to this object. slices: each slice by itself."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: Voxel
    slices: bool = False
    kind: Literal["fill holes"] = "fill holes"


@dataclass(frozen=True)
class Separate:
    """Make an object of each part of the object at a voxel, if its parts do not touch."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: Voxel
    kind: Literal["separate"] = "separate"


@dataclass(frozen=True)
class Renumber:
    """Number all objects 1, 2, … in the order of their numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    kind: Literal["renumber"] = "renumber"


@dataclass(frozen=True)
class Lock:
    """Lock the objects at these voxels against later edits, or unlock them."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: tuple[Voxel, ...]
    locked: bool = True
    kind: Literal["lock"] = "lock"


@dataclass(frozen=True)
class Smooth:
    """Smooth the surface of the object at a voxel: no voxel of another object changes.

    sigma: of a Gaussian, in voxels of X. slices: each slice by itself.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: Voxel
    sigma: float = 2.0
    slices: bool = False
    kind: Literal["smooth"] = "smooth"


@dataclass(frozen=True)
class SkipDoubt:
    """Do not ask again about the regions at two voxels, although nothing was decided."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: tuple[Voxel, Voxel]
    kind: Literal["skip"] = "skip"


@dataclass(frozen=True)
class Reweigh:
    """Decide all contacts that nobody judged by a classifier. weights: as in `contact_file.ContactClassifier`."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    weights: tuple[float, ...]
    kind: Literal["reweigh"] = "reweigh"


@dataclass(frozen=True)
class Confirm:
    """Remember that the decision between the regions at two voxels is right: to be one object, or two.

    The same voxel twice: the object there is right as a whole.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    at: tuple[Voxel, Voxel]
    kind: Literal["confirm"] = "confirm"


Edit = Annotated[
    Merge
    | Split
    | Delete
    | Grow
    | Paint
    | Erase
    | FillHoles
    | Separate
    | Renumber
    | Lock
    | Confirm
    | Smooth
    | SkipDoubt
    | Reweigh,
    Field(discriminator="kind"),
]

_EDIT: TypeAdapter[Edit] = TypeAdapter(Edit)


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """Return an edit as JSON values."""
    found: dict[str, Any] = _EDIT.dump_python(edit, mode="json", exclude_defaults=False)
    return found


def edit_from_dict(found: Any) -> Edit:
    """Return an edit from JSON values.

    Raises:
        InputError: they are no edit.
    """
    try:
        return _EDIT.validate_python(found)
    except (ValidationError, SkipsegError) as error:
        raise InputError(f"This is no edit of objects: {str(found)[:80]}.") from error


def pack_mask(mask: NDArray[np.bool_]) -> str:
    """Return a mask as text."""
    return base64.b64encode(_CODEC.encode(np.packbits(mask))).decode()


def unpack_mask(edit: Paint | Erase) -> NDArray[np.bool_]:
    """Return the mask of an edit, shape (z, y, x).

    Raises:
        EditRefusedError: it is damaged.
    """
    count = edit.shape[0] * edit.shape[1] * edit.shape[2]
    try:
        if min(edit.shape) < 1 or count > LARGEST_MASK:
            raise ValueError("impossible shape")
        bits = np.frombuffer(_CODEC.decode(base64.b64decode(edit.mask)), np.uint8)
        return np.unpackbits(bits, count=count).astype(np.bool_).reshape(edit.shape)
    except (ValueError, RuntimeError) as error:
        raise EditRefusedError("The mask of this edit is damaged: import the edits from a sound file.") from error


def thin_out(voxels: Sequence[Voxel], most: int = MOST_SEEDS) -> tuple[Voxel, ...]:
    """Return at most so many of these voxels, evenly chosen, without repetitions."""
    distinct = list(dict.fromkeys(voxels))
    if len(distinct) <= most:
        return tuple(distinct)
    return tuple(distinct[round(place)] for place in np.linspace(0, len(distinct) - 1, most))
