"""The command `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.cli.options import AsJson
from napari_skipseg.terminal import report


def score(
    prediction: Annotated[Path, typer.Argument(metavar="PREDICTION", help="Probabilities or labels.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="True labels; with --isbi 0 = membrane.")],
    isbi: Annotated[bool, typer.Option("--isbi", help="V_rand and V_info after thinning; takes P(cell).")] = False,
    membrane: Annotated[bool, typer.Option("--membrane", help="PREDICTION is P(membrane), not P(cell).")] = False,
    threshold: Annotated[float, typer.Option(help="Probability above which a pixel counts as predicted.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Compare a prediction with the truth: Dice, IoU, precision, recall, FPR, FNR, or the ISBI 2012 scores."""
    from napari_skipseg.inference.scoring import score_files

    report(score_files(prediction, truth, isbi, membrane, threshold), as_json)
