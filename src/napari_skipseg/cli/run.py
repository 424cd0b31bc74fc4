"""The command `run`: a recipe again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.terminal import print_line, with_progress_bar


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A _recipe.json, or a result that bears one.")],
    out_dir: Annotated[
        Path | None, typer.Argument(metavar="OUT_DIR", help="Folder for the results; else 'again' beside RECIPE.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--input", help="Another image than the recipe's; once for each.")
    ] = None,
    model: Annotated[str, typer.Option(help="Where the recipe's model lies now.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an unfinished run that lies there.")] = False,
) -> None:
    """Segment, or find objects, again as a recipe says: the same image and model, and what was chosen for them."""
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.inference.recipes.lookup import name_of_run, read_recipe_file
    from napari_skipseg.inference.recipes.repeat import AGAIN, iter_repeat, prepare_repeat

    told, near = read_recipe_file(recipe), recipe.absolute().parent
    said: tuple[str, ...] = ()
    images: list[Path | None] = [*image] if image else [None]
    for file in images:
        stack = None if file is None else read_stack(file)
        repeat = prepare_repeat(told, stack, near, model)
        for warning in repeat.warnings:
            if warning not in said:
                print_line(f"Warning: {warning}", err=True)
        said = repeat.warnings
        name = name_of_run(recipe) if file is None else ""
        work = iter_repeat(repeat, near / AGAIN if out_dir is None else out_dir, restart, name)
        for written in with_progress_bar(work, repeat.title):
            print_line(str(written))
