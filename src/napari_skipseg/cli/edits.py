"""The commands `edits …`: merges, splits and other edits of objects, out into a file, in from it, and applied."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_skipseg.cli.options import AsJson, Flags, add_flags, flag
from napari_skipseg.errors import InputError
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.terminal import print_line, print_report, report_rows, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.images.stack import Stack
    from napari_skipseg.objects.classes import ClassImage
    from napari_skipseg.proofread.store import StoredEdits

_SHORT = 12
"""Characters of a key that are shown; enough to distinguish it from all others."""
_FLAGS = Flags(ObjectOptions, leave_out=("box", "mask"))

app = typer.Typer(help="Edits of objects: list, export, import, apply.", rich_markup_mode=None)

EditsKey = Annotated[str, typer.Argument(metavar="KEY", help="A key of the list, or its beginning.")]
EditsPath = Annotated[
    Path, typer.Argument(metavar="EDITS", help="A file that `edits export` or `edits classifier` wrote.")
]


@app.callback(invoke_without_command=True)
def list_edits_by_default(context: typer.Context) -> None:
    """Edits of objects: list, export, import, apply."""
    if context.invoked_subcommand is None:
        list_edits()


@app.command("list")
def list_edits(as_json: AsJson = False) -> None:
    """List the edits of objects on this computer, those changed last first."""
    from napari_skipseg.proofread.store import edits_folder, find_edits

    rows = [
        {
            "key": each.folder.name if as_json else each.folder.name[:_SHORT],
            "objects in": each.record.subject.name,
            "class": each.record.class_name,
            "shape": " × ".join(map(str, each.record.subject.shape)),
            "edits": each.count,
            "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(each.changed)),
            "state": "open" if each.is_open else "closed",
            "file": each.record.subject.file,
        }
        for each in find_edits()
    ]
    if not rows and not as_json:
        print_line(f"There are no edits in '{edits_folder()}'.")
        return
    report_rows(rows, as_json)


@app.command("export")
def export_edits(
    key: EditsKey, out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, JSON.")]
) -> None:
    """Write the edits of an image into a file, those that were undone left out."""
    from napari_skipseg.proofread.exchange import write_edits
    from napari_skipseg.proofread.store import read_edits

    found = _find(key)
    done, _, _ = read_edits(found.folder)
    print_line(write_edits(out, found.record, [each.edit for each in done]))


@app.command("classifier")
def export_classifier(
    key: EditsKey, out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, JSON.")]
) -> None:
    """Write the classifier of contacts that was learnt from edits and accepted last; it serves other images too."""
    from napari_skipseg.objects.contact_file import ContactClassifier, write_classifier
    from napari_skipseg.proofread.edits import Reweigh
    from napari_skipseg.proofread.store import read_edits

    found = _find(key)
    accepted = [each.edit for each in read_edits(found.folder)[0] if isinstance(each.edit, Reweigh)]
    if not accepted:
        raise InputError(
            f"Nothing was learnt from the edits of '{found.record.subject.name}': press 'Learn from edits' in "
            "Proofread and accept what it shows."
        )
    print_line(write_classifier(out, ContactClassifier(accepted[-1].weights)))


@app.command("import")
def import_edits(
    objects_in: Annotated[
        Path, typer.Argument(metavar="IN", help="The probability, or the labels, whose objects are edited.")
    ],
    edits: EditsPath,
    class_name: Annotated[str, flag("The class whose objects are edited.", "--class", metavar="NAME")] = "",
) -> None:
    """Add the edits of a file, or a classifier of contacts, to the edits of an image on this computer."""
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.proofread.exchange import read_edits_file
    from napari_skipseg.proofread.store import EditStore, check_same_image, edits_record, folder_of

    found = read_edits_file(edits)
    known_class = "" if found.record is None else found.record.class_name
    record = edits_record(read_stack(objects_in), class_name or known_class)
    if found.record is not None:
        check_same_image(record, found.record)
    store = EditStore(folder_of(record), record)
    try:
        known = [each.edit for each in store.done]
        if known[: len(found.edits)] == list(found.edits):
            print_line(f"'{record.subject.name}' has these edits already.")
            return
        for edit in found.edits:
            store.add(edit)
        is_kept, fault = store.flush(60.0), store.fault
    finally:
        store.close()
    if not is_kept:
        raise InputError(fault or "The edits could not be written: try again.")
    print_line(f"{len(found.edits)} edits added to those of '{record.subject.name}'.")


def apply(
    objects_in: Annotated[
        Path, typer.Argument(metavar="IN", help="The probability, or labels of any program, whose objects are edited.")
    ],
    edits: EditsPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Labels: a TIFF, or a folder with the ending .zarr.")],
    labels: Annotated[bool, typer.Option("--labels", help="IN holds objects already: find none.")] = False,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Find the objects in a probability, apply edits to them, and write the labels.

    The options are those of `objects`; without them, the objects are found as when they were edited. Edits that make no
    sense for these objects are listed with the reason.
    """
    from napari_skipseg.inference.saving import check_replaceable
    from napari_skipseg.proofread.exchange import LabelsTarget, iter_apply_to_file, read_edits_file

    check_replaceable([out], "ome-zarr" if out.suffix.lower() == ".zarr" else "tiff")
    found = read_edits_file(edits)
    options = replace((found.record and found.record.options) or ObjectOptions(), **_FLAGS.given(flags))
    work = iter_apply_to_file(_read(objects_in, labels), options, found, LabelsTarget(out))
    written = with_progress_bar(work, f"editing objects in {objects_in.name}")
    for each in written.refused:
        print_line(f"Edit {each.number} ({each.edit.kind}) was left out: {each.reason}", err=True)
    report = {"applied": written.applied, "left out": len(written.refused)}
    print_report({**report, "file": str(written.labels)} if as_json else report, as_json)
    if not as_json:
        print_line(written.labels)


add_flags(apply, _FLAGS.annotations)
app.command()(apply)


def _read(path: Path, are_labels: bool) -> ClassImage | Stack:
    """Return a file as labels if a user or its recipe says so, else as a probability."""
    from napari_skipseg.images.files import read_recipe, read_stack
    from napari_skipseg.objects.files import OBJECTS_TYPE, read_probability

    if not are_labels:
        recipe = read_recipe(path) or {}
        stack = read_stack(path)
        if not (recipe.get("layer") == "labels" and stack.data.dtype == OBJECTS_TYPE):
            return read_probability(path)
    return read_stack(path, are_labels=True)


def _find(key: str) -> StoredEdits:
    from napari_skipseg.proofread.store import find_edits

    named = [found for found in find_edits() if found.folder.name.startswith(key)]
    if len(named) == 1:
        return named[0]
    how = "several keys begin so" if named else "there is no such key"
    raise InputError(f"'{key}': {how}; see `napari-skipseg edits list`.")
