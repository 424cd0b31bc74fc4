"""Numbers of things, in words that agree with them."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, one: str, several: str = "") -> str:
    """Return so many of a thing: 1 file, 2,000 files. several: the plural, if it is not `one` + s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def about_left(seconds: float | None) -> str:
    """Return a time left as it stands behind what is done, such as ", about 3 min left"; "" if it is not known."""
    return f", about {in_words(seconds)} left" if seconds else ""


def in_words(seconds: float) -> str:
    """Return a duration in words: 12 s, 3 min, 1 h 20 min, 3 days."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{round(hours / 24)} days"


def sides_in_words(sides: Iterable[float]) -> str:
    """Return the sides of a voxel in words, as one number if they are equal: "50 × 4 × 4", or "4"."""
    texts = [f"{side:.4g}" for side in sides]
    return texts[0] if len(set(texts)) == 1 else " × ".join(texts)


def percent(share: float) -> str:
    """Return a share in [0, 1] in words: 23 %, less than 1 %."""
    return "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def in_bytes(count: int) -> str:
    """Return a size in words: 12 MB, 1.5 GB."""
    for unit, size in (("TB", 2**40), ("GB", 2**30), ("MB", 2**20)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{max(1, round(count / 2**10))} kB"
