"""What lies on disk after a segmentation, and what does not after a failed one."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tifffile
import zarr
from full_disk import full_disk
from run_files import whole

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.formats import Format
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.inference.prediction import AttentionMap, Prediction, QuantizedArray, binarize, to_uint8
from napari_skipseg.inference.saving import check_replaceable, plain_name, save_prediction, scratch_folder

RNG = np.random.default_rng(1)


def make_prediction(classes: int = 1) -> Prediction:
    shape = (3, 20, 32)
    probability = RNG.random((classes, *shape) if classes > 1 else shape).astype(np.float32)
    coarse = AttentionMap(3, (1, 4, 4), RNG.random((3, 5, 8)).astype(np.float32))
    return Prediction(
        probability,
        Space("CZYX" if classes > 1 else "ZYX", (50.0, 4.0, 8.0), "nm", (100.0, 20.0, 30.0)),
        ("membrane", "mitochondrion")[:classes],
        (AttentionMap(1, (1, 1, 1), RNG.random(shape).astype(np.float32)), coarse),
        {"operation": "segment", "tile": (64, 64), "options": {"average": 1}},
    )


def test_files_have_names_types_and_values(tmp_path: Path) -> None:
    prediction = make_prediction()
    written = save_prediction(prediction, tmp_path / "new" / "results", "cells", 0.3)
    assert [file.name for file in written] == [
        "cells_probability.tif",
        "cells_binary.tif",
        "cells_attention_1.tif",
        "cells_attention_3.tif",
    ]
    recipe = tmp_path / "new" / "results" / "cells_recipe.json"
    assert sorted(tmp_path.joinpath("new", "results").iterdir()) == sorted([*written, recipe])
    probability, binary, fine, coarse = map(whole, written)
    assert {array.dtype for array in (probability, binary, fine, coarse)} == {np.dtype("uint8")}
    np.testing.assert_array_equal(probability, np.round(prediction.probability * 255))
    np.testing.assert_array_equal(binary, prediction.probability > 0.3)
    np.testing.assert_array_equal(coarse, to_uint8(prediction.attentions[1].data))


def test_files_lie_where_the_stack_lies(tmp_path: Path) -> None:
    stacks = [read_stack(file) for file in save_prediction(make_prediction(), tmp_path, "cells")]
    assert {stack.space.unit for stack in stacks} == {"nm"}
    assert [stack.space.voxel_size for stack in stacks] == [*[(50.0, 4.0, 8.0)] * 3, (50.0, 16.0, 32.0)]
    assert [stack.space.origin for stack in stacks] == [*[(100.0, 20.0, 30.0)] * 3, (100.0, 26.0, 42.0)]


def test_float32_is_stored_as_it_is(tmp_path: Path) -> None:
    prediction = make_prediction()
    probability, binary, *attentions = map(whole, save_prediction(prediction, tmp_path, "cells", dtype="float32"))
    np.testing.assert_array_equal(probability, prediction.probability)
    np.testing.assert_array_equal(attentions[1], prediction.attentions[1].data)
    assert probability.dtype == attentions[0].dtype == np.float32
    assert binary.dtype == np.uint8


def test_shares_are_read_as_the_files_hold_them(tmp_path: Path) -> None:
    values = make_prediction().probability
    probability, *_ = save_prediction(replace(make_prediction(), probability=values), tmp_path, "cells")
    stored = QuantizedArray(values, "uint8")
    assert (stored.shape, stored.dtype) == (values.shape, np.uint8)
    np.testing.assert_array_equal(np.asarray(stored), whole(probability))
    np.testing.assert_array_equal(stored[1, ..., 3:5], whole(probability)[1, ..., 3:5])
    np.testing.assert_array_equal(QuantizedArray(values, "float32")[...], values)


@pytest.mark.parametrize("form", get_args(Format))
@pytest.mark.parametrize("results", [["probability"], ["attention_1"], ["attention_3", "binary"], None])
def test_what_is_chosen_is_saved_in_each_format_and_nothing_else(
    tmp_path: Path, form: Format, results: list[str] | None
) -> None:
    prediction = make_prediction()
    every = save_prediction(prediction, tmp_path / "every", "cells", 0.3)
    names = results or ["probability", "binary", "attention_1", "attention_3"]
    written = save_prediction(prediction, tmp_path / "out", "cells", 0.3, form=form, results=results)
    ending = {"tiff": ".tif", "ome-zarr": ".ome.zarr"}[form]
    assert sorted(file.name for file in written) == sorted(f"cells_{name}{ending}" for name in names)
    assert sorted((tmp_path / "out").iterdir()) == sorted([*written, tmp_path / "out" / "cells_recipe.json"])
    tiff = {file.stem: file for file in every}
    for file in written:
        like, stack = read_stack(tiff[file.name.removesuffix(ending)]), read_stack(file)
        np.testing.assert_array_equal(whole(file), whole(tiff[file.name.removesuffix(ending)]))
        assert (stack.axes, stack.voxel_size, stack.unit, stack.origin) == (
            like.axes,
            like.voxel_size,
            like.unit,
            like.origin,
        )
        recipe = read_recipe(file)
        assert recipe is not None
        assert recipe["options"]["threshold"] == 0.3


def test_several_classes_are_channels_with_names(tmp_path: Path) -> None:
    prediction = make_prediction(2)
    probability, binary, *_ = save_prediction(prediction, tmp_path, "cells", 0.6)
    assert read_stack(probability).space.axes == "CZYX"
    np.testing.assert_array_equal(whole(probability), to_uint8(prediction.probability))
    best = prediction.probability.argmax(axis=0) + 1
    np.testing.assert_array_equal(whole(binary), np.where(prediction.probability.max(axis=0) > 0.6, best, 0))
    with tifffile.TiffFile(probability) as file:
        assert "mitochondrion" in (file.ome_metadata or "")


def test_the_recipe_can_be_read_from_every_file(tmp_path: Path) -> None:
    files = save_prediction(make_prediction(), tmp_path, "cells", 0.25)
    for file in files:
        recipe = dict(read_recipe(file) or {})
        assert recipe.pop("layer", "image") == ("labels" if "binary" in file.name else "image")
        assert recipe == {
            "operation": "segment",
            "tile": [64, 64],
            "options": {"average": 1, "threshold": 0.25, "class_threshold": []},
            "depth": "uint8",
            "form": "tiff",
        }
    assert json.loads((tmp_path / "cells_recipe.json").read_bytes()) == recipe


def test_the_same_prediction_gives_the_same_bytes(tmp_path: Path) -> None:
    prediction = make_prediction()
    first, second = (save_prediction(prediction, tmp_path / place, "cells") for place in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


@pytest.mark.parametrize("failing", [1, 2, 4])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    calls = []
    write = tifffile.TiffWriter.write

    def full(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *given, **named)

    (tmp_path / "cells_binary.tif").write_bytes(b"of yesterday")
    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(FileError, match="no space left"):
        save_prediction(make_prediction(), tmp_path, "cells")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"cells_binary.tif": b"of yesterday"}


def test_a_failed_run_takes_the_folders_along_that_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tifffile.TiffWriter, "write", full_disk)
    with pytest.raises(FileError):
        save_prediction(make_prediction(), tmp_path / "a" / "b", "cells")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("notes")
    with pytest.raises(FileError, match="choose a different folder"):
        save_prediction(make_prediction(), tmp_path / "results", "cells")
    assert (tmp_path / "results").read_text() == "notes"


def test_a_scratch_folder_is_gone_whatever_ends_it(tmp_path: Path) -> None:
    def stopped_in(folder: Path) -> None:
        with scratch_folder(folder) as scratch:
            (scratch / "half.npy").write_bytes(b"0")
            raise KeyboardInterrupt

    for folder in (tmp_path / "new" / "out", tmp_path):
        with pytest.raises(KeyboardInterrupt):
            stopped_in(folder)
        assert list(tmp_path.iterdir()) == []


def test_only_what_is_ours_is_replaced(tmp_path: Path) -> None:
    store, file = tmp_path / "ours.ome.zarr", tmp_path / "ours.tif"
    write_ome_zarr(store, RNG.random((4, 5)).astype(np.float32), Layout((4, 5), Space("YX"), "float32"))
    write_ome_tiff(
        file, np.zeros((4, 5), np.uint8), Space("YX", (1, 1, 1), "pixel"), description={"operation": "segment"}
    )
    text, picture = tmp_path / "notes.tif", tmp_path / "theirs.tif"
    text.write_text("of ten years")
    tifffile.imwrite(picture, np.zeros((4, 5), np.uint8))
    check_replaceable([file, tmp_path / "missing.tif"], "tiff")
    check_replaceable([store, tmp_path / "missing.ome.zarr"], "ome-zarr")
    foreign = tmp_path / "theirs.ome.zarr"
    zarr.create_array(foreign, shape=(4, 5), dtype="u1")
    tiffs = [(target, "tiff") for target in (store, tmp_path, text, picture)]
    for target, form in (*tiffs, (file, "ome-zarr"), (foreign, "ome-zarr")):
        with pytest.raises(FileError, match=f"{target.name}' is there already and not ours: choose a different folder"):
            check_replaceable([target], form)


def test_names_lose_their_endings() -> None:
    names = {"a.tif": "a", "x.ome.zarr": "x", "b.ome.tif": "b", "c.OME.TIFF": "c", "d.v2.tif": "d.v2", "e": "e"}
    assert {name: plain_name(name) for name in names} == names


def test_binary_labels_are_lazy() -> None:
    class Watched:
        shape, dtype, ndim, read = (50, 16, 16), np.dtype("float32"), 3, 0

        def __getitem__(self, key: Any) -> Any:
            part = values[key]
            self.read += part.size
            return part

    values = RNG.random((50, 16, 16)).astype(np.float32)
    watched: Any = Watched()
    labels = binarize(watched, 0.5, has_class_axis=False)
    assert (labels.shape, labels.dtype, watched.read) == ((50, 16, 16), np.uint8, 0)
    np.testing.assert_array_equal(np.asarray(labels[7]), values[7] > 0.5)
    assert watched.read == 16 * 16


def test_a_probability_at_the_threshold_is_background() -> None:
    row = np.array([[0.0, 0.5, 0.50001, 1.0]], np.float32)
    assert binarize(row, 0.5, has_class_axis=False).compute().tolist() == [[0, 0, 1, 1]]
    both = np.stack([row, 1 - row])
    assert binarize(both, 0.5, has_class_axis=True).compute().tolist() == [[2, 0, 1, 1]]


def test_probabilities_become_bytes_by_rounding() -> None:
    assert to_uint8(np.array([0, 0.5 / 255 - 1e-5, 0.5, 1], np.float32)).tolist() == [0, 0, 128, 255]
