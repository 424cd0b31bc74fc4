"""The library: families by weights, damaged models by name, and what may be renamed or deleted."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran
from tiny_models import write_tiny

from napari_skipseg.errors import ModelError
from napari_skipseg.locks import FolderLock
from napari_skipseg.models import model_library as library_module
from napari_skipseg.models.description import Card, TrainingRecord
from napari_skipseg.models.folder import STARTED_FROM_FILE, read_description
from napari_skipseg.models.model_library import (
    LibraryModel,
    NoBinError,
    delete_model,
    list_library,
    put_into_deleted,
    rename_model,
    twins_of,
)
from napari_skipseg.models.transfer import iter_duplicate
from napari_skipseg.progress import run_to_end


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_SKIPSEG_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def child_of(parent: Path, name: str, margin: int) -> Path:
    """Write a model that was trained from `parent`; `write_tiny` gives a different one with a different number."""
    sha256 = read_description(parent).weights_sha256
    record = TrainingRecord(parent=parent.name, parent_sha256=sha256)
    folder = write_tiny(parent.parent / name, dimensions=margin, training=record)
    return folder


def own(found: list[LibraryModel]) -> dict[str, tuple[str, int]]:
    return {each.name: (each.parent, each.depth) for each in found if not each.is_built_in}


def test_a_family_outlives_new_names_and_copies(models: Path) -> None:
    first = write_tiny(models / "zebra")
    second = child_of(first, "calf", 3)
    assert own(list_library()) == {"zebra": ("", 0), "calf": ("zebra", 1)}
    weights = read_description(first).weights_sha256
    renamed = rename_model(first, "aardvark")
    assert (renamed.name, read_description(renamed).name) == ("aardvark", "aardvark")
    assert read_description(renamed).weights_sha256 == weights
    run_to_end(iter_duplicate(second, "twin"))
    assert own(list_library()) == {"aardvark": ("", 0), "calf": ("aardvark", 1), "twin": ("aardvark", 1)}
    found = {each.name: each for each in list_library()}
    assert twins_of(found["calf"], list(found.values())) == ["twin"]
    rename_model(renamed, "Aardvark")  # a name may differ from itself in its letters' case
    assert (models / "Aardvark").is_dir()


def test_models_that_name_each_other_as_parents_are_listed_once(models: Path) -> None:
    for name, other in [("a", "b"), ("b", "a"), ("c", "c")]:
        write_tiny(models / name, training=TrainingRecord(parent=other))
    assert sorted(own(list_library())) == ["a", "b", "c"]


def test_damaged_models_are_listed_with_what_is_wrong(models: Path) -> None:
    for name in ("good", "changed", "cut", "bare", "em-membrane"):
        write_tiny(models / name, card=Card("x", license="CC-BY-NC-4.0"))
    weights = models / "changed" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    (models / "cut" / "weights.safetensors").unlink()
    (models / "bare" / "model.json").unlink()
    (models / "next.training").mkdir()
    (models / "next.training" / "model.json").write_text("{}")
    found = {each.name: each for each in list_library() if not each.is_built_in}
    assert found.keys() == {"good", "changed", "cut", "bare", "em-membrane"}
    assert (found["good"].fault, found["good"].mark) == ("", "non-commercial")
    assert "SHA-256 differs" in found["changed"].fault
    assert "no readable weights.safetensors" in found["cut"].fault
    assert "model.json cannot be read" in found["bare"].fault
    assert found["bare"].description is None
    assert "A built-in model is called 'em-membrane' too" in found["em-membrane"].fault
    assert all("\n" not in each.fault for each in found.values())
    assert found["good"].size == sum(file.stat().st_size for file in (models / "good").iterdir())
    assert rename_model(models / "bare", "still-bare").is_dir()


def test_names_of_built_in_and_other_models_are_refused(models: Path) -> None:
    mine, other = write_tiny(models / "mine"), write_tiny(models / "other")
    for name, words in [
        ("other", "never overwritten: choose a different name, such as other-2"),
        ("em-membrane", "built-in model"),
        ("a/b", "cannot name a model"),
        ("x.training", "cannot name a model"),
    ]:
        with pytest.raises(ModelError, match=words):
            rename_model(mine, name)
    assert sorted(each.name for each in models.iterdir()) == ["mine", "other"]
    assert read_description(other).name == "other"


def test_built_in_models_are_neither_renamed_nor_deleted(models: Path) -> None:
    (built_in, *_) = list_library()
    for act in (delete_model, put_into_deleted, lambda folder: rename_model(folder, "x")):
        with pytest.raises(ModelError, match="'em-membrane' is a built-in model"):
            act(built_in.folder)
    assert built_in.folder.is_dir()


@pytest.mark.parametrize("used_as", ["its own", "its start"])
def test_a_model_that_a_training_uses_stays(models: Path, used_as: str) -> None:
    mine = write_tiny(models / "mine")
    scratch = models / ("mine.training" if used_as == "its own" else "next.training")
    lock = FolderLock(scratch, "taken")
    lock.take()
    if used_as == "its start":
        (scratch / STARTED_FROM_FILE).write_bytes(os.fsencode(mine))
    name = scratch.name.removesuffix(".training")
    for act in (delete_model, put_into_deleted, lambda folder: rename_model(folder, "x")):
        with pytest.raises(ModelError, match=f"while the training of '{name}' uses it"):
            act(mine)
    lock.release()
    assert rename_model(mine, "free").is_dir()


def test_deleted_models_are_in_the_bin(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []

    def send(path: str) -> None:
        moved.append(path)
        Path(path).rename(models.parent / "bin")

    monkeypatch.setattr("send2trash.send2trash", send)
    delete_model(write_tiny(models / "mine"))
    assert (moved, list(models.iterdir())) == ([str(models / "mine")], [])
    assert (models.parent / "bin" / "model.json").is_file()


@pytest.mark.parametrize("kind", ["fails", "does nothing", "a network drive"])
def test_without_a_bin_a_model_stays_and_a_folder_is_offered(
    kind: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(path: str) -> None:
        if kind == "fails":
            raise PermissionError(13, "Permission denied")
        assert kind == "does nothing"

    monkeypatch.setattr("send2trash.send2trash", send)
    if kind == "a network drive":
        monkeypatch.setattr(library_module, "_has_bin", lambda folder: False)
    mine = write_tiny(models / "mine")
    with pytest.raises(NoBinError, match="still"):
        delete_model(mine)
    assert put_into_deleted(mine) == models / "deleted" / "mine"
    assert put_into_deleted(write_tiny(models / "mine")) == models / "deleted" / "mine-2"
    assert own(list_library()) == {}
    assert read_description(models / "deleted" / "mine-2").name == "mine"


def test_commands_do_the_same(
    models: Path, run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    first = write_tiny(models / "mine")
    child_of(first, "calf", 3)
    (models / "bad").mkdir()
    (models / "bad" / "model.json").write_text("{")
    listed = run("models")
    assert [line.split()[0] for line in listed.out.splitlines()][-3:] == ["bad", "mine", "calf"]
    assert "bad: The model at" in listed.err
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").out)}
    assert (rows["calf"]["parent"], rows["calf"]["depth"]) == ("mine", 1)
    assert (rows["em-membrane"]["mark"], rows["em-membrane"]["built_in"]) == ("non-commercial", True)
    assert run("models", "export", "mine", tmp_path).files == [tmp_path / "mine.skipseg.zip"]
    assert run("models", "rename", "mine", "yours").files == [models / "yours"]
    assert run("models", "duplicate", "yours", "third").files == [models / "third"]
    assert run("models", "import", tmp_path / "mine.skipseg.zip", "--name", "fourth").files == [models / "fourth"]
    unanswered = run("models", "delete", "bad", "--no-bin")
    assert (unanswered.code, "give --yes" in unanswered.err, (models / "bad").is_dir()) == (1, True, True)
    assert run("models", "delete", "bad", "--yes", "--no-bin").files == [models / "deleted" / "bad"]
    refused = run("models", "delete", "em-membrane", "--yes")
    assert (refused.code, "built-in" in refused.err) == (1, True)
    assert sorted(each.name for each in models.iterdir()) == ["calf", "deleted", "fourth", "third", "yours"]
