"""The commands `corrections …`: list, export, import and delete the corrections of images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from napari_skipseg.cli.options import AsJson, read_classes
from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.terminal import confirm, print_line, report_rows

if TYPE_CHECKING:
    from napari_skipseg.corrections.catalog import StoredCorrections

_SHORT = 12
"""Characters of a key that are shown; enough to distinguish it from all others."""

UNNAMED = "a class without a name; name it with --class NAME=VALUE, or in the Correct tab"

app = typer.Typer(help="List, export, import and delete corrections.", rich_markup_mode=None)


KeyOrImage = Annotated[
    str, typer.Argument(metavar="KEY|IMAGE", help="A key from the list, or the image that was corrected.")
]


@app.callback(invoke_without_command=True)
def show_list_by_default(context: typer.Context) -> None:
    """List, export, import and delete corrections."""
    if context.invoked_subcommand is None:
        show_list()


@app.command("list")
def show_list(as_json: AsJson = False) -> None:
    """List the corrections on this computer; the last changed ones come first."""
    from napari_skipseg.corrections.catalog import corrections_folder, find_corrections

    found = find_corrections()
    rows = [
        {
            "key": one.subject.key if as_json else one.subject.key[:_SHORT],
            "image": one.subject.name,
            "shape": " × ".join(map(str, one.subject.shape)),
            "classes": ", ".join(f"{each.name} = {each.value}" for each in one.classes),
            "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(one.changed)) if one.changed else "never",
            "state": _state(one),
            "file": one.subject.file,
        }
        for one in found
    ]
    if not rows and not as_json:
        print_line(f"There are no corrections in '{corrections_folder()}'.")
        return
    report_rows(rows, as_json)


@app.command()
def export(
    key_or_image: KeyOrImage,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A TIFF, or a folder with the ending .zarr.")],
    what: Annotated[
        Literal["target", "strokes"],
        typer.Option(help="target: strokes and reviewed regions, as they train; strokes: these alone."),
    ] = "target",
) -> None:
    """Write corrections as labels: 0 = not looked at, 1 = background, 2 and more = the classes."""
    from napari_skipseg.corrections.exchange import export_corrections

    print_line(export_corrections(_find(key_or_image), out, what=what))


@app.command("import")
def import_(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image of the labels.")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Labels: 1 = background, 2 and more = classes.")],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME=VALUE", help="Name a class of the labels; repeat."),
    ] = None,
) -> None:
    """Import labels as corrections of an image; where they are 0, earlier corrections stay."""
    from napari_skipseg.corrections.exchange import import_labels
    from napari_skipseg.corrections.store import open_corrections
    from napari_skipseg.corrections.subject import BACKGROUND, CLASS_COLORS, FIRST_CLASS, CorrectionClass
    from napari_skipseg.images.files import read_stack

    named = [
        CorrectionClass(name, value, CLASS_COLORS[(value - FIRST_CLASS) % len(CLASS_COLORS)])
        for name, value in read_classes(classes or []).items()
    ]
    corrections = open_corrections(read_stack(image))
    try:
        before, values = corrections.classes, {each.value for each in named}
        corrections.name_classes((*(each for each in corrections.classes if each.value not in values), *named))
        try:
            counts = import_labels(corrections, labels)
        except SkipsegError:
            corrections.name_classes(before)  # refused labels must not change the names either
            raise
        is_kept = corrections.checkpoint()
        fault = corrections.fault
    finally:
        corrections.close()
    if not is_kept:
        raise InputError(fault or "The labels could not be written: try again.")
    print_line(f"{sum(counts.values()):,} pixels imported as corrections of '{corrections.subject.name}':")
    names = {BACKGROUND: "background"} | {one.value: one.name for one in corrections.classes}
    for value, count in counts.items():
        print_line(f"  {value} = {names.get(value, UNNAMED)}: {count:,}")


@app.command()
def delete(
    key_or_image: KeyOrImage,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete corrections permanently."""
    from napari_skipseg.corrections.catalog import remove

    found = _find(key_or_image)
    if not yes:
        confirm(f"Delete the corrections of '{found.subject.name}' permanently?")
    remove(found)
    print_line(f"The corrections of '{found.subject.name}' are deleted.")


def _state(found: StoredCorrections) -> str:
    if found.is_open:
        return "open"
    return "empty" if found.is_empty else "not closed: open the image to restore" if found.was_interrupted else "closed"


def _find(key_or_image: str) -> StoredCorrections:
    """Return the corrections with a key, or with its beginning, or those of an image."""
    from napari_skipseg.corrections.catalog import find_by_file, find_corrections, find_for
    from napari_skipseg.images.files import is_there, read_stack
    from napari_skipseg.images.identity import identify

    if not is_there(key_or_image):
        named = [found for found in find_corrections() if found.subject.key.startswith(key_or_image)]
        if len(named) == 1:
            return named[0]
        fault = "several keys begin like this" if named else "there is neither such a key nor such a file"
        raise InputError(f"'{key_or_image}': {fault}; see `napari-skipseg corrections list`.")
    found = find_for(identify(read_stack(key_or_image)))
    if found is not None:
        return found
    if (older := find_by_file(key_or_image)) is not None:
        raise InputError(
            f"'{key_or_image}' was changed after it was corrected: give the key of its corrections, "
            f"{older.subject.key[:_SHORT]}."
        )
    raise InputError(f"'{key_or_image}' has no corrections: see `napari-skipseg corrections list`.")
