"""The end of a batch on paper: a CSV of all files, and one page that needs nothing but a browser."""

from __future__ import annotations

import base64
import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

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
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1c1e21;
       background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #dcdfe4; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; } td.file { overflow-wrap: anywhere; white-space: normal; min-width: 14rem; width: 99%; }
td.file p { margin: .15rem 0 0; font-size: 13px; }
div.wide { overflow-x: auto; } code, li { overflow-wrap: anywhere; }
img { max-width: 96px; max-height: 96px; display: block; border-radius: 3px; }
.failed { color: #b3261e; } .done { color: #1b6e3c; } .skipped, .waiting { color: #5f6570; }
pre { background: #f3f4f6; padding: 1rem; overflow-x: auto; font-size: 13px; border-radius: 4px; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e4e6ea; } pre { background: #23262c; }
  th, td { border-color: #363a42; } .failed { color: #ff8a80; } .done { color: #7bd88f; }
  .skipped, .waiting { color: #9aa0aa; } }
@media screen and (max-width: 50rem) { tr.heads { display: none; }
  table, tbody { display: block; } tr { display: grid; grid-template-columns: 112px 1fr; padding: .5rem 0;
  border-bottom: 1px solid #8886; } td, td.file { border: 0; padding: 0; grid-column: 2; min-width: 0; width: auto; }
  td.picture { grid-column: 1; grid-row: 1 / span 99; } td:empty { display: none; } td.number { text-align: left; }
  td[data-name]::before { content: attr(data-name) ": "; }
  td.file { font-weight: 600; } td.file p { font-weight: 400; } }
@media print { body { margin: 0; max-width: none; } tr { break-inside: avoid; } }
"""


def write_summary(path: Path, rows: Sequence[BatchRow], place: RunPlace) -> None:
    """Write a CSV with a row for each file: what became of it, how long it took, its voxels and objects, its scores,
    its results.

    Raises:
        FileError: it cannot be written.
    """
    scores = _score_names(rows)
    told = []
    for row in rows:
        seconds = f"{row.seconds:.3f}" if row.seconds else ""
        objects = "" if row.objects is None else row.objects
        mean = "" if row.mean_size is None else f"{row.mean_size:.7g}"
        of_image = [row.size, _voxels(row), row.bytes or "", seconds, objects, mean, row.size_unit]
        known = (row.relative, row.title, _state(row), row.ended, *of_image, row.reason, row.note)
        results = ";".join(_within(output, place) for output in row.outputs)
        told.append((*known, *(row.scores.get(name, "") for name in scores), results))
    write_csv(path, (*_COLUMNS, *scores, "results"), told)


def write_report(
    path: Path, rows: Sequence[BatchRow], place: RunPlace, settings: BatchSettings, seconds: float
) -> None:
    """Write one page in HTML with all pictures in it: results, scores, times, failures, and the recipe.

    seconds: that the batch took this time.

    Raises:
        FileError: it cannot be written.
    """
    told = describe_states(rows)
    failed = [row for row in rows if row.state == "failed"]
    parts = [
        f"<h1>{_text(settings.request.model)}: {counted(len(rows), 'file')}, {told}</h1>",
        f"<p>{told}; {in_words(seconds)} this time. Results in <code>{_text(place.path)}</code></p>",
        _failures(failed) if failed else "",
        "<h2>Files</h2>",
        _table(rows),
        "<h2>Recipe</h2>",
        f"<pre>{_text(batch_settings_to_json(settings))}</pre>",
        f"<p>{_text(', '.join(f'{name} {version}' for name, version in versions().items()))}</p>",
    ]
    page = "\n".join(part for part in parts if part)
    title = _text(f"{settings.request.model}: {told}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    write_run_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>{page}</body></html>\n',
    )


def describe_states(rows: Sequence[BatchRow]) -> str:
    """Return how many files are in which state, and on which days those were done that were so before."""
    days = Counter(row.ended[:10] for row in rows if row.state == "skipped")
    counts = Counter(row.state for row in rows)
    told = [f"{counts['done']} done"] if counts["done"] else []
    told += [f"{count} done {f'on {day}' if day else 'before'}" for day, count in sorted(days.items())]
    return ", ".join(told + [f"{counts[state]} {state}" for state in ("failed", "waiting") if counts[state]])


def _state(row: BatchRow) -> str:
    return "done before" if row.state == "skipped" else row.state


def _failures(rows: Sequence[BatchRow]) -> str:
    lines = "".join(f"<li>{_text(row.called)}: {_text(row.reason)}</li>" for row in rows)
    return f'<h2 class="failed">Failed</h2><ul>{lines}</ul>'


def _voxels(row: BatchRow) -> str:
    """Return the voxel size of a file that was opened."""
    return row.voxel_size or NOT_KNOWN if row.size else ""


def _table(rows: Sequence[BatchRow]) -> str:
    scores, has_objects = _score_names(rows), any(row.objects is not None for row in rows)
    names = [*(["Objects", "Mean size"] if has_objects else []), "Seconds"]
    names += [_text(name.replace("_", " ")) for name in scores]
    heads = "".join(f'<th class="number">{name}</th>' for name in names)
    titles = "".join(f"<th>{name}</th>" for name in ("Result", "File", "State", "Size", "Voxel size"))
    lines = [f'<tr class="heads">{titles}{heads}</tr>']
    for row in rows:
        numbers = [*(_objects(row) if has_objects else []), f"{row.seconds:.1f}" if row.seconds else ""]
        numbers += [_number(row.scores.get(name)) for name in scores]
        note = row.reason or row.note
        kind = "failed" if row.reason else "skipped"
        told = f'<p class="{kind}">{_text(note)}</p>' if note else ""
        cells = [
            f'<td class="picture">{_picture(row)}</td><td class="file">{_text(row.called)}{told}</td>',
            f'<td class="{row.state}">{_state(row)}</td><td>{_text(row.size)}</td><td>{_text(_voxels(row))}</td>',
            _numbers(names, numbers),
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    if scores:
        means = [_number(_mean(row.scores[name] for row in rows if name in row.scores)) for name in scores]
        before = [""] * (len(names) - len(scores))
        empty = "<td></td>"
        lines.append(f'<tr>{empty}<td class="file">Mean</td>{3 * empty}{_numbers(names, [*before, *means])}</tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _numbers(names: Sequence[str], numbers: Sequence[str]) -> str:
    pairs = zip(names, numbers, strict=True)
    return "".join(f'<td class="number" data-name="{name}">{number}</td>' for name, number in pairs)


def _objects(row: BatchRow) -> list[str]:
    """Return the number of a file's objects, and their mean size with its unit."""
    count = "" if row.objects is None else f"{row.objects:,}"
    return [count, "" if row.mean_size is None else f"{row.mean_size:,.4g} {_text(row.size_unit)}"]


def _picture(row: BatchRow) -> str:
    try:
        content = Path(row.thumbnail).read_bytes() if row.thumbnail else b""
    except OSError:
        content = b""
    if not content:
        return ""
    return f'<img alt="{_text(row.relative)}" src="data:image/jpeg;base64,{base64.b64encode(content).decode("ascii")}">'


def _score_names(rows: Sequence[BatchRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.scores))


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _text(value: object) -> str:
    return html.escape(printable(str(value), "\n"))


def _within(output: str, place: RunPlace) -> str:
    return Path(output).relative_to(place.path).as_posix()
