"""Models in one file: out, in, and copied; whatever is wrong with a file, the library stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from full_disk import full_disk
from tiny_models import write_tiny

from napari_skipseg import durable
from napari_skipseg.errors import ModelError
from napari_skipseg.models.catalog import BUILT_IN, find_models
from napari_skipseg.models.description import Card, ModelScores
from napari_skipseg.models.folder import read_description, write_scores
from napari_skipseg.models.model import read_model
from napari_skipseg.models.model_library import list_library, rename_model
from napari_skipseg.models.transfer import MODEL_ENDING, add_ending, iter_duplicate, iter_export, iter_import
from napari_skipseg.progress import run_to_end

WEIGHTS = "weights.safetensors"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_SKIPSEG_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A model of another computer, with scores and a licence file."""
    folder = write_tiny(tmp_path / "elsewhere" / "mine", card=Card("of a colleague", license="MIT"))
    write_scores(folder, ModelScores({"Dice": 0.9}, "slice 3"))
    (folder / "LICENSE.txt").write_text("MIT")
    return folder


@pytest.fixture
def exported(mine: Path, tmp_path: Path) -> Path:
    return run_to_end(iter_export(mine, tmp_path))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def own_models(library: Path) -> list[str]:
    """Return all that a user sees in the folder of models; drafts begin with a dot."""
    return sorted(each.name for each in library.iterdir()) if library.exists() else []


def repack(source: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """Write a zip whose files, by name, `change` has changed."""
    with zipfile.ZipFile(source) as archive:
        files = {each: archive.read(each) for each in archive.namelist()}
    change(files)
    target = source.with_name("changed.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


# ---------------------------------------------------------------------------------------------------------- out and in


def test_a_model_comes_back_from_its_file_byte_by_byte(library: Path, mine: Path, exported: Path) -> None:
    assert exported.name == f"mine{MODEL_ENDING}"
    assert run_to_end(iter_import(exported)) == library / "mine"
    assert contents(library / "mine") == contents(mine)
    assert read_description(find_models()["mine"]).card.scores == {"Dice": 0.9}


def test_the_hashes_in_the_file_are_those_of_sha256sum(exported: Path, mine: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        lines = archive.read("mine/SHA256SUMS").decode().splitlines()
    told = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    assert told == {name: hashlib.sha256(content).hexdigest() for name, content in contents(mine).items()}


def test_a_file_unzipped_by_hand_is_imported_too_and_under_another_name(library: Path, exported: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        archive.extractall(exported.parent / "unzipped")
    folder = run_to_end(iter_import(exported.parent / "unzipped" / "mine", "yours"))
    assert (folder, read_description(folder).name) == (library / "yours", "yours")
    assert "SHA256SUMS" not in contents(folder)
    assert read_model(folder).description.weights_sha256 == read_description(folder).weights_sha256


def test_a_name_that_is_taken_is_refused_with_one_that_is_free(library: Path, exported: Path) -> None:
    run_to_end(iter_import(exported))
    run_to_end(iter_import(exported, "mine-2"))
    before = contents(library / "mine")
    with pytest.raises(ModelError, match="'mine' already: import it with another name, such as mine-3"):
        run_to_end(iter_import(exported))
    with pytest.raises(ModelError, match="'MINE' already"):  # one folder on Windows and macOS
        run_to_end(iter_import(exported, "MINE"))
    with pytest.raises(ModelError, match=r"'em-membrane' already: .* such as em-membrane-2"):
        run_to_end(iter_import(exported, "em-membrane"))
    with pytest.raises(ModelError, match="cannot name a model"):
        run_to_end(iter_import(exported, "../mine"))
    with pytest.raises(ModelError, match="not overwritten"):
        run_to_end(iter_export(library / "mine", exported))
    assert contents(library / "mine") == before


def test_a_built_in_model_is_copied_with_its_licence_and_its_weights(library: Path) -> None:
    folder = run_to_end(iter_duplicate(BUILT_IN / "em-boundary-3d", "copy"))
    old, new = read_description(BUILT_IN / "em-boundary-3d"), read_description(folder)
    assert (new.name, new.weights_sha256, new.card) == ("copy", old.weights_sha256, old.card)
    assert (folder / "LICENSE.txt").read_bytes() == (BUILT_IN / "em-boundary-3d" / "LICENSE.txt").read_bytes()


# ------------------------------------------------------------------------------------------------------ what is refused


def damaged(files: dict[str, bytes]) -> None:
    files[f"mine/{WEIGHTS}"] = files[f"mine/{WEIGHTS}"][:-1] + b"\x00"


def without_sums(files: dict[str, bytes]) -> None:
    damaged(files)
    del files["mine/SHA256SUMS"]


def other_network(files: dict[str, bytes]) -> None:
    described = json.loads(files["mine/model.json"])
    described["spec"]["widths"] = [4, 10]
    files["mine/model.json"] = json.dumps(described).encode()
    del files["mine/SHA256SUMS"]


def larger_weights(files: dict[str, bytes]) -> None:
    content = bytes(40 * 2**20)
    described = json.loads(files["mine/model.json"]) | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    files |= {"mine/model.json": json.dumps(described).encode(), f"mine/{WEIGHTS}": content}
    del files["mine/SHA256SUMS"]


FAULTS: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "damaged weights": (damaged, rf"{WEIGHTS} in .* is damaged \(SHA-256 differs\)"),
    "damaged weights, hashes removed": (without_sums, "SHA-256 differs"),
    "changed scores": (lambda files: files.update({"mine/scores.json": b"{}"}), r"scores\.json in .* is damaged"),
    "a licence taken out": (lambda files: files.pop("mine/LICENSE.txt"), r"not whole: LICENSE\.txt is missing"),
    "no weights": (lambda files: files.pop(f"mine/{WEIGHTS}"), f"has no {WEIGHTS}"),
    "no description": (lambda files: files.pop("mine/model.json"), r"holds no model: there is no model\.json"),
    "two models": (lambda files: files.update({"other/model.json": b"{}"}), "holds several models"),
    "weights of a different network": (other_network, "do not fit the network"),
    "a bomb as weights": (larger_weights, "do not fit the network"),
    "a bomb as scores": (lambda files: files.update({"mine/scores.json": bytes(2**25)}), "larger than any"),
    "a bomb as description": (lambda files: files.update({"mine/model.json": bytes(2**25)}), "larger than any"),
    "a way out": (lambda files: files.update({"../../evil.py": b""}), r"'\.\./\.\./evil\.py' in it leads out"),
    "a way out in the model": (lambda files: files.update({"mine/../../x": b""}), "leads out of its folder"),
    "an absolute path": (lambda files: files.update({"/etc/passwd": b""}), "leads out of its folder"),
    "a path of Windows": (lambda files: files.update({"mine\\..\\x": b""}), "leads out of its folder"),
    "a drive": (lambda files: files.update({"C:x": b""}), "leads out of its folder"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(kind: str, library: Path, exported: Path) -> None:
    change, words = FAULTS[kind]
    before = sorted(exported.parent.rglob("*"))
    bad = repack(exported, change)
    with pytest.raises(ModelError, match=words) as fault:
        run_to_end(iter_import(bad))
    assert "\n" not in str(fault.value)
    assert own_models(library) == []
    assert {each.name for each in set(exported.parent.rglob("*")) - set(before)} <= {"changed.zip", "models"}


def test_a_link_in_a_file_is_refused(library: Path, exported: Path) -> None:
    with zipfile.ZipFile(exported, "a") as archive:
        link = zipfile.ZipInfo("mine/extra")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ModelError, match="'mine/extra' in it is a link"):
        run_to_end(iter_import(exported))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.pt", b"\x80\x04cos\nsystem\n.", "can run code"),
        ("cut.zip", None, "cannot be read as a model"),
        ("text.zip", b"hello", "cannot be read as a model"),
        ("nowhere.zip", b"", "There is no file or folder"),
    ],
)
def test_what_is_no_model_is_named(
    name: str, content: bytes | None, words: str, library: Path, exported: Path, tmp_path: Path
) -> None:
    if name != "nowhere.zip":
        (tmp_path / name).write_bytes(exported.read_bytes()[:-900] if content is None else content)
    with pytest.raises(ModelError, match=words):
        run_to_end(iter_import(tmp_path / name))
    with pytest.raises(ModelError, match=r"is not a model: there is no model\.json"):
        run_to_end(iter_import(tmp_path))
    assert own_models(library) == []


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("mine", "mine.skipseg.zip"),
        ("mine.v2", "mine.v2.skipseg.zip"),
        ("a.skipseg", "a.skipseg.zip"),
        ("B.ZIP", "B.ZIP"),
    ],
)
def test_an_exported_file_has_the_ending_that_an_import_asks_for(
    typed: str, written: str, mine: Path, tmp_path: Path
) -> None:
    assert run_to_end(iter_export(mine, tmp_path / "out" / typed)) == tmp_path / "out" / written
    assert [each.name for each in (tmp_path / "out").iterdir()] == [written]


def test_an_ending_of_one_part_is_added_too() -> None:
    assert add_ending(Path("a/mine"), ".onnx") == Path("a/mine.onnx")
    assert add_ending(Path("mine.onnx"), ".onnx") == Path("mine.onnx")


def test_a_damaged_model_is_not_exported(mine: Path, tmp_path: Path) -> None:
    (mine / WEIGHTS).write_bytes((mine / WEIGHTS).read_bytes()[:-1] + b"\x00")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        run_to_end(iter_export(mine, tmp_path / "out"))
    assert list(tmp_path.glob("out*/*")) == []


# ------------------------------------------------------------------------------- kills, full disks and cancelled copies

STEPS = ((os, "fsync"), (os, "replace"), (Path, "open"), (Path, "write_bytes"), (Path, "mkdir"))
"""What an operation does to the disk; at each of these it may end."""

Act = Callable[[], Any]


def acting_at(number: int, act: Act, patch: pytest.MonkeyPatch) -> None:
    """Call `act` before the step `number` of all that writes to the disk."""
    steps = iter(range(10**6))

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            is_reading = real is open_file and (arguments[1:] or ("r",))[0] in ("r", "rb")
            if not is_reading and next(steps) == number:
                act()
            return real(*arguments, **options)

        return step

    open_file = Path.open
    for owner, name in STEPS:
        patch.setattr(owner, name, wrap(getattr(owner, name)))


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_killed_at(number: int, operation: Act) -> bool:
    """Run an operation in a fork of this process that is killed before the step `number`; return whether it was."""
    child = os.fork()
    if child == 0:
        try:
            acting_at(number, killed, pytest.MonkeyPatch())
            operation()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.fixture
def operations(library: Path, exported: Path) -> dict[str, Act]:
    run_to_end(iter_import(exported, "old"))
    return {
        "import": lambda: run_to_end(iter_import(exported, "new")),
        "duplicate": lambda: run_to_end(iter_duplicate(library / "old", "new")),
        "rename": lambda: rename_model(library / "old", "new"),
    }


def visible(library: Path) -> list[str]:
    return [name for name in own_models(library) if not durable.is_draft(name)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.parametrize("kind", ["import", "duplicate", "rename"])
def test_killed_at_any_step_the_models_are_whole(kind: str, library: Path, operations: dict[str, Act]) -> None:
    before, kills = contents(library / "old"), 0
    while is_killed_at(kills, operations[kind]):
        kills += 1
        there = visible(library)
        assert there in ([["old"], ["new"]] if kind == "rename" else [["old"], ["new", "old"]])
        assert all(not each.fault for each in list_library())
        if kind == "rename" and there == ["new"]:
            rename_model(library / "new", "old")
        elif "new" in there:
            durable.replace(library / "new", library.parent / f"whole-{kills}")
        assert contents(library / "old")[WEIGHTS] == before[WEIGHTS]
    assert kills > 3
    for draft in set(library.iterdir()) - {library / "old", library / "new"}:
        os.utime(draft, (0, 0))  # one that was killed before it was locked is removed after a day
    durable.remove_old_drafts(library, again=True)
    assert own_models(library) == (["new"] if kind == "rename" else ["new", "old"])


@pytest.mark.parametrize("kind", ["import", "duplicate", "rename"])
def test_a_full_disk_at_any_step_changes_nothing(kind: str, library: Path, operations: dict[str, Act]) -> None:
    before = contents(library / "old")
    for number in range(100):
        with pytest.MonkeyPatch.context() as patch:
            acting_at(number, full_disk, patch)
            try:
                operations[kind]()
                break
            except ModelError as error:
                fault = str(error)
        assert "No space left" in fault
        if own_models(library) == ["new", "old"]:
            durable.replace(library / "new", library.parent / f"whole-{number}")
        assert own_models(library) == ["old"]
        assert contents(library / "old") == before
    assert number > 3
    assert own_models(library) == (["new"] if kind == "rename" else ["new", "old"])


def test_too_small_a_disk_is_refused_before_the_copy(
    library: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ModelError, match="make room first"):
        run_to_end(iter_import(exported))
    assert own_models(library) == []


def test_a_cancelled_import_leaves_nothing(library: Path, exported: Path) -> None:
    work = iter_import(exported)
    assert next(work).done > 0
    assert [durable.is_draft(name) for name in own_models(library)] == [True]
    work.close()
    assert own_models(library) == []
