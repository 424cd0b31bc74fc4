"""Faults of slices in words: one short sentence for all slices of one kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from napari_skipseg.images.slice_checks.checks import SliceFault, SliceFaultKind

_MOST_NAMED = 12
"""Slices, or runs of them, that one sentence names."""
MOST_SENTENCES = 12
FRACTIONS = {1 / 2: "half", 1 / 3: "a third", 1 / 5: "a fifth", 1 / 10: "a tenth", 1 / 20: "a twentieth"}
"""Shares by their names, for contrasts below that of the other slices."""


def describe_faults(faults: Sequence[SliceFault], files: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a sentence for all slices of one kind, time and channel. Slices are counted from 0, as the viewer does.

    files: the names of the files, if each slice has its own file: they stand behind the numbers of the slices, as they
    may contain different numbers.
    """
    groups: dict[tuple[object, ...], list[SliceFault]] = {}
    for fault in faults:
        groups.setdefault((fault.time, fault.channel, fault.kind, _differs_by(fault)), []).append(fault)
    sentences = [_place(group[0], _SENTENCES[group[0].kind](group, files)) for group in groups.values()]
    more = len(sentences) - MOST_SENTENCES
    return (
        (*sentences[:MOST_SENTENCES], f"{more} more kinds of faults were found in its slices.")
        if more > 0
        else tuple(sentences)
    )


def _differs_by(fault: SliceFault) -> object:
    """Return what faults of one kind must have in common to stand in one sentence."""
    if fault.kind == "contrast":
        return _fraction(fault.amount)
    if fault.kind == "brightness":
        return fault.amount > 0
    if fault.kind == "shifted":
        return round(fault.amount), fault.other
    return fault.number if fault.kind == "moved" else None


def _place(fault: SliceFault, sentence: str) -> str:
    """Return a sentence with time and channel in front of it, if the image has several."""
    where = [f"time {fault.time}"] if fault.time is not None else []
    where += [f"channel {fault.channel}"] if fault.channel is not None else []
    if not where:
        return sentence
    place = ", ".join(where)
    return f"{place[0].upper()}{place[1:]}: {sentence[0].lower()}{sentence[1:]}"


def _empty(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    return f"{_named(group, files)} {_verb(group, 'is', 'are')} empty."


def _doubled(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    if len(group) == 1:
        return f"{_named(group, files)} equals {_noun(group)} {_number(group[0].other, files)}."
    return f"{_named(group, files)} each equal the {_noun(group)} before."


def _shifted(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    fault = group[0]
    neighbours = _verb(group, "its neighbours", "their neighbours")
    against = neighbours if fault.other is None else f"{_noun(group)} {_number(fault.other, files)}"
    return (
        f"{_named(group, files)} {_verb(group, 'is', 'are')} shifted by about {fault.amount:.0f} pixels against "
        f"{against}."
    )


def _moved(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    fault, noun = group[0], _noun(group)
    return (
        f"From {noun} {_number(fault.number, files)} on, the stack is shifted by about {fault.amount:.0f} pixels "
        f"against {noun} {_number(fault.other, files)}."
    )


def _unmatched(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    return f"{_named(group, files)} {_verb(group, 'does', 'do')} not match {_verb(group, 'its', 'their')} neighbours."


def _contrast(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    return (
        f"{_named(group, files)} {_verb(group, 'has', 'have')} {_fraction(group[0].amount)} the contrast of the others."
    )


def _brightness(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    how = "brighter" if group[0].amount > 0 else "darker"
    return f"{_named(group, files)} {_verb(group, 'is', 'are')} far {how} than the others."


def _blurred(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    return f"{_named(group, files)} {_verb(group, 'is', 'are')} out of focus or smoothed, unlike the others."


def _noisy(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    return f"{_named(group, files)} {_verb(group, 'is', 'are')} far noisier than the others."


_SENTENCES: dict[SliceFaultKind, Callable[[Sequence[SliceFault], Sequence[str]], str]] = {
    "empty": _empty,
    "doubled": _doubled,
    "shifted": _shifted,
    "moved": _moved,
    "unmatched": _unmatched,
    "contrast": _contrast,
    "brightness": _brightness,
    "blurred": _blurred,
    "noisy": _noisy,
}


def _fraction(amount: float) -> str:
    """Return a share of the usual contrast as text: "a tenth of", "3.2 times"."""
    if amount >= 1:
        return f"{amount:.1f} times"
    if amount < min(FRACTIONS) / 1.5:
        return f"less than {FRACTIONS[min(FRACTIONS)]} of"
    nearest = min(FRACTIONS, key=lambda share: abs(math.log(share / amount)))
    return f"{FRACTIONS[nearest]} of" if nearest != 1 / 2 else "half"


def _noun(group: Sequence[SliceFault]) -> str:
    return "time" if group[0].frame else "slice"


def _verb(group: Sequence[SliceFault], one: str, several: str) -> str:
    return one if len(group) == 1 else several


def _named(group: Sequence[SliceFault], files: Sequence[str]) -> str:
    """Return the slices of a group: "Slice 3", "Slices 3 and 17", "Slices 4-9, 12 and 15", "Slice 3 (s_7.tif)"."""
    noun = _noun(group).capitalize()
    return f"{noun}{'' if len(group) == 1 else 's'} {in_list([fault.number for fault in group], files)}"


def _number(number: int | None, files: Sequence[str]) -> str:
    """Return the number of a slice, with the name of its file if it has one."""
    return f"{number} ({files[number]})" if number is not None and number < len(files) else str(number)


def in_list(numbers: Sequence[int], files: Sequence[str] = ()) -> str:
    """Return numbers as text, three and more that follow each other as a range: "4-9, 12 and 15"."""
    runs: list[list[int]] = []
    for _, run in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs += [members] if len(members) > 2 else [[number] for number in members]
    parts = [_number(run[0], files) if len(run) == 1 else _range(run, files) for run in runs]
    if len(parts) > _MOST_NAMED:
        more = sum(len(run) for run in runs[_MOST_NAMED:])
        return f"{', '.join(parts[:_MOST_NAMED])} and {more} more"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _range(run: Sequence[int], files: Sequence[str]) -> str:
    named = f" ({files[run[0]]} to {files[run[-1]]})" if run[-1] < len(files) else ""
    return f"{run[0]}-{run[-1]}{named}"
