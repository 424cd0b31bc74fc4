"""A batch with masks: each image is segmented where its mask is not 0. Results end with the box around the mask."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from batch_folders import SIDE, run, settings_for, states, write_image
from PIL import Image

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.recipes.lookup import read_recipe_file
from napari_skipseg.inference.recipes.repeat import iter_repeat, prepare_repeat
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import read_model
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end

ANGLE = np.zeros((SIDE, SIDE), bool)
ANGLE[5:35, 5:25] = True
ANGLE[5:15, 5:15] = False
UPPER = np.zeros((SIDE, SIDE), bool)
UPPER[: SIDE // 2] = True
BOXES = {"a": np.s_[5:35, 5:25], "b": np.s_[: SIDE // 2]}
"""Around the masks: what results cover."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images; masks of the first and the second."""
    for number, name in enumerate("abc"):
        write_image(tmp_path / "in" / f"{name}.tif", number)
    write_mask(tmp_path / "masks" / "a.png", ANGLE)
    write_mask(tmp_path / "masks" / "b.png", UPPER)
    return tmp_path


def write_mask(file: Path, inside: np.ndarray) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(file)


def values(file: Path) -> np.ndarray:
    return np.asarray(read_stack(file).data)


def test_each_image_is_segmented_in_its_mask_as_alone(folder: Path, tiny: Path) -> None:
    result = run(settings_for(folder / "in", folder / "out", tiny, mask=str(folder / "masks")))
    assert states(result) == {"a.tif": "done", "b.tif": "done", "c.tif": "failed"}
    reasons = [row.reason for row in result.rows if row.state == "failed"]
    assert "no mask of this name" in reasons[0]
    for name, mask in (("a", ANGLE), ("b", UPPER)):
        found = values(result.folder / f"{name}_probability.tif")
        np.testing.assert_array_equal(found > 0, mask[BOXES[name]])
        options = SegmentOptions(device="cpu", mask=str(folder / "masks" / f"{name}.png"))
        target = FolderTarget(folder / "alone", name)
        alone = run_to_end(
            iter_segment(RunSpec(read_stack(folder / "in" / f"{name}.tif"), read_model(tiny), options), target)
        )
        np.testing.assert_array_equal(found, values(alone[0]))
        recipe = read_recipe(result.folder / f"{name}_probability.tif")
        assert [Path(each["file"]).name for each in recipe["inputs"]] == [f"{name}.tif", f"{name}.png"]


def test_masks_have_a_folder_of_results_of_their_own(folder: Path, tiny: Path) -> None:
    plain = settings_for(folder / "in", folder / "out", tiny)
    masked = settings_for(folder / "in", folder / "out", tiny, mask=str(folder / "masks"))
    assert plain.run_name({}) != masked.run_name({})


def test_a_mask_that_changed_is_noticed_and_others_are_skipped(folder: Path, tiny: Path) -> None:
    settings = settings_for(folder / "in", folder / "out", tiny, mask=str(folder / "masks"))
    run(settings)
    write_mask(folder / "masks" / "a.png", UPPER)
    result = run(settings)
    assert states(result) == {"a.tif": "done", "b.tif": "skipped", "c.tif": "failed"}
    np.testing.assert_array_equal(values(result.folder / "a_probability.tif") > 0, UPPER[BOXES["b"]])


def test_one_file_is_the_mask_of_all_images(folder: Path, tiny: Path) -> None:
    settings = settings_for(folder / "in", folder / "out", tiny, mask=str(folder / "masks" / "a.png"))
    result = run(settings)
    assert set(states(result).values()) == {"done"}
    for name in "abc":
        np.testing.assert_array_equal(values(result.folder / f"{name}_probability.tif") > 0, ANGLE[BOXES["a"]])


@pytest.mark.parametrize("method", ["components", "cells"])
def test_objects_lie_in_the_mask(folder: Path, tiny: Path, method: str) -> None:
    objects = ObjectOptions(method=method, planes="slices", threshold=0.2)
    mask = str(folder / "masks" / "a.png")
    result = run(settings_for(folder / "in", folder / "out", tiny, objects=objects, mask=mask))
    found = values(result.folder / "a_objects.tif")
    assert found.any()
    assert not found[~ANGLE[BOXES["a"]]].any()
    table = (result.folder / "a_objects.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(table) == 1 + len(np.unique(found[found > 0]))
    (recipe,) = [read_recipe_file(file) for file in result.folder.glob("a_recipe.json")]
    again = run_to_end(iter_repeat(prepare_repeat(recipe, model=str(tiny), near=folder), folder / "again"))
    np.testing.assert_array_equal(values(next(file for file in again if "objects.tif" in file.name)), found)


def empty(file: Path) -> None:
    write_mask(file, np.zeros((SIDE, SIDE), bool))


def smaller(file: Path) -> None:
    Image.fromarray(np.ones((SIDE // 2, SIDE), np.uint8)).save(file)


def colours(file: Path) -> None:
    Image.fromarray(np.ones((SIDE, SIDE, 3), np.uint8)).save(file)


@pytest.mark.parametrize(
    ("make", "words"), [(empty, "is 0 everywhere"), (smaller, "give a mask of the image's shape"), (colours, "colours")]
)
def test_a_mask_that_cannot_be_used_is_the_fault_of_its_image_alone(
    folder: Path, tiny: Path, make: Callable[[Path], None], words: str
) -> None:
    make(folder / "masks" / "a.png")
    result = run(settings_for(folder / "in", folder / "out", tiny, mask=str(folder / "masks")))
    rows = {row.relative: row for row in result.rows}
    assert (rows["a.tif"].state, rows["b.tif"].state) == ("failed", "done")
    assert words in rows["a.tif"].reason


def test_masks_that_are_not_there_are_said_before_the_start(folder: Path, tiny: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        run(settings_for(folder / "in", folder / "out", tiny, mask=str(folder / "nothing")))
