"""The tutorials of the site do what they say: each command and each block of Python is run, in order, in one folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran, runner

from napari_skipseg.models.catalog import MODELS_VARIABLE
from napari_skipseg.proofread.store import EDITS_VARIABLE

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
BLOCK = re.compile(r"(?:<!-- exit code (\d) -->\n)?```(bash|python)\n(.*?)```", re.DOTALL)
SMALL = ["--slices", "3", "--side", "192"]
"""Flags of a smaller sample, with which a tutorial takes seconds instead of a minute."""
RESULTS = {
    "first-stack": ("results/em-sample_binary.tif", "results/em-sample_objects.csv"),
    "folder-at-night": ("morning/*/report.html", "morning/*/wednesday/em-sample_objects.csv"),
    "own-organelle": ("strokes.tif", "mito/em-sample_probability.tif"),
    "proofread-a-volume": ("proofread.ome.zarr", "edits.json"),
    "write-a-network": ("inside/channels.png", "inside/features.png", "inside/updates.png"),
}


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, only_torch: None
) -> Callable[..., Ran]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv(EDITS_VARIABLE, str(tmp_path / "edits"))
    return runner(monkeypatch, capsys)


def test_every_tutorial_is_run() -> None:
    assert {page.stem for page in TUTORIALS.glob("*.md")} == RESULTS.keys()


@pytest.mark.parametrize("sample", [SMALL, pytest.param([], marks=pytest.mark.slow)], ids=["small", "as written"])
@pytest.mark.parametrize("name", RESULTS)
def test_a_tutorial_works(name: str, sample: list[str], run: Callable[..., Ran], tmp_path: Path) -> None:
    names: dict[str, object] = {}
    for code, language, text in BLOCK.findall((TUTORIALS / f"{name}.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(text, name, "exec"), names)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            ran = run(*arguments, *(sample if arguments == ["sample", "data"] else []))
            assert (program, ran.code) == ("napari-skipseg", int(code or 0)), f"{line}\n{ran.out}\n{ran.err}"
    for pattern in RESULTS[name]:
        assert len(list(tmp_path.glob(pattern))) == 1, pattern
