"""Rows of a batch in words: what became of them all, why one failed, how far one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napari_skipseg.batch.rows import Row
from napari_skipseg.batch.wording import counted
from napari_skipseg.progress import in_words


def count_states(rows: Sequence[Row]) -> str:
    """Return how many files are done, failed, done before and to go: what there is, such as "0 done, 2 failed"."""
    counts = {state: sum(row.state == state for row in rows) for state in ("done", "failed", "skipped")}
    told = [
        (counts["failed"], "failed"),
        (counts["skipped"], "done before"),
        (len(rows) - sum(counts.values()), "to go"),
    ]
    return ", ".join([f"{counts['done']} done", *(f"{count} {what}" for count, what in told if count)])


def stopped(row: Row) -> Row:
    """Return a file that was at work as one that waits to be gone on with, and says how far it was."""
    note = f"stopped at {row.done} of {row.total}" if row.done and row.total > 1 else ""
    return replace(row, state="waiting", message="", note=note, seconds_left=None)


def describe_state(row: Row) -> str:
    """Return the state, and of what is at work how much of it is done."""
    return f"{row.done} of {row.total}" if row.state == "running" and row.total > 1 else row.state


def describe_time(row: Row) -> str:
    """Return how long a file took, or still takes."""
    if row.state == "running":
        return f"{in_words(row.seconds_left)} left" if row.seconds_left else ""
    return f"{row.seconds:.1f} s" if 0 < row.seconds < 10 else in_words(row.seconds) if row.seconds else ""


def describe_end(row: Row) -> str:
    """Return why a file failed, or else what is said of it and its scores, in a line."""
    shared = (row.note, describe_objects(row), _scores(row))
    told = (plain(row.reason), *shared) if row.reason else (row.message, *shared)
    said = "; ".join(line for line in told if line)
    return said if row.reason or not said else f"{plain(row.relative)}: {said}"


def describe_row(row: Row) -> str:
    """Return all that is known of a file, a line each."""
    voxels = row.voxel_size or "of unknown size"
    size = f"{row.size} voxels ({voxels}), {row.bytes / 2**20:.3g} MiB" if row.size else ""
    told = (plain(row.file), size, row.reason or row.message, row.note, describe_objects(row), _scores(row))
    return "\n".join(line for line in told if line)


def describe_objects(row: Row) -> str:
    """Return how many objects were found, and how large they are on average; "" where none were looked for."""
    if row.objects is None:
        return ""
    mean = "" if row.mean_size is None else f", {row.mean_size:,.4g} {row.size_unit} on average"
    return f"{counted(row.objects, 'object')}{mean}"


def _scores(row: Row) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in row.scores.items())


def plain(text: str) -> str:
    """Return a text that can be shown, whatever a file is called."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
