"""The command `run`, which repeats a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.terminal import print_line, with_progress_bar


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A _recipe.json, or a result that contains one.")],
    out_dir: Annotated[
        Path | None, typer.Argument(metavar="OUT_DIR", help="Folder for the results; else 'again' beside RECIPE.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--input", help="An image to use instead of the recipe's; repeat for several.")
    ] = None,
    model: Annotated[str, typer.Option(help="The recipe's model, if it has moved: its name or folder.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an unfinished run that lies there.")] = False,
) -> None:
    """Segment, or find objects, again with a recipe: the same image, model, options and choices."""
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.inference.recipes.lookup import name_of_run, read_recipe_file
    from napari_skipseg.inference.recipes.repeat import AGAIN, iter_repeat, prepare_repeat

    found, near = read_recipe_file(recipe), recipe.absolute().parent
    printed: tuple[str, ...] = ()
    images: list[Path | None] = [*image] if image else [None]
    for file in images:
        stack = None if file is None else read_stack(file)
        repeat = prepare_repeat(found, stack, near, model)
        for warning in repeat.warnings:
            if warning not in printed:
                print_line(f"Warning: {warning}", err=True)
        printed = repeat.warnings
        name = name_of_run(recipe) if file is None else ""
        work = iter_repeat(repeat, near / AGAIN if out_dir is None else out_dir, restart, name)
        for written in with_progress_bar(work, repeat.title):
            print_line(str(written))
