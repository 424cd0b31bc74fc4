"""Stacks written to .npy files, slice by slice, and arrays that lie in such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from chosen_cases import pairs_first

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.jobs import encoding
from napari_skipseg.jobs.encoding import find_npy_file, iter_write_npy
from napari_skipseg.progress import run_to_end


def make_stack(shape: tuple[int, ...], axes: str, dtype: str) -> Stack:
    return Stack(np.random.default_rng(0).integers(0, 256, shape).astype(dtype), Space(axes))


class Counting(LazyArray):
    """An array that remembers the largest part it was requested."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values, self.shape, self.dtype, self.largest = values, values.shape, values.dtype, 0

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        part = self.values[index]
        self.largest = max(self.largest, part.nbytes)
        return part


SHAPES = {"YX": (9, 7), "YXC": (9, 7, 3), "ZYX": (4, 9, 7), "TCZYX": (2, 3, 4, 9, 7), "YXT": (9, 7, 5)}


@pytest.mark.parametrize(
    ("axes", "dtype", "largest"), pairs_first(SHAPES, ["uint8", ">u2", "float32", "bool"], [2**28, 50, 1])
)
def test_copy_is_the_image(
    axes: str, dtype: str, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "LARGEST_PART", largest)
    stack = make_stack(SHAPES[axes], axes, dtype)
    run_to_end(iter_write_npy(stack, tmp_path / "input.npy"))
    copied = np.load(tmp_path / "input.npy")
    assert copied.dtype == stack.data.dtype
    np.testing.assert_array_equal(copied, stack.data)


@pytest.mark.parametrize(("axes", "part"), [("ZYX", 40 * 50), ("YXC", 2000)])
def test_copy_reads_a_slice_at_a_time(axes: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "LARGEST_PART", 2000)
    data = Counting(np.zeros((30, 40, 50), np.uint8))
    run_to_end(iter_write_npy(Stack(data, Space(axes)), tmp_path / "input.npy"))
    assert data.largest <= part


def test_lazy_image_is_copied(tmp_path: Path) -> None:
    stack = Stack(dask.array.arange(24, chunks=5).reshape(2, 3, 4), Space("ZYX"))
    run_to_end(iter_write_npy(stack, tmp_path / "input.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "input.npy"), np.arange(24).reshape(2, 3, 4))


def test_image_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    def fail(block: Any) -> Any:
        raise RuntimeError("the file has gone")

    lazy = dask.array.zeros((4, 4), dtype="uint8").map_blocks(fail, dtype="uint8", meta=np.zeros((0, 0), "uint8"))
    with pytest.raises(InputError, match=r"'image' cannot be read \(RuntimeError: the file has gone\)"):
        run_to_end(iter_write_npy(Stack(lazy, Space("YX")), tmp_path / "input.npy"))


def test_an_array_in_a_file_is_recognised_and_its_parts_along_the_first_axis(tmp_path: Path) -> None:
    file = str(tmp_path / "a.npy")
    np.save(file, np.zeros((3, 4, 5)))
    mapped = np.load(file, mmap_mode="r")
    assert find_npy_file(mapped) == (file, None)
    assert find_npy_file(mapped[2]) == (file, 2)
    for other in (mapped[1:], mapped[1, 0], mapped[:, 0], np.asarray(mapped), np.zeros(3)):
        assert find_npy_file(other) == ("", None)
    assert find_npy_file(np.load(file, mmap_mode="c")) == ("", None), "changed in memory, it differs from its file"
    kept = mapped[0]
    (tmp_path / "a.npy").unlink()
    assert find_npy_file(kept) == ("", None), "it is gone"
