"""What the guards find reaches every face of a run, and an image can be fed to the network as its negative."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from identity import Identity, identity, make_model
from numpy.typing import NDArray
from scipy import ndimage
from typer.testing import CliRunner

import napari_skipseg as skipseg
from napari_skipseg.api import load_model, run_recipe
from napari_skipseg.cli import app
from napari_skipseg.errors import FileError, ImageWarning
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_sample
from napari_skipseg.inference import guards
from napari_skipseg.inference.backends.interface import TileOutput
from napari_skipseg.inference.guards import (
    ImageExamination,
    iter_examine_image,
    iter_measure_for,
    probe_grid,
    read_probes,
    sign_stack,
)
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.trial import iter_plan
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.model import Model, write_model
from napari_skipseg.progress import ImageFindings, run_to_end

Values = NDArray[Any]


@cache
def sample() -> Values:
    return make_sample((6, 256, 256), 1).stack.data


@cache
def cells() -> Values:
    """Bright cells with dark membranes between them: of its negative nothing is dark."""
    generator = np.random.default_rng(0)
    field = ndimage.gaussian_filter(generator.normal(size=(6, 256, 256)), (0.5, 8, 8))
    lines = ndimage.gaussian_filter((np.abs(field) < 0.12 * field.std()).astype(float), (0, 1.2, 1.2))
    return (170 - 130 * lines + generator.normal(0, 6, field.shape)).clip(0, 255).astype(np.uint8)


def disturbed() -> Values:
    """A stack with a black slice, a shifted one, and one at a tenth of its contrast."""
    values = sample().copy()
    values[1] = 0
    values[3] = ((values[3] - 128.0) * 0.1 + 128).astype(np.uint8)
    values[4] = np.roll(sample()[4], (60, -40), (0, 1))
    return values


def signed(model: Model, values: Values) -> Model:
    """Return a model that was trained on such values."""
    stack = Stack(values, Space("ZYX"))
    signature = sign_stack(stack, {"Y": stack.length("Y"), "X": stack.length("X")}, measure(stack))
    assert signature is not None
    return Model(replace(model.description, signatures=(signature,), certainty=0.5), model.network)


def run(values: Values, model: Model, maker: Any = identity, **options: Any) -> tuple[Prediction, list[ImageFindings]]:
    found: list[ImageFindings] = []
    work = iter_predict(
        RunSpec(Stack(values, Space("ZYX"), name="it"), model, SegmentOptions("cpu", **options), backend_maker=maker)
    )
    prediction = run_to_end(
        work, lambda progress: found.append(progress) if isinstance(progress, ImageFindings) else None
    )
    return prediction, found


class FindsDark(Identity):
    """Is sure of what is dark: as a network for membranes."""

    def run(self, images: Values) -> TileOutput:
        output = super().run(images)
        probability = 0.97 * (images[:, :1] < -1.5) + 0.3 * (np.abs(images[:, :1]) < 0.1)
        return output._replace(probability=probability.astype(np.float32))


def finds_dark(model: Model, device: Any, shape: tuple[int, ...]) -> FindsDark:
    return FindsDark(model, shape)


def test_all_three_faults_are_found_and_in_the_recipe() -> None:
    prediction, found = run(disturbed(), make_model(margin=4))
    told = " ".join(prediction.recipe["findings"])
    assert "Slice 1 is empty" in told
    assert "Slice 3 has a tenth" in told
    assert "Slice 4 is shifted" in told
    assert [each.findings for each in found] == [tuple(prediction.recipe["findings"])]


def test_an_undisturbed_image_has_no_findings() -> None:
    prediction, found = run(cells(), signed(make_model(margin=4), cells()), finds_dark)
    assert prediction.recipe["findings"] == ()
    assert found == []


def test_an_inverted_image_is_told_and_offered() -> None:
    model = signed(make_model(margin=4), cells())
    prediction, (found,) = run(255 - cells(), model, finds_dark)
    assert found.seems_inverted
    assert "--invert" in " ".join(prediction.recipe["findings"])


def test_the_negative_of_an_inverted_image_gives_what_the_image_gives() -> None:
    model = signed(make_model(margin=4), cells())
    upright, _ = run(cells(), model, finds_dark)
    turned, found = run(255 - cells(), model, finds_dark, invert=True)
    np.testing.assert_array_equal(turned.probability, upright.probability)
    assert found == []
    assert turned.recipe["normalization"]["inverted"]
    assert turned.recipe["options"]["invert"]


def test_inverting_an_image_that_is_right_is_told() -> None:
    prediction, _ = run(cells(), signed(make_model(margin=4), cells()), finds_dark, invert=True)
    assert "without inverting" in " ".join(prediction.recipe["findings"])


def test_an_image_of_another_kind_is_told_and_the_network_not_asked() -> None:
    noise = np.random.default_rng(0).normal(120, 30, sample().shape).clip(0, 255).astype(np.uint8)
    prediction, (found,) = run(noise, signed(make_model(margin=4), sample()), finds_dark)
    assert "unlike" in " ".join(prediction.recipe["findings"])
    assert not found.seems_inverted


def test_the_kind_is_judged_at_the_scale_that_the_network_sees() -> None:
    model = signed(make_model(margin=4), sample())
    model = Model(replace(model.description, voxel_size=(50.0, 4.0, 4.0), unit="nm"), model.network)
    fine = ndimage.zoom(sample()[:2, :128, :128].astype(np.float32), (1, 5, 5), order=1)
    stack = Stack(fine, Space("ZYX", (50.0, 0.8, 0.8), "nm"), name="it")

    def told(rescale: bool) -> str:
        options = SegmentOptions("cpu", rescale=rescale)
        return " ".join(
            run_to_end(iter_predict(RunSpec(stack, model, options, backend_maker=finds_dark))).recipe["findings"]
        )

    assert "unlike" in told(False)
    assert "unlike" not in told(True)


def examined(values: Values, model: Model) -> ImageExamination:
    stack = Stack(values, Space("ZYX"))
    lengths = {"Y": stack.length("Y"), "X": stack.length("X")}
    return run_to_end(iter_examine_image(stack, model.description, lengths, measure(stack)))


@pytest.mark.parametrize("border", [20, 64, 150])
@pytest.mark.parametrize("value", [0, 100, 255])
def test_a_frame_does_not_make_an_image_unlike(border: int, value: int) -> None:
    framed = np.pad(cells(), ((0, 0), (border, border), (border, border)), constant_values=value)
    found = examined(framed, signed(make_model(margin=4), cells()))
    assert (found.findings, found.unlike) == ((), "")


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01])
def test_hot_pixels_are_no_fault_of_a_slice(share: float) -> None:
    spoilt = cells().astype(np.uint16) + 300
    spoilt[np.random.default_rng(4).random(spoilt.shape) < share] = 65535
    found = examined(spoilt, signed(make_model(margin=4), cells()))
    assert (found.findings, found.unlike) == ((), "")


@pytest.mark.parametrize("box", [(6, 128, 128), (1, 160, 160), (3, 64, 64)])
def test_a_small_part_of_an_image_is_not_unlike_the_whole(box: tuple[int, int, int]) -> None:
    model = signed(make_model(margin=4), sample())
    for y, x in ((0, 0), (60, 90), (96, 30)):
        part = sample()[: box[0], y : y + box[1], x : x + box[2]]
        assert examined(part, model).unlike == ""


@pytest.mark.parametrize("border", [0, 40, 90])
def test_an_inverted_image_in_a_frame_is_recognised(border: int) -> None:
    framed = np.pad(255 - cells(), ((0, 0), (border, border), (border, border)))
    _, found = run(framed, signed(make_model(margin=4), cells()), finds_dark)
    assert [each.seems_inverted for each in found] == [True]


def test_the_network_decides_on_an_unlike_image_whose_negative_is_nearer() -> None:
    model = signed(make_model(margin=4), cells())
    large = ndimage.zoom(cells()[:4, :105, :105], (1, 3, 3), order=1)
    assert examined(large, model).unlike
    assert examined(255 - large, model).asks_network
    assert not examined(large, model).asks_network


def test_the_network_is_not_asked_about_an_image_as_in_its_training() -> None:
    model = signed(make_model(margin=4), cells())
    assert not examined(cells(), model).asks_network
    assert examined(255 - cells(), model).asks_network
    assert examined(cells(), make_model(margin=4)).asks_network  # nothing is known of its training


class Counted:
    """An array that counts how often it is read."""

    def __init__(self, values: Values) -> None:
        self.values, self.shape, self.dtype, self.reads = values, values.shape, values.dtype, 0

    def __getitem__(self, key: Any) -> Values:
        self.reads += 1
        return self.values[key]


def test_a_small_stack_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Counted(cells())
    model = signed(make_model(margin=4), cells())
    greys = run_to_end(iter_measure_for(Stack(data, Space("ZYX")), model.description, SegmentOptions("cpu")))
    assert data.reads == 1
    monkeypatch.setattr(guards, "READ_ONCE", cells().nbytes - 1)
    assert run_to_end(iter_measure_for(Stack(data, Space("ZYX")), model.description, SegmentOptions("cpu"))) == greys
    assert data.reads > 10


def test_a_preview_and_a_tiny_image_ask_nothing() -> None:
    made: list[tuple[int, ...]] = []

    def counting(model: Model, device: Any, shape: tuple[int, ...]) -> FindsDark:
        made.append(shape)
        return FindsDark(model, shape)

    model = signed(make_model(margin=4), sample())
    run_to_end(
        iter_predict(
            RunSpec(
                Stack(sample()[:1], Space("ZYX")),
                model,
                SegmentOptions("cpu", tile=64),
                backend_maker=counting,
                is_preview=True,
            )
        )
    )
    run_to_end(
        iter_predict(
            RunSpec(
                Stack(sample()[:, :60, :60], Space("ZYX")),
                model,
                SegmentOptions("cpu", tile=32),
                backend_maker=counting,
            )
        )
    )
    assert made == [(64, 64), (32, 32)]


def test_patches_are_read_as_the_network_sees_them_without_padding() -> None:
    framed = np.pad(sample(), ((0, 0), (300, 0), (0, 0)))
    stack = Stack(framed, Space("ZYX"))
    grid = probe_grid(stack, make_model(margin=4).description, {"Y": stack.length("Y"), "X": stack.length("X")})
    assert grid is not None
    normalization = measure(stack)
    probes = read_probes(stack, grid, normalization)
    assert probes.shape[1:] == (1, *grid.tiles.size)
    np.testing.assert_array_equal(read_probes(stack, grid, replace(normalization, inverted=True)), -probes)


def test_a_plan_tells_it_before_the_run(tmp_path: Path) -> None:
    model = signed(make_model(margin=4), cells())
    work = iter_plan(
        RunSpec(Stack(255 - cells(), Space("ZYX")), model, SegmentOptions("cpu"), backend_maker=finds_dark), tmp_path
    )
    plan = run_to_end(work)
    assert plan.seems_inverted
    assert "--invert" in " ".join(plan.describe().values())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a disturbed image, and a tiny model."""
    model = make_model(margin=4)
    write_model(tmp_path / "models" / "tiny", model.description, model.network)
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "it.tif", disturbed(), photometric="minisblack")
    return tmp_path


def test_shell_and_recipe_name_the_faults(files: Path) -> None:
    command = ["segment", str(files / "in" / "it.tif"), str(files / "out"), "--model", "tiny", "--invert"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    recipe = json.loads((files / "out" / "it_recipe.json").read_text())
    for told in (result.output, " ".join(recipe["findings"])):
        assert "Slice 1 is empty" in told
        assert "Slice 3 has a tenth" in told
        assert "Slice 4 is shifted" in told
    assert recipe["options"]["invert"]
    assert recipe["normalization"]["inverted"]


def test_a_recipe_of_an_inverted_run_repeats_it(files: Path) -> None:
    CliRunner().invoke(app, ["segment", str(files / "in/it.tif"), str(files / "out"), "--model", "tiny", "--invert"])
    with pytest.warns(ImageWarning):
        again = run_recipe(files / "out" / "it_recipe.json", files / "again")
    first = files / "out" / again[0].name
    np.testing.assert_array_equal(tifffile.imread(again[0]), tifffile.imread(first))


def test_batch_table_and_report_name_the_faults(files: Path) -> None:
    result = CliRunner().invoke(app, ["batch", str(files / "in"), str(files / "out"), "--model", "tiny", "--invert"])
    assert result.exit_code == 0, result.output
    (folder,) = (files / "out").iterdir()
    (row,) = csv.DictReader((folder / "summary.csv").read_text("utf-8-sig").splitlines())
    report = (folder / "report.html").read_text("utf-8")
    for told in (row["note"], report):
        assert "Slice 1 is empty" in told
        assert "Slice 3 has a tenth" in told
        assert "Slice 4 is shifted" in told
    settings = json.loads((folder / "batch.json").read_text("utf-8"))
    assert settings["request"]["options"]["invert"]


def test_python_is_warned_of_faulty_slices() -> None:
    with pytest.warns(ImageWarning, match="Slice 1 is empty"):
        skipseg.segment(disturbed(), make_model(margin=4), attention=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["em-membrane", "em-membrane-residual"])
def test_the_built_in_models_know_their_kind_and_an_inverted_one(name: str) -> None:
    model = load_model(name)
    assert skipseg.segment(sample(), model, attention=False).recipe["findings"] == ()
    with pytest.warns(ImageWarning, match="--invert"):
        skipseg.segment(255 - sample(), model, attention=False)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["isbi2012/test-volume.tif", "vnc_larva3/stack1-raw-00-09.tif"])
def test_em_membrane_says_nothing_of_real_stacks_of_its_kind(data_folder: Path, name: str) -> None:
    values = tifffile.imread(data_folder / name)[:4, :512, :512]
    assert skipseg.segment(values, "em-membrane", attention=False).recipe["findings"] == ()
    with pytest.warns(ImageWarning, match="--invert"):
        skipseg.segment(255 - values, "em-membrane", attention=False)


class Negative(FindsDark):
    """Is sure of what is bright, as a network for a rare dark class may be of a negative."""

    def run(self, images: Values) -> TileOutput:
        return super().run(-images)


def test_more_in_a_negative_that_is_farther_from_the_training_is_no_offer() -> None:
    def finds_bright(model: Model, device: Any, shape: tuple[int, ...]) -> Negative:
        return Negative(model, shape)

    model = signed(make_model(margin=4), cells())
    unsigned = Model(replace(model.description, signatures=()), model.network)
    slightly = ndimage.gaussian_filter(cells(), (0, 0.9, 0.9))  # so near to the training that the network is asked
    assert examined(slightly, model).asks_network
    assert [each.seems_inverted for each in run(slightly, unsigned, finds_bright)[1]] == [True]
    assert not any(each.seems_inverted for each in run(slightly, model, finds_bright)[1])


def test_em_mitochondria_does_not_ask_to_invert_the_sample() -> None:
    stack = Stack(make_sample((1, 512, 512), 6).stack.data, Space("ZYX", (50, 4, 4), "nm"), name="it")
    options = SegmentOptions("cpu", rescale=True)
    prediction = run_to_end(iter_predict(RunSpec(stack, load_model("em-mitochondria"), options)))
    assert "invert" not in " ".join(prediction.recipe["findings"])


class TornAt:
    """A stack of which one slice cannot be read."""

    def __init__(self, values: Values, torn: int) -> None:
        self._values, self._torn, self.shape, self.dtype = values, torn, values.shape, values.dtype

    def __getitem__(self, key: Any) -> Values:
        part = key[0]
        if self._torn in (range(len(self._values))[part] if isinstance(part, slice) else (part,)):
            raise FileError("Slice 5 is torn.")
        return self._values[key]


def test_a_slice_that_cannot_be_read_is_left_to_the_run() -> None:
    stack = Stack(TornAt(sample(), 5), Space("ZYX"), name="it")
    lengths = {"Y": 256, "X": 256}
    model = signed(make_model(margin=4), sample())
    examined = run_to_end(iter_examine_image(stack, model.description, lengths, measure(Stack(sample(), Space("ZYX")))))
    assert (examined.findings, examined.unlike) == ((), "")
    grid = probe_grid(stack, model.description, lengths)
    assert grid is not None
    assert read_probes(stack, grid, measure(Stack(sample(), Space("ZYX")))) is not None


def test_an_empty_slice_is_no_fault_where_constant_areas_are_tissue() -> None:
    prediction, _ = run(disturbed(), make_model(margin=4), padding="none")
    told = " ".join(prediction.recipe["findings"])
    assert "empty" not in told
    assert "a tenth" in told
