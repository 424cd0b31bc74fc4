"""`napari-skipseg batch` and `skipseg.run_batch`: the same batch, told in a terminal and in Python."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from batch_folders import write_image
from command_line import Ran, runner
from rich.console import Console

import napari_skipseg as skipseg
from napari_skipseg.batch.settings import batch_settings_from_json
from napari_skipseg.batch.table import BatchOpened, BatchRow, BatchWaits, FileChanged
from napari_skipseg.cli.batch_table import _Lines, _LiveTable
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.terminal import run_shown


@pytest.fixture
def command(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    monkeypatch.setenv("COLUMNS", "200")
    run = runner(monkeypatch, capsys)
    return lambda *arguments: run("batch", *arguments, "--model", tiny, "--device", "cpu")


def test_a_folder_is_segmented_and_told_of(tmp_path: Path, command: Callable[..., Ran]) -> None:
    write_image(tmp_path / "in" / "a.tif", 1)
    write_image(tmp_path / "in" / "deep" / "b.tif", 2)
    ran = command(tmp_path / "in", tmp_path / "out", "--recursive", "--threshold", 0.4, "--objects", "components")
    assert ran.code == 0
    first, folder, summary, report = ran.out.splitlines()
    assert first == "2 images: 2 done."
    assert Path(summary).parent == Path(report).parent == Path(folder)
    assert (Path(folder) / "deep" / "b_objects.csv").is_file()
    assert "1 of 2 images: " in ran.err
    settings = batch_settings_from_json((Path(folder) / "batch.json").read_text())
    assert settings.recursive
    assert settings.request.options.threshold == 0.4
    assert not settings.request.options.attention
    assert settings.request.objects == ObjectOptions("components")


def test_planes_of_objects_have_an_option_of_their_own(tmp_path: Path, command: Callable[..., Ran]) -> None:
    ran = command(tmp_path, tmp_path / "out", "--objects", "cells", "--planes", "slices")
    assert (ran.code, "write --object-planes slices" in ran.err) == (1, True)


def test_a_failed_file_is_named_and_the_exit_code_tells(tmp_path: Path, command: Callable[..., Ran]) -> None:
    write_image(tmp_path / "in" / "a.tif", 1)
    (tmp_path / "in" / "bad.tif").write_text("no image")
    ran = command(tmp_path / "in", tmp_path / "out", "--channel", 0)
    assert ran.code == 1
    assert ran.out.splitlines()[0] == "2 images: 1 done, 1 failed."
    assert "failed  bad.tif: " in ran.out
    write_image(tmp_path / "in" / "bad.tif", 2)
    again = command(tmp_path / "in", tmp_path / "out", "--channel", 0, "--retry")
    assert (again.code, again.out.splitlines()[0]) == (
        0,
        "2 images: 1 done, 1 done before with the same recipe and skipped.",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in", "in"), "lies among the inputs"),
        (("nowhere", "out"), "does not exist"),
        (("in", "out", "--smallest", "5"), "Choose how objects are found"),
        (("in", "out", "--objects", "cells", "--contacts", "none.json"), "There is no classifier of contacts at"),
        (("in", "out", "--workers", "-1"), "workers must be 0 or more, not -1"),
        (("in", "out", "--threshold", "2"), "between 0 and 1"),
        (("in", "out", "--retry"), "No run with this recipe"),
        (("in", "out", "--voxel-size", "50", "4", "4"), "A voxel size needs its unit"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, command: Callable[..., Ran], arguments: tuple[str, ...], message: str
) -> None:
    write_image(tmp_path / "in" / "a.tif")
    inputs, output, *more = arguments
    ran = command(tmp_path / inputs, tmp_path / output, *more)
    assert ran.code == 1
    assert message in ran.err
    assert len([line for line in ran.err.splitlines() if not line.startswith("hwloc/")]) == 1
    assert not (tmp_path / "out").exists()


def test_python_runs_the_same_batch(tmp_path: Path, tiny: Path) -> None:
    write_image(tmp_path / "in" / "deep" / "a.tif", 1)
    result = skipseg.run_batch(tmp_path / "in", tmp_path / "out", tiny, settings={"recursive": True}, device="cpu")
    assert [(row.relative, row.state) for row in result.rows] == [("deep/a.tif", "done")]
    assert result.report.is_file()
    assert not list(result.folder.rglob("*attention*"))


def test_the_table_shows_what_runs_and_how_far_the_whole_is() -> None:
    table, console = _LiveTable(), Console(file=io.StringIO(), width=120)
    rows = tuple(BatchRow(f"{number}.tif", "") for number in range(3))
    table.show(BatchOpened(0, 3000, "0 of 3 images", rows, "/results"))
    table.show(
        FileChanged(500, 3000, "0 of 3 images", BatchRow("0.tif", "", "running", 1, 2, "tile 1 of 2", 90.0), 200.0)
    )
    table.show(
        FileChanged(1500, 3000, "1 of 3 images", BatchRow("1\x1b[2J.tif", "", "failed", reason="No image."), 200.0)
    )
    console.print(table.draw())
    shown = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    assert "50%" in shown
    assert "tile 1 of 2, 2 min left" in shown
    assert "1\N{REPLACEMENT CHARACTER}[2J.tif" in shown
    assert "No image." in shown
    assert "1 of 3 images, about 3 min left → /results" in shown


def test_without_a_terminal_each_end_is_a_line() -> None:
    console = Console(file=io.StringIO(), width=120)
    lines = _Lines(console)
    for _ in range(3):
        lines.show(BatchWaits(0, 2000, "0 of 2 images: starting the network"))
    lines.show(FileChanged(0, 2000, "0 of 2 images", BatchRow("a.tif", "", "running")))
    lines.show(FileChanged(0, 2000, "0 of 2 images", BatchRow("a.tif", "", "running", 1, 2, "tile 1 of 2")))
    lines.show(FileChanged(1000, 2000, "1 of 2 images", BatchRow("a.tif", "", "done", seconds=3.0, size="40 × 40")))
    lines.show(FileChanged(2000, 2000, "2 of 2 images", BatchRow("b.tif", "", "failed", reason="No image.")))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "0 of 2 images: starting the network",
        "0 of 2 images: a.tif 0%, reading",
        "1 of 2 images: a.tif done in 3 s, 40 × 40",
        "2 of 2 images: b.tif failed, No image.",
    ]


def test_a_name_of_any_bytes_is_printed_as_these_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def say(word: str) -> None:
        typer.echo(os.fsdecode(b"caf\xe9.tif"))

    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["napari-skipseg", "word"])
    with pytest.raises(SystemExit):
        run_shown(app)
    stdout.flush()
    assert stdout.buffer.getvalue() == b"caf\xe9.tif\n"  # type: ignore[attr-defined]
