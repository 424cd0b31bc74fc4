"""The report of a batch: a CSV of all files, and one HTML page that needs no other file."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from napari_skipseg.batch.place import RunPlace, write_run_text
from napari_skipseg.batch.settings import BatchSettings, batch_settings_to_json
from napari_skipseg.batch.table import BatchRow
from napari_skipseg.csv_files import write_csv
from napari_skipseg.devices import versions
from napari_skipseg.foreign_text import printable
from napari_skipseg.wording import counted, in_words

_COLUMNS = (
    "file", "image", "state", "ended", "size", "voxel size", "bytes", "seconds", "objects", "mean object size",
    "size unit", "reason", "note",
)  # fmt: skip
NOT_KNOWN = "not known"


def write_summary(path: Path, rows: Sequence[BatchRow], place: RunPlace) -> None:
    """Write a CSV with a row for each file: state, duration, voxels, objects, scores and results.

    Raises:
        FileError: it cannot be written.
    """
    scores = _score_names(rows)
    lines = []
    for row in rows:
        seconds = f"{row.seconds:.3f}" if row.seconds else ""
        objects = "" if row.objects is None else row.objects
        mean = "" if row.mean_size is None else f"{row.mean_size:.7g}"
        of_image = [row.size, _voxels(row), row.bytes or "", seconds, objects, mean, row.size_unit]
        known = (row.relative, row.title, _state(row), row.ended, *of_image, row.reason, row.note)
        results = ";".join(Path(output).relative_to(place.path).as_posix() for output in row.outputs)
        lines.append((*known, *(row.scores.get(name, "") for name in scores), results))
    write_csv(path, (*_COLUMNS, *scores, "results"), lines)


def write_report(
    path: Path, rows: Sequence[BatchRow], place: RunPlace, settings: BatchSettings, seconds: float
) -> None:
    """Write one HTML page with results, pictures, scores, times, failures and the recipe.

    seconds: duration of this run of the batch.

    Raises:
        FileError: it cannot be written.
    """
    scores, has_objects = _score_names(rows), any(row.objects is not None for row in rows)

    def numbers_of(row: BatchRow) -> dict[str, str]:
        objects = {
            "Objects": "" if row.objects is None else f"{row.objects:,}",
            "Mean size": "" if row.mean_size is None else f"{row.mean_size:,.4g} {row.size_unit}",
        }
        seconds = {"Seconds": f"{row.seconds:.1f}" if row.seconds else ""}
        return (
            (objects if has_objects else {})
            | seconds
            | {_title(name): _number(row.scores.get(name)) for name in scores}
        )

    page = _template().render(
        request=settings.request,
        states=describe_states(rows),
        files=counted(len(rows), "image"),
        taken=in_words(seconds),
        folder=place.path,
        rows=rows,
        failed=[row for row in rows if row.state == "failed"],
        pictures=[_picture(row) for row in rows],
        numbers=[*(("Objects", "Mean size") if has_objects else ()), "Seconds", *map(_title, scores)],
        numbers_of=numbers_of,
        state_of=_state,
        voxels_of=_voxels,
        means={_title(name): _number(_mean(row.scores[name] for row in rows if name in row.scores)) for name in scores},
        recipe=batch_settings_to_json(settings),
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
    )
    write_run_text(path, page)


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,  # names of files may have any characters
        finalize=lambda value: printable(str(value), "\n"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))


def describe_states(rows: Sequence[BatchRow]) -> str:
    """Return the number of files in each state, and the days on which files were done in earlier runs."""
    days = Counter(row.ended[:10] for row in rows if row.state == "skipped")
    counts = Counter(row.state for row in rows)
    parts = [f"{counts['done']} done"] if counts["done"] else []
    parts += [f"{count} done {f'on {day}' if day else 'before'}" for day, count in sorted(days.items())]
    return ", ".join(parts + [f"{counts[state]} {state}" for state in ("failed", "waiting") if counts[state]])


def _state(row: BatchRow) -> str:
    return "done before" if row.state == "skipped" else row.state


def _voxels(row: BatchRow) -> str:
    """Return the voxel size of a file that was opened."""
    return row.voxel_size or NOT_KNOWN if row.size else ""


def _picture(row: BatchRow) -> str:
    """Return the thumbnail of a row in base64, "" if there is none."""
    try:
        content = Path(row.thumbnail).read_bytes() if row.thumbnail else b""
    except OSError:
        content = b""
    return base64.b64encode(content).decode("ascii")


def _score_names(rows: Sequence[BatchRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.scores))


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _title(score: str) -> str:
    return score.replace("_", " ")
