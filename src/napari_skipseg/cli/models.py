"""The commands `models …`: list, show, export, import, rename, duplicate and delete models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from napari_skipseg.cli.options import AsJson, flag
from napari_skipseg.errors import ModelError
from napari_skipseg.models.catalog import find_models, locate_model, user_folder
from napari_skipseg.terminal import confirm, echo_json, print_line, report_rows, with_progress_bar
from napari_skipseg.wording import in_bytes

if TYPE_CHECKING:
    from napari_skipseg.models.model_library import LibraryModel


class ModelsGroup(TyperGroup):
    """The commands about models; `models NAME` is `models show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name."""
        if self.get_command(ctx, args[0]) is None and (args[0] in find_models() or Path(args[0]).is_dir()):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=ModelsGroup, help="List, show, export, import, rename, duplicate and delete models.", rich_markup_mode=None
)

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A model of the list, or the path of a model folder.")]
NewName = Annotated[str, typer.Argument(metavar="NEW_NAME", help="The name that it gets.")]


@app.callback(invoke_without_command=True)
def list_models_by_default(context: typer.Context) -> None:
    """List, show, export, import, rename, duplicate and delete models."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List all models, each below the one that it was trained from. Damaged ones say what is wrong."""
    from napari_skipseg.models.model_library import list_library

    found = list_library()
    report_rows([_row(each) if as_json else _short_row(each) for each in found], as_json)
    if not as_json:
        for each in found:
            if each.fault:
                print_line(f"{each.name}: {each.fault}", err=True)


def _row(model: LibraryModel) -> dict[str, Any]:
    """Return all that is known of a model, for machines."""
    row: dict[str, Any] = {
        "name": model.name,
        "folder": str(model.folder),
        "built_in": model.is_built_in,
        "parent": model.parent or None,
        "depth": model.depth,
        "bytes": model.size,
        "changed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(model.changed)),
        "fault": model.fault,
    }
    if (description := model.description) is None:
        return row
    training = description.training
    return row | {
        "network": f"{description.spec.dimensions}D {description.spec.network}",
        "skip": description.spec.skip,
        "classes": ", ".join(description.class_names),
        "license": _marked_license(model),
        "mark": model.mark,
        "summary": description.card.summary,
        "sha256": description.weights_sha256,
        "started_from": training.parent,
        "started_from_sha256": training.parent_sha256,
    }


def _short_row(model: LibraryModel) -> dict[str, Any]:
    description = model.description
    return {
        "name": f"{'  ' * model.depth}{model.name}",
        "classes": "" if description is None else ", ".join(description.class_names),
        "network": "" if description is None else f"{description.spec.dimensions}D {description.spec.network}",
        "size": in_bytes(model.size),
        "changed": time.strftime("%Y-%m-%d", time.localtime(model.changed)),
        "state": "damaged" if model.fault else "built in" if model.is_built_in else "",
        "license": model.mark or ("" if description is None else description.card.license),
        "trained from": model.trained_from,
    }


def _marked_license(model: LibraryModel) -> str:
    """Return the licence of a model, with a mark if it does not allow every use."""
    license = "" if model.description is None else model.description.card.license
    return f"{license} ({model.mark})".strip() if model.mark else license


@app.command("show")
def show_model(name: ModelName, as_json: AsJson = False) -> None:
    """Show the card of a model: what it finds, its licence, what it was trained on, its scores."""
    from napari_skipseg.models.description import card_as_text, description_to_json
    from napari_skipseg.models.folder import check_files, read_description

    folder = locate_model(name)
    description = read_description(folder)
    if as_json:
        echo_json(description_to_json(description).strip())
    else:
        print_line(card_as_text(description))
    check_files(folder, description)


@app.command("export")
def export_model(
    name: ModelName,
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="The file to write, or a folder for it.")] = Path(),
    bioimageio: Annotated[bool, flag("Write a bioimage.io package, which other programs run.", "--bioimageio")] = False,
    onnx: Annotated[bool, flag("Write the network alone, as an ONNX file.", "--onnx")] = False,
    author: Annotated[
        list[str] | None, flag("Who made the model, for a bioimage.io package; can be given several times.")
    ] = None,
) -> None:
    """Write a model into one file, with the hashes of all that is in it; or for other programs.

    Raises:
        ModelError: two forms are asked for.
    """
    if bioimageio and onnx:
        raise ModelError("--bioimageio and --onnx ask for two files: give one of them.")
    if author and not bioimageio:
        raise ModelError("--author belongs to a bioimage.io package: give --bioimageio too.")
    if bioimageio or onnx:
        from napari_skipseg.models.exchange.network_files import export_onnx
        from napari_skipseg.models.exchange.package import export_package

        folder = locate_model(name)
        print_line(export_onnx(folder, out) if onnx else export_package(folder, out, author or ()))
        return
    from napari_skipseg.models.transfer import iter_export

    print_line(with_progress_bar(iter_export(locate_model(name), out), f"exporting {name}"))


@app.command("import")
def import_model(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A file that was exported, a model folder, or a bioimage.io package: a zip, a folder or an address.",
        ),
    ],
    name: Annotated[str, flag("Its name here; by default the one that it has.")] = "",
    sha256: Annotated[str, flag("The SHA-256 of a package's zip, which is checked.", "--hash")] = "",
) -> None:
    """Add a model to your own. Its hashes are checked, and no Python code in it runs."""
    from napari_skipseg.models.exchange.import_any import iter_import_any

    print_line(with_progress_bar(iter_import_any(file, name, sha256=sha256), f"importing {Path(file).name}"))


@app.command("rename")
def rename_model_command(name: ModelName, new_name: NewName) -> None:
    """Give a model of your own a new name; models that were trained from it still know it."""
    from napari_skipseg.models.model_library import rename_model

    print_line(rename_model(_own(name), new_name))


@app.command("duplicate")
def duplicate_model(name: ModelName, new_name: NewName) -> None:
    """Copy a model under a new name, with its card and its record."""
    from napari_skipseg.models.transfer import iter_duplicate

    print_line(with_progress_bar(iter_duplicate(locate_model(name), new_name), f"copying {name}"))


@app.command("delete")
def delete_model_command(
    name: ModelName,
    yes: Annotated[bool, flag("Do not ask.", "--yes")] = False,
    no_bin: Annotated[
        bool, flag("Move it to the folder 'deleted' of your models, not to the bin.", "--no-bin")
    ] = False,
) -> None:
    """Move a model of your own to the bin. Built-in models cannot be deleted."""
    from napari_skipseg.models.model_library import NoBinError, check_own, delete_model, put_into_deleted

    folder = _own(name)
    check_own(folder, "deleted")
    if not yes:
        confirm(f"Move the model '{folder.name}' to {'the folder of deleted ones' if no_bin else 'the bin'}?")
    if no_bin:
        print_line(put_into_deleted(folder))
        return
    try:
        delete_model(folder)
    except NoBinError as error:
        raise ModelError(f"{error} Give --no-bin for that.") from error
    print_line(f"The model '{folder.name}' is in the bin.")


def _own(name: str) -> Path:
    """Return the folder of a model, also of a damaged one of the user's that the catalog does not know."""
    damaged = user_folder() / name
    if name not in find_models() and Path(name).name == name and damaged.is_dir():
        return damaged
    return locate_model(name)
