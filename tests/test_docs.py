"""The pages of the site and the README name only commands, options and Python names that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import napari_skipseg
from napari_skipseg.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
SHARED = {"--help", "--verbose", "--version"}
FOREIGN = {
    "--build-arg", "--gpus", "--gres", "--group", "--lifetime", "--lifetime-stagger", "--memory-limit", "--nworkers",
    "--no-dashboard", "--no-nanny", "--nproc-per-node", "--nthreads", "--plugin", "--port", "--tls-ca-file",
    "--tls-cert", "--tls-key", "--user",
}  # fmt: skip
"""Options of napari, Dask, SLURM, torchrun, pip and Docker, which pages mention without the program's name."""


def options_of(words: list[str]) -> set[str] | None:
    """Return the options of the command that a line calls, None if it calls none."""
    command = COMMANDS.get(words[0]) if words else None
    while len(words) > 1 and hasattr(command, "commands") and words[1] in command.commands:
        command, words = command.commands[words[1]], words[1:]
    if command is None:
        return None
    return SHARED | {name for each in command.params for name in (*each.opts, *each.secondary_opts)}


def subcommands(name: str) -> list[str]:
    """Return the names of the commands in a group; none of a single command."""
    return list(getattr(COMMANDS[name], "commands", ()))


def calls_in(text: str) -> list[tuple[str, set[str], set[str]]]:
    """Return (line, options it uses, options that there are) for each call of the program in a page."""
    pieces = [block.replace("\\\n", " ") for block in FENCE.findall(text)]
    lines = [line for piece in pieces for line in re.sub(r"\n {4,}", " ", piece).splitlines()]
    lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    found = []
    for line in lines:
        for call in re.findall(r"(?:napari-skipseg|napari_skipseg\.cli) +([a-z][^#|]*)", line):
            options = options_of(call.split())
            if options is not None:
                found.append((line, set(FLAG.findall(call)), options))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_options_that_there_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {line: used - known for line, used, known in calls_in(text) if not used <= known} == {}
    if page.parent.name in ("how-to", "tutorials", "explanation", "reference"):
        names = [[name, *below] for name in COMMANDS for below in ([], *([each] for each in subcommands(name)))]
        known = FOREIGN.union(*(options_of(words) or () for words in names))
        inline = set(FLAG.findall(" ".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))))
        assert inline <= known


def test_a_wrong_option_would_be_found() -> None:
    ((_, used, known),) = calls_in("`napari-skipseg study channels MODEL OUT --colour`")
    assert used - known == {"--colour"}
    assert "--image" in known


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: \S+\.(\w+)$", text, re.MULTILINE)) == sorted(napari_skipseg.__all__)


def test_commands_without_a_page_are_none() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"napari-skipseg {name}" not in pages] == []
