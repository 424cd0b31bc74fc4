"""The Fine-tune tab in a real window: what it asks of the engine, and what becomes of the model that comes back."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_skipseg.corrections.subject import CorrectionClass
from napari_skipseg.errors import EngineError, InputError
from napari_skipseg.images.space import Space
from napari_skipseg.jobs.messages import Finetune, PlanFinetuning, Train
from napari_skipseg.models.catalog import MODELS_VARIABLE, locate_model
from napari_skipseg.models.description import ClassLabel
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import (
    ComparisonReport,
    Finetuned,
    KeepBest,
    ScoreRow,
    Trained,
    TrainingProgress,
    TrainingSummary,
    ValidationPicture,
)
from napari_skipseg.widgets.finetune.comparison import GOOD_COLOR, report_html
from napari_skipseg.widgets.finetune.form import new_model_name
from napari_skipseg.widgets.finetune.tab import OverallProgress
from napari_skipseg.widgets.forms.fields import WARNING_COLOR
from napari_skipseg.widgets.layers.placement import camera_of

pytestmark = pytest.mark.gui

ROWS = (
    ScoreRow("held-out corrections", "membrane", "Dice", 0.5, 0.75),
    ScoreRow("held-out corrections", "membrane", "FNR", 0.25, 0.125),
    ScoreRow("its own sample", "membrane", "V_rand", 0.9, 0.9),
)
BETTER = ComparisonReport(ROWS, True, "It is better: Dice 0.750 in place of 0.500.")
WORSE = ComparisonReport(ROWS, False, "It is not better.")


class Teaching:
    """What the fake engine does when it teaches: ten steps, then a copy of the model under the new name."""

    def __init__(self, engine) -> None:
        self.engine, self.report = engine, BETTER
        self.lessons, self.jobs, self.trained, self.kept = [], [], [], 0
        self.refusal: Exception | None = None
        self.steps, self.pause, self.lesson_pause = 10, 0.0, 0.0

    def plan_lesson(self, request: PlanFinetuning):
        until = time.monotonic() + self.lesson_pause
        yield Progress(0, 1, "looking")
        while time.monotonic() < until:
            yield Progress(0, 1, "looking")
            time.sleep(0.02)
        self.lessons.append((request.settings, [image.stack.name for image in request.images]))
        if self.refusal is not None:
            raise self.refusal
        return TrainingSummary({"background": 2000, "membrane": 1500}, {"membrane": 40}, (3, 1), 2, 12.4)

    def finetune(self, request: Finetune):
        settings, images, target, device = request.settings, request.images, request.target, request.device
        self.engine.is_busy = True
        try:
            folder = Path(target) / f"labels of {settings.name}"
            folder.mkdir()
            labels = [np.asarray(_read(image.labels(folder / str(n)).labels)) for n, image in enumerate(images)]
            shutil.rmtree(folder)
            self.jobs.append((settings, labels, [dict(image.values) for image in images], device))
            yield from self._steps()
            shutil.copytree(locate_model(settings.model), Path(target) / settings.name)
        finally:
            self.engine.is_busy = False
        return Finetuned(Path(target) / settings.name, self.report)

    def train(self, request: Train):
        settings, target = request.settings, request.target
        self.trained.append((settings, request.layers))
        yield from self._steps()
        shutil.copytree(locate_model("tiny-2d"), Path(target) / settings.name)
        return Trained(Path(target) / settings.name)

    def _steps(self):
        for step in range(1, self.steps + 1):
            time.sleep(self.pause)
            values = {"training loss": 1 / step, "held-out Dice": 1 - 1 / step}
            told = yield TrainingProgress(step, self.steps, f"step {step}", step, values)
            tile = np.full((20, 30), step / self.steps, np.float32)
            picture = ValidationPicture(step, self.steps, f"step {step}", tile * 0, tile, np.zeros((20, 30), np.int16))
            if isinstance(told, KeepBest) or isinstance((yield picture), KeepBest):
                self.kept = step
                return
            if self.engine.fault is not None and step == 4:
                raise self.engine.fault


def _read(folder: Path):
    from napari_skipseg.images.files import read_stack

    return read_stack(folder).data[...]


@pytest.fixture
def teaching(engine) -> Teaching:
    taught = Teaching(engine)
    engine.answers |= {PlanFinetuning: taught.plan_lesson, Finetune: taught.finetune, Train: taught.train}
    return taught


@pytest.fixture
def open_tab(open_panel, qtbot, teaching, model_folder, tmp_path, monkeypatch):
    """Open the panel with an image; give (viewer, panel, tab), the Fine-tune tab in front."""
    models = shutil.copytree(model_folder, tmp_path / "models")
    monkeypatch.setenv(MODELS_VARIABLE, str(models))

    def open_it(with_engine=None, image=None):
        viewer, panel = open_panel(with_engine)
        values = np.linspace(0, 255, 3 * 64 * 80).reshape(3, 64, 80).astype(np.uint8) if image is None else image
        viewer.add_image(values, name="em", scale=(50, 4, 4), units="nm")
        panel.tabs.setCurrentIndex([panel.tabs.tabText(n) for n in range(panel.tabs.count())].index("Fine-tune"))
        return viewer, panel, panel.finetune_tab

    return open_it


def correct(panel, qtbot) -> None:
    """Paint a stroke of membrane and one of background on the first slice."""
    panel.correct_tab.correct()
    qtbot.waitUntil(lambda: panel.correct_tab.corrections() is not None, timeout=20_000)
    strokes = panel.correct_tab.corrections().strokes
    strokes[0, 10:14, 5:60] = 2
    strokes[0, 30:34, 5:60] = 1


def ready(panel, qtbot, lesson: str = "Learns from") -> None:
    tab = panel.finetune_tab
    correct(panel, qtbot)
    qtbot.waitUntil(lambda: lesson in tab.summary_line.summary.text(), timeout=20_000)


def press(qtbot, button) -> None:
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def unfold(tab, qtbot):
    """Open the part that trains from scratch; give its form."""
    tab.scratch_fold.expand(animate=False)
    qtbot.waitUntil(lambda: tab.scratch.train_button.visibleRegion().boundingRect().height() > 10, timeout=5_000)
    return tab.scratch


def finish(panel, qtbot) -> None:
    """Wait until the training has ended and the view is segmented."""
    qtbot.waitUntil(lambda: not panel.finetune_tab.is_running and not panel.segment_tab.is_running, timeout=60_000)


def test_without_corrections_the_button_says_what_to_do(open_tab):
    _, _, tab = open_tab()
    assert not tab.tune_button.isEnabled()
    assert tab.message.text().startswith("Nothing is corrected yet: open the Correct tab")
    assert (tab.form.model.currentText(), tab.form.name.text()) == ("tiny-2d", "tiny-2d-tuned")
    assert not tab.sources.isVisible()
    assert tab.width() <= tab.parent().width()


def test_what_will_be_learnt_is_told_before_the_start_and_follows_what_is_painted(open_tab, qtbot, teaching):
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    said = tab.summary_line.summary.text()
    assert "1.5k membrane and 2k background pixels in 3 of 4 places on 2 slices; the other one is held out" in said
    assert "about 12 s" in said
    assert "membrane: 1,500 pixels to learn from, 40 held out" in tab.summary_line.summary.toolTip()
    assert tab.sources.item(0).text() == "em: 440 pixels"
    (settings, names), asked = teaching.lessons[-1], len(teaching.lessons)
    assert (settings.classes, names) == ((ClassLabel("membrane", 2),), ["em"])
    assert (settings.model, settings.reach, settings.remember, settings.validate) == ("tiny-2d", "quick", True, "auto")
    tab.form.name.setText("another-name")
    tab.form.name.textEdited.emit("another-name")
    qtbot.wait(1200)
    assert len(teaching.lessons) == asked
    panel.correct_tab.corrections().strokes[1, 0, :10] = 2
    qtbot.waitUntil(lambda: len(teaching.lessons) > asked, timeout=10_000)
    assert tab.sources.item(0).text() == "em: 450 pixels on 2 slices"


def test_a_refusal_shows_its_cure_before_the_start(open_tab, qtbot, teaching):
    teaching.refusal = InputError("Nothing of membrane is held out: paint more of it.")
    _, panel, tab = open_tab()
    correct(panel, qtbot)
    qtbot.waitUntil(lambda: tab.summary_line.warning.isVisible(), timeout=20_000)
    assert tab.summary_line.warning.text() == str(teaching.refusal)
    assert not tab.tune_button.isEnabled()
    teaching.refusal = None
    panel.correct_tab.corrections().strokes[1, 0, :10] = 2
    qtbot.waitUntil(tab.tune_button.isEnabled, timeout=20_000)


def test_a_better_model_becomes_the_choice_and_the_view_is_segmented_anew_with_before_and_after(
    open_tab, qtbot, teaching, engine
):
    viewer, panel, tab = open_tab()
    panel.segment_tab.preview()
    qtbot.waitUntil(lambda: not panel.segment_tab.is_running, timeout=20_000)
    old = viewer.layers["preview probability"].data
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    settings, labels, values, device = teaching.jobs[0]
    assert (settings.name, device, values) == ("tiny-2d-tuned", "auto", [{2: 2}])
    assert (labels[0].shape, int((labels[0] == 2).sum()), int((labels[0] == 1).sum())) == ((3, 64, 80), 220, 220)
    assert panel.segment_tab.form.model.currentText() == "tiny-2d-tuned"
    assert (engine.calls[-1][1], engine.previews[-1]) == ("tiny-2d", True)
    assert tab.report.verdict.text() == BETTER.reason
    assert not tab.report.use_button.isVisible()
    shown = {layer.name: layer.visible for layer in viewer.layers if "probability" in layer.name}
    assert shown == {"preview probability": True, "before probability": False}
    assert viewer.layers["before probability"].data is old
    press(qtbot, tab.report.before_button)
    shown = {layer.name: layer.visible for layer in viewer.layers if "probability" in layer.name}
    assert shown == {"preview probability": False, "before probability": True}
    assert tab.report.before_button.text() == "Show after: tiny-2d-tuned"
    assert (tab.form.model.currentText(), tab.form.name.text()) == ("tiny-2d-tuned", "tiny-2d-tuned-2")


def test_old_and_new_are_never_on_show_together_whatever_is_segmented_next(open_tab, qtbot):
    viewer, panel, tab = open_tab()
    button = tab.report.before_button

    def shown():
        return {layer.name for layer in viewer.layers if layer.visible and "em" not in layer.name}

    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    press(qtbot, button)
    assert shown() == {"before probability", "before binary"}
    before, later = "Show before: tiny-2d", "Show after: tiny-2d-tuned"
    for segment, after in (
        (panel.segment_tab.segment, {"probability", "binary"}),
        (panel.segment_tab.segment, {"probability", "binary"}),
        (panel.segment_tab.preview, {"preview probability", "preview binary"}),
    ):
        segment()
        finish(panel, qtbot)
        assert (shown(), button.text()) == (after, before)
        press(qtbot, button)
        assert (shown(), button.text()) == ({"before probability", "before binary"}, later)
        press(qtbot, button)
        assert (shown(), button.text()) == (after, before)
        press(qtbot, button)
    for name in ("before probability", "before binary"):
        viewer.layers.remove(name)
    assert (shown(), button.isVisible()) == ({"preview probability", "preview binary"}, False)


def test_before_is_what_the_model_made_that_the_table_calls_old(open_tab, qtbot, engine):
    viewer, panel, tab = open_tab()
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    card = locate_model("tiny-2d-tuned") / "model.json"  # the fake engine copied it with the old name
    card.write_text(card.read_text().replace('"tiny-2d"', '"tiny-2d-tuned"'))
    panel.segment_tab.preview()
    finish(panel, qtbot)
    tab.form.model.setCurrentIndex(tab.form.model.findData("tiny-2d"))
    tab.form.model.activated.emit(tab.form.model.currentIndex())
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    table = tab.report.table.text()
    assert "old: <b>tiny-2d</b>, new: <b>tiny-2d-tuned-2</b>" in table
    assert tab.report.before_button.text() == "Show before: tiny-2d"
    assert viewer.layers["before probability"].metadata["skipseg"]["recipe"]["model"] == "tiny-2d"


def test_a_model_that_is_not_known_to_be_better_is_selected_without_praise_and_with_its_share_of_the_view(
    open_tab, qtbot, teaching
):
    teaching.report = replace(WORSE, reason="Only 2 held-out places: not enough to tell.", is_unsure=True)
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    assert GOOD_COLOR not in tab.report.verdict.styleSheet()
    assert "not enough to tell" in tab.report.verdict.text()
    assert panel.segment_tab.form.model.currentText() == "tiny-2d-tuned"
    assert "not known to be better" in tab.message.text()
    share = panel.segment_tab.shares["membrane"]
    assert f"{100 * share:.0f} % is membrane" in tab.report.shares.text()
    assert not tab.report.use_button.isVisible()


def test_a_closing_window_tells_the_engine_and_an_interrupted_run_is_offered(open_tab, qtbot, engine, monkeypatch):
    from qtpy.QtGui import QCloseEvent
    from qtpy.QtWidgets import QApplication

    from napari_skipseg.training.settings import AUGMENTATIONS, FinetuneSettings
    from napari_skipseg.training.unfinished import Unfinished

    settings = FinetuneSettings(
        "mine", ("em",), ("corrections of em",), (ClassLabel("membrane", 2),), model="tiny-2d", reach="full",
        remember=False, steps=77, augmentation=AUGMENTATIONS["none"], seed=5,
    )  # fmt: skip
    monkeypatch.setattr(
        "napari_skipseg.widgets.finetune.tab.find_unfinished", lambda folder: [Unfinished(settings, 33, 0.0)]
    )
    told = []
    engine.leave = lambda is_leaving=True: told.append(is_leaving)
    _, panel, tab = open_tab()
    assert "'mine' was interrupted; 33 steps" in tab.unfinished.note.text()
    press(qtbot, tab.unfinished.button)
    again = tab.form.read().settings(settings.images, settings.classes)
    assert again == settings
    tab.unfinished.offer(Unfinished(replace(settings, model="renamed"), 33, 0.0))
    assert "the model 'renamed', which is gone or has a new name" in tab.unfinished.note.text()
    assert tab.unfinished.button.isHidden()
    tab.unfinished.offer(Unfinished(settings, 33, 0.0))
    assert not tab.unfinished.button.isHidden()
    tab.unfinished.offer(None)
    QApplication.sendEvent(panel, QCloseEvent())  # the panel is its own window's child: no one else's close counts
    assert told == []
    panel.eventFilter(panel.window(), QCloseEvent())
    assert told == [True]
    qtbot.waitUntil(lambda: told == [True, False], timeout=5_000)


def test_the_tile_has_the_colour_of_the_class_that_is_taught(open_tab, qtbot, teaching):
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    corrections = panel.correct_tab.corrections()
    corrections.name_classes((*corrections.classes, CorrectionClass("mitochondrion", 3, "#ff0000")))
    panel.correct_tab.show_classes()
    corrections.strokes[1, 0, :10] = 3
    qtbot.waitUntil(lambda: "mitochondrion" in [each.name for each in tab._images.labels()], timeout=10_000)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    assert tuple(tab.plots.predicted.over.lut[-1][:3]) == (255, 0, 0)
    assert tuple(tab.plots.labelled.over.lut[3][:3]) == (255, 0, 0)


def test_one_bar_goes_through_all_phases_and_never_back():
    overall = OverallProgress("mine")
    phases = [
        ("reading em", 1), ("preparing patches: 1 of 4", 4), ("warming up the new classes: step 1 of 40", 40),
        ("step 1", 300), ("measuring how frequent the new classes are: 0 of 32", 32), ("writing the model", 1),
        ("scoring parent: place 1 of 2", 2), ("scoring mine: place 1 of 2", 2),
    ]  # fmt: skip
    told = [overall.of(Progress(done, total, message)) for message, total in phases for done in range(total)]
    shares = [progress.fraction for progress in told]
    assert shares == sorted(shares)
    assert len({progress.total for progress in told}) == 1
    assert 0.3 < shares[[progress.message for progress in told].index("step 1")] < 0.4
    assert 0.9 < shares[-1] < 1


def test_the_next_estimate_follows_what_the_last_fine_tuning_took(open_tab, qtbot, teaching):
    teaching.steps, teaching.pause = 10, 0.3  # 3 s in place of the 12.4 that were estimated
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    assert "about 12 s" in tab.summary_line.summary.text()
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    qtbot.waitUntil(lambda: "Takes about" in tab.summary_line.summary.text(), timeout=20_000)
    assert "about 12 s" not in tab.summary_line.summary.text()


@pytest.mark.parametrize(("old", "new", "arrow"), [(0.8996, 0.9003, ""), (0.9, 0.9004, ""), (0.9, 0.902, "▲")])
def test_numbers_that_read_the_same_have_no_arrow(old, new, arrow):
    table = report_html(ComparisonReport((ScoreRow("its own sample", "x", "Dice", old, new),), True, ""), "a", "b")
    assert ("▲" in table or "▼" in table) is bool(arrow)


def test_what_the_new_model_is_for_is_said_once_and_is_no_warning(open_tab, qtbot):
    note = "The new model is for voxels of 5 × 5 nm, on which it is taught; tiny-2d is for 4 × 4 nm."
    fault = "'em': slice 2 is empty."
    _, _, tab = open_tab()
    tab.show_findings((note,))
    assert (tab.message.text(), WARNING_COLOR in tab.message.styleSheet()) == (note, False)
    tab.show_findings((fault,))
    assert (tab.message.text(), WARNING_COLOR in tab.message.styleSheet()) == (fault, True)
    tab.forget_and_check()
    tab.summary_line.say(f"Learns from strokes. {note}")
    tab.show_findings((note,))
    assert note not in tab.message.text()


def test_a_model_that_is_not_better_is_kept_and_is_the_choice_only_when_the_user_says_so(open_tab, qtbot, teaching):
    teaching.report = WORSE
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    assert panel.segment_tab.form.model.currentText() == "tiny-2d"
    assert "tiny-2d, which stays selected" in tab.message.text()
    press(qtbot, tab.report.use_button)
    finish(panel, qtbot)
    assert panel.segment_tab.form.model.currentText() == "tiny-2d-tuned"
    assert not tab.report.use_button.isVisible()


def test_without_a_result_the_old_model_goes_first_then_curves_and_tile_move_and_the_table_holds_both(
    open_tab, qtbot, engine
):
    viewer, panel, tab = open_tab()
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    assert engine.previews == [True, True]
    assert {"before probability", "preview probability"} <= {layer.name for layer in viewer.layers}
    assert tab.plots.loss.curves() == {"training loss": [(n, 1 / n) for n in range(1, 11)]}
    assert tab.plots.scores.curves()["held-out Dice"][-1] == (10, 0.9)
    np.testing.assert_array_equal(tab.plots.predicted.over.image, np.ones((20, 30), np.float32))
    assert tab.plots.loss.describe(3.2, 0) == "training loss: 0.3333 (step 3)"
    table = tab.report.table.text()
    assert "<b>On held-out corrections</b>" in table
    assert table.index("0.500") < table.index("0.750") < table.index("▲") < table.index("0.250") < table.index("▼")
    assert tab.width() <= tab.parent().width()


def test_stop_keeps_the_best_and_cancel_changes_nothing(open_tab, qtbot, teaching):
    teaching.steps, teaching.pause = 1000, 0.01
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    qtbot.waitUntil(lambda: tab.keep_button.isEnabled(), timeout=20_000)
    press(qtbot, tab.keep_button)
    assert not tab.keep_button.isEnabled()
    finish(panel, qtbot)
    assert 0 < teaching.kept < 1000
    assert panel.segment_tab.form.model.currentText() == "tiny-2d-tuned"
    press(qtbot, tab.tune_button)
    qtbot.waitUntil(lambda: "step" in tab.progress_text.text(), timeout=20_000)
    painted = panel.correct_tab.corrections().strokes
    painted[2, 3, :7] = 2
    press(qtbot, tab.cancel_button)
    finish(panel, qtbot)
    assert "Nothing was changed" in tab.message.text()
    assert not (locate_model("tiny-2d").parent / "tiny-2d-tuned-2").exists()
    assert int((painted[2] == 2).sum()) == 7


def test_after_a_fault_the_same_can_be_asked_for_again(open_tab, qtbot, teaching, engine):
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    engine.fault = EngineError("It went wrong: try again.")
    for _ in range(2):
        press(qtbot, tab.tune_button)
        finish(panel, qtbot)
        assert tab.message.text() == str(engine.fault)
    assert teaching.jobs[0][0] == teaching.jobs[1][0]
    engine.fault = None


def test_pressed_early_it_waits_in_sight_and_what_it_learns_from_is_said_for_that_run_too(
    open_tab, qtbot, teaching, engine
):
    teaching.lesson_pause, teaching.steps, teaching.pause = 2.0, 400, 0.02
    _, panel, tab = open_tab()
    correct(panel, qtbot)
    qtbot.waitUntil(tab.tune_button.isEnabled, timeout=20_000)
    press(qtbot, tab.tune_button)
    assert tab.is_running
    assert tab.progress_text.text() == "waits until the corrections are counted"
    assert (tab.cancel_button.isEnabled(), tab.tune_button.isVisible()) == (True, False)
    assert panel.segment_tab.progress_text.text() == "waits until the corrections are counted"
    qtbot.waitUntil(lambda: "Takes about" in tab.summary_line.summary.text(), timeout=20_000)
    qtbot.waitUntil(lambda: "step" in tab.progress_text.text(), timeout=20_000)
    assert "Takes about" in tab.summary_line.summary.text()
    assert engine.previews == [True]
    press(qtbot, tab.cancel_button)
    finish(panel, qtbot)


def test_pressed_early_it_can_be_taken_back_before_it_has_begun(open_tab, qtbot, teaching):
    teaching.lesson_pause = 5.0
    _, panel, tab = open_tab()
    correct(panel, qtbot)
    qtbot.waitUntil(tab.tune_button.isEnabled, timeout=20_000)
    press(qtbot, tab.tune_button)
    press(qtbot, tab.cancel_button)
    qtbot.waitUntil(lambda: not tab.is_running, timeout=2_000)
    assert panel.segment_tab.is_running  # the preview that the comparison needs
    assert "Segment tab still runs: press Cancel there" in tab.message.text()
    finish(panel, qtbot)
    assert teaching.jobs == []


def test_corrections_of_an_earlier_image_can_be_learnt_from_too(open_tab, qtbot, teaching, tmp_path):
    from napari_skipseg.corrections.store import open_corrections
    from napari_skipseg.corrections.subject import CorrectionClass
    from napari_skipseg.images.files import read_stack, write_ome_tiff

    values = np.random.default_rng(0).integers(0, 255, (2, 40, 50), np.uint8)
    write_ome_tiff(tmp_path / "earlier.ome.tif", values, Space("ZYX", (50.0, 4.0, 4.0), "nm"))
    earlier = open_corrections(read_stack(tmp_path / "earlier.ome.tif"))
    earlier.name_classes((CorrectionClass("vesicle", 2, "#ff0000"), CorrectionClass("membrane", 3, "#00ff00")))
    earlier.strokes[1, 5, :] = 3
    earlier.strokes[1, 7, :20] = 2
    earlier.close()
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    assert [tab.sources.item(n).checkState() for n in range(2)] == [Qt.CheckState.Checked, Qt.CheckState.Unchecked]
    tab.sources.item(1).setCheckState(Qt.CheckState.Checked)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    settings, labels, coding, _ = teaching.jobs[0]
    assert settings.images[0] == "em"
    assert settings.images[1].startswith("earlier")
    assert coding == [{2: 2}, {2: 1, 3: 2}]
    np.testing.assert_array_equal(np.unique(labels[1], return_counts=True), [[0, 2, 3], [3930, 20, 50]])


def test_names_that_are_taken_or_impossible_are_refused_and_fresh_ones_are_offered(open_tab, qtbot):
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    for name, fault in (
        ("tiny-3d", "A model called tiny-3d is there already"),
        ("a/b", "Give the new model a plain name"),
        ("", "Give the new model a plain name"),
    ):
        tab.form.name.setText(name)
        tab.form.name.textEdited.emit(name)
        assert tab.message.text().startswith(fault)
        assert not tab.tune_button.isEnabled()
    (locate_model("tiny-2d").parent / "tiny-2d-tuned").mkdir()
    assert (
        new_model_name("tiny-2d")
        == new_model_name("tiny-2d-tuned")
        == new_model_name("tiny-2d-tuned-7")
        == "tiny-2d-tuned-2"
    )


def test_the_details_become_settings(open_tab, qtbot, teaching):
    _, panel, tab = open_tab()
    ready(panel, qtbot)
    tab.form.reaches["full"].setChecked(True)
    fold, field = tab.form.fold, tab.form.fold.rows.field
    for name, value in (("steps", 7), ("minutes", 2.5), ("learning_rate", 0.002), ("seed", 3)):
        field(name).setValue(value)
    field("validate").setText("1-2")
    field("remember").setChecked(False)
    field("batch_norm").setCurrentIndex(field("batch_norm").findData("updated"))
    fold.augment.setCurrentIndex(fold.augment.findData("none"))
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    found = teaching.jobs[0][0]
    assert (found.reach, found.steps, found.minutes, found.learning_rate) == ("full", 7, 2.5, 0.002)
    assert (found.validate, found.remember, found.batch_norm, found.seed) == ("1-2", False, "updated", 3)
    assert not found.augmentation.flips


def test_a_model_is_trained_from_scratch_from_layers(open_tab, qtbot, teaching):
    viewer, panel, tab = open_tab()
    viewer.add_labels(np.ones((3, 64, 80), np.int64), name="truth", scale=(50, 4, 4))
    form = unfold(tab, qtbot)
    press(qtbot, form.train_button)
    assert "a plain name" in tab.message.text()
    form.name.setText("fresh")
    press(qtbot, form.train_button)
    assert "at least one class" in tab.message.text()
    form.classes.setText("membrane=1, mitochondrion=2")
    form.network.setCurrentIndex(form.network.findData("vnet"))
    form.network.activated.emit(form.network.currentIndex())
    form.field("steps").setValue(12)
    press(qtbot, form.train_button)
    finish(panel, qtbot)
    settings, written = teaching.trained[0]
    assert (settings.spec.network, settings.spec.dimensions, settings.spec.out_channels) == ("vnet", 2, 3)
    assert (settings.steps, settings.voxel_size, settings.unit) == (12, (50.0, 4.0, 4.0), "nm")
    assert settings.classes == (ClassLabel("membrane", 1), ClassLabel("mitochondrion", 2))
    assert {stack.name for stack in written.values()} == {"em", "truth"}
    assert tab.message.text().startswith("Trained fresh, V_rand 0.500.")
    assert panel.segment_tab.form.model.currentText() == "fresh"


def test_a_model_is_trained_from_scratch_from_folders_by_the_names_of_files(open_tab, qtbot, teaching, tmp_path):
    _, panel, tab = open_tab()
    for folder, names in (("images", ("a.ome.tif", "b.tif")), ("labels", ("b.png", "a.tif", "c.tif"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"")
    form = unfold(tab, qtbot)
    form.name.setText("fresh")
    form.classes.setText("membrane=1")
    form.kind.setCurrentIndex(1)
    form.kind.activated.emit(1)
    press(qtbot, form.train_button)
    assert "Images are missing" in tab.message.text()
    form.image_folder.text.setText(str(tmp_path / "images"))
    form.label_folder.text.setText(str(tmp_path / "labels"))
    press(qtbot, form.train_button)
    finish(panel, qtbot)
    settings, written = teaching.trained[0]
    assert written == {}
    assert [Path(path).name for path in settings.images] == ["a.ome.tif", "b.tif"]
    assert [Path(path).name for path in settings.labels] == ["a.tif", "b.png"]
    (tmp_path / "labels" / "b.png").unlink()
    form.name.setText("other")
    press(qtbot, form.train_button)
    assert "b.tif' has no labels: put a file called b.tif into" in tab.message.text()


def test_a_tick_shows_what_was_gained_and_lost_and_follows_the_threshold(open_tab, qtbot, engine):
    viewer, panel, tab = open_tab()
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    card = locate_model("tiny-2d-tuned") / "model.json"  # the fake engine copied it with the old name
    card.write_text(card.read_text().replace('"tiny-2d"', '"tiny-2d-tuned"'))
    panel.segment_tab.preview()
    finish(panel, qtbot)
    changes = tab.report.changes
    assert changes.isVisible()
    assert "changed" not in viewer.layers
    after = np.asarray(viewer.layers["preview probability"].data)
    after[...] = 0.1
    after[..., :10] = 0.9
    before = np.asarray(viewer.layers["before probability"].data)
    before[...] = 0.1
    before[..., 5:20] = 0.9
    camera_of(viewer).zoom /= 4  # all of the slice is on screen
    changes.tick.click()
    values = np.asarray(viewer.layers["changed"].data[0])
    assert [np.unique(values[:, part]).tolist() for part in (slice(5), slice(5, 10), slice(10, 20), slice(20, 80))] == [
        [1],
        [0],
        [2],
        [0],
    ]
    assert changes.legend.text() == "Blue: gained, 6 % of this view. Orange: lost, 12 % (membrane)."
    assert not viewer.layers["changed"].editable
    panel.segment_tab.form.threshold.show_values({"membrane": 0.95})
    panel.segment_tab.form.threshold_moved.emit()
    assert np.unique(viewer.layers["changed"].data[0][:, :5]).tolist() == [0]
    viewer.layers.remove("changed")
    assert not changes.tick.isChecked()
    assert changes.legend.text() == ""


def test_the_tick_of_what_changed_segments_a_view_that_the_new_model_has_not_seen(open_tab, qtbot):
    viewer, panel, tab = open_tab()
    ready(panel, qtbot)
    press(qtbot, tab.tune_button)
    finish(panel, qtbot)
    card = locate_model("tiny-2d-tuned") / "model.json"  # the fake engine copied it with the old name
    card.write_text(card.read_text().replace('"tiny-2d"', '"tiny-2d-tuned"'))
    tab.report.changes.tick.click()
    assert tab.report.changes.legend.text() == "tiny-2d-tuned segments this view first."
    finish(panel, qtbot)
    assert "changed" in viewer.layers
    assert tab.report.changes.legend.text().startswith("Blue: gained")
