"""Files of several images and folders of slices on the command line, in training, in recipes and in the engine."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from made_images import write_positions, write_slices
from tiny_models import write_tiny

from napari_skipseg.corrections.subject import subject_of
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.choice import SeveralImagesError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.identity import identify
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.jobs import preparation
from napari_skipseg.jobs.client import Engine
from napari_skipseg.jobs.messages import Segment
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.models.model import read_model
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.finetune.labels import read_corrected
from napari_skipseg.training.patches import read_data
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

STACK = np.random.default_rng(4).integers(0, 256, (3, 40, 48), np.uint8)
LABELS = (STACK > 128).astype(np.uint8)
TRAIN: dict[str, Any] = {"spec": UNetSpec(widths=(2, 4)), "patch": (16, 16)}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny(folder / "tiny", voxel_size=(50, 4, 4), unit="nm")
    return folder


@pytest.fixture(autouse=True)
def quickly(library: Path, monkeypatch: pytest.MonkeyPatch, only_torch: None) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(library))


@pytest.fixture
def positions(tmp_path: Path) -> Path:
    return write_positions(tmp_path / "positions.ome.tif", STACK, np.roll(STACK, 9, axis=2))


@pytest.fixture
def sections(tmp_path: Path) -> Path:
    return write_slices(tmp_path / "sections", STACK)


SEGMENT = ("--model", "tiny", "--device", "cpu", "--tile", "32")


# --- segment ---------------------------------------------------------------------------------------------------------


def test_segment_refuses_several_images_and_names_them_and_takes_one_or_all(run, positions, tmp_path) -> None:
    done = run("segment", positions, tmp_path / "out", *SEGMENT)
    assert done.code == 1
    assert all(word in done.err for word in ("contains 2 images", "Pos0", "Pos1", "--image 1", "--all-images"))
    assert not (tmp_path / "out").exists()
    for chosen in (("--image", "1"), ()):
        named = positions if chosen else f"{positions}#1"
        done = run("segment", named, tmp_path / f"out{len(chosen)}", *SEGMENT, *chosen)
        assert done.code == 0, done.err
        assert "positions_1_probability.tif" in done.out
    done = run("segment", positions, tmp_path / "all", *SEGMENT, "--all-images")
    made = sorted(file.name for file in (tmp_path / "all").glob("*_probability.tif"))
    assert made == ["positions_0_probability.tif", "positions_1_probability.tif"]
    first, second = (np.asarray(read_stack(tmp_path / "all" / name).data) for name in made)
    assert not np.array_equal(first, second)
    assert np.array_equal(second, read_stack(tmp_path / "out2" / "positions_1_probability.tif").data)
    assert run("segment", positions, tmp_path / "x", *SEGMENT, "--image", "2").code == 1
    assert "exclude each other" in run("segment", positions, tmp_path, "--image", "1", "--all-images").err


def test_segment_takes_an_image_by_its_name_which_is_in_results_and_recipe(run, positions, tmp_path) -> None:
    done = run("segment", positions, tmp_path / "out", *SEGMENT, "--image", "Pos1")
    assert done.code == 0, done.err
    for result in ("probability", "binary"):
        with tifffile.TiffFile(tmp_path / "out" / f"positions_1_{result}.tif") as file:
            assert 'Name="Pos1"' in str(file.ome_metadata)
    recipe = json.loads((tmp_path / "out" / "positions_1_recipe.json").read_text())
    assert recipe["inputs"][0]["title"] == "Pos1"
    assert "no image has this name" in run("segment", positions, tmp_path / "x", *SEGMENT, "--image", "Pos9").err


def test_a_plan_of_all_images_names_each_and_adds_them_up_and_notes_are_said_once(run, positions, tmp_path) -> None:
    done = run("segment", positions, tmp_path / "out", *SEGMENT, "--all-images", "--plan")
    lines = done.out.splitlines()
    assert [line for line in lines if line.startswith("positions_")] == ["positions_0 Pos0", "positions_1 Pos1"]
    assert sum(line.startswith("device") for line in lines) == 2
    assert "for 2 images" in next(line for line in lines if line.startswith("total time"))
    write_slices(tmp_path / "gap", STACK)
    done = run("segment", tmp_path / "gap", tmp_path / "out", *SEGMENT, "--as-stack", "--plan")
    assert (done.out + done.err).count("are missing between") == 1
    assert "total" not in done.out


@pytest.mark.parametrize("plan", [(), ("--plan",)])
def test_an_unknown_voxel_size_is_said_with_the_flags_that_give_it(run, sections, tmp_path, plan) -> None:
    done = run("segment", sections, tmp_path / "out", *SEGMENT, "--as-stack", *plan)
    assert "not known; tiny was trained at 4 nm" in done.err
    assert "--voxel-size Z Y X --unit nm" in done.err
    given = ("--voxel-size", 50, 4, 4, "--unit")
    done = run("segment", sections, tmp_path / "given", *SEGMENT, "--as-stack", *given, "pixel", *plan)
    assert "has no unit" in done.err
    done = run("segment", sections, tmp_path / "known", *SEGMENT, "--as-stack", *given, "nm", *plan)
    assert "trained at" not in done.err


@pytest.mark.parametrize(("side", "more", "is_said"), [(1.2, (), True), (1.2, ("--rescale",), False), (3, (), False)])
def test_pixels_far_from_the_training_are_said_with_the_flag_that_helps(run, sections, tmp_path, side, more, is_said):
    size = ("--voxel-size", 50, side, side, "--unit", "nm")
    done = run("segment", sections, tmp_path / "out", *SEGMENT, "--as-stack", *size, *more, "--plan")
    assert done.code == 0
    note = "has pixels of 1.2 nm, tiny was trained at 4: add --rescale"
    assert (note in " ".join(done.err.split())) == is_said


def test_a_unit_alone_is_refused_if_the_file_says_no_size(run, sections, tmp_path) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", STACK, photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    for file, more in (("plain.tif", ()), ("imagej.tif", ()), ("sections", ("--as-stack",))):
        done = run("segment", tmp_path / file, tmp_path / "out", *SEGMENT, "--unit", "nm", *more)
        assert (done.code, "--voxel-size Z Y X" in done.err) == (1, True)
    sized = tmp_path / "sized.tif"
    tifffile.imwrite(sized, STACK, imagej=True, resolution=(0.25, 0.25), metadata={"axes": "ZYX", "spacing": 50})
    assert read_stack(sized, unit="nm").space.voxel_size == (50, 4, 4)


def test_as_stack_of_a_file_says_how_one_of_its_images_is_chosen(run, positions, tmp_path) -> None:
    done = run("segment", positions, tmp_path / "out", *SEGMENT, "--as-stack")
    assert (done.code, "--image" in done.err, "--all-images" in done.err) == (1, True, True)


def test_all_images_of_a_file_with_one_are_that_one(run, tmp_path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    assert run("segment", tmp_path / "a.tif", tmp_path / "out", *SEGMENT, "--all-images").code == 0
    assert (tmp_path / "out" / "a_probability.tif").is_file()


def test_segment_takes_a_folder_of_slices_if_it_is_told_so(run, sections, tmp_path) -> None:
    done = run("segment", sections, tmp_path / "out", *SEGMENT)
    assert (done.code, "--as-stack" in done.err, "batch" in done.err) == (1, True, True)
    done = run("segment", sections, tmp_path / "out", *SEGMENT, "--as-stack", "--voxel-size", 50, 4, 4, "--unit", "nm")
    assert done.code == 0, done.err
    assert "missing" in done.err
    stack = read_stack(tmp_path / "out" / "sections_probability.tif")
    assert (stack.shape, stack.space.voxel_size, stack.space.unit) == (STACK.shape, (50.0, 4.0, 4.0), "nm")
    tifffile.imwrite(tmp_path / "whole.tif", STACK, photometric="minisblack")
    run("segment", tmp_path / "whole.tif", tmp_path / "out", *SEGMENT)
    assert np.array_equal(stack.data, read_stack(tmp_path / "out" / "whole_probability.tif").data)
    done = run("segment", sections / "s_*.tif", tmp_path / "pattern", *SEGMENT, "--as-stack")
    assert (tmp_path / "pattern" / "sections_binary.tif").is_file(), done.err
    assert "no folder of slices" in run("segment", tmp_path / "whole.tif", tmp_path, *SEGMENT, "--as-stack").err


# --- the same run again, or further ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sections", "positions"])
def test_a_recipe_finds_its_folder_or_its_image_again(run, sections, positions, tmp_path, kind) -> None:
    named = {"sections": (sections, "--as-stack"), "positions": (positions, "--image", "1")}[kind]
    name = {"sections": "sections", "positions": "positions_1"}[kind]
    assert run("segment", named[0], tmp_path / "out", *SEGMENT, *named[1:]).code == 0
    done = run("run", tmp_path / "out" / f"{name}_recipe.json", tmp_path / "again")
    assert done.code == 0, done.err
    result = f"{name}_probability.tif"
    assert (tmp_path / "again" / result).read_bytes() == (tmp_path / "out" / result).read_bytes()


@pytest.mark.parametrize("kind", ["sections", "positions"])
def test_a_stopped_run_goes_on_to_the_same_bytes(sections, positions, library, tmp_path, kind) -> None:
    file = sections if kind == "sections" else f"{positions}#1"
    model, options = read_model(library / "tiny"), SegmentOptions(device="cpu", tile=32, attention=False)

    def begin(folder: str):
        stack = read_stack(file)
        return iter_segment(RunSpec(stack, model, options), FolderTarget(tmp_path / folder, stack.name))

    with contextlib.closing(begin("out")) as work:
        next(progress for progress in work if progress.done >= 2)
    assert list((tmp_path / "out").glob("*.unfinished"))
    steps: list[int] = []
    resumed = run_to_end(begin("out"), lambda progress: steps.append(progress.done))
    assert min(step for step in steps if step) >= 2
    whole = run_to_end(begin("new"))
    assert [each.read_bytes() for each in resumed] == [each.read_bytes() for each in whole]


def test_a_slice_that_changes_during_a_run_ends_it(sections, library, tmp_path) -> None:
    model, options = read_model(library / "tiny"), SegmentOptions(device="cpu", tile=32, attention=False)
    work = iter_segment(RunSpec(read_stack(sections), model, options), FolderTarget(tmp_path / "out", "s"))
    next(progress for progress in work if progress.done >= 1)
    tifffile.imwrite(sections / "s_9.tif", STACK[0], photometric="minisblack")
    with pytest.raises(FileError, match="was changed while it was read"):
        run_to_end(work)


# --- training, objects, scores, corrections --------------------------------------------------------------------------


def test_training_takes_folders_of_slices_and_images_by_number(sections, positions, tmp_path) -> None:
    truth = write_slices(tmp_path / "truth", LABELS)
    tifffile.imwrite(tmp_path / "labels.tif", LABELS, photometric="minisblack")
    classes = (ClassLabel("membrane", 1),)
    data = read_data(TrainSettings("t", (str(sections),), (str(truth),), classes, **TRAIN))
    assert data.training[0].target.shape == LABELS.shape
    assert any("missing" in finding for finding in data.findings)
    data = read_data(TrainSettings("t", (f"{positions}#1",), (str(tmp_path / "labels.tif"),), classes, **TRAIN))
    assert data.training[0].image.shape[1:] == STACK.shape
    with pytest.raises(SeveralImagesError):
        read_data(TrainSettings("t", (str(positions),), (str(tmp_path / "labels.tif"),), classes, **TRAIN))
    settings = FinetuneSettings("new", (str(sections), f"{positions}#0"), (str(truth), str(truth)), model="tiny")
    assert [image.stack.shape for image in read_corrected(settings)] == [STACK.shape] * 2


def test_labels_that_are_jpeg_slices_are_refused(sections, tmp_path) -> None:
    from PIL import Image

    folder = tmp_path / "truth"
    folder.mkdir()
    for number, plane in enumerate(LABELS):
        Image.fromarray(plane * 40 + 9).save(folder / f"{number}.jpg", quality=30)
    settings = TrainSettings("t", (str(sections),), (str(folder),), (ClassLabel("membrane", 1),), **TRAIN)
    with pytest.raises(InputError, match="are a JPEG"):
        read_data(settings)


def test_objects_and_scores_take_folders_of_slices_and_images_by_number(run, sections, positions, tmp_path) -> None:
    truth = write_slices(tmp_path / "truth", LABELS)
    tifffile.imwrite(tmp_path / "found.tif", LABELS, photometric="minisblack")
    done = run("score", tmp_path / "found.tif", truth, "--json")
    assert (done.code, '"dice": 1.0' in done.out) == (0, True), done.err
    done = run("objects", truth, tmp_path / "out", "--image", f"{positions}#1", "--method", "components")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "truth_objects.csv").is_file()
    done = run("objects", truth, tmp_path / "out", "--image", positions)
    assert (done.code, "contains 2 images" in done.err) == (1, True)


def test_corrections_know_the_image_of_a_file_and_the_stack_of_a_folder(sections, positions) -> None:
    for file in (str(sections), f"{positions}#1"):
        stack = read_stack(file)
        subject = subject_of(stack, identify(stack))
        assert subject.file == file
        assert subject.file_fingerprint
        assert identify(read_stack(subject.file)) == subject.key


# --- the engine ------------------------------------------------------------------------------------------------------


def test_the_engine_reads_folders_and_images_where_they_lie(sections, positions, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "iter_write_npy", lambda *_: pytest.fail("the image was copied"))
    with Engine() as engine:
        for file, values in ((sections, STACK), (f"{positions}#1", np.roll(STACK, 9, axis=2))):
            stack = read_stack(file)
            made = run_to_end(engine.run(Segment(stack, "tiny", SegmentOptions(device="cpu", tile=32))))
            assert made.probability.shape == values.shape
            assert made.recipe["inputs"][0]["file"] == str(file)
            assert made.recipe["inputs"][0]["sha256"] == identify(stack)
