"""The command `finetune`: the table of the old model against the new one, and one sentence where it cannot be."""

import json
from functools import partial

import numpy as np
import pytest
import tifffile
from command_line import runner
from tiny_models import write_tiny

import napari_skipseg as skipseg
from napari_skipseg.cli.train import _describe_saved, _iter_without_losses
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.training.finetune.labels import read_corrected
from napari_skipseg.training.finetune.run import iter_finetune
from napari_skipseg.training.flags import finetune_from_flags
from napari_skipseg.training.progress import TrainingProgress

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a tiny model, an image and its labels."""
    write_tiny(tmp_path / "models" / "tiny")
    labels = np.ones((2, 128, 128), np.uint8)
    labels[:, ::16], labels[:, 60:64] = 2, 0
    image = (RNG.normal(100, 10, labels.shape) + 60 * (labels == 2)).astype(np.uint8)
    write_ome_tiff(tmp_path / "image.tif", image, Space("ZYX", (50, 4, 4), "nm"))
    tifffile.imwrite(tmp_path / "labels.tif", labels, metadata={"axes": "ZYX"}, ome=True)
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    given = ("--model", "tiny", "--name", "new", "--images", "image.tif", "--labels", "labels.tif")
    quick = ("--steps", "2", "--patch", "32,32", "--augment", "none", "--device", "cpu")
    return partial(runner(monkeypatch, capsys), "finetune", *given, *quick)


def test_a_new_class_becomes_a_new_model_and_a_table(run, folder):
    code, out, _ = run("--class", "mitochondrion=2", "--reach", "quick")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["on", "class", "name", "score", "old", "new", "limits"]
    assert any("mitochondrion" in line and "Dice" in line for line in lines)
    assert lines[-2].startswith(("The new model ", "Only "))
    assert lines[-1] == str(folder / "models" / "new")
    model = read_description(folder / "models" / "new")
    assert model.class_names == ("membrane", "mitochondrion")
    assert model.training.settings["reach"] == "quick"
    assert model.training.settings["patch"] == [32, 32]


def test_the_plan_is_told_before_the_start(run):
    code, out, err = run("--validate", "1")
    lines = err.splitlines()
    assert code == 0
    told = "Labels on 2 slices: learns from 1 place, compares old and new on 1 other. Takes about "
    assert lines[0].startswith(told)
    assert lines[1:3] == [
        "  background  14,848 pixels to learn from, 14,848 held out",
        "  membrane    1,024 pixels to learn from, 1,024 held out",
    ]
    assert "learns from" not in out
    assert "resumed" not in err


def test_a_name_that_is_taken_is_refused_before_anything_is_planned(run):
    code, out, err = run("--name", "tiny")
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert "tiny" in err


def test_what_goes_on_from_a_checkpoint_says_where_and_leaves_room_for_the_time_left(capsys):
    def work():
        yield Progress(1, 1, "preparing the first patches")
        yield Progress(31, 40, "step 31, training loss 0.533")
        yield TrainingProgress(
            32, 40, "step 32, training loss 0.533, held-out loss 0.412, held-out Dice 0.712", 32, {"a": 1.0}
        )
        return "done"

    said = []
    assert run_to_end(_iter_without_losses(work()), lambda progress: said.append(progress.message)) == "done"
    assert said == ["preparing the first patches", "step 31", "step 32, held-out Dice 0.712"]
    assert capsys.readouterr().err == "Resumed from its checkpoint at step 30.\n"


def test_the_same_command_says_where_it_goes_on(run, folder):
    files = {"images": ["image.tif"], "labels": ["labels.tif"]}
    settings = finetune_from_flags(
        {"model": "tiny", "name": "new", **files, "steps": 4, "patch": "32,32", "augment": "none"}
    )
    work = iter_finetune(settings, read_corrected(settings), folder / "models", "cpu")
    assert _describe_saved(folder / "models", "new").startswith("No step was done yet")
    while not next(work).message.startswith("step 2"):
        pass
    work.close()
    assert _describe_saved(folder / "models", "new").startswith("Step 2 is saved")
    code, _, err = run("--steps", "4")
    assert code == 0
    assert err.splitlines()[-1] == "Resumed from its checkpoint at step 2."
    assert "is written" in _describe_saved(folder / "models", "new")


def test_json_holds_the_same_and_the_models_own_classes_are_the_default(run, folder):
    code, out, _ = run("--json", "--validate", "1", "--out", "elsewhere")
    told = json.loads(out)
    assert code == 0
    assert told["folder"] == "elsewhere/new"
    assert {row["class_name"] for row in told["rows"]} == {"membrane"}
    assert all(row["old"] is not None for row in told["rows"])
    assert isinstance(told["is_better"], bool)
    assert (folder / "elsewhere" / "new" / "model.json").is_file()


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (("--class", "mitochondrion=3"), "hold the value 2, for which no class is named"),
        (("--class", "mitochondrion=1"), "Classes have values from 2 on"),
        (("--class", "mitochondrion"), "'mitochondrion' is no class: write NAME=VALUE"),
        (("--reach", "far"), "reach"),
        (("--labels", "labels.tif"), "1 images and 2 label files were given"),
        (("--augment", "much"), "There is no augmentation 'much': choose one of default"),
        (("--validate", "7"), "Slice 7 cannot be held out"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(run, folder, more, fault):
    code, out, err = run(*more)
    assert code == 1
    assert fault in err
    assert len([line for line in err.splitlines() if line.startswith("Error")]) == 1
    assert out == ""
    assert [path.name for path in (folder / "models").iterdir()] == ["tiny"]


def test_python_fine_tunes_arrays(folder):
    image, labels = tifffile.imread("image.tif"), tifffile.imread("labels.tif")
    result = skipseg.finetune(
        image, labels, "tiny", "from-python", {"mitochondrion": 2}, device="cpu", reach="quick", steps=2, patch=(32, 32)
    )
    assert result.folder == folder / "models" / "from-python"
    assert skipseg.load_model("from-python").description.class_names == ("membrane", "mitochondrion")
