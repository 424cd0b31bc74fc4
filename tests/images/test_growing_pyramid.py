"""The pyramid that grows while chunks are written has the bytes of one that is made at the end, and is never old."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

from napari_skipseg.errors import FileError
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr import growing_pyramid
from napari_skipseg.images.zarr.chunk_writer import ChunkWriter
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import create_ome_zarr
from napari_skipseg.progress import run_to_end


def layout(kind="image", dtype="uint8", shape=(3, 1101, 1030), chunks=(2, 256, 256)):
    return Layout(shape, Space("ZYX", (8.0, 4.0, 4.0), "nm"), dtype, chunks, kind)


def noise(told):
    values = np.random.default_rng(0).random(told.shape) * (3 if told.kind == "labels" else 200)
    return values.astype(told.dtype)


def parts(told):
    """Return regions of one or several whole chunks each, such as tiles keep."""
    sides = (
        [slice(start, min(start + 2 * chunk, length)) for start in range(0, length, 2 * chunk)]
        for length, chunk in zip(told.shape, told.chunks, strict=True)
    )
    return list(product(*sides))


def chunks_of(path, levels="0123"):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for level in levels
        for file in sorted((path / level / "c").rglob("*"))
        if file.is_file()
    }


def at_the_end(path, told):
    writer = create_ome_zarr(path, told, grows=False)
    for part in parts(told):
        writer.write(part, noise(told)[part])
    assert not chunks_of(path, "12")
    run_to_end(writer.iter_pyramid())
    return chunks_of(path)


@pytest.mark.parametrize(
    ("kind", "dtype", "order"),
    [
        ("image", "uint8", "in order"),
        ("image", "float32", "shuffled"),
        ("labels", "uint8", "shuffled"),
        ("image", "uint8", "by threads"),
    ],
)
def test_it_has_the_bytes_of_one_that_is_made_at_the_end_and_nothing_is_read_back(
    tmp_path, monkeypatch, kind, dtype, order
):
    told = layout(kind, dtype)
    wanted = at_the_end(tmp_path / "end.zarr", told)
    assert len(told.levels) == 3
    monkeypatch.setattr(ChunkWriter, "read", None)
    writer, values, regions = create_ome_zarr(tmp_path / "a.zarr", told), noise(told), parts(told)
    if order != "in order":
        np.random.default_rng(1).shuffle(regions)
    with ThreadPoolExecutor(4 if order == "by threads" else 1) as threads:
        list(threads.map(lambda part: writer.write(part, values[part]), regions))
    assert chunks_of(tmp_path / "a.zarr") == wanted
    run_to_end(writer.iter_pyramid())
    assert chunks_of(tmp_path / "a.zarr") == wanted
    assert len(writer.take_unsynced()) == len(wanted) + 4


def test_what_does_not_fit_into_memory_is_made_at_the_end(tmp_path, monkeypatch):
    told = layout()
    wanted = at_the_end(tmp_path / "end.zarr", told)
    monkeypatch.setattr(growing_pyramid, "MOST_WAITING", 2 * 2 * 256**2)
    writer, regions = create_ome_zarr(tmp_path / "a.zarr", told), parts(told)
    np.random.default_rng(1).shuffle(regions)
    for part in regions:
        writer.write(part, noise(told)[part])
        assert sum(each.values.nbytes for each in writer._pyramid._waiting.values()) <= 2 * 2 * 256**2
    before = chunks_of(tmp_path / "a.zarr")
    assert before.items() < wanted.items()
    run_to_end(writer.iter_pyramid())
    assert chunks_of(tmp_path / "a.zarr") == wanted


def test_a_chunk_that_is_written_again_takes_those_made_from_it_away(tmp_path):
    told = layout()
    writer = create_ome_zarr(tmp_path / "a.zarr", told)
    values = noise(told)
    for part in parts(told):
        writer.write(part, values[part])
    for again in (writer, create_ome_zarr(tmp_path / "a.zarr", told)):
        first = parts(told)[0]
        values[first] = 255 - values[first]
        again.write(first, values[first])
        assert "2/c/0/0/0" not in chunks_of(tmp_path / "a.zarr")
        assert {"1/c/0/0/0", "1/c/0/2/2"} < chunks_of(tmp_path / "a.zarr").keys()  # the first was made anew
        run_to_end(again.iter_pyramid())
    other = create_ome_zarr(tmp_path / "b.zarr", told)
    for part in parts(told):
        other.write(part, values[part])
    assert chunks_of(tmp_path / "a.zarr") == chunks_of(tmp_path / "b.zarr")


def test_a_chunk_that_is_written_twice_counts_once(tmp_path):
    told = layout()
    wanted = at_the_end(tmp_path / "end.zarr", told)
    writer, values = create_ome_zarr(tmp_path / "a.zarr", told), noise(told)
    for part in [*parts(told)[:2], *parts(told)[:-1]]:
        writer.write(part, values[part])
    assert "2/c/1/0/0" not in chunks_of(tmp_path / "a.zarr")
    writer.write(parts(told)[-1], values[parts(told)[-1]])
    assert chunks_of(tmp_path / "a.zarr") == wanted


def test_what_was_written_before_is_read_at_the_end_so_that_damage_is_found(tmp_path):
    told = layout()
    writer, values = create_ome_zarr(tmp_path / "a.zarr", told), noise(told)
    for part in parts(told):
        writer.write(part, values[part])
    wanted = chunks_of(tmp_path / "a.zarr")
    later = create_ome_zarr(tmp_path / "a.zarr", told)
    later.leave_out(parts(told)[0])
    damaged = tmp_path / "a.zarr" / "0" / "c" / "0" / "0" / "0"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FileError, match=r"Level 0 of .* is damaged"):
        run_to_end(later.iter_pyramid())
    damaged.write_bytes(content)
    run_to_end(later.iter_pyramid())
    assert chunks_of(tmp_path / "a.zarr") == wanted
