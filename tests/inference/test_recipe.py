"""A recipe contains all that decides a run's bytes, and comes back from JSON, files and metadata as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from identity import make_model
from run_files import files_in

from napari_skipseg.devices import versions
from napari_skipseg.errors import FileError, InputError, ModelError
from napari_skipseg.images.files import holds_labels, read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.identity import identify
from napari_skipseg.images.intensity.normalize import Normalization
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference import predict, to_folder
from napari_skipseg.inference.backends import choose
from napari_skipseg.inference.backends.choose import BackendChoice
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.memory import TileChoice
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest, request_hash
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.recipes.lookup import find_input, find_model_of_recipe, read_recipe_file
from napari_skipseg.inference.recipes.recipe import (
    BACKENDS,
    CHOSEN_DEVICES,
    Recipe,
    RecipeInput,
    describe_input,
    dict_to_json,
    read_json,
    recipe_differences,
    recipe_from_dict,
    recipe_to_dict,
)
from napari_skipseg.inference.recipes.repeat import iter_repeat, pin_backend, prepare_repeat
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.saving import save_prediction
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.model import Model, read_model, write_model
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end


def recipe_to_json(recipe: Recipe) -> str:
    """The text of a recipe's file."""
    return dict_to_json(recipe_to_dict(recipe))


def recipe_from_json(text: str | bytes, place: str = "The recipe") -> Recipe:
    """The recipe in a file of that text."""
    return recipe_from_dict(read_json(text, place), place)


RNG = np.random.default_rng(11)
CELLS = RNG.integers(0, 256, (2, 60, 70)).astype(np.uint8)
PLACE = ((50.0, 4.0, 8.0), "nm", (100.0, 20.0, 30.0))
REQUEST = SegmentRequest("tiny", "ab" * 32, SegmentOptions(average=4), objects=ObjectOptions(method="watershed"))
INPUT = RecipeInput("cells", "/data/cells.tif", "cd" * 32, (2, 60, 70), "uint8", Space("ZYX", *PLACE))
RECIPE = Recipe(
    REQUEST, (INPUT,), ("membrane",), Normalization(100.1, 1 / 3), 0, (32, 32), 32, 1, "torch", "f32", "cpu",
    ("it failed",), {"torch": "2"},
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("only_torch")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with one in it, whose name is tiny."""
    folder = tmp_path / "models"
    model = make_model(name="tiny")
    write_model(folder / "tiny", model.description, model.network)
    monkeypatch.setenv(MODELS_VARIABLE, str(folder))
    monkeypatch.setattr("napari_skipseg.models.catalog.BUILT_IN", tmp_path / "no built-in models")
    return folder


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    write_ome_tiff(tmp_path / "cells.ome.tif", CELLS, Space("ZYX", *PLACE))
    return tmp_path / "cells.ome.tif"


def segment(image: Path | Stack, model: Model, folder: Path, form: Any = "tiff", **options: Any) -> list[Path]:
    stack = read_stack(image) if isinstance(image, Path) else image
    target = FolderTarget(folder, "cells", form=form)
    return run_to_end(iter_segment(RunSpec(stack, model, SegmentOptions(**({"tile": 40} | options))), target))


# -------------------------------------------------------------------------------------------------------------- JSON


def test_a_recipe_survives_json() -> None:
    assert recipe_from_json(recipe_to_json(RECIPE)) == RECIPE
    assert recipe_from_dict(recipe_to_dict(RECIPE)) == RECIPE
    plain = replace(RECIPE, request=replace(REQUEST, objects=None), notes=())
    assert recipe_from_json(recipe_to_json(plain).encode()) == plain
    assert recipe_to_json(recipe_from_json(recipe_to_json(plain))) == recipe_to_json(plain)


def test_what_was_asked_for_and_what_was_chosen_lie_side_by_side() -> None:
    told = json.loads(recipe_to_json(RECIPE))
    assert (told["operation"], told["format_version"], told["model"], told["tile"]) == ("segment", 1, "tiny", [32, 32])
    assert (told["options"]["average"], told["objects"]["method"]) == (4, "watershed")
    assert told["inputs"][0]["sha256"] == "cd" * 32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "has the unknown key 'colour'"),
        ({"request": {}}, "has the unknown key 'request'"),
        ({"options": {"tille": 3}}, "there is no setting called options.tille"),
        ({"options": {"tile": "large"}}, "options.tile: "),
        ({"options": {"tile": -3}}, "tile must be 0 or more, not -3"),
        ({"inputs": [{"name": "a"}]}, "inputs.0.file is missing"),
        ({"form": "png"}, "form is 'png': choose 'tiff' or 'ome-zarr'"),
        ({"side": None}, "side: "),
        ({"side": 0}, "1 tiles of 0 voxels at once are impossible"),
        ({"batch": 10**9}, "1000000000 tiles of 32 voxels at once are impossible"),
        ({"backend": "tensorflow"}, "'tensorflow' is no backend: it is one of torch, openvino"),
        ({"precision": "f64"}, "'f64' is no precision: it is one of f32, bf16, f16"),
        ({"device": "gpu"}, "'gpu' is no device that computes: it is one of cpu, cuda, mps"),
        ({"device": "auto"}, "'auto' is no device that computes: it is one of cpu, cuda, mps"),
        ({"normalization": {"mean": 1.0, "deviation": 0.0}}, "of mean 1.0 and deviation 0.0 are impossible"),
        ({"normalization": {"mean": float("nan"), "deviation": 1.0}}, "of mean nan and deviation 1.0 are impossible"),
        ({"format_version": 2}, r"written by a different SkipSeg \(format version 2\)"),
        ({"format_version": None}, "written by an earlier SkipSeg"),
        ({"operation": "inspect"}, r"of a run that cannot be repeated \('inspect'\)"),
    ],
)
def test_a_recipe_edited_by_hand_is_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    told = json.loads(recipe_to_json(RECIPE))
    with pytest.raises(FileError, match=f"^'a.json' .*{said}") as fault:
        recipe_from_json(json.dumps(told | change), "'a.json'")
    assert str(fault.value).endswith(".")
    assert "\n" not in str(fault.value)


def test_what_computes_is_known_by_its_name() -> None:
    assert {TorchBackend.name, choose.OpenVINOBackend.name} == set(BACKENDS)
    assert TorchBackend.name == choose.TORCH
    for backend in BACKENDS:
        for device in CHOSEN_DEVICES:
            known = replace(RECIPE, backend=backend, device=device)
            assert recipe_from_json(recipe_to_json(known)) == known


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"3", b'"segment"', b"[" * 10**5])
def test_what_is_no_recipe_is_refused(text: bytes) -> None:
    with pytest.raises(FileError, match=r"no JSON|contains no recipe"):
        recipe_from_json(text)


def test_a_missing_key_is_named() -> None:
    for name in ("model", "inputs", "backend", "versions"):
        told = {key: value for key, value in recipe_to_dict(RECIPE).items() if key != name}
        with pytest.raises(FileError, match=f"{name} is missing"):
            recipe_from_dict(told)


def test_the_hash_of_a_request_hangs_on_all_that_is_asked_and_on_versions() -> None:
    known = request_hash(REQUEST, {"torch": "2"})
    assert len(known) == 64
    assert request_hash(replace(REQUEST), {"torch": "2"}) == known
    others = (
        replace(REQUEST, options=replace(REQUEST.options, threshold=0.4)),
        replace(REQUEST, objects=None),
        replace(REQUEST, depth="float32"),
        replace(REQUEST, model_sha256="ef" * 32),
    )
    hashes = {request_hash(each, {"torch": "2"}) for each in others} | {request_hash(REQUEST, {"torch": "3"}), known}
    assert len(hashes) == 6


def test_differences_are_told_in_words() -> None:
    assert recipe_differences(RECIPE, RECIPE) == []
    moved = replace(RECIPE, inputs=(replace(INPUT, name="other", file="/elsewhere.tif"),))
    assert recipe_differences(RECIPE, moved) == []
    other = replace(
        RECIPE,
        request=replace(REQUEST, options=replace(REQUEST.options, average=8)),
        inputs=(replace(INPUT, sha256="00"),),
        tile=(64, 64),
        versions={"torch": "3"},
    )
    assert recipe_differences(RECIPE, other) == [
        "another image",
        "tile 64 × 64 (was 32 × 32)",
        "average 8 (was 4)",
        "torch 3 (was 2)",
    ]


# ------------------------------------------------------------------------------------------------ beside the outputs


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_one_recipe_lies_in_every_output_and_beside_them(cells: Path, tmp_path: Path, form: Any) -> None:
    model = make_model()
    files = segment(cells, model, tmp_path / "out", form, average=4)
    beside = read_recipe_file(tmp_path / "out" / "cells_recipe.json")
    assert [read_recipe_file(file) for file in files] == [beside] * len(files)
    assert [holds_labels(file) for file in files] == ["binary" in file.name for file in files]
    assert beside.inputs == (describe_input(read_stack(cells)),)
    assert (beside.inputs[0].file, beside.inputs[0].sha256) == (str(cells), identify(read_stack(cells)))
    assert (beside.inputs[0].space.voxel_size, beside.inputs[0].space.unit, beside.inputs[0].space.origin) == PLACE
    assert beside.request == SegmentRequest(
        "tiny", "", SegmentOptions(tile=40, average=4, threshold=0.5), "uint8", form
    )
    assert (beside.backend, beside.device, beside.side, beside.versions) == ("torch", "cpu", 40, versions())
    assert recipe_to_json(beside) == (tmp_path / "out" / "cells_recipe.json").read_text(encoding="utf-8")


def test_times_lie_beside_the_outputs_and_not_in_the_recipe(cells: Path, tmp_path: Path) -> None:
    segment(cells, make_model(), tmp_path / "out")
    times = json.loads((tmp_path / "out" / "cells_times.json").read_text(encoding="utf-8"))
    assert [*times["seconds"]] == ["preparing", "tiles", "writing"]
    assert times["begin"] <= times["end"]
    assert (times["continued"], set(times["machine"])) == (False, {"name", "system", "processor"})
    assert "seconds" not in (tmp_path / "out" / "cells_recipe.json").read_text(encoding="utf-8")


def test_objects_that_are_asked_for_are_in_the_recipe(cells: Path, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "out", "cells", objects=ObjectOptions(method="cells", merge=0.25))
    run_to_end(iter_segment(RunSpec(read_stack(cells), make_model(), SegmentOptions(tile=40)), target))
    found = read_recipe_file(tmp_path / "out" / "cells_recipe.json").request.objects
    assert found == ObjectOptions(method="cells", merge=0.25)


def test_a_saved_prediction_bears_a_whole_recipe(cells: Path, tmp_path: Path) -> None:
    prediction = run_to_end(iter_predict(RunSpec(read_stack(cells), make_model(), SegmentOptions(tile=40))))
    save_prediction(prediction, tmp_path / "out", "cells", 0.3, "float32")
    recipe = read_recipe_file(tmp_path / "out" / "cells_binary.tif")
    assert (recipe.request.options.threshold, recipe.request.depth) == (0.3, "float32")
    assert recipe == read_recipe_file(tmp_path / "out" / "cells_recipe.json")
    told = recipe_from_dict(prediction.recipe)
    assert replace(recipe.request, options=told.request.options, depth="uint8") == told.request


def test_a_file_of_somebody_else_is_not_replaced(cells: Path, tmp_path: Path) -> None:
    for name in ("recipe", "times"):
        mine = tmp_path / name / f"cells_{name}.json"
        mine.parent.mkdir()
        mine.write_text('{"flour": "500 g"}')
        with pytest.raises(FileError, match=rf"cells_{name}.json' is there already and not ours"):
            segment(cells, make_model(), tmp_path / name)
        assert mine.read_text() == '{"flour": "500 g"}'


def test_an_image_in_memory_is_named_by_its_content(tmp_path: Path) -> None:
    stack = Stack(CELLS, Space("ZYX", *PLACE), name="cells")
    prediction = run_to_end(iter_predict(RunSpec(stack, make_model(), SegmentOptions(tile=40))))
    told = recipe_from_dict(prediction.recipe).inputs[0]
    assert (told.file, told.sha256) == ("", identify(stack))
    with pytest.raises(FileError, match=r"in memory only, and in no file: give the image with --input\.$"):
        find_input(told, tmp_path)


def test_one_channel_is_told_with_the_image_that_it_is_of(tmp_path: Path) -> None:
    write_ome_tiff(tmp_path / "two.ome.tif", np.stack([CELLS, 255 - CELLS]), Space("CZYX", *PLACE))
    segment(tmp_path / "two.ome.tif", make_model(), tmp_path / "out", channel=1)
    told = read_recipe_file(tmp_path / "out" / "cells_probability.tif").inputs[0]
    assert (told.space.axes, told.shape) == ("CZYX", (2, 2, 60, 70))
    assert find_input(told, tmp_path).shape == (2, 2, 60, 70)


@pytest.mark.parametrize("axes", ["XYZ", "ZXY", "TYX", None])
def test_an_image_whose_axes_a_user_named_is_found_again(tmp_path: Path, axes: str | None) -> None:
    cube = RNG.integers(0, 256, (24, 24, 24)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "cube.tif", cube, photometric="minisblack")
    stack = read_stack(tmp_path / "cube.tif", axes, (50.0, 4.0, 8.0), "nm")
    again = find_input(describe_input(stack), tmp_path)
    assert (again.space.axes, again.space.voxel_size, again.space.unit) == (
        stack.space.axes,
        stack.space.voxel_size,
        stack.space.unit,
    )
    assert np.array_equal(again.data, stack.data)


def test_an_image_that_names_no_axes_is_found_again(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=CELLS.T)
    group.attrs["multiscales"] = [{"version": "0.4", "datasets": [{"path": "0"}]}]
    told = describe_input(read_stack(tmp_path / "a.zarr", axes="XYZ"))
    assert (told.space.axes, told.shape) == ("ZYX", CELLS.shape)
    assert np.array_equal(find_input(told, tmp_path).data, CELLS)


# ------------------------------------------------------------------------------------------------------------- again


@pytest.mark.parametrize(("form", "options"), [("tiff", {}), ("ome-zarr", {"average": 4}), ("tiff", {"samples": 2})])
def test_the_same_recipe_gives_the_same_bytes(
    cells: Path, tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch, form: Any, options: dict[str, Any]
) -> None:
    more = {"dropout": 0.3} if "samples" in options else {}
    segment(cells, read_model(library / "tiny"), tmp_path / "first", form, tile=0, **options, **more)
    monkeypatch.setattr(predict, "choose_tile", lambda *given: TileChoice(96, 3, 0, "another"))
    again = prepare_repeat(read_recipe_file(tmp_path / "first" / "cells_recipe.json"), near=tmp_path / "first")
    assert again.warnings == ()
    again = replace(again, stack=replace(again.stack, name="cells"))
    run_to_end(iter_repeat(again, tmp_path / "second"))
    assert files_in(tmp_path / "second") == files_in(tmp_path / "first")


def test_objects_are_found_again_too(cells: Path, tmp_path: Path, library: Path) -> None:
    target = FolderTarget(tmp_path / "first", "cells", objects=ObjectOptions(smallest=3))
    run_to_end(iter_segment(RunSpec(read_stack(cells), read_model(library / "tiny"), SegmentOptions(tile=40)), target))
    repeated = prepare_repeat(read_recipe_file(tmp_path / "first" / "cells_recipe.json"))
    files = run_to_end(iter_repeat(repeated, tmp_path / "second"))
    run_to_end(iter_repeat(repeated, tmp_path / "third"))
    assert [file.name for file in files[-2:]] == ["cells_objects.tif", "cells_objects.csv"]
    assert files_in(tmp_path / "second") == files_in(tmp_path / "third")
    assert read_recipe_file(files[-2]) == repeated.recipe
    assert files_in(tmp_path / "first").items() < files_in(tmp_path / "second").items()


def test_an_older_place_of_the_image_does_not_matter(cells: Path, tmp_path: Path, library: Path) -> None:
    segment(cells, read_model(library / "tiny"), tmp_path / "project" / "results")
    moved = cells.replace(tmp_path / "project" / cells.name)
    recipe = read_recipe_file(tmp_path / "project" / "results" / "cells_probability.tif")
    found = prepare_repeat(recipe, near=tmp_path / "project" / "results").stack
    assert (found.file, found.space.voxel_size) == (str(moved), PLACE[0])


def test_axes_and_voxel_size_are_taken_as_they_were(tmp_path: Path, library: Path) -> None:
    write_ome_tiff(tmp_path / "a.tif", CELLS, Space("ZYX", *PLACE))
    stack = read_stack(tmp_path / "a.tif", axes="TYX", voxel_size=(1.0, 3.0, 3.0), unit="µm")
    segment(stack, read_model(library / "tiny"), tmp_path / "out")
    found = prepare_repeat(read_recipe_file(tmp_path / "out" / "cells_recipe.json")).stack
    assert (found.space.axes, found.space.voxel_size, found.space.unit, found.space.origin) == (
        "TYX",
        (1.0, 3.0, 3.0),
        "µm",
        stack.space.origin,
    )


def test_another_image_is_normalised_anew(cells: Path, tmp_path: Path, library: Path) -> None:
    segment(cells, read_model(library / "tiny"), tmp_path / "first")
    recipe = read_recipe_file(tmp_path / "first" / "cells_recipe.json")
    same = Stack(CELLS, Space("ZYX", *PLACE))
    darker = Stack(CELLS // 2, Space("ZYX", *PLACE), name="darker")
    assert prepare_repeat(recipe, same).pinned["normalization"] == recipe_to_dict(recipe)["normalization"]
    assert "normalization" not in prepare_repeat(recipe, darker).pinned
    run_to_end(iter_repeat(prepare_repeat(recipe, darker), tmp_path / "second"))
    made = read_recipe_file(tmp_path / "second" / "darker_recipe.json")
    assert made.normalization != recipe.normalization
    assert (made.side, made.batch) == (recipe.side, recipe.batch)


@pytest.mark.parametrize("fault", ["gone", "changed", "other shape"])
def test_an_image_that_is_gone_or_changed_is_refused(cells: Path, tmp_path: Path, library: Path, fault: str) -> None:
    segment(cells, read_model(library / "tiny"), tmp_path / "out")
    recipe = read_recipe_file(tmp_path / "out" / "cells_recipe.json")
    cells.unlink()
    if fault == "changed":
        changed = CELLS.copy()
        changed[1, 5, 5] += 1
        write_ome_tiff(cells, changed, Space("ZYX", *PLACE))
    elif fault == "other shape":
        write_ome_tiff(cells, CELLS[0], Space("YX", *PLACE))
    reason = "no longer there" if fault == "gone" else "contains a different image now"
    with pytest.raises(FileError, match=reason) as said:
        prepare_repeat(recipe)
    assert "--input" in str(said.value)


def test_a_model_is_found_by_its_weights(library: Path, tmp_path: Path) -> None:
    sha256 = read_model(library / "tiny").description.weights_sha256
    recipe = replace(RECIPE, request=replace(REQUEST, model_sha256=sha256))
    assert find_model_of_recipe(recipe) == library / "tiny"
    (library / "tiny").rename(library / "renamed")
    assert find_model_of_recipe(recipe) == library / "renamed"
    (library / "renamed").rename(tmp_path / "away")
    with pytest.raises(ModelError, match=r"^The model 'tiny' .* is not here: give its folder with --model\.$"):
        find_model_of_recipe(recipe)
    assert find_model_of_recipe(recipe, str(tmp_path / "away")) == tmp_path / "away"


def test_a_model_whose_weights_are_others_is_refused(library: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'tiny' has other weights .* than when .*\(abababababab…\).* --model\.$"):
        find_model_of_recipe(RECIPE)
    with pytest.raises(ModelError, match=r"has different weights than the recipe's model 'tiny'"):
        find_model_of_recipe(RECIPE, str(library / "tiny"))


# ------------------------------------------------------------------------------------------------- what is not here


HERE = replace(RECIPE, versions=versions(), notes=())


def test_what_is_the_same_here_needs_no_warning() -> None:
    pinned, warnings = pin_backend(HERE, is_same=True)
    assert warnings == []
    told = recipe_to_dict(HERE)
    assert pinned == {name: told[name] for name in to_folder.PINNED}


@pytest.mark.parametrize(
    ("change", "lacking", "said"),
    [
        ({"versions": {**versions(), "torch": "1.0"}}, set(), r"versions .*: torch .* \(was 1\.0\)"),
        ({"backend": "openvino"}, {"backend", "precision"}, "openvino in f32 is not available here"),
        ({"precision": "f16"}, {"backend", "precision"}, "torch in f16 is not available here"),
        ({"notes": ("the GPU failed.",)}, set(), "something failed midway, .*: the GPU failed"),
    ],
)
def test_what_cannot_be_had_here_is_told(change: dict[str, Any], lacking: set[str], said: str) -> None:
    pinned, (warning,) = pin_backend(replace(HERE, **change), is_same=True)
    assert set(to_folder.PINNED) - set(pinned) == lacking
    with pytest.raises(InputError, match=said):
        raise InputError(warning)


def test_a_precision_that_nobody_knows_is_refused() -> None:
    with pytest.raises(FileError, match="'fp16x' is no precision: it is one of f32, bf16, f16"):
        recipe_from_dict(recipe_to_dict(HERE) | {"precision": "fp16x"})


def test_a_device_that_is_not_here_gives_way_to_the_one_that_is() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("there is an Apple GPU")
    pinned, warnings = pin_backend(replace(HERE, device="mps"), is_same=True)
    assert pinned["device"] == "auto"
    assert "no mps device here" in warnings[0]


def test_a_maker_that_can_is_asked_for_what_a_run_was_begun_with(cells: Path, tmp_path: Path) -> None:
    class Pinnable:
        asked: BackendChoice | None = None

        def __call__(self, *given: Any) -> Any:
            return choose.make_backend(*given)

        def pinned(self, pinned: BackendChoice) -> Any:
            self.asked = pinned
            return choose.make_backend

    maker, target = Pinnable(), FolderTarget(tmp_path / "out", "cells")
    told = {"side": 40, "batch": 1, "device": "cpu", "backend": "torch", "precision": "f32"}
    run_to_end(
        iter_segment(
            RunSpec(read_stack(cells), make_model(), SegmentOptions(), backend_maker=maker, pinned=told), target
        )
    )
    assert maker.asked == BackendChoice("torch", "f32")


def test_a_run_that_was_begun_otherwise_is_not_gone_on_with(cells: Path, tmp_path: Path, library: Path) -> None:
    segment(cells, read_model(library / "tiny"), tmp_path / "first")
    repeated = prepare_repeat(read_recipe_file(tmp_path / "first" / "cells_recipe.json"))
    begun = iter_repeat(replace(repeated, pinned={**repeated.pinned, "side": 32}), tmp_path / "second")
    for progress in begun:
        if progress.done == 2:
            break
    begun.close()
    with pytest.raises(FileError, match="differs in what is pinned"):
        run_to_end(iter_repeat(repeated, tmp_path / "second"))
    run_to_end(iter_repeat(repeated, tmp_path / "second", restart=True))


def test_files_without_a_recipe_are_refused(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="contains no recipe"):
        read_recipe_file(cells)
    with pytest.raises(FileError, match="cannot be read"):
        read_recipe_file(tmp_path / "none.json")
    write_ome_tiff(
        tmp_path / "old.tif", CELLS, Space("ZYX", *PLACE), description={"operation": "segment", "model": "tiny"}
    )
    assert read_recipe(tmp_path / "old.tif") == {"operation": "segment", "model": "tiny"}
    with pytest.raises(FileError, match="written by an earlier SkipSeg"):
        read_recipe_file(tmp_path / "old.tif")
