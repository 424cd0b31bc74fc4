"""The SkipSeg dock with its tabs and their engine, its pages of help, and the demonstration."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from napari.settings import get_settings
from qtpy.QtCore import QEvent, QObject, QTimer, QUrl
from qtpy.QtGui import QDesktopServices, QShowEvent
from qtpy.QtWidgets import QApplication, QTabWidget, QToolButton, QWidget

from napari_skipseg.errors import EngineError
from napari_skipseg.images.faults import make_folder
from napari_skipseg.jobs.client import Engine
from napari_skipseg.widgets.batch.tab import BatchTab
from napari_skipseg.widgets.correct.tab import CorrectTab
from napari_skipseg.widgets.finetune.tab import FinetuneTab
from napari_skipseg.widgets.forms.accessible import name_controls
from napari_skipseg.widgets.forms.fields import ScrolledDown, fill_column, text_sizes
from napari_skipseg.widgets.forms.job_tab import JobTab, ProgressLine, pop_up
from napari_skipseg.widgets.forms.worker import EngineQueue, PacedSignal
from napari_skipseg.widgets.inspect.tab import InspectTab
from napari_skipseg.widgets.model_library.window import LibraryWindow
from napari_skipseg.widgets.objects.tab import ObjectsTab
from napari_skipseg.widgets.proofread.tab import ProofreadTab
from napari_skipseg.widgets.remembered import RememberedChoices
from napari_skipseg.widgets.segment.tab import SegmentTab
from napari_skipseg.widgets.settings import SETTINGS_VARIABLE, open_settings

SITE = "https://napari-skipseg.github.io/napari-skipseg/"
PAGES = {
    "Segment": "how-to/segment",
    "Correct": "correct-and-fine-tune",
    "Fine-tune": "correct-and-fine-tune",
    "Objects": "how-to/objects",
    "Proofread": "proofread",
    "Batch": "how-to/batch",
    "Inspect": "how-to/look-into-a-model",
}
"""The page for each tab, by the tab's name."""


def page_of(tab: str) -> str:
    """Return the address of the page that explains a tab; of a tab without a page, the first page."""
    return f"{SITE}{PAGES[tab]}/" if tab in PAGES else SITE


def open_page(tab: str) -> None:
    """Open the page that explains a tab in the browser."""
    QDesktopServices.openUrl(QUrl(page_of(tab)))


NARROW_TABS = "QTabBar::tab { padding: 3px 1px; margin: 0px; }"
"""With napari's own padding the last tabs hide behind arrows at the panel's usual width."""
STAYING = 300
"""Milliseconds between two checks whether a window that was to close is still open."""


class SkipSegPanel(QWidget):  # type: ignore[misc]
    """The dock with all tabs. The engine ends with it."""

    def __init__(self, napari_viewer, engine=None) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.engine = Engine() if engine is None else engine
        self.viewer = viewer = napari_viewer
        engine, queue = self.engine, EngineQueue(self.engine)
        self.segment_tab = SegmentTab(viewer, engine, queue)
        self.correct_tab = CorrectTab(viewer, engine, queue, self.segment_tab.form, self.segment_tab.results)
        self.segment_tab.known_colors = self.correct_tab.colors_of  # before `state`, which holds it
        self.segment_tab.strokes_in = self.correct_tab.strokes_in
        segment, correct = self.segment_tab.state(), self.correct_tab.open_corrections()
        self.finetune_tab = FinetuneTab(viewer, engine, queue, segment, correct)
        self.objects_tab = ObjectsTab(viewer, engine, queue, segment)
        self.proofread_tab = ProofreadTab(viewer, queue, self.objects_tab.on_show)
        self.objects_tab.as_edited = self.proofread_tab.as_edited
        self.batch_tab = BatchTab(viewer, engine, queue, segment.read, self.objects_tab.form.read_for)
        self.inspect_tab = InspectTab(viewer, engine, queue, segment)
        self.model_library = LibraryWindow(self, viewer, engine, queue, self.segment_tab.form.read)
        self._connect_tabs()
        self._connect_library()
        # selecting a layer may choose its image, but not while a job runs or corrections are open
        self.segment_tab.form.may_follow = lambda: (
            self.correct_tab.session is None and not any(tab.is_running for tab in self._job_tabs().values())
        )
        self._lay_out()
        self.batch_tab.form.wanted.connect(self.show_tab)
        self.segment_tab.objects_requested.connect(self.objects_tab.find_again)
        self.segment_tab.again_button.search_requested.connect(partial(self.show_tab, "Objects"))
        self.segment_tab.again_button.search_requested.connect(self.objects_tab.again_button.run)
        self._elsewhere_soon = PacedSignal(self, self._show_elsewhere)
        for tab in self._job_tabs().values():
            tab.progress_changed.connect(partial(self._elsewhere_soon.put, None))
        self.tabs.currentChanged.connect(self._show_elsewhere)
        self._remember_choices()
        self.segment_tab.form.links.tie(get_settings().appearance.events.font_size, self._follow_font_size)
        self._follow_font_size()
        # events of the viewer and the engine would outlive the Qt side of the panel
        ends = (
            self.correct_tab.sessions.close_all,
            self.correct_tab.links.cut,
            self.correct_tab.identities.links.cut,
            self.engine.close,
            self.segment_tab.form.cut_links,
            self.inspect_tab.links.cut,
            self.finetune_tab.links.cut,
            self.objects_tab.links.cut,
            self.objects_tab.mark.cut,
            self.objects_tab.source_links.cut,
            self.proofread_tab.links.cut,
            self.proofread_tab.release,
            open_settings().save,
        )
        self.destroyed.connect(lambda: [end() for end in ends])
        self._closing = QTimer(self)
        self._closing.setInterval(STAYING)
        self._closing.timeout.connect(self._on_window_still_open)
        self.finetune_tab.notify_unfinished()

    def _follow_font_size(self, event: Any = None) -> None:
        self.setStyleSheet(text_sizes(get_settings().appearance.font_size))

    def _remember_choices(self) -> None:
        """Show the choices of the last session, and remember those of this one."""
        settings = open_settings()
        choices = RememberedChoices(self, settings)
        choices.keep_segment(self.segment_tab.form, self.segment_tab.show_message)
        choices.keep_finetune(self.finetune_tab.form)
        choices.keep_training(self.finetune_tab.scratch, self.finetune_tab.scratch_fold)
        choices.keep_others(self.objects_tab.form, self.inspect_tab.all_maps)
        choices.keep_tabs(self.tabs)
        if settings.notice:
            pop_up(settings.notice, "Settings were set aside.")
            settings.notice = ""

    def _lay_out(self) -> None:
        self.tabs = QTabWidget()
        for title, tab in (
            ("Segment", self.segment_tab),
            ("Correct", self.correct_tab),
            ("Fine-tune", self.finetune_tab),
            ("Objects", self.objects_tab),
            ("Proofread", self.proofread_tab),
            ("Batch", self.batch_tab),
            ("Inspect", self.inspect_tab),
        ):
            name_controls(tab)
            self.tabs.addTab(ScrolledTab(tab), title)
        self.tabs.tabBar().setStyleSheet(NARROW_TABS)
        self.help_button = QToolButton()
        self.help_button.setText("?")
        self.help_button.setAccessibleName("Help")
        self.help_button.setToolTip("Open the page of the documentation that explains this tab")
        self.help_button.clicked.connect(lambda: open_page(self.tabs.tabText(self.tabs.currentIndex())))
        self.tabs.setCornerWidget(self.help_button)
        self.elsewhere = ProgressLine()
        fill_column(self, self.tabs, self.elsewhere, margin=4)

    def _connect_tabs(self) -> None:
        """Connect the Segment tab with the tabs that use its image, model and results."""
        segment, form = self.segment_tab, self.segment_tab.form
        finetune, objects, batch, inspect = self.finetune_tab, self.objects_tab, self.batch_tab, self.inspect_tab
        for on_change in (finetune.on_segment_form, objects.check_if_shown, batch.check_if_shown):
            form.changed.connect(on_change)
        form.changed.connect(inspect.forget_and_check)
        form.threshold_moved.connect(batch.check_if_shown)
        for on_looks in (form.threshold_moved, form.placed):
            on_looks.connect(finetune.show_changes)
        for on_placed in (objects.on_image_placed, inspect.on_image_placed):
            form.placed.connect(on_placed)
        segment.finished.connect(lambda succeeded: finetune.on_segmented(succeeded, segment.shares))
        segment.finished.connect(objects.on_segmented)
        segment.finished.connect(inspect.check)
        segment.opening.connect(finetune.report.show_after)
        finetune.model_wanted.connect(form.choose_model)
        finetune.view_wanted.connect(segment.preview)
        finetune.view_with_wanted.connect(segment.preview)

    def _connect_library(self) -> None:
        """Update the models of all tabs after a change in the library, and the library after a training."""
        library, form = self.model_library, self.segment_tab.form
        form.library_button.clicked.connect(self.show_library)
        library.model_wanted.connect(form.choose_model)
        library.model_wanted.connect(lambda name: self.show_tab("Segment"))
        for update in (form.update_models, self.finetune_tab.form.update_models, self.inspect_tab.update_models):
            library.models_changed.connect(update)
        self.finetune_tab.finished.connect(lambda succeeded: library.update_list())

    def show_library(self) -> None:
        """Open the window of all models, or bring it to the front."""
        self.model_library.show()
        self.model_library.raise_()
        self.model_library.activateWindow()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Watch the window that the panel is in now."""
        super().showEvent(event)
        self.window().installEventFilter(self)  # once more changes nothing

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Keep the checkpoint of a training if the window closes, as napari then cancels its workers."""
        if event.type() == QEvent.Type.Close and watched is self.window():
            self.engine.leave()
            self._closing.start()
        return bool(super().eventFilter(watched, event))

    def _on_window_still_open(self) -> None:
        """Cancel work without a checkpoint again, if the user answered napari's question with no."""
        if QApplication.activeModalWidget() is None:
            self._closing.stop()
            self.engine.leave(False)

    def _job_tabs(self) -> dict[str, JobTab]:
        """Return the tabs by their names."""
        return {self.tabs.tabText(number): self.tabs.widget(number).widget() for number in range(self.tabs.count())}

    def _show_elsewhere(self, *_: object) -> None:
        """Show the progress of the tabs that are not in front."""
        front = self.tabs.tabText(self.tabs.currentIndex())
        others = {name: tab for name, tab in self._job_tabs().items() if name != front and tab.is_running}
        self.elsewhere.say("\n".join(f"{name}: {tab.progress_text.text()}" for name, tab in others.items()))

    def show_tab(self, name: str) -> None:
        """Bring a tab to the front by its name."""
        names = [self.tabs.tabText(number) for number in range(self.tabs.count())]
        self.tabs.setCurrentIndex(names.index(name))


class ScrolledTab(ScrolledDown):
    """A tab that scrolls down when it is too high, and is never narrower than its text."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Take the width that the tab needs whenever its layout changes."""
        if event.type() == QEvent.Type.LayoutRequest and watched is self.widget():
            bar = self.verticalScrollBar().sizeHint().width()
            self.setMinimumWidth(self.widget().minimumSizeHint().width() + bar)
        return bool(super().eventFilter(watched, event))


SCREENSHOT = "napari-skipseg-demo.png"
SIZE = (1280, 800)
PATIENCE = 600.0
"""Seconds after which a demonstration without a screen gives up."""


def open_demo(headless_folder: Path | None = None) -> list[Path]:
    """Open napari with the sample and segment it with the default model.

    Without a folder, return no files when the window is closed. With a folder, wait for the result, write a screenshot
    of the whole window and the result files there, close the window, and return the files.

    Raises:
        EngineError: the segmentation failed or took too long; the message says why.
        FileError: the folder cannot be written.
    """
    import napari

    if headless_folder is not None:
        make_folder(headless_folder)
    os.environ[SETTINGS_VARIABLE] = ""  # the demonstration is the same for everybody, and changes no settings
    viewer = napari.Viewer()
    try:
        viewer.window.resize(*SIZE)
        _, panel = viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
        wait_for(lambda: False, 0.3)  # once the window has its size, the image fills it
        viewer.open_sample("napari-skipseg", "em_stack")
        tab = panel.segment_tab
        tab.segment_button.click()
        if headless_folder is None:
            napari.run()
            return []
        return _record(viewer, tab, headless_folder)
    finally:
        if headless_folder is not None:
            viewer.close()


def _record(viewer: Any, tab: Any, folder: Path) -> list[Path]:
    if not wait_for(lambda: not tab.is_running, PATIENCE):
        raise EngineError(f"The demonstration was not done after {PATIENCE / 60:.0f} minutes: try a faster machine.")
    shown = tab.result()
    if shown is None:
        raise EngineError(tab.message.text() or "The demonstration gave no result: run napari-skipseg doctor.")
    from napari_skipseg.inference.saving import save_prediction

    wait_for(lambda: False, 1.0)
    picture = folder / SCREENSHOT
    viewer.screenshot(str(picture), canvas_only=False, flash=False)
    return [picture, *save_prediction(shown.prediction, folder, "em-sample", tab.form.threshold.values())]


def wait_for(done: Callable[[], bool], seconds: float) -> bool:
    """Run the event loop until `done`, or for so many seconds; return whether it was done."""
    from qtpy.QtCore import QEventLoop, QTimer

    end, loop = time.monotonic() + seconds, QEventLoop()
    while not done() and time.monotonic() < end:
        QTimer.singleShot(50, loop.quit)
        loop.exec()
    return done()
