"""MRC and CCP4 maps, the files of electron tomography, as a `Stack`; memory-mapped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.calibration import GIVE_SIZE, AxisScale, FileImage, stack_from_file_image
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.space import NOTHING_GIVEN, GivenSpace
from napari_skipseg.images.stack import ArrayLike, FileAxes, Stack
from napari_skipseg.images.views import MappedArray

MRC_ENDINGS = (".mrc", ".mrcs", ".rec", ".st", ".ali", ".map", ".ccp4")
"""Endings of the files that are read as MRC."""

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""The kinds of voxels that can be read, by their number in the header."""

IMOD_STAMP, SIGNED = 1146047817, 1
"""The mark of IMOD's headers, and the flag in them for signed bytes."""

SECTIONS, MOST_LOOKED_AT = 16, 8 * 2**20
"""Sections, and voxels in all, that are tested for signed bytes if the header does not specify them."""

CLEARLY = 2
"""The header is wrong if neighbouring bytes, read according to it, differ so many times as much."""

VOLUMES = 401
"""Files of this space group and above are stacks of volumes."""

Header = NDArray[Any]


def is_mrc(path: Path) -> bool:
    """Return whether `path` is named as an MRC file."""
    return path.suffix.lower() in MRC_ENDINGS


def read_mrc(
    path: Path,
    given: GivenSpace = NOTHING_GIVEN,
) -> Stack:
    """Return the volume or stack of pictures in an MRC file as ZYX (a stack of volumes as TZYX), read in parts.

    Modes 0, 1, 2, 6 and 12 in either byte order. IMOD's flag, the header's minimum and maximum, or the values show
    whether bytes are signed. If the header names a different order of axes, they are transposed to z, y, x. The voxel
    size is in Å as in the file; 0, or exactly 1 Å along all axes, counts as unknown, because programs write it that do
    not know the size. The origin is the header's first column, row and section, in voxels; its `origin` words are
    ignored, because programs disagree on their sign. The angles of a crystal's cell are ignored.

    Raises:
        FileError: no such file, no MRC, cut short, or voxels of a kind that cannot be read.
        InputError: the axes, the voxel size or the unit cannot be used.
    """
    with read_errors_as_sentences(path):
        header, byte_order = _read_header(path)
        stored, notes = _stored_type(path, header, byte_order)
        data = _map_sections(path, header, stored)
        letters = "TZYX"[-len(data.shape) :]
        scales, more = _read_scales(header)

    def open_voxels(found: FileAxes) -> ArrayLike:
        return data.reshape(found.shape)

    image = FileImage(
        path,
        path.stem,
        list(zip(letters, (int(length) for length in data.shape), strict=True)),
        open_voxels,
        tuple(scales.get(letter, AxisScale()) for letter in letters),
        scales,
        notes=(*notes, *more),
    )
    return stack_from_file_image(image, given)


def _map_sections(path: Path, header: Header, stored: np.dtype[Any]) -> MappedArray:
    """Return the voxels in the order z, y, x, or t, z, y, x of a stack of volumes."""
    columns, rows, sections, depth = (int(header[key]) for key in ("nx", "ny", "nz", "mz"))
    shape: tuple[int, ...] = (sections, rows, columns)
    order = _order(header)
    if int(header["ispg"]) >= VOLUMES and order == (0, 1, 2) and 0 < depth < sections and sections % depth == 0:
        shape, order = (sections // depth, depth, rows, columns), (0, 1, 2, 3)
    offset = HEADER_DTYPE.itemsize + max(0, int(header["nsymbt"]))
    wanted, size = offset + math.prod(shape) * stored.itemsize, path.stat().st_size
    if wanted > size:
        raise FileError(f"'{path}' is cut short (it has {size} bytes, not {wanted}): copy it again.")
    if 0 in shape:
        raise InputError(f"'{path}' is empty: its shape is {shape}.")
    return MappedArray(path, stored, offset, shape).transpose(order)


def _read_header(path: Path) -> tuple[Header, str]:
    """Return the header, and the byte order in which its numbers make sense."""
    with path.open("rb") as handle:
        start = handle.read(HEADER_DTYPE.itemsize)
    if len(start) < HEADER_DTYPE.itemsize:
        raise FileError(f"'{path}' is no MRC file, or cut short: copy or export it again.")
    for byte_order in "<>":
        header: Header = np.frombuffer(start, HEADER_DTYPE.newbyteorder(byte_order))[0]
        lengths = [int(header[key]) for key in ("nx", "ny", "nz")]
        axes = sorted(int(header[key]) for key in ("mapc", "mapr", "maps"))
        is_order = axes in ([1, 2, 3], [0, 0, 0])  # old programs leave the axes unnamed
        if 0 <= int(header["mode"]) <= 128 and min(lengths) >= 0 and is_order:
            return header, byte_order
    raise FileError(f"'{path}' is no MRC file: export the volume as MRC or TIFF.")


def _order(header: Header) -> tuple[int, ...]:
    """Return which of the stored axes (section, row, column) are z, y and x."""
    stored = [int(header[key]) for key in ("maps", "mapr", "mapc")]
    return (0, 1, 2) if 0 in stored else tuple(stored.index(axis) for axis in (3, 2, 1))


def _stored_type(path: Path, header: Header, byte_order: str) -> tuple[np.dtype[Any], tuple[str, ...]]:
    """Return the type of the voxels, and a note if the header leaves it open."""
    mode = int(header["mode"])
    if mode in (3, 4):
        raise InputError(f"'{path}' contains complex numbers: save their magnitude.")
    if mode not in MODES:
        raise FileError(f"'{path}' has voxels of an unknown kind (mode {mode}): save it as mode 0, 1, 2, 6 or 12.")
    if mode == 0:
        return _type_of_bytes(path, header, byte_order)
    return np.dtype(f"{byte_order}{MODES[mode]}"), ()


def _type_of_bytes(path: Path, header: Header, byte_order: str) -> tuple[np.dtype[Any], tuple[str, ...]]:
    """Return whether bytes are signed, and a note if only the values show it.

    In MRC2014 they are signed; many programs, most of all before 2014, store unsigned ones. IMOD's flag decides; else a
    minimum below 0 or a maximum above 127; else the values. The values also decide if a header has the whole range of
    signed bytes, which programs write that mistook unsigned bytes for signed ones.
    """
    unsigned, signed = np.dtype("u1"), np.dtype("i1")
    stamp, flags = np.frombuffer(bytes(header["extra2"])[40:48], f"{byte_order}i4")
    if stamp == IMOD_STAMP:
        return (signed if int(flags) & SIGNED else unsigned), ()
    low, high, mean = (float(header[key]) for key in ("dmin", "dmax", "dmean"))
    # by the standard, minimum, maximum and mean in a different order mean that they were not determined
    is_determined = -128 <= low <= mean <= high <= 255 and low < high
    may_be_wrong = (low, high) == (-128, 127)  # the result of a program that reads greys around 128 as signed bytes
    if is_determined and (high > 127 or low < 0) and not may_be_wrong:
        return (unsigned if high > 127 else signed), ()
    values = _sample(_map_sections(path, header, unsigned))
    if is_determined and (values < 128).all():
        return signed, ()  # as the standard says: the values are the same
    if may_be_wrong:
        as_unsigned, as_signed = _jumps(values)
        if as_signed < CLEARLY * as_unsigned:
            return signed, ()
        return unsigned, ("The header says that bytes are signed, but by their values they are unsigned (0 to 255).",)
    kind = unsigned if _look_unsigned(values) else signed
    word = "unsigned (0 to 255)" if kind is unsigned else "signed (-128 to 127)"
    return kind, (f"The header does not say whether bytes are signed: by their values they are {word}.",)


def _sample(data: MappedArray) -> NDArray[np.uint8]:
    """Return a few sections, spread over a volume."""
    sections = data.reshape((math.prod(data.shape[:-2]), *data.shape[-2:]))
    rows = slice(0, max(2, MOST_LOOKED_AT // SECTIONS // sections.shape[-1]))
    numbers = np.unique(np.linspace(0, sections.shape[0] - 1, SECTIONS).astype(int))
    found: NDArray[np.uint8] = np.stack([sections[int(number), rows] for number in numbers])
    return found


def _look_unsigned(values: NDArray[np.uint8]) -> bool:
    """Return whether an image of bytes is smoother if they are read as unsigned.

    Unsigned greys around 128, read as signed, jump between 127 and -128; signed greys around 0, read as unsigned, jump
    between 0 and 255. A mask of 0 and 255 is unsigned, although 0 and -1 would be smoother.
    """
    if np.isin(values, (0, 255)).all() or (values < 128).all():
        return True
    as_unsigned, as_signed = _jumps(values)
    if as_unsigned == as_signed:
        return bool((values >= 128).all())
    return as_unsigned < as_signed


def _jumps(values: NDArray[np.uint8]) -> tuple[int, int]:
    """Return how much neighbouring bytes differ, summed, if they are read as unsigned and as signed numbers."""
    found = []
    for kind in (np.uint8, np.int8):
        greys = values.view(kind).astype(np.int16)
        found.append(sum(int(np.abs(np.diff(greys, axis=axis)).sum(dtype=np.int64)) for axis in (1, 2)))
    return found[0], found[1]


def _read_scales(header: Header) -> tuple[dict[str, AxisScale], tuple[str, ...]]:
    """Return the scales of the axes in Å, and a note if the header has no voxel size."""
    sizes = {}
    for axis in "zyx":
        cell, count = float(header["cella"][axis]), int(header[f"m{axis}"])
        sizes[axis.upper()] = float(f"{cell / count:.7g}") if count > 0 and math.isfinite(cell) else math.nan
    if set(sizes.values()) == {1.0}:
        return {}, (f"The header gives a voxel size of 1 Å, as programs write that do not know it: {GIVE_SIZE}.",)
    if not any(sizes.values()):
        return {}, (f"The header gives no voxel size: {GIVE_SIZE}.",)
    first = [int(header[key]) for key in ("nzstart", "nystart", "nxstart")]  # of section, row, column
    starts = [first[place] for place in _order(header)]
    return {
        axis: AxisScale(size, "Å", start * abs(size) if math.isfinite(size) else 0.0)
        for (axis, size), start in zip(sizes.items(), starts, strict=True)
    }, ()
