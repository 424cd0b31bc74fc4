"""Hooks of mkdocs: they make the pages that come from the package, and check links into the repository.

Made pages: the command line from typer's commands, the models from their cards, CHANGELOG.md and CONTRIBUTING.md. The
decisions are put into the navigation in their order. A link to a file of the repository outside of `docs` becomes an
address of the hosted repository; one that leads nowhere is a warning, so that a strict build fails.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from napari_skipseg.cli import app
from napari_skipseg.models.catalog import BUILT_IN, DEFAULT_MODEL
from napari_skipseg.models.description import ModelDescription, card_facts, license_mark
from napari_skipseg.models.folder import read_description

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"(```.*?```)", re.DOTALL)
MOVED = {
    "accuracy.md": "explanation/accuracy.md",
    "cluster.md": "how-to/cluster.md",
    "command-line.md": "reference/command-line.md",
    "formats.md": "reference/formats.md",
    "gpu.md": "how-to/gpu.md",
    "guide.md": "how-to/segment.md",
    "networks.md": "reference/networks.md",
    "studies.md": "how-to/papers.md",
}
"""Where a link from CHANGELOG.md or from a page of `docs` to a page of earlier versions leads now."""
CURVE_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
LOG = logging.getLogger("mkdocs.plugins.docs_site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decisions in the navigation."""
    decisions = [f"decisions/{file.name}" for file in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    for section in config.nav or []:
        for entry in next(iter(section.values())) if "Developers" in section else ():
            if "Decisions" in entry:
                entry["Decisions"] = decisions
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the package."""
    made = {
        "reference/command-line.md": command_line_page(),
        "models.md": models_page(),
        "changelog.md": moved_page("CHANGELOG.md"),
        "contributing.md": moved_page("CONTRIBUTING.md"),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into addresses of the hosted repository."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def turn(link: re.Match[str]) -> str:
        if folder == "docs" and link[2] in MOVED:
            return f"{link[1]}{MOVED[link[2]]})"
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        if ":" in link[2] or target.startswith("docs/"):
            return link[0]
        if not (ROOT / target).exists():
            LOG.warning("%s links to %s, which is no file of the repository", page.file.src_uri, target)
        return f"{link[1]}{config.repo_url}/blob/main/{target}{link[3]}"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(turn, part) for part in parts)


def moved_page(name: str) -> str:
    """Return a file of the repository's root as a page: its links into `docs` are those of the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return LINK.sub(
        lambda link: link[0] if ":" in link[2] else f"{link[1]}{posixpath.relpath(link[2], 'docs')}{link[3]}", text
    )


def command_line_page() -> str:
    """Return the reference of all commands, with their arguments and options."""
    top = typer.main.get_command(app)
    lines = [
        "# The command line",
        "",
        "Made from the program itself: `napari-skipseg COMMAND --help` shows the same. A command ends with exit",
        "code 0, or says in one sentence what is wrong and what to do. `--verbose` after a command adds the traceback.",
        "What the commands are for is in the how-to pages; what they write is in [results](results.md).",
        "",
    ]
    for name, command in named_commands(top):
        lines += [f"## {name}", "", *described(command, f"napari-skipseg {name}"), ""]
    return "\n".join(lines)


def named_commands(group: Any, before: str = "") -> list[tuple[str, Any]]:
    """Return all commands with their names; those of a group follow its name."""
    found = []
    for name, command in group.commands.items():
        full = f"{before}{name}"
        found.append((full, command))
        if hasattr(command, "commands"):
            found += named_commands(command, f"{full} ")
    return found


def described(command: Any, usage: str) -> list[str]:
    """Return the help of a command as lines: what it does, how it is called, a table of arguments and options."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    lines = [unwrapped(command.help or ""), ""]
    if hasattr(command, "commands"):
        return lines
    names = [shown_argument(argument) for argument in arguments]
    lines += ["```text", " ".join([usage, *names, *(["[OPTIONS]"] if options else [])]), "```", ""]
    rows = [(f"`{name}`", argument.help) for name, argument in zip(names, arguments, strict=True) if argument.help]
    rows += [(option_names(option), option.help) for option in options if not option.hidden and option.name != "help"]
    if rows:
        lines += ["| argument or option | what it does |", "|---|---|"]
        lines += [f"| {name} | {cell(text or '')} |" for name, text in rows]
    return lines


def shown_argument(argument: Any) -> str:
    """Return how an argument stands in the usage line."""
    name = (argument.metavar or argument.name).upper()
    name = f"{name}..." if argument.nargs == -1 else name
    return name if argument.required else f"[{name}]"


def option_names(option: Any) -> str:
    """Return the names of an option with what follows them."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    return f"{names} `{option.metavar or option.name.upper()}`"


def models_page() -> str:
    """Return the cards of the built-in models, the default first."""
    found = {folder.name: read_description(folder) for folder in BUILT_IN.iterdir() if (folder / "model.json").exists()}
    models = dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT_MODEL, item[0])))
    lines = [
        "# The models",
        "",
        "Made from the cards of the models that ship with the package. `napari-skipseg models show NAME` shows the",
        "same card, and so does the *Card* button in the panel. Nothing is downloaded when a model runs.",
        "",
        "| model | finds | network | use |",
        "|---|---|---|---|",
    ]
    for name, model in models.items():
        mark = license_mark(model.card.license, model.card.terms) or "any"
        network = f"{model.spec.dimensions}D {model.spec.network}, skip `{model.spec.skip}`"
        lines.append(f"| [`{name}`](#{name}) | {cell(model.card.summary)} | {network} | {mark} |")
    lines += [
        "",
        "Your own models are in the same list: [fine-tune](correct-and-fine-tune.md) or [train](how-to/train.md) one.",
        "A model that was fine-tuned keeps the licence of the model that it started from.",
    ]
    for name, model in models.items():
        lines += ["", f"## {name}", "", model.card.summary, "", *card_table(model), ""]
        lines += [
            f"![What {name} finds in a synthetic sample: as it is, out of focus and noisy, and inverted. Green: right; "
            f"red: wrong; blue: missed](images/models/{name}.jpg)",
            "",
            "The same synthetic slice as it is, with a poor microscope, and inverted. Green is found and right, red is "
            "wrong, blue is missed. (The sample is for looking; the scores above are from real images.)",
            "",
            curves_picture(model),
        ]
    return "\n".join(lines) + "\n"


def card_table(model: ModelDescription) -> list[str]:
    """Return the facts of a card as a table."""
    rows = [f"| {heading} | {cell(text)} |" for heading, text in card_facts(model).items()]
    return ["| | |", "|---|---|", *rows]


def curves_picture(model: ModelDescription) -> str:
    """Return the curves of the last training stage as SVG with a caption: each one over the steps, in its own range."""
    curves = model.training.curves
    last = max((points[-1][0] for points in curves.values()), default=0)
    if not last:
        return ""
    drawn, legend = [], []
    for (name, points), colour in zip(curves.items(), CURVE_COLOURS, strict=False):
        values = [value for _, value in points]
        low, high = min(values), max(values)
        spread = (high - low) or 1.0
        places = " ".join(f"{600 * step / last:.0f},{140 - 130 * (value - low) / spread:.0f}" for step, value in points)
        drawn.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend.append(f'<span style="color:{colour}">{name}, {low:.3f} to {high:.3f}</span>')
    return (
        f'<svg viewBox="0 0 600 150" role="img" aria-label="Training curves">{"".join(drawn)}</svg>'
        f"<p>Last stage of the training, {last} steps: {'; '.join(legend)}.</p>"
    )


def unwrapped(text: str) -> str:
    """Return help text with one line for each paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return unwrapped(text).replace("|", "\\|").replace("<", "&lt;").replace("\n\n", "<br>")
