"""The command `score`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from napari_skipseg.cli.options import AsJson, read_classes
from napari_skipseg.errors import InputError
from napari_skipseg.terminal import print_line, print_or_write_csv, print_report, report_rows, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.scoring.values import ScoreSummary


def score(
    prediction: Annotated[Path, typer.Argument(metavar="PREDICTION", help="Probabilities or labels, or a folder.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="True labels, or a folder of them.")],
    isbi: Annotated[bool, typer.Option("--isbi", help="V_rand and V_info after thinning; takes P(cell).")] = False,
    instances: Annotated[
        bool, typer.Option("--instances", help="Adapted Rand, VI and average precision of instances.")
    ] = False,
    membrane: Annotated[bool, typer.Option("--membrane", help="PREDICTION is P(membrane), not P(cell).")] = False,
    truth_foreground: Annotated[
        Literal["auto", "cells", "membranes"],
        typer.Option(help="What is above 0 in a TRUTH of membranes; auto: judged by thickness."),
    ] = "auto",
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability above which a pixel counts as predicted; by default that of its segmentation."),
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME=VALUE", help="A class of labels; repeat for several.")
    ] = None,
    ignore: Annotated[
        int | None,
        typer.Option(
            help="Label value of TRUTH that does not count, such as 0 (not looked at) in exported corrections."
        ),
    ] = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="Show every slice, or every file of folders.")] = False,
    csv: Annotated[Path | None, typer.Option(help="CSV file to write, a row for each image included.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare predictions with truths: Dice, IoU, precision, recall, FPR and FNR; the ISBI 2012 scores; instances."""
    from napari_skipseg.scoring.files import Measure, ScoreOptions, find_pairs, iter_score_pairs

    if isbi and instances:
        raise InputError("--isbi and --instances exclude each other: give one of them.")
    measure: Measure = "isbi" if isbi else "instances" if instances else "overlap"
    options = ScoreOptions(measure, membrane, threshold, read_classes(classes or []), truth_foreground, ignore)
    pairs = find_pairs(prediction, truth, options)
    summaries = with_progress_bar(iter_score_pairs(pairs, options), "scoring")
    if measure == "overlap":
        summaries = [_with_doubt(summary) for summary in summaries]
    for note in dict.fromkeys(note for summary in summaries for note in summary.notes):
        print_line(f"Note: {note}", err=True)
    if csv is not None:
        print_or_write_csv(csv, [row for summary in summaries for row in summary.rows()])
    if as_json:
        scores = {summary.class_name: summary.as_json(per_image) for summary in summaries}
        print_report({"classes": scores} if classes else scores[""], as_json)
        return
    report_rows([row for summary in summaries for row in _shown(summary, per_image)], as_json)
    if measure == "isbi":
        pooled = summaries[0].pooled
        best = f"V_rand {pooled['v_rand_threshold']:.1f}, V_info {pooled['v_info_threshold']:.1f}"
        print_line(f"Best thresholds, each the same for all {pooled['n_slices']} slices: {best}")


def _with_doubt(summary: ScoreSummary) -> ScoreSummary:
    """Add a note to a summary if its scores are meaningless.

    Raises:
        InputError: there is nothing to score.
    """
    from napari_skipseg.scoring.values import doubt_overlap

    try:
        doubt = doubt_overlap(summary.pooled)
    except InputError as error:
        raise InputError(f"{summary.class_name}: {error}" if summary.class_name else str(error)) from error
    named = f"{summary.class_name}: {doubt}" if summary.class_name else doubt
    return replace(summary, notes=(*summary.notes, named)) if doubt else summary


_SHORT = {
    "adapted_rand_error": "rand_error",
    "adapted_rand_precision": "rand_prec.",
    "adapted_rand_recall": "rand_recall",
    "variation_of_information": "VI",
    "variation_split": "VI_split",
    "variation_merge": "VI_merge",
    "average_precision": "AP",
    "average_precision_50": "AP_50",
}
"""Short column names of instance scores for a terminal; CSV and JSON have the full names."""


def _shown(summary: ScoreSummary, per_image: bool) -> list[dict[str, Any]]:
    """Return the rows of a table that fits a terminal: without counts and thresholds, with short column names."""
    columns = {"class", "image", *summary.mean}
    return [
        {_SHORT.get(key, key): value for key, value in row.items() if key in columns} for row in summary.rows(per_image)
    ]
