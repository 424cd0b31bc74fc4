"""The SkipSeg dock: its tabs, and the engine they share."""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_skipseg.jobs.client import Engine
from napari_skipseg.widgets.batch import BatchTab
from napari_skipseg.widgets.correct import CorrectTab
from napari_skipseg.widgets.finetune import FinetuneTab
from napari_skipseg.widgets.inspect import InspectTab
from napari_skipseg.widgets.job_tab import JobTab
from napari_skipseg.widgets.objects import ObjectsTab
from napari_skipseg.widgets.pacing import Paced
from napari_skipseg.widgets.progress_bar import ProgressLine
from napari_skipseg.widgets.segment import SegmentTab
from napari_skipseg.widgets.turns import EngineLine


class SkipSegPanel(QWidget):  # type: ignore[misc]
    """One dock for all that SkipSeg does. The engine lives and ends with it."""

    def __init__(self, napari_viewer, engine=None) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.engine = Engine() if engine is None else engine
        viewer, engine, line = napari_viewer, self.engine, EngineLine(self.engine)
        self.segment_tab = SegmentTab(viewer, engine, line)
        self.correct_tab = CorrectTab(viewer, line, self.segment_tab)
        self.finetune_tab = FinetuneTab(viewer, engine, line, self.segment_tab, self.correct_tab)
        self.objects_tab = ObjectsTab(viewer, engine, line, self.segment_tab)
        self.batch_tab = BatchTab(viewer, engine, line, self.segment_tab, self.objects_tab.form.read_for)
        self.inspect_tab = InspectTab(viewer, engine, line, self.segment_tab)
        self.tabs = QTabWidget()
        self.tabs.addTab(Scrolled(self.segment_tab), "Segment")
        self.tabs.addTab(Scrolled(self.correct_tab), "Correct")
        self.tabs.addTab(Scrolled(self.finetune_tab), "Fine-tune")
        self.tabs.addTab(Scrolled(self.objects_tab), "Objects")
        self.tabs.addTab(Scrolled(self.batch_tab), "Batch")
        self.tabs.addTab(Scrolled(self.inspect_tab), "Inspect")
        self.batch_tab.form.wanted.connect(self.show_tab)
        self.segment_tab.again_button.objects_wanted.connect(self.objects_tab.find_again)
        self.segment_tab.again_button.search_wanted.connect(self._search_again)
        self.elsewhere = ProgressLine()
        self._elsewhere_soon = Paced(self, self._tell_elsewhere)
        for tab in self._job_tabs().values():
            tab.moved.connect(partial(self._elsewhere_soon.hear, None))
        self.tabs.currentChanged.connect(self._tell_elsewhere)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(self.tabs)
        column.addWidget(self.elsewhere)
        # these outlive the window's side of the panel, so that neither events nor the engine do
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
        )
        self.destroyed.connect(lambda: [end() for end in ends])

    def _job_tabs(self) -> dict[str, JobTab]:
        """Return the tabs by their names."""
        return {self.tabs.tabText(number): self.tabs.widget(number).widget() for number in range(self.tabs.count())}

    def _tell_elsewhere(self, *_: object) -> None:
        """Say what goes on in the tabs that are not in front."""
        front = self.tabs.tabText(self.tabs.currentIndex())
        others = {name: tab for name, tab in self._job_tabs().items() if name != front and tab.is_running}
        self.elsewhere.say("\n".join(f"{name}: {tab.progress_text.text()}" for name, tab in others.items()))

    def _search_again(self) -> None:
        self.show_tab("Objects")
        self.objects_tab.again_button.run()

    def show_tab(self, name: str) -> None:
        """Bring the tab of that name to the front."""
        names = [self.tabs.tabText(number) for number in range(self.tabs.count())]
        self.tabs.setCurrentIndex(names.index(name))


class Scrolled(QScrollArea):  # type: ignore[misc]
    """A tab that scrolls down when it is too high, and is never narrower than its text."""

    def __init__(self, tab: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(tab)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Take the width that the tab needs whenever its layout changes."""
        if event.type() == QEvent.Type.LayoutRequest and watched is self.widget():
            bar = self.verticalScrollBar().sizeHint().width()
            self.setMinimumWidth(self.widget().minimumSizeHint().width() + bar)
        return bool(super().eventFilter(watched, event))
