"""Products of parameters of which the quick tests take a part in which every two values still meet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def pairs_first(*factors: Iterable[Any]) -> list[Any]:
    """Return each combination of one value of every factor; all but a part is marked as slow.

    The part is a Latin square: the values of all factors but the last decide which of the last they meet, and those of
    the first two meet in every pair. Give the factors from the longest to the shortest.
    """
    lists = [list(factor) for factor in factors]
    cases = []
    for numbers in product(*(range(len(each)) for each in lists)):
        is_quick = sum(numbers[:-1]) % len(lists[-1]) == numbers[-1]
        values = [each[number] for each, number in zip(lists, numbers, strict=True)]
        cases.append(pytest.param(*values, marks=() if is_quick else pytest.mark.slow))
    return cases
