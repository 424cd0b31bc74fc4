"""A folder or a list of files with one slice each, as one stack; each file is opened when it is needed."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.file_names import normalized_name
from napari_skipseg.images import mrc, pictures
from napari_skipseg.images.calibration import GIVE_SIZE, AxisScale, FileImage, stack_from_file_image
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.formats import RESULT_FILE
from napari_skipseg.images.set_files import check_regular
from napari_skipseg.images.space import NOTHING_GIVEN, GivenSpace
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.images.tiff.checks import first_page

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
_ENDINGS = (*TIFF_ENDINGS, *pictures.PICTURE_ENDINGS, *mrc.MRC_ENDINGS)
"""Endings of slices; all other files in the folder are sidecars."""

MOST_OPEN = 64
"""Slices that are open at once."""

_KEPT = 256 * 2**20
"""Bytes of decoded slices that are always kept: tiles of a volume need the same slices again and again."""

KEPT_SHARE = 1 / 16
"""The share of the free memory that decoded slices may take, if that is more."""

RESOLUTION = (282, 283, 296)
"""TIFF tags: pixels per unit along x and y, and the unit."""

_MOST_GAPS = 3
"""Gaps in the numbers that a note names one by one."""

_NO_STACK = "is a folder: give an image file, or the folder of an OME-Zarr or of numbered slices"

_DIGITS = re.compile(r"([0-9]+)")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")
_WILD = re.compile(r"[*?]")

SliceReader = Callable[[Path], Stack]


@dataclass(frozen=True)
class SliceShape:
    """The header entries that must be the same for all slices of a stack. planes: pages of the file."""

    height: int
    width: int
    samples: int
    dtype: str
    planes: int = 1

    def describe(self) -> str:
        """Return it in words."""
        lengths = [*([self.planes] if self.planes > 1 else []), self.height, self.width]
        colours = f" with {self.samples} channels" if self.samples > 1 else ""
        return f"{' × '.join(map(str, lengths))} pixels of {self.dtype}{colours}"


def natural_key(name: str) -> tuple[tuple[str, int], ...]:
    """Return the key for natural order: s_2 before s_10, in any Unicode form."""
    parts = _DIGITS.split(normalized_name(name).casefold())
    return tuple((part, -1) if place % 2 == 0 else ("", int(part)) for place, part in enumerate(parts))


def is_pattern(path: Path) -> bool:
    """Return whether `path` is a pattern of the names of slices, such as sections/s_*.tif, and no file."""
    return bool(_WILD.search(path.name)) and not os.path.lexists(path) and path.parent.is_dir()


def files_matching(path: Path) -> list[Path]:
    """Return the image files that a pattern in the last part of a path names, in natural order.

    Raises:
        FileError: there are none.
    """
    expression = re.escape(normalized_name(path.name)).replace(r"\*", ".*").replace(r"\?", ".")
    names = [name for name in _image_names(path.parent) if re.fullmatch(expression, normalized_name(name), re.DOTALL)]
    if not names:
        raise FileError(f"No image in '{path.parent}' matches '{path.name}': check the pattern.")
    return [path.parent / name for name in names]


def holds_slices(folder: Path) -> bool:
    """Return whether a folder has at least one image file that may be a slice."""
    try:
        return folder.is_dir() and bool(_image_names(folder))
    except FileError:
        return False


def slice_names(folder: Path) -> list[str]:
    """Return the names of the slices in a folder, in natural order, without sidecars, hidden files and our results.

    Raises:
        FileError: it contains no image, or cannot be read.
        InputError: the files are named like those of several stacks.
    """
    names = _image_names(folder)
    if not names:
        raise FileError(f"'{folder}' {_NO_STACK}.")
    _check_names(folder, names)
    return names


def _image_names(folder: Path) -> list[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if Path(entry.name).suffix.lower() in _ENDINGS]
    except OSError as error:
        raise FileError(f"The folder '{folder}' cannot be read ({error.strerror}): check your permission.") from error
    files = [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    return sorted([name for name in files if not RESULT_FILE.search(name)] or files, key=natural_key)


def _check_names(folder: Path, names: Sequence[str]) -> None:
    """Raise if a name does not belong to the numbered slices of one stack."""
    if not any(_DIGITS.search(Path(name).stem) for name in names):
        pattern = folder / f"*{Path(names[0]).suffix}"
        raise InputError(f"'{folder}' {_NO_STACK} ('{names[0]}' has no number; '{pattern}' takes it all the same).")
    stems = Counter(normalized_name(Path(name).stem).casefold() for name in names)
    twice = next((stem for stem, count in stems.items() if count > 1), None)
    if twice is not None:
        first, second = [name for name in names if normalized_name(Path(name).stem).casefold() == twice][:2]
        raise _both_one_slice(folder, first, second)
    shapes = {name: _DIGITS.sub("#", normalized_name(Path(name).stem).casefold()) for name in names}
    counts = Counter(shapes.values())
    if len(counts) == 1:
        _check_one_number(folder, names)
        return
    usual = max(counts, key=lambda shape: (counts[shape], "#" in shape))
    like = next(name for name in names if shapes[name] == usual)
    other = next(name for name in names if shapes[name] != usual)
    raise InputError(
        f"'{other}' in '{folder}' is not named like the other slices ('{like}'): move it elsewhere, or give the slices "
        f"by a pattern such as '{folder / _DIGITS.sub('*', like, count=1)}'."
    )


def _check_one_number(folder: Path, names: Sequence[str]) -> None:
    """Raise if no number in the names is different for all slices: two things are numbered, such as channels too."""
    columns = _numbers(names)
    rows = list(zip(*columns, strict=True))
    twice = next((row for row, count in Counter(rows).items() if count > 1), None)
    if twice is not None:
        first, second = [name for name, row in zip(names, rows, strict=True) if row == twice][:2]
        raise _both_one_slice(folder, first, second)
    if any(len(set(column)) == len(names) for column in columns) or _are_decimals(names):
        return
    raise InputError(
        f"The files in '{folder}' are numbered by two numbers ('{names[0]}', '{names[-1]}'): give those of one stack "
        f"by a pattern such as '{folder / _DIGITS.sub('*', names[0], count=1)}'."
    )


def _both_one_slice(folder: Path, first: str, second: str) -> InputError:
    return InputError(f"'{first}' and '{second}' in '{folder}' are both one slice: leave one of them there.")


def _are_decimals(names: Sequence[str]) -> bool:
    """Return whether the only number that varies is a decimal such as 0.25, always with as many digits."""
    parts = [_DECIMAL.findall(Path(name).stem) for name in names]
    columns = list(zip(*parts, strict=True)) if len(set(map(len, parts))) == 1 else []
    varying = [column for column in columns if len(set(column)) > 1]
    rest = {_DIGITS.sub("#", _DECIMAL.sub("", Path(name).stem)) for name in names}
    if len(varying) != 1 or len(rest) > 1:
        return False
    return len({len(number.partition(".")[2]) for number in varying[0]}) == 1


def _numbers(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the first, second, … number of all names, which are the same except for their numbers."""
    found = [tuple(int(digits) for digits in _DIGITS.findall(Path(name).stem)) for name in names]
    return list(zip(*found, strict=True)) if len({len(numbers) for numbers in found}) == 1 else []


def gaps_in(names: Sequence[str]) -> str:
    """Return a sentence on numbers that are missing in the names of slices, at the beginning too; "" = none is."""
    varying = [column for column in _numbers(names) if len(set(column)) > 1]
    if len(varying) != 1 or len(names) < 2:
        return ""
    numbers = varying[0]
    steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    usual = min(Counter(steps).items(), key=lambda item: (-item[1], item[0]))[0]
    if usual < 1:
        return ""
    begins = f"the numbers begin at {numbers[0]} ({names[0]})" if numbers[0] > max(1, usual) else ""
    gaps = [place for place, step in enumerate(steps) if step > usual]
    sentences = [_gap(numbers[place] + usual, numbers[place + 1] - usual, names[place : place + 2]) for place in gaps]
    if not sentences:
        return f"T{begins[1:]}: check whether earlier sections are missing." if begins else ""
    more = [f"and {len(sentences) - _MOST_GAPS} more gaps"] if len(sentences) > _MOST_GAPS else []
    listed = ", ".join([*sentences[:_MOST_GAPS], *more, *([f"and {begins}"] if begins else [])])
    return f"{listed}; the slices that are there were taken one behind the other.".replace("section", "Section", 1)


def _gap(first: int, last: int, between: Sequence[str]) -> str:
    which = f"section {first} is" if first == last else f"sections {first} to {last} are"
    return f"{which} missing between {between[0]} and {between[1]}"


def read_slices(
    folder: Path,
    names: Sequence[str],
    read: SliceReader,
    given: GivenSpace = NOTHING_GIVEN,
) -> Stack:
    """Return the files `names` of a folder as one stack: planes become slices, volumes become times.

    read: opens one file. All headers are checked; voxels are read on demand. The voxel size is that of the first file;
    if it has none along z, z takes y's size.

    Raises:
        FileError: a file is missing, damaged or no image.
        InputError: a file has a different shape or type than the first.
    """
    first = read(folder / names[0])
    notes = list(first.notes)
    if len(names) > 1:
        different = _compare_headers(folder, names, read)
        notes += different if given.voxel_size is None else []
    if "T" in first.space.axes and "Z" in first.space.axes:
        raise InputError(
            f"'{names[0]}' in '{folder}' has the axes {first.space.axes}: a stack of files takes a slice, or a volume, "
            "from each of them."
        )
    added = "T" if "Z" in first.space.axes else "Z"
    array = SliceArray(folder, names, read, first)
    notes += _notes(names, first, added)
    scales = _scales_of(first)
    named = list(zip(added + first.space.axes, array.shape, strict=True))
    by_axis = tuple(scales.get(letter, AxisScale()) for letter, _ in named)
    found = FileImage(folder, folder.name, named, lambda _: array, by_axis, scales, notes=tuple(notes))
    stack = stack_from_file_image(found, given)
    if added == "Z" and given.voxel_size is None and "Z" not in scales and stack.space.has_size:
        y = f"{stack.space.size_along('Y'):g} {stack.space.unit}"
        note = f"The files do not contain the distance of the slices: {y} was taken, as along y; if that is wrong"
        stack = replace(stack, notes=(*stack.notes, f"{note}, {GIVE_SIZE}."))
    return replace(stack, slice_names=tuple(names))


def _scales_of(first: Stack) -> dict[str, AxisScale]:
    """Return the scales of the first slice. A z of 1 means that its file has none."""
    space = first.space
    if not space.has_size and set(space.voxel_size) == {1.0}:
        return {}
    return {
        axis: AxisScale(space.size_along(axis), space.unit, space.origin_along(axis))
        for axis in "ZYX"
        if axis in space.axes or space.size_along(axis) != 1.0
    }


def _notes(names: Sequence[str], first: Stack, added: str) -> list[str]:
    notes = []
    if added == "T" and len(names) > 1:
        notes.append(
            f"Each of the {len(names)} files contains a volume ({first.space.axes}): they were taken as times."
        )
    if gap := gaps_in(names):
        notes.append(gap)
    if len(names) > 1 and not any(_DIGITS.search(Path(name).stem) for name in names):
        notes.append(f"The names of the files contain no numbers: they were sorted by name, '{names[0]}' first.")
    return notes


def _compare_headers(folder: Path, names: Sequence[str], read: SliceReader) -> list[str]:
    """Return a note if the voxel sizes differ; only headers are read.

    Raises:
        InputError: a file has a different shape or type than most.
        FileError: one cannot be opened.
    """
    headers = {name: _header(folder / name, read) for name in names}
    shapes = {name: shape for name, (shape, _) in headers.items()}
    usual = Counter(shapes.values()).most_common(1)[0][0]
    other = next((name for name in names if shapes[name] != usual), None)
    if other is not None:
        like = next(name for name in names if shapes[name] == usual)
        raise InputError(
            f"'{other}' in '{folder}' has {shapes[other].describe()}, but '{like}' has {usual.describe()}: slices of "
            "one stack must be alike; move it elsewhere, or export it again."
        )
    other = next((name for name, (_, scale) in headers.items() if scale != headers[names[0]][1]), None)
    return [f"'{other}' has a different voxel size than '{names[0]}'; that was taken for all."] if other else []


def _header(path: Path, read: SliceReader) -> tuple[SliceShape, object]:
    """Return the shape and type of a slice, and the voxel size in its header."""
    check_regular(path)
    if path.suffix.lower() in pictures.PICTURE_ENDINGS:
        return SliceShape(*pictures.picture_header(path)), None
    if mrc.is_mrc(path) or path.is_dir():
        stack = read(path)
        height, width = stack.length("Y"), stack.length("X")
        planes = stack.length("Z") * stack.length("T")
        shape = SliceShape(height, width, 1, np.dtype(stack.data.dtype).name, planes)
        return shape, (stack.space.voxel_size, stack.space.unit)
    with read_errors_as_sentences(path), first_page(path) as (page, planes):
        dtype = "unknown" if page.dtype is None else page.dtype.name
        scale = tuple(page.tags.valueof(tag) for tag in RESOLUTION)
        return SliceShape(page.imagelength, page.imagewidth, page.samplesperpixel, dtype, planes), scale


class SliceArray(LazyArray):
    """The slices of a stack along the first axis, each read from its file on demand.

    Several threads may read at once. chunks: the shape of what is read as one.
    """

    def __init__(self, folder: Path, names: Sequence[str], read: SliceReader, first: Stack) -> None:
        self.shape = (len(names), *first.shape)
        self.dtype = np.dtype(first.data.dtype)
        self.chunks = (1, *first.shape)
        self._folder, self._names, self._read_file = folder, tuple(names), read
        self._open: OrderedDict[int, Stack] = OrderedDict({0: first})
        size = max(1, int(np.prod(first.shape)) * self.dtype.itemsize)
        kept = max(_KEPT, int(KEPT_SHARE * psutil.virtual_memory().available))
        self._most = max(1, min(MOST_OPEN, kept // size))
        self._lock = threading.RLock()

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        first, inner = index[0], index[1:]
        if isinstance(first, int):
            return self._slice(first, inner)
        numbers = range(self.shape[0])[first]
        lengths = [len(range(n)[p]) for p, n in zip(inner, self.shape[1:], strict=True) if isinstance(p, slice)]
        with read_errors_as_sentences(self._folder, "The part requested of"):
            values = np.empty((len(numbers), *lengths), self.dtype)
        for place, number in enumerate(numbers):
            values[place] = self._slice(number, inner)
        return values

    def _slice(self, number: int, inner: tuple[int | slice, ...]) -> NDArray[Any]:
        with self._lock:
            stack = self._stack(number)
        return np.asarray(stack.data[inner], self.dtype)

    def _stack(self, number: int) -> Stack:
        """Return the opened file of a slice; the last ones are kept."""
        if number not in self._open:
            path = self._folder / self._names[number]
            stack = self._read_file(path)
            if stack.shape != self.shape[1:] or np.dtype(stack.data.dtype) != self.dtype:
                raise FileError(f"'{path}' has a different shape or type than the first slice: export it again.")
            self._open[number] = stack
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]
