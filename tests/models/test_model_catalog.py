"""The catalog: built-in models, the user's own, and how they are found by name."""

import sys

import pytest

from napari_skipseg.errors import ModelError
from napari_skipseg.models import catalog
from napari_skipseg.models.description import ClassLabel, ModelDescription, description_to_json
from napari_skipseg.networks.specs import UNetSpec


def put(place, name, title=""):
    folder = place / name
    folder.mkdir(parents=True)
    description = ModelDescription(title or name, UNetSpec(), (ClassLabel("membrane", 0),), 32, "")
    (folder / "model.json").write_text(description_to_json(description), encoding="utf-8")
    return folder


@pytest.fixture
def built_in(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "BUILT_IN", tmp_path / "builtin")
    return tmp_path / "builtin"


@pytest.fixture
def own(tmp_path, monkeypatch, built_in):
    monkeypatch.setenv("NAPARI_SKIPSEG_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


def test_the_default_comes_first_then_built_in_ones_then_the_users_own(built_in, own):
    for place, name in [(own, "aardvark"), (own, "zebra"), (built_in, "em-x"), (built_in, "em-a")]:
        put(place, name)
    assert list(catalog.find_models()) == ["em-a", "em-x", "aardvark", "zebra"]
    put(built_in, "em-membrane")
    assert list(catalog.find_models()) == ["em-membrane", "em-a", "em-x", "aardvark", "zebra"]


def test_a_model_of_ones_own_does_not_hide_a_built_in_one(built_in, own):
    put(built_in, "em-membrane", "built in")
    put(own, "em-membrane", "my own")
    assert catalog.describe_model("em-membrane").name == "built in"


def test_folders_without_a_model_and_half_written_ones_are_left_out(own):
    put(own, "mine")
    put(own, ".mine-x7f2")
    (own / "mine.training").mkdir()
    (own / "notes.txt").write_text("")
    assert list(catalog.find_models()) == ["mine"]


def test_no_folder_at_all_means_no_models(own):
    assert catalog.find_models() == {}


def test_a_model_is_found_by_name_or_by_path(own, tmp_path):
    mine = put(own, "mine")
    elsewhere = put(tmp_path / "project", "other")
    assert catalog.locate_model("mine") == mine
    assert catalog.locate_model(str(elsewhere)) == elsewhere
    assert catalog.describe_model(str(elsewhere)).name == "other"


def test_an_unknown_name_gets_the_list_of_known_ones(own):
    with pytest.raises(ModelError, match=r"no model called 'em-membrame'\. Known models: none"):
        catalog.locate_model("em-membrame")
    put(own, "mine")
    put(own, "yours")
    with pytest.raises(ModelError, match="Known models: mine, yours; or give the path"):
        catalog.locate_model("em-membrame")


def test_a_pickle_given_as_a_model_is_refused_by_what_it_is(own, tmp_path):
    with pytest.raises(ModelError, match="can run code"):
        catalog.describe_model(str(tmp_path / "network.pth"))
    with pytest.raises(ModelError, match="can run code"):
        catalog.describe_model("network.pt")


@pytest.mark.skipif(sys.platform != "linux", reason="XDG folders are for Linux")
def test_without_a_variable_models_lie_in_the_users_data_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("NAPARI_SKIPSEG_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert catalog.user_folder() == tmp_path / "napari-skipseg" / "models"
