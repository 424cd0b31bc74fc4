"""The command line: what it writes, what it says, and that bad input gets one clear sentence and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from command_line import Command, Ran, runner
from numpy.typing import NDArray
from run_files import files_in, whole
from safetensors import safe_open
from tiny_models import write_tiny

from napari_skipseg import api, cli
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.intensity.samples import SAMPLED_SLICES
from napari_skipseg.images.space import Space
from napari_skipseg.inference.prediction import to_uint8
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.folder import read_description
from napari_skipseg.scores.isbi import score_isbi
from napari_skipseg.scores.overlap import score_overlap
from napari_skipseg.stopping import MESSAGE

Run = Callable[..., Ran]


NO_SIZE = "Note: The voxel size of"
"""Begins the note on images without a voxel size, as most are here; `test_cli_images` tests it."""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny models, 2D and 3D, of random weights."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny(folder / "tiny")
    write_tiny(folder / "tiny-3d", 3)
    return folder


@pytest.fixture
def run(library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], only_torch: None) -> Run:
    """Run the command line in this process."""
    monkeypatch.setenv(MODELS_VARIABLE, str(library))
    monkeypatch.setenv("COLUMNS", "200")
    started = runner(monkeypatch, capsys)

    def run(*arguments: object) -> Ran:
        ran = started(*arguments)
        return ran._replace(err="".join(line for line in ran.err.splitlines(True) if not line.startswith(NO_SIZE)))

    return run


def start(library: Path, *arguments: object) -> Command:
    """Start the command line in a process of its own."""
    return Command(*arguments, **{MODELS_VARIABLE: str(library)})


def own_lines(err: str) -> list[str]:
    """What the program itself said: hwloc, a library of libraries, grumbles where a container hides /sys."""
    return [line for line in err.splitlines() if not line.startswith(("hwloc/", NO_SIZE))]


def wait_for(seen: Callable[[], bool], process: Command) -> None:
    deadline = time.monotonic() + 240
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def grey(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, shape).astype(np.uint8)


def write_tiff(path: Path, values: NDArray[Any], photometric: str = "minisblack", **more: Any) -> None:
    """Write a plain TIFF; left to itself, tifffile stores a stack of 3 or 4 slices as colours."""
    tifffile.imwrite(path, values, photometric=photometric, **more)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_tiff(tmp_path / "cells.tif", grey(3, 40, 50))
    return tmp_path / "cells.tif"


def results_in(folder: Path) -> list[Path]:
    """What lies in `folder` but the recipe and the times of a run, which must be there too."""
    there = sorted(folder.iterdir())
    results = [file for file in there if file.suffix != ".json"]
    assert [file.name.rpartition("_")[2] for file in there if file.suffix == ".json"] == ["recipe.json", "times.json"]
    return results


def fails(ran: Ran, *words: str, code: int = 1) -> None:
    """Say that a run failed with one line that holds `words`."""
    assert ran.code == code
    assert ran.err.startswith("Error: ")
    assert ran.err.endswith(".\n") or ran.err.endswith("`.\n")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    assert "unexpected" not in ran.err
    assert ran.out == ""
    for word in words:
        assert word in ran.err


# ---------------------------------------------------------------------------------------------------------- segment


def test_segment_writes_probability_and_labels(run: Run, image: Path, tmp_path: Path, library: Path) -> None:
    ran = run("segment", image, tmp_path / "out", "--model", "tiny", "--device", "cpu")
    assert (ran.code, ran.err) == (0, "")
    assert [file.name for file in ran.files] == ["cells_probability.tif", "cells_binary.tif"]
    assert results_in(tmp_path / "out") == sorted(ran.files)
    prediction = api.segment(image, api.load_model(library / "tiny"), device="cpu")
    np.testing.assert_array_equal(whole(ran.files[0]), to_uint8(prediction.probability))
    np.testing.assert_array_equal(whole(ran.files[1]), prediction.probability > 0.5)
    assert whole(ran.files[1]).dtype == np.uint8


def test_segment_with_all_options(run: Run, image: Path, tmp_path: Path, library: Path) -> None:
    options = ["--attention", "--threshold", 0.45, "--average", 4, "--tile", 32, "--dtype", "float32"]
    size = ["--voxel-size", 50, 4, 8, "--unit", "nm"]
    ran = run("segment", image, tmp_path / "out", "--model", library / "tiny", "--device", "cpu", *options, *size)
    kinds = ["probability", "binary", "uncertainty", "attention_1"]
    assert [file.name for file in ran.files] == [f"cells_{kind}.tif" for kind in kinds]
    model = api.load_model("tiny")
    expected = api.segment(image, model, device="cpu", average=4, tile=32)
    probability = whole(ran.files[0])
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(probability, expected.probability)
    np.testing.assert_array_equal(whole(ran.files[1]), expected.probability > 0.45)
    np.testing.assert_array_equal(whole(ran.files[2]), expected.uncertainty)
    np.testing.assert_array_equal(whole(ran.files[3]), expected.attentions[0].data)
    for file in ran.files:
        stack, recipe = read_stack(file), read_recipe(file)
        assert (stack.space.axes, stack.space.voxel_size, stack.space.unit) == ("ZYX", (50.0, 4.0, 8.0), "nm")
        assert recipe is not None
        asked = recipe["options"]
        assert (asked["threshold"], asked["average"], recipe["model"]) == (0.45, 4, "tiny")
        assert recipe["model_sha256"] == model.description.weights_sha256


def test_segment_with_a_threshold_of_a_class(run: Run, image: Path, tmp_path: Path, library: Path) -> None:
    name = api.load_model(library / "tiny").description.class_names[0]
    asked = ["--class-threshold", f"{name}=0.3", "--dtype", "float32", "--device", "cpu"]
    ran = run("segment", image, tmp_path / "out", "--model", library / "tiny", *asked)
    np.testing.assert_array_equal(whole(ran.files[1]), whole(ran.files[0]) > 0.3)


def test_segment_a_volume_with_a_3d_model(run: Run, tmp_path: Path) -> None:
    write_tiff(tmp_path / "volume.tif", grey(17, 21, 30))
    ran = run("segment", tmp_path / "volume.tif", tmp_path / "out", "--model", "tiny-3d", "--attention", "--tile", 28)
    assert (ran.code, [whole(file).shape for file in ran.files]) == (0, [(17, 21, 30)] * 3)


def test_segment_keeps_scale_and_origin_of_an_ome_tiff(run: Run, tmp_path: Path) -> None:
    place = ((50.0, 4.0, 4.0), "nm", (100.0, 20.0, 40.0))
    write_ome_tiff(tmp_path / "b.ome.tif", grey(2, 3, 30, 32), Space("TZYX", *place))
    ran = run("segment", tmp_path / "b.ome.tif", tmp_path / "out", "--model", "tiny", "--attention")
    assert [file.name for file in ran.files] == ["b_probability.tif", "b_binary.tif", "b_attention_1.tif"]
    for file in ran.files:
        stack = read_stack(file)
        assert (stack.space.axes, stack.shape) == ("TZYX", (2, 3, 30, 32))
        assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == place


def test_segment_one_channel_or_with_named_axes(run: Run, tmp_path: Path) -> None:
    write_tiff(tmp_path / "rgb.tif", grey(30, 32, 3), photometric="rgb")
    assert run("segment", tmp_path / "rgb.tif", tmp_path / "out", "--model", "tiny", "--channel", 1).code == 0
    assert read_stack(tmp_path / "out" / "rgb_binary.tif").space.axes == "YX"
    write_tiff(tmp_path / "t.tif", grey(4, 30, 32))
    assert run("segment", tmp_path / "t.tif", tmp_path / "out", "--model", "tiny", "--axes", "TYX").code == 0
    assert read_stack(tmp_path / "out" / "t_binary.tif").space.axes == "TYX"
    size = ("--axes", "XYZ", "--voxel-size", 50, 4, 5, "--unit", "nm")
    ran = run("segment", tmp_path / "t.tif", tmp_path / "turned", "--model", "tiny", *size)
    turned = read_stack(tmp_path / "turned" / "t_binary.tif")
    assert (turned.space.axes, turned.shape, turned.space.voxel_size) == ("ZYX", (32, 30, 4), (50, 4, 5))
    assert "Note: The file has its axes in the order XYZ; they were turned into ZYX." in ran.err


def test_segmenting_again_replaces_the_results(run: Run, image: Path, tmp_path: Path) -> None:
    first = run("segment", image, tmp_path, "--model", "tiny").files[1].read_bytes()
    second = run("segment", image, tmp_path, "--model", "tiny").files[1].read_bytes()
    third = run("segment", image, tmp_path, "--model", "tiny", "--threshold", 0.4).files[1].read_bytes()
    assert first == second != third
    assert len(list(tmp_path.iterdir())) == 5


# -------------------------------------------------------------------------------------------------------- bad input


def _corrupt(path: Path) -> None:
    write_tiff(path, grey(20, 64, 64))
    path.write_bytes(path.read_bytes()[:5000])


BAD_IMAGES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "missing": (lambda path: None, ("does not exist", "check the name")),
    "cut short": (_corrupt, ("cut short",)),
    "mask": (lambda path: write_tiff(path, (grey(9, 9) > 99).astype(np.uint8)), ("mask", "raw image")),
    "colour": (lambda path: write_tiff(path, grey(9, 9, 3), photometric="rgb"), ("3 channels", "choose which")),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_a_bad_image_gets_one_sentence(run: Run, tmp_path: Path, fault: str) -> None:
    make, words = BAD_IMAGES[fault]
    make(tmp_path / "cells.tif")
    fails(run("segment", tmp_path / "cells.tif", tmp_path / "new" / "out", "--model", "tiny"), *words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--axes", "TYX", "--model", "tiny-3d"], ("3D model", "no Z", "choose a 2D model")),
        (["--device", "cuda"], ("no CUDA GPU", "--device auto or cpu")),
        (["--device", "mps"], ("no Apple GPU",)),
        (["--device", "tpu"], ("cannot be 'tpu'", "auto, cpu, cuda, mps")),
        (["--threshold", "1.5"], ("between 0 and 1",)),
        (["--tile", "-5"], ("tile",)),
        (["--model", "em-membrain"], ("no model called 'em-membrain'", "Known models", "tiny")),
    ],
)
def test_a_wrong_option_gets_one_sentence(
    run: Run, image: Path, tmp_path: Path, options: list[str], words: tuple[str, ...]
) -> None:
    if options == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    if options == ["--device", "mps"] and torch.backends.mps.is_available():
        pytest.skip("there is an Apple GPU here")
    chosen = [] if "--model" in options else ["--model", "tiny"]
    fails(run("segment", image, tmp_path / "out", *chosen, *options), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment"], ("Missing argument 'IN'", "napari-skipseg segment --help")),
        (["segment", "a.tif"], ("Missing argument 'OUT_DIR'",)),
        (["segment", "a.tif", "out", "--thresold", "0.4"], ("--thresold", "--threshold")),
        (["segment", "a.tif", "out", "--threshold", "high"], ("valid", "--threshold")),
        (["segment", "a.tif", "out", "--dtype", "int8"], ("'int8'", "uint8", "float32")),
        (["segment", "a.tif", "out", "--voxel-size", "4", "4"], ("--voxel-size", "3")),
        (["segmentt"], ("segmentt", "napari-skipseg --help")),
        (["score", "a.tif"], ("TRUTH",)),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(run: Run, arguments: list[str], words: tuple[str, ...]) -> None:
    fails(run(*arguments), *words, code=2)


def test_the_help_of_a_command_leaves_out_the_errors_of_its_function() -> None:
    groups = [group.typer_instance for group in cli.app.registered_groups]
    helps = [command.help for each in (cli.app, *groups) for command in each.registered_commands]
    assert len(helps) > 30
    assert all(text and "Raises" not in text for text in helps)


def test_no_arguments_show_the_help(run: Run) -> None:
    bare, asked = run(), run("--help")
    assert bare == asked
    assert bare.code == 0
    assert all(name in bare.out for name in ("segment", "train", "score", "networks", "models", "doctor", "--verbose"))
    assert "OUT_DIR" in run("segment", "--help").out


def test_a_pickle_is_no_model_under_any_name(run: Run, image: Path, tmp_path: Path, library: Path) -> None:
    fails(run("segment", image, tmp_path / "out", "--model", tmp_path / "net.pt"), "can run code", "model.json")
    folder = shutil.copytree(library / "tiny", tmp_path / "model")
    torch.save({"weights": torch.zeros(1)}, folder / "weights.safetensors")
    fails(run("segment", image, tmp_path / "out", "--model", folder), "SHA-256")
    fails(run("segment", image, tmp_path / "out", "--model", image), "model folder")
    assert not (tmp_path / "out").exists()


def test_verbose_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    arguments = ["segment", tmp_path / "missing.tif", tmp_path / "out"]
    for ran in (run("--verbose", *arguments), run(*arguments, "--verbose")):
        assert ran.code == 1
        assert ran.err.startswith("Traceback")
        assert ran.err.splitlines()[-1].startswith("Error: ")


def test_the_unexpected_gets_one_sentence_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("napari_skipseg.devices.choose_device", broken)
    ran = run("doctor")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: Something unexpected went wrong (RuntimeError: first line second line).\n"


def test_too_little_memory_is_said_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise MemoryError

    monkeypatch.setattr("napari_skipseg.devices.choose_device", full)
    fails(run("doctor"), "not enough memory", "tile")


STOPPED = f"Error: {MESSAGE}"


LONGER = ["--model", "tiny", "--device", "cpu", "--average", 8, "--attention", "--format", "ome-zarr"]


SLICES = 36
"""So many that a signal finds some of them still to be done, on a busy machine too."""


@pytest.fixture(scope="module")
def undisturbed(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """An image, and what a command leaves of it that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_tiff(folder / "my cells.v2.tif", grey(SLICES, 128, 128))
    process = start(library, "segment", folder / "my cells.v2.tif", folder / "out", *LONGER)
    process.communicate(timeout=240)
    assert process.returncode == 0
    return folder / "my cells.v2.tif", files_in(folder / "out")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to answer")
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_or_killed_command_goes_on(
    run: Run, tmp_path: Path, library: Path, undisturbed: tuple[Path, dict[str, bytes]], number: int
) -> None:
    image, expected = undisturbed
    command = ["segment", image, tmp_path / "new" / "out", *LONGER]
    process = start(library, *command)
    unfinished = tmp_path / "new" / "out" / "my cells.v2.unfinished"
    journal = unfinished / "done"
    wait_for(lambda: journal.exists() and journal.stat().st_size >= 3 * 8, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert (process.returncode, out, own_lines(err)) == (130, "", [STOPPED])
    assert list((tmp_path / "new" / "out").iterdir()) == [unfinished]
    assert 3 <= journal.stat().st_size // 8 < SLICES
    ran = run(*command)
    assert (ran.code, own_lines(ran.err)) == (0, [])
    assert results_in(tmp_path / "new" / "out") == sorted(ran.files)
    assert files_in(tmp_path / "new" / "out") == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to answer")
def test_a_command_stopped_before_its_first_tile_leaves_nothing(tmp_path: Path, library: Path) -> None:
    write_tiff(tmp_path / "cells.tif", grey(400, 128, 128))
    many = ["--samples", 100_000, "--dropout", 0.5]
    process = start(library, "segment", tmp_path / "cells.tif", tmp_path / "new" / "out", "--model", "tiny", *many)
    wait_for((tmp_path / "new" / "out" / "cells.unfinished" / "run.json").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out, own_lines(err)) == (130, "", [STOPPED])
    assert not (tmp_path / "new").exists()


def test_another_run_that_lies_there_gets_one_sentence(run: Run, image: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((40, 50, 60)).astype(np.float32)
    measured = np.random.default_rng(0).choice(40, SAMPLED_SLICES, replace=False)
    values[max(set(range(40)) - set(measured)), 5, 5] = np.nan
    write_tiff(tmp_path / "nan.tif", values)
    command = ["segment", tmp_path / "nan.tif", tmp_path / "out", "--model", "tiny"]
    fails(run(*command), "NaN")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["nan.unfinished"]
    fails(run(*command, "--threshold", 0.3), "differs in threshold", "--restart")
    fails(run(*command, "--threshold", 0.3, "--restart"), "NaN")
    fails(run(*command), "differs in threshold", "--restart")


def test_a_fresh_process_does_the_same(tmp_path: Path, library: Path, image: Path) -> None:
    command = [sys.executable, "-m", "napari_skipseg.cli", "segment", image, tmp_path / "out", "--model", "tiny"]
    environment = os.environ | {MODELS_VARIABLE: str(library)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert (ended.returncode, own_lines(ended.stderr)) == (0, [])
    assert [Path(line).name for line in ended.stdout.splitlines()] == ["cells_probability.tif", "cells_binary.tif"]


# ------------------------------------------------------------------------------------------- networks, models, doctor


def test_models_are_listed_and_described(run: Run, library: Path) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").out)}
    assert (rows["tiny"]["network"], rows["tiny-3d"]["network"]) == ("2D unet", "3D unet")
    assert (rows["tiny"]["skip"], rows["tiny"]["classes"]) == ("sat", "membrane")
    assert "tiny-3d" in run("models").out
    assert rows["tiny"]["license"] == ""
    assert rows["em-membrane"]["license"].endswith("LicenseRef-ISBI-2012 (non-commercial)")
    assert rows["em-boundary-3d"]["license"] == "BSD-3-Clause AND CC-BY-3.0"
    described = json.loads(run("models", "show", "tiny", "--json").out)
    assert described["weights_sha256"] == read_description(library / "tiny").weights_sha256
    card = run("models", "show", "tiny").out
    assert run("models", "tiny").out == card
    assert "2D unet, skip sat" in card
    assert "1 = membrane" in card
    fails(run("models", "show", "tinny"), "no model called 'tinny'", "Known models")


def test_doctor_says_what_is_there(run: Run, library: Path) -> None:
    facts = json.loads(run("doctor", "--json").out)
    assert facts["device"].startswith(("cpu", "cuda", "mps"))
    assert facts["why"]
    assert "tiny" in facts["models"]
    assert facts["your models"] == str(library)
    assert facts["torch version"] == torch.__version__.split("+")[0] or facts["torch version"] == torch.__version__
    assert "OpenVINO" in run("doctor").out


def test_doctor_writes_a_report_for_an_issue(run: Run, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: library.parent)
    text = run("doctor", "--report").out
    assert text.startswith("<details>")
    assert f"your models: ~{os.sep}{library.name}\n" in text
    assert f"{MODELS_VARIABLE}: ~{os.sep}{library.name}\n" in text
    assert str(library.parent) not in text
    fails(run("doctor", "--report", "--json"), "--report", "--json")


# ------------------------------------------------------------------------------------------------------------ score


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path, NDArray[np.float64], NDArray[np.uint8]]:
    """Files of a probability of cell (uint8) and a truth (0 = membrane), and their values."""
    truth = np.full((2, 64, 64), 255, np.uint8)
    truth[:, ::16] = truth[:, :, ::16] = 0
    noise = np.random.default_rng(0).normal(0, 60, truth.shape)
    cell = np.clip(truth * 0.7 + 40 + noise, 0, 255).astype(np.uint8)
    write_tiff(tmp_path / "cell.tif", cell)
    write_tiff(tmp_path / "membrane.tif", 255 - cell)
    write_tiff(tmp_path / "truth.tif", truth)
    return tmp_path / "cell.tif", tmp_path / "truth.tif", cell / 255, truth


def test_score_gives_the_overlap(run: Run, scored: Any) -> None:
    prediction, truth_file, cell, truth = scored
    found = json.loads(run("score", prediction, truth_file, "--json").out)
    expected = score_overlap(cell > 0.5, truth > 0)
    assert found["dice"] == expected.dice
    assert (found["false_positive_rate"], found["true_positives"]) == (
        expected.false_positive_rate,
        expected.true_positives,
    )
    lower = json.loads(run("score", prediction, truth_file, "--threshold", 0.3, "--json").out)
    assert lower["recall"] == score_overlap(cell > 0.3, truth > 0).recall
    assert f"{expected.dice:.5f}" in run("score", prediction, truth_file).out


def test_score_gives_the_isbi_scores(run: Run, scored: Any) -> None:
    prediction, truth_file, cell, truth = scored
    expected = score_isbi(cell, truth)
    found = json.loads(run("score", prediction, truth_file, "--isbi", "--json").out)
    assert (found["v_rand"], found["v_info"]) == (expected.v_rand, expected.v_info)
    turned = run("score", prediction.with_name("membrane.tif"), truth_file, "--isbi", "--membrane", "--json")
    assert json.loads(turned.out)["v_rand"] == pytest.approx(expected.v_rand, abs=1e-3)
    shown = run("score", prediction, truth_file, "--isbi").out
    assert f"{expected.v_rand:.5f}" in shown
    assert f"{expected.v_info:.5f}" in shown


def test_our_own_probability_of_membrane_needs_no_flag_to_be_scored(run: Run, image: Path, tmp_path: Path) -> None:
    ran = run("segment", image, tmp_path / "out", "--model", "tiny")
    truth = tmp_path / "truth.tif"
    cells = np.ones((3, 40, 50), np.uint8)
    cells[:, ::8] = cells[:, :, ::8] = 0
    write_tiff(truth, cells)
    flagless, flagged = (run("score", ran.files[0], truth, "--isbi", *flag) for flag in ((), ("--membrane",)))
    assert (flagless.code, flagless.out, flagless.err) == (flagged.code, flagged.out, flagged.err)


def test_score_labels_as_they_are(run: Run, tmp_path: Path) -> None:
    labels, truth = grey(40, 40) // 100, grey(40, 40)[::-1].copy() // 128
    write_tiff(tmp_path / "labels.tif", labels)
    write_tiff(tmp_path / "truth.tif", truth)
    found = json.loads(run("score", tmp_path / "labels.tif", tmp_path / "truth.tif", "--json").out)
    assert found["dice"] == score_overlap(labels > 0, truth > 0).dice


def test_an_overlap_that_says_nothing_is_noted(run: Run, scored: Any, tmp_path: Path) -> None:
    prediction, truth_file, _, truth = scored
    assert run("score", prediction, truth_file).err == ""
    for name, values in (("everywhere", truth * 0 + 255), ("turned", 255 - truth)):
        write_tiff(tmp_path / f"{name}.tif", values)
        ran = run("score", tmp_path / f"{name}.tif", truth_file, "--json")
        assert "no better than that of an image which is marked everywhere" in ran.err
        assert ran.code == 0
        assert json.loads(ran.out)["notes"]


def test_score_refuses_a_class_that_is_nowhere_instead_of_calling_it_perfect(run: Run, tmp_path: Path) -> None:
    write_tiff(tmp_path / "labels.tif", grey(40, 40) // 100)
    paths = (tmp_path / "labels.tif", tmp_path / "labels.tif")
    assert run("score", *paths, "--class", "a=1").code == 0
    for value in (7, -1, 255):
        fails(run("score", *paths, "--class", "a=1", "--class", f"b={value}"), "b: Neither the truth")
    write_tiff(tmp_path / "empty.tif", grey(40, 40) * 0)
    fails(run("score", tmp_path / "empty.tif", tmp_path / "empty.tif"), "nothing to score")


def test_score_refuses_what_cannot_be_compared(run: Run, scored: Any, tmp_path: Path) -> None:
    prediction, truth_file, _, _ = scored
    write_tiff(tmp_path / "small.tif", grey(2, 30, 30))
    fails(run("score", tmp_path / "small.tif", truth_file), "shape")
    write_tiff(tmp_path / "big.tif", np.full((2, 64, 64), 7, np.float32))
    fails(run("score", tmp_path / "big.tif", truth_file, "--isbi"), "[0, 1]")
    write_tiff(tmp_path / "rgb.tif", grey(64, 64, 3), photometric="rgb")
    fails(run("score", tmp_path / "rgb.tif", tmp_path / "rgb.tif"), "YXC")
    fails(run("score", prediction, tmp_path / "missing.tif"), "does not exist")


# ------------------------------------------------------------------------------------------------------------ train


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An image with dark lines, and its labels: 0 on the lines, 255 beside them."""
    truth = np.full((4, 48, 48), 255, np.uint8)
    truth[:, ::12] = truth[:, :, ::12] = 0
    write_tiff(tmp_path / "raw.tif", (truth // 2 + grey(4, 48, 48) // 4).astype(np.uint8))
    write_tiff(tmp_path / "labels.tif", truth)
    return tmp_path / "raw.tif", tmp_path / "labels.tif"


TINY = ["--class", "membrane=0", "--widths", "4,8", "--patch", "32,32", "--batch", 1, "--device", "cpu"]


def test_train_with_flags_then_segment(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    images = ["--images", pair[0], "--labels", pair[1]]
    more = ["--validate", "3", "--steps", 3, "--name", "mine", "--out", tmp_path / "models", "--seed", 5]
    size = ["--voxel-size", 50, 4, 4, "--unit", "nm"]
    ran = run("train", *images, *TINY, *more, *size, "--skip", "at", "--loss", "dice")
    assert (ran.code, ran.err, ran.files) == (0, "", [tmp_path / "models" / "mine"])
    assert [folder.name for folder in (tmp_path / "models").iterdir()] == ["mine"]
    description = read_description(ran.files[0])
    assert (description.spec.skip, description.spec.widths) == ("at", (4, 8))
    assert (description.class_names, description.voxel_size, description.unit) == (("membrane",), (50, 4, 4), "nm")
    settings = description.training.settings
    assert (settings["steps"], settings["seed"], settings["loss"]) == (3, 5, "dice")
    assert {"Dice membrane", "V_rand", "V_info"} == set(description.card.scores)
    assert "slices 3" in description.card.scores_on
    assert run("segment", pair[0], tmp_path / "out", "--model", ran.files[0]).code == 0
    assert "Scores" in run("models", "show", ran.files[0]).out


def test_train_with_a_settings_file_and_flags_over_it(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {
        "name": "written",
        "images": [str(pair[0])],
        "labels": [str(pair[1])],
        "classes": [{"name": "membrane", "label": 0}],
        "spec": {"network": "unet", "dimensions": 3, "widths": [2, 4], "skip": "org"},
        "patch": [8, 16, 16],
        "batch": 1,
        "steps": 9,
    }
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    ran = run("train", file, "--steps", 2, "--name", "flagged", "--skip", "sat", "--out", tmp_path / "models")
    assert (ran.code, ran.files) == (0, [tmp_path / "models" / "flagged"])
    description = read_description(ran.files[0])
    assert (description.spec.dimensions, description.spec.widths, description.spec.skip) == (3, (2, 4), "sat")
    assert description.training.settings["steps"] == 2
    assert run("segment", pair[0], tmp_path / "out", "--model", ran.files[0]).code == 0
    fails(run("train", file, "--name", "flagged", "--out", tmp_path / "models"), "never overwritten", "different name")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--class", "membrane"], ("NAME=VALUE", "membrane=0")),
        (["--skip", "dense"], ("sum", "org", "sat", "additive")),
        (["--patch", "32,wide"], ("256,256",)),
        (["--start-from", "nothing"], ("no model called 'nothing'",)),
    ],
)
def test_a_wrong_setting_gets_one_sentence(
    run: Run, pair: tuple[Path, Path], tmp_path: Path, change: list[str], words: tuple[str, ...]
) -> None:
    base = TINY[2:] if "--class" in change else TINY
    arguments = ["--images", pair[0], "--labels", pair[1], *base, "--steps", 2, "--name", "mine", *change]
    fails(run("train", *arguments, "--out", tmp_path / "models"), *words)
    assert not (tmp_path / "models").exists()


def test_training_needs_images_labels_classes_and_a_name(run: Run, tmp_path: Path) -> None:
    fails(run("train"), "--name, --images, --labels, --class", "settings file")
    (tmp_path / "unknown.json").write_text('{"nam": "mine"}', encoding="utf-8")
    fails(run("train", tmp_path / "unknown.json"), "Training needs")


def test_training_killed_in_the_middle_resumes(
    run: Run, pair: tuple[Path, Path], tmp_path: Path, library: Path
) -> None:
    settings = {
        "name": "mine",
        "images": [str(pair[0])],
        "labels": [str(pair[1])],
        "classes": [{"name": "membrane", "label": 0}],
        "validate": "3",
        "spec": {"network": "unet", "widths": [4, 8]},
        "patch": [32, 32],
        "batch": 1,
        "steps": 12,
        "validate_every": 2,
    }
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    checkpoint = tmp_path / "killed" / "mine.training" / "checkpoint.safetensors"
    process = start(library, "train", file, "--out", tmp_path / "killed", "--device", "cpu")
    wait_for(checkpoint.exists, process)
    process.kill()
    process.communicate(timeout=240)
    assert checkpoint.exists()
    assert not (tmp_path / "killed" / "mine").exists()
    resumed = run("train", file, "--out", tmp_path / "killed", "--device", "cpu")
    through = run("train", file, "--out", tmp_path / "through", "--device", "cpu")
    assert (resumed.code, through.code) == (0, 0)
    assert not checkpoint.parent.exists()
    first, second = (read_description(ran.files[0]) for ran in (resumed, through))
    assert first.weights_sha256 == second.weights_sha256
    assert first.training.curves["held-out loss"] == second.training.curves["held-out loss"]
    assert len(first.training.curves["held-out loss"]) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_training_stopped_by_the_user_saves_the_step_it_is_at(
    pair: tuple[Path, Path], tmp_path: Path, library: Path, number: int
) -> None:
    arguments = ["--images", pair[0], "--labels", pair[1], *TINY, "--steps", 100_000, "--name", "mine"]
    process = start(library, "train", *arguments, "--out", tmp_path, "--device", "cpu")
    scratch = tmp_path / "mine.training"
    wait_for((scratch / "checkpoint.safetensors").exists, process)  # the first step is saved at once
    process.send_signal(number)
    process.communicate(timeout=240)
    assert process.returncode == 130
    with safe_open(scratch / "checkpoint.safetensors", framework="np") as opened:
        assert json.loads(opened.metadata()["fit"])["step"] >= 1


def test_scoring_a_membrane_probability_without_saying_so_is_noted(run: Run, image: Path, tmp_path: Path) -> None:
    assert run("segment", image, tmp_path / "out", "--model", "tiny").code == 0
    truth = tmp_path / "truth.tif"
    write_tiff(truth, (grey(3, 40, 50) > 99).astype(np.uint8))
    noted = run("score", tmp_path / "out" / "cells_probability.tif", truth)
    assert noted.code == 0
    assert "--truth-foreground cells" in noted.err
    told = run("score", tmp_path / "out" / "cells_probability.tif", truth, "--truth-foreground", "membranes")
    assert told.out == noted.out
    assert "truth-foreground" not in told.err
