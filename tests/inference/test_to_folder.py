"""Runs on disk: killed, stopped, short of space or led astray, they end with the same bytes or with one sentence."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from full_disk import full_disk
from identity import Identity, identity, make_model
from killed_runs import PROCESSES, Asked, has_all_chunks, kill
from numpy.typing import NDArray
from run_files import files_in, stop_after, whole

from napari_skipseg.devices import best_precision
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images import identity as identity_of_images
from napari_skipseg.images.files import holds_labels, read_levels, read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.intensity import samples
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.images.zarr import chunk_writer
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import create_ome_zarr, write_ome_zarr
from napari_skipseg.inference import predict, to_folder
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.halving import BackendOption
from napari_skipseg.inference.memory import TileChoice
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import TileWritten
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import Model
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(5)
CELLS = RNG.integers(0, 256, (2, 520, 300)).astype(np.uint8)
PLACE = ((50.0, 4.0, 8.0), "nm", (100.0, 20.0, 30.0))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("input") / "cells.ome.tif"
    write_ome_tiff(file, CELLS, Space("ZYX", *PLACE))
    return file


@pytest.fixture(scope="module")
def undisturbed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run without any fault leaves; each kind of run is done once."""
    known: dict[Asked, dict[str, bytes]] = {}

    def run(asked: Asked) -> dict[str, bytes]:
        kind = replace(asked, file=cells, folder=Path())
        if kind not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            replace(kind, folder=folder).run()
            known[kind] = files_in(folder)
        return known[kind]

    return run


@pytest.fixture(scope="module")
def whole_run(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What `quickly` leaves undisturbed, by format."""
    found = {}
    for form in ("tiff", "ome-zarr"):
        folder = tmp_path_factory.mktemp("whole")
        run_to_end(quickly(read_stack(cells), folder, form=form))
        found[form] = files_in(folder)
    return found


def quickly(
    stack: Stack,
    folder: Path,
    model: Model | None = None,
    restart: bool = False,
    form: Any = "tiff",
    maker: Any = identity,
    **options: Any,
) -> Any:
    """The work of a run with an identity network, whose result is known by hand."""
    target = FolderTarget(folder, "cells", form=form, restart=restart)
    chosen = SegmentOptions(**({"device": "cpu", "tile": 200} | options))
    return iter_segment(RunSpec(stack, model or make_model(), chosen, backend_maker=maker), target)


class Counted:
    """Makes identity networks, and counts how often they run."""

    def __init__(self) -> None:
        self.made: list[Identity] = []

    def __call__(self, model: Model, device: object, shape: tuple[int, ...]) -> Identity:
        self.made.append(Identity(model, shape))
        return self.made[-1]

    @property
    def runs(self) -> int:
        return sum(backend.runs for backend in self.made)


# ----------------------------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize(
    ("form", "depth", "moment", "count"),
    [
        ("tiff", "uint8", "begun", 1),
        pytest.param("tiff", "uint8", "tile noted", 1, marks=pytest.mark.slow),
        ("tiff", "float32", "chunk", 17),
        pytest.param("ome-zarr", "uint8", "noting", 4, marks=pytest.mark.slow),
        ("ome-zarr", "float32", "tile noted", 5),
        ("ome-zarr", "uint8", "pyramid", 2),
        pytest.param("ome-zarr", "float32", "all written", 1, marks=pytest.mark.slow),
        ("ome-zarr", "uint8", "moved", 2),
        ("tiff", "uint8", "tiff", 3),
        pytest.param("tiff", "float32", "moved", 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    cells: Path, tmp_path: Path, undisturbed: Any, form: str, depth: str, moment: str, count: int
) -> None:
    asked = Asked(cells, tmp_path / "out", form, depth)
    kill(asked, moment, count)
    assert (tmp_path / "out" / "cells.unfinished").is_dir()
    asked.run()
    found = files_in(tmp_path / "out")
    assert found == undisturbed(asked)
    assert any("attention_2" in name for name in found)


def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(cells: Path, tmp_path: Path, undisturbed: Any) -> None:
    asked = Asked(cells, tmp_path)
    for moment, count in (("tile noted", 2), ("chunk", 9), ("noting", 1), ("tiff", 1), ("moved", 3)):
        kill(asked, moment, count)
    asked.run()
    assert files_in(tmp_path) == undisturbed(asked)


def test_older_results_are_there_until_the_new_ones_are_whole(cells: Path, tmp_path: Path, undisturbed: Any) -> None:
    asked = Asked(cells, tmp_path, "ome-zarr")
    older = quickly(read_stack(cells), tmp_path, form="ome-zarr", attention=False)
    run_to_end(older)
    before = files_in(tmp_path)
    kill(asked, "pyramid", 2)
    assert {name: content for name, content in files_in(tmp_path).items() if "unfinished" not in name} == before
    kill(asked, "moved", 1)
    asked.run()
    assert files_in(tmp_path) == undisturbed(asked)


def test_only_what_is_left_is_computed(cells: Path, tmp_path: Path) -> None:
    stop_after(quickly(read_stack(cells), tmp_path), 6)
    counted = Counted()
    seen = [*quickly(read_stack(cells), tmp_path, maker=counted)]
    assert 0 < counted.runs <= seen[-1].total - 6
    assert [each.done for each in seen if isinstance(each, TileWritten)][-1] == seen[-1].total


def test_a_run_goes_on_with_its_own_tile(
    cells: Path, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(cells, tmp_path, tile=0)
    expected = undisturbed(asked)
    kill(asked, "tile noted", 1)
    monkeypatch.setattr(predict, "choose_tile", lambda *given: TileChoice(96, 3, 0, "another"))
    asked.run()
    assert files_in(tmp_path) == expected


def test_a_run_goes_on_with_its_own_backend_and_precision(cells: Path, tmp_path: Path, undisturbed: Any) -> None:
    asked = Asked(cells, tmp_path, depth="float32")
    kill(asked, "tile noted", 3)
    replace(asked, openvino=True).run()
    assert files_in(tmp_path) == undisturbed(asked)
    recipe = read_recipe(tmp_path / "cells_probability.tif")
    assert recipe is not None
    assert (recipe["backend"], recipe["precision"]) == ("torch", best_precision("cpu").name)


@pytest.mark.parametrize("damage", [None, b"", b'{"key": 1', b"[]", b"{}", b"\xff\xfe", "a key", "a kind"])
def test_a_run_whose_facts_are_lost_or_damaged_is_begun_anew(
    cells: Path, tmp_path: Path, whole_run: Any, damage: Any
) -> None:
    stop_after(quickly(read_stack(cells), tmp_path / "out"), 2)
    unfinished = tmp_path / "out" / "cells.unfinished"
    facts = unfinished / "run.json"
    if isinstance(damage, bytes):
        facts.write_bytes(damage)
    elif damage is None:
        facts.unlink()
    else:
        told = json.loads(facts.read_bytes())
        told = told | {"recipe": None} if damage == "a kind" else {"key": told["key"]}
        facts.write_text(json.dumps(told))
    (unfinished / ".skipseg-0123abcd.part").write_bytes(b"half a file")
    (unfinished / ".skipseg-0123abce.part").mkdir()
    run_to_end(quickly(read_stack(cells), tmp_path / "out"))
    assert files_in(tmp_path / "out") == whole_run["tiff"]


def test_chunks_that_were_lost_are_made_again(cells: Path, tmp_path: Path, undisturbed: Any) -> None:
    asked = Asked(cells, tmp_path)
    kill(asked, "tiff", 1)
    shutil.rmtree(tmp_path / "cells.unfinished" / "cells_binary.ome.zarr")
    next((tmp_path / "cells.unfinished" / "cells_probability.ome.zarr").glob("0/c/1/*/*/0")).unlink()
    with (tmp_path / "cells.unfinished" / "done").open("ab") as journal:
        journal.write(np.array([2**40], "<u8").tobytes())
    asked.run()
    assert files_in(tmp_path) == undisturbed(asked)


def test_results_taken_away_in_mid_move_are_made_again(cells: Path, tmp_path: Path, undisturbed: Any) -> None:
    for form in ("ome-zarr", "tiff"):
        asked = Asked(cells, tmp_path / form, form)
        kill(asked, "moved", 2)
        moved = next(path for path in (tmp_path / form).iterdir() if path.suffix != ".unfinished")
        shutil.rmtree(moved) if moved.is_dir() else moved.unlink()
        asked.run()
        assert files_in(tmp_path / form) == undisturbed(asked)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_a_run_killed_at_any_time_goes_on_to_the_same_bytes(
    cells: Path, tmp_path: Path, undisturbed: Any, form: str
) -> None:
    chance = np.random.default_rng(len(form))
    for depth in ("uint8", "float32"):
        asked = Asked(cells, tmp_path / depth, form, depth)
        expected = undisturbed(asked)
        for _ in range(13):
            process = PROCESSES.Process(target=asked.run)
            process.start()
            process.join(chance.uniform(0.02, 3.0))
            process.kill()
            process.join()
            if not (tmp_path / depth / "cells.unfinished").exists() and files_in(tmp_path / depth) == expected:
                shutil.rmtree(tmp_path / depth)
        asked.run()
        assert files_in(tmp_path / depth) == expected


# ---------------------------------------------------------------------------------------------------------- stopped


def test_what_was_stopped_before_its_first_tile_leaves_nothing(cells: Path, tmp_path: Path) -> None:
    work = quickly(read_stack(cells), tmp_path / "new" / "out")
    for progress in work:
        if "preparing" in progress.message:
            assert (tmp_path / "new" / "out" / "cells.unfinished").is_dir()
            break
    work.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_stopped_later_can_be_looked_at_and_goes_on(cells: Path, tmp_path: Path, whole_run: Any) -> None:
    stop_after(quickly(read_stack(cells), tmp_path / "stopped"), 7)
    unfinished = tmp_path / "stopped" / "cells.unfinished"
    assert list((tmp_path / "stopped").iterdir()) == [unfinished]
    assert not (unfinished / "lock").exists()
    kinds = ("attention_1", "binary", "probability")
    assert sorted(unfinished.glob("*.zarr")) == [unfinished / f"cells_{kind}.ome.zarr" for kind in kinds]
    store = unfinished / "cells_probability.ome.zarr"
    assert not has_all_chunks(store)
    assert (read_stack(store).space.voxel_size, read_stack(store).space.unit, read_stack(store).space.origin) == PLACE
    seen = whole(store)
    run_to_end(quickly(read_stack(cells), tmp_path / "stopped"))
    assert files_in(tmp_path / "stopped") == whole_run["tiff"]
    final = whole(tmp_path / "stopped" / "cells_probability.tif")
    assert 0 < (seen != 0).sum() < (final != 0).sum()
    np.testing.assert_array_equal(seen[seen != 0], final[seen != 0])


def test_a_stack_of_no_file_leaves_nothing_where_it_is_stopped(tmp_path: Path) -> None:
    stack = Stack(CELLS, Space("ZYX"))
    stop_after(quickly(stack, tmp_path), 3)
    assert list(tmp_path.iterdir()) == []
    assert len(run_to_end(quickly(stack, tmp_path))) == 3


def test_a_stack_of_no_file_throws_away_no_run_of_a_file(cells: Path, tmp_path: Path) -> None:
    stop_after(quickly(read_stack(cells), tmp_path), 3)
    before = files_in(tmp_path)
    with pytest.raises(FileError, match="differs in input"):
        run_to_end(quickly(Stack(CELLS, Space("ZYX", *PLACE)), tmp_path))
    assert files_in(tmp_path) == before


# ------------------------------------------------------------------------------------------------------- another run


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"threshold": 0.25}, "threshold"),
        ({"attention": False}, "attention"),
        ({"tile": 96}, "tile"),
        ({"average": 4}, "average"),
        ({"form": "ome-zarr"}, "format"),
        ({"model": make_model(name="other")}, "model"),
        ({"threshold": 0.1, "average": 8}, "threshold, average"),
    ],
)
def test_a_run_of_another_kind_is_not_touched(cells: Path, tmp_path: Path, change: dict[str, Any], word: str) -> None:
    stop_after(quickly(read_stack(cells), tmp_path), 2)
    before = files_in(tmp_path)
    with pytest.raises(FileError, match=rf"differs in {word}: finish it first .* --restart\)\.$") as fault:
        run_to_end(quickly(read_stack(cells), tmp_path, **change))
    assert "\n" not in str(fault.value)
    assert files_in(tmp_path) == before
    run_to_end(quickly(read_stack(cells), tmp_path))
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json"] * 2 + [".tif"] * 3


def test_a_run_of_another_image_is_thrown_away_where_that_is_asked_for(cells: Path, tmp_path: Path) -> None:
    image = Path(shutil.copy2(cells, tmp_path / "cells.ome.tif"))
    stop_after(quickly(read_stack(image), tmp_path / "out"), 2)
    write_ome_tiff(image, CELLS[:, ::-1], Space("ZYX", *PLACE))
    with pytest.raises(FileError, match="differs in input:"):
        run_to_end(quickly(read_stack(image), tmp_path / "out"))
    run_to_end(quickly(read_stack(image), tmp_path / "out", restart=True))
    run_to_end(quickly(read_stack(image), tmp_path / "through"))
    assert files_in(tmp_path / "out") == files_in(tmp_path / "through")


def test_two_runs_at_once_are_refused(cells: Path, tmp_path: Path) -> None:
    first = quickly(read_stack(cells), tmp_path)
    while not isinstance(next(first), TileWritten):
        pass
    for restart in (False, True):
        with pytest.raises(FileError, match=f"being written by a different run \\(process {os.getpid()}\\)"):
            run_to_end(quickly(read_stack(cells), tmp_path, restart=restart))
    assert len(run_to_end(first)) == 3
    assert sorted(tmp_path.glob("*.unfinished")) == []


# ------------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize(("form", "piece"), [("tiff", 1), ("tiff", 20), ("ome-zarr", 2), ("ome-zarr", 38)])
def test_a_full_disk_is_one_sentence_and_what_was_written_goes_on(
    cells: Path, tmp_path: Path, whole_run: Any, monkeypatch: pytest.MonkeyPatch, form: Any, piece: int
) -> None:
    calls = []
    put = chunk_writer.write_whole

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) >= piece:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(chunk_writer, "write_whole", full)
        with pytest.raises(
            FileError, match=r"no space left to write .* free some space or choose a different folder"
        ) as fault:
            run_to_end(quickly(read_stack(cells), tmp_path / "out", form=form))
    assert "\n" not in str(fault.value)
    assert len(calls) >= piece
    assert (tmp_path / "out").exists() == (piece > 2)  # a tile is three pieces
    run_to_end(quickly(read_stack(cells), tmp_path / "out", form=form))
    assert files_in(tmp_path / "out") == whole_run[form]


def test_a_disk_that_is_full_when_the_tiff_is_written(
    cells: Path, tmp_path: Path, whole_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tifffile.TiffWriter, "write", full_disk)
        with pytest.raises(FileError, match="no space left"):
            run_to_end(quickly(read_stack(cells), tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cells.unfinished"]
    run_to_end(quickly(read_stack(cells), tmp_path / "out"))
    assert files_in(tmp_path / "out") == whole_run["tiff"]


def _with_small_files(asked: Asked, largest: int, said: Path) -> None:
    import resource  # which Windows has not
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        asked.run()
    except FileError as error:
        said.write_text(str(error)[:500])


@pytest.mark.parametrize("largest", [4_000, 100_000])
def test_a_file_system_that_takes_no_more_ends_in_one_sentence(
    cells: Path, tmp_path: Path, undisturbed: Any, largest: int
) -> None:
    asked = Asked(cells, tmp_path / "out", depth="float32")
    process = PROCESSES.Process(target=_with_small_files, args=(asked, largest, tmp_path / "said"))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "said").read_text().endswith("is larger than the file system allows: choose a different disk.")
    asked.run()
    assert files_in(tmp_path / "out") == undisturbed(asked)


# --------------------------------------------------------------------------------------------- folders and other files


def test_a_file_in_the_place_of_the_folder_is_refused(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("notes")
    for folder in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(FileError, match="out' is a file: choose a different folder"):
            run_to_end(quickly(read_stack(cells), folder))
    assert files_in(tmp_path) == {"out": b"notes"}


def test_a_read_only_disk_is_refused_before_any_work(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(self: Path, *given: Any, **named: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", closed)
    with pytest.raises(FileError, match="may not be written: choose a folder"):
        next(quickly(read_stack(cells), tmp_path / "out"))


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("tiff", "cells_probability.tif"),
        ("tiff", "cells_attention_1.tif"),
        ("ome-zarr", "cells_binary.ome.zarr"),
        ("ome-zarr", "cells_attention_1.ome.zarr"),
        ("ome-zarr", "cells_uncertainty.ome.zarr"),
    ],
)
def test_a_foreign_folder_in_the_place_of_a_result_is_refused_before_any_work(
    cells: Path, tmp_path: Path, form: Any, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("of ten years")
    average = 4 if "uncertainty" in name else 1
    with pytest.raises(FileError, match=f"{name}' is there already and not ours"):
        next(quickly(read_stack(cells), tmp_path, form=form, average=average))
    assert files_in(tmp_path) == {f"{name}/notes.txt": b"of ten years"}


def test_a_foreign_store_that_appears_meanwhile_is_left_alone(cells: Path, tmp_path: Path) -> None:
    work = quickly(read_stack(cells), tmp_path, form="ome-zarr")
    while not isinstance(next(work), TileWritten):
        pass
    (tmp_path / "cells_binary.ome.zarr").mkdir()
    (tmp_path / "cells_binary.ome.zarr" / "notes.txt").write_text("of ten years")
    with pytest.raises(FileError, match="not ours"):
        run_to_end(work)
    shutil.move(tmp_path / "cells_binary.ome.zarr", tmp_path / "mine")
    counted = Counted()
    run_to_end(quickly(read_stack(cells), tmp_path, form="ome-zarr", maker=counted))
    assert counted.runs == 0
    assert (tmp_path / "mine" / "notes.txt").read_text() == "of ten years"
    assert all(has_all_chunks(store) for store in tmp_path.glob("*.ome.zarr"))


def test_files_of_others_in_the_folder_of_a_run_are_kept(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "cells.unfinished" / "drafts").mkdir(parents=True)
    (tmp_path / "cells.unfinished" / "drafts" / "chapter 1.txt").write_text("It was a dark night.")
    run_to_end(quickly(read_stack(cells), tmp_path))
    assert [*files_in(tmp_path / "cells.unfinished")] == ["drafts/chapter 1.txt"]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("two words", "tiff"),
        ("d.v2", "ome-zarr"),
        ("Zellkörper_細胞", "tiff"),
        ("a [1]+(b)", "ome-zarr"),
        ("x_binary", "tiff"),
        ("-x", "ome-zarr"),
        ("%d", "tiff"),
    ],
)
def test_any_name_will_do(tmp_path: Path, name: str, form: Any) -> None:
    write_ome_tiff(tmp_path / f"{name}.ome.tif", CELLS[0, :60, :70], Space("YX", *PLACE))
    stack = read_stack(tmp_path / f"{name}.ome.tif")
    target = FolderTarget(tmp_path / "new" / "out", name, form=form)
    for stopped in (True, False):
        work = iter_segment(
            RunSpec(stack, make_model(), SegmentOptions("cpu", tile=40), backend_maker=identity), target
        )
        if stopped:
            stop_after(work, 2)
            assert [path.name for path in target.folder.iterdir()] == [f"{name}.unfinished"]
        else:
            files = run_to_end(work)
    kinds = ("probability", "binary", "attention_1")
    assert [file.name for file in files] == [f"{name}_{kind}{to_folder.FORMAT_ENDINGS[form]}" for kind in kinds]
    sidecars = [target.folder / f"{name}_{kind}.json" for kind in ("recipe", "times")]
    assert sorted(target.folder.iterdir()) == sorted([*files, *sidecars])


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("fault", ["changed", "removed"])
def test_an_image_that_changes_while_it_is_read_gives_no_results(cells: Path, tmp_path: Path, fault: str) -> None:
    image = Path(shutil.copy2(cells, tmp_path / "cells.ome.tif"))
    work = quickly(read_stack(image), tmp_path / "out")
    while not isinstance(next(work), TileWritten):
        pass
    aside = image.rename(tmp_path / "aside.ome.tif")
    if fault == "changed":
        write_ome_tiff(image, 255 - CELLS, Space("ZYX", *PLACE))
    with pytest.raises(FileError, match=f"was {fault} while it was read"):
        run_to_end(work)
    if fault == "changed":  # of what was written nothing is sure, whatever comes back later
        assert not (tmp_path / "out").exists()
    else:
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["cells.unfinished"]
    aside.replace(image)
    run_to_end(quickly(read_stack(image), tmp_path / "out"))
    run_to_end(quickly(read_stack(image), tmp_path / "through"))
    assert files_in(tmp_path / "out") == files_in(tmp_path / "through")


def test_a_zarr_that_grows_while_it_is_read_gives_no_results(tmp_path: Path) -> None:
    layout = Layout((2, 520, 300), Space("ZYX"), "uint8", chunks=(1, 64, 300))
    image = tmp_path / "cells.ome.zarr"
    writer = create_ome_zarr(image, layout)
    writer.write((slice(0, 2), slice(0, 512), slice(0, 300)), CELLS[:, :512])
    work = quickly(read_stack(image), tmp_path / "out")
    while not isinstance(next(work), TileWritten):
        pass
    writer.write((slice(0, 2), slice(512, 520), slice(0, 300)), CELLS[:, 512:])
    with pytest.raises(FileError, match="changed while it was read"):
        run_to_end(work)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["tiff", "zarr", "NaN"])
def test_a_stack_damaged_in_its_middle_keeps_what_was_written(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_of_images, "WHOLE", 0)  # of a large stack only a sample is hashed for the recipe
    monkeypatch.setattr(identity_of_images, "HASHED_BLOCKS", 1)
    values = RNG.random((40, 60, 70)).astype(np.float32)
    measured = np.random.default_rng(0).choice(40, samples.SAMPLED_SLICES, replace=False)
    slice_, image = max(set(range(40)) - set(measured)), tmp_path / ("cells.zarr" if kind == "zarr" else "cells.tif")
    if kind == "zarr":
        write_ome_zarr(image, values, Layout(values.shape, Space("ZYX"), "float32", chunks=(1, 60, 70)))
        os.truncate(image / "0" / "c" / str(slice_) / "0" / "0", 500)
    else:
        values[slice_, 30, 35] = np.nan if kind == "NaN" else 0
        tifffile.imwrite(image, values, photometric="minisblack", compression="zlib")
    if kind == "tiff":
        with tifffile.TiffFile(image) as file:
            place = file.pages[slice_].dataoffsets[0]
        content = bytearray(image.read_bytes())
        content[place : place + 2000] = bytes(2000)
        image.write_bytes(content)
    unfinished = tmp_path / "out" / "cells.unfinished"
    for _ in range(2):  # it goes on, and meets the same damage
        with pytest.raises(SkipsegError, match=r"cells\.|'cells'") as fault:
            run_to_end(quickly(read_stack(image), tmp_path / "out"))
        assert "\n" not in str(fault.value)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [unfinished.name]
        seen = whole(unfinished / "cells_probability.ome.zarr")
        assert seen[0].any()
        assert not seen[slice_:].any()
        assert not (unfinished / "lock").exists()


# ------------------------------------------------------------------------------------------------------ what is written


def test_both_formats_hold_the_same_of_a_time_lapse_with_classes(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (2, 2, 40, 520)).astype(np.uint8)
    write_ome_tiff(tmp_path / "cells.ome.tif", values, Space("TZYX", *PLACE))
    model = make_model(widths=(2, 3, 4), classes=("membrane", "vesicle", "axon"))
    stack = read_stack(tmp_path / "cells.ome.tif")
    options = SegmentOptions("cpu", tile=200, average=4)
    tiffs, stores = (
        run_to_end(
            iter_segment(RunSpec(stack, model, options), FolderTarget(tmp_path / form, "cells", "float32", form))
        )
        for form in ("tiff", "ome-zarr")
    )
    prediction = run_to_end(predict.iter_predict(RunSpec(stack, model, options)))
    assert [read_stack(file).space.axes for file in tiffs] == ["CTZYX", "TZYX", "CTZYX", *["TZYX"] * 2]
    assert [read_stack(file).space.axes for file in stores] == ["TCZYX", "TZYX", "TCZYX", *["TZYX"] * 2]
    assert prediction.uncertainty is not None
    expected = [
        prediction.probability,
        np.asarray(prediction.binary(0.5)),
        prediction.uncertainty,
        *(attention.data for attention in prediction.attentions),
    ]
    for tiff, store, right in zip(tiffs, stores, expected, strict=True):
        np.testing.assert_array_equal(whole(tiff), right)
        stored = whole(store)
        np.testing.assert_array_equal(stored.swapaxes(0, 1) if stored.ndim == 5 else stored, right)
        one, other = read_stack(tiff), read_stack(store)
        assert one.space.with_axes("ZYX") == other.space.with_axes("ZYX"), (
            "axes lie in a different order, the rest is the same"
        )
        assert read_recipe(tiff) == {**(read_recipe(store) or {}), "form": "tiff"}
        assert holds_labels(tiff) == holds_labels(store) == ("binary" in tiff.name)
        assert has_all_chunks(store)
        levels = read_levels(store)
        assert levels[0].shape == other.shape
        assert (len(levels) > 1) == (other.shape[-1] > 512)
    assert (
        read_stack(tiffs[0]).space.voxel_size,
        read_stack(tiffs[0]).space.unit,
        read_stack(tiffs[0]).space.origin,
    ) == PLACE
    assert read_stack(tiffs[-1]).space.voxel_size == (50.0, 8.0, 16.0)
    node = json.loads((stores[0] / "zarr.json").read_text())["attributes"]["ome"]
    assert [channel["label"] for channel in node["omero"]["channels"]] == ["membrane", "vesicle", "axon"]
    with tifffile.TiffFile(tiffs[0]) as file:
        assert all(name in str(file.ome_metadata) for name in ("membrane", "vesicle", "axon"))


def test_a_volume_in_3d_tiles_is_the_same_in_both_formats(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (70, 75, 80)).astype(np.uint8)
    write_ome_zarr(tmp_path / "cells.ome.zarr", values, Layout(values.shape, Space("ZYX", *PLACE), "uint8"))
    stack = read_stack(tmp_path / "cells.ome.zarr")
    model = make_model(3, (2, 3))
    tiffs, stores = (
        run_to_end(quickly(stack, tmp_path / form, model, form=form, tile=80)) for form in ("tiff", "ome-zarr")
    )
    for tiff, store in zip(tiffs, stores, strict=True):
        np.testing.assert_array_equal(whole(tiff), whole(store))
        assert has_all_chunks(store)


def test_a_backend_that_fails_in_mid_run_is_told_in_every_file(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Identity):
        def run(self, images: Any) -> Any:
            if self.runs == 5:
                raise RuntimeError("the cable is loose")
            return super().run(images)

    def maker(model: Model, device: Any, shape: tuple[int, ...]) -> Any:
        first = BackendOption("a GPU", "fast", lambda model, shape: Failing(model, shape))
        second = BackendOption("the CPU", "slow", lambda model, shape: Identity(model, shape))
        return FallbackBackend((first, second), model, shape)

    monkeypatch.setattr(Identity, "name", "steady", raising=True)
    monkeypatch.setattr(Failing, "name", "loose", raising=False)
    for form in ("tiff", "ome-zarr"):
        target = FolderTarget(tmp_path / form, "cells", form=form)
        options = SegmentOptions("cpu", tile=200)
        stop_after(iter_segment(RunSpec(read_stack(cells), make_model(), options, backend_maker=maker), target), 9)
        for file in run_to_end(quickly(read_stack(cells), tmp_path / form, form=form)):
            recipe = read_recipe(file)
            assert recipe is not None
            assert recipe["backend"] == "steady"
            assert ["cable" in note for note in recipe["notes"]] == [True]


# ----------------------------------------------------------------------------------------------------------- memory


class Lazy(LazyArray):
    """A stack that is made where it is looked at, and knows the largest part that was."""

    shape, dtype = (96, 128, 160), np.dtype("uint8")
    largest = 0

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        z, y, x = np.ogrid[tuple(np.s_[:length] for length in self.shape)]
        parts = (
            axis[tuple(part if n == place else 0 for n in range(3))]
            for place, (axis, part) in enumerate(zip((z, y, x), index, strict=True))
        )
        values = np.asarray(sum(np.meshgrid(*map(np.atleast_1d, parts), indexing="ij")) * 7 % 251, np.uint8)
        self.largest = max(self.largest, values.size)
        return values[tuple(0 if isinstance(part, int) else slice(None) for part in index)]


@pytest.mark.parametrize(("dimensions", "tile", "largest"), [(2, 0, 128 * 160), (3, 80, 80**3)])
@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_a_large_stack_is_never_whole_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimensions: int, tile: int, largest: int, form: Any
) -> None:
    monkeypatch.setattr("napari_skipseg.inference.guards.READ_ONCE", 0)  # a small one is read whole, once
    lazy = Lazy()
    assert lazy[3, 4, 5] == (12 * 7) % 251
    stack, model = Stack(lazy, Space("ZYX")), make_model(dimensions, skip="org")
    files = run_to_end(quickly(stack, tmp_path, model, form=form, tile=tile))
    assert 0 < lazy.largest <= largest
    assert read_stack(files[0]).shape == lazy.shape
