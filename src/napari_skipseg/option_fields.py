"""Options as fields of dataclasses: what is written beside a field is all that forms, flags and checks say of it.

@dataclass(frozen=True)
class SegmentOptions:
    tile: Annotated[int, Option("Tile", "Longest side of a tile in voxels; 0 = chosen for you.", least=0)] = 0
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from napari_skipseg.errors import SkipsegError


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name, type and default.

    title: what it is called in a form and in messages. help: one sentence for tooltips and `--help`. least, most: the
    range of a number, both allowed; above, below: bounds that are not allowed themselves. choices: the only values
    that are allowed; those of a `Literal` need not be named. labels: what a form calls a choice, by value. unset: what
    a form shows in place of 0 or None. step: of a number in a form. flag: its name on the command line, if that is not
    the field's. metavar: what stands for its value in `--help`.
    """

    title: str
    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    labels: Mapping[Any, str] = field(default_factory=dict)
    unset: str = ""
    step: float | None = None
    flag: str = ""
    metavar: str | None = None


@dataclass(frozen=True)
class OptionField:
    """A field of a dataclass that is an option. kind: type of its values without None. repeats: it holds several."""

    name: str
    kind: type
    default: Any
    option: Option
    is_optional: bool
    repeats: bool

    @property
    def flag(self) -> str:
        """The flag that sets it, such as "--seed-distance"."""
        return f"--{self.option.flag or self.name.replace('_', '-')}"

    def fault(self, value: Any) -> str:
        """Return what is wrong with `value`, in one sentence, or "" if nothing is."""
        option, title = self.option, self.option.title[0].lower() + self.option.title[1:]
        if value is None and self.is_optional:
            return ""
        if option.choices:
            allowed = ", ".join(map(str, option.choices))
            return "" if value in option.choices else f"The {title} cannot be '{value}': choose one of {allowed}."
        if self.kind not in (int, float) or self.repeats:
            return ""
        limits = self._limits()
        return "" if self._is_within(value) else f"The {title} must be {limits}, not {value}."

    def _is_within(self, value: float) -> bool:
        option = self.option
        return (
            math.isfinite(value)
            and (option.least is None or value >= option.least)
            and (option.most is None or value <= option.most)
            and (option.above is None or value > option.above)
            and (option.below is None or value < option.below)
        )

    def _limits(self) -> str:
        option = self.option
        if option.least is not None and option.most is not None:
            return f"between {option.least:g} and {option.most:g}"
        parts = []
        if option.least is not None:
            parts.append(f"{option.least:g} or more")
        if option.above is not None:
            parts.append(f"more than {option.above:g}")
        if option.most is not None:
            parts.append(f"{option.most:g} or less")
        if option.below is not None:
            parts.append(f"less than {option.below:g}")
        return " and ".join(parts) or "a number"


def option_fields(settings: type) -> dict[str, OptionField]:
    """Return the options of a dataclass by name, in the order of its fields."""
    hints = get_type_hints(settings, include_extras=True)
    found = {}
    for each in fields(settings):
        if get_origin(hints[each.name]) is not Annotated:
            continue
        inner, *notes = get_args(hints[each.name])
        option = next((note for note in notes if isinstance(note, Option)), None)
        if option is None:
            continue
        found[each.name] = _read_field(each.name, inner, None if each.default is MISSING else each.default, option)
    return found


def _read_field(name: str, annotation: Any, default: Any, option: Option) -> OptionField:
    is_optional = False
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        is_optional, annotation = len(parts) < len(get_args(annotation)), parts[0]
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return OptionField(name, type(choices[0]), default, _with_choices(option, choices), is_optional, False)
    if get_origin(annotation) is tuple:
        return OptionField(name, get_args(annotation)[0], default, option, is_optional, True)
    return OptionField(name, annotation, default, option, is_optional, False)


def _with_choices(option: Option, choices: tuple[Any, ...]) -> Option:
    values = {each.name: getattr(option, each.name) for each in fields(Option)}
    return Option(**values | {"choices": option.choices or choices})


def check_options(settings: Any, error: type[SkipsegError]) -> None:
    """Raise `error` with one sentence if an option of `settings`, a dataclass, is out of its range or choices."""
    for name, each in option_fields(type(settings)).items():
        fault = each.fault(getattr(settings, name))
        if fault:
            raise error(fault)
