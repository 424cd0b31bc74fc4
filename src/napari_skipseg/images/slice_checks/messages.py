"""Faults of slices in words: one short sentence for all slices of one kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from napari_skipseg.images.slice_checks.checks import Kind, SliceFault

MOST_NAMED = 12
"""Slices, or runs of them, that one sentence names."""
MOST_SENTENCES = 12
FRACTIONS = {1 / 2: "half", 1 / 3: "a third", 1 / 5: "a fifth", 1 / 10: "a tenth", 1 / 20: "a twentieth"}
"""Shares by their names, for contrasts below that of the other slices."""


def describe_faults(faults: Sequence[SliceFault]) -> tuple[str, ...]:
    """Return a sentence for all slices of one kind, time and channel. Slices are counted from 0, as the viewer does."""
    groups: dict[tuple[object, ...], list[SliceFault]] = {}
    for fault in faults:
        groups.setdefault((fault.time, fault.channel, fault.kind, _differs_by(fault)), []).append(fault)
    told = [_place(group[0], _SENTENCES[group[0].kind](group)) for group in groups.values()]
    more = len(told) - MOST_SENTENCES
    return (
        (*told[:MOST_SENTENCES], f"{more} more kinds of faults were found in its slices.") if more > 0 else tuple(told)
    )


def _differs_by(fault: SliceFault) -> object:
    """Return what keeps faults of one kind apart, in sentences of their own."""
    if fault.kind == "contrast":
        return _fraction(fault.amount)
    if fault.kind == "brightness":
        return fault.amount > 0
    return fault.number if fault.kind in ("shifted", "moved") else None


def _place(fault: SliceFault, sentence: str) -> str:
    """Return a sentence with the time and the channel that it is about in front, if the image has several."""
    where = [f"time {fault.time}"] if fault.time is not None else []
    where += [f"channel {fault.channel}"] if fault.channel is not None else []
    if not where:
        return sentence
    place = ", ".join(where)
    return f"{place[0].upper()}{place[1:]}: {sentence[0].lower()}{sentence[1:]}"


def _empty(group: Sequence[SliceFault]) -> str:
    return f"{_named(group)} {_verb(group, 'is', 'are')} empty."


def _doubled(group: Sequence[SliceFault]) -> str:
    if len(group) == 1:
        return f"{_named(group)} equals {_noun(group)} {group[0].other}."
    return f"{_named(group)} each equal the {_noun(group)} before."


def _shifted(group: Sequence[SliceFault]) -> str:
    fault = group[0]
    against = "its neighbours" if fault.other is None else f"{_noun(group)} {fault.other}"
    return f"{_named(group)} is shifted by about {fault.amount:.0f} pixels against {against}."


def _moved(group: Sequence[SliceFault]) -> str:
    fault = group[0]
    return (
        f"From {_noun(group)} {fault.number} on, the stack is shifted by about {fault.amount:.0f} pixels against "
        f"{_noun(group)} {fault.other}."
    )


def _unmatched(group: Sequence[SliceFault]) -> str:
    return f"{_named(group)} {_verb(group, 'does', 'do')} not match {_verb(group, 'its', 'their')} neighbours."


def _contrast(group: Sequence[SliceFault]) -> str:
    return f"{_named(group)} {_verb(group, 'has', 'have')} {_fraction(group[0].amount)} the contrast of the others."


def _brightness(group: Sequence[SliceFault]) -> str:
    how = "brighter" if group[0].amount > 0 else "darker"
    return f"{_named(group)} {_verb(group, 'is', 'are')} far {how} than the others."


def _blurred(group: Sequence[SliceFault]) -> str:
    return f"{_named(group)} {_verb(group, 'is', 'are')} out of focus or smoothed, unlike the others."


def _noisy(group: Sequence[SliceFault]) -> str:
    return f"{_named(group)} {_verb(group, 'is', 'are')} far noisier than the others."


_SENTENCES: dict[Kind, Callable[[Sequence[SliceFault]], str]] = {
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


def _named(group: Sequence[SliceFault]) -> str:
    """Return the slices of a group: "Slice 3", "Slices 3 and 17", "Slices 4-9, 12 and 15"."""
    noun = _noun(group).capitalize()
    return f"{noun}{'' if len(group) == 1 else 's'} {in_list([fault.number for fault in group])}"


def in_list(numbers: Sequence[int]) -> str:
    """Return numbers as text, three and more that follow each other as a range: "4-9, 12 and 15"."""
    runs: list[list[int]] = []
    for _, run in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs += [members] if len(members) > 2 else [[number] for number in members]
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    if len(parts) > MOST_NAMED:
        more = sum(len(run) for run in runs[MOST_NAMED:])
        return f"{', '.join(parts[:MOST_NAMED])} and {more} more"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
