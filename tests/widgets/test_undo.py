"""What was done to corrections is undone and redone in its order, without a window."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels

from napari_skipseg.corrections.store import open_corrections
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.widgets.correct.layers import EditHistory

BOX = (slice(0, 4), slice(2, 6))
ALL_RIGHT = np.full((4, 4), 2, np.uint8)


@pytest.fixture
def corrections():
    opened = open_corrections(Stack(np.arange(64, dtype=np.uint8).reshape(8, 8), Space("YX")))
    yield opened
    opened.close()


@pytest.fixture
def history(corrections):
    return EditHistory(corrections)


@pytest.fixture
def layer(corrections, history):
    shown = Labels(corrections.strokes)
    shown.brush_size = 1
    history.record(shown)
    return shown


def stands(corrections) -> tuple[int, int]:
    """Return how many pixels are painted, and how many accepted."""
    return int(np.count_nonzero(corrections.strokes)), int(np.count_nonzero(corrections.reviewed))


def test_deeds_are_undone_from_the_last_and_redone_from_the_first(corrections, history, layer):
    layer.paint((1, 1), 2)
    history.accept(BOX, ALL_RIGHT)
    layer.paint((6, 6), 1)
    assert stands(corrections) == (2, 16)
    assert [history.undo() for _ in range(4)] == ["stroke", "acceptance", "stroke", None]
    assert stands(corrections) == (0, 0)
    assert [history.redo() for _ in range(4)] == ["stroke", "acceptance", "stroke", None]
    assert stands(corrections) == (2, 16)
    np.testing.assert_array_equal(corrections.reviewed[BOX], ALL_RIGHT)


def test_what_is_done_anew_takes_the_place_of_what_was_undone(corrections, history, layer):
    history.accept(BOX, ALL_RIGHT)
    assert history.undo() == "acceptance"
    layer.paint((6, 6), 1)
    assert history.redo() is None
    assert stands(corrections) == (1, 0)


def test_an_acceptance_is_taken_back_under_later_strokes_and_comes_again(corrections, history, layer):
    history.accept(BOX, ALL_RIGHT)
    layer.paint((6, 6), 1)
    assert history.undo_acceptance()
    assert not history.undo_acceptance()
    assert stands(corrections) == (1, 0)
    assert history.redo() == "acceptance"
    assert stands(corrections) == (1, 16)


def test_strokes_of_a_layer_that_has_gone_are_passed_over(corrections, history, layer):
    history.accept(BOX, ALL_RIGHT)
    layer.paint((6, 6), 1)
    history.record(Labels(corrections.strokes))
    assert history.undo() == "acceptance"
    assert stands(corrections) == (1, 0)


def test_a_stroke_that_napari_has_undone_or_forgotten_is_passed_over(corrections, history, layer):
    history.accept(BOX, ALL_RIGHT)
    layer.paint((6, 6), 1)
    layer.undo()
    assert history.undo() == "acceptance"
    assert history.undo() is None
    assert stands(corrections) == (0, 0)
