"""The models that ship with the package: complete, undamaged, small enough, and honest about their data."""

import hashlib
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression

from napari_skipseg.models.catalog import BUILT_IN, DEFAULT_MODEL, find_models
from napari_skipseg.models.description import card_as_text, license_mark
from napari_skipseg.models.folder import read_description
from napari_skipseg.networks.build import count_parameters
from napari_skipseg.networks.specs import ResidualFCNSpec, UNetSpec
from napari_skipseg.objects.classes import BOUNDARY_CLASSES

MEBIBYTES = {
    "em-membrane": 16,
    "em-membrane-residual": 25,
    "em-boundary-3d": 8,
    "em-mitochondria": 10,
    "em-membrane-mitochondria": 10,
}


def test_five_models_ship_with_the_package():
    assert sorted(folder.parent.name for folder in BUILT_IN.glob("*/model.json")) == sorted(MEBIBYTES)
    assert next(iter(find_models())) == DEFAULT_MODEL == "em-membrane"


@pytest.mark.parametrize("name", MEBIBYTES)
def test_a_built_in_model_is_complete(name):
    description = read_description(BUILT_IN / name)
    card = description.card
    assert description.name == name
    assert all((card.summary, card.data, card.terms, card.license, card.commands, card.scores, card.scores_on))
    assert card.not_tried_on
    assert any("napari-skipseg train" in command for command in card.commands)
    assert all(0.5 < score <= 1 for score in card.scores.values())
    assert description.unit != ""
    assert description.margin > 0
    assert "training loss" in description.training.curves
    # names alone: the label of em-membrane is that of ISBI's truths, which batches score with; its training had 1
    trained = description.training.settings["classes"]
    assert [each["name"] for each in trained] == [each.name for each in description.classes]
    assert card.terms in card_as_text(description).replace("\n              ", "\n")


@pytest.mark.parametrize("name", MEBIBYTES)
def test_the_files_that_the_commands_of_a_card_name_are_there(name):
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    if not benchmarks.exists():
        pytest.skip("the tests of an installed package have no benchmarks")
    words = " ".join(read_description(BUILT_IN / name).card.commands).split()
    named = [word for word in words if word.endswith((".json", ".py"))]
    assert named
    for file in named:
        assert (benchmarks / "models" / Path(file).name).is_file(), file


def test_the_page_of_the_models_shows_each_model_at_work():
    pictures = Path(__file__).parents[2] / "docs" / "images" / "models"
    if not pictures.parent.exists():
        pytest.skip("the tests of an installed package have no docs")
    assert sorted(file.stem for file in pictures.iterdir()) == sorted(MEBIBYTES)


@pytest.mark.parametrize("name", MEBIBYTES)
def test_the_licence_of_a_built_in_model_lies_beside_it(name):
    expression = read_description(BUILT_IN / name).card.license
    text = (BUILT_IN / name / "LICENSE.txt").read_text(encoding="utf-8")
    assert text.splitlines()[0] == expression
    assert len(text) > 500


def test_the_licence_of_the_package_is_that_of_all_it_contains():
    """The code's own and one for each model: who installs the package must read in its metadata what it has."""
    declared = metadata.metadata("napari-skipseg")["License-Expression"]
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    if pyproject.exists():  # an environment may have been made from an earlier state of the checkout
        declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["license"]
    models = {read_description(BUILT_IN / name).card.license for name in MEBIBYTES}
    names = {name for expression in models for name in expression.split(" AND ")}
    assert set(declared.split(" AND ")) == {"BSD-3-Clause"} | names
    assert canonicalize_license_expression(declared) == declared


@pytest.mark.parametrize(
    ("expression", "terms", "mark"),
    [
        ("", "", ""),
        ("MIT", "", ""),
        ("BSD-3-Clause AND (MIT OR Apache-2.0)", "keep the notice", ""),
        ("LicenseRef-ISBI-2012", "", "non-commercial"),
        ("MIT AND CC-BY-NC-SA-4.0", "", "non-commercial"),
        ("", "ask the authors", "terms unclear"),
        ("LicenseRef-Unknown", "", "terms unclear"),
        ("CC-BY-SA-4.0 OR MIT", "", "terms unclear"),
    ],
)
def test_a_model_is_marked_unless_every_use_is_allowed(expression, terms, mark):
    assert license_mark(expression, terms) == mark


@pytest.mark.parametrize("name", MEBIBYTES)
def test_the_weights_of_a_built_in_model_are_the_ones_it_names(name):
    file = BUILT_IN / name / "weights.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == read_description(BUILT_IN / name).weights_sha256
    size = sum(part.stat().st_size for part in (BUILT_IN / name).iterdir())
    assert size <= MEBIBYTES[name] * 2**20


@pytest.mark.parametrize("name", MEBIBYTES)
def test_no_path_of_the_machine_it_was_trained_on_is_left_in_a_built_in_model(name):
    text = (BUILT_IN / name / "model.json").read_text(encoding="utf-8")
    assert not re.search(r'["\s](/|[A-Za-z]:[/\\])', text)


def test_the_default_is_a_sat_unet_for_non_commercial_use():
    description = read_description(BUILT_IN / "em-membrane")
    assert isinstance(description.spec, UNetSpec)
    assert (description.spec.dimensions, description.spec.skip) == (2, "sat")
    assert description.class_names == ("membrane",)
    assert description.voxel_size == (50, 4, 4)
    assert description.unit == "nm"
    assert "non-commercial" in description.card.terms


def test_the_residual_one_is_the_network_of_table_1():
    description = read_description(BUILT_IN / "em-membrane-residual")
    assert isinstance(description.spec, ResidualFCNSpec)
    assert count_parameters(description.spec) == 11_451_745
    assert "non-commercial" in description.card.terms


def test_the_one_for_volumes_is_a_3d_sat_unet():
    description = read_description(BUILT_IN / "em-boundary-3d")
    assert isinstance(description.spec, UNetSpec)
    assert (description.spec.dimensions, description.spec.skip) == (3, "sat")
    assert description.class_names[0] in BOUNDARY_CLASSES
