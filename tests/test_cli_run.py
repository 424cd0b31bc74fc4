"""`napari-skipseg run`: a recipe again from the shell, or one sentence that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Ran
from run_files import files_in
from tiny_models import write_tiny

import napari_skipseg as skipseg
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.models.catalog import MODELS_VARIABLE

PLACE = ((50.0, 4.0, 4.0), "nm")


Run = Callable[..., Ran]


def edit(file: Path, **changes: Any) -> None:
    """Change values of a recipe; `inputs_0_file` is that of its first input."""
    told = json.loads(file.read_bytes())
    for name, value in changes.items():
        place, key = (told["inputs"][0], name[9:]) if name.startswith("inputs_0_") else (told, name)
        place[key] = {**place[key], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(told))


def grey(seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 40, 50)).astype(np.uint8)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    write_tiny(folder / "tiny")
    monkeypatch.setenv(MODELS_VARIABLE, str(folder))
    return folder


pytestmark = pytest.mark.usefixtures("only_torch", "library")


@pytest.fixture
def recipe(run: Run, tmp_path: Path) -> Path:
    """The recipe of a run with options of its own."""
    write_ome_tiff(tmp_path / "cells.tif", grey(), Space("ZYX", *PLACE))
    options = ["--model", "tiny", "--threshold", 0.45, "--average", 4, "--attention", "--dtype", "float32"]
    ran = run("segment", tmp_path / "cells.tif", tmp_path / "out", *options)
    assert (ran.code, ran.err) == (0, "")
    return tmp_path / "out" / "cells_recipe.json"


def test_the_same_recipe_gives_the_same_bytes(run: Run, recipe: Path, tmp_path: Path) -> None:
    ran = run("run", recipe, tmp_path / "second")
    assert (ran.code, ran.err) == (0, "")
    kinds = ("probability", "binary", "uncertainty", "attention_1")
    assert [file.name for file in ran.files] == [f"cells_{kind}.tif" for kind in kinds]
    assert files_in(tmp_path / "second") == files_in(recipe.parent)


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_a_result_that_bears_a_recipe_will_do(run: Run, recipe: Path, tmp_path: Path, form: str) -> None:
    ran = run("segment", tmp_path / "cells.tif", tmp_path / form, "--model", "tiny", "--format", form)
    binary = Path(ran.out.splitlines()[1])
    ran = run("run", binary)
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / form / "again" / "cells_recipe.json").read_bytes() == (
        tmp_path / form / "cells_recipe.json"
    ).read_bytes()
    np.testing.assert_array_equal(read_stack(Path(ran.out.splitlines()[1])).data[...], read_stack(binary).data[...])


def test_other_images_are_segmented_with_the_same_settings(run: Run, recipe: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.tif", "b.tif")):
        write_ome_tiff(tmp_path / name, grey(seed), Space("ZYX", *PLACE))
    ran = run("run", recipe, tmp_path / "out", "--input", tmp_path / "a.tif", "--input", tmp_path / "b.tif")
    assert (ran.code, ran.err, len(ran.files)) == (0, "", 8)
    told = [json.loads((tmp_path / "out" / f"{name}_recipe.json").read_bytes()) for name in "ab"]
    assert [each["inputs"][0]["file"] for each in told] == [str(tmp_path / f"{name}.tif") for name in "ab"]
    assert [each["options"]["average"] for each in told] == [4, 4]


def test_recipes_of_one_folder_keep_their_names(run: Run, library: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_ome_tiff(tmp_path / "in" / "a.tif", grey(1), Space("ZYX", *PLACE))
    write_ome_tiff(tmp_path / "in" / "a.tiff", grey(2), Space("ZYX", *PLACE))
    folder = Path(run("batch", tmp_path / "in", tmp_path / "out", "--model", "tiny").out.splitlines()[1])
    for name in ("a.tif", "a.tiff"):
        ran = run("run", folder / f"{name}_recipe.json")
        assert (ran.code, ran.files[0].name) == (0, f"{name}_probability.tif")
        again = folder / "again" / f"{name}_probability.tif"
        assert again.read_bytes() == (folder / again.name).read_bytes()


def test_results_of_another_recipe_are_not_written_over(run: Run, recipe: Path, tmp_path: Path) -> None:
    assert run("run", recipe).code == 0
    before = files_in(recipe.parent / "again")
    edit(recipe, options={"threshold": 0.3})
    ran = run("run", recipe)
    assert (ran.code, "results of a different recipe lie there" in ran.err) == (1, True)
    assert files_in(recipe.parent / "again") == before


@pytest.mark.parametrize(("name", "text"), [("cells_objects.csv", "label,voxels"), ("notes", "some text")])
def test_what_cannot_bear_a_recipe_is_told_what_is_wanted(run: Run, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    ran = run("run", tmp_path / name)
    assert ran.code == 1
    assert "contains no recipe: give a result of SkipSeg's, or the _recipe.json beside it" in ran.err


def test_other_versions_are_a_warning(run: Run, recipe: Path, tmp_path: Path) -> None:
    edit(recipe, versions={"torch": "1.0"})
    ran = run("run", recipe, tmp_path / "second")
    assert ran.code == 0
    assert ran.err.startswith("Warning: The versions differ from the recipe's")
    assert "(was 1.0)" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "has the unknown key 'colour'"),
        ({"model": "gone", "model_sha256": "ab" * 32}, "The model 'gone' (SHA-256 abababababab…) is not here"),
        ({"inputs_0_sha256": "ab" * 32}, "contains a different image now"),
    ],
)
def test_what_cannot_be_repeated_is_refused_in_one_sentence(
    run: Run, recipe: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    edit(recipe, **changes)
    ran = run("run", recipe, tmp_path / "second")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "second").exists()


def test_a_file_without_a_recipe_is_refused(run: Run, recipe: Path, tmp_path: Path) -> None:
    for file, said in ((tmp_path / "cells.tif", "contains no recipe"), (tmp_path / "none.json", "cannot be read")):
        ran = run("run", file)
        assert (ran.code, ran.out) == (1, "")
        assert said in ran.err


def test_a_model_may_have_been_moved(run: Run, recipe: Path, library: Path, tmp_path: Path) -> None:
    (library / "tiny").rename(tmp_path / "elsewhere")
    ran = run("run", recipe, tmp_path / "second")
    assert "is not here: give its folder with --model." in ran.err
    ran = run("run", recipe, tmp_path / "second", "--model", tmp_path / "elsewhere")
    assert ran.code == 0
    assert files_in(tmp_path / "second") == files_in(recipe.parent)


def test_python_runs_a_recipe_too(recipe: Path, tmp_path: Path) -> None:
    first = files_in(recipe.parent)
    written = skipseg.run_recipe(recipe)
    assert [file.parent for file in written] == [recipe.parent / "again"] * 4
    assert files_in(recipe.parent / "again") == first
    edit(recipe, versions={"torch": "1.0"})
    image = grey(3)
    with pytest.warns(UserWarning, match="versions differ from"):
        written = skipseg.run_recipe(recipe, tmp_path / "second", image=image)
    expected = skipseg.segment(image, "tiny", average=4)
    np.testing.assert_array_equal(read_stack(written[0]).data[...], expected.probability)


# ----------------------------------------------------------------------------------------------------------- objects


@pytest.fixture
def found(run: Run, recipe: Path, tmp_path: Path) -> Path:
    """The folder with objects that were found in a probability, and whose grey values were measured."""
    flags = ["--method", "watershed", "--threshold", 0.4, "--smallest", 2, "--image", tmp_path / "cells.tif"]
    ran = run("objects", recipe.with_name("cells_probability.tif"), tmp_path / "objects", *flags)
    assert (ran.code, ran.err) == (0, "")
    return tmp_path / "objects"


def test_objects_bear_and_lie_beside_their_recipe(found: Path) -> None:
    told = json.loads((found / "cells_objects_recipe.json").read_bytes())
    assert (told["operation"], told["objects"]["smallest"], told["class_names"]) == ("objects", 2, ["membrane"])
    assert [Path(each["file"]).name for each in told["inputs"]] == ["cells_probability.tif", "cells.tif"]
    assert read_recipe(found / "cells_objects.tif") == told | {"layer": "labels"}
    times = json.loads((found / "cells_objects_times.json").read_bytes())
    assert list(times["seconds"]) == ["preparing", "objects"]


@pytest.mark.parametrize("name", ["cells_objects_recipe.json", "cells_objects.tif"])
def test_the_same_recipe_gives_the_same_objects(run: Run, found: Path, tmp_path: Path, name: str) -> None:
    ran = run("run", found / name, tmp_path / "second")
    assert (ran.code, ran.err, [file.name for file in ran.files]) == (0, "", ["cells_objects.tif", "cells_objects.csv"])
    assert files_in(tmp_path / "second") == files_in(found)
    assert (
        "intensity mean" in (tmp_path / "second" / "cells_objects.csv").read_text(encoding="utf-8-sig").splitlines()[0]
    )


def test_objects_of_another_probability_are_found_alike(run: Run, found: Path, recipe: Path, tmp_path: Path) -> None:
    write_ome_tiff(tmp_path / "other.tif", grey(7), Space("ZYX", *PLACE))
    run("run", recipe, tmp_path / "others", "--input", tmp_path / "other.tif")
    other = tmp_path / "others" / "other_probability.tif"
    ran = run("run", found / "cells_objects.tif", tmp_path / "again", "--input", other)
    assert (ran.code, [file.name for file in ran.files]) == (0, ["other_objects.tif", "other_objects.csv"])
    assert ran.err.startswith("Warning: The grey values of 'cells' are not measured")
    expected = skipseg.find_objects(other, method="watershed", threshold=0.4, smallest=2)
    np.testing.assert_array_equal(read_stack(tmp_path / "again" / "other_objects.tif").data[...], expected)
    assert expected.any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "has the unknown key 'colour'"),
        ({"inputs_0_sha256": "ab" * 32}, "contains a different image now"),
        ({"inputs": []}, "is not valid: Objects are found in one image, and not in 0."),
        ({"objects": {"method": "magic"}}, "method"),
    ],
)
def test_objects_that_cannot_be_found_again_are_refused_in_one_sentence(
    run: Run, found: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    edit(found / "cells_objects_recipe.json", **changes)
    ran = run("run", found / "cells_objects_recipe.json", tmp_path / "second")
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "second").exists()


def test_a_recipe_of_objects_has_no_model(run: Run, found: Path) -> None:
    ran = run("run", found / "cells_objects.tif", "--model", "tiny")
    assert ran.err == "Error: A recipe of objects has no model: leave it out.\n"
