"""Options that several commands share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer

from napari_skipseg.errors import InputError
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.option_fields import OptionField, option_fields

VoxelSizeFlag = Annotated[
    tuple[float, float, float] | None, typer.Option(metavar="Z Y X", help="Voxel size; give --unit too.")
]
UnitFlag = Annotated[str | None, typer.Option(help="Unit of the voxel size: nm, µm, …")]
DeviceFlag = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
DepthFlag = Annotated[Depth, typer.Option(help="Type of the stored probabilities.")]
FormatFlag = Annotated[Format, typer.Option("--format", help="File format of the results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_classes(texts: list[str]) -> dict[str, int]:
    """Return the values of classes by name, from texts such as "membrane=0".

    Raises:
        InputError: a text is not of the form NAME=VALUE, or a name is given twice.
    """
    classes: dict[str, int] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if not name or not re.fullmatch("-?[0-9]+", value):
            raise InputError(f"'{text}' is no class: write NAME=VALUE, such as membrane=0.")
        if name in classes:
            raise InputError(f"The class '{name}' is given twice: give each class one name and one value.")
        classes[name] = int(value)
    return classes


def flag(help: str, *names: str, **more: Any) -> Any:
    """Return an option of a command."""
    return typer.Option(*names, help=help, **more)


class Flags:
    """The flags of the options of a dataclass; names and help come from its fields. A flag that is not given is None.

    leave_out: fields without a flag. names: names of flags, by field, that replace the fields' own. defaults: defaults
    of the command that replace the fields' own.
    """

    def __init__(
        self,
        settings: type,
        leave_out: Collection[str] = (),
        names: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self._names, self._defaults = names or {}, defaults or {}
        self._fields = {
            self._names.get(name, name): each for name, each in option_fields(settings).items() if name not in leave_out
        }

    @property
    def annotations(self) -> dict[str, Any]:
        """The annotations for typer, by the name of the parameter."""
        return {parameter: self._annotate(parameter, each) for parameter, each in self._fields.items()}

    def given(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the flags that were given, and the defaults of the command, by field."""
        values = {each.name: flags.get(parameter) for parameter, each in self._fields.items()}
        given = {name: value for name, value in values.items() if value not in (None, [])}
        in_tuples = {n: tuple(value) if isinstance(value, list) else value for n, value in given.items()}
        return {**self._defaults, **in_tuples}

    def _annotate(self, parameter: str, each: OptionField) -> Any:
        default = self._defaults.get(each.name, each.default)
        named = each.flag if parameter == each.name else f"--{parameter.replace('_', '-')}"
        if each.kind is bool:
            both = f"{named}/--no-{named[2:]}" if default else named
            return Annotated[bool | None, flag(_explain(each, None), both)]
        kind: Any = str if each.repeats else each.kind
        if each.repeats and each.kind is str:
            kind = list[str]  # numbers are given as one text with commas, texts by a flag for each
        return Annotated[kind | None, flag(_explain(each, default), named, metavar=each.option.metavar)]


def _explain(each: OptionField, default: Any) -> str:
    """Return the help of an option, with its default, and with its choices if the text does not name them."""
    choices = [str(choice) for choice in each.option.choices]
    text = each.option.text
    if not all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in choices):
        text += f" One of {', '.join(choices)}."
    if default in (None, "", 0, ()):
        return text
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} Default: {shown}."


def add_flags(command: Callable[..., None], flags: dict[str, Any]) -> None:
    """Replace the `**flags` of `command` by `flags`, annotations by name, in the signature that typer reads."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=flags[name]) for name in flags
    ]
    command.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
