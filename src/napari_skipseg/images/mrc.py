"""MRC and CCP4 maps, the files of electron tomography, as a `Stack`; memory-mapped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.axes import name_axes
from napari_skipseg.images.mapped import MappedArray
from napari_skipseg.images.ome import Calibration
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiff import refusing

ENDINGS = (".mrc", ".mrcs", ".rec", ".st", ".ali", ".map", ".ccp4")
"""Endings of the files that are read as MRC."""

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""The kinds of voxels that can be read, by their number in the header."""

IMOD_STAMP, SIGNED = 1146047817, 1
"""The mark of IMOD's headers, and the flag in them that says that bytes are signed."""

VOLUMES = 401
"""The space group from which on a file is a stack of volumes."""

Header = NDArray[Any]


def is_mrc(path: Path) -> bool:
    """Return whether `path` is named as an MRC file."""
    return path.suffix.lower() in ENDINGS


def read_mrc(
    path: Path,
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
) -> Stack:
    """Return the volume or stack of pictures in an MRC file as ZYX (a stack of volumes as TZYX), read in parts.

    Modes 0, 1, 2, 6 and 12 in either byte order; bytes are signed as MRC2014 says, unless IMOD's flag or a maximum
    above 127 says otherwise. Where the header names another order of axes, they are turned into z, y, x. The voxel
    size is in Å as in the file; one of 0, or of exactly 1 Å along all axes (what programs write who know none), is
    taken for unknown. The origin is the header's first column, row and section, in voxels; its `origin` words are
    left out, since programs disagree on their sign. The angles of a crystal's cell are left out.

    Raises:
        FileError: no such file, no MRC, cut short, or voxels of a kind that cannot be read.
        InputError: the axes, the voxel size or the unit cannot be used.
    """
    with refusing(path):
        header, byte_order = _read_header(path)
        stored = _stored_type(path, header, byte_order)
        data = _map_sections(path, header, stored)
        calibration = _calibrate(header)
    full = list(zip("TZYX"[-len(data.shape) :], (int(n) for n in data.shape), strict=True))
    names, kept = name_axes(path, full, axes)
    size_of_voxel = voxel_size or calibration.size_of(names)
    return Stack(data.reshape(kept), names, size_of_voxel, unit or calibration.unit, calibration.origin, path.stem)


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
        if 0 <= int(header["mode"]) <= 128 and min(lengths) >= 0 and _is_order(header):
            return header, byte_order
    raise FileError(f"'{path}' is no MRC file: export the volume as MRC or TIFF.")


def _is_order(header: Header) -> bool:
    """Return whether the header names its axes: each once, or, as old programs do, none."""
    return sorted(int(header[key]) for key in ("mapc", "mapr", "maps")) in ([1, 2, 3], [0, 0, 0])


def _order(header: Header) -> tuple[int, ...]:
    """Return which of the stored axes (section, row, column) are z, y and x."""
    stored = [int(header[key]) for key in ("maps", "mapr", "mapc")]
    return (0, 1, 2) if 0 in stored else tuple(stored.index(axis) for axis in (3, 2, 1))


def _stored_type(path: Path, header: Header, byte_order: str) -> np.dtype[Any]:
    mode = int(header["mode"])
    if mode in (3, 4):
        raise InputError(f"'{path}' holds complex numbers: save their magnitude.")
    if mode not in MODES:
        raise FileError(f"'{path}' has voxels of an unknown kind (mode {mode}): save it as mode 0, 1, 2, 6 or 12.")
    if mode == 0 and _holds_unsigned_bytes(header, byte_order):
        return np.dtype("u1")
    return np.dtype(f"{byte_order}{MODES[mode]}")


def _holds_unsigned_bytes(header: Header, byte_order: str) -> bool:
    stamp, flags = np.frombuffer(bytes(header["extra2"])[40:48], f"{byte_order}i4")
    if stamp == IMOD_STAMP:
        return not int(flags) & SIGNED
    return float(header["dmax"]) > 127


def _calibrate(header: Header) -> Calibration:
    sizes: list[float | None] = []
    for axis in "zyx":
        cell, count = float(header["cella"][axis]), int(header[f"m{axis}"])
        known = math.isfinite(cell) and cell > 0 and count > 0
        sizes.append(float(f"{cell / count:.7g}") if known else None)
    first = [int(header[key]) for key in ("nzstart", "nystart", "nxstart")]  # of section, row, column
    starts = [first[place] for place in _order(header)]
    z, y, x = sizes
    if x is None or sizes == [1.0, 1.0, 1.0]:
        return Calibration()
    y = y or x
    return Calibration((z, y, x), "Å", (starts[0] * (z or y), starts[1] * y, starts[2] * x))
