"""What is said after a run: a share of the tissue, without what was left out."""

from __future__ import annotations

import numpy as np
import pytest

from napari_skipseg.images.space import Space
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.widgets.segment.outcome import DoneRun, class_shares, describe_done, has_padding


def framed(classes: tuple[str, ...], padding: tuple[float | None, ...]) -> Prediction:
    """A quarter of the tissue, which is a quarter of the image, has each class; the frame has exactly 0."""
    plane = np.zeros((4, 40, 40), np.float32)
    plane[:, 10:30, 10:30] = 0.1
    several = np.stack([plane] * len(classes))
    for number in range(len(classes)):
        several[number, :, 10:20, 10 + 10 * number : 20 + 10 * number] = 0.9
    probability, axes = (several, "CZYX") if len(classes) > 1 else (several[0], "ZYX")
    recipe = {"normalization": {"mean": 1.0, "std": 1.0, "padding": padding}}
    return Prediction(probability, Space(axes), classes, (), recipe)


@pytest.mark.parametrize("classes", [("membrane",), ("membrane", "mitochondrion")])
@pytest.mark.parametrize(("padding", "share"), [((0.0,), 0.25), ((None,), 0.25), ((), 0.0625)])
def test_a_frame_that_was_left_out_does_not_count(classes, padding, share):
    prediction = framed(classes, padding)
    assert class_shares(prediction, 0.5) == pytest.approx(dict.fromkeys(classes, share))
    assert has_padding(prediction) == bool(padding)


def test_the_line_says_what_the_share_is_of():
    done = DoneRun(framed(("membrane",), (0.0,)), {"membrane": 0.25}, of_tissue=True)
    assert "25 % of the tissue is membrane" in describe_done("The image was", 1.0, done, 0.5)
    assert "25 % is membrane" in describe_done("The image was", 1.0, DoneRun(done.prediction, done.shares), 0.5)


def test_the_start_of_the_engine_is_named_where_it_is_part_of_the_time():
    done = DoneRun(framed(("membrane",), ()), {"membrane": 0.25})
    assert "in 20 s (9 s of it to start the engine):" in describe_done("The image was", 20.0, done, 0.5, started=9.0)
    assert "in 20 s:" in describe_done("The image was", 20.0, done, 0.5, started=0.3)
