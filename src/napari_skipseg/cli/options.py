"""Options that several commands share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from napari_skipseg.errors import InputError
from napari_skipseg.option_fields import OptionField, option_fields


class DepthFlag(StrEnum):
    """How probabilities are stored."""

    uint8 = "uint8"
    float32 = "float32"


class FormatFlag(StrEnum):
    """What results are written as."""

    tiff = "tiff"
    ome_zarr = "ome-zarr"


VoxelSizeFlag = Annotated[
    tuple[float, float, float] | None, typer.Option(metavar="Z Y X", help="Voxel size; give --unit too.")
]
UnitFlag = Annotated[str | None, typer.Option(help="Unit of the voxel size: nm, µm, …")]
DeviceFlag = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_classes(texts: list[str]) -> dict[str, int]:
    """Return the values of classes by their names, from texts NAME=VALUE.

    Raises:
        InputError: a text has another form, or a name is given twice.
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


def one_of(names: tuple[str, ...]) -> str:
    """Return names as a list in words."""
    return ", ".join(names)


class Flags:
    """The flags that set the options of a dataclass: each named and explained as its field; what is not given is None.

    leave_out: fields that the command does not set. names: what a flag is called, by field, in place of the field's
    name. defaults: values of the command in place of the fields' own.
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
        """What typer reads, by the name of the parameter."""
        return {parameter: self._annotate(parameter, each) for parameter, each in self._fields.items()}

    def given(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the fields that were given, or have a default of the command, by name."""
        values = {each.name: flags.get(parameter) for parameter, each in self._fields.items()}
        return {**self._defaults, **{name: value for name, value in values.items() if value not in (None, [])}}

    def _annotate(self, parameter: str, each: OptionField) -> Any:
        default = self._defaults.get(each.name, each.default)
        named = each.flag if parameter == each.name else f"--{parameter.replace('_', '-')}"
        if each.kind is bool:
            both = f"{named}/--no-{named[2:]}" if default else named
            return Annotated[bool | None, flag(_explain(each, None), both)]
        kind: Any = str if each.repeats else each.kind
        return Annotated[kind | None, flag(_explain(each, default), named, metavar=each.option.metavar)]


def _explain(each: OptionField, default: Any) -> str:
    """Return the help of an option: with its choices, where the words do not name them, and its default."""
    choices = [str(choice) for choice in each.option.choices]
    text = each.option.text
    if not all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in choices):
        text += f" One of {', '.join(choices)}."
    if default in (None, "", 0, ()):
        return text
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} Default: {shown}."


def add_flags(command: Callable[..., None], flags: dict[str, Any]) -> None:
    """Put `flags`, annotations by name, in place of the `**flags` of `command`: typer takes the options from there."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=flags[name]) for name in flags
    ]
    command.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
