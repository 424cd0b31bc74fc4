"""Monte Carlo dropout: what its mean and deviation are, and that neither chance nor tiles show in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from identity import make_model
from numpy.typing import NDArray
from torch import nn

from napari_skipseg.devices import ChosenPrecision, Device
from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import folding, torch_backend
from napari_skipseg.inference.backends.interface import Backend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.inference.dropout import DropoutBackend
from napari_skipseg.inference.ensemble import iter_samples
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import iter_predict
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.saving import save_prediction
from napari_skipseg.models.model import Model, write_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(5)
CPU = Device("cpu", "CPU", "for the test")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that results can be compared to the last bits, on any processor."""
    monkeypatch.setattr(torch_backend, "best_precision", lambda device: ChosenPrecision("f32", ""))


def residual_model(dropout: float = 0.0) -> Model:
    """A network whose dropout takes single values; that of the U-Net takes whole channels."""
    torch.manual_seed(1)
    stages = (Stage("simple", 4, 1), Stage("basic", 4, 2), Stage("bottleneck", 4, 1))
    spec = ResidualFCNSpec(width=4, stages=stages, across=Stage("bottleneck", 8, 2), dropout=dropout)
    return Model(replace(make_model().description, spec=spec), build(spec).eval())


def grey(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def sampled(values: NDArray[Any], model: Model, folder: Path | None = None, **options: Any) -> Prediction:
    options = {"samples": 4, "dropout": 0.3} | options
    axes = "ZYX"[-values.ndim :]
    return run_to_end(
        iter_predict(RunSpec(Stack(values, Space(axes)), model, SegmentOptions("cpu", **options)), folder)
    )


def uncertainty_of(prediction: Prediction) -> NDArray[np.float32]:
    assert prediction.uncertainty is not None
    return prediction.uncertainty


def on_torch(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
    return TorchBackend(model, device)


@pytest.mark.parametrize("model", [make_model(), make_model(3), residual_model()], ids=["2D", "3D", "residual"])
def test_samples_differ(model: Model) -> None:
    values = grey(*(20,) * model.description.spec.dimensions)
    prediction = sampled(values, model, dropout=0.5)
    deviation = uncertainty_of(prediction)
    assert deviation.shape == prediction.probability.shape == values.shape
    assert deviation.dtype == np.float32
    assert 0.01 < deviation.max() <= 0.5


@pytest.mark.parametrize("model", [make_model(), residual_model()], ids=["unet", "residual"])
def test_at_rate_0_samples_are_the_plain_run(model: Model) -> None:
    values = grey(3, 40, 50)
    prediction = sampled(values, model, dropout=0.0, tile=32)
    plain = run_to_end(
        iter_predict(
            RunSpec(Stack(values, Space("ZYX")), model, SegmentOptions("cpu", tile=32), backend_maker=on_torch)
        )
    )
    np.testing.assert_array_equal(prediction.probability, plain.probability)
    for here, there in zip(prediction.attentions, plain.attentions, strict=True):
        np.testing.assert_array_equal(here.data, there.data)
    assert uncertainty_of(prediction).max() == 0
    assert plain.uncertainty is None


@pytest.mark.parametrize("model", [make_model(), residual_model()], ids=["unet", "residual"])
def test_mean_and_deviation_are_those_of_the_passes(model: Model) -> None:
    images = RNG.normal(size=(2, 1, 24, 32)).astype(np.float32)
    backend = DropoutBackend(model, CPU, 0.4)
    passes = []
    for sample in range(1, 8):
        backend.draw(3, sample, [(0, 5), (1, 5)])
        passes.append(backend.run(images))
    found = run_to_end(iter_samples(backend, 7, 3, images, [(0, 5), (1, 5)]))
    probabilities = np.stack([output.probability for output in passes])
    np.testing.assert_allclose(found.probability, probabilities.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.uncertainty, probabilities.std(axis=0), atol=1e-6)
    for level, attention in enumerate(found.attentions):
        expected = np.mean([output.attentions[level] for output in passes], axis=0)
        np.testing.assert_allclose(attention, expected, atol=1e-6)
        assert np.abs(attention - passes[0].attentions[level]).max() > 1e-3


@pytest.mark.parametrize("model", [make_model(), residual_model()], ids=["unet", "residual"])
def test_samples_are_drawn_as_torchs_own_dropout_draws(model: Model) -> None:
    rate, count = 0.3, 200
    image = RNG.normal(size=(1, 1, 8, 8)).astype(np.float32)
    backend = DropoutBackend(model, CPU, rate)
    found = run_to_end(iter_samples(backend, count, 0, image, [(0, 0)]))
    network = folding.Probabilities(build(model.description.spec))
    network.network.load_state_dict(model.network.state_dict())
    for module in network.eval().modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = rate
            module.train()
    torch.manual_seed(0)
    with torch.inference_mode():
        passes = np.stack([network(torch.from_numpy(image))[0].numpy() for _ in range(count)])
    error = 5 * passes.std(axis=0) * np.sqrt(2 / count)
    assert (np.abs(found.probability - passes.mean(axis=0)) < error).all()
    np.testing.assert_allclose(found.uncertainty.mean(), passes.std(axis=0).mean(), rtol=0.15)


def test_the_model_and_everyone_elses_random_numbers_stay_as_they_were() -> None:
    model, values = residual_model(), grey(30, 30)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    state = torch.get_rng_state()
    sampled(values, model)
    assert torch.equal(torch.get_rng_state(), state)
    after = model.network.state_dict()
    assert any("running_mean" in name for name in after)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(module.training for module in model.network.modules())
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(model.network(image).logits, model.network(image).logits)


@pytest.mark.parametrize("model", [make_model(), residual_model()], ids=["unet", "residual"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(model: Model) -> None:
    values = grey(2, 40, 50)
    first, again, other = (sampled(values, model, tile=32, seed=seed) for seed in (1, 1, 2))
    assert first.probability.tobytes() == again.probability.tobytes()
    assert uncertainty_of(first).tobytes() == uncertainty_of(again).tobytes()
    assert np.abs(first.probability - other.probability).max() > 1e-3


def test_a_tile_is_the_same_whatever_ran_before_it() -> None:
    image = RNG.normal(size=(1, 1, 16, 16)).astype(np.float32)
    backend, fresh = (DropoutBackend(residual_model(), CPU, 0.4) for _ in range(2))
    forwards = [run_to_end(iter_samples(backend, 3, 0, image, [(1, tile)])) for tile in range(3)]
    for tile in (2, 0, 1):
        again = run_to_end(iter_samples(fresh, 3, 0, image, [(1, tile)]))
        np.testing.assert_array_equal(again.probability, forwards[tile].probability)
        np.testing.assert_array_equal(again.uncertainty, forwards[tile].uncertainty)


@pytest.mark.parametrize("model", [make_model(), make_model(3), residual_model()], ids=["2D", "3D", "residual"])
def test_an_images_samples_do_not_depend_on_those_beside_it(model: Model) -> None:
    shape = (16,) * model.description.spec.dimensions
    images = RNG.normal(size=(3, 1, *shape)).astype(np.float32)
    backend, places = DropoutBackend(model, CPU, 0.4), [(0, 1), (2, 0), (0, 7)]
    together = run_to_end(iter_samples(backend, 3, 1, images, places))
    for number, (image, place) in enumerate(zip(images, places, strict=True)):
        alone = run_to_end(iter_samples(backend, 3, 1, image[None], [place]))
        np.testing.assert_allclose(together.probability[number], alone.probability[0], atol=1e-4)
        np.testing.assert_allclose(together.uncertainty[number], alone.uncertainty[0], atol=1e-4)
        for here, there in zip(together.attentions, alone.attentions, strict=True):
            np.testing.assert_allclose(here[number], there[0], atol=1e-4)


def test_masks_drawn_for_other_images_are_refused() -> None:
    backend = DropoutBackend(make_model(), CPU, 0.4)
    backend.draw(0, 1, [(0, 0), (0, 1)])
    with pytest.raises(ValueError, match="drawn for 2 images, not for 3"):
        backend.run(np.zeros((3, 1, 16, 16), np.float32))


def test_single_values_are_drawn_anew_in_each_tile_and_slice() -> None:
    values = np.repeat(grey(1, 24, 24), 2, axis=0)
    first, second = sampled(values, residual_model()).probability
    assert np.abs(first - second).max() > 1e-3
    image = RNG.normal(size=(1, 1, 16, 16)).astype(np.float32)
    backend = DropoutBackend(residual_model(), CPU, 0.4)
    places = ((0, 0), (0, 1), (1, 0))
    drawn = [run_to_end(iter_samples(backend, 2, 0, image, [place])).probability for place in places]
    assert min(np.abs(drawn[0] - drawn[1]).max(), np.abs(drawn[0] - drawn[2]).max()) > 1e-3


@pytest.mark.parametrize("dimensions", [2, 3])
def test_channels_are_the_same_in_every_tile_so_that_no_edge_shows(dimensions: int) -> None:
    shape = (64, 90) if dimensions == 2 else (20, 24, 40)
    values, model = grey(*shape), make_model(dimensions, margin=10)
    whole, tiled = (sampled(values, model, dropout=0.5, tile=tile) for tile in (0, 32))
    assert whole.recipe["tile"] != tiled.recipe["tile"]
    np.testing.assert_allclose(tiled.probability, whole.probability, atol=1e-5)
    np.testing.assert_allclose(tiled.uncertainty, whole.uncertainty, atol=1e-5)
    np.testing.assert_allclose(tiled.attentions[0].data, whole.attentions[0].data, atol=1e-5)


def test_each_class_has_its_own_uncertainty(tmp_path: Path) -> None:
    model = make_model(classes=("membrane", "mitochondrion"))
    prediction = sampled(grey(3, 40, 50), model, tmp_path, tile=24)
    deviation = uncertainty_of(prediction)
    assert deviation.shape == prediction.probability.shape == (2, 3, 40, 50)
    assert (deviation > 0).mean() > 0.99
    assert np.abs(deviation[0] - deviation[1]).max() > 1e-3
    np.testing.assert_array_equal(np.load(tmp_path / "uncertainty.npy"), deviation)


def test_without_a_rate_the_models_own_is_taken() -> None:
    values, model = grey(20, 20), residual_model(dropout=0.25)
    taken, given = sampled(values, model, dropout=None), sampled(values, model, dropout=0.25)
    np.testing.assert_array_equal(taken.probability, given.probability)


def test_samples_run_on_torch_and_the_recipe_says_so() -> None:
    def refuse(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        raise RuntimeError("samples need torch")

    options = SegmentOptions("cpu", samples=2, dropout=0.2, seed=9)
    recipe = run_to_end(
        iter_predict(RunSpec(Stack(grey(20, 20), Space("YX")), make_model(), options, backend_maker=refuse))
    ).recipe
    assert recipe["backend"] == "torch"
    assert {key: recipe["options"][key] for key in ("samples", "dropout", "seed")} == {
        "samples": 2,
        "dropout": 0.2,
        "seed": 9,
    }


def test_progress_counts_passes_and_closing_stops_within_one(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SegmentOptions("cpu", tile=24, samples=5, dropout=0.2)
    stack, model = Stack(grey(40, 40), Space("YX")), make_model(margin=0)
    seen = list(iter_predict(RunSpec(stack, model, options)))
    done = [progress.done for progress in seen if progress.total == 20]
    assert done == sorted(done)
    assert (min(done), max(done)) == (1, 20)
    assert {progress.total for progress in seen} == {1, 20}
    assert sum("pass" in progress.message for progress in seen) == 4 * 4
    runs = []
    run = DropoutBackend.run
    monkeypatch.setattr(DropoutBackend, "run", lambda self, images: runs.append(1) or run(self, images))
    work = iter_predict(RunSpec(stack, model, options))
    between = (progress for progress in work if "pass" in progress.message)
    for _ in range(4 + 2):
        message = next(between).message
    assert message.endswith("of 4, pass 2 of 5")
    work.close()
    assert len(runs) == 5 + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, r"2 samples or more \(0 = none\), not 1"),
        ({"samples": -3}, "not -3"),
        ({"samples": 4, "average": 4}, "choose one of them"),
        ({"dropout": 0.2}, "ask for some, such as 10"),
        ({"samples": 4, "dropout": 1.0}, "less than 1, not 1.0"),
        ({"samples": 4, "dropout": -0.1}, "0 or more"),
        ({"samples": 4, "dropout": float("nan")}, "not nan"),
        ({"samples": 4, "dropout": 0.2, "seed": -1}, "seed must be 0 or more"),
    ],
)
def test_impossible_samples_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmentOptions(**options)


def test_a_model_without_dropout_needs_a_rate_before_anything_is_read() -> None:
    work = iter_predict(RunSpec(Stack(grey(20, 20), Space("YX")), make_model(), SegmentOptions("cpu", samples=4)))
    with pytest.raises(InputError, match=r"tiny was trained without dropout.*rate, such as 0\.2"):
        next(work)


def test_a_network_without_dropout_layers_is_refused() -> None:
    model = make_model()
    for module in list(model.network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout2d):
                setattr(module, name, nn.Identity())
    with pytest.raises(InputError, match="no dropout layers"):
        sampled(grey(20, 20), model)


@pytest.mark.parametrize("depth", ["uint8", "float32"])
def test_uncertainty_is_saved_as_it_is(tmp_path: Path, depth: Any) -> None:
    stack = Stack(grey(2, 30, 40), Space("ZYX", (50.0, 4.0, 8.0), "nm", (100.0, 20.0, 30.0)))
    prediction = run_to_end(iter_predict(RunSpec(stack, make_model(), SegmentOptions("cpu", samples=3, dropout=0.5))))
    names = [file.name for file in save_prediction(prediction, tmp_path, "em", dtype=depth)]
    assert names == ["em_probability.tif", "em_binary.tif", "em_uncertainty.tif", "em_attention_1.tif"]
    saved = read_stack(tmp_path / "em_uncertainty.tif")
    np.testing.assert_array_equal(saved.read((slice(None),) * 3), prediction.uncertainty)
    assert saved.space == stack.space
    assert (read_recipe(tmp_path / "em_uncertainty.tif") or {})["options"]["samples"] == 3


def test_the_shell_writes_uncertainty(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from napari_skipseg import cli
    from napari_skipseg.images.files import write_ome_tiff

    model = make_model()
    write_model(tmp_path / "model", model.description, model.network)
    write_ome_tiff(tmp_path / "em.tif", grey(30, 40), Space("YX", (1.0, 4.0, 4.0), "nm"))
    command = ["segment", str(tmp_path / "em.tif"), str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    command += ["--device", "cpu", "--samples", "3", "--dropout", "0.5", "--seed", "2"]
    ran = CliRunner().invoke(cli.app, command)
    assert ran.exit_code == 0, ran.output
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    kinds = ("binary.tif", "probability.tif", "recipe.json", "times.json", "uncertainty.tif")
    assert names == [f"em_{kind}" for kind in kinds]
    written = (read_recipe(tmp_path / "out" / "em_uncertainty.tif") or {})["options"]
    assert (written["samples"], written["dropout"], written["seed"]) == (3, 0.5, 2)
