"""The Python API: one line to load, one to segment, one to save; and nothing heavy before it is used."""

from __future__ import annotations

import runpy
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from run_python import run_python
from tiny_models import write_tiny

import napari_skipseg as skipseg
from napari_skipseg.errors import SpecError
from napari_skipseg.images.space import Space
from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.models.model import Model

EXAMPLES = Path(__file__).parents[1] / "examples"
RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("tiny", "em-membrane"):  # the built-in model, where there is one, goes before the second
        write_tiny(folder / name)
    return folder


@pytest.fixture
def model(library: Path, monkeypatch: pytest.MonkeyPatch, only_torch: None) -> Model:
    monkeypatch.setenv(MODELS_VARIABLE, str(library))
    return skipseg.load_model("tiny")


def test_every_public_name_resolves() -> None:
    assert sorted(skipseg.__all__) == skipseg.__all__
    for name in skipseg.__all__:
        assert getattr(skipseg, name).__name__ == name
        assert name in dir(skipseg)
    with pytest.raises(AttributeError, match="segmentation"):
        skipseg.segmentation  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, napari_skipseg; "
        "print([n for n in ('torch', 'openvino', 'numpy', 'napari', 'qtpy', 'dask') if n in sys.modules])"
    )
    assert run_python(code).stdout == "[]\n"


def test_array_stack_and_file_give_the_same(model: Model, tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (2, 40, 50)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", image)
    of_array = skipseg.segment(image, model, device="cpu")
    stack = skipseg.Stack(image, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    for same in (stack, tmp_path / "image.tif", str(tmp_path / "image.tif")):
        np.testing.assert_array_equal(skipseg.segment(same, model, device="cpu").probability, of_array.probability)
    assert of_array.space.axes == "ZYX"
    assert skipseg.segment(stack, model, device="cpu").space.voxel_size == (50.0, 4.0, 4.0)


def test_dask_arrays_are_segmented(model: Model) -> None:
    from dask import array

    image = RNG.integers(0, 256, (2, 40, 50)).astype(np.uint8)
    lazy = skipseg.segment(array.from_array(image, chunks=(1, 20, 20)), model, device="cpu")
    np.testing.assert_array_equal(lazy.probability, skipseg.segment(image, model, device="cpu").probability)


def test_axes_and_options_are_named(model: Model) -> None:
    rgb = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    prediction = skipseg.segment(rgb, model, axes="YXC", channel=1, device="cpu", attention=False)
    assert (prediction.space.axes, prediction.attentions) == ("YX", ())
    np.testing.assert_array_equal(
        prediction.probability, skipseg.segment(rgb[..., 1].copy(), model, device="cpu").probability
    )


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((30,), "", "lack Y or X"),
        ((2, 2, 2, 30, 30), "", "name 4 dimensions, the image has 5"),
        ((30, 30), "ZYX", "name 3 dimensions, the image has 2"),
        ((30, 30, 3), "YXS", "unknown letters"),
        ((0, 30, 30), "ZYX", "empty"),
    ],
)
def test_wrong_axes_are_explained(model: Model, shape: tuple[int, ...], axes: str, message: str) -> None:
    with pytest.raises(skipseg.SkipsegError, match=message):
        skipseg.segment(RNG.random(shape).astype(np.float32), model, axes=axes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"threshold": float("nan")}, "between 0 and 1"),
        ({"tile": -1}, "0 or more"),
        ({"device": "tpu"}, "cannot be 'tpu'"),
    ],
)
def test_impossible_options_are_explained(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(skipseg.SkipsegError, match=message):
        skipseg.segment(RNG.random((30, 30)).astype(np.float32), model, **options)


def test_a_prediction_is_saved_and_read_again(model: Model, tmp_path: Path) -> None:
    stack = skipseg.Stack(RNG.integers(0, 256, (2, 40, 50)).astype(np.uint8), Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    prediction = skipseg.segment(stack, model, device="cpu")
    written = skipseg.save_prediction(prediction, str(tmp_path / "results"), "cells")
    assert [file.name for file in written] == ["cells_probability.tif", "cells_binary.tif", "cells_attention_1.tif"]
    again = skipseg.read_stack(written[1])
    assert (again.space.axes, again.space.voxel_size, again.space.unit) == ("ZYX", (50.0, 4.0, 4.0), "nm")
    np.testing.assert_array_equal(np.asarray(again.data), prediction.binary(0.5))


def test_segmenting_leaves_the_model_as_it_was(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    first = skipseg.segment(RNG.random((30, 30)).astype(np.float32), model, device="cpu")
    assert first.recipe["model"] == "tiny"
    assert not model.network.training
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_own_models_are_found_by_name_and_by_folder(model: Model, library: Path) -> None:
    assert skipseg.find_models()["tiny"] == library / "tiny"
    assert skipseg.load_model(library / "tiny").description == model.description
    with pytest.raises(skipseg.SkipsegError, match=r"no model called 'tinny'.*Known models:.*tiny"):
        skipseg.load_model("tinny")


SHOWN = {
    "segment_a_stack.py": "sample_binary.tif",
    "segment_a_large_file.py": "_uncertainty.ome.zarr: (2, 256, 256), voxels of (50.0, 4.0, 4.0) nm",
    "score_against_truth.py": "V_rand",
    "train_a_network.py": "held-out V_rand",
}


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], example: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example])
    runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    assert SHOWN[example] in capsys.readouterr().out


def test_an_option_that_is_misspelt_is_one_sentence(model: Model) -> None:
    image = RNG.integers(0, 256, (40, 50)).astype(np.uint8)
    with pytest.raises(SpecError, match=r"There is no option 'treshold': did you mean 'threshold'.*average"):
        skipseg.segment(image, model, treshold=0.3)
    with pytest.raises(SpecError, match=r"There is no option 'cheese': the options are method.*planes"):
        skipseg.find_objects(image / 255, cheese=1)
    labels = np.ones_like(image)
    with pytest.raises(SpecError, match=r"There is no option 'reech': did you mean 'reach'"):
        skipseg.finetune(image, labels, "tiny", "new", reech="quick")
    for own in ("images", "model"):  # of the call itself
        with pytest.raises(TypeError):
            skipseg.finetune(image, labels, "tiny", "new", **{own: image})
    with pytest.raises(SpecError, match=r"There is no option 'recursiv': did you mean 'recursive'"):
        skipseg.run_batch("in", "out", "tiny", settings={"recursiv": True})


@pytest.mark.parametrize(
    ("option", "value"),
    [("reach", "quik"), ("precision", "f16"), ("loss", "mse"), ("batch_norm", "thawed")],
)
def test_a_value_that_fine_tuning_does_not_know_is_one_sentence(model: Model, option: str, value: str) -> None:
    image = RNG.integers(0, 256, (40, 50)).astype(np.uint8)
    with pytest.raises(SpecError, match=f"{option.replace('_', ' ')} cannot be '{value}': choose one of"):
        skipseg.finetune(image, np.ones_like(image), "tiny", "new", **{option: value})


@pytest.mark.parametrize(("images", "labels"), [(2, 1), (1, 2), (0, 1), (2, 0)])
def test_lists_of_another_length_are_one_sentence(model: Model, images: int, labels: int) -> None:
    image = RNG.integers(0, 256, (40, 50)).astype(np.uint8)
    with pytest.raises(skipseg.SkipsegError, match=rf"{images} images and {labels} labels were given"):
        skipseg.finetune([image] * images, [image] * labels, "tiny", "new")


@pytest.mark.parametrize(("form", "ending"), [("tiff", ".tif"), ("ome-zarr", ".ome.zarr")])
def test_a_file_is_segmented_into_a_folder(model: Model, tmp_path: Path, form: Any, ending: str) -> None:
    image = RNG.integers(0, 256, (2, 40, 50)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "cells.tif", image)
    written = skipseg.segment_to_folder(
        tmp_path / "cells.tif", model, tmp_path / "out", form=form, dtype="float32", device="cpu"
    )
    assert [file.name for file in written] == [f"cells_{kind}{ending}" for kind in ("probability", "binary")]
    sidecars = [tmp_path / "out" / f"cells_{kind}.json" for kind in ("recipe", "times")]
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted([*written, *sidecars])
    expected = skipseg.segment(image, model, device="cpu").probability
    np.testing.assert_array_equal(np.asarray(skipseg.read_stack(written[0]).data), expected)


def test_the_package_says_its_version():
    import napari_skipseg

    assert napari_skipseg.__version__ == metadata.version("napari-skipseg")
