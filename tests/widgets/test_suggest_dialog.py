"""The button Suggest: what is asked of the engine, and what a click on a suggestion sets."""

from dataclasses import replace

import numpy as np
import pytest
from hand import LEFT, choose, correct
from qtpy.QtWidgets import QLabel

from napari_skipseg.inference.suggest import Suggestion, Suggestions
from napari_skipseg.jobs.messages import Suggest
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.segment.fields import SuggestionList

pytestmark = pytest.mark.gui
FOUND = Suggestions(
    (
        Suggestion("tiny-3d", True, 0.9, ("finds your strokes of membrane (0.90)", "sure of what it finds"), True),
        Suggestion("tiny-2d", False, 0.4, ("unsteady under small changes (0.40)",)),
    ),
    {"colours": "takes 3 channels, the image has 1"},
)


@pytest.fixture
def asked(engine):
    """The requests for suggestions; the engine answers each with the same."""
    requests = []

    def answer(request):
        requests.append(request)
        yield Progress(0, 1, "trying tiny-2d")
        return FOUND

    engine.answers[Suggest] = answer
    return requests


def test_a_click_on_a_suggestion_sets_model_and_scale(open_panel, qtbot, asked) -> None:
    viewer, panel = open_panel()
    image = np.random.default_rng(0).integers(0, 255, (40, 600, 300)).astype(np.uint8)
    viewer.add_image(image, name="em", scale=(10, 8, 8), units=("nm", "nm", "nm"))
    viewer.dims.set_current_step(0, 20)
    form = panel.segment_tab.form
    qtbot.mouseClick(form.suggest, LEFT)
    qtbot.waitUntil(lambda: bool(form.suggestions.buttons))
    first = form.suggestions.buttons[0]
    assert "tiny-3d" in first.text()
    assert "rescaled" in first.text()
    view = asked[0].view
    np.testing.assert_array_equal(view.pixels[0, view.at, :, :300], image[20, 44:556])
    assert view.labels is None
    qtbot.mouseClick(first, LEFT)
    assert form.model.currentData() == "tiny-3d"
    assert form.rescale.isChecked()
    assert form.suggestions.isHidden()


def test_that_strokes_are_needed_stands_above_the_models(qtbot) -> None:
    shown = SuggestionList()
    qtbot.addWidget(shown)
    shown.show_suggestions(replace(FOUND, note="Paint five strokes."))
    lines = [shown.layout().itemAt(number).widget() for number in range(shown.layout().count())]
    assert isinstance(lines[0], QLabel)
    assert lines[0].text() == "Paint five strokes."
    assert lines[1] is shown.buttons[0]


def test_strokes_in_view_are_sent_with_the_names_of_their_classes(open_panel, qtbot, asked) -> None:
    viewer, panel = open_panel()
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (3, 100, 120)).astype(np.uint8), name="em")
    viewer.dims.set_current_step(0, 1)
    correct(qtbot, panel)
    panel.correct_tab.session.corrections.strokes[1, 10:20, 30:40] = 2
    panel.correct_tab.session.corrections.strokes[2, 10:20, 30:40] = 1
    panel.segment_tab.suggest()
    qtbot.waitUntil(lambda: bool(panel.segment_tab.form.suggestions.buttons))
    view = asked[0].view
    assert view.names == ("membrane",)
    assert np.count_nonzero(view.labels == 2) == 100
    assert not (view.labels == 1).any()


def test_without_an_image_there_is_nothing_to_suggest_for(open_panel, qtbot, asked) -> None:
    viewer, panel = open_panel()
    assert not panel.segment_tab.form.suggest.isEnabled()
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (2, 64, 64)).astype(np.uint8), name="em")
    assert panel.segment_tab.form.suggest.isEnabled()
    panel.segment_tab.form.axes.setText("CYX")
    panel.segment_tab.form.axes.edited.emit()
    assert not panel.segment_tab.form.suggest.isEnabled()  # a channel has to be chosen first
    choose(panel.segment_tab.form.channel, 1)
    qtbot.mouseClick(panel.segment_tab.form.suggest, LEFT)
    qtbot.waitUntil(lambda: bool(asked))
    assert asked[0].view.pixels.shape == (1, 1, 64, 64)
