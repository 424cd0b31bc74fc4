"""Options as fields of dataclasses. Forms, flags and checks derive from the `Option` beside the field.

@dataclass(frozen=True)
class SegmentOptions:
    tile: Annotated[int, Option("Tile", "Longest side of a tile in voxels; 0 = chosen for you.", least=0)] = 0
"""

from __future__ import annotations

import math
import operator
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from napari_skipseg.errors import SkipsegError


@dataclass(frozen=True)
class Option:
    """The description of an option, beside its name, type and default.

    title: its name in forms and messages. help: sentences for tooltips and `--help`; a form shows the first one below
    a slider. least, most: the range of a number, both allowed; above, below: bounds that are not allowed themselves.
    choices: the allowed values; those of a `Literal` are added. labels: what a form calls a choice, by value. notes: a
    sentence on each choice, by value. unset: the text of a form for None, or for the lowest number. step: of a number
    in a form, which has as many decimals. flag: its name on the command line, if that is not the field's. metavar: the
    placeholder of its value in `--help`.
    """

    title: str
    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    labels: Mapping[Any, str] = field(default_factory=dict)
    notes: Mapping[Any, str] = field(default_factory=dict)
    unset: str = ""
    step: float | None = None
    flag: str = ""
    metavar: str | None = None

    @property
    def text(self) -> str:
        """The help with what each choice means."""
        notes = [f"{choice}: {note[0].lower()}{note[1:]}" for choice, note in self.notes.items()]
        return " ".join([self.help, *notes])

    @property
    def form_text(self) -> str:
        """The same in the words of a form, which shows labels in place of choices, and `unset` in place of 0."""
        text = self.text
        for choice, label in self.labels.items():
            text = re.sub(rf"\b{re.escape(str(choice))}:", f"{label}:", text)
        return text.replace("0 = ", f"{self.unset} = ") if self.unset and self.unset not in text else text


@dataclass(frozen=True)
class OptionField:
    """A field of a dataclass that is an option. kind: type of its values, None aside. repeats: it is a tuple."""

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

    def accepts(self, value: Any) -> bool:
        """Return whether `value`, such as one of a file, has the right type and range; repeated options take none."""
        if value is None or self.repeats:
            return value is None and self.is_optional
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = is_number if self.kind is float else type(value) is self.kind
        return is_right and not self.fault(value)

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
        bounds = (
            (option.least, "{:g} or more", operator.ge),
            (option.above, "more than {:g}", operator.gt),
            (option.most, "{:g} or less", operator.le),
            (option.below, "less than {:g}", operator.lt),
        )
        given = [(bound, words, holds) for bound, words, holds in bounds if bound is not None]
        if math.isfinite(value) and all(holds(value, bound) for bound, _, holds in given):
            return ""
        if option.least is not None and option.most is not None:
            limits = f"between {option.least:g} and {option.most:g}"
        else:
            limits = " and ".join(words.format(bound) for bound, words, _ in given) or "a number"
        return f"The {title} must be {limits}, not {value}."


def option_fields(settings: type) -> dict[str, OptionField]:
    """Return the options of a dataclass by name, in the order of its fields."""
    hints = get_type_hints(settings, include_extras=True)
    found = {}
    for each in fields(settings):
        if get_origin(hints[each.name]) is not Annotated:
            continue
        annotation, *notes = get_args(hints[each.name])
        option = next((note for note in notes if isinstance(note, Option)), None)
        if option is None:
            continue
        is_optional = repeats = False
        if get_origin(annotation) in (Union, types.UnionType):
            parts = [part for part in get_args(annotation) if part is not type(None)]
            is_optional, annotation = len(parts) < len(get_args(annotation)), parts[0]
        if get_origin(annotation) is Literal:
            option = replace(option, choices=option.choices or get_args(annotation))
            annotation = type(get_args(annotation)[0])
        elif get_origin(annotation) is tuple:
            annotation, repeats = get_args(annotation)[0], True
        default = None if each.default is MISSING else each.default
        found[each.name] = OptionField(each.name, annotation, default, option, is_optional, repeats)
    return found


def check_options(settings: Any, error: type[SkipsegError]) -> None:
    """Raise `error` with one sentence if an option of `settings`, a dataclass, is out of its range or choices."""
    for name, each in option_fields(type(settings)).items():
        fault = each.fault(getattr(settings, name))
        if fault:
            raise error(fault)
