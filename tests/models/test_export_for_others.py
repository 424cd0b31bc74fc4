"""What other programs compute with an exported model is what the model computes; a package of ours comes back whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_packages import entries
from tiny_models import write_tiny

from napari_skipseg.errors import FileError, ModelError
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.description import Card, ClassLabel, ModelDescription
from napari_skipseg.models.exchange.import_package import iter_import_package
from napari_skipseg.models.exchange.network_files import (
    compute_probability,
    export_onnx,
    onnx_bytes,
    run_onnx,
    run_torchscript,
    torchscript_bytes,
)
from napari_skipseg.models.exchange.package import cite_model, export_package, spdx_name, standardized
from napari_skipseg.models.folder import read_description
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import (
    DI2INSpec,
    NetworkSpec,
    PixelHeadSpec,
    ResidualFCNSpec,
    Stage,
    TiramisuSpec,
    UNetSpec,
    VNetSpec,
)
from napari_skipseg.progress import run_to_end

pytest.importorskip("onnxruntime")
pytest.importorskip("bioimageio.spec")

BUILT_IN = ("em-membrane", "em-membrane-residual", "em-boundary-3d", "em-mitochondria", "em-membrane-mitochondria")
SMALL = UNetSpec(widths=(4, 8))
NETWORKS: dict[str, tuple[NetworkSpec, PixelHeadSpec | None]] = {
    "two classes, two channels": (UNetSpec(widths=(4, 8), in_channels=2, out_channels=3), None),
    "residual": (
        ResidualFCNSpec(width=4, stages=(Stage("bottleneck", 4, 2),), across=Stage("bottleneck", 8, 2)),
        None,
    ),
    "tiramisu": (TiramisuSpec(width=4, growth=2, layers=(1,), bottom_layers=1), None),
    "vnet in 3D": (VNetSpec(dimensions=3, widths=(2, 4), convolutions=(1, 1), kernel=3), None),
    "di2in": (DI2INSpec(widths=(4, 4)), None),
    "pixel head": (SMALL, PixelHeadSpec((0, None), scales=(1, 4))),
}


def made(spec: NetworkSpec, pixel_head: PixelHeadSpec | None = None) -> Model:
    torch.manual_seed(0)
    network = build(spec, pixel_head).eval()
    for weights in network.parameters():
        if not weights.any():  # pixel heads begin with zeros, which would give the same everywhere
            torch.nn.init.normal_(weights)
    count = len(pixel_head.sources) if pixel_head else max(1, spec.out_channels - 1)
    classes = tuple(ClassLabel(f"c{number}", number) for number in range(count))
    return Model(ModelDescription("m", spec, classes, 4, "", pixel_head=pixel_head), network)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_and_torchscript_give_the_probabilities_of_the_network_at_all_sizes(name: str) -> None:
    model = made(*NETWORKS[name])
    onnx, script = onnx_bytes(model), torchscript_bytes(model)
    spec, stride = model.description.spec, model.network.stride
    for count, sides in ((1, (1, 2, 3)), (2, (3, 2, 1))):
        shape = (count, spec.in_channels, *(side * stride for side in sides[-spec.dimensions :]))
        pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        wanted = compute_probability(model, pixels)
        assert wanted.shape == (count, len(model.description.classes), *shape[2:])
        assert np.ptp(wanted) > 1e-3
        assert np.abs(run_onnx(onnx, pixels) - wanted).max() <= 1e-5
        assert np.abs(run_torchscript(script, pixels) - wanted).max() <= 1e-5


def test_a_network_is_in_the_mode_that_it_had_before_it_was_exported() -> None:
    model = made(SMALL)
    onnx_bytes(model)
    assert not any(module.training for module in model.network.modules())


def test_an_onnx_file_says_how_to_use_it_and_is_never_overwritten(tmp_path: Path) -> None:
    import onnxruntime

    folder = write_tiny(tmp_path / "m", voxel_size=(50.0, 4.0, 4.0), unit="nm", card=Card(license="MIT"))
    file = export_onnx(folder, tmp_path)
    facts = onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map
    assert file.name == "m.onnx"
    assert {facts[key] for key in ("stride", "margin", "classes", "license")} == {"2", "8", '["membrane"]', "MIT"}
    with pytest.raises(FileError, match="not overwritten"):
        export_onnx(folder, tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model with all that a card can say, and its package."""
    top = tmp_path_factory.mktemp("exported")
    card = Card(
        summary="Ränder", data="ISBI (Cardona et al. 2010, doi:10.1371/journal.pbio.1000502)", terms="Cite it.",
        license="BSD-3-Clause AND CC-BY-4.0", scores={"Dice": 0.5},
    )  # fmt: skip
    folder = write_tiny(
        top / "Ränder 1", card=card, voxel_size=(50.0, 4.0, 4.0), unit="nm", thresholds=(0.25,), certainty=0.5
    )
    (folder / "LICENSE.txt").write_text("the licence")
    return folder, export_package(folder, top, ["A. Uthor"])


def test_a_package_comes_back_as_the_model_that_it_was_made_from(exported: tuple[Path, Path], tmp_path: Path) -> None:
    folder, package = exported
    found = run_to_end(iter_import_package(str(package), folder=tmp_path))
    assert found.name == "Ränder 1"
    for name in ("model.json", "weights.safetensors", "LICENSE.txt"):
        assert (found / name).read_bytes() == (folder / name).read_bytes()
    named = run_to_end(iter_import_package(str(package), "other", folder=tmp_path))
    assert read_description(named) == replace(read_description(folder), name="other")


def test_a_package_states_sizes_halo_classes_units_and_licence(exported: tuple[Path, Path]) -> None:
    import ruyaml

    files = entries(exported[1])
    rdf = ruyaml.YAML(typ="safe").load(files["rdf.yaml"])
    *_, y, _ = rdf["inputs"][0]["axes"]
    assert y == {"type": "space", "id": "y", "scale": 4.0, "unit": "nanometer", "size": {"min": 18, "step": 2}}
    *_, names, out_y, _ = rdf["outputs"][0]["axes"]
    assert (names["channel_names"], out_y["halo"]) == (["membrane"], 8)
    assert rdf["license"]["source"] == "LICENSE.txt"  # no single name says BSD-3-Clause AND CC-BY-4.0
    assert rdf["authors"] == [{"name": "A. Uthor"}]
    assert rdf["config"]["napari_skipseg"]["thresholds"] == {"membrane": 0.25}
    assert "10.1371/journal.pbio.1000502" in {each["doi"] for each in rdf["cite"]}
    assert (rdf["name"], files["LICENSE.txt"]) == ("R-nder 1", b"the licence")
    assert not {"sample.safetensors", "weights.pth"} & files.keys()


@pytest.mark.parametrize(
    ("expression", "name"),
    [("MIT", "MIT"), ("CC-BY-NC-SA-3.0", "CC-BY-NC-SA-3.0"), ("LicenseRef-ISBI-2012", ""), ("MIT AND ISC", ""),
     ("MIT-9", ""), ("", "")],
)  # fmt: skip
def test_a_licence_is_named_only_if_one_name_says_all(expression: str, name: str) -> None:
    assert spdx_name(expression) == name


def test_the_papers_and_the_data_of_a_model_are_cited() -> None:
    found = cite_model(read_description(locate_model("em-mitochondria")))
    assert {each["doi"] for each in found} == {
        "10.1007/978-3-319-24574-4_28", "10.1007/978-3-030-32692-0_48", "10.1038/s41592-018-0106-z",
        "10.1016/j.cell.2015.06.054", "10.6084/m9.figshare.856713",
    }  # fmt: skip


def test_patches_of_the_training_images_are_not_in_a_package(tmp_path: Path) -> None:
    from napari_skipseg.models.model import write_model

    model = made(SMALL)
    write_model(tmp_path / "m", model.description, model.network, sample=b"patches")
    package = export_package(tmp_path / "m", tmp_path)
    found = run_to_end(iter_import_package(str(package), "n", tmp_path))
    assert read_description(found).sample_sha256 is None
    assert not any(b"patches" in content for content in entries(package).values())
    assert read_model(found).description.weights_sha256 == read_description(tmp_path / "m").weights_sha256


def core_test(package: Path) -> Any:
    core = pytest.importorskip("bioimageio.core")
    return core.test_description(package)


def core_probability(package: Path, values: np.ndarray) -> np.ndarray:
    """Return what bioimageio.core computes for grey values (1, C, *space), which it else pads before it measures."""
    from bioimageio.core import create_prediction_pipeline, load_description
    from bioimageio.core.digest_spec import create_sample_for_model

    rdf = load_description(package)
    sample = create_sample_for_model(rdf, inputs={"input": values})
    pipeline = create_prediction_pipeline(rdf)
    with pipeline:
        found = pipeline.predict_sample_without_blocking(sample, skip_input_padding=True, skip_output_cropping=True)
    return np.asarray(found.members["output"].data.data)


def test_bioimageio_passes_a_package_and_computes_our_probabilities(exported: tuple[Path, Path]) -> None:
    folder, package = exported
    assert core_test(package).status == "passed"
    values = np.random.default_rng(1).integers(0, 255, (1, 1, 34, 40)).astype(np.float32)
    wanted = compute_probability(read_model(folder), standardized(values))
    assert np.abs(core_probability(package, values) - wanted).max() <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["em-membrane", "em-membrane-residual", "em-boundary-3d", "em-mitochondria", "em-membrane-mitochondria", *NETWORKS],
)
def test_bioimageio_passes_all_kinds_of_models_and_computes_our_probabilities(name: str, tmp_path: Path) -> None:
    from napari_skipseg.models.model import write_model

    if name in NETWORKS:
        model = made(*NETWORKS[name])
        write_model(folder := tmp_path / "model", model.description, model.network)
    else:
        folder = locate_model(name)
    package = export_package(folder, tmp_path / "package.zip")
    assert core_test(package).status == "passed"
    model = read_model(folder)
    spec = model.description.spec
    side = 2 * model.description.margin + 3 * model.network.stride
    shape = (1, spec.in_channels, *(side,) * spec.dimensions)
    values = np.random.default_rng(1).integers(0, 255, shape).astype(np.float32)
    off = np.abs(core_probability(package, values) - compute_probability(model, standardized(values)))
    assert off.max() <= 1e-3


def test_the_normalisation_of_a_package_is_that_of_our_own_runs() -> None:
    from napari_skipseg.images.intensity.normalize import measure
    from napari_skipseg.images.space import Space
    from napari_skipseg.images.stack import Stack

    values = np.random.default_rng(2).normal(100, 20, (64, 70)).round().astype(np.uint8)
    ours = measure(Stack(values, Space("YX"))).apply(values)
    assert np.abs(standardized(values[None, None].astype(np.float32))[0, 0] - ours).max() <= 1e-5


def test_the_commands_export_and_import(
    exported: tuple[Path, Path], tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, package = exported
    monkeypatch.setenv("NAPARI_SKIPSEG_MODELS", str(tmp_path / "models"))
    ended = run("models", "import", package, "--name", "again")
    assert (ended.code, ended.files) == (0, [tmp_path / "models" / "again"])
    written = run("models", "export", "again", tmp_path, "--onnx").files
    assert written == [tmp_path / "again.onnx"]
    assert "give one of them" in run("models", "export", "again", "--onnx", "--bioimageio").err
    assert "has hashes of its own" in run("models", "import", folder, "--hash", "0" * 64).err
    assert json.loads(run("models", "show", "again", "--json").out)["card"]["license"] == "BSD-3-Clause AND CC-BY-4.0"


def test_without_the_extra_an_export_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"napari-skipseg\[bioimageio\]"):
        export_onnx(write_tiny(tmp_path / "m"), tmp_path)
